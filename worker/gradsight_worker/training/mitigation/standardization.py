"""Inputs by train's mean and deviation, in front of a model that brings no standardization of its own.

Mean and deviation are buffers of the model, so that whatever holds a model's state (snapshots, the kept weights,
checkpoints) holds them, too; 0 and 1 leave inputs as they are. They are no part of what is written as weights: the
result's preprocessing takes them over, and answers, from files or from ONNX, are those of training.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from gradsight_models import InputTensor, Preprocessing, TensorPreprocessing
from gradsight_models.moments import Moments
from gradsight_worker.training.data.encoding import EncodedRows

_ROWS_AT_ONCE = 1024
_MEAN, _DEVIATION = "standardizing_mean_{}", "standardizing_deviation_{}"


class InputStandardization:
    """Of a model whose inputs are tensors as they came. Attach it before the model's storage is taken over.

    Columns of numbers side by side have a mean and a deviation each. A tensor has one of each for all its numbers,
    because only its model knows which of its directions are alike.
    """

    def __init__(self, model: nn.Module, preprocessing: TensorPreprocessing) -> None:
        self._model = model
        self._places = [
            place for place, wanted in enumerate(preprocessing.inputs) if np.dtype(wanted.dtype).kind == "f"
        ]
        for place in self._places:
            size = len(preprocessing.sources[place])
            for name, value in ((_MEAN, 0.0), (_DEVIATION, 1.0)):
                buffer = torch.full((size,) if size > 1 else (), value)
                model.register_buffer(name.format(place), buffer, persistent=False)
        self._hook = model.register_forward_pre_hook(self._standardize)

    @classmethod
    def attach(cls, model: nn.Module, preprocessing: Preprocessing) -> "InputStandardization | None":
        """None where the preprocessing standardizes already, or there is no input of fractions."""
        if not isinstance(preprocessing, TensorPreprocessing):
            return None
        made = cls(model, preprocessing)
        return made if made._places else None

    def begin(self, train: EncodedRows) -> None:
        """From now on by the figures of these rows."""
        for place in self._places:
            mean, deviation = (self._model.get_buffer(name.format(place)) for name in (_MEAN, _DEVIATION))
            moments = Moments(mean.numel())
            for inputs, _ in train.blocks(_ROWS_AT_ONCE):
                moments.add(inputs[place].reshape(-1, mean.numel()).double().cpu().numpy())
            spread = np.where(moments.deviation > 0, moments.deviation, 1.0)
            mean.copy_(torch.from_numpy(moments.mean).view(mean.shape))
            deviation.copy_(torch.from_numpy(spread).view(deviation.shape))

    @contextmanager
    def apart(self, preprocessing: Preprocessing) -> Iterator[Preprocessing]:
        """Inside, the model does not standardize; the preprocessing that it is given does."""
        assert isinstance(preprocessing, TensorPreprocessing)
        inputs = list(preprocessing.inputs)
        for place in self._places:
            inputs[place] = self._described(inputs[place], place)
        self._hook.remove()
        try:
            yield replace(preprocessing, inputs=tuple(inputs))
        finally:
            self._hook = self._model.register_forward_pre_hook(self._standardize)

    def _described(self, wanted: InputTensor, place: int) -> InputTensor:
        mean, deviation = (
            self._model.get_buffer(name.format(place)).reshape(-1).tolist() for name in (_MEAN, _DEVIATION)
        )
        if not any(mean) and all(value == 1.0 for value in deviation):
            return wanted
        return replace(wanted, mean=tuple(mean), deviation=tuple(deviation))

    def _standardize(self, module: nn.Module, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        standardized = list(inputs)
        for place in self._places:
            mean, deviation = (module.get_buffer(name.format(place)) for name in (_MEAN, _DEVIATION))
            standardized[place] = (inputs[place] - mean) / deviation
        return tuple(standardized)


def standardizing_apart(
    standardization: InputStandardization | None, preprocessing: Preprocessing
) -> AbstractContextManager[Preprocessing]:
    """The preprocessing to write beside a model, and the model as it is written."""
    return nullcontext(preprocessing) if standardization is None else standardization.apart(preprocessing)
