"""`mlp`: fully connected layers over numeric columns."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from gradsight_models.configuration import Configuration, require_fraction, require_integer, require_one_of

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
}
_NORMALIZATIONS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


@dataclass(frozen=True, kw_only=True)
class MlpConfig(Configuration):
    """Options of `mlp`."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    """Width of each hidden layer. Two of 128 fit most small tables and make a step of half a millisecond."""
    activation: str = "relu"
    """Non-linearity after each hidden layer: relu, gelu, tanh or silu. ReLU is the cheapest and rarely the worst."""
    dropout: float = 0.1
    """Share of hidden units dropped in training: a little, because small tables are soon learned by heart."""
    normalization: str = "none"
    """After each hidden linear layer: none, batch or layer. Two layers on standardised inputs need none."""

    def __post_init__(self) -> None:
        if len(self.hidden_sizes) > 64:
            raise ValueError(f"hidden_sizes: got {len(self.hidden_sizes)} layers, allowed: at most 64")
        for place, size in enumerate(self.hidden_sizes):
            require_integer(f"hidden_sizes[{place}]", size, 1, 16_384)
        require_one_of("activation", self.activation, tuple(_ACTIVATIONS))
        require_fraction("dropout", self.dropout)
        require_one_of("normalization", self.normalization, tuple(_NORMALIZATIONS))


class Mlp(nn.Module):
    """Linear, normalization, activation, dropout, as often as there are hidden sizes; then class scores."""

    def __init__(self, config: MlpConfig, column_count: int, class_count: int) -> None:
        super().__init__()
        widths = (column_count, *config.hidden_sizes)
        self.hidden = nn.Sequential(
            *(_block(config, width, size) for width, size in zip(widths, config.hidden_sizes, strict=False))
        )
        self.output = nn.Linear(widths[-1], class_count)

    def forward(self, columns: torch.Tensor) -> torch.Tensor:
        """Standardised columns, float32 [batch, columns], to class scores [batch, classes]."""
        scores: torch.Tensor = self.output(self.hidden(columns))
        return scores


def _block(config: MlpConfig, width: int, size: int) -> nn.Sequential:
    normalization = _NORMALIZATIONS[config.normalization]
    return nn.Sequential(
        nn.Linear(width, size),
        *([] if normalization is None else [normalization(size)]),
        _ACTIVATIONS[config.activation](),
        nn.Dropout(config.dropout),
    )
