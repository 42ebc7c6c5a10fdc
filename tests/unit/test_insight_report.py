"""The report's page and text: whole, self-contained, safe, for every kind of job."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from tests.unit import report_samples as samples

from gradsight_insight.kinds import Number
from gradsight_insight.report import data as report
from gradsight_insight.report.gain_picture import stretches
from gradsight_insight.report.headline import chips, headline
from gradsight_insight.report.layers import on_columns
from gradsight_insight.report.markdown import markdown
from gradsight_insight.report.order import advice, flat, numbered
from gradsight_insight.report.page import html_page
from gradsight_insight.report.theme import SHADES
from gradsight_insight.report.words import visible

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A parsed page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def headings(self) -> set[str]:
        return {attributes["id"] or "" for tag, attributes in self.tags if tag == "h2" and "id" in attributes}


def number_job(**changes: Any) -> report.ReportData:
    """A job whose answers are numbers, without categories or a baseline."""
    figures = report.EvaluationFigures(step=40, examples=90, loss=2.5, root_mean_square_error=1.58)
    values: dict[str, Any] = {
        "figure_name": "root mean square error",
        "kept": figures,
        "test": figures,
        "baseline_test": None,
    }
    values |= {"prior_error_ratio": None, "comparison": None, "findings": (), "mitigations": ()}
    values |= changes
    return samples.finished(40, **values)


def bare_job() -> report.ReportData:
    """A job that waits."""
    written = samples.finished().written
    return report.ReportData(job_id="a-1", name="a", state="queued", done=False, written=written, version="0")


def failed_job() -> report.ReportData:
    """A job whose loss was not finite from some step on."""
    nan: dict[str, Any] = dict(samples.curves(200))
    loss = nan["train_loss"].values.copy()
    loss[120:] = np.nan
    failure = report.Failure(
        reason="nonfinite_loss", fault="model", message="Ten steps in a row were not finite."
    )
    return samples.finished(
        200,
        **(nan | {"train_loss": report.Curve(steps=nan["train_loss"].steps, values=loss)}),
        state="failed",
        failure=failure,
        nonfinite_steps=80,
        test=None,
        baseline_test=None,
        comparison=None,
        verdict=None,
        attempts=(report.Attempt(number=1, worker="w", device="cpu", resumed_at_step=0, failure=failure),),
    )


def hopeless_job() -> report.ReportData:
    """A job in which nothing that was measured is finite."""
    steps = np.arange(1, 31)
    nothing = report.Curve(steps=steps, values=np.full(30, np.nan))
    layers = np.full((30, 2), np.inf)
    return number_job(
        train_loss=nothing,
        gradient_norm=nothing,
        gain_ratio=nothing,
        validation_loss=nothing,
        validation_figure=nothing,
        layers=("a", "b"),
        probes=report.LayerProbes(steps=steps, gradient_rms=layers, update_ratio=layers),
        nonfinite_steps=30,
        prior_loss=np.nan,
    )


def token_job() -> report.ReportData:
    figures = report.EvaluationFigures(
        step=40, examples=90, loss=2.5, perplexity=12.2, error=report.Interval(0.5, 0.4, 0.6)
    )
    return number_job(figure_name="perplexity", kept=figures, test=figures)


EVERYTHING = {
    "next",
    "why",
    "compared",
    "asked",
    "rows",
    "curves",
    "findings",
    "suspects",
    "flow",
    "updates",
    "gain",
}
JOBS: dict[str, tuple[Callable[[], report.ReportData], set[str]]] = {
    "everything": (samples.finished, EVERYTHING),
    "no_baseline": (lambda: samples.finished(comparison=None), EVERYTHING - {"compared"} | {"categories"}),
    "numbers": (number_job, EVERYTHING - {"compared", "findings", "suspects", "gain"}),
    "tokens": (token_job, EVERYTHING - {"compared", "findings", "suspects", "gain"}),
    "failed": (failed_job, EVERYTHING - {"why", "compared"} | {"attempts", "categories"}),
    "hopeless": (hopeless_job, EVERYTHING - {"compared", "findings", "suspects", "gain", "updates"}),
    "one_step": (lambda: samples.finished(1), EVERYTHING - {"flow", "updates", "gain"}),
    "waits": (bare_job, {"next", "asked", "curves"}),
}


pytestmark = pytest.mark.filterwarnings("error")


@cache
def page_of(kind: str) -> str:
    """The page of one of the jobs."""
    return html_page(JOBS[kind][0]())


@pytest.mark.parametrize("kind", JOBS)
def test_each_kind_of_job_has_its_sections(kind: str) -> None:
    make, sections = JOBS[kind]
    page = Page(page_of(kind))
    assert page.headings() == sections
    assert markdown(make()).startswith("# ")


@pytest.mark.parametrize("kind", JOBS)
def test_a_page_loads_nothing_and_runs_nothing(kind: str) -> None:
    text = page_of(kind)
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "srcset", "data"):
            if address := attributes.get(name):
                loads = tag != "a" and not address.startswith(("#", "data:image/png;base64,"))
                assert not loads, (tag, address)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize("kind", JOBS)
def test_ids_are_unique_and_every_reference_has_its_target(kind: str) -> None:
    text = page_of(kind)
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for _, attributes in page.tags:
        for name in ("href", "xlink:href", "aria-labelledby"):
            for target in (attributes.get(name) or "").split():
                if name == "aria-labelledby" or target.startswith("#"):
                    assert target.removeprefix("#") in page.ids


def test_pictures_are_told_in_words_and_take_the_pages_colours() -> None:
    text = page_of("everything")
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 5
    for picture in pictures:
        assert 'role="img"' in picture
        assert re.search(r"<title [^>]*>[^<]+</title><desc [^>]*>[^<]+</desc>", picture)
        drawn = set(re.findall(r"(?:fill|stroke): (#\w+|var\(--[\w-]+\))", picture))
        assert all(colour.startswith("var(") for colour in drawn), drawn
        assert "DejaVu" not in picture


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast(theme: str) -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(one: str, other: str) -> float:
        low, high = sorted(luminance(getattr(SHADES[name], theme)) for name in (one, other))
        return (high + 0.05) / (low + 0.05)

    pairs = [
        (text, "surface")
        for text in ("ink", "quiet", "train", "held-out", "good", "neutral", "warning", "critical")
    ]
    pairs += [(tone, f"{tone}-wash") for tone in ("good", "neutral", "warning", "critical")] + [
        ("quiet", "page")
    ]
    assert {pair: contrast(*pair) for pair in pairs if contrast(*pair) < 4.5} == {}
    assert contrast("old", "surface") >= 3


def hostile() -> report.ReportData:
    """A job whose every text tries to be markup."""
    text = samples.HOSTILE
    job = samples.finished(layers=(text,) * 6, name=text, stopped=text, labels=(report.Line(text, text),))
    finding = replace(
        job.findings[2],
        subject=text,
        explanation=text,
        actions=(text,),
        kind=text,
        page_url="javascript:alert(1)",
    )
    row = replace(finding.suspects[0], row_id=text, category=text, target=text, predicted=text, split=text)
    assert job.comparison
    assert job.verdict
    changed = replace(job.comparison.categories[3], category=text)
    return replace(
        job,
        asked=(report.Line(text, text),),
        rows=(report.Line(text, text),),
        findings=(replace(finding, suspects=(row,), evidence=(Number(name=text, observed=1, unit=text),)),),
        mitigations=(replace(job.mitigations[0], description=text, message=text, action=text),),
        comparison=replace(job.comparison, message=text, categories=(changed,)),
        verdict=replace(job.verdict, reasons=(text,)),
        failure=report.Failure(reason=text, fault=text, message=text, field=text),
    )


def test_what_users_write_stays_text_in_html() -> None:
    text = html_page(hostile())
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert "<script" not in text
    assert "javascript:" not in [attributes.get("href") for _, attributes in page.tags]
    assert all(not (attributes.get("href") or "").startswith("javascript") for _, attributes in page.tags)
    assert '<script>alert("1")</script>' in page.text
    assert "\u202e" not in text
    assert "49" not in re.findall(r"\$\{\{(.*?)\}\}", page.text)


def test_what_users_write_stays_text_in_markdown() -> None:
    text = markdown(hostile())
    assert "<script" not in text.replace("\\<script", "")
    assert "\n# head" not in text
    assert "\u202e" not in text
    assert "javascript" not in text
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)
            assert len(cells) <= 11


def test_a_long_job_of_many_layers_stays_small() -> None:
    layers = tuple(f"transformer.blocks.{place}.attention.output_projection" for place in range(32))
    windows = tuple(
        report.Efficacy(first_step=1 + 100 * place, last_step=100 + 100 * place, verdict=verdict)
        for place, verdict in enumerate(("cautious", "effective", "inert") * 1000)
    )
    probes = samples.probes(32, 100_000)
    text = html_page(samples.finished(steps=300_000, layers=layers, probes=probes, efficacies=windows))
    assert len(text.encode()) < 400_000


def test_the_same_data_give_the_same_page() -> None:
    assert html_page(samples.finished()) == page_of("everything")


def test_causes_come_first_and_consequences_below_them() -> None:
    order = numbered(samples.findings())
    assert [entry.finding.kind for entry in flat(order)] == [
        "suspect_labels",
        "vanishing_gradient",
        "plateau",
    ]
    assert [entry.number for entry in flat(order)] == [1, 2, 3]
    assert order[1].consequences[0].finding.kind == "plateau"


def test_findings_that_explain_each_other_are_not_lost() -> None:
    one, other, third = samples.findings()
    circle = (
        replace(one, cause_finding_id=other.finding_id),
        replace(other, cause_finding_id=one.finding_id),
        replace(third, cause_finding_id="gone"),
    )
    assert len(list(flat(numbered(circle)))) == 3
    itself = (replace(one, cause_finding_id=one.finding_id),)
    assert len(list(flat(numbered(itself)))) == 1


def test_advice_answers_what_is_open_worst_first_and_nothing_twice() -> None:
    again = replace(samples.findings()[0], finding_id="vanishing_gradient-2")
    entries = advice(samples.finished(findings=(*samples.findings(), again)))
    assert "payment" in entries[0].text
    assert [entry.number for entry in entries[1:]] == [1, 2]
    assert advice(bare_job()) == ()


def test_a_model_that_cannot_be_used_is_not_recommended() -> None:
    job = samples.finished(findings=())
    assert job.verdict
    assert job.comparison
    better = replace(job.comparison, verdict="improved", categories=())
    assert advice(replace(job, comparison=better))[0].text.startswith("Put the new model")
    assert not advice(replace(job, comparison=better, findings=samples.findings()))[0].text.startswith("Put")
    unusable = replace(job, comparison=better, verdict=replace(job.verdict, kept_checkpoint_usable=False))
    assert [entry.text for entry in advice(unusable)] == ["Do not put the kept model to use."]
    assert headline(unusable).tone == "critical"


def test_a_repair_that_helped_goes_into_the_next_spec() -> None:
    job = samples.finished(comparison=None)
    helped = replace(job, mitigations=(replace(job.mitigations[0], outcome="kept"),))
    entry = advice(helped)[-1]
    assert entry.text == "Write into the next spec what helped in this run: learning rate × 4 from step 240."
    assert entry.number == 2
    assert not [entry for entry in advice(job) if "next spec" in entry.text]


def test_nothing_is_said_against_weights_that_may_still_get_better() -> None:
    job = samples.finished(comparison=None, test=None)
    assert job.verdict
    running = replace(
        job,
        done=False,
        state="running",
        verdict=replace(job.verdict, verdict="undecided", kept_checkpoint_usable=False),
    )
    assert "should not be used" not in headline(running).meaning
    assert "kept model not usable" not in [chip.title for chip in chips(running)]


@pytest.mark.parametrize(
    ("verdict", "title"),
    [("regressed", "Converged, worse than the old model"), ("no_significant_change", "Converged")],
)
def test_the_headline_says_how_the_new_model_stands(verdict: str, title: str) -> None:
    against = replace(samples.comparison(), verdict=verdict)
    assert headline(samples.finished(comparison=against)).title == title


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u202eb\x00", "a�b�"),
        ("été 中 👩\u200d🚀 می\u200cخواهم\n", "été 中 👩\u200d🚀 می\u200cخواهم\n"),
        ("12\u00a0%", "12\u00a0%"),
    ],
)
def test_only_characters_that_steer_others_are_replaced(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_overlapping_windows_become_stretches_side_by_side() -> None:
    told = [
        (10, 40, "cautious"),
        (10, 60, "cautious"),
        (20, 80, "effective"),
        (30, 80, "inert"),
        (40, 90, "inert"),
    ]
    windows = [
        report.Efficacy(first_step=first, last_step=last, verdict=verdict) for first, last, verdict in told
    ]
    assert stretches(windows) == [(10, 60, "cautious"), (60, 80, "effective"), (80, 90, "inert")]
    assert stretches([]) == []


@pytest.mark.parametrize("columns", [1, 7, 320])
def test_columns_keep_what_was_not_finite(columns: int) -> None:
    steps = np.array([10, 20, 30, 400])
    values = np.array([[1.0, 0.0], [100.0, 1.0], [np.inf, 1.0], [1.0, 1.0]])
    grid = on_columns(steps, values, columns)
    assert grid.shape == (2, columns)
    assert np.isinf(grid[0]).any()
    assert (grid[1] == 0).any()
