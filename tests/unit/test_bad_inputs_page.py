"""docs/bad-inputs.md has every row of the matrix, and every test that it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    line
    for line in (ROOT / "docs" / "bad-inputs.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| B\d+ ", line)
]


def test_every_row_of_the_matrix_is_there_and_answered_somewhere() -> None:
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in LINES]
    assert {row[0] for row in rows} == {f"B{number}" for number in range(20, 50)}
    for _, _, where, answer, _ in rows:
        assert {"edge", "prepare", "–"} & set(re.split(r"[ ,]", where))
        assert answer


@pytest.mark.parametrize("named", sorted(set(re.findall(r"`(test_\w+\.py(?:::\w+)?)`", "\n".join(LINES)))))
def test_a_test_that_is_named_exists(named: str) -> None:
    file, _, test = named.partition("::")
    (path,) = (ROOT / "tests").rglob(file)
    assert f"def {test}(" in path.read_text(encoding="utf-8") or not test
