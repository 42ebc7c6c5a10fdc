"""Which remedy answers which finding: the kinds' own lists of repairs, with this run's numbers.

Pure: from what is known to what to do. Only first causes are answered; of several, the earliest in the order from data
to update to result. What a remedy achieves is for its trial to say.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradsight.v1 import event_pb2, insight_pb2
from gradsight_insight.attribution import rank
from gradsight_insight.catalogue import KINDS
from gradsight_insight.detectors.small_steps import steps_are_small
from gradsight_insight.detectors.windows import medians
from gradsight_insight.findings import Finding
from gradsight_insight.signals import InputFacts, Probes, Signals, Steps
from gradsight_insight.statistics import finite, median
from gradsight_worker.training.mitigation.repairs import Repairs

_GROWTH, _LARGEST_GROWTH = 4.0, 100.0
"""What the learning rate is multiplied by, at least and at most, while steps are too small."""
LEAST_GROWTH = 1.5
"""Less is not worth a change."""
_LARGE_UPDATE = 0.03
"""Norm of an update over norm of its weights that breaks units."""
_USUAL_UPDATE = 1e-3
"""The same, to which a learning rate is raised at once (CS231n)."""
_TAME_UPDATE = 3e-3
"""The same, to which one that is too high is cut: between the usual thousandth and the hundredth of the first steps."""
_CUT, _DEEPEST_CUT = 0.1, 0.01
"""What a learning rate that is too high is multiplied by, at most and at least."""
_TOO_LONG_STEPS = ("learning_rate_too_high", "divergence", "dead_units")
"""Kinds whose cut is measured."""
_TINY = 1e-12
_DEAD = 1e-6
"""Deviation of a layer's output, at most, that says nothing."""
_FIRST_STEPS = 20
"""Before a probe that still says how the run began."""
_MOSTLY = 0.5
"""Share of a layer's outputs in the flat part of its activation, from which on it was saturated."""
_RECURRENT_NONFINITE = 3
"""Of the newest 100 steps: more than an accident."""
_LASTING = 4
"""Steps in a row that are not finite, from which on no step will be: the weights themselves are too large."""
_FREQUENT_SPIKES = 3
"""Of the newest 1,000 steps may be skipped; with more, the gradient is clipped."""
_CLIP_QUANTILE = 0.9
_FAR = 5.0
"""Deviation of inputs, or 1 over it, from which on standardizing them can help."""
_JUMP_REMAINS = 50
"""Steps after a spike at which a loss that is still high calls for going back."""


class Action(enum.StrEnum):
    """Names of `MitigationAction` in lower case."""

    SKIP_STEP = "skip_step"
    TIGHTEN_CLIPPING = "tighten_clipping"
    SCALE_LEARNING_RATE = "scale_learning_rate"
    ROLL_BACK = "roll_back"
    REINITIALIZE = "reinitialize"
    STANDARDIZE_INPUTS = "standardize_inputs"
    STOP = "stop"


ACTION_PREFIX = "MITIGATION_ACTION_"
RECIPE_CHANGES = frozenset({Action.REINITIALIZE, Action.STANDARDIZE_INPUTS})
"""What the spec must allow: `monitoring.allow_recipe_changes`."""


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """One thing to do."""

    action: Action
    finding_id: str = ""
    kind: str = ""
    """Of the finding."""
    learning_rate_factor: float | None = None
    """What the schedule's learning rate is multiplied by from now on; None leaves it alone."""
    grows: bool = False
    """True: the factor is raised again while steps are too small."""
    norm_limit: float | None = None
    """Largest norm of the gradient from now on."""
    restored_step: int | None = None
    """Of the snapshot to go back to."""
    layers: Sequence[str] = field(default_factory=tuple)
    """Paths of the layers that begin anew; empty for all."""


def remedy_of(applied: event_pb2.MitigationApplied) -> Remedy:
    """The remedy that an event tells of."""
    return Remedy(
        action=Action(insight_pb2.MitigationAction.Name(applied.action).removeprefix(ACTION_PREFIX).lower()),
        finding_id=applied.finding_id,
        kind=applied.finding_id.rpartition("-")[0],
        learning_rate_factor=applied.learning_rate_factor
        if applied.HasField("learning_rate_factor")
        else None,
        norm_limit=applied.gradient_norm_limit if applied.HasField("gradient_norm_limit") else None,
        restored_step=applied.restored_step if applied.HasField("restored_step") else None,
        layers=tuple(applied.layers),
    )


