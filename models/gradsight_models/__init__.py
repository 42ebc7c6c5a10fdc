"""Models: what is trained and what is taken home. torch lives here; the service and the store do not.

Lives here: built-in architectures (`builtins/`), preprocessing fitted on training rows, label names, the layers by
which gradients are reported, result files and `predict`. Not here: training, events, gRPC, Redis.
Read `architectures.py` first.
"""

from gradsight_models.architectures import (
    ARCHITECTURES,
    build_model,
    fit_preprocessing,
    preprocessing_from_json,
)
from gradsight_models.labels import LabelNames
from gradsight_models.layers import Layer, layers_of
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.result import (
    RESULT_FILES,
    LoadedModel,
    Prediction,
    ResultError,
    load_result,
    save_result,
)

__all__ = [
    "ARCHITECTURES",
    "RESULT_FILES",
    "LabelNames",
    "Layer",
    "LoadedModel",
    "Prediction",
    "Preprocessing",
    "ResultError",
    "build_model",
    "fit_preprocessing",
    "layers_of",
    "load_result",
    "preprocessing_from_json",
    "save_result",
]
