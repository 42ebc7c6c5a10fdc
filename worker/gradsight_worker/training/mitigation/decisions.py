"""Who decides about repairs: the findings of this run, or the log of a run that is repeated."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Protocol

from gradsight.v1 import event_pb2, insight_pb2
from gradsight_insight.detectors.small_steps import steps_are_small
from gradsight_insight.findings import Finding
from gradsight_insight.signals import Probes, Signals
from gradsight_insight.statistics import finite, gain_ratio, mean
from gradsight_worker.training.mitigation.held_out_test import HeldOutTest
from gradsight_worker.training.mitigation.remedies import (
    LEAST_GROWTH,
    Action,
    Remedy,
    choose,
    growth,
    remedy_of,
)
from gradsight_worker.training.mitigation.repairs import Repairs, Trial

_PROBES_OF_A_RAISE = 3
_RUN_AWAY = ("nonfinite_values", "divergence")
"""Kinds that end a trial at once when they are seen in it."""
_PAST = 0.1
"""Gain ratio below which the steps go past the minimum along their way."""
_MOST_CLIPPED = 0.5
"""Share of steps: with more, a limit is a lower learning rate by another name, and has to show that it helps."""
_WELL = 1.25
"""Times the best mean loss so far, that the newest loss may be where all is well."""
_HARMLESS = ("suspect_labels", "weak_category", "overconfidence", "starved_job")


class Decisions(Protocol):
    """Asked at fixed steps, after everything up to that step was measured."""

    def remedy(self, step: int) -> Remedy | None:
        """What to do now, while no trial is open."""

    def adjusted(self, trial: Trial, step: int) -> Remedy | None:
        """A change of a learning rate that is being raised bit by bit: more, or the last raise taken back; or None."""

    def less(self, trial: Trial) -> Remedy | None:
        """What takes the last raise back, for a trial that would fail with it; None when there is none to take back."""

    def ends(self, trial: Trial, step: int, *, last: bool) -> bool:
        """Whether the trial is to be judged now; `last`: no step follows."""

    def keeps(self, trial: Trial, step: int, test: HeldOutTest) -> bool:
        """Whether the trial is passed."""

    def is_quiet(self, trial: Trial, step: int) -> bool:
        """Whether what called for the trial is not seen any more."""

    def all_is_well(self, step: int) -> bool:
        """Whether the state is worth going back to, later."""


class Watched(Protocol):
    """What decisions read of a monitor."""

    @property
    def findings(self) -> Sequence[Finding]:
        """All of the run."""

    @property
    def signals(self) -> Signals:
        """All that was measured."""


class ByFindings:
    """Decides by what the detectors see. Deterministic: it looks at measurements, never at a clock."""

    def __init__(self, monitor: Watched, repairs: Repairs, *, recipe_changes: bool, interval: int) -> None:
        self._monitor = monitor
        self._repairs = repairs
        self._recipe_changes = recipe_changes
        self._interval = interval

    def remedy(self, step: int) -> Remedy | None:
        """As `Decisions.remedy`."""
        if step < self._repairs.quiet_until:
            return None
        return choose(
            self._monitor.findings, self._monitor.signals, self._repairs, recipe_changes=self._recipe_changes
        )

    def adjusted(self, trial: Trial, step: int) -> Remedy | None:
        """As `Decisions.adjusted`: more while all happens as promised, less when a raise goes past the minimum."""
        probes = since(self._monitor.signals.probes, trial.changed_step)
        ran_away = self._ran_away(trial)
        if not trial.grows or not (len(probes) >= _PROBES_OF_A_RAISE or ran_away):
            return None
        if not ran_away and steps_are_small(probes):
            return self._more(trial, growth(probes))
        ratio = gain_ratio(probes.predicted_decrease, probes.actual_decrease, probes.loss)
        return self.less(trial) if ratio < _PAST or ran_away else None

    def _more(self, trial: Trial, factor: float) -> Remedy | None:
        if factor < LEAST_GROWTH:
            return None
        return Remedy(
            action=Action.SCALE_LEARNING_RATE,
            finding_id=trial.finding_id,
            kind=trial.kind,
            learning_rate_factor=factor * self._repairs.learning_rate_factor,
            grows=True,
        )

    def less(self, trial: Trial) -> Remedy | None:
        """As `Decisions.less`."""
        if not (trial.grows and _was_raised(trial)):
            return None
        return Remedy(
            action=Action.ROLL_BACK,
            finding_id=trial.finding_id,
            kind=trial.kind,
            learning_rate_factor=self._repairs.learning_rate_factor / trial.raised_by,
            restored_step=trial.changed_step,
        )

    def ends(self, trial: Trial, step: int, *, last: bool) -> bool:
        """As `Decisions.ends`."""
        ran_away = self._ran_away(trial) and not (trial.grows and _was_raised(trial))
        return last or step >= trial.due_step or ran_away

    def _ran_away(self, trial: Trial) -> bool:
        """Whether the loss ran away since the repair was last changed."""
        return any(
            finding.kind in _RUN_AWAY and finding.open and finding.last_step > trial.changed_step
            for finding in self._monitor.findings
        )

    def keeps(self, trial: Trial, step: int, test: HeldOutTest) -> bool:
        """As `Decisions.keeps`: the trigger is quiet, no error rose, and the loss fell, unless nothing was to gain."""
        gentle = trial.action == Action.TIGHTEN_CLIPPING and self._clipped_share(trial) < _MOST_CLIPPED
        return self.is_quiet(trial, step) and test.not_worse and (test.better or gentle)

    def _clipped_share(self, trial: Trial) -> float:
        """Share of the trial's steps whose gradient was cut."""
        steps = self._monitor.signals.steps
        cut = steps.clip_factor[steps.step > trial.start_step] < 1
        return float(cut.mean()) if len(cut) else 0.0

    def is_quiet(self, trial: Trial, step: int) -> bool:
        """Whether the finding was not seen in the second half of the trial."""
        half = (trial.changed_step + step) / 2
        return not any(
            finding.finding_id == trial.finding_id and finding.open and finding.last_step > half
            for finding in self._monitor.findings
        )

    def all_is_well(self, step: int) -> bool:
        """As `Decisions.all_is_well`."""
        signals = self._monitor.signals
        suspicious = any(
            finding.open and finding.severity != "info" and finding.kind not in _HARMLESS
            for finding in self._monitor.findings
        )
        newest, best = mean(signals.steps.loss[-2 * self._interval :]), finite(signals.block_loss)
        return not suspicious and bool(len(best)) and newest <= _WELL * float(best.min())


