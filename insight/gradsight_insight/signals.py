"""What was measured of a run, as detectors see it: facts known before the first step, steps, probes, evaluations.

Everything is a plain number or a numpy array; nothing here decides anything. Arrays of layers are in the order of
`RunFacts.layers`; NaN stands for what was not or could not be measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LayerFacts:
    """A layer before the first step."""

    path: str
    kind: str
    parameters: int
    activation: str | None = None
    """What its output went through: `relu`, `gelu`, `silu`, `tanh`, `sigmoid` …; None: nothing that is known."""
    trainable: bool = True
    """False: the spec or the module froze it on purpose."""
    symmetric_units: bool = False
    """True: all rows of its weight are the same, so that its units would stay the same for ever."""
    shrinkage_per_rate: float = 0.0
    """Share of its weights that decay alone takes from them in a step, for a learning rate of 1; 0: it does not decay,
    or nobody can say."""


@dataclass(frozen=True, kw_only=True)
class InputFacts:
    """An input of the model after preprocessing, over rows of train (the first 10,000 are enough)."""

    name: str
    mean: float | None = None
    deviation: float | None = None
    largest: float | None = None
    """Largest magnitude. None for tokens, as the two above."""
    nonfinite_ratio: float = 0.0
    padding_ratio: float | None = None
    """Share of tokens that are unknown or padding, 0 to 1; None for numbers."""
    constant: bool = False
    """True: all rows are the same."""
    neighbour_correlation: float | None = None
    """Correlation of values at neighbouring positions along the last axis, over rows, −1 to 1: high for images and
    waves, about 0 when positions were mixed up. None for tokens, and where positions have no order."""


@dataclass(frozen=True, kw_only=True)
class FirstBatch:
    """What the untouched model made of the first batch."""

    loss: float
    """In the training loss's unit."""
    outputs_are_probabilities: bool
    """True: scores that should be logits are at least 0 and add up to 1 in every row."""
    loss_ignores_targets: bool
    """True: with the targets permuted among different ones the loss is the same to the last digit."""
    loss_without_inputs: float
    """Loss with the inputs shuffled among the rows."""
    stale_gradients: bool = False
    """True: a gradient was not 0 when a step began."""
    activation_deviation: Floats = field(default_factory=lambda: np.zeros(0))
    """Of each layer's output, shape (layers,)."""


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What is known of a run before its first step."""

    total_steps: int
    steps_per_epoch: int
    batch_size: int
    answers: Literal["classes", "labels", "numbers", "tokens"]
    prior_loss: float
    """Training loss of always answering train's frequencies or mean, in the training loss's unit."""
    prior_error_ratio: float | None = None
    """Error ratio on validation of always answering the most frequent class; None where nothing is right or wrong."""
    class_counts: npt.NDArray[np.int64] | None = None
    """Rows of train by class, shape (classes,); None where answers are no classes."""
    category_counts: dict[str, int] = field(default_factory=dict)
    """Rows of train by category; empty without a category column."""
    layers: tuple[LayerFacts, ...] = ()
    inputs: tuple[InputFacts, ...] = ()
    first_batch: FirstBatch | None = None
    train_rows: int = 0
    validation_rows: int = 0
    test_rows: int = 0
    leaked_rows: int = 0
    """Held-out rows whose content also occurs in train."""
    fine_tuning: bool = False
    """True: the weights come from another job or a pretrained model, not from an initialization."""
    has_attention: bool = False
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    warm_up_steps: int = 0
    """Steps until the schedule's largest learning rate."""
    clips: bool = False
    """True: the spec limits the gradient's norm."""
    balances_classes: bool = False
    """True: the loss weighs classes."""
    class_names: tuple[str, ...] = ()
    """Names of the classes, as `class_counts` counts them; empty where answers are no classes."""
    held_out_prior_loss: float = float("nan")
    """Loss on validation of always answering train's frequencies or mean, in the objective's unit; NaN: not known."""
    highest_learning_rate: float = 0.0
    """Of the whole schedule, in its first group; 0: unknown."""

    @property
    def judged_by_error(self) -> bool:
        """Whether rows are answered right or wrong, so that errors and not losses say how good a model is."""
        return self.answers in ("classes", "labels")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Consecutive steps in columns of equal length, oldest first."""

    step: npt.NDArray[np.int64]
    loss: Floats
    """Training loss of the batch; may be non-finite."""
    gradient_norm: Floats
    """Before clipping; may be non-finite."""
    learning_rate: Floats
    clip_factor: Floats
    """What clipping left of the gradient, 0 to 1."""
    nonfinite: npt.NDArray[np.bool_]
    """The step was not finite and changed nothing."""
    skipped: npt.NDArray[np.bool_]
    """A repair let the step change nothing."""
    loss_scale: Floats
    """Scale of a float16 loss; 0 where there is none."""

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, kw_only=True)
class Probes:
    """Probed steps, oldest first: shape (probes,) or (probes, layers)."""

    step: npt.NDArray[np.int64]
    loss: Floats
    """Of the batch before the update."""
    predicted_decrease: Floats
    actual_decrease: Floats
    learning_rate: Floats
    gradient_noise_scale: Floats
    """In rows; NaN where it was not measured."""
    attention_logit_max: Floats
    gradient_norm: Floats
    """By layer, before clipping, as all below."""
    gradient_rms: Floats
    weight_norm: Floats
    update_ratio: Floats
    """Norm of the update over norm of the weights; exactly 0 when nothing moved."""
    activation_mean: Floats
    activation_deviation: Floats
    zero_ratio: Floats
    saturated_ratio: Floats
    layer_predicted_decrease: Floats

    def __len__(self) -> int:
        return len(self.step)


@dataclass(frozen=True, kw_only=True)
class CategorySignals:
    """One category in one evaluation."""

    category: str
    examples: int
    errors: int


@dataclass(frozen=True, kw_only=True)
class HeldOutRows:
    """An evaluation row by row: always the same rows in the same order, at most 16,384 of them."""

    losses: npt.NDArray[np.float32]
    wrong: npt.NDArray[np.bool_] | None
    """None where answers are not right or wrong."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSignals:
    """One evaluation on validation."""

    step: int
    loss: float
    """In the objective's unit."""
    error_ratio: float | None
    figure: float
    """What chooses the checkpoint; smaller is better."""
    kept: bool
    """True: the best so far."""
    examples: int
    train_loss: float
    """Mean training loss of the steps since the evaluation before, in the objective's unit."""
    train_error_ratio: float | None = None
    """Error ratio on a sample of train, judged as validation is; None where it was not measured."""
    mean_confidence: float | None = None
    calibration_error: float | None = None
    answer_entropy_ratio: float | None = None
    """Entropy of the answers over that of the targets."""
    dead_ratio: Floats = field(default_factory=lambda: np.zeros(0))
    """Share of each layer's units that are 0 for every row, shape (layers,); empty where it was not measured."""
    categories: tuple[CategorySignals, ...] = ()
    confusions: tuple[tuple[str, str, int], ...] = ()
    """Most frequent confusions: (target, answer, rows), at most 20."""
    rows: HeldOutRows | None = None
    """Kept for the best evaluation and the newest ones only."""
    classes: tuple[CategorySignals, ...] = ()
    """The same as `categories` by the rows' true class, most frequent first, at most 100; empty where answers are no
    classes."""

    @cached_property
    def by_category(self) -> Mapping[str, CategorySignals]:
        """Categories, or classes where there is no column of categories, by name; those without rows are left out."""
        return {each.category: each for each in self.categories or self.classes if each.examples > 0}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the time goes; NaN where unknown."""

    step_seconds: float = float("nan")
    """Median of the newest steps."""
    longest_step_seconds: float = float("nan")
    """Longest of the newest steps."""
    data_wait_ratio: float = float("nan")
    """Share of the training time that the loop waited for rows, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class Signals:
    """All that a detector may look at."""

    facts: RunFacts
    step: int
    """Optimizer steps done."""
    steps: Steps
    """The newest 1,024 steps at most."""
    block_step: npt.NDArray[np.int64]
    """Last step of each block of the whole run: at least 10 steps each, at most 256 blocks, equally long."""
    block_loss: Floats
    """Mean training loss of each block's finite steps."""
    probes: Probes
    """The newest 64 at most."""
    evaluations: tuple[EvaluationSignals, ...]
    """Oldest first, at most the newest 256 and always the kept one."""
    timing: Timing = field(default_factory=Timing)

    @property
    def kept(self) -> EvaluationSignals | None:
        """The best evaluation so far."""
        return next((evaluation for evaluation in reversed(self.evaluations) if evaluation.kept), None)

    @property
    def learned(self) -> bool:
        """Whether the training loss of the newest block is below 0.8 of what no model would cost."""
        return bool(len(self.block_loss)) and bool(self.block_loss[-1] < 0.8 * self.facts.prior_loss)


State = dict[str, Any]
"""Plain JSON values, with arrays as base64."""
