"""A run from the plan to the result: prepare, build, train, judge, write.

`run_trainer` is what the forked trainer process executes. It raises nothing: what went wrong goes over the channel as a
typed error, and the exit status says how the run ended.
"""

import importlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from gradsight.v1 import event_pb2, state_pb2
from gradsight_insight.priors import Prior
from gradsight_insight.signals import InputFacts
from gradsight_models import Layer
from gradsight_worker.training import announcements
from gradsight_worker.training.building import build_model
from gradsight_worker.training.channel import ChannelClosed, TrainerChannel
from gradsight_worker.training.checkpoints import CheckpointRefused, load_checkpoint, load_newest
from gradsight_worker.training.clipping import Clipping
from gradsight_worker.training.computing import computed_as, repeatable, set_up_processor
from gradsight_worker.training.data.batches import derive_seed
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.evaluation import Validation
from gradsight_worker.training.first_look import FirstLook, first_look
from gradsight_worker.training.input_facts import input_facts
from gradsight_worker.training.judgement import judge_and_write
from gradsight_worker.training.learning_rate_drop import try_lower_rate
from gradsight_worker.training.loop import TrainingLoop, TrainingStep
from gradsight_worker.training.memory import is_out_of_memory
from gradsight_worker.training.mitigation.building import attach_standardization, begin_repairs, supervise
from gradsight_worker.training.mitigation.standardization import InputStandardization
from gradsight_worker.training.mitigation.stopping import require_worth_keeping
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.objectives import Objective, build_objective
from gradsight_worker.training.optimizers import shrinkage_per_rate
from gradsight_worker.training.origins import source_of
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.plan import ExitStatus, TrainingPlan
from gradsight_worker.training.preparation import Prepared, prepare
from gradsight_worker.training.prior import answer_counts, prior, training_prior_loss
from gradsight_worker.training.probes import Prober
from gradsight_worker.training.run_facts import layer_facts, run_facts
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.state import TrainingState, initial_state
from gradsight_worker.training.telemetry import Telemetry
from gradsight_worker.training.train_sample import train_sample
from gradsight_worker.training.unit_watch import UnitWatch

_IMPORTED_ON_DEMAND = ("encodings.utf_8_sig", "numpy.ctypeslib", "numpy.ma", "dateutil.relativedelta")
"""Modules that libraries would otherwise import on a run's way."""


def run_trainer(plan: TrainingPlan, channel: TrainerChannel) -> int:
    """Train as planned; the answer is an `ExitStatus`."""
    try:
        try:
            with repeatable(plan.spec.compute):
                return _run(plan, channel)
        except TrainingFailed as failure:
            channel.send_failure(failure.error)
        except ChannelClosed:
            raise
        except Exception as error:
            logging.getLogger(__name__).exception("the trainer failed")
            channel.send_failure(_error_of(error, plan.device))
    except ChannelClosed:
        return ExitStatus.CHANNEL_CLOSED
    return ExitStatus.FAILED


