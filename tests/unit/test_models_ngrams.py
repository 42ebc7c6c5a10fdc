"""Texts as weighted n-grams."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from gradsight_models import Column, ColumnKind, NgramPreprocessing, preprocessing_from_json

TEXTS = ["where is my parcel", "my parcel is late", "these shoes are too small", "are they too small for me"]
TEXT = Column(name="text", kind=ColumnKind.TEXT)


def fitted(texts: Sequence[str | None], max_vocabulary: int = 1000) -> NgramPreprocessing:
    cells = np.array(texts, dtype=object)
    return NgramPreprocessing.fit(
        [TEXT], lambda: iter([[cells[:2]], [cells[2:]]]), max_vocabulary=max_vocabulary
    )


def encoded(preprocessing: NgramPreprocessing, texts: Sequence[object]) -> tuple[torch.Tensor, torch.Tensor]:
    ids, weights = preprocessing.encode([np.array(texts, dtype=object)]).inputs
    return ids, weights


def test_weights_have_length_one_and_unknown_text_has_none() -> None:
    _, weights = encoded(fitted(TEXTS), [TEXTS[0], "qqq", "", None])
    assert weights.norm(dim=1).tolist() == pytest.approx([1.0, 0.0, 0.0, 0.0])


def test_a_word_and_an_ngram_of_the_same_letters_are_two_features() -> None:
    ids, weights = encoded(fitted(["in the box", "in the box"]), ["in", "pin"])
    in_features, pin_features = ({*row[mask].tolist()} for row, mask in zip(ids, weights > 0, strict=True))
    assert in_features - pin_features


def test_the_width_does_not_depend_on_the_rows() -> None:
    preprocessing = fitted(TEXTS)
    for texts in (["a"], TEXTS, [" ".join(TEXTS) * 3]):
        ids, weights = encoded(preprocessing, texts)
        assert ids.shape == weights.shape == (len(texts), preprocessing.width)
        assert ids.dtype == torch.int32
        assert weights.dtype == torch.float32


def test_one_long_text_does_not_make_every_row_wide_and_keeps_its_heaviest_features() -> None:
    texts = [f"parcel number {n}" for n in range(400)]
    long = " ".join(f"word{n:03d}" for n in range(200))
    preprocessing = fitted([*texts, long, long])
    assert preprocessing.width < 100
    ids, weights = encoded(preprocessing, [long])
    assert (ids > 0).all()
    assert weights.norm().item() == pytest.approx(1.0)


def test_fitting_does_not_depend_on_the_chunks() -> None:
    cells = np.array(TEXTS, dtype=object)
    by_row = NgramPreprocessing.fit(
        [TEXT], lambda: iter([[cells[i : i + 1]] for i in range(4)]), max_vocabulary=50
    )
    assert by_row == fitted(TEXTS, 50)


def test_ngrams_survive_json() -> None:
    fit = fitted(TEXTS)
    again = preprocessing_from_json(json.loads(json.dumps(fit.to_json())))
    assert again == fit
    for left, right in zip(
        fit.encode([np.array(TEXTS, dtype=object)]).inputs,
        again.encode([np.array(TEXTS, dtype=object)]).inputs,
        strict=True,
    ):
        assert torch.equal(left, right)


def test_a_cell_that_is_no_text_is_named() -> None:
    with pytest.raises(ValueError, match="column 'text': row 1: got 5, allowed: a text"):
        fitted(["a", "b", 5])  # type: ignore[list-item]


def test_another_kind_or_number_of_columns_is_refused() -> None:
    number = Column(name="price", kind=ColumnKind.NUMBER)
    with pytest.raises(ValueError, match="column 'price': got number, allowed: text"):
        NgramPreprocessing.fit([number], lambda: iter(()), max_vocabulary=16)
    with pytest.raises(ValueError, match="got 2 input columns, allowed: 1"):
        NgramPreprocessing.fit([TEXT, TEXT], lambda: iter(()), max_vocabulary=16)
