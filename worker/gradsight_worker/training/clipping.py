"""Gradients that are cut to size before the update: each number first, then all of them together."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gradsight.v1 import spec_pb2

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True)
class Clipping:
    """Limits of a gradient; None is no limit."""

    max_norm: float | None
    """Of the whole gradient; a larger one is scaled down to it."""
    max_value: float | None
    """Of each single number, cut before the norm is taken."""

    @classmethod
    def of(cls, spec: spec_pb2.OptimizerSpec) -> "Clipping":
        """What the spec asks for, with the service's defaults filled in."""
        return cls(
            max_norm=None if spec.clipping_disabled else spec.max_gradient_norm,
            max_value=spec.max_gradient_value if spec.HasField("max_gradient_value") else None,
        )


class Clipper:
    """Keeps gradients on a device within their limits."""

    def __init__(self, limits: Clipping, device: torch.device, *, norm_limit: Tensor | None = None) -> None:
        """Limits as the spec gives them; `norm_limit` takes the norm's place, and may be tightened while training."""
        self._max_value = limits.max_value
        self._max_norm = norm_limit
        if norm_limit is None and limits.max_norm is not None:
            self._max_norm = torch.full((), limits.max_norm, device=device)
        self._one = torch.ones((), device=device)

    def divisor(
        self, gradients: Tensor, norm: Tensor, scale: Tensor | None, clipped: Tensor
    ) -> Tensor | None:
        """What the optimizer must divide the gradients by.

        Args:
            gradients: Multiplied by `scale`; cut here where single numbers are too large.
            norm: Theirs, without the scale.
            scale: Of the loss, None where it has none.
            clipped: Takes by how much all clipping divides the norm, at least 1.
        """
        divisor = None
        if self._max_value is not None:
            whole, norm = norm, self._cut(gradients, scale)
            torch.div(whole.clamp(min=_TINY), norm.clamp(min=_TINY), out=clipped)
            if self._max_norm is not None:
                divisor = torch.maximum(norm / self._max_norm, self._one)
                clipped.mul_(divisor)
        elif self._max_norm is not None:
            divisor = torch.maximum(norm / self._max_norm, self._one, out=clipped)
        if scale is None:
            return divisor
        return scale if divisor is None else divisor * scale

    def _cut(self, gradients: Tensor, scale: Tensor | None) -> Tensor:
        """Cut each number to the limit; the norm of what is left."""
        assert self._max_value is not None
        if scale is None:
            gradients.clamp_(-self._max_value, self._max_value)
        else:
            limit = scale * self._max_value
            gradients.clamp_(-limit, limit)
        norm: Tensor = torch.linalg.vector_norm(gradients)
        return norm if scale is None else norm.div_(scale)
