"""What the service makes of one job, as sections of its page: verdict, comparison, findings, repairs."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gradsight._enums import MitigationAction
from gradsight._errors import GradsightError
from gradsight._events import MitigationApplied, MitigationKept, MitigationReverted
from gradsight._job import Job
from gradsight.cli._finding_page import listed
from gradsight.cli._insight import (
    COMPARISON_STYLES,
    REPAIR_KINDS,
    VERDICT_STYLES,
    comparison_words,
    repair_words,
    steps,
    verdict_words,
)
from gradsight.cli._tables import lineless

if TYPE_CHECKING:
    from gradsight._client import JobHandle


def judgement(job: Job) -> Table | None:
    """The verdict on the run with its reasons, and on the new model against the baseline's."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", min_width=11)
    table.add_column()
    if job.verdict:
        text = Text(verdict_words(job.verdict), VERDICT_STYLES.get(job.verdict.verdict, ""))
        for reason in job.verdict.reasons:
            text.append(f"\n{reason}", style="default")
        table.add_row("verdict", text)
    comparison = job.summary.comparison if job.summary else None
    if comparison:
        text = Text(comparison_words(comparison), COMPARISON_STYLES.get(comparison.verdict, ""))
        if comparison.message:
            text.append(f"\n{comparison.message}", style="default")
        table.add_row("comparison", text)
    return table if table.row_count else None


def open_findings(handle: "JobHandle", job: Job) -> RenderableType | None:
    """Findings that are open, and how many were closed."""
    if not job.findings:
        return None
    try:
        found = handle.findings(open_only=True)
    except GradsightError:
        return None
    closed = sum(each.total - each.open for each in job.findings)
    if not closed:
        return listed(found)
    word = "finding was" if closed == 1 else "findings were"
    return Group(listed(found), Text(f"{closed} {word} closed: gradsight findings {job.job_id}", style="dim"))


def repairs(handle: "JobHandle", job: Job) -> Table | None:
    """What was tried to repair the run, and what became of it; under the policy advise nothing is."""
    if job.spec.get("monitoring", {}).get("policy") not in ("repair", "stop"):
        return None
    try:
        told = [event.detail for event in handle.events(kinds=REPAIR_KINDS)]
    except GradsightError:
        return None
    ends = {
        each.mitigation_id: each for each in told if isinstance(each, MitigationKept | MitigationReverted)
    }
    table = lineless("repair", "outcome", "steps", "what", wrapping="what")
    for applied in (each for each in told if isinstance(each, MitigationApplied)):
        end = ends.get(applied.mitigation_id)
        last = end.step if end else applied.step
        table.add_row(
            applied.mitigation_id, _outcome(applied, end), steps(applied.step, last), repair_words(applied)
        )
        if isinstance(end, MitigationReverted):
            table.add_row("", "", "", Text(end.message, style="dim"))
    return table if table.row_count else None


def _outcome(applied: MitigationApplied, end: MitigationKept | MitigationReverted | None) -> Text:
    if isinstance(end, MitigationKept):
        return Text("kept", "green")
    if isinstance(end, MitigationReverted):
        return Text("taken back", "yellow")
    if applied.action in (MitigationAction.STOP, MitigationAction.SKIP_STEP):
        return Text("done")
    return Text("on trial", "cyan") if applied.trial else Text("in force")
