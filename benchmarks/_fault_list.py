"""What is wrong with a run, and which finding must name it.

Expectations were written down before the runs that judge; what was changed after looking at runs is said in
docs/detection.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import _fault_data as rows
import _fault_models as weights
from _fault_data import DATA
from _fault_models import FAMILIES

NUMBERS = ("digits", "mnist1d")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One way in which a training run is wrong."""

    name: str
    said: str
    """One sentence."""
    expected: tuple[str, ...]
    """The kind of finding that names the cause, and after it the direct forms in which it may as well be named."""
    repairable: str = ""
    """Code of the failure mode that gradsight must be able to repair; empty: nobody can while the run goes on."""
    guarded: bool = False
    """True: every job is guarded against it, under every policy; untreated means without that guard."""
    structure: Mapping[str, Any] = field(default_factory=dict)
    damage_weights: weights.Damage | None = None
    damage_rows: rows.Damage | None = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the spec that are at fault."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the spec that are right, but without which the fault does no harm; a healthy twin has them, too."""
    families: tuple[str, ...] = FAMILIES
    data: tuple[str, ...] = DATA


def _optimizer(**options: Any) -> Mapping[str, Any]:
    return {"optimizer": options}


_PLAIN_SGD = _optimizer(learning_rate=0.05, sgd={"momentum": 0.9}, clipping_disabled=True)
"""Adam divides by the gradient's own size, and clipping limits it: both hide what large inputs do."""

_WEIGHTS = (
    Fault(
        name="zero weights",
        said="Every weight matrix begins as 0.",
        expected=("bad_initialization",),
        repairable="FM-11",
        damage_weights=weights.zero,
    ),
    Fault(
        name="constant weights",
        said="All units of a layer begin alike.",
        expected=("bad_initialization",),
        repairable="FM-11",
        damage_weights=weights.constant,
    ),
    Fault(
        name="large weights",
        said="Every weight matrix begins ten times too large.",
        expected=("bad_initialization", "saturated_activations"),
        repairable="FM-11",
        damage_weights=weights.large,
    ),
    Fault(
        name="dead bias",
        said="Biases of -20 before a ReLU.",
        expected=("dead_units", "bad_initialization"),
        repairable="FM-06",
        damage_weights=weights.dead_bias,
    ),
    Fault(
        name="saturated tanh",
        said="Four tanh layers with weights sixty times too large.",
        expected=("saturated_activations", "bad_initialization"),
        repairable="FM-07",
        structure={"hidden": 4, "activation": "Tanh"},
        damage_weights=weights.saturating,
    ),
    Fault(
        name="deep tanh, small weights",
        said="Twelve tanh layers that each lose more than half of the signal.",
        expected=("vanishing_gradient", "bad_initialization"),
        structure={"hidden": 12, "activation": "Tanh"},
        damage_weights=weights.fading,
    ),
    Fault(
        name="deep sigmoid",
        said="Eight sigmoid layers.",
        expected=("vanishing_gradient", "bad_initialization"),
        structure={"hidden": 8, "activation": "Sigmoid"},
    ),
    Fault(
        name="growing layers",
        said="Eight ReLU layers that each triple the signal.",
        expected=("exploding_gradient", "bad_initialization"),
        structure={"hidden": 8},
        damage_weights=weights.growing,
    ),
    Fault(
        name="sharp attention",
        said="Queries and keys begin twelve times too large.",
        expected=("logit_growth", "bad_initialization"),
        damage_weights=weights.sharp_attention,
        families=("transformer",),
    ),
)

_GRAPHS = (
    Fault(
        name="closed gate",
        said="A condition that never holds lets the gradient through to the layers below the head.",
        expected=("frozen_parameters",),
        structure={"gated": True},
    ),
    Fault(
        name="double softmax",
        said="The scores are probabilities already.",
        expected=("loss_contract",),
        structure={"ends_in_softmax": True},
    ),
    Fault(
        name="scaled outputs",
        said="The scores are multiplied by 100.",
        expected=("bad_initialization", "loss_contract"),
        structure={"output_factor": 100.0},
    ),
    Fault(
        name="division by nothing",
        said="A row's numbers are divided by its norm, and one row is empty.",
        expected=("nonfinite_values",),
        repairable="FM-01",
        guarded=True,
        structure={"divides_by_content": True},
        damage_rows=rows.empty_row,
        data=("mnist1d", "text"),
    ),
)