def _was_raised(trial: Trial) -> bool:
    return trial.changed_step > trial.start_step


def since(probes: Probes, step: int) -> Probes:
    """Those after a step."""
    new = probes.step > step
    return Probes(**{column.name: getattr(probes, column.name)[new] for column in fields(Probes)})


class Replay:
    """Decides as a log tells: the same repairs at the same steps, whatever the detectors would say.

    Args:
        events: Of the earlier run, in order; all but those of mitigation are passed over.
    """

    def __init__(self, events: Iterable[event_pb2.JobEvent]) -> None:
        self._applied: dict[int, event_pb2.MitigationApplied] = {}
        self._adjusted: dict[tuple[str, int], event_pb2.MitigationApplied] = {}
        self._ended: dict[str, tuple[int, bool]] = {}
        known: set[str] = set()
        for event in events:
            kept, reverted, applied = (
                event.mitigation_kept,
                event.mitigation_reverted,
                event.mitigation_applied,
            )
            if event.HasField("mitigation_kept"):
                self._ended[kept.mitigation_id] = (kept.step, True)
            elif event.HasField("mitigation_reverted"):
                self._ended[reverted.mitigation_id] = (reverted.step, False)
            elif applied.mitigation_id in known:
                self._adjusted[applied.mitigation_id, applied.step] = applied
            elif applied.trial or applied.action == insight_pb2.MITIGATION_ACTION_STOP:
                self._applied[applied.step] = applied
                known.add(applied.mitigation_id)

    def remedy(self, step: int) -> Remedy | None:
        """As `Decisions.remedy`."""
        applied = self._applied.get(step)
        return None if applied is None else remedy_of(applied)

    def adjusted(self, trial: Trial, step: int) -> Remedy | None:
        """As `Decisions.adjusted`."""
        applied = self._adjusted.get((trial.mitigation_id, step))
        return None if applied is None else remedy_of(applied)

    def less(self, trial: Trial) -> Remedy | None:
        """As `Decisions.less`: the log tells of it as of any other change."""
        return None

    def ends(self, trial: Trial, step: int, *, last: bool) -> bool:
        """As `Decisions.ends`."""
        return self._ended.get(trial.mitigation_id, (-1, False))[0] == step

    def keeps(self, trial: Trial, step: int, test: HeldOutTest) -> bool:
        """As `Decisions.keeps`."""
        return self._ended[trial.mitigation_id][1]

    def is_quiet(self, trial: Trial, step: int) -> bool:
        """As `Decisions.is_quiet`."""
        return self._ended[trial.mitigation_id][1]

    def all_is_well(self, step: int) -> bool:
        """As `Decisions.all_is_well`: where the log goes back to, later."""
        return any(
            applied.HasField("restored_step") and applied.restored_step == step
            for applied in self._applied.values()
        )
