"""Models: what is trained and what is taken home. torch lives here; the service and the store do not.

Lives here: built-in architectures (`builtins/`), programs and recipes, all seen alike as a `ModelSource`; preprocessing
fitted on training rows; what outputs mean; the layers by which gradients are reported; result files and `predict`. Not
here: training, events, gRPC, Redis. Read `source.py` first, then `architectures.py`.
"""

from gradsight_models.answers import (
    Answer,
    LabelsPrediction,
    NumberPrediction,
    Prediction,
    TokensPrediction,
)
from gradsight_models.architectures import ARCHITECTURES
from gradsight_models.builtin_source import BuiltinSource
from gradsight_models.columns import Chunk, Chunks, Column, ColumnKind, Encoded, Reading
from gradsight_models.documents import preprocessing_from_json, source_from_json
from gradsight_models.image_preprocessing import ImagePreprocessing
from gradsight_models.images import decode_image
from gradsight_models.layers import Layer, kind_of, layers_of, normalizes_over_batches
from gradsight_models.loaded_model import LoadedModel
from gradsight_models.ngram_preprocessing import NgramPreprocessing
from gradsight_models.onnx_export import example_inputs, export_onnx
from gradsight_models.outputs import (
    ClassOutputs,
    LabelOutputs,
    NumberOutputs,
    Outputs,
    TokenOutputs,
    UnknownLabel,
    outputs_from_json,
)
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.result import (
    RESULT_FILES,
    ResultError,
    load_result,
    load_state,
    save_result,
    state_of,
)
from gradsight_models.source import ModelSource
from gradsight_models.table_preprocessing import TablePreprocessing
from gradsight_models.tensor_preprocessing import InputTensor, TensorPreprocessing
from gradsight_models.token_preprocessing import TokenForm, TokenPreprocessing

__all__ = [
    "ARCHITECTURES",
    "RESULT_FILES",
    "Answer",
    "BuiltinSource",
    "Chunk",
    "Chunks",
    "ClassOutputs",
    "Column",
    "ColumnKind",
    "Encoded",
    "ImagePreprocessing",
    "InputTensor",
    "LabelOutputs",
    "LabelsPrediction",
    "Layer",
    "LoadedModel",
    "ModelSource",
    "NgramPreprocessing",
    "NumberOutputs",
    "NumberPrediction",
    "Outputs",
    "Prediction",
    "Preprocessing",
    "Reading",
    "ResultError",
    "TablePreprocessing",
    "TensorPreprocessing",
    "TokenForm",
    "TokenOutputs",
    "TokenPreprocessing",
    "TokensPrediction",
    "UnknownLabel",
    "decode_image",
    "example_inputs",
    "export_onnx",
    "kind_of",
    "layers_of",
    "load_result",
    "load_state",
    "normalizes_over_batches",
    "outputs_from_json",
    "preprocessing_from_json",
    "save_result",
    "source_from_json",
    "state_of",
]
