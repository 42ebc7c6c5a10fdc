"""Repairs and their trials in words and numbers, for the event log."""

from gradsight.v1 import event_pb2, insight_pb2
from gradsight_insight.statistics import SIGNIFICANT
from gradsight_worker.training.mitigation.held_out_test import HeldOutTest
from gradsight_worker.training.mitigation.remedies import ACTION_PREFIX, Action, Remedy


def applied_event(
    remedy: Remedy, mitigation_id: str, *, step: int, trial: bool
) -> event_pb2.MitigationApplied:
    """What is told when a remedy is applied after a step."""
    return event_pb2.MitigationApplied(
        mitigation_id=mitigation_id,
        finding_id=remedy.finding_id,
        action=insight_pb2.MitigationAction.Value(ACTION_PREFIX + remedy.action.name),
        description=description_of(remedy),
        step=step,
        trial=trial,
        learning_rate_factor=remedy.learning_rate_factor,
        gradient_norm_limit=remedy.norm_limit,
        restored_step=remedy.restored_step,
        layers=remedy.layers,
    )


def skipped_event(mitigation_id: str, *, step: int, loss: float, norm: float) -> event_pb2.MitigationApplied:
    """What is told of a step that was skipped as a spike."""
    return event_pb2.MitigationApplied(
        mitigation_id=mitigation_id,
        action=insight_pb2.MITIGATION_ACTION_SKIP_STEP,
        description=f"step {step} changed nothing: its loss {loss:.4g} or its gradient norm {norm:.4g} is more than "
        f"six deviations above the newest steps'",
        step=step,
        trial=False,
    )


def description_of(remedy: Remedy) -> str:
    """What a remedy does, for people."""
    because = f"because of {remedy.finding_id}"
    if remedy.action is Action.ROLL_BACK:
        return (
            f"weights and optimizer of step {remedy.restored_step} again, learning rate times "
            f"{remedy.learning_rate_factor:g}, {because}; the rows go on where they are"
        )
    if remedy.action is Action.TIGHTEN_CLIPPING:
        return f"gradient norm limited to {remedy.norm_limit:.4g}, the 90th percentile of the newest steps, {because}"
    if remedy.action is Action.REINITIALIZE:
        layers = ", ".join(remedy.layers) or "all layers"
        return f"{layers} begin anew with weights drawn for their width and activation, {because}"
    if remedy.action is Action.STANDARDIZE_INPUTS:
        return f"inputs standardized by train's mean and deviation, {because}"
    if remedy.action is Action.STOP:
        return f"training ends {because}; the best weights are kept"
    return f"learning rate of the schedule times {remedy.learning_rate_factor:g}, {because}"


def evidence_of(
    test: HeldOutTest, *, quiet: bool, first_step: int, last_step: int
) -> list[insight_pb2.Evidence]:
    """What a trial showed."""
    numbers = [
        ("held_out_loss_z", test.loss_z, -SIGNIFICANT),
        ("held_out_error_z", test.error_z, SIGNIFICANT),
        ("worse_categories", float(len(test.worse_categories)), 0.0),
        ("finding_gone", float(quiet), 1.0),
    ]
    return [
        insight_pb2.Evidence(
            name=name, observed=observed, threshold=threshold, first_step=first_step, last_step=last_step
        )
        for name, observed, threshold in numbers
    ]


def failure_of(test: HeldOutTest, *, quiet: bool) -> str:
    """Why a trial was not passed, for people."""
    reasons = []
    if not quiet:
        reasons.append("what it answered is still seen")
    if test.error_z > SIGNIFICANT:
        reasons.append(f"the held-out error rose (z {test.error_z:.1f})")
    if test.worse_categories:
        reasons.append(f"categories got worse: {', '.join(test.worse_categories)}")
    if not test.better:
        reasons.append(
            f"neither held-out loss (z {test.loss_z:.1f}) nor errors (z {test.error_z:.1f}) fell significantly"
        )
    return f"mitigation failed, all is as it was before: {'; '.join(reasons)}"
