"""The report as Markdown, without pictures: for a chat, an issue or a terminal."""

import re
from collections.abc import Iterable, Iterator, Sequence

from gradsight_insight.kinds import Number
from gradsight_insight.report import words
from gradsight_insight.report.data import ReportData
from gradsight_insight.report.headline import chips, headline, tiles
from gradsight_insight.report.legends import GLOSSARY
from gradsight_insight.report.order import Numbered, advice, flat, numbered
from gradsight_insight.report.page import MOST_SUSPECTS, changes, judged_evaluation, suspect_rows

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|!~$])")
_ADDRESS_END = re.compile(r"[<>\s]")


def markdown(data: ReportData) -> str:
    """The whole text. What the job's owner wrote cannot become markup."""
    findings = numbered(data.findings)
    parts = [
        *_head(data),
        *_next(data),
        *_why(data),
        *_comparison(data),
        *_lines("What was asked", data.asked),
        *_lines("The rows", data.rows),
        *_course(data),
        *_findings(findings),
        *_suspects(findings),
        *_categories(data),
        *_attempts(data),
        f"Made by gradsight {_text(data.version)} on {words.moment(data.written)}. Intervals are Wilson's, 95 %.",
    ]
    return "\n\n".join(parts) + "\n"


def _head(data: ReportData) -> Iterator[str]:
    said = headline(data)
    yield f"# {_text(data.name)}: {_text(said.title)}"
    yield f"Job `{data.job_id}`, {data.state}, created {words.moment(data.created)}."
    yield f"**{_text(said.meaning)}**"
    if labels := chips(data):
        yield " · ".join(_text(label.title) for label in labels)
    if figures := tiles(data):
        yield _table(("figure", "value", ""), [(tile.label, tile.value, tile.note) for tile in figures])


def _next(data: ReportData) -> Iterator[str]:
    yield "## What to do next"
    entries = advice(data)
    if not entries:
        yield "Nothing needs to be done."
    else:
        yield "\n".join(
            f"{place}. {_text(' '.join([entry.text, *entry.further]))} _Because: {_text(entry.because)}"
            f"{f' (finding {entry.number})' if entry.number else ''}_"
            for place, entry in enumerate(entries, 1)
        )


def _why(data: ReportData) -> Iterator[str]:
    if data.verdict:
        yield "## Why this verdict"
        judged = words.VERDICTS.get(data.verdict.verdict, words.NO_VERDICT)
        yield f"{judged.title}, {'confirmed' if data.verdict.confirmed else 'provisional'}. {judged.meaning}"
        if data.verdict.reasons:
            yield "\n".join(f"- {_text(reason)}" for reason in data.verdict.reasons)
        yield from _evidence(data.verdict.evidence)


def _comparison(data: ReportData) -> Iterator[str]:
    if data.comparison is None:
        return
    yield "## Compared with the old model"
    judged = words.COMPARISONS.get(data.comparison.verdict)
    message = f" {_text(data.comparison.message)}" if data.comparison.message else ""
    yield f"{judged.title if judged else 'Not judged'}, against job `{data.comparison.baseline_job_id}`.{message}"
    rows = [
        (
            change.category or "all rows",
            words.count(change.examples),
            words.percent(change.baseline_error.ratio),
            words.percent(change.error.ratio),
            words.points(change.error.ratio - change.baseline_error.ratio),
            words.number(change.p_value),
            words.CHANGES[change.verdict].title if change.verdict in words.CHANGES else "not judged",
        )
        for change in changes(data)
    ]
    if rows:
        yield _table(("category", "rows", "old error", "new error", "change", "p", "judgement"), rows)
        yield f"How to read this: {GLOSSARY['before_and_after']}"


