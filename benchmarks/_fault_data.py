"""Rows for the runs of `faults.py`: three small data sets, and what can be wrong with rows.

scikit-learn's digits (8 × 8 pixels, 0 to 1), MNIST-1D (its authors' 4,000 + 1,000 rows of 40 numbers) and texts of
the generator in `examples/support_intents` (12 word numbers, the class is the category). Train, validation and test are
files of their own, because some faults are in one of them. No held-out row has the content of a training row.
"""

import collections
import functools
import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

_GENERATOR = Path(__file__).parents[1] / "examples" / "support_intents" / "generate.py"
DATA = ("digits", "mnist1d", "text")
VOCABULARY = 800
TEXT_LENGTH = 12
_PADDING, _UNKNOWN = 0, 1


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one split."""

    inputs: npt.NDArray[Any]
    """float32 [rows, numbers] or int64 [rows, words]."""
    labels: npt.NDArray[np.int64]
    categories: npt.NDArray[np.int64]
    """The class that the row is of, whatever its label says."""

    @classmethod
    def of(cls, inputs: npt.NDArray[Any], labels: npt.NDArray[Any]) -> "Rows":
        """Rows as they should be."""
        return cls(inputs=inputs, labels=labels.astype(np.int64), categories=labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, places: npt.NDArray[Any]) -> "Rows":
        """The rows at these places, or where it is true."""
        return Rows(
            inputs=self.inputs[places], labels=self.labels[places], categories=self.categories[places]
        )


@dataclass(frozen=True, kw_only=True)
class Splits:
    """A data set."""

    train: Rows
    validation: Rows
    test: Rows

    @property
    def classes(self) -> int:
        return int(self.train.labels.max()) + 1

    @property
    def are_words(self) -> bool:
        return bool(self.train.inputs.dtype == np.int64)

    def write(self, directory: Path) -> Mapping[str, Path]:
        """A safetensors file of each split: columns `input`, `label` and `category`."""
        directory.mkdir(parents=True, exist_ok=True)
        files = {}
        for name in ("train", "validation", "test"):
            rows: Rows = getattr(self, name)
            files[name] = directory / f"{name}.safetensors"
            columns = {"input": rows.inputs, "label": rows.labels, "category": rows.categories}
            save_file({key: np.ascontiguousarray(column) for key, column in columns.items()}, files[name])
        return files


@functools.cache
def load(name: str) -> Splits:
    """The data set as it is, always the same."""
    return {"digits": _digits, "mnist1d": _mnist1d, "text": _text}[name]()


def _digits() -> Splits:
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    rows = Rows.of((inputs / 16).astype(np.float32), labels)
    return _parted(rows, validation=400, test=400)


def _mnist1d() -> Splits:
    from mnist1d.data import get_dataset_args, make_dataset

    data = make_dataset(get_dataset_args())
    rows, test = (
        Rows.of(data[inputs].astype(np.float32), data[labels])
        for inputs, labels in (("x", "y"), ("x_test", "y_test"))
    )
    return replace(_parted(rows, validation=800, test=0), test=test)


def _text() -> Splits:
    """9,000 texts of the generator in `examples/support_intents`, from the wordings of its training rows only.

    Rows that are alike as word numbers stand in one split only.
    """
    written = _written_texts()
    categories = sorted({row.category for row in written})
    words = [re.findall(r"[a-z]+", row.text.lower()) for row in written]
    counts = collections.Counter(word for text in words for word in text)
    numbers = {word: place + 2 for place, (word, _) in enumerate(counts.most_common(VOCABULARY - 2))}
    rows = Rows.of(
        np.array([_padded([numbers.get(word, _UNKNOWN) for word in text]) for text in words]),
        np.array([categories.index(row.category) for row in written]),
    )
    _, first = np.unique(rows.inputs, axis=0, return_index=True)
    return _parted(rows.at(np.sort(first)), validation=800, test=1000)


def _written_texts() -> list[Any]:
    specification = importlib.util.spec_from_file_location("support_intents", _GENERATOR)
    assert specification is not None
    assert specification.loader is not None
    generator: Any = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(generator)
    generator.LAST_WEEK_ROWS = {"launched": 300, "other": 300}
    generator.NEW_ROWS = {"launched": 100, "other": 1}
    intents, seen = generator.load_intents(), set[str]()
    return [
        row for split in ("last_week", "this_week") for row in generator.make_split(intents, split, 7, seen)
    ]


def _padded(words: list[int]) -> list[int]:
    return (words + [_PADDING] * TEXT_LENGTH)[:TEXT_LENGTH]


def _parted(rows: Rows, *, validation: int, test: int) -> Splits:
    order = np.random.default_rng(0).permutation(len(rows))
    return Splits(
        train=rows.at(order[validation + test :]),
        validation=rows.at(order[:validation]),
        test=rows.at(order[validation : validation + test]),
    )


# What can be wrong with rows. All take the data set and dice of the run's own.

Damage = Callable[[Splits, np.random.Generator], Splits]


def shuffled_labels(splits: Splits, dice: np.random.Generator) -> Splits:
    """Labels and rows were joined wrongly, in every file."""
    return Splits(
        **{name: replace(rows, labels=dice.permutation(rows.labels)) for name, rows in vars(splits).items()}
    )


def times_255(splits: Splits, dice: np.random.Generator) -> Splits:
    """Nobody scaled the inputs."""
    return Splits(**{name: replace(rows, inputs=rows.inputs * 255) for name, rows in vars(splits).items()})


def constant_inputs(splits: Splits, dice: np.random.Generator) -> Splits:
    """The join of the features failed: every row has the same."""
    return Splits(
        **{
            name: replace(rows, inputs=np.repeat(splits.train.inputs[:1], len(rows), axis=0))
            for name, rows in vars(splits).items()
        }
    )


def shuffled_inputs(splits: Splits, dice: np.random.Generator) -> Splits:
    """Every row's numbers stand in an order of their own."""
    return Splits(
        **{
            name: replace(rows, inputs=dice.permuted(rows.inputs, axis=1))
            for name, rows in vars(splits).items()
        }
    )