def warm_up_imports() -> None:
    """Import what a run needs and compute nothing, so that a forked trainer starts in milliseconds."""
    for name in _IMPORTED_ON_DEMAND:
        with suppress(ImportError):  # what is not installed will not be imported later either
            importlib.import_module(name)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What the rows say before there is a model."""

    counts: npt.NDArray[np.int64] | None
    """Answers of train by class or token; None where answers are neither."""
    prior: Prior
    training_prior_loss: float
    """What answering without a model costs on train, in the training loss's unit."""
    inputs: tuple[InputFacts, ...]


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run that is ready to take steps."""

    prepared: Prepared
    rows: _Rows
    objective: Objective
    model: nn.Module
    layers: Sequence[Layer]
    state: TrainingState
    total_steps: int
    standardization: InputStandardization | None
    """Where repairs may standardize inputs that nothing has standardized."""


def _run(plan: TrainingPlan, channel: TrainerChannel) -> int:
    set_up_processor(plan.threads)
    prepared = prepare(plan, source_of(plan))
    counted = prepared.outputs.kind in ("classes", "tokens")
    counts = answer_counts(prepared.train, prepared.outputs) if counted else None
    objective = build_objective(
        plan.spec.objective, prepared.outputs, class_counts=counts, device=prepared.device
    )
    rows = _announce_rows(prepared, objective, counts, channel)
    run = _build(prepared, rows, objective, plan)
    built = announcements.model_built(prepared, run.layers, run.total_steps)
    channel.send_event(event_pb2.JobEvent(model_built=built))
    _resume(run, plan, channel)
    loop = _loop(run, plan, channel)
    try:
        finished = loop.run()
    except TrainingFailed:
        loop.monitor.finish()
        raise
    if not finished:
        return ExitStatus.STOPPED
    drop = try_lower_rate(loop)
    if loop.stop_requested:
        return ExitStatus.STOPPED
    loop.monitor.finish(drop)
    if run.state.stopped_by:
        require_worth_keeping(run.state.kept.evaluation, rows.prior, kind=run.state.stopped_by)
    judge_and_write(
        run.prepared,
        plan,
        channel,
        model=run.model,
        state=run.state,
        objective=run.objective,
        monitor=loop.monitor,
        standardization=run.standardization,
    )
    return ExitStatus.SUCCEEDED


def _announce_rows(
    prepared: Prepared,
    objective: Objective,
    counts: npt.NDArray[np.int64] | None,
    channel: TrainerChannel,
) -> _Rows:
    cost = prior(objective, prepared.outputs, prepared.train, prepared.validation, counts)
    rows = _Rows(
        counts=counts,
        prior=cost,
        training_prior_loss=training_prior_loss(objective, prepared.outputs, prepared.train, counts),
        inputs=input_facts(prepared),
    )
    event = announcements.data_prepared(prepared, cost, rows.inputs)
    channel.send_event(event_pb2.JobEvent(data_prepared=event))
    class_counts = counts if prepared.outputs.kind == "classes" else None
    for line in announcements.warnings(prepared, class_counts, event.column_remarks):
        _warn(channel, line)
    return rows


def _build(prepared: Prepared, rows: _Rows, objective: Objective, plan: TrainingPlan) -> _Run:
    model, layers = build_model(prepared, plan)
    standardization = attach_standardization(plan.spec, model, prepared.preprocessing)
    budget = plan.spec.budget
    total_steps = budget.steps or budget.epochs * prepared.batches.steps_per_epoch
    state = initial_state(plan.spec, FlatParameters(model, prepared.device), total_steps=total_steps)
    begin_repairs(plan.spec, state, prior_loss=rows.training_prior_loss)
    return _Run(
        prepared=prepared,
        rows=rows,
        objective=objective,
        model=model,
        layers=layers,
        state=state,
        total_steps=total_steps,
        standardization=standardization,
    )


def _resume(run: _Run, plan: TrainingPlan, channel: TrainerChannel) -> None:
    """Go on from the newest sound checkpoint, or else from the job that this one extends."""
    path, refusals = load_newest(plan.checkpoints, run.state, plan.spec)
    if path is None and plan.extended is not None:
        try:
            load_checkpoint(plan.extended, run.state, plan.spec, extending=True)
        except CheckpointRefused as refusal:
            raise TrainingFailed.by_spec(
                f"the job to extend cannot be gone on with: {refusal}", field="start.extended_job_id"
            ) from refusal
    for refused in refusals:
        _warn(channel, f"A checkpoint was passed over: {refused}")
    if refusals:
        if path is None:
            _warn(channel, f"No checkpoint could be used; the run begins at step {run.state.step}.")
        channel.send_rewound(
            step=run.state.step,
            reason="; ".join(map(str, refusals)),
            unusable=[refused.path for refused in refusals],
        )


def _loop(run: _Run, plan: TrainingPlan, channel: TrainerChannel) -> TrainingLoop:
    spec, prepared, state = plan.spec, run.prepared, run.state
    prober = Prober(
        run.model,
        run.layers,
        state.parameters,
        compiled=spec.compute.compiled,
        autocast=state.precision.autocast,
    )
    look = _first_look(run, channel, prober)
    monitor = _monitor(run, plan, channel, prober)
    if look is not None and state.step == 0:
        monitor.first_look(look)
    validation = _validation(run, plan, monitor, prober)
    supervision = supervise(
        plan,
        prepared,
        channel,
        state=state,
        monitor=monitor,
        validation=validation,
        layers=run.layers,
        standardization=run.standardization,
    )
    return TrainingLoop(
        state=state,
        total_steps=run.total_steps,
        batches=prepared.batches,
        compute=spec.compute,
        take_step=TrainingStep(
            model=computed_as(spec.compute, run.model),
            objective=run.objective,
            state=state,
            clipping=Clipping.of(spec.optimizer),
            prober=prober,
            report=channel.send_event,
        ),
        telemetry=Telemetry(
            report=lambda event, droppable: channel.send_event(event, droppable=droppable),
            device=prepared.device,
            prober=prober,
            cadence=state.cadence,
            gains=state.gains,
            noise=state.noise,
            watch=state.watch,
            training_seconds=state.training_seconds,
            loss_unit=run.objective.scale,
            watcher=monitor.measured if supervision is None else supervision.measured,
            waited=lambda: prepared.batches.waited_seconds,
        ),
        validation=validation,
        saver=CheckpointSaver(
            spec=spec, directory=plan.directory / "checkpoints", attempt=plan.attempt, channel=channel
        ),
        channel=channel,
        monitor=monitor,
        supervision=supervision,
    )


def _validation(run: _Run, plan: TrainingPlan, monitor: RunMonitor, prober: Prober) -> Validation:
    spec, prepared = plan.spec, run.prepared
    return Validation(
        model=run.model,
        held_out=prepared.validation,
        objective=run.objective,
        outputs=prepared.outputs,
        interval_steps=spec.evaluation.interval_steps or prepared.batches.steps_per_epoch,
        total_steps=run.total_steps,
        epoch_of=prepared.batches.epoch_of,
        autocast=run.state.precision.autocast,
        units=UnitWatch(prober.tap),
        train_sample=train_sample(
            prepared, batch_size=spec.data.batch_size, seed=derive_seed(spec.seed, "train sample")
        ),
        monitor=monitor,
    )


def _first_look(run: _Run, channel: TrainerChannel, prober: Prober) -> FirstLook | None:
    """A model that cannot be looked at is trained all the same: what ails it, the first step will say."""
    try:
        return first_look(
            prober,
            run.objective,
            run.prepared.batches.fetch(run.state.step + 1),
            rows=run.state.micro_batch_size,
            classes=run.prepared.outputs.kind in ("classes", "tokens"),
        )
    except Exception as error:
        _warn(channel, f"The first batch could not be looked at: {type(error).__name__}: {error}")
        return None


def _monitor(run: _Run, plan: TrainingPlan, channel: TrainerChannel, prober: Prober) -> RunMonitor:
    rows, outputs = run.rows, run.prepared.outputs
    return RunMonitor(
        run_facts(
            run.prepared,
            plan,
            state=run.state,
            layers=layer_facts(
                run.model,
                run.layers,
                prober.tap,
                shrinkage_per_rate(plan.spec.optimizer, run.state.parameters),
            ),
            inputs=rows.inputs,
            prior=rows.prior,
            training_prior_loss=rows.training_prior_loss,
            class_counts=rows.counts if outputs.kind == "classes" else None,
            total_steps=run.total_steps,
            has_attention=prober.tap.has_attention,
        ),
        spec=plan.spec.monitoring,
        report=channel.send_event,
        loss_unit=run.objective.scale,
        state=run.state.monitor,
    )


def _error_of(error: Exception, device: str) -> state_pb2.JobError:
    """The typed error for one that the trainer did not expect."""
    if is_out_of_memory(error):
        advice = "Lower the batch size, the model's sizes or the vocabulary."
        return TrainingFailed.by_memory(f"Out of memory on {device}. {advice} ({error})").error
    if isinstance(error, OSError):
        return TrainingFailed.by_missing_file(f"A file could not be read or written: {error.strerror}").error
    return TrainingFailed.by_gradsight(
        f"The trainer failed by an error of its own: {type(error).__name__}: {error}"
    ).error


def _warn(channel: TrainerChannel, message: str) -> None:
    line = event_pb2.LogLine(severity=state_pb2.SEVERITY_WARNING, message=message)
    channel.send_event(event_pb2.JobEvent(log_line=line))