def choose(
    findings: Sequence[Finding], signals: Signals, repairs: Repairs, *, recipe_changes: bool
) -> Remedy | None:
    """What to do now; None: nothing."""
    causes = [
        finding
        for finding in findings
        if finding.finding_id == repairs.unanswered
        or (
            finding.open
            and not finding.cause_finding_id
            and finding.severity != "info"
            and finding.last_step > repairs.answered_step
        )
    ]
    for finding in sorted(causes, key=lambda finding: rank(finding.kind)):
        if (remedy := _remedy(finding, signals, repairs, recipe_changes)) is not None:
            return remedy
    return None


def _remedy(finding: Finding, signals: Signals, repairs: Repairs, recipe_changes: bool) -> Remedy | None:
    tried = repairs.trials.get(finding.kind, 0)
    possible: list[Remedy] = []
    for action in map(Action, KINDS[finding.kind].repairs):
        if action is Action.SKIP_STEP or (action in RECIPE_CHANGES and not recipe_changes):
            continue
        remedy = _OF_ACTION[action](finding, signals, repairs)
        if remedy is not None:
            possible.append(remedy)
    if not possible:
        return None
    # Each trial of a cause goes one remedy on; the last one is tried again, with a larger number.
    chosen = possible[min(tried, len(possible) - 1)]
    if chosen.action is Action.STOP:
        return chosen if finding.severity == "critical" else None
    return chosen if repairs.may_try(finding.kind) else None


def _stop(finding: Finding, signals: Signals, repairs: Repairs) -> Remedy | None:
    return _new(finding, Action.STOP)


def _tighten(finding: Finding, signals: Signals, repairs: Repairs) -> Remedy | None:
    norms = finite(signals.steps.gradient_norm[~_unchanged(signals.steps)])
    if not len(norms):
        return None
    # While a network finds its way out of the beginning, its norms grow: a limit taken from them would hold it there.
    if finding.kind == "loss_spike" and not (signals.learned and _spikes(signals.steps) > _FREQUENT_SPIKES):
        return None
    return _new(finding, Action.TIGHTEN_CLIPPING, norm_limit=float(np.quantile(norms, _CLIP_QUANTILE)))


def _scale(finding: Finding, signals: Signals, repairs: Repairs) -> Remedy | None:
    if finding.kind in ("learning_rate_too_low", "not_learning"):
        if finding.kind == "not_learning" and not steps_are_small(signals.probes):
            return None
        # What failed at once was too much of it.
        factor = _GROWTH if repairs.failed.get(finding.kind) else max(_GROWTH, growth(signals.probes))
        return _scaled(finding, factor, repairs, grows=True)
    if finding.kind in ("dead_units", "learning_rate_too_high"):
        # What gets no gradient does not move, at no learning rate; where it does, going back says by how much.
        return None
    return _scaled(finding, 0.1 if finding.kind == "plateau" else 0.5, repairs)


def _roll_back(finding: Finding, signals: Signals, repairs: Repairs) -> Remedy | None:
    factor = _CUT
    lasting = bool(signals.steps.nonfinite[-_LASTING:].all())
    if finding.kind in ("nonfinite_values", "mixed_precision_range", "loss_spike") and not lasting:
        factor = 0.5
    if finding.kind == "nonfinite_values" and signals.steps.nonfinite[-100:].sum() < _RECURRENT_NONFINITE:
        return None
    if finding.kind == "loss_spike" and not _jump_remains(finding, signals.steps):
        return None
    if finding.kind == "dead_units" and not _broken_by_an_update(finding, signals):
        return None
    if finding.kind == "learning_rate_too_high" and signals.learned:
        # What was learnt is worth more than the weights of long ago.
        return _scaled(finding, factor, repairs)
    restored = repairs.good.before(finding.first_step)
    scaled = _scaled(finding, factor, repairs)
    if finding.kind in _TOO_LONG_STEPS:
        factor = _tamed(signals, restored.step) * _CUT ** repairs.failed.get(finding.kind, 0)
        scaled = replace(scaled, learning_rate_factor=repairs.learning_rate_factor * factor)
    return replace(scaled, action=Action.ROLL_BACK, restored_step=restored.step)


def _tamed(signals: Signals, restored_step: int) -> float:
    """What brings the layer that moved most back to steps of a usual size: 0.01 to 0.1.

    Steps that are too long make weights grow, and beside grown weights they look smaller than they were: hence the
    largest of all probes.
    """
    if signals.steps.nonfinite.any():
        return _DEEPEST_CUT
    seen = finite(signals.probes.update_ratio[signals.probes.step > restored_step])
    return float(np.clip(_TAME_UPDATE / max(seen.max(initial=0.0), _TINY), _DEEPEST_CUT, _CUT))


