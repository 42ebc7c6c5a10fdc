"""The first screen: the verdict in a sentence, its labels and the figures that matter."""

from typing import NamedTuple

from gradsight_insight.report import words
from gradsight_insight.report.data import EvaluationFigures, ReportData
from gradsight_insight.report.order import is_alarmed
from gradsight_insight.report.words import COMPARISONS, NO_VERDICT, VERDICTS, Judgement

_AGAINST = {
    "improved": "better than the old model",
    "regressed": "worse than the old model",
    "mixed": "in parts better and in parts worse than the old model",
}


class Tile(NamedTuple):
    """A figure with its name and what puts it into proportion."""

    label: str
    value: str
    note: str


class Figure(NamedTuple):
    """The one number by which a model is judged."""

    name: str
    value: str
    note: str


def headline(data: ReportData) -> Judgement:
    """What happened, in a title and a sentence or two."""
    if data.failure:
        return Judgement(
            f"Failed: {words.plain(data.failure.reason).lower()}", data.failure.message, "critical"
        )
    if data.state == "cancelled":
        return Judgement("Cancelled", f"The job was cancelled at step {words.count(data.step)}.", "neutral")
    judged = VERDICTS.get(data.verdict.verdict, NO_VERDICT) if data.verdict else NO_VERDICT
    sentences = [judged.meaning] + [text for text in (_usable(data), _figures(data)) if text]
    title = judged.title if data.verdict else words.plain(data.state)
    if data.comparison and (against := _AGAINST.get(data.comparison.verdict)):
        title = f"{title}, {against}"
    return Judgement(title, " ".join(sentences), _tone(data, judged))


def chips(data: ReportData) -> list[Judgement]:
    """Labels below the headline."""
    found = []
    if data.verdict:
        found.append(Judgement("confirmed" if data.verdict.confirmed else "provisional", "", "neutral"))
        usable = data.verdict.kept_checkpoint_usable
        if usable or data.done:
            words_of_it = "kept model usable" if usable else "kept model not usable"
            found.append(Judgement(words_of_it, "", "good" if usable else "critical"))
    if data.comparison and (against := COMPARISONS.get(data.comparison.verdict)):
        found.append(Judgement(f"against the old model: {against.title.lower()}", "", against.tone))
    for severity, tone in (("critical", "critical"), ("warning", "warning"), ("info", "neutral")):
        number = sum(finding.severity == severity and finding.open for finding in data.findings)
        if number:
            found.append(Judgement(f"{number} {severity} finding{'s' if number > 1 else ''} open", "", tone))
    if not data.done:
        found.append(Judgement("not finished", "", "neutral"))
    return found


def tiles(data: ReportData) -> list[Tile]:
    """The figures that matter, at most five."""
    found = []
    if data.test:
        figure = figure_of(data.test)
        found.append(Tile(f"{figure.name} on test", figure.value, figure.note))
    if data.baseline_test:
        figure = figure_of(data.baseline_test)
        found.append(Tile(f"{figure.name} of the old model", figure.value, "on the same test rows"))
    if data.kept:
        figure = figure_of(data.kept)
        found.append(
            Tile(
                f"{figure.name} on validation",
                figure.value,
                f"kept weights, step {words.count(data.kept.step)}",
            )
        )
    judged_by_error = data.kept is None or data.kept.error is not None
    if data.prior_error_ratio is not None and judged_by_error:
        found.append(
            Tile(
                "without looking at inputs",
                words.percent(data.prior_error_ratio),
                "always the most frequent class",
            )
        )
    if data.findings:
        still = sum(finding.open for finding in data.findings)
        found.append(Tile("findings", str(len(data.findings)), f"{still} still open"))
    if data.total_steps:
        found.append(Tile("steps", words.count(data.step), f"of {words.count(data.total_steps)}"))
    return found[:5]


def figure_of(evaluation: EvaluationFigures) -> Figure:
    """The number by which this kind of answer is judged: error, else RMSE, else perplexity, else loss."""
    rows = f"{words.count(evaluation.examples)} rows"
    if evaluation.error:
        error = evaluation.error
        note = f"{100 * error.lower:.1f} to {100 * error.upper:.1f} % with 95 % certainty, {rows}"
        return Figure("error", words.percent(error.ratio), note)
    if evaluation.root_mean_square_error is not None:
        return Figure("root mean square error", words.number(evaluation.root_mean_square_error), rows)
    if evaluation.perplexity is not None:
        return Figure("perplexity", words.number(evaluation.perplexity), rows)
    return Figure("loss", words.number(evaluation.loss), rows)


def _usable(data: ReportData) -> str:
    if data.verdict is None or not (data.done or data.verdict.kept_checkpoint_usable):
        return ""  # what is not usable yet may become so
    return (
        "The kept model can be used."
        if data.verdict.kept_checkpoint_usable
        else "The kept model should not be used."
    )


def _figures(data: ReportData) -> str:
    if data.test is None:
        return ""
    now = figure_of(data.test)
    before = figure_of(data.baseline_test) if data.baseline_test else None
    against = COMPARISONS.get(data.comparison.verdict) if data.comparison else None
    text = f"On {words.count(data.test.examples)} test rows its {now.name} is {now.value}"
    if before and before.name == now.name:
        text += f"; that of the old model is {before.value}"
    return f"{text}. {against.meaning if against else ''}".strip()


def _tone(data: ReportData, judged: Judgement) -> str:
    worse = data.comparison is not None and data.comparison.verdict in ("regressed", "mixed")
    unusable = data.verdict is not None and not data.verdict.kept_checkpoint_usable
    if unusable and data.done:
        return "critical"
    return "warning" if (worse or is_alarmed(data)) and judged.tone in ("good", "neutral") else judged.tone
