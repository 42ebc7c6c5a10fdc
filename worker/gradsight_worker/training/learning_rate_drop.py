"""Has a run converged, or do its steps only bounce about? A lower learning rate tells, tried on the side, taken back.

At rest, a loss stands still either because there is nothing left to gain or because steps of this size cannot get any
lower: noise throws the weights about by as much as the gradient brings. In the second case, a few steps at a tenth of
the rate settle, and the same held-out rows get better at once.
"""

from typing import TYPE_CHECKING

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.verdict import LearningRateDrop, Verdict, judge_run
from gradsight_insight.verdict_case import decayed
from gradsight_worker.training.channel import ChannelClosed
from gradsight_worker.training.mitigation.building import held_out_answers
from gradsight_worker.training.mitigation.held_out_test import held_out_test
from gradsight_worker.training.telemetry import StepSlot

if TYPE_CHECKING:
    from gradsight_worker.training.loop import TrainingLoop

FACTOR = 0.1
FEWEST_STEPS, MOST_STEPS = 8, 200
MOST_SHARE = 0.02
"""Of the run's steps, that the trial may take, where that is more than the fewest."""


def try_lower_rate(loop: "TrainingLoop") -> LearningRateDrop | None:
    """What a lower rate brings at the end of a run that has come to rest.

    The state of the run and of its generators is bitwise the same afterwards. None for a run that has not come to rest,
    whose rate has fallen by itself, or that is asked to stop meanwhile; and when the trial fails, which is said.
    """
    signals, findings = loop.monitor.monitor.signals, loop.monitor.monitor.findings
    at_rest = judge_run(signals, findings, finished=True).verdict in (Verdict.PLATEAUED, Verdict.CONVERGED)
    if not at_rest or decayed(signals) or loop.state.stopped_by:
        return None
    state, before = loop.state, loop.state.tensors()
    tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in before.items()}
    facts = state.facts()
    try:
        with loop.telemetry.paused():
            return _tried(loop)
    except ChannelClosed:
        raise
    except Exception as error:
        line = event_pb2.LogLine(
            severity=state_pb2.SEVERITY_WARNING,
            message=f"A lower learning rate could not be tried: {type(error).__name__}: {error}",
        )
        loop.channel.send_event(event_pb2.JobEvent(log_line=line))
        return None
    finally:
        state.restore(tensors, facts)


def _tried(loop: "TrainingLoop") -> LearningRateDrop | None:
    state, step = loop.state, loop.state.step
    before = held_out_answers(loop.validation, state, loop.channel)
    rate = state.learning_rate(min(step, loop.total_steps)) * FACTOR
    steps = min(MOST_STEPS, max(FEWEST_STEPS, int(MOST_SHARE * loop.total_steps)))
    slot = StepSlot.apart(state.device)
    for _ in range(steps):
        loop.look_around()
        if loop.stop_requested:
            return None
        state.step += 1
        loop.take_step(*loop.batches.fetch(state.step), rate, slot)
    after = held_out_answers(loop.validation, state, loop.channel)
    test = held_out_test(before, after, None, prior_loss=0.0)
    return LearningRateDrop(
        step=step,
        steps=steps,
        factor=FACTOR,
        loss_z=test.loss_z,
        error_z=None if before.wrong is None else test.error_z,
    )
