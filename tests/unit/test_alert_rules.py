"""The alert rules: valid, each with a case that fires it, each leading to a page that exists."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.prometheus import ROOT, RULES, program

from gradsight_insight.catalogue import KINDS
from gradsight_insight.kinds import PAGES
from gradsight_service.exporter import fleet_families, page
from gradsight_service.exporter.exposition import Family
from gradsight_service.exporter.job_families import FAMILIES

CASES = RULES.with_name("gradsight.rules.test.yaml")
RUNBOOKS = ROOT / "docs" / "runbooks"
GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
NAMES = [alert["alert"] for alert in ALERTS]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong() -> None:
    promtool("check", "rules", "--lint-fatal", RULES)


def test_every_case_comes_out_as_written() -> None:
    promtool("test", "rules", CASES)


@pytest.mark.parametrize("configuration", ["prometheus.yml", "prometheus.compose.yml"])
def test_a_shipped_configuration_loads_the_rules_and_not_their_cases(configuration: str) -> None:
    directory = RULES.parents[1]
    patterns = yaml.safe_load((directory / configuration).read_text())["rule_files"]
    assert [path for pattern in patterns for path in directory.glob(pattern)] == [RULES]


def test_every_alert_has_a_case_in_which_it_fires() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(NAMES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["description"].endswith(".")
    base, _, name = annotations["runbook_url"].rpartition("/")
    if base == PAGES:
        pages = [kind.page for kind in KINDS.values()]
        assert f"{name}.md" in pages or name == "{{ $labels.page }}"
        assert all((ROOT / "docs" / "failure-modes" / file).is_file() for file in pages)
    else:
        assert base == PAGES.replace("failure-modes", "runbooks")
        assert alert["alert"] in (RUNBOOKS / f"{name}.md").read_text()


def test_every_runbook_is_led_to_and_has_its_three_parts() -> None:
    urls = {alert["annotations"]["runbook_url"].rpartition("/")[2] for alert in ALERTS}
    pages = [path for path in RUNBOOKS.glob("*.md") if path.name != "README.md"]
    assert {path.stem for path in pages} <= urls
    for path in pages:
        parts = re.findall("^## (.*)$", path.read_text(), re.MULTILINE)
        assert parts == ["What it means", "What to look at", "What to do"], path.name
        assert f"]({path.name})" in (RUNBOOKS / "README.md").read_text()


def test_every_link_of_a_runbook_and_of_the_list_leads_somewhere() -> None:
    for path in [*RUNBOOKS.glob("*.md"), ROOT / "docs" / "metrics.md"]:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_the_alerts_are_listed_with_the_metrics() -> None:
    listed = re.findall(
        r"^\| `(Gradsight\w+)` \| (\w+) \|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted((alert["alert"], alert["labels"]["severity"]) for alert in ALERTS)


def test_the_rules_ask_for_families_that_there_are() -> None:
    modules = (fleet_families, page)
    families = [
        value.name for module in modules for value in vars(module).values() if isinstance(value, Family)
    ]
    families += [family.name for family in FAMILIES.values()]
    worker = (ROOT / "docs" / "metrics.md").read_text().partition("## Worker")[2]
    asked = {name for alert in ALERTS for name in re.findall(r"gradsight_\w+", alert["expr"])}
    for name in asked:
        assert name in families or f"`{name}`" in worker, name