def _course(data: ReportData) -> Iterator[str]:
    yield "## How training went"
    if data.stopped:
        yield f"Training stopped before the end of its budget: {_text(data.stopped)}"
    rows = [
        (name, words.number(float(curve.values[0])), words.number(float(curve.values[-1])))
        for name, curve in (
            ("training loss", data.train_loss),
            ("held-out loss", data.validation_loss),
            (f"held-out {data.figure_name}", data.validation_figure),
            ("gradient norm", data.gradient_norm),
            ("gain ratio", data.gain_ratio),
        )
        if len(curve)
    ]
    yield _table(("curve", "first", "last"), rows) if rows else "No step was taken yet."
    if data.mitigations:
        yield _table(
            ("repair", "step", "outcome", ""),
            [
                (
                    words.ACTIONS.get(one.action, one.action),
                    words.count(one.step),
                    one.outcome,
                    one.message or one.description,
                )
                for one in data.mitigations
            ],
        )


def _findings(findings: tuple[Numbered, ...]) -> Iterator[str]:
    if findings:
        yield "## Findings"
    for entry in flat(findings):
        found = entry.finding
        about = f": {_text(found.subject)}" if found.subject else ""
        over = "" if found.open else ", over"
        yield f"### {entry.number}. {_text(words.plain(found.kind))}{about} ({found.severity}{over})"
        cause = next((other.number for other in flat(findings) if entry in other.consequences), 0)
        explained = f" Explained by finding {cause}." if cause else ""
        yield f"{words.plain(words.steps(found.first_step, found.last_step))}. {_text(found.explanation)}{explained}"
        yield from _evidence(found.evidence)
        if found.actions:
            yield "\n".join(f"- {_text(action)}" for action in found.actions)
        if found.page_url.startswith(("https://", "http://")):
            yield f"More: <{_ADDRESS_END.sub('', found.page_url)}>"


def _suspects(findings: tuple[Numbered, ...]) -> Iterator[str]:
    suspects = suspect_rows(findings)[:MOST_SUSPECTS]
    if suspects:
        yield "## Rows to look at"
        yield _table(
            ("rank", "row", "split", "category", "target", "answer", "loss", "finding"),
            [
                (
                    str(row.rank),
                    row.row_id,
                    row.split,
                    row.category,
                    row.target,
                    row.predicted,
                    words.number(row.loss),
                    str(number),
                )
                for row, number in suspects
            ],
        )


def _categories(data: ReportData) -> Iterator[str]:
    evaluation, split = judged_evaluation(data)
    if evaluation is None or not evaluation.categories or changes(data):
        return
    yield f"## Error by category, on {split} rows"
    yield _table(
        ("category", "rows", "error, 95 % interval", "loss"),
        [
            (one.category, words.count(one.examples), words.interval(one.error), words.number(one.loss))
            for one in evaluation.categories
        ],
    )


def _attempts(data: ReportData) -> Iterator[str]:
    if len(data.attempts) > 1 or data.failure:
        yield "## Attempts"
        yield _table(
            ("attempt", "worker", "device", "from step", "ended by"),
            [
                (
                    str(one.number),
                    one.worker,
                    one.device,
                    words.count(one.resumed_at_step),
                    f"{words.plain(one.failure.reason)}: {one.failure.message}" if one.failure else "–",
                )
                for one in data.attempts
            ],
        )


def _lines(title: str, lines: Sequence[tuple[str, str]]) -> Iterator[str]:
    if lines:
        yield f"## {title}"
        yield _table(("", ""), lines)


def _evidence(numbers: Iterable[Number]) -> Iterator[str]:
    rows = [
        (
            words.plain(one.name),
            f"{words.number(one.observed)} {words.unit(one.unit)}".strip(),
            words.number(one.threshold),
            words.steps(one.first_step, one.last_step) if one.last_step else "–",
        )
        for one in numbers
    ]
    if rows:
        yield _table(("number", "observed", "held against", "where"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """Text in one line that Markdown shows as it is."""
    line = words.visible(" ".join(text.split()))
    return "".join(_code(part) if code else _escaped(part) for part, code in words.code_spans(line))


def _code(text: str) -> str:
    """A name as code; a bar would end a cell even there."""
    return f"`{text}`" if "|" not in text else _escaped(text)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)
