"""The support-intents data set keeps the promises of its README."""

from __future__ import annotations

import csv
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "support_intents"
FILES = ("last_week.train.csv", "this_week.train.csv", "test.csv")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("support_intents_generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict[str, str]]]:
    """The committed rows by file name."""
    tables = {}
    for name in FILES:
        with (FOLDER / name).open(encoding="utf-8", newline="") as file:
            tables[name] = list(csv.DictReader(file))
    return tables


def generate(out: Path, seed: int) -> dict[str, bytes]:
    command = [sys.executable, "-B", str(FOLDER / "generate.py"), "--seed", str(seed), "--out", str(out)]
    subprocess.run(command, check=True, timeout=60)
    return {name: (out / name).read_bytes() for name in FILES}


def test_seed_7_writes_the_committed_files_byte_for_byte(tmp_path: Path) -> None:
    assert generate(tmp_path / "new", 7) == {name: (FOLDER / name).read_bytes() for name in FILES}


def test_another_seed_writes_other_rows(tmp_path: Path) -> None:
    other = generate(tmp_path, 8)
    assert all(other[name] != (FOLDER / name).read_bytes() for name in FILES)


def test_every_row_has_the_four_columns_filled(rows: dict[str, list[dict[str, str]]]) -> None:
    for table in rows.values():
        assert list(table[0]) == ["id", "text", "intent", "category"]
        assert all(all(value.strip() for value in row.values()) for row in table)
        assert not [row["text"] for row in table if re.search(r"[{}\[\]|]|  ", row["text"])]


def test_ids_are_unique_and_this_week_begins_with_last_weeks_rows(
    rows: dict[str, list[dict[str, str]]],
) -> None:
    last, this, test = (rows[name] for name in FILES)
    assert this[: len(last)] == last
    ids = [row["id"] for row in this + test]
    assert len(ids) == len(set(ids))


def test_no_text_occurs_twice_in_training_or_in_training_and_test(
    generator: ModuleType, rows: dict[str, list[dict[str, str]]]
) -> None:
    texts = Counter(generator.normalised(row["text"]) for name in FILES[1:] for row in rows[name])
    assert not [text for text, count in texts.items() if count > 1]


def test_each_intent_belongs_to_one_category(rows: dict[str, list[dict[str, str]]]) -> None:
    pairs = {(row["intent"], row["category"]) for table in rows.values() for row in table}
    assert len(pairs) == len({intent for intent, _ in pairs}) == 27
    assert pairs == {(row["intent"], row["category"]) for row in rows["test.csv"]}


def test_the_readme_states_the_counts_of_every_category(rows: dict[str, list[dict[str, str]]]) -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    stated = {
        match[1]: tuple(map(int, match[2].split(" | ")))
        for match in re.finditer(r"\| (\w+) \| ([\d |]+\d) \|", readme)
    }
    counted = {}
    for category in {row["category"] for row in rows["test.csv"]}:
        intents = {row["intent"] for row in rows["test.csv"] if row["category"] == category}
        sizes = (sum(row["category"] == category for row in rows[name]) for name in FILES)
        counted[category] = (len(intents), *sizes)
    counted["all"] = (27, *(len(rows[name]) for name in FILES))
    assert stated == counted


def test_no_test_wording_shares_more_than_three_quarters_of_its_words_with_a_training_wording(
    generator: ModuleType,
) -> None:
    intents = generator.load_intents()
    trained = {
        frozenset(wording.split())
        for intent in intents
        for wording in generator.wordings(intent.last_week + intent.this_week)
    }
    for intent in intents:
        for wording in generator.wordings(intent.test):
            words = frozenset(wording.split())
            assert not [other for other in trained if len(words & other) > 0.75 * len(words | other)], wording


def test_the_generator_refuses_a_test_template_that_training_has(generator: ModuleType) -> None:
    intent = generator.load_intents()[0]
    leaked = intent._replace(test=(intent.last_week[0].upper(),))
    with pytest.raises(ValueError, match="reword one of the two"):
        generator.check_templates_are_disjoint([leaked])


def test_one_in_a_hundred_training_labels_is_wrong_and_no_test_label(
    generator: ModuleType, rows: dict[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "LABEL_NOISE", 0)
    clean = generator.generate(7)
    wrong = {
        name: sum(row["intent"] != true.intent for row, true in zip(rows[name], clean[name], strict=True))
        for name in FILES
    }
    assert wrong == {"last_week.train.csv": 24, "this_week.train.csv": 33, "test.csv": 0}


def test_each_intent_has_dozens_of_templates_and_fifteen_for_test(generator: ModuleType) -> None:
    for intent in generator.load_intents():
        assert len(intent.test) == 15
        assert 50 <= len(intent.last_week + intent.this_week + intent.test) <= 62, intent.name


def test_the_data_set_stays_small() -> None:
    assert sum((FOLDER / name).stat().st_size for name in FILES) < 1_000_000
