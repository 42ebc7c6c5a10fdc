"""Number formats of the forward and backward pass. Weights, gradients, loss and optimizer are float32 throughout."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from gradsight.v1 import spec_pb2
from gradsight_insight.gain import GainSettings
from gradsight_worker.training.errors import TrainingFailed

_INITIAL_SCALE = 2.0**16
_GROWTH, _BACKOFF = 2.0, 0.5
_GROWTH_INTERVAL = 2000
"""Finite steps in a row after which a larger scale is tried."""


class Precision:
    """How the model computes.

    Args:
        device: Where it computes.
        dtype: Of the operations that bear it; torch's autocast knows which. None is float32 throughout.
        loss_scale: For float16, whose gradients would vanish without one.
    """

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype | None = None,
        loss_scale: "LossScale | None" = None,
    ) -> None:
        self.dtype = dtype
        self.loss_scale = loss_scale
        self._device_type = device.type

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What a resume needs, by name."""
        return {} if self.loss_scale is None else self.loss_scale.state

    @property
    def gain_settings(self) -> GainSettings:
        """What a probe can measure: few digits in the forward pass hide a small decrease of the loss."""
        return GainSettings() if self.dtype is None else GainSettings(resolution=1e-2)

    def autocast(self) -> AbstractContextManager[object]:
        """For a forward pass; scores that come out of it may be in the short format."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self._device_type, self.dtype)


class LossScale:
    """A factor on the loss that keeps small gradients above float16's smallest number.

    It is searched from above: a gradient that overflows makes the step a non-finite one, which changes nothing, and
    halves the scale; after 2,000 finite steps in a row it is doubled. All of it on the device.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), _INITIAL_SCALE, device=device)
        self._finite_steps = torch.zeros((), dtype=torch.int32, device=device)

    @property
    def state(self) -> Mapping[str, Tensor]:
        """What a resume needs, by name."""
        return {"loss_scale": self.value, "finite_steps": self._finite_steps}

    def update(self, nonfinite: Tensor) -> None:
        """A step was finite (0.0) or not (1.0)."""
        torch._amp_update_scale_(
            self.value, self._finite_steps, nonfinite, _GROWTH, _BACKOFF, _GROWTH_INTERVAL
        )


def build_precision(spec: spec_pb2.ComputeSpec, device: torch.device) -> Precision:
    """What the spec asks for. Raises TrainingFailed where the device cannot give it."""
    if spec.precision == spec_pb2.PRECISION_BFLOAT16:
        return Precision(device, torch.bfloat16)
    if spec.precision == spec_pb2.PRECISION_FLOAT16:
        if device.type != "cuda":
            raise TrainingFailed.by_spec(
                f"got float16 on {device.type}, allowed there: float32 and bfloat16; choose one of them or ask for a "
                f"CUDA device in resources.device_class",
                field="compute.precision",
            )
        return Precision(device, torch.float16, LossScale(device))
    return Precision(device)
