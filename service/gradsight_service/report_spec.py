"""A job's spec and rows in plain words, for a reader who did not write the spec."""

from collections.abc import Iterable, Mapping

from google.protobuf.message import Message

from gradsight.v1 import event_pb2, job_pb2, spec_pb2, state_pb2
from gradsight_insight.report.data import Line
from gradsight_insight.report.words import count, number, percent, plain

_MOST_NAMES = 12
_MOST_TEXT = 300
_OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD"}
_OBJECTIVES = {
    "cross_entropy": "cross entropy",
    "binary_cross_entropy": "cross entropy of each label",
    "mean_squared_error": "mean squared error",
    "huber": "Huber loss",
    "mean_absolute_error": "mean absolute error",
    "causal_language_model": "cross entropy of the next token",
}
_ANSWERS = {"cross_entropy": "Classes", "binary_cross_entropy": "Labels"}
_POLICIES = {
    spec_pb2.MONITORING_POLICY_REPAIR: "repair on trial: what does not help held-out rows is taken back",
    spec_pb2.MONITORING_POLICY_STOP: "stop at a critical finding, and keep the best weights",
}


def spec_lines(spec: spec_pb2.JobSpec) -> tuple[Line, ...]:
    """What was asked, most important first; what is not set is left out."""
    lines = (
        Line("Task", _task(spec)),
        Line("Model", _model(spec.model)),
        Line("Starts from", _start(spec.start)),
        Line("Optimizer", _optimizer(spec)),
        Line("Learning rate", _schedule(spec.schedule)),
        Line("Length", _budget(spec)),
        Line("Counts more", _impacts(spec.evaluation.category_impacts)),
        Line("Compared with", _baseline(spec.evaluation)),
        Line("On findings", _POLICIES.get(spec.monitoring.policy, "report them and leave the run alone")),
        Line("Numbers", _compute(spec.compute)),
        Line("Seed", str(spec.seed)),
    )
    return tuple(line for line in lines if line.text)


def row_lines(prepared: event_pb2.DataPrepared, objective: spec_pb2.ObjectiveSpec) -> tuple[Line, ...]:
    """What the rows are, and what stands out in them."""
    answers = _ANSWERS.get(objective.WhichOneof("kind") or "cross_entropy", "")
    sides = {
        state_pb2.SPLIT_TRAIN: "to train",
        state_pb2.SPLIT_VALIDATION: "to choose the weights (validation)",
        state_pb2.SPLIT_TEST: "to judge them once, at the end (test)",
    }
    lines = (
        Line(
            "Rows", ", ".join(f"{count(part.rows)} {sides.get(part.split, '')}" for part in prepared.splits)
        ),
        Line("Inputs", _names(prepared.input_columns)),
        Line(
            answers,
            f"{len(prepared.classes)}: {_names(prepared.classes)}" if answers and prepared.classes else "",
        ),
        Line(
            "Categories",
            _names(
                f"{part.category} ({count(sum(side.rows for side in part.splits))})"
                for part in prepared.categories
            ),
        ),
        Line("Twice", _rows(prepared.duplicate_rows, "the same content occurs again in their split")),
        Line(
            "Leaked",
            _rows(prepared.leaked_rows, "are held out and also in train: their error says too little"),
        ),
        Line("Stands out", "; ".join(_remark(remark) for remark in prepared.column_remarks[:_MOST_NAMES])),
    )
    return tuple(line for line in lines if line.text)


def cut(text: str, most: int = _MOST_TEXT) -> str:
    """Text of bounded length."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def label_lines(job: job_pb2.Job) -> tuple[Line, ...]:
    """The job's labels by name."""
    return tuple(Line(name, value) for name, value in sorted(job.spec.labels.items()))


def _task(spec: spec_pb2.JobSpec) -> str:
    data = spec.data
    objective = _OBJECTIVES.get(spec.objective.WhichOneof("kind") or "cross_entropy", "a loss of its own")
    target = f"predict {cut(data.target_column)}" if data.target_column else "predict what comes next"
    inputs = f" from {_names(data.input_columns)}" if data.input_columns else ""
    by = f", by {objective}"
    broken_down = f"; error is broken down by {cut(data.category_column)}" if data.category_column else ""
    return f"{target}{inputs}{by}{broken_down}"


def _model(model: spec_pb2.ModelSpec) -> str:
    match model.WhichOneof("kind"):
        case "builtin":
            name = model.builtin.WhichOneof("architecture") or ""
            return _with_options(name, getattr(model.builtin, name)) if name else ""
        case "program":
            return "a module of the user's own, as an exported graph"
        case "recipe":
            options = (f"{name} {cut(value, 60)}" for name, value in sorted(model.recipe.options.items()))
            return ": ".join(part for part in (f"recipe {model.recipe.name}", _names(options)) if part)
    return ""