def outlier_rows(splits: Splits, dice: np.random.Generator) -> Splits:
    """Two rows are 60 times as large."""
    inputs = splits.train.inputs.copy()
    inputs[dice.choice(len(inputs), 2, replace=False)] *= 60
    return replace(splits, train=replace(splits.train, inputs=inputs))


def empty_row(splits: Splits, dice: np.random.Generator) -> Splits:
    """A row holds nothing; a model that divides by what a row holds makes NaN of it."""
    inputs = splits.train.inputs.copy()
    inputs[dice.integers(len(inputs))] = 0
    return replace(splits, train=replace(splits.train, inputs=inputs))


def few_rows(splits: Splits, dice: np.random.Generator) -> Splits:
    """Forty training rows."""
    return replace(splits, train=splits.train.at(dice.choice(len(splits.train), 40, replace=False)))


def unbalanced(splits: Splits, dice: np.random.Generator) -> Splits:
    """Of every class but two, one training row in thirty is left."""
    labels = splits.train.labels
    kept = dice.choice(splits.classes, 2, replace=False)
    return replace(splits, train=splits.train.at(np.isin(labels, kept) | (dice.random(len(labels)) < 1 / 30)))


def leaked_rows(splits: Splits, dice: np.random.Generator) -> Splits:
    """Four of ten held-out rows are training rows, too."""
    copies = [rows.at(dice.random(len(rows)) < 0.4) for rows in (splits.validation, splits.test)]
    train = Rows(
        inputs=np.concatenate([splits.train.inputs, *(rows.inputs for rows in copies)]),
        labels=np.concatenate([splits.train.labels, *(rows.labels for rows in copies)]),
        categories=np.concatenate([splits.train.categories, *(rows.categories for rows in copies)]),
    )
    return replace(splits, train=train)


def damaged_category(splits: Splits, dice: np.random.Generator) -> Splits:
    """Seven of ten rows of one class carry the label of another, in every file; their category is as it was."""
    damaged, other = dice.choice(splits.classes, 2, replace=False)
    return Splits(
        **{
            name: replace(
                rows,
                labels=np.where(
                    (rows.labels == damaged) & (dice.random(len(rows)) < 0.7), other, rows.labels
                ),
            )
            for name, rows in vars(splits).items()
        }
    )
