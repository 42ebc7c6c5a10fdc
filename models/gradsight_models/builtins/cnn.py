"""`cnn`: stages of convolutions over images, each at half the resolution of the one before."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from gradsight_models.configuration import Configuration, within

_GROUPS = 8
_FEWEST_IN_A_GROUP = 2


@dataclass(frozen=True, kw_only=True)
class CnnConfig(Configuration):
    """Options of `cnn`."""

    channels: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage: twice as many at half the resolution, so that each stage costs about the same."""
    dropout: float = 0.1
    """Share of the pooled features dropped in training: convolutions share weights and need little of it."""
    image_size: int = 64
    """Side of the square that images of a folder are scaled to: shapes stay clear, a step takes milliseconds."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.channels) <= 8:
            raise ValueError(f"channels: got {len(self.channels)} stages, allowed 1 to 8")
        for channels in self.channels:
            within("channels", channels, 1, 4096)
        within("dropout", self.dropout, 0.0, 1.0, open_end=True)
        within("image_size", self.image_size, 8, 1024)


class Cnn(nn.Module):
    """Stages, the mean over all places, a linear output: images of any size from 8 × 8."""

    def __init__(self, config: CnnConfig, input_channels: int, output_size: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        width = input_channels
        for channels in config.channels:
            self.stages.append(Stage(width, channels, halves=len(self.stages) > 0))
            width = channels
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(width, output_size)

    def forward(self, images: Tensor) -> Tensor:
        """Images float32 [batch, channels, height, width] to scores [batch, output_size]."""
        for stage in self.stages:
            images = stage(images)
        scores: Tensor = self.output(self.dropout(images.mean(dim=(2, 3))))
        return scores


class Stage(nn.Module):
    """Two convolutions with normalization and non-linearity, at half the resolution if it `halves`.

    Group normalization (Wu and He, 2018), not batch normalization: a row's answer then never depends on its batch, so
    that batches of one, accumulated parts and averaged weights all give the same model, and there are no running
    statistics to keep.
    """

    def __init__(self, input_channels: int, channels: int, *, halves: bool) -> None:
        super().__init__()
        # An odd side keeps its last line: a side of 1 stays 1.
        self.halve = nn.MaxPool2d(2, ceil_mode=True) if halves else nn.Identity()
        self.first = nn.Conv2d(input_channels, channels, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(_groups(channels), channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(_groups(channels), channels)
        self.activation = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """[batch, input_channels, height, width] to [batch, channels, height or half, width or half]."""
        values = self.activation(self.first_norm(self.first(self.halve(images))))
        result: Tensor = self.activation(self.second_norm(self.second(values)))
        return result


def _groups(channels: int) -> int:
    """As many as divide the channels, at most 8, with at least two channels in each."""
    groups = math.gcd(channels, _GROUPS)
    return groups if channels // groups >= _FEWEST_IN_A_GROUP else max(1, channels // _FEWEST_IN_A_GROUP)
