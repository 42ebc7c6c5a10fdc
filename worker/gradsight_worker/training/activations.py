"""Figures of layers' outputs over a batch: mean, deviation, zeros, saturation; and the largest attention logit."""

from collections.abc import Sequence

import torch
from torch import Tensor

_MOST_LOGITS = 1 << 20
"""Attention logits are looked at for the first rows only, up to so many: the fused kernels never write them down."""
_TANH_LIMIT = 0.97
_SIGMOID_LIMIT = 0.49
"""Around 0.5: outside 0.01 to 0.99."""


class ActivationFigures:
    """Collects over the parts of a batch. What is seen stays on the device, as a few scalars for each output."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self._layers = layers
        self._in_order = list(range(layers))
        self._sizes: tuple[tuple[int, ...], Tensor] = (), torch.empty(0)
        """How many numbers each layer gave last time, on the host and on the device."""
        self._device = device
        self._unknown = torch.full((), torch.nan, device=device)
        self._none = torch.full((), -1, dtype=torch.int64, device=device)
        self._seen: dict[int, tuple[int, int, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = {}
        """By call: layer, how many numbers, mean and norm of the rest, how many are not 0, how many saturated."""
        self._logits: list[Tensor] = []

    def forget(self) -> None:
        """The batch begins anew."""
        self._seen = {}
        self._logits = []

    def see(self, layer: int, call: int, output: Tensor, activation: str | None) -> None:
        """As `Sink.see`."""
        values = output if output.dtype == torch.float32 else output.float()
        mean, rest = centred(values)
        saturated = _saturated(values, activation)
        counts = torch.count_nonzero(values), self._none if saturated is None else saturated
        self._seen[call] = layer, values.numel(), (mean, rest), counts

    def see_attention(
        self, query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float
    ) -> None:
        """As `Sink.see_attention`."""
        a_row = query.shape[1:-1].numel() * key.shape[-2]
        rows = max(1, _MOST_LOGITS // max(1, a_row))
        logits = (query[:rows].float() @ key[:rows].float().transpose(-1, -2)) * scale
        if causal:
            logits = logits.tril()
        if mask is not None and mask.dtype == torch.bool:
            shown = mask[:rows] if mask.ndim == logits.ndim and len(mask) > 1 else mask
            logits = logits.masked_fill(~shown, 0.0)
        self._logits.append(torch.linalg.vector_norm(logits, torch.inf))

    def write(self, figures: Tensor) -> None:
        """Write what was seen of each layer's outputs: mean, variance, share of numbers that are not 0, and saturated.

        `figures` is float32 [4, layers]; NaN where nothing came out, a share below 0 where nothing can saturate.
        """
        if [layer for layer, *_ in self._seen.values()] == self._in_order:
            self._write_one_output_each(figures)
        else:
            figures.copy_(self._added_up())

    def _write_one_output_each(self, figures: Tensor) -> None:
        _, sizes, moments, counts = zip(*self._seen.values(), strict=True)
        torch.stack(
            [number for column in zip(*moments, strict=True) for number in column], out=figures[:2].view(-1)
        )
        if sizes != self._sizes[0]:
            self._sizes = sizes, self._on_device(sizes, torch.float32)
        numbers = torch.stack([number for column in zip(*counts, strict=True) for number in column])
        torch.div(numbers.view(2, -1), self._sizes[1], out=figures[2:])
        figures[1].square_().div_(self._sizes[1])

    def _added_up(self) -> Tensor:
        """Layers that gave several outputs, in parts of a batch say, or none."""
        if not self._seen:
            return self._unknown.expand(4, self._layers)
        layers, sizes, moments, counts = zip(*self._seen.values(), strict=True)
        mean, rest = _table(moments).unbind(1)
        nonzero, saturated = _table(counts).unbind(1)
        size, places = self._on_device(sizes, torch.float64), self._on_device(layers, torch.int64)
        # Added up layer by layer: what is not finite in one must not show in others.
        square = rest.square() + mean.square() * size
        sums = torch.stack([size, mean * size, square, nonzero, saturated], dim=1)
        of_layers = sums.new_zeros(self._layers, 5).index_add_(0, places, sums)
        mean, square, nonzero, saturated = (of_layers[:, 1:] / of_layers[:, :1]).unbind(1)
        return torch.stack([mean, (square - mean.square()).clamp_(min=0.0), nonzero, saturated])

    def _on_device(self, numbers: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.tensor(numbers, dtype=dtype).to(self._device, non_blocking=True)

    def largest_logit(self) -> Tensor:
        """Largest magnitude of attention logits; NaN without attention."""
        return torch.stack(self._logits).amax() if self._logits else self._unknown


def centred(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of all numbers, and the norm of what is left without it; scalars.

    On the processor torch's own variance takes thirty times as long.
    """
    mean = values.mean()
    return mean, torch.linalg.vector_norm(values - mean)


def _saturated(values: Tensor, activation: str | None) -> Tensor | None:
    if activation == "tanh":
        return torch.count_nonzero(values.abs() > _TANH_LIMIT)
    if activation == "sigmoid":
        return torch.count_nonzero((values - 0.5).abs() > _SIGMOID_LIMIT)
    return None


def _table(columns: Sequence[Sequence[Tensor]]) -> Tensor:
    """Scalars by output, float64 [outputs, columns]."""
    flat = torch.stack([scalar for column in columns for scalar in column])
    return flat.view(len(columns), -1).double()