def _reinitialize(finding: Finding, signals: Signals, repairs: Repairs) -> Remedy | None:
    if _broken_by_an_update(finding, signals) and not repairs.failed.get(finding.kind):
        return None
    paths = [layer.path for layer in signals.facts.layers]
    # Layers below a dead one got no gradient so far: nothing is lost by drawing them all. A model that has learnt
    # something keeps what it can.
    named = [finding.subject] if signals.learned and finding.subject in paths else []
    return _new(finding, Action.REINITIALIZE, layers=tuple(named))


def _standardize(finding: Finding, signals: Signals, repairs: Repairs) -> Remedy | None:
    tried = Action.STANDARDIZE_INPUTS.value in repairs.recipe or repairs.trials.get(finding.kind)
    helps = any(map(_far_from_standard, signals.facts.inputs))
    return _new(finding, Action.STANDARDIZE_INPUTS) if helps and not tried else None


_OF_ACTION = {
    Action.STOP: _stop,
    Action.TIGHTEN_CLIPPING: _tighten,
    Action.SCALE_LEARNING_RATE: _scale,
    Action.ROLL_BACK: _roll_back,
    Action.REINITIALIZE: _reinitialize,
    Action.STANDARDIZE_INPUTS: _standardize,
}


def _new(finding: Finding, action: Action, **numbers: object) -> Remedy:
    return Remedy(action=action, finding_id=finding.finding_id, kind=finding.kind, **numbers)  # type: ignore[arg-type]


def growth(probes: Probes) -> float:
    """What a learning rate that is too low is multiplied by next; below LEAST_GROWTH it is high enough.

    At once to where the layer that moves most changes by a thousandth of its weights, and from there by fours, since
    each step along the line says whether the next is safe, up to what can break units: while a model has not learned
    yet, the curvature that will limit its steps is still to come.
    """
    largest = float(finite(medians(probes.update_ratio)).max(initial=0.0))
    if largest <= 0:
        return _GROWTH
    towards_usual = float(np.clip(_USUAL_UPDATE / largest, _GROWTH, _LARGEST_GROWTH))
    return min(towards_usual, _LARGE_UPDATE / largest)


def _scaled(finding: Finding, factor: float, repairs: Repairs, *, grows: bool = False) -> Remedy:
    """A learning rate of `factor` times as much; after a failed trial of the same cause, of a power of it."""
    failed = repairs.failed.get(finding.kind, 0)
    scaled = repairs.learning_rate_factor * (factor if grows else factor ** (failed + 1))
    return _new(finding, Action.SCALE_LEARNING_RATE, learning_rate_factor=scaled, grows=grows)


def _unchanged(steps: Steps) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    return steps.nonfinite | steps.skipped


def _far_from_standard(figures: InputFacts) -> bool:
    if figures.mean is None or figures.deviation is None:
        return False
    return abs(figures.mean) > 1 or not 1 / _FAR < figures.deviation < _FAR


def _spikes(steps: Steps) -> int:
    return int(steps.skipped[-1000:].sum())


def _jump_remains(finding: Finding, steps: Steps) -> bool:
    """Whether the loss is still high long after the spike: six deviations above what it was before."""
    before = finite(steps.loss[steps.step < finding.first_step])[-128:]
    after = steps.loss[steps.step > finding.last_step + _JUMP_REMAINS]
    if len(before) < 32 or len(after) < 10:
        return False
    return bool(median(after[-10:]) > median(before) + 6 * before.std())


def _broken_by_an_update(finding: Finding, signals: Signals) -> bool:
    """Whether updates broke the units, rather than their first weights: then going back helps."""
    if finding.kind not in ("dead_units", "saturated_activations"):
        return False
    facts = signals.facts
    places = [place for place, layer in enumerate(facts.layers) if layer.path == finding.subject]
    if finding.kind == "saturated_activations" and places and len(signals.probes):
        # Units that were saturated at the first probe were not driven there by training.
        first = signals.probes.saturated_ratio[0, places[0]]
        return not (signals.probes.step[0] <= _FIRST_STEPS and first > _MOSTLY)
    if facts.first_batch is not None and len(facts.first_batch.activation_deviation) and places:
        return bool(facts.first_batch.activation_deviation[places[0]] > _DEAD)
    ratios = finite(signals.probes.update_ratio)
    return bool(len(ratios)) and float(ratios.max()) > _LARGE_UPDATE
