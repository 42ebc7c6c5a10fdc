"""An earlier job's result on this job's test rows."""

import json

import torch
from torch import Tensor

from gradsight_models import LoadedModel
from gradsight_models.outputs import ClassOutputs, LabelOutputs, NumberOutputs, Outputs
from gradsight_models.preprocessing import Preprocessing
from gradsight_worker.training.answers import Answers, HeldOut, answer, answers_of, joined, targets_of
from gradsight_worker.training.data.rows import Rows
from gradsight_worker.training.errors import TrainingFailed
from gradsight_worker.training.objectives import Judged, Objective

_NEVER = torch.finfo(torch.float32).min
"""Score of a label that the earlier model does not know."""


def require_comparable(
    baseline: LoadedModel, rows: Rows, outputs: Outputs, preprocessing: Preprocessing
) -> None:
    """Raise TrainingFailed when the earlier model cannot be judged on these rows beside this job's."""
    here = {column.name: column.kind for column in rows.columns}
    for column in baseline.columns:
        if column.name not in here:
            raise _refused(
                f"the baseline reads column {json.dumps(column.name)}, which is not an input of this job; both must "
                f"read the same rows"
            )
        if column.kind != here[column.name]:
            raise _refused(
                f"the baseline reads column {json.dumps(column.name)} as {column.kind}, this job as "
                f"{here[column.name]}; both must read the same rows"
            )
    theirs = baseline.outputs
    if theirs.kind != outputs.kind:
        raise _refused(
            f"the baseline answers with {theirs.kind}, this job with {outputs.kind}; both must answer alike"
        )
    if outputs.kind == "numbers" and theirs.size != outputs.size:
        raise _refused(f"the baseline answers with {theirs.size} numbers, this job with {outputs.size}")
    if outputs.kind == "tokens" and baseline.preprocessing.to_json() != preprocessing.to_json():
        raise _refused(
            "the baseline splits texts into other tokens, so a loss per token says something else; start from its "
            "weights (start.weights_job_id), so that both have the same"
        )


def baseline_answers(
    baseline: LoadedModel, held_out: HeldOut, objective: Objective, outputs: Outputs
) -> Answers:
    """What the earlier model makes of each row; a class or label that it does not know costs it an infinite loss.

    Of numbers, what it answers is turned into this job's deviations. Raises TrainingFailed when it cannot read a row.
    """
    if outputs.kind == "tokens":
        _, targets = next(held_out.encoded.blocks(1))
        return answer(baseline.module.to(targets.device), held_out, objective, outputs)
    terms = _CommonTerms(outputs, baseline.outputs)
    expected = torch.cat([targets.cpu() for targets in targets_of(held_out.encoded, outputs)])
    parts, start = [], 0
    for chunk in held_out.rows.select(baseline.input_columns).chunks():
        try:
            scores = baseline.scores(chunk)
        except ValueError as error:
            raise _refused(f"the baseline cannot read the test rows: {error}") from error
        targets = expected[start : start + len(scores)]
        parts.append(terms.judge(scores, targets, objective))
        start += len(scores)
    return answers_of(
        joined(parts), terms.targets(expected), terms.outputs, owners=None, rows=len(held_out.rows)
    )


class _CommonTerms:
    """The names of both jobs: this one's in their order, then those that only the earlier one has."""

    def __init__(self, ours: Outputs, theirs: Outputs) -> None:
        self._ours, self._theirs = ours, theirs
        names = (*ours.names, *(name for name in theirs.names if name not in set(ours.names)))
        self.outputs = ours
        if isinstance(ours, ClassOutputs):
            self.outputs = ClassOutputs(names=names)
        elif isinstance(ours, LabelOutputs):
            self.outputs = LabelOutputs(names=names)
        places = {name: place for place, name in enumerate(theirs.names)}
        self._places = torch.tensor([places.get(name, -1) for name in names])

    def targets(self, expected: Tensor) -> Tensor:
        """This job's targets; no row has the earlier one's labels."""
        if self._ours.kind != "labels":
            return expected
        missing = self.outputs.size - self._ours.size
        return torch.nn.functional.pad(expected, (0, missing))

    def judge(self, scores: Tensor, expected: Tensor, objective: Objective) -> Judged:
        """The earlier model's scores against this job's targets."""
        if isinstance(self._ours, NumberOutputs) and isinstance(self._theirs, NumberOutputs):
            units = self._theirs.decode(scores)
            mean, deviation = torch.tensor([self._ours.mean, self._ours.deviation], dtype=torch.float64)
            return objective.judge(((units - mean) / deviation).float(), expected)
        unknown = self._places < 0
        aligned = scores[:, self._places.clamp(min=0)].float()
        aligned[:, unknown] = _NEVER
        expected = self.targets(expected)
        judged = objective.judge(aligned, expected)
        of_labels = self._ours.kind == "labels"
        without = (expected.bool() & unknown).any(dim=1) if of_labels else unknown[expected]
        judged.loss[without] = torch.inf
        return judged


def _refused(message: str) -> TrainingFailed:
    return TrainingFailed.by_spec(message, field="evaluation.baseline_job_id")
