"""Every kind of finding says all of what a person needs, and its page says the same."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from gradsight.v1 import insight_pb2
from gradsight_insight.attribution import EXPLAINS, ORDER
from gradsight_insight.catalogue import DETECTORS, KINDS
from gradsight_insight.kinds import PAGES, FindingKind

ROOT = Path(__file__).resolve().parents[2]
REPAIRS = {
    value.name.removeprefix("MITIGATION_ACTION_").lower()
    for value in insight_pb2.MitigationAction.DESCRIPTOR.values
}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "gen_failure_modes", ROOT / "scripts" / "gen_failure_modes.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_say_what_the_kinds_say() -> None:
    stale = generator().stale_pages(ROOT / "docs" / "failure-modes")
    assert not stale, "run `make failure-modes`"


def test_a_page_that_was_edited_or_belongs_to_no_kind_is_stale(tmp_path: Path) -> None:
    made = generator()
    made.write(tmp_path)
    assert made.stale_pages(tmp_path) == []
    page = tmp_path / "FM-05-vanishing-gradient.md"
    page.write_text(page.read_text() + "more\n")
    (tmp_path / "FM-99-old.md").write_text("old")
    assert made.stale_pages(tmp_path) == ["FM-05-vanishing-gradient.md", "FM-99-old.md"]
    made.write(tmp_path)
    assert made.stale_pages(tmp_path) == []


def test_codes_and_names_are_unique_and_have_a_place() -> None:
    kinds = [kind for detector in DETECTORS for kind in detector.kinds]
    assert len({kind.code for kind in kinds}) == len({kind.name for kind in kinds}) == len(kinds)
    assert set(KINDS) == set(ORDER)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_is_complete(kind: FindingKind) -> None:
    assert re.fullmatch(r"FM-\d\d", kind.code)
    for text in (
        kind.you_see,
        kind.mechanism,
        kind.rule,
        kind.gradsight_does,
        *kind.look_alikes,
        *kind.actions,
    ):
        assert text[0].isupper() or text.startswith(("`", "tanh", "gradsight")), text
        assert text.endswith((".", ")", "?")), text
        assert "  " not in text, text
    assert len(kind.mechanism.split()) >= 50
    assert len(kind.look_alikes) >= 2
    assert len(kind.actions) >= 2
    assert kind.sources
    assert set(kind.repairs) <= REPAIRS


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_thresholds_are_explained_and_in_range(kind: FindingKind) -> None:
    for name, threshold in kind.thresholds.items():
        assert threshold.low <= threshold.default <= threshold.high
        assert threshold.meaning.endswith(".")
        assert f"`{name}`" in kind.rule, f"{kind.name}: the rule does not name {name}"


def test_texts_refer_to_kinds_that_exist() -> None:
    codes = {kind.code for kind in KINDS.values()}
    for kind in KINDS.values():
        told = " ".join((kind.mechanism, kind.rule, kind.gradsight_does, *kind.look_alikes, *kind.actions))
        assert set(re.findall(r"FM-\d\d", told)) <= codes, kind.name
    assert {*EXPLAINS, *(name for explained in EXPLAINS.values() for name in explained)} <= set(KINDS)


def test_alerts_link_to_pages_that_exist() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "rules").glob("*.yaml")
    linked = {url for path in rules for url in re.findall(rf"{PAGES}/([\w-]+)", path.read_text())}
    assert linked <= {kind.page.removesuffix(".md") for kind in KINDS.values()}
