"""The monitor of a run: takes in what was measured, keeps what detectors need, and tells what they find.

It costs no more than it must (about a millisecond a look), never waits, draws no random number and reads no clock:
the same measurements give the same findings, also when the run was interrupted and its state restored in between.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gradsight_insight import attribution
from gradsight_insight.catalogue import DETECTORS, KINDS, complete_thresholds, kind_named
from gradsight_insight.evaluation_history import EvaluationHistory
from gradsight_insight.findings import Finding, FindingChange, Moment, Register
from gradsight_insight.json_values import packed_fields, unpacked_fields
from gradsight_insight.kinds import Number, Observation
from gradsight_insight.rings import MOST_PROBES, MOST_STEPS, LossBlocks, appended, newest, no_probes, no_steps
from gradsight_insight.signals import (
    EvaluationSignals,
    FirstBatch,
    Probes,
    RunFacts,
    Signals,
    State,
    Steps,
    Timing,
)
from gradsight_insight.suspects import SUSPECT_LABELS

NO_THRESHOLDS: Mapping[str, Mapping[str, float]] = {}
_STATE_VERSION = 1


class Monitor:
    """One run, from before its first step to its end.

    Args:
        facts: What is known before the first step.
        thresholds: Those that the job changes, by kind and name.
        disabled: Kinds that are not looked for.
        state: What `state()` gave, to go on from there.

    Raises:
        ValueError: A kind or threshold that does not exist, a value outside its range.
    """

    def __init__(
        self,
        facts: RunFacts,
        *,
        thresholds: Mapping[str, Mapping[str, float]] = NO_THRESHOLDS,
        disabled: Collection[str] = (),
        state: State | None = None,
    ) -> None:
        self.facts = facts
        self._thresholds = complete_thresholds(thresholds)
        self._disabled = {kind_named(name).name for name in disabled}
        self._step = 0
        self._probe_count = 0
        self._steps = no_steps()
        self._probes = no_probes(len(facts.layers))
        self._blocks = LossBlocks()
        self._evaluations = EvaluationHistory()
        self._timing = Timing()
        self._register = Register()
        self._answers: list[Sequence[Observation]] = [() for _ in DETECTORS]
        self._judged_evaluations = -1
        if state is not None:
            self._restore(state)

    def note_first_batch(self, first_batch: FirstBatch) -> None:
        """What the untouched model made of the first batch; known at step 1."""
        self.facts = replace(self.facts, first_batch=first_batch)

    def add_steps(self, steps: Steps) -> None:
        """Take in consecutive steps, as they are reported."""
        if not len(steps):
            return
        self._step = int(steps.step[-1])
        self._steps = appended(self._steps, steps, MOST_STEPS)
        self._blocks.add(steps)

    def add_probe(self, probe: Probes) -> None:
        """Take in one or more probed steps.

        Raises:
            ValueError: Their layers are not those of the facts.
        """
        layers = len(self.facts.layers)
        if probe.gradient_norm.ndim != 2 or probe.gradient_norm.shape[1] != layers:
            raise ValueError(f"probe: got layers {probe.gradient_norm.shape[1:]}, allowed: {layers}")
        self._probes = appended(self._probes, probe, MOST_PROBES)
        self._probe_count += len(probe)

    def add_evaluation(self, evaluation: EvaluationSignals) -> None:
        """Take in an evaluation on validation."""
        self._evaluations.add(evaluation)

    def note_timing(self, timing: Timing) -> None:
        """Where the time goes now."""
        self._timing = timing

    def note_event(self, name: str, step: int) -> None:
        """Something changed the run at `step`: windows begin anew there.

        Args:
            name: `learning_rate_changed`, `rolled_back` …; told by whom it concerns.
            step: Steps up to this one belong to what was before.
        """
        self._steps = newest(self._steps, int((self._steps.step > step).sum()))
        self._probes = newest(self._probes, int((self._probes.step > step).sum()))
        self._blocks = LossBlocks()
        self._blocks.add(self._steps)
        self._judged_evaluations = -1

    def look(self) -> Sequence[FindingChange]:
        """Ask every detector, and tell which findings began, changed or ended since the look before."""
        return self._take_in(self._observations())

    def conclude(
        self, find: Callable[[Mapping[str, float]], Sequence[Observation]]
    ) -> Sequence[FindingChange]:
        """Take in what training rows say of their labels when training is over.

        Args:
            find: Given the thresholds of `suspect_labels`, what it finds; not asked where the job wants none of it.
        """
        if SUSPECT_LABELS.name in self._disabled:
            return ()
        return self._take_in(find(self._thresholds[SUSPECT_LABELS.name]))

    def _take_in(self, observations: Sequence[Observation]) -> Sequence[FindingChange]:
        since = {
            finding.key: finding.first_step
            for finding in self._register.findings
            # What was wrong from the start goes on to explain, also when its own sign is gone.
            if finding.open or attribution.is_of_the_start(finding.kind)
        }
        severities = {finding.key: finding.severity for finding in self._register.findings}
        for seen in observations:
            since.setdefault((seen.kind, seen.subject), seen.first_step)
            severities[seen.kind, seen.subject] = seen.severity or KINDS[seen.kind].severity
        flags = [key for key, severity in severities.items() if severity == "info"]
        moment = Moment(step=self._step, probes=self._probe_count, evaluations=self._evaluations.count)
        return self._register.take_in(observations, attribution.causes(since, flags), KINDS, moment)

    def _observations(self) -> list[Observation]:
        signals = self.signals
        judged_anew = self._evaluations.count != self._judged_evaluations
        self._judged_evaluations = self._evaluations.count
        with np.errstate(all="ignore"):
            for place, detector in enumerate(DETECTORS):
                wanted = not self._disabled.issuperset(kind.name for kind in detector.kinds)
                if wanted and (judged_anew or not detector.at_evaluations):
                    self._answers[place] = detector(signals, self._thresholds)
        return [
            observation
            for answer in self._answers
            for observation in answer
            if observation.kind not in self._disabled
        ]

    @property
    def signals(self) -> Signals:
        """All that was measured and is still remembered."""
        return Signals(
            facts=self.facts,
            step=self._step,
            steps=self._steps,
            block_step=self._blocks.step,
            block_loss=self._blocks.loss,
            probes=self._probes,
            evaluations=self._evaluations.evaluations,
            timing=self._timing,
        )

    @property
    def findings(self) -> Sequence[Finding]:
        """All of the run, open ones first."""
        return self._register.findings

    def state(self) -> State:
        """All that is remembered, as plain JSON values, exact."""
        first_batch = self.facts.first_batch
        return {
            "version": _STATE_VERSION,
            "step": self._step,
            "probe_count": self._probe_count,
            "first_batch": None if first_batch is None else packed_fields(first_batch),
            "steps": packed_fields(self._steps),
            "probes": packed_fields(self._probes),
            "blocks": self._blocks.state(),
            "evaluations": self._evaluations.state(),
            "findings": self._register.state(),
            "judged_evaluations": self._judged_evaluations,
            "answers": [[_observation_state(seen) for seen in answer] for answer in self._answers],
        }

    def _restore(self, state: State) -> None:
        if state.get("version") != _STATE_VERSION:
            raise ValueError(
                f"state of a monitor of version {state.get('version')!r}, allowed: {_STATE_VERSION}"
            )
        if state["first_batch"] is not None:
            self.note_first_batch(FirstBatch(**unpacked_fields(state["first_batch"])))
        self._step, self._probe_count = state["step"], state["probe_count"]
        self._steps = Steps(**unpacked_fields(state["steps"]))
        self._probes = Probes(**unpacked_fields(state["probes"]))
        self._blocks = LossBlocks.from_state(state["blocks"])
        self._evaluations = EvaluationHistory.from_state(state["evaluations"])
        self._register = Register.from_state(state["findings"])
        self._judged_evaluations = state["judged_evaluations"]
        self._answers = [[_observation(seen) for seen in answer] for answer in state["answers"]]


def _observation_state(seen: Observation) -> State:
    return {**vars(seen), "evidence": [packed_fields(number) for number in seen.evidence]}


def _observation(state: State) -> Observation:
    return Observation(
        **{**state, "evidence": tuple(Number(**unpacked_fields(number)) for number in state["evidence"])}
    )
