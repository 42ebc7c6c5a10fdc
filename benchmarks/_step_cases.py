"""Models and rows whose steps are counted: the same for every loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

_SEED = 7


@dataclass(frozen=True, kw_only=True)
class Case:
    """One model, its rows and how many of its steps are taken at a time: for a quarter of a second or more.

    `bars` says which share of another loop's rate ours must reach, by the loop's name.
    """

    build: Callable[[], nn.Module]
    rows: Callable[[], tuple[Tensor, Tensor]]
    """Inputs [rows, …] and the classes [rows] that they belong to."""
    batch_size: int
    learning_rate: float
    warm_up: int
    """Steps of each loop before the first round."""
    first_step: int = 0
    """Where ours begins, as a resumed job does: it measures densely until step 200, which must end in the warm-up."""
    steps: int
    bars: Mapping[str, float]

    def model(self) -> nn.Module:
        """The model from the seed, so that every loop begins with the same weights."""
        torch.manual_seed(_SEED)
        return self.build().train()


def _mlp() -> nn.Module:
    sizes = (64, 128, 128)
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(128, 10))


def _wide_mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Transformer(nn.Module):
    """An encoder of six blocks, 256 wide, that classifies a sequence of 64 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(1000, 256)
        self.places = nn.Parameter(torch.randn(64, 256) * 0.02)
        block = nn.TransformerEncoderLayer(256, 8, 1024, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, 6, norm=nn.LayerNorm(256), enable_nested_tensor=False)
        self.head = nn.Linear(256, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [batch, 64] to scores [batch, 10]."""
        seen = self.blocks(self.tokens(tokens) + self.places)
        scores: Tensor = self.head(seen.mean(dim=1))
        return scores


def number_rows() -> tuple[Tensor, Tensor]:
    """9,600 rows of 64 numbers; the class is the largest of ten random mixtures."""
    dice = torch.Generator().manual_seed(_SEED)
    inputs = torch.randn(9600, 64, generator=dice)
    return inputs, (inputs @ torch.randn(64, 10, generator=dice)).argmax(dim=1)


def _images() -> tuple[Tensor, Tensor]:
    """1,280 images of 3 × 16 × 16; the class is the brightest of ten rows of pixels."""
    inputs = torch.randn(1280, 3, 16, 16, generator=torch.Generator().manual_seed(_SEED))
    return inputs, inputs.mean(dim=(1, 3))[:, :10].argmax(dim=1)


def _sequences() -> tuple[Tensor, Tensor]:
    """1,600 sequences of 64 tokens; the class is the first token's."""
    tokens = torch.randint(0, 1000, (1600, 64), generator=torch.Generator().manual_seed(_SEED))
    return tokens, tokens[:, 0] % 10


_OF_THE_REST = {"DataLoader": 1.7, "Lightning": 3.5, "HF Trainer": 3.0}

CASES = {
    "mlp": Case(
        build=_mlp,
        rows=number_rows,
        batch_size=64,
        learning_rate=1e-3,
        warm_up=600,
        steps=500,
        bars={"hand-tuned": 0.90, **_OF_THE_REST},
    ),
    "wide mlp": Case(
        build=_wide_mlp,
        rows=number_rows,
        batch_size=192,
        learning_rate=1e-3,
        warm_up=220,
        steps=20,
        bars={"hand-tuned": 0.97},
    ),
    "cnn": Case(
        build=_cnn,
        rows=_images,
        batch_size=64,
        learning_rate=1e-3,
        warm_up=220,
        steps=20,
        bars={"hand-tuned": 0.97},
    ),
    "transformer": Case(
        build=Transformer,
        rows=_sequences,
        batch_size=8,
        learning_rate=1e-4,
        warm_up=30,
        first_step=185,
        steps=8,
        bars={"hand-tuned": 0.97},
    ),
}