def _start(start: spec_pb2.StartSpec) -> str:
    match start.WhichOneof("from"):
        case "extended_job_id":
            return f"the last training state of job {start.extended_job_id}, which it goes on with"
        case "weights_job_id":
            return f"the kept weights of job {start.weights_job_id}"
    return ""


def _optimizer(spec: spec_pb2.JobSpec) -> str:
    optimizer = spec.optimizer
    name = optimizer.WhichOneof("algorithm") or "adamw"
    parts = [_OPTIMIZERS.get(name, plain(name))]
    parts.append(f"batches of {count(spec.data.batch_size)} rows" if spec.data.HasField("batch_size") else "")
    if name == "sgd" and optimizer.sgd.HasField("momentum"):
        parts.append(f"momentum {number(optimizer.sgd.momentum)}")
    if optimizer.HasField("weight_decay"):
        parts.append(f"weight decay {number(optimizer.weight_decay)}")
    if optimizer.clipping_disabled:
        parts.append("gradients are not clipped")
    elif optimizer.HasField("max_gradient_norm"):
        parts.append(f"gradients clipped at norm {number(optimizer.max_gradient_norm)}")
    if optimizer.HasField("average_decay"):
        parts.append(f"weights averaged with decay {number(optimizer.average_decay)}")
    if optimizer.HasField("learning_rate"):
        parts.insert(1, f"learning rate up to {number(optimizer.learning_rate)}")
    return ", ".join(part for part in parts if part)


def _schedule(schedule: spec_pb2.ScheduleSpec) -> str:
    name = schedule.WhichOneof("kind")
    text = _with_options(plain(name).lower(), getattr(schedule, name)) if name else ""
    text = text.replace(": final fraction 0", ", down to 0")
    if schedule.warmup_fraction:
        text += f", after a warm-up over {percent(schedule.warmup_fraction)} of the steps"
    return text


def _budget(spec: spec_pb2.JobSpec) -> str:
    match spec.budget.WhichOneof("length"):
        case "steps":
            text = f"{count(spec.budget.steps)} steps"
        case "epochs":
            text = f"{count(spec.budget.epochs)} passes over the rows"
        case _:
            text = ""
    if spec.evaluation.HasField("patience"):
        text += f"; ends early after {count(spec.evaluation.patience)} evaluations without improvement"
    return text


def _impacts(impacts: Mapping[str, float]) -> str:
    ordered = sorted(impacts.items(), key=lambda item: (-item[1], item[0]))
    weighted = _names(f"{name} ×{number(impact)}" for name, impact in ordered)
    return f"errors in {weighted}" if weighted else ""


def _baseline(evaluation: spec_pb2.EvaluationSpec) -> str:
    return f"job {evaluation.baseline_job_id}, on the same test rows" if evaluation.baseline_job_id else ""


def _compute(compute: spec_pb2.ComputeSpec) -> str:
    parts = []
    if compute.precision:
        parts.append(spec_pb2.Precision.Name(compute.precision).removeprefix("PRECISION_").lower())
    parts += ["compiled"] if compute.compiled else []
    parts += ["repeats bit for bit"] if compute.deterministic else []
    return ", ".join(parts)


def _with_options(name: str, options: Message) -> str:
    """`mlp: hidden sizes 128, 128; dropout 0.1`."""
    parts = []
    for field, value in options.ListFields():
        if field.enum_type:
            said = field.enum_type.values_by_number[value].name.rpartition("_")[2].lower()
        elif isinstance(value, (int, float)):
            said = number(value)
        else:
            said = ", ".join(number(entry) for entry in value)
        parts.append(f"{plain(field.name).lower()} {said}")
    return f"{name}: {'; '.join(parts)}" if parts else name


def _remark(remark: event_pb2.ColumnRemark) -> str:
    said = [f"{count(remark.missing_rows)} cells missing"] if remark.missing_rows else []
    said += ["the same value throughout train"] if remark.constant else []
    said += [f"{count(remark.unseen_rows)} held-out words that train lacks"] if remark.unseen_rows else []
    return f"{cut(remark.column, 80)}: {', '.join(said)}"


def _rows(rows: int, what: str) -> str:
    return f"{count(rows)} rows: {what}" if rows else ""


def _names(names: Iterable[str]) -> str:
    """The first twelve names, and how many more there are."""
    shown: list[str] = []
    more = 0
    for name in names:
        if len(shown) < _MOST_NAMES:
            shown.append(cut(name, 80))
        else:
            more += 1
    return ", ".join(shown) + (f" and {count(more)} more" if more else "")
