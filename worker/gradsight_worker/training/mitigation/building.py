"""From a spec's policy to what the loop consults."""

import json
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format
from torch import nn

from gradsight.v1 import event_pb2, spec_pb2
from gradsight_insight.held_out import held_out_prior
from gradsight_models import Layer, Preprocessing
from gradsight_worker.training.answers import answer
from gradsight_worker.training.channel import TrainerChannel
from gradsight_worker.training.clipping import Clipping
from gradsight_worker.training.evaluation import Validation
from gradsight_worker.training.mitigation.decisions import ByFindings, Decisions, Replay
from gradsight_worker.training.mitigation.held_out_test import HeldOutAnswers
from gradsight_worker.training.mitigation.mitigator import Mitigator
from gradsight_worker.training.mitigation.recipe import Recipe
from gradsight_worker.training.mitigation.repairs import Repairs
from gradsight_worker.training.mitigation.standardization import InputStandardization
from gradsight_worker.training.mitigation.stopping import StopOnCritical
from gradsight_worker.training.mitigation.supervision import Policy, Supervision
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.plan import TrainingPlan
from gradsight_worker.training.preparation import Prepared
from gradsight_worker.training.state import TrainingState
from gradsight_worker.training.ticking import ticking


def attach_standardization(
    spec: spec_pb2.JobSpec, model: nn.Module, preprocessing: Preprocessing
) -> InputStandardization | None:
    """Room in the model for standardized inputs, where repairs may change the recipe; before its storage moves."""
    monitoring = spec.monitoring
    if monitoring.policy != spec_pb2.MONITORING_POLICY_REPAIR or not monitoring.allow_recipe_changes:
        return None
    return InputStandardization.attach(model, preprocessing)


def begin_repairs(spec: spec_pb2.JobSpec, state: TrainingState, *, prior_loss: float) -> None:
    """Make room in the state for what repairs need, under the policy that makes them.

    `prior_loss` is what answering without a model costs on train, in the training loss's unit.
    """
    if spec.monitoring.policy == spec_pb2.MONITORING_POLICY_REPAIR:
        limit = Clipping.of(spec.optimizer).max_norm
        state.repairs = Repairs.none_yet(state.device, prior_loss=prior_loss, norm_limit=limit)


def supervise(
    plan: TrainingPlan,
    prepared: Prepared,
    channel: TrainerChannel,
    *,
    state: TrainingState,
    monitor: RunMonitor,
    validation: Validation,
    layers: Sequence[Layer],
    standardization: InputStandardization | None,
) -> Supervision | None:
    """What the loop consults; None under a policy that only advises."""
    policy: Policy
    if state.repairs is not None:
        recipe = Recipe(
            model=validation.model,
            state=state,
            layers=layers,
            monitor=monitor.monitor,
            train=prepared.train,
            seed=plan.spec.seed,
            standardization=standardization,
        )
        policy = Mitigator(
            state=state,
            repairs=state.repairs,
            decisions=_decisions(plan, state.repairs, monitor, state.cadence.interval),
            recipe=recipe,
            note_event=monitor.monitor.note_event,
            answers=lambda: held_out_answers(validation, state, channel),
            categories=prepared.validation.categories,
            prior_loss=held_out_prior(monitor.monitor.facts),
            report=channel.send_event,
            interval=state.cadence.interval,
            total_steps=validation.total_steps,
        )
    elif plan.spec.monitoring.policy == spec_pb2.MONITORING_POLICY_STOP:
        policy = StopOnCritical(monitor=monitor.monitor, report=channel.send_event)
    else:
        return None
    policy.begin()
    return Supervision(
        monitor=monitor,
        policy=policy,
        interval=state.cadence.interval,
        repairs=state.repairs,
        report=channel.send_event,
    )


def _decisions(plan: TrainingPlan, repairs: Repairs, monitor: RunMonitor, interval: int) -> Decisions:
    if plan.replayed is not None:
        return Replay(read_log(plan.replayed))
    return ByFindings(
        monitor.monitor,
        repairs,
        recipe_changes=plan.spec.monitoring.allow_recipe_changes,
        interval=interval,
    )


def read_log(path: Path) -> list[event_pb2.JobEvent]:
    """The events of a log, one JSON object a line."""
    with path.open() as lines:
        return [json_format.ParseDict(json.loads(line), event_pb2.JobEvent()) for line in lines]


def held_out_answers(validation: Validation, state: TrainingState, channel: TrainerChannel) -> HeldOutAnswers:
    """What the weights that would answer now make of validation's rows; nothing is reported or kept."""
    with state.answering(), ticking(channel, state.step):
        answers = answer(
            validation.model,
            validation.held_out,
            validation.objective,
            validation.outputs,
            validation.autocast,
        )
    return HeldOutAnswers(losses=answers.losses, wrong=answers.wrong_rows)
