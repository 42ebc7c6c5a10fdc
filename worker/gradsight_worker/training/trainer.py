"""A run from the plan to the result: prepare, build, train, judge, write.

`run_trainer` is what the forked trainer process executes. It raises nothing: what went wrong goes over the channel as a
typed error, and the exit status says how the run ended.
"""

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

import gradsight
from gradsight.v1 import artifact_pb2, event_pb2, state_pb2
from gradsight_models import Layer, save_result
from gradsight_worker.training.baseline import baseline_answers
from gradsight_worker.training.channel import ChannelClosed, ResultFile, TrainerChannel
from gradsight_worker.training.checkpoints import load_newest
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.evaluation import Answers, Validation, answer, evaluation_event
from gradsight_worker.training.examples import write_examples
from gradsight_worker.training.loop import TrainingLoop, TrainingStep
from gradsight_worker.training.optimizers import build_optimizer
from gradsight_worker.training.parameters import FlatParameters
from gradsight_worker.training.plan import ExitStatus, TrainingPlan
from gradsight_worker.training.preparation import (
    Prepared,
    build,
    classes_without_training_rows,
    prepare,
    prepared_event,
)
from gradsight_worker.training.probes import ProbeCadence, Prober
from gradsight_worker.training.saving import CheckpointSaver
from gradsight_worker.training.schedules import build_schedule
from gradsight_worker.training.state import KeptWeights, TrainingState
from gradsight_worker.training.telemetry import Telemetry

_IMPORTED_ON_DEMAND = ("encodings.utf_8_sig", "numpy.ctypeslib", "numpy.ma")
"""Modules that libraries would otherwise import on a run's way."""