_ROWS = (
    Fault(
        name="shuffled labels",
        said="Labels and rows were joined wrongly.",
        expected=("memorization", "not_learning"),
        damage_rows=rows.shuffled_labels,
    ),
    Fault(
        name="constant inputs",
        said="Every row has the same inputs.",
        expected=("input_contract", "not_learning"),
        damage_rows=rows.constant_inputs,
    ),
    Fault(
        name="inputs times 255",
        said="Nobody scaled the inputs.",
        expected=("input_contract",),
        repairable="FM-21",
        damage_rows=rows.times_255,
        setting=_PLAIN_SGD,
        data=NUMBERS,
    ),
    Fault(
        name="outlier rows",
        said="Two training rows are sixty times as large.",
        expected=("loss_spike", "input_contract"),
        repairable="FM-02",
        damage_rows=rows.outlier_rows,
        setting=_PLAIN_SGD,
        data=NUMBERS,
    ),
    Fault(
        name="forty rows",
        said="Forty training rows.",
        expected=("overfitting", "memorization"),
        damage_rows=rows.few_rows,
    ),
    Fault(
        name="thirty to one",
        said="All classes but two are thirty times rarer.",
        expected=("prediction_collapse", "weak_category"),
        damage_rows=rows.unbalanced,
    ),
    Fault(
        name="leaked rows",
        said="Four of ten held-out rows are training rows, too.",
        expected=("leakage",),
        damage_rows=rows.leaked_rows,
    ),
    Fault(
        name="damaged category",
        said="Seven of ten rows of one category carry the label of another.",
        expected=("weak_category", "suspect_labels"),
        damage_rows=rows.damaged_category,
    ),
)

_SPECS = (
    Fault(
        name="Adam at 0.3",
        said="The learning rate is a hundred times too high.",
        expected=("learning_rate_too_high", "divergence"),
        repairable="FM-08",
        spec=_optimizer(learning_rate=0.3, adam={}),
    ),
    Fault(
        name="SGD at 5",
        said="The learning rate is fifty times too high, and nothing clips.",
        expected=("learning_rate_too_high", "divergence"),
        repairable="FM-03",
        spec=_optimizer(learning_rate=5.0, sgd={"momentum": 0.9}, clipping_disabled=True),
        setting=_optimizer(learning_rate=0.1, sgd={"momentum": 0.9}, clipping_disabled=True),
    ),
    Fault(
        name="Adam at 1e-6",
        said="The learning rate is a thousand times too low.",
        expected=("learning_rate_too_low",),
        repairable="FM-09",
        spec=_optimizer(learning_rate=1e-6, adam={}),
    ),
    Fault(
        name="SGD at 1e-4",
        said="The learning rate is a thousand times too low.",
        expected=("learning_rate_too_low",),
        repairable="FM-09",
        spec=_optimizer(learning_rate=1e-4, sgd={"momentum": 0.9}),
        setting=_optimizer(learning_rate=0.1, sgd={"momentum": 0.9}),
    ),
    Fault(
        name="Adam, epsilon 1",
        said="Adam's epsilon swallows the gradient, and the learning rate is a thousand times too low for it.",
        expected=("learning_rate_too_low",),
        repairable="FM-09",
        spec=_optimizer(learning_rate=1e-3, adam={"epsilon": 1.0}),
        setting=_optimizer(learning_rate=1.0, adam={"epsilon": 1.0}),
    ),
    Fault(
        name="over-regularized",
        said="Decay shrinks the weights faster than the gradient makes them grow.",
        expected=("excessive_decay", "not_learning", "vanishing_gradient"),
        spec=_optimizer(learning_rate=0.1, weight_decay=1.0, sgd={"momentum": 0.0}),
    ),
)

FAULTS: tuple[Fault, ...] = _WEIGHTS + _GRAPHS + _ROWS + _SPECS
NAMED: Mapping[str, Fault] = {fault.name: fault for fault in FAULTS}
