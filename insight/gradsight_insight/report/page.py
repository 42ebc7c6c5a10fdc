"""The report as one HTML page that loads nothing and runs nothing: `page.html.jinja` and `page.css`, filled."""

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from gradsight_insight.report import words
from gradsight_insight.report.category_picture import before_and_after, by_category
from gradsight_insight.report.curves import learning_curves
from gradsight_insight.report.data import Change, EvaluationFigures, ReportData, SuspectRow
from gradsight_insight.report.gain_picture import gain_ratio
from gradsight_insight.report.headline import chips, headline, tiles
from gradsight_insight.report.layers import gradient_flow, update_ratios
from gradsight_insight.report.legends import GLOSSARY, legends
from gradsight_insight.report.marks import letter
from gradsight_insight.report.order import Numbered, advice, flat, numbered
from gradsight_insight.report.svg import Picture
from gradsight_insight.report.theme import SEVERITIES, variables

MOST_SUSPECTS = 60
_TEMPLATE = "page.html.jinja"


class Suspect(NamedTuple):
    """A suspect row and the number of its finding."""

    row: SuspectRow
    number: int


class _Repair(NamedTuple):
    sign: str
    title: str
    description: str
    step: int
    number: int
    outcome: str
    message: str
    proof: str
    tone: str


def html_page(data: ReportData) -> str:
    """The whole page. Every text of the job is escaped."""
    findings = numbered(data.findings)
    pictures = _pictures(data)
    suspects = suspect_rows(findings)
    evaluation, split = judged_evaluation(data)
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            data=data,
            verdict=words.VERDICTS.get(data.verdict.verdict, words.NO_VERDICT)
            if data.verdict
            else words.NO_VERDICT,
            headline=headline(data),
            chips=chips(data),
            tiles=tiles(data),
            advice=advice(data),
            findings=findings,
            severities=SEVERITIES,
            suspects=suspects[:MOST_SUSPECTS],
            more_suspects=max(0, len(suspects) - MOST_SUSPECTS),
            pictures=pictures,
            legends=legends(data),
            glossary=GLOSSARY,
            changes=changes(data),
            judged=_judged,
            repairs=_repairs(data, findings),
            shown_categories=[]
            if pictures["before_and_after"] or evaluation is None
            else evaluation.categories,
            any_errors=evaluation is not None and evaluation.error is not None,
            categories_split=split,
            light=Markup(variables("light")),  # noqa: S704 -- our own constants
            dark=Markup(variables("dark")),  # noqa: S704
            style=Markup(_part("page.css")),  # noqa: S704
        )
    )


def changes(data: ReportData) -> list[Change]:
    """All rows first, then the categories as they come."""
    comparison = data.comparison
    return (
        []
        if comparison is None or comparison.overall is None
        else [comparison.overall, *comparison.categories]
    )


def suspect_rows(findings: tuple[Numbered, ...]) -> list[Suspect]:
    """Suspect rows of all findings, worst first in each."""
    return [Suspect(row, entry.number) for entry in flat(findings) for row in entry.finding.suspects]


def judged_evaluation(data: ReportData) -> tuple[EvaluationFigures | None, str]:
    """The evaluation that speaks for the kept model, and its split: test, or validation before the end."""
    return (data.test, "test") if data.test else (data.kept, "validation")


def _pictures(data: ReportData) -> dict[str, Picture | None]:
    compared = before_and_after(data)
    evaluation, _ = judged_evaluation(data)
    alone = evaluation is not None and compared is None
    return {
        "learning_curves": learning_curves(data),
        "gradient_flow": gradient_flow(data),
        "update_ratios": update_ratios(data),
        "gain_ratio": gain_ratio(data),
        "before_and_after": compared,
        "by_category": by_category(evaluation) if evaluation and alone else None,
    }


def _judged(change: Change) -> words.Judgement:
    return words.CHANGES.get(change.verdict, words.Judgement("not judged", "", "neutral"))


def _repairs(data: ReportData, findings: tuple[Numbered, ...]) -> list[_Repair]:
    numbers = {entry.finding.finding_id: entry.number for entry in flat(findings)}
    return [
        _Repair(
            sign=letter(place),
            title=words.ACTIONS.get(repair.action, words.plain(repair.action)),
            description=repair.description,
            step=repair.step,
            number=numbers.get(repair.finding_id, 0),
            outcome=repair.outcome,
            message=repair.message,
            proof=words.proof(repair.evidence),
            tone="good" if repair.outcome == "kept" else "neutral",
        )
        for place, repair in enumerate(data.mitigations)
    ]


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(_part),
    )
    filters: dict[str, Any] = {
        name: getattr(words, name)
        for name in (
            "number",
            "count",
            "percent",
            "interval",
            "points",
            "steps",
            "moment",
            "span",
            "plain",
            "unit",
        )
    }
    environment.filters |= filters | {"safe_address": _safe_address, "coded": _coded}
    return environment


def _visible(value: Any) -> Any:
    """Every text of the job on its way into the page; markup is our own."""
    return words.visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _safe_address(address: str) -> str:
    """The address when a click on it cannot run anything, else empty."""
    return address if address.startswith(("https://", "http://")) else ""


def _coded(text: str) -> Markup:
    """The text escaped, what stood between backticks as code."""
    parts = words.code_spans(words.visible(text))
    return Markup().join(
        Markup("<code>{}</code>").format(part) if code else escape(part) for part, code in parts
    )


def _part(name: str) -> str:
    return files("gradsight_insight.report").joinpath(name).read_text(encoding="utf-8")
