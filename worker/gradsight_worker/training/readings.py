"""How a probe's numbers lie in its vector, and what they mean once they are on the host.

A probe writes one vector of float32 on the device: a block of one number per layer for each of `_BY_LAYER`, then the
single numbers `_SINGLE`. NaN stands for what was not measured.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradsight.v1 import event_pb2
from gradsight_insight.noise_scale import NoiseScaleAverage
from gradsight_insight.signals import Floats, Probes

_BY_LAYER = (
    "gradient_norm",
    "weight_norm",
    "change_norm",
    "activation_mean",
    "activation_variance",
    "nonzero_ratio",
    "saturated_ratio",
    "predicted_decrease",
)
_SINGLE = ("loss", "loss_after", "attention_logit_max", "small_square", "small_rows", "square", "rows")


@dataclass(frozen=True)
class ProbeLayout:
    """Where each measurement lies in a probe's vector."""

    sizes: tuple[int, ...]
    """Parameters of each layer."""

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return len(_BY_LAYER) * len(self.sizes) + len(_SINGLE)

    def of_layers(self, vector: Tensor, first: str, count: int = 1) -> Tensor:
        """The blocks of `count` measurements from the one named on, a view [count, layers]."""
        layers = len(self.sizes)
        start = _BY_LAYER.index(first) * layers
        return vector[start : start + count * layers].view(count, layers)

    def single(self, vector: Tensor, name: str) -> Tensor:
        """A single number, a view."""
        return vector[len(_BY_LAYER) * len(self.sizes) + _SINGLE.index(name)]


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Vectors on the host, by name: shape (probes, layers) or (probes,), float64."""

    by_layer: dict[str, Floats]
    single: dict[str, Floats]

    @classmethod
    def of(cls, layout: ProbeLayout, vectors: Tensor) -> "Readings":
        """Read vectors [probes, width] on the host."""
        numbers = vectors.numpy().astype(np.float64)
        layers = len(layout.sizes)
        blocks = {name: numbers[:, at * layers : (at + 1) * layers] for at, name in enumerate(_BY_LAYER)}
        rest = numbers[:, len(_BY_LAYER) * layers :]
        return cls(by_layer=blocks, single={name: rest[:, at] for at, name in enumerate(_SINGLE)})


def probes_of(
    layout: ProbeLayout,
    vectors: Tensor,
    steps: Sequence[int],
    learning_rates: Floats,
    noise: NoiseScaleAverage,
) -> Probes:
    """Probes as detectors see them, losses in the training loss's unit.

    Args:
        layout: Of the vectors.
        vectors: float32 [probes, width] on the host.
        steps: The probed steps.
        learning_rates: Of these steps.
        noise: Takes in what they measured of the gradient's noise.
    """
    read = Readings.of(layout, vectors)
    by_layer, single = read.by_layer, read.single
    with np.errstate(invalid="ignore", divide="ignore"):
        weights = by_layer["weight_norm"]
        update_ratio = np.where(weights > 0, by_layer["change_norm"] / weights, np.nan)
        saturated = by_layer["saturated_ratio"]
        # Infinite less infinite is no number, and says so.
        predicted = by_layer["predicted_decrease"].sum(axis=1)
        actual = single["loss"] - single["loss_after"]
        gradient_rms = by_layer["gradient_norm"] / np.sqrt(np.array(layout.sizes, dtype=np.float64))
    return Probes(
        step=np.array(steps, dtype=np.int64),
        loss=single["loss"],
        predicted_decrease=predicted,
        actual_decrease=actual,
        learning_rate=learning_rates,
        gradient_noise_scale=_noise_scales(single, noise),
        attention_logit_max=single["attention_logit_max"],
        gradient_norm=by_layer["gradient_norm"],
        gradient_rms=gradient_rms,
        weight_norm=weights,
        update_ratio=update_ratio,
        activation_mean=by_layer["activation_mean"],
        activation_deviation=np.sqrt(by_layer["activation_variance"]),
        zero_ratio=1.0 - by_layer["nonzero_ratio"],
        saturated_ratio=np.where(saturated < 0, np.nan, saturated),
        layer_predicted_decrease=by_layer["predicted_decrease"],
    )


def _noise_scales(single: Mapping[str, Floats], noise: NoiseScaleAverage) -> Floats:
    columns = (single[name] for name in ("small_square", "small_rows", "square", "rows"))
    return np.array(
        [
            noise.add(*numbers) if all(map(math.isfinite, numbers)) else math.nan
            for numbers in zip(*columns, strict=True)
        ],
        dtype=np.float64,
    )


def probe_message(
    probes: Probes, index: int, *, gain_ratio: float | None, loss_unit: float
) -> event_pb2.Probe:
    """One probe for the event log, decreases in the unit that is reported."""
    message = event_pb2.Probe(
        step=int(probes.step[index]),
        layer_gradient_norm=probes.gradient_norm[index].tolist(),
        layer_gradient_rms=probes.gradient_rms[index].tolist(),
        layer_weight_norm=probes.weight_norm[index].tolist(),
        layer_update_ratio=probes.update_ratio[index].tolist(),
        layer_activation_mean=probes.activation_mean[index].tolist(),
        layer_activation_deviation=probes.activation_deviation[index].tolist(),
        layer_zero_ratio=probes.zero_ratio[index].tolist(),
        layer_saturated_ratio=probes.saturated_ratio[index].tolist(),
        layer_predicted_decrease=(probes.layer_predicted_decrease[index] * loss_unit).tolist(),
        predicted_decrease=float(probes.predicted_decrease[index]) * loss_unit,
        actual_decrease=float(probes.actual_decrease[index]) * loss_unit,
        gain_ratio=gain_ratio,
    )
    if np.isfinite(noise := probes.gradient_noise_scale[index]):
        message.gradient_noise_scale = noise
    if not np.isnan(logits := probes.attention_logit_max[index]):
        message.attention_logit_max = logits
    return message


def unmeasured(vector: Tensor) -> None:
    """Forget what an earlier probe wrote into a vector."""
    vector.fill_(torch.nan)
