"""Models for the runs of `faults.py`: four families, each for numbers and for words, and what can be wrong with them.

All end in the same head, so that a fault of the head (saturated, dead, too deep) is one fault in every family. What a
service's user sends is a program: the graph is exported once for each structure, the weights are drawn for each seed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from _fault_data import TEXT_LENGTH, VOCABULARY
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gradsight_models.program import export_program

FAMILIES = ("mlp", "cnn", "gru", "transformer")
_WIDTH = 48
_WORD_WIDTH = 32
# Steps and numbers per step in which a row of numbers is read.
_READING = {"digits": (8, 8), "mnist1d": (10, 4), "text": (TEXT_LENGTH, _WORD_WIDTH)}
_CLASSES = {"digits": 10, "mnist1d": 10, "text": 7}
Damage = Callable[["Network"], None]
"""What is wrong with the weights before the first step."""


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a graph depends on."""

    family: str
    data: str
    hidden: int = 1
    """Hidden layers of the head."""
    activation: str = "ReLU"
    gated: bool = False
    """The gradient of large features only reaches the layers below, and none is large."""
    divides_by_content: bool = False
    """A row is divided by its own norm, a text by its number of words."""
    ends_in_softmax: bool = False
    output_factor: float = 1.0
    dropout: float = 0.0

    @property
    def name(self) -> str:
        return "-".join(str(value) for value in vars(self).values())


class Network(nn.Module):
    """Features of a family, then the head."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.structure = structure
        self.words = nn.Embedding(VOCABULARY, _WORD_WIDTH) if structure.data == "text" else None
        steps, numbers = _READING[structure.data]
        self.features = _FEATURES[structure.family](steps, numbers)
        layers: list[nn.Module] = []
        for _ in range(structure.hidden):
            layers += [nn.Linear(_WIDTH, _WIDTH), getattr(nn, structure.activation)()]
            layers += [nn.Dropout(structure.dropout)] if structure.dropout else []
        self.head = nn.Sequential(*layers, nn.Linear(_WIDTH, _CLASSES[structure.data]))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (the column's name)
        """Scores [rows, classes]."""
        seen: Tensor = self.features(self._read(input))
        if self.structure.gated:
            seen = torch.where(seen > 1e6, seen, seen.detach())
        scores: Tensor = self.head(seen)
        if self.structure.output_factor != 1:
            scores = scores * self.structure.output_factor
        return scores.softmax(dim=1) if self.structure.ends_in_softmax else scores

    def _read(self, rows: Tensor) -> Tensor:
        """Numbers [rows, steps, numbers]; padding is all zeros."""
        if self.words is None:
            if self.structure.divides_by_content:
                rows = rows / rows.norm(dim=1, keepdim=True) * math.sqrt(rows.shape[1])
            return rows.reshape(-1, *_READING[self.structure.data])
        there = (rows != 0).unsqueeze(2).float()
        if self.structure.divides_by_content:
            there = there / there.sum(dim=1, keepdim=True) * 8
        words: Tensor = self.words(rows)
        return words * there


class _Flat(nn.Module):
    """All of a row at once; of words their mean, since a word says the same wherever it stands."""

    def __init__(self, steps: int, numbers: int) -> None:
        super().__init__()
        self.pooled = numbers == _WORD_WIDTH
        self.layer = nn.Sequential(nn.Linear(numbers if self.pooled else steps * numbers, _WIDTH), nn.ReLU())

    def forward(self, rows: Tensor) -> Tensor:
        seen: Tensor = self.layer(rows.mean(dim=1) if self.pooled else rows.flatten(1))
        return seen


class _Convolutional(nn.Module):
    """Two convolutions; of words the largest answers wherever they are."""

    def __init__(self, steps: int, numbers: int) -> None:
        super().__init__()
        self.pooled = numbers == _WORD_WIDTH
        self.layers = nn.Sequential(
            nn.Conv1d(numbers, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.join = nn.Sequential(
            nn.Linear(32 if self.pooled else 32 * ((steps + 1) // 2), _WIDTH), nn.ReLU()
        )

    def forward(self, rows: Tensor) -> Tensor:
        seen = self.layers(rows.transpose(1, 2))
        joined: Tensor = self.join(seen.amax(dim=2) if self.pooled else seen.flatten(1))
        return joined


class _Recurrent(nn.Module):
    def __init__(self, steps: int, numbers: int) -> None:
        super().__init__()
        self.cells = nn.GRU(numbers, _WIDTH, batch_first=True)

    def forward(self, rows: Tensor) -> Tensor:
        states, _ = self.cells(rows)
        last: Tensor = states[:, -1]
        return last


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.attention = nn.MultiheadAttention(_WIDTH, 4, batch_first=True)
        self.forward1, self.forward2 = nn.Linear(_WIDTH, 96), nn.Linear(96, _WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        moved: Tensor = x + self.forward2(torch.relu(self.forward1(self.norm2(x))))
        return moved


class _Attentive(nn.Module):
    def __init__(self, steps: int, numbers: int) -> None:
        super().__init__()
        self.lift = nn.Linear(numbers, _WIDTH)
        self.places = nn.Parameter(torch.randn(steps, _WIDTH) * 0.1)
        self.blocks = nn.Sequential(_Block())
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, rows: Tensor) -> Tensor:
        seen: Tensor = self.norm(self.blocks(self.lift(rows) + self.places)).mean(dim=1)
        return seen


_FEATURES: dict[str, Callable[[int, int], nn.Module]] = {
    "mlp": _Flat,
    "cnn": _Convolutional,
    "gru": _Recurrent,
    "transformer": _Attentive,
}


def write(
    structure: Structure, seed: int, damage: Damage | None, graphs: Path, directory: Path
) -> tuple[Path, Path]:
    """The program's graph, exported once per folder `graphs`, and weights of the seed; their files."""
    graph = graphs / structure.name / "graph.json"
    torch.manual_seed(seed)
    network = Network(structure)
    if damage is not None:
        with torch.no_grad():
            damage(network)
    if not graph.exists():
        _export(network, graph)
    constants = load_file(graph.with_name("weights.safetensors"))
    own = network.state_dict()
    weights = directory / "weights.safetensors"
    save_file({name: own.get(name, value).contiguous().clone() for name, value in constants.items()}, weights)
    return graph, weights


