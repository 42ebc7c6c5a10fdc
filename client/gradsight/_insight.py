"""What the service makes of a run: findings, verdicts, comparisons, and the numbers that each stands on."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from gradsight._enums import (
    ChangeVerdict,
    ComparisonVerdict,
    EfficacyVerdict,
    FindingSubject,
    Severity,
    Split,
    Verdict,
)
from gradsight._records import Record


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence(Record):
    """One number that a finding or a verdict stands on.

    Attributes:
        name: Name of the number, `gain_ratio` say.
        observed: What was observed; may be non-finite.
        threshold: What it is held against; None when it stands for itself.
        unit: `steps`, `nats`, `rows`, `seconds` and so on; None for a ratio.
        first_step: First step of the window that it was observed over; 0 before the first step.
        last_step: Last step of that window.
    """

    name: str
    observed: float
    threshold: float | None
    unit: str | None
    first_step: int
    last_step: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuspectRow(Record):
    """A row that should be looked at.

    Attributes:
        row_id: Identity of the row, as in `examples.parquet`.
        split: The split that it is in.
        category: Its category; None without a category column.
        target: Its class as the file has it; None where answers are no classes.
        predicted: The class that the model would answer; None likewise.
        loss: Its loss, in the objective's unit.
        rank: Place among all rows of its split, 1 for the most suspect.
    """

    row_id: str
    split: Split
    category: str | None
    target: str | None
    predicted: str | None
    loss: float
    rank: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding(Record):
    """Something about the run that a person should know.

    Attributes:
        finding_id: Identity within the job: the kind and a number, `vanishing_gradient-1` say.
        kind: One of the kinds that the failure modes' pages describe.
        severity: How bad it is.
        subject_kind: What sort of thing it is about.
        subject: The layer's path, the category, the column that it is about; None for the run as a whole.
        first_step: First step at which it was seen.
        last_step: Last step at which it was seen.
        evidence: What was observed, against which threshold, over which window.
        confidence: How sure the detector is, 0 to 1.
        explanation: What it means, from mechanism to model behaviour.
        actions: What could be done, best first.
        open: True until it was closed.
        cause_finding_id: The finding that explains this one; None for a first cause.
        page_url: Address of the page about its kind.
        suspect_rows: Rows that it is about, worst first, at most 50.
    """

    finding_id: str
    kind: str
    severity: Severity
    subject_kind: FindingSubject
    subject: str | None
    first_step: int
    last_step: int
    evidence: tuple[Evidence, ...]
    confidence: float
    explanation: str
    actions: tuple[str, ...]
    open: bool
    cause_finding_id: str | None
    page_url: str
    suspect_rows: tuple[SuspectRow, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FindingCount(Record):
    """How many findings of a kind and a severity there are: those that are open, and all there were."""

    kind: str
    severity: Severity
    open: int
    total: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateEfficacy(Record):
    """What the updates of a window achieved.

    Attributes:
        first_step: First step of the window.
        last_step: Last step of the window.
        probes: Probes in the window.
        gain_ratio: Sum of actual over sum of predicted decrease of the batches' losses; None when the promise is too
            small to measure.
        held_out_z: Held-out loss at the end less that at the start, in standard errors of its mean over the same rows:
            below 0 is better. None before two evaluations on validation.
        verdict: The judgement; None when it was not judged.
        layer_credit: Share of each layer in the predicted decrease, in the order of `ModelBuilt.layers`.
    """

    first_step: int
    last_step: int
    probes: int
    gain_ratio: float | None
    held_out_z: float | None
    verdict: EfficacyVerdict | None
    layer_credit: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunVerdict(Record):
    """Judgement on a run.

    Attributes:
        verdict: The judgement.
        confirmed: True: it held at three evaluations in a row, or the run is over and it holds.
        evidence: What it stands on.
        reasons: The same in words, a sentence each, most important first.
        kept_checkpoint_usable: True: the kept weights are worth using, whatever became of the run after them.
        step: Optimizer steps done when it was judged.
    """

    verdict: Verdict
    confirmed: bool
    evidence: tuple[Evidence, ...]
    reasons: tuple[str, ...]
    kept_checkpoint_usable: bool
    step: int

    @property
    def reason(self) -> str:
        """The most important reason, whole: with what follows when it ends in a colon. Empty without any."""
        said = list[str]()
        for each in self.reasons:
            said.append(each)
            if not each.endswith(":"):
                break
        return " ".join(said)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatioInterval(Record):
    """A share, 0 to 1, with the ends of its 95 % interval (Wilson)."""

    ratio: float
    lower: float
    upper: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedChange(Record):
    """What changed between two models on the same rows.

    Attributes:
        examples: Rows.
        baseline_errors: Rows that the old model got wrong.
        errors: Rows that the new model got wrong.
        only_baseline_wrong: Rows that only the old model got wrong.
        only_new_wrong: Rows that only the new model got wrong.
        baseline_error_ratio: Share of wrong answers of the old model.
        error_ratio: Share of wrong answers of the new model.
        p_value: Two-sided exact McNemar test, 0 to 1.
        level: What `p_value` must not exceed for a change to be significant.
        smallest_detectable_fall: The smallest fall of the share of right answers that these rows could have shown; None
            when no outcome would have been significant.
        verdict: What the rows say; None when they were not judged.
    """

    examples: int
    baseline_errors: int
    errors: int
    only_baseline_wrong: int
    only_new_wrong: int
    baseline_error_ratio: RatioInterval | None
    error_ratio: RatioInterval | None
    p_value: float
    level: float
    smallest_detectable_fall: float | None
    verdict: ChangeVerdict | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoryChange(Record):
    """New model against old in one category; `impact` says how much an error in it counts."""

    category: str
    impact: float
    change: PairedChange


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison(Record):
    """New model against old on the same test rows.

    Attributes:
        baseline_job_id: Job of the old model.
        job_id: Job of the new model.
        verdict: The judgement over all rows and categories.
        message: Why it is not comparable, or what limits the judgement; None when nothing does.
        overall: All rows together; None when not comparable.
        categories: By category, most frequent first; empty without a category column.
        baseline_weighted_error_ratio: Error of the old model weighted by category impact, 0 to 1.
        weighted_error_ratio: Error of the new model weighted by category impact, 0 to 1.
    """

    baseline_job_id: str
    job_id: str
    verdict: ComparisonVerdict
    message: str | None
    overall: PairedChange | None
    categories: tuple[CategoryChange, ...]
    baseline_weighted_error_ratio: float
    weighted_error_ratio: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecDifference(Record):
    """A field in which two specs differ, by its path; each value as JSON, None where a spec has none."""

    field: str
    baseline_value: str | None
    value: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobComparison(Record):
    """Two jobs side by side: their models on the same test rows, and where their specs differ."""

    comparison: Comparison
    differences: tuple[SpecDifference, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report(Record):
    """A report about a job for people, as one file that needs nothing else to be read.

    Attributes:
        content: The file.
        media_type: `text/html` or `text/markdown`, with the character set.
        filename: Name to store it under.
    """

    content: bytes
    media_type: str
    filename: str

    @property
    def text(self) -> str:
        """The file's text."""
        return self.content.decode()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file and returns its path; in a directory, existing or ending in `/`, under its own name."""
        place = Path(path)
        if place.is_dir() or os.fspath(path).endswith(os.sep):
            place.mkdir(parents=True, exist_ok=True)
            place /= Path(self.filename.replace("\\", "/")).name or "report"
        place.write_bytes(self.content)
        return place

    def to_dict(self) -> dict[str, Any]:
        """Returns the report in the form of `--format json`: its content as text."""
        return {"content": self.text, "media_type": self.media_type, "filename": self.filename}
