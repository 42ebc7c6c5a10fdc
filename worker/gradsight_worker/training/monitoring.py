"""Watches a run: what was measured goes to the detectors, and what they find becomes events.

Monitoring happens on the host, between steps, with numbers that have left the device anyway. It never changes what a
run computes, and when it fails, the run says so once and goes on without it.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_insight.efficacy import judge_updates
from gradsight_insight.findings import FindingChange
from gradsight_insight.messages import efficacy_message, verdict_message
from gradsight_insight.monitor import Monitor
from gradsight_insight.signals import Probes, RunFacts, Steps, Timing
from gradsight_insight.verdict import LearningRateDrop, VerdictJudge
from gradsight_worker.training.answers import Answers
from gradsight_worker.training.channel import ChannelClosed
from gradsight_worker.training.evaluation_signals import compare_rows, evaluation_signals
from gradsight_worker.training.finding_events import finding_event, finding_of
from gradsight_worker.training.first_look import FirstLook
from gradsight_worker.training.suspects import Suspects

_JUDGEMENT_SECONDS = 0.1
_LOOK_SECONDS = 1.0
"""Between looks at steps that bring no probe: one costs 2 ms, and losses alone say little that cannot wait."""

Report = Callable[[event_pb2.JobEvent], None]


class RunMonitor:
    """Feeds the detectors of one attempt.

    Under the policy `advise` it looks when numbers arrive: at telemetry's flushes and after evaluations. Under `repair`
    and `stop` its owner says when, at fixed steps, so that a run can be repeated: `look`.

    Args:
        facts: What is known before the first step.
        spec: Which detectors, and how they judge.
        report: Takes the events.
        loss_unit: What a training loss of 1 is in the objective's unit.
        state: What `state()` of an earlier attempt gave; empty at the beginning.
    """

    def __init__(
        self,
        facts: RunFacts,
        *,
        spec: spec_pb2.MonitoringSpec,
        report: Report,
        loss_unit: float = 1.0,
        state: str = "",
    ) -> None:
        remembered = json.loads(state) if state else {}
        self._report = report
        self._loss_unit = loss_unit
        self._loss_sum, self._loss_count = remembered.get("losses", (0.0, 0))
        self._verdicts = VerdictJudge(remembered.get("verdicts"))
        self._told: list[Any] = remembered.get("told", [])
        """Of the verdict that was reported last, what makes another one worth telling."""
        self._failed = False
        self._next_judgement = self._next_look = 0.0
        self._first_look: FirstLook | None = None
        self.advises = spec.policy in (
            spec_pb2.MONITORING_POLICY_UNSPECIFIED,
            spec_pb2.MONITORING_POLICY_ADVISE,
        )
        watch = partial(
            Monitor,
            facts,
            thresholds={kind: dict(detector.thresholds) for kind, detector in spec.detectors.items()},
            disabled=[kind for kind, detector in spec.detectors.items() if detector.disabled],
        )
        try:
            self.monitor = watch(state=remembered.get("monitor"))
        except (KeyError, TypeError, ValueError) as error:
            # A state of another version; what it knew is lost, the run is not.
            self._say(f"The monitor begins anew: {error}")
            self.monitor = watch()

    def first_look(self, look: FirstLook) -> None:
        """The untouched model was looked at; the numbers are taken when the first steps have left the device, too."""
        self._first_look = look

    def measured(self, steps: Steps, probes: Probes, timing: Timing) -> None:
        """Steps left the device. Under `advise` the detectors look at them, at once where they bring a probe."""
        self._try(self._add, steps, probes, timing)
        if self.advises and len(steps) and (len(probes) or time.perf_counter() >= self._next_look):
            self.look(int(steps.step[-1]))
            self._next_look = time.perf_counter() + _LOOK_SECONDS

    def evaluated(
        self, event: event_pb2.EvaluationCompleted, answers: Answers, train_error_ratio: float | None
    ) -> None:
        """Validation was evaluated; everything that led to it was reported before.

        The event gets what only a comparison with earlier evaluations can say.
        """
        self._try(self._add_evaluation, event, answers, train_error_ratio)

    def judge(self, step: int) -> None:
        """After an evaluation: look at it, and report the verdict on the run when it changed.

        Under `advise` that is done ten times a second at most: epochs of a few rows end more often.
        """
        now = time.perf_counter()
        if self.advises and now < self._next_judgement:
            return
        self.look(step)
        self._try(self._judge, False, None)
        self._next_judgement = now + _JUDGEMENT_SECONDS

    def finish(self, learning_rate_drop: LearningRateDrop | None = None) -> None:
        """Training is over: look once more and report the verdict.

        `learning_rate_drop` is what a lower rate brought, if it was tried.
        """
        self.look(self.monitor.signals.step)
        self._try(self._judge, True, learning_rate_drop)

    def look(self, step: int) -> Sequence[FindingChange]:
        """Let the detectors look at everything up to `step`, and report what changed."""
        changes: list[FindingChange] = []
        self._try(lambda: changes.extend(self.monitor.look()))
        for change in changes:
            self._report(finding_event(change))
        return changes

    def conclude(self, suspects: Suspects, step: int) -> None:
        """Training is over: say where suspect rows crowd, and name the rows of every category that stays behind."""
        changes: list[FindingChange] = []
        self._try(
            lambda: changes.extend(
                self.monitor.conclude(lambda thresholds: suspects.crowded(step, thresholds))
            )
        )
        told = {change.finding.finding_id for change in changes}
        changes += [
            FindingChange(change="updated", finding=finding)
            for finding in self.monitor.findings
            if finding.open and finding.subject_kind == "category" and finding.finding_id not in told
        ]
        for change in changes:
            event = finding_event(change)
            if change.finding.subject_kind == "category":
                finding_of(event).suspect_rows.extend(suspects.rows(change.finding.subject))
            self._report(event)

    def state(self) -> str:
        """What a resume needs, as JSON; empty when it cannot be said."""
        with suppress(Exception):
            losses = [self._loss_sum, self._loss_count]
            return json.dumps(
                {
                    "monitor": self.monitor.state(),
                    "losses": losses,
                    "verdicts": self._verdicts.state(),
                    "told": self._told,
                }
            )
        return ""

    def _add(self, steps: Steps, probes: Probes, timing: Timing) -> None:
        if self._first_look is not None:
            self.monitor.note_first_batch(self._first_look.first_batch())
            self._first_look = None
        self.monitor.add_steps(steps)
        if len(probes):
            self.monitor.add_probe(probes)
        self.monitor.note_timing(timing)
        finite = steps.loss[~steps.nonfinite]
        self._loss_sum += float(finite.sum())
        self._loss_count += len(finite)

    def _add_evaluation(
        self, event: event_pb2.EvaluationCompleted, answers: Answers, train_error_ratio: float | None
    ) -> None:
        mean = self._loss_sum / self._loss_count if self._loss_count else math.nan
        self._loss_sum, self._loss_count = 0.0, 0
        kept = self.monitor.signals.kept
        evaluation = evaluation_signals(
            event,
            answers,
            class_names=self.monitor.facts.class_names,
            train_loss=mean * self._loss_unit,
            train_error_ratio=train_error_ratio,
        )
        if kept is not None:
            compare_rows(event, kept.rows, evaluation.rows)
        self.monitor.add_evaluation(evaluation)
        event.update_efficacy.CopyFrom(efficacy_message(judge_updates(self.monitor.signals)))

    def _judge(self, finished: bool, learning_rate_drop: LearningRateDrop | None) -> None:
        verdict = self._verdicts.judge(
            self.monitor.signals,
            self.monitor.findings,
            finished=finished,
            learning_rate_drop=learning_rate_drop,
        )
        told = [verdict.verdict.value, verdict.confirmed, verdict.kept_checkpoint_usable]
        if finished or told != self._told:
            self._told = told
            reached = event_pb2.VerdictReached(verdict=verdict_message(verdict))
            self._report(event_pb2.JobEvent(verdict_reached=reached))

    def _try(self, action: Callable[..., Any], *arguments: object) -> None:
        """Monitoring that fails is no reason to fail a run."""
        if self._failed:
            return
        try:
            action(*arguments)
        except ChannelClosed:
            raise
        except Exception as error:
            self._failed = True
            self._say(f"Monitoring failed, training goes on without it: {type(error).__name__}: {error}")

    def _say(self, message: str) -> None:
        line = event_pb2.LogLine(severity=state_pb2.SEVERITY_WARNING, message=message)
        self._report(event_pb2.JobEvent(log_line=line))
