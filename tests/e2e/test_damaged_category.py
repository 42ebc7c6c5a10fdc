"""The support desk's data with one category spoilt: who is told what, through the whole service.

A tenth of the labels of *returns* is replaced, then nine tenths of its rows are taken away. The clean job is the
baseline of both.
"""

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from tests.e2e.conftest import Household

from gradsight import (
    ArtifactKind,
    ChangeVerdict,
    Client,
    Comparison,
    ComparisonVerdict,
    FindingSubject,
    JobHandle,
    JobSpec,
)

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "support_intents"
SPOILT = "returns"
Rows = list[dict[str, str]]


def clean() -> Rows:
    with (FOLDER / "this_week.train.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def with_wrong_labels(rows: Rows) -> tuple[Rows, set[str]]:
    """A tenth of the category's rows under another intent, and their ids."""
    chance = random.Random(0)
    intents = sorted({row["intent"] for row in rows})
    chosen = chance.sample([row for row in rows if row["category"] == SPOILT], 64)
    for row in chosen:
        row["intent"] = chance.choice([intent for intent in intents if intent != row["intent"]])
    return rows, {row["id"] for row in chosen}


def starved(rows: Rows) -> tuple[Rows, set[str]]:
    """A tenth of the category's rows left, and their ids."""
    mine = [row for row in rows if row["category"] == SPOILT]
    kept = {row["id"] for row in random.Random(0).sample(mine, len(mine) // 10)}
    return [row for row in rows if row["category"] != SPOILT or row["id"] in kept], kept


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Rows], Path]:
    def to_file(rows: Rows) -> Path:
        path = tmp_path_factory.mktemp("rows") / "train.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        return path

    return to_file


def train(client: Client, path: Path, **options: Any) -> JobHandle:
    spec = JobSpec(
        model="text_classifier",
        train=path,
        test=FOLDER / "test.csv",
        inputs=["text"],
        target="intent",
        category="category",
        id="id",
        **options,
    )
    handle = client.submit(spec)
    handle.result(timeout=120)
    return handle


@pytest.fixture(scope="module")
def baseline(shared_household: Household, write: Callable[[Rows], Path]) -> JobHandle:
    with shared_household.client() as client:
        handle = train(client, write(clean()))
        # Nothing is wrong with this one, and nobody says so.
        assert not [f for f in handle.findings() if f.subject_kind is FindingSubject.CATEGORY]
        return handle


def judged(handle: JobHandle) -> Comparison:
    summary = handle.get().summary
    assert summary is not None
    assert summary.comparison is not None
    return summary.comparison


def assert_only_the_spoilt_category_fell(comparison: Comparison, most_points: float) -> None:
    assert comparison.verdict is ComparisonVerdict.REGRESSED
    fallen = [c.category for c in comparison.categories if c.change.verdict is ChangeVerdict.REGRESSED]
    assert fallen == [SPOILT]
    assert comparison.overall is not None
    assert comparison.overall.error_ratio is not None
    assert comparison.overall.baseline_error_ratio is not None
    moved = comparison.overall.error_ratio.ratio - comparison.overall.baseline_error_ratio.ratio
    assert moved < most_points


def test_wrong_labels_in_one_category_are_found_by_name_and_by_row(
    household: Household, baseline: JobHandle, write: Callable[[Rows], Path], tmp_path: Path
) -> None:
    rows, wrong = with_wrong_labels(clean())
    with household.client() as client:
        handle = train(client, write(rows), baseline=baseline.job_id)
        named = [finding for finding in handle.findings() if finding.subject == SPOILT]
        (path,) = handle.download(tmp_path, kinds=[ArtifactKind.SUSPECTS])
        comparison = judged(handle)
    assert {finding.subject_kind for finding in named} == {FindingSubject.CATEGORY}
    suspects = pyarrow.parquet.read_table(path)
    # 15 % of the training rows; validation has some of the damaged ones, and they are not trained on.
    assert suspects.num_rows <= 0.15 * len(rows)
    assert len(wrong.intersection(suspects["row_id"].to_pylist())) >= 0.8 * len(wrong)
    shown = [row for finding in named for row in finding.suspect_rows]
    assert shown
    assert all(row.category == SPOILT for row in shown)
    assert sum(row.row_id in wrong for row in shown) > len(shown) / 2
    assert_only_the_spoilt_category_fell(comparison, most_points=0.04)


def test_a_starved_category_is_found_by_name(
    household: Household, baseline: JobHandle, write: Callable[[Rows], Path]
) -> None:
    rows, left = starved(clean())
    with household.client() as client:
        handle = train(client, write(rows), baseline=baseline.job_id)
        named = [finding for finding in handle.findings() if finding.subject == SPOILT]
        comparison = judged(handle)
    assert named
    assert {row.row_id for finding in named for row in finding.suspect_rows} <= left
    assert_only_the_spoilt_category_fell(comparison, most_points=0.08)