def run_trainer(plan: TrainingPlan, channel: TrainerChannel) -> int:
    """Train as planned; the answer is an `ExitStatus`."""
    try:
        try:
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
        importlib.import_module(name)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run that is ready to take steps."""

    prepared: Prepared
    model: nn.Module
    layers: Sequence[Layer]
    state: TrainingState
    total_steps: int


def _run(plan: TrainingPlan, channel: TrainerChannel) -> int:
    if plan.threads is not None:
        torch.set_num_threads(plan.threads)
    prepared = prepare(plan)
    channel.send_event(event_pb2.JobEvent(data_prepared=prepared_event(prepared)))
    if unseen := classes_without_training_rows(prepared):
        names = ", ".join(unseen[:5]) + (" …" if len(unseen) > 5 else "")
        _warn(channel, f"{len(unseen)} classes have no training rows and cannot be learnt: {names}")
    run = _build(prepared, plan)
    channel.send_event(event_pb2.JobEvent(model_built=_model_built(run)))
    _resume(run, plan, channel)
    if not _loop(run, plan, channel).run():
        return ExitStatus.STOPPED
    _judge_and_write(run, plan, channel)
    return ExitStatus.SUCCEEDED


def _build(prepared: Prepared, plan: TrainingPlan) -> _Run:
    model, layers = build(prepared, plan)
    parameters = FlatParameters(model, prepared.device)
    budget = plan.spec.budget
    total_steps = budget.steps or budget.epochs * prepared.batches.steps_per_epoch
    monitoring = plan.spec.monitoring
    fixed = monitoring.probe_interval_steps if monitoring.HasField("probe_interval_steps") else None
    state = TrainingState(
        parameters=parameters,
        optimizer=build_optimizer(plan.spec.optimizer, parameters),
        kept=KeptWeights.like(parameters),
        cadence=ProbeCadence(fixed=fixed, total_steps=total_steps),
    )
    return _Run(prepared=prepared, model=model, layers=layers, state=state, total_steps=total_steps)


def _resume(run: _Run, plan: TrainingPlan, channel: TrainerChannel) -> None:
    path, refusals = load_newest(plan.checkpoints, run.state, plan.spec)
    for refusal in refusals:
        _warn(channel, f"A checkpoint was passed over: {refusal}")
    if path is None and plan.checkpoints:
        _warn(channel, "No checkpoint could be used; the run starts anew.")


def _loop(run: _Run, plan: TrainingPlan, channel: TrainerChannel) -> TrainingLoop:
    spec, prepared, state = plan.spec, run.prepared, run.state
    prober = Prober(run.model, run.layers, state.parameters)
    return TrainingLoop(
        state=state,
        total_steps=run.total_steps,
        batches=prepared.batches,
        schedule=build_schedule(
            spec.schedule, peak=spec.optimizer.learning_rate, total_steps=run.total_steps
        ),
        take_step=TrainingStep(
            model=run.model,
            objective=partial(
                functional.cross_entropy, label_smoothing=spec.objective.cross_entropy.label_smoothing
            ),
            state=state,
            max_gradient_norm=(
                None if spec.optimizer.clipping_disabled else spec.optimizer.max_gradient_norm
            ),
            prober=prober,
        ),
        telemetry=Telemetry(
            report=lambda event, droppable: channel.send_event(event, droppable=droppable),
            device=prepared.device,
            prober=prober,
            cadence=state.cadence,
            gains=state.gains,
            watch=state.watch,
            training_seconds=state.training_seconds,
        ),
        validation=Validation(
            model=run.model,
            held_out=prepared.validation,
            classes=prepared.classes,
            interval_steps=spec.evaluation.interval_steps or prepared.batches.steps_per_epoch,
            total_steps=run.total_steps,
            epoch_of=prepared.batches.epoch_of,
        ),
        saver=CheckpointSaver(
            spec=spec, directory=plan.directory / "checkpoints", attempt=plan.attempt, channel=channel
        ),
        channel=channel,
    )


def _judge_and_write(run: _Run, plan: TrainingPlan, channel: TrainerChannel) -> None:
    """Read the test rows, once, with the kept weights; write what the job leaves behind."""
    prepared, kept = run.prepared, run.state.kept
    assert kept.evaluation is not None
    kept.put_into(run.state.parameters)
    step, epoch = kept.evaluation.step, kept.evaluation.epoch
    validation = answer(run.model, prepared.validation, prepared.classes)
    test = answer(run.model, prepared.test, prepared.classes)
    test_event = evaluation_event(test, prepared.test, step=step, epoch=epoch)
    channel.send_event(event_pb2.JobEvent(evaluation_completed=test_event))
    baseline = _judge_baseline(run, plan, channel)
    examples = plan.directory / "examples.parquet"
    write_examples(examples, [(prepared.validation, validation, None), (prepared.test, test, baseline)])
    paths = save_result(
        plan.directory / "result",
        module=run.model,
        architecture=prepared.architecture,
        options=prepared.options,
        input_columns=prepared.splits.train.input_names,
        preprocessing=prepared.preprocessing,
        labels=prepared.labels,
        figures=_figures(kept.evaluation, test_event),
        version=gradsight.__version__,
    )
    files = [
        ResultFile(path=path, filename=path.name, kind=artifact_pb2.ARTIFACT_KIND_RESULT) for path in paths
    ]
    files.append(ResultFile(path=examples, filename=examples.name, kind=artifact_pb2.ARTIFACT_KIND_EXAMPLES))
    channel.send_result(files)


def _judge_baseline(run: _Run, plan: TrainingPlan, channel: TrainerChannel) -> Answers | None:
    baseline = run.prepared.baseline
    if baseline is None:
        return None
    answers = baseline_answers(baseline, run.prepared.test.rows)
    event = evaluation_event(answers, run.prepared.test, step=0, epoch=0.0)
    event.baseline_job_id = plan.spec.evaluation.baseline_job_id
    channel.send_event(event_pb2.JobEvent(evaluation_completed=event))
    return answers


def _model_built(run: _Run) -> event_pb2.ModelBuilt:
    return event_pb2.ModelBuilt(
        architecture=run.prepared.architecture,
        parameters=sum(layer.parameter_count for layer in run.layers),
        layers=[
            event_pb2.Layer(
                index=layer.index, path=layer.path, kind=layer.kind, parameters=layer.parameter_count
            )
            for layer in run.layers
        ],
        total_steps=run.total_steps,
        steps_per_epoch=run.prepared.batches.steps_per_epoch,
    )


def _figures(kept: event_pb2.EvaluationCompleted, test: event_pb2.EvaluationCompleted) -> dict[str, float]:
    figures: dict[str, float] = {"step": kept.step}
    for name, event in (("validation", kept), ("test", test)):
        figures |= {f"{name}_error_ratio": event.error_ratio, f"{name}_loss": event.loss}
    return figures


def _error_of(error: Exception, device: str) -> state_pb2.JobError:
    """The typed error for one that the trainer did not expect."""
    # Torch's allocator on the processor raises a plain RuntimeError.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
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
