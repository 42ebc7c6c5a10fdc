"""`mlp`: a fully connected network over the standardised columns of a table."""

from dataclasses import dataclass

import torch
from torch import nn

from gradsight_models.configuration import Configuration, one_of, within

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}
NORMALIZATIONS: dict[str, type[nn.Module] | None] = {
    "none": None,
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


@dataclass(frozen=True, kw_only=True)
class MlpConfig(Configuration):
    """Options of `mlp`."""

    hidden_sizes: tuple[int, ...] = (128, 128)
    """Width of each hidden layer: two are enough for most tables, and train in milliseconds."""
    activation: str = "relu"
    """Non-linearity after each hidden layer: the cheapest one that does not saturate."""
    dropout: float = 0.1
    """Share of hidden units dropped in training: a little, for tables are small and easily learnt by heart."""
    normalization: str = "none"
    """Normalization after each hidden linear layer: inputs are standardised already, and two layers need no more."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.hidden_sizes) <= 64:
            raise ValueError(f"hidden_sizes: got {len(self.hidden_sizes)} layers, allowed 1 to 64")
        for size in self.hidden_sizes:
            within("hidden_sizes", size, 1, 16_384)
        one_of("activation", self.activation, tuple(ACTIVATIONS))
        within("dropout", self.dropout, 0.0, 1.0, open_end=True)
        one_of("normalization", self.normalization, tuple(NORMALIZATIONS))


class Mlp(nn.Module):
    """Linear layers with a non-linearity, and a linear output."""

    def __init__(self, config: MlpConfig, input_size: int, output_size: int) -> None:
        super().__init__()
        self.hidden = nn.ModuleList()
        width = input_size
        for size in config.hidden_sizes:
            self.hidden.append(_hidden_layer(config, width, size))
            width = size
        self.output = nn.Linear(width, output_size)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values float32 [batch, columns] to scores [batch, output_size]."""
        for layer in self.hidden:
            values = layer(values)
        scores: torch.Tensor = self.output(values)
        return scores


def _hidden_layer(config: MlpConfig, width: int, size: int) -> nn.Sequential:
    parts: dict[str, nn.Module] = {"linear": nn.Linear(width, size)}
    normalization = NORMALIZATIONS[config.normalization]
    if normalization is not None:
        parts["normalization"] = normalization(size)
    parts["activation"] = ACTIVATIONS[config.activation]()
    if config.dropout:
        parts["dropout"] = nn.Dropout(config.dropout)
    layer = nn.Sequential()
    for name, part in parts.items():
        layer.add_module(name, part)
    return layer
