"""The end of a run: test rows are read, once, with the kept weights; what the job leaves behind is written."""

from pathlib import Path

from torch import nn

import gradsight
from gradsight.v1 import artifact_pb2, event_pb2
from gradsight_insight.comparison import Comparison, compare
from gradsight_insight.messages import comparison_message
from gradsight_models import Preprocessing, save_result
from gradsight_worker.training.answers import Answers, answer
from gradsight_worker.training.baseline import baseline_answers
from gradsight_worker.training.channel import ResultFile, TrainerChannel
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.evaluation import evaluation_event
from gradsight_worker.training.examples import write_examples
from gradsight_worker.training.mitigation.standardization import InputStandardization, standardizing_apart
from gradsight_worker.training.monitoring import RunMonitor
from gradsight_worker.training.objectives import Objective
from gradsight_worker.training.plan import TrainingPlan
from gradsight_worker.training.preparation import Prepared
from gradsight_worker.training.state import TrainingState
from gradsight_worker.training.suspects import find_suspects


def judge_and_write(
    prepared: Prepared,
    plan: TrainingPlan,
    channel: TrainerChannel,
    *,
    model: nn.Module,
    state: TrainingState,
    objective: Objective,
    monitor: RunMonitor,
    standardization: InputStandardization | None = None,
) -> None:
    """Judge the kept weights and the baseline on test rows, write the files, send the result."""
    kept = state.kept
    assert kept.evaluation is not None
    kept.put_into(state.parameters)
    validation, test = (
        answer(model, held_out, objective, prepared.outputs, state.precision.autocast)
        for held_out in (prepared.validation, prepared.test)
    )
    step, epoch = kept.evaluation.step, kept.evaluation.epoch
    test_event = evaluation_event(test, prepared.test, step=step, epoch=epoch)
    channel.send_event(event_pb2.JobEvent(evaluation_completed=test_event))
    baseline = _judge_baseline(prepared, plan, channel, objective)
    if baseline is not None:
        _compare(prepared, plan, channel, test, baseline)
    examples = plan.directory / "examples.parquet"
    sides = [(prepared.validation, validation, None), (prepared.test, test, baseline)]
    write_examples(examples, sides, prepared.outputs)
    with standardizing_apart(standardization, prepared.preprocessing) as preprocessing:
        paths = _write_result(prepared, preprocessing, plan, model, _figures(kept.evaluation, test_event))
    files = [
        ResultFile(path=path, filename=path.name, kind=artifact_pb2.ARTIFACT_KIND_RESULT) for path in paths
    ]
    suspicious = find_suspects(prepared, model, objective, state.precision.autocast)
    monitor.conclude(suspicious, step)
    suspects = plan.directory / "suspects.parquet"
    suspicious.write(suspects)
    files += [
        ResultFile(path=examples, filename=examples.name, kind=artifact_pb2.ARTIFACT_KIND_EXAMPLES),
        ResultFile(path=suspects, filename=suspects.name, kind=artifact_pb2.ARTIFACT_KIND_SUSPECTS),
    ]
    channel.send_result(files)


def _judge_baseline(
    prepared: Prepared, plan: TrainingPlan, channel: TrainerChannel, objective: Objective
) -> Answers | None:
    if prepared.baseline is None:
        return None
    answers = baseline_answers(prepared.baseline, prepared.test, objective, prepared.outputs)
    event = evaluation_event(answers, prepared.test, step=0, epoch=0.0)
    event.baseline_job_id = plan.spec.evaluation.baseline_job_id
    channel.send_event(event_pb2.JobEvent(evaluation_completed=event))
    return answers


def _compare(
    prepared: Prepared, plan: TrainingPlan, channel: TrainerChannel, test: Answers, baseline: Answers
) -> None:
    wrong, baseline_wrong = test.wrong_rows, baseline.wrong_rows
    if wrong is None or baseline_wrong is None:
        comparison = Comparison.impossible(
            "rows of this kind of answers are not right or wrong; compare the losses of the two jobs"
        )
    else:
        comparison = compare(
            ~baseline_wrong, ~wrong, categories=prepared.test.categories, impacts=prepared.test.impacts
        )
    message = comparison_message(
        comparison, baseline_job_id=plan.spec.evaluation.baseline_job_id, job_id=plan.job_id
    )
    completed = event_pb2.ComparisonCompleted(comparison=message)
    channel.send_event(event_pb2.JobEvent(comparison_completed=completed))


def _write_result(
    prepared: Prepared,
    preprocessing: Preprocessing,
    plan: TrainingPlan,
    model: nn.Module,
    figures: dict[str, float],
) -> list[Path]:
    try:
        return save_result(
            plan.directory / "result",
            module=model,
            source=prepared.source,
            columns=prepared.splits.train.columns,
            preprocessing=preprocessing,
            outputs=prepared.outputs,
            figures=figures,
            version=gradsight.__version__,
            onnx=plan.spec.result.onnx,
        )
    except ValueError as error:
        raise TrainingFailed.by_spec(
            f"the model cannot be said in ONNX: {error}", field="result.onnx"
        ) from error


_FIGURES = ("error_ratio", "macro_f1", "root_mean_square_error", "mean_absolute_error", "perplexity")


def _figures(kept: event_pb2.EvaluationCompleted, test: event_pb2.EvaluationCompleted) -> dict[str, float]:
    """What the manifest says of the run: the figures that its kind of answers has."""
    figures: dict[str, float] = {"step": kept.step}
    for side, event in (("validation", kept), ("test", test)):
        figures[f"{side}_loss"] = event.loss
        figures |= {f"{side}_{name}": getattr(event, name) for name in _FIGURES if event.HasField(name)}  # type: ignore[arg-type]
    return figures