def _export(network: Network, graph: Path) -> None:
    example: Any = torch.randint(1, VOCABULARY, (4, TEXT_LENGTH)) if network.words else None
    if example is None:
        example = torch.rand(4, math.prod(_READING[network.structure.data])) + 0.1
    exported = export_program(network, example)
    graph.parent.mkdir(parents=True, exist_ok=True)
    graph.with_name("weights.safetensors").write_bytes(exported.weights)
    # Last, and in one go: whoever sees the graph sees all of it.
    part = graph.with_suffix(".part")
    part.write_bytes(exported.graph)
    part.rename(graph)


# What can be wrong with the first weights.


def zero(network: Network) -> None:
    """Every weight matrix is 0."""
    for matrix in _matrices(network):
        matrix.zero_()


def constant(network: Network) -> None:
    """Every number in a weight matrix is the same."""
    for matrix in _matrices(network):
        matrix.fill_(1 / matrix[0].numel())


def large(network: Network) -> None:
    """Every weight matrix is ten times as large as it should be."""
    for matrix in _matrices(network):
        matrix.mul_(10)


def dead_bias(network: Network) -> None:
    """The head's hidden units are never positive."""
    for layer in _hidden(network):
        layer.bias.fill_(-20)


def saturating(network: Network) -> None:
    """The head's hidden units are driven far beyond where they answer."""
    for layer in _hidden(network):
        layer.weight.mul_(60)


def fading(network: Network) -> None:
    """Each hidden layer of the head makes what it gets smaller by half and more."""
    for layer in _hidden(network):
        nn.init.normal_(layer.weight, std=0.4 / math.sqrt(_WIDTH))
        layer.bias.zero_()


def growing(network: Network) -> None:
    """Each hidden layer of the head makes what it gets three times as large."""
    for layer in _hidden(network):
        nn.init.normal_(layer.weight, std=3 * math.sqrt(2 / _WIDTH))
        layer.bias.zero_()


def sharp_attention(network: Network) -> None:
    """Queries and keys are so large that each place looks at one other only."""
    for module in network.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.in_proj_weight[: 2 * _WIDTH] *= 12


def _matrices(network: Network) -> list[Tensor]:
    """Weights of layers that multiply; not those of words, places and norms."""
    apart = {"words.weight", "features.places"}
    return [p for name, p in network.named_parameters() if p.ndim > 1 and name not in apart]


def _hidden(network: Network) -> list[nn.Linear]:
    """The head's layers before the last."""
    return [layer for layer in network.head if isinstance(layer, nn.Linear)][:-1]
