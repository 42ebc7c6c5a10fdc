"""Runs made of numbers: a healthy one to start from, and ways to break it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gradsight_insight.signals import (
    CategorySignals,
    EvaluationSignals,
    FirstBatch,
    HeldOutRows,
    LayerFacts,
    Probes,
    RunFacts,
    Signals,
    Steps,
)

LAYERS = ("embed", "hidden", "head")
PRIOR_LOSS = 2.3


def facts(**changes: Any) -> RunFacts:
    """Ten classes, three layers that decay as is usual, 2,000 steps."""
    layers = tuple(
        LayerFacts(path=path, kind="Linear", parameters=1000, activation=activation, shrinkage_per_rate=0.01)
        for path, activation in zip(LAYERS, ("relu", "relu", None), strict=True)
    )
    run = RunFacts(
        total_steps=2000,
        steps_per_epoch=100,
        batch_size=64,
        answers="classes",
        prior_loss=PRIOR_LOSS,
        prior_error_ratio=0.9,
        layers=layers,
        train_rows=6400,
        validation_rows=500,
        first_batch=first_batch(),
    )
    return replace(run, **changes)


def first_batch(**changes: Any) -> FirstBatch:
    """An untouched model that knows nothing, as it should."""
    batch = FirstBatch(
        loss=2.35,
        outputs_are_probabilities=False,
        loss_ignores_targets=False,
        loss_without_inputs=2.36,
        activation_deviation=np.array([0.8, 0.7, 0.6]),
    )
    return replace(batch, **changes)


def falling_loss(count: int, seed: int = 0, noise: float = 0.02) -> npt.NDArray[np.float64]:
    """From the prior's loss to a fifth of it, with the noise of batches."""
    generator = np.random.default_rng(seed)
    curve = PRIOR_LOSS * (0.2 + 0.8 * np.exp(-np.arange(count) / max(1, count / 4)))
    return np.asarray(curve * (1 + noise * generator.normal(size=count)))


def steps(loss: Sequence[float] | npt.NDArray[np.float64], first: int = 1, **changes: Any) -> Steps:
    """Steps with these losses."""
    count = len(loss)
    generator = np.random.default_rng(count)
    columns = {
        "step": np.arange(first, first + count),
        "loss": np.asarray(loss, np.float64),
        "gradient_norm": 1 + 0.1 * generator.normal(size=count),
        "learning_rate": np.full(count, 1e-3),
        "clip_factor": np.ones(count),
        "nonfinite": np.zeros(count, bool),
        "skipped": np.zeros(count, bool),
        "loss_scale": np.zeros(count),
    }
    return Steps(**{**columns, **changes})


def probes(loss: Sequence[float] | npt.NDArray[np.float64], every: int = 10, **changes: Any) -> Probes:
    """Probed steps with these losses; a healthy gain ratio of 0.6 and update ratios of 1e-3."""
    count, layers = len(loss), len(LAYERS)
    generator = np.random.default_rng(count)
    promise = 0.01 * np.abs(np.asarray(loss, np.float64))

    def by_layer(value: float) -> npt.NDArray[np.float64]:
        return value * (1 + 0.1 * generator.normal(size=(count, layers)))

    columns: dict[str, Any] = {
        "step": every * np.arange(1, count + 1),
        "loss": np.asarray(loss, np.float64),
        "predicted_decrease": promise,
        "actual_decrease": promise * (0.6 + 0.2 * generator.normal(size=count)),
        "learning_rate": np.full(count, 1e-3),
        "gradient_noise_scale": np.full(count, np.nan),
        "attention_logit_max": np.full(count, np.nan),
        "gradient_norm": by_layer(0.5),
        "gradient_rms": by_layer(0.02),
        "weight_norm": by_layer(10.0),
        "update_ratio": by_layer(1e-3),
        "activation_mean": by_layer(0.3),
        "activation_deviation": by_layer(0.7),
        "zero_ratio": by_layer(0.4),
        "saturated_ratio": by_layer(0.01),
        "layer_predicted_decrease": np.tile(promise[:, None] / layers, (1, layers)),
    }
    return Probes(**{**columns, **changes})


def evaluation(step: int, loss: float, error_ratio: float = 0.3, **changes: Any) -> EvaluationSignals:
    """An evaluation on 500 rows."""
    generator = np.random.default_rng(step)
    rows = HeldOutRows(
        losses=(loss * generator.gamma(2.0, 0.5, size=500)).astype(np.float32),
        wrong=generator.random(500) < error_ratio,
    )
    signals = EvaluationSignals(
        step=step, loss=loss, error_ratio=error_ratio, figure=loss, kept=True, examples=500,
        train_loss=loss * 0.9, dead_ratio=np.zeros(len(LAYERS)), rows=rows,
        classes=(CategorySignals(category="0", examples=500, errors=round(500 * error_ratio)),),
    )  # fmt: skip
    return replace(signals, **changes)


def signals(count: int = 400, run: RunFacts | None = None, **changes: Any) -> Signals:
    """A healthy run of so many steps, with whatever is to be different."""
    loss = falling_loss(count)
    blocks = count // 10
    healthy = Signals(
        facts=run or facts(),
        step=count,
        steps=steps(loss),
        block_step=10 * np.arange(1, blocks + 1),
        block_loss=loss[: 10 * blocks].reshape(blocks, 10).mean(axis=1),
        probes=probes(loss[9::10]),
        evaluations=(evaluation(count // 2, 1.2), evaluation(count, 0.8, 0.2)) if count else (),
    )
    return replace(healthy, **changes)
