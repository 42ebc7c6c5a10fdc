"""The mitigator: consulted between steps, it applies remedies, puts them to the test, and keeps or reverts them.

Under the policy `repair`, every remedy is a trial: the state before it is kept, some probes later the same validation
rows are answered by the weights of before and of now, and unless the trigger is quiet, no error rose and the loss fell,
everything is put back. "The alarm went quiet" alone is no repair. Under `stop`, a critical finding ends training.

The step counter never goes back: what is restored is weights, optimizer, average and number formats; data, schedule
and random numbers go on, so that rows which did harm are behind the run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gradsight.v1 import event_pb2
from gradsight_insight.categories import Categories
from gradsight_worker.training.mitigation.decisions import Decisions
from gradsight_worker.training.mitigation.descriptions import applied_event, evidence_of, failure_of
from gradsight_worker.training.mitigation.held_out_test import (
    HeldOutAnswers,
    HeldOutTest,
    held_out_test,
)
from gradsight_worker.training.mitigation.recipe import Recipe
from gradsight_worker.training.mitigation.remedies import RECIPE_CHANGES, Action, Remedy
from gradsight_worker.training.mitigation.repairs import COOL_DOWN_PROBES, Repairs, Trial
from gradsight_worker.training.mitigation.snapshots import Snapshot
from gradsight_worker.training.state import TrainingState

PROBES_OF_A_TRIAL, MOST_PROBES_OF_A_TRIAL = 10, 20
_PROBES_BETWEEN_SNAPSHOTS = 5
_SNAPSHOTS_OF_A_RUN = 50
"""At most about so many are taken, however long the run."""
_EVENT_OF_ACTION = {
    Action.TIGHTEN_CLIPPING: "clipping_tightened",
    Action.SCALE_LEARNING_RATE: "learning_rate_changed",
    Action.ROLL_BACK: "rolled_back",
    Action.REINITIALIZE: "reinitialized",
    Action.STANDARDIZE_INPUTS: "inputs_standardized",
}

Report = Callable[[event_pb2.JobEvent], None]


@dataclass(kw_only=True)
class Mitigator:
    """Of one attempt under the policy `repair`."""

    state: TrainingState
    repairs: Repairs
    decisions: Decisions
    recipe: Recipe
    """Changes what the spec gives: weights anew, inputs standardized."""
    note_event: Callable[[str, int], None]
    """Tells the monitor that its windows begin anew."""
    answers: Callable[[], HeldOutAnswers]
    """What the weights as they are make of validation's rows."""
    categories: Categories | None
    prior_loss: float
    """Of answering validation without a model."""
    report: Report
    interval: int
    """Steps between probes."""
    total_steps: int

    def begin(self) -> None:
        """Before the first step of the run: this is a state to go back to, too."""
        self.recipe.tell(self.repairs.recipe)
        if not self.repairs.good.snapshots:
            self.repairs.good.add(Snapshot.of(self.state))

    def consult(self, step: int, *, last: bool) -> Remedy | None:
        """Everything up to this step was measured; `last`: no step follows. The remedy when it is to stop, or None."""
        trial = self.repairs.trial
        if trial is not None:
            self._go_on_with(trial, last=last)
        elif not last and (remedy := self.decisions.remedy(step)) is not None:
            if remedy.action is Action.STOP:
                applied = applied_event(remedy, self.repairs.next_id(), step=step, trial=False)
                self.report(event_pb2.JobEvent(mitigation_applied=applied))
                return remedy
            self._begin_trial(remedy)
        elif step >= self.repairs.good.newest_step + self._spacing and self.decisions.all_is_well(step):
            self.repairs.good.add(Snapshot.of(self.state))
        return None

    @property
    def _spacing(self) -> int:
        return max(_PROBES_BETWEEN_SNAPSHOTS * self.interval, self.total_steps // _SNAPSHOTS_OF_A_RUN)

    def _begin_trial(self, remedy: Remedy) -> None:
        step, repairs = self.state.step, self.repairs
        repairs.before = Snapshot.of(self.state)
        repairs.trial = Trial(
            mitigation_id=repairs.next_id(),
            finding_id=remedy.finding_id,
            kind=remedy.kind,
            action=remedy.action.value,
            start_step=step,
            due_step=step + PROBES_OF_A_TRIAL * self.interval,
            changed_step=step,
            grows=remedy.grows,
            learning_rate_factor=repairs.learning_rate_factor,
            norm_limit=float(repairs.norm_limit),
        )
        repairs.trials[remedy.kind] = repairs.trials.get(remedy.kind, 0) + 1
        self._apply(remedy, repairs.trial)

    def _apply(self, remedy: Remedy, trial: Trial) -> None:
        repairs = self.repairs
        if remedy.restored_step is not None:
            repairs.good.at(remedy.restored_step).put_into(self.state)
            repairs.good.drop_after(remedy.restored_step)
        if remedy.learning_rate_factor is not None:
            repairs.learning_rate_factor = remedy.learning_rate_factor
        if remedy.norm_limit is not None:
            repairs.norm_limit.clamp_(max=remedy.norm_limit)
        if remedy.action in RECIPE_CHANGES:
            self._change_recipe(remedy)
        self._begin_windows_anew(_EVENT_OF_ACTION[remedy.action])
        applied = applied_event(remedy, trial.mitigation_id, step=self.state.step, trial=True)
        self.report(event_pb2.JobEvent(mitigation_applied=applied))

    def _change_recipe(self, remedy: Remedy) -> None:
        if remedy.action is Action.REINITIALIZE:
            self.recipe.reinitialize(remedy.layers, number=self.repairs.numbered)
        else:
            self.recipe.standardize()
        self.repairs.recipe.append(remedy.action.value)
        self.recipe.tell(self.repairs.recipe)

    def _go_on_with(self, trial: Trial, *, last: bool) -> None:
        step = self.state.step
        if self.decisions.ends(trial, step, last=last):
            self._judge(trial, last=last)
        elif (remedy := self.decisions.adjusted(trial, step)) is not None:
            if remedy.restored_step is None:
                # If this raise is one too many, it is taken back alone.
                self.repairs.good.add(Snapshot.of(self.state))
            self._adjust(trial, remedy)

    def _adjust(self, trial: Trial, remedy: Remedy) -> None:
        trial.changed_step = self.state.step
        trial.due_step = self.state.step + PROBES_OF_A_TRIAL * self.interval
        trial.grows = remedy.grows
        if remedy.grows and remedy.learning_rate_factor is not None:
            trial.raised_by = remedy.learning_rate_factor / self.repairs.learning_rate_factor
        self._apply(remedy, trial)

    def _judge(self, trial: Trial, *, last: bool) -> None:
        step, repairs = self.state.step, self.repairs
        test, quiet = self._held_out_test(), self.decisions.is_quiet(trial, step)
        keeps = self.decisions.keeps(trial, step, test)
        if not keeps and not last:
            if (remedy := self.decisions.less(trial)) is not None:
                return self._adjust(trial, remedy)
            if quiet and not test.had_learnt and self._lengthen(trial):
                return None
        evidence = evidence_of(test, quiet=quiet, first_step=trial.start_step, last_step=step)
        if keeps:
            kept = event_pb2.MitigationKept(mitigation_id=trial.mitigation_id, evidence=evidence, step=step)
            self.report(event_pb2.JobEvent(mitigation_kept=kept))
        else:
            self._revert(trial)
            reverted = event_pb2.MitigationReverted(
                mitigation_id=trial.mitigation_id,
                message=failure_of(test, quiet=quiet),
                evidence=evidence,
                step=step,
            )
            self.report(event_pb2.JobEvent(mitigation_reverted=reverted))
        repairs.trial = repairs.before = None
        repairs.answered_step = step
        # What had learnt nothing is again what it was, and calls for the next remedy at once.
        repairs.unanswered = "" if keeps or test.had_learnt else trial.finding_id
        repairs.quiet_until = step + (COOL_DOWN_PROBES * self.interval if keeps or test.had_learnt else 0)
        return None

    def _lengthen(self, trial: Trial) -> bool:
        """Give a run that had learnt nothing twice the time, once: first steps may seem to do nothing."""
        longest = trial.changed_step + MOST_PROBES_OF_A_TRIAL * self.interval
        lengthened, trial.due_step = longest > trial.due_step, longest
        return lengthened

    def _held_out_test(self) -> HeldOutTest:
        """The weights now against those before the trial; the state is as it was afterwards."""
        assert self.repairs.before is not None
        now, state = self.answers(), Snapshot.of(self.state)
        self.repairs.before.put_into(self.state)
        try:
            return held_out_test(self.answers(), now, self.categories, prior_loss=self.prior_loss)
        finally:
            state.put_into(self.state)

    def _revert(self, trial: Trial) -> None:
        repairs = self.repairs
        assert repairs.before is not None
        repairs.before.put_into(self.state)
        repairs.learning_rate_factor = trial.learning_rate_factor
        repairs.norm_limit.fill_(trial.norm_limit)
        repairs.failed[trial.kind] = repairs.failed.get(trial.kind, 0) + 1
        if trial.action in RECIPE_CHANGES:
            repairs.recipe.pop()
            self.recipe.tell(repairs.recipe)
        self._begin_windows_anew("rolled_back")

    def _begin_windows_anew(self, event: str) -> None:
        self.repairs.spikes.begin_anew()
        self.note_event(event, self.state.step)
