"""Texts and tokens as ids: a vocabulary that repeats, windows that lose nothing."""

import json
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradsight_models import Column, ColumnKind, TokenForm, TokenPreprocessing, preprocessing_from_json
from gradsight_models.token_preprocessing import END, PADDING, UNCOUNTED

TEXT = Column(name="text", kind=ColumnKind.TEXT)
TEXTS = ["the parcel is late", "the <end> of the <padding>", "Grüße 🎉 naïve", "the parcel", "is it late"]
CLASSIFIER, LANGUAGE_MODEL = TokenForm.CLASSIFIER, TokenForm.LANGUAGE_MODEL


def fitted(
    form: TokenForm, texts: Sequence[str | None] = TEXTS, context_length: int = 8
) -> TokenPreprocessing:
    cells = np.array(texts, dtype=object)
    return TokenPreprocessing.fit(
        [TEXT],
        lambda: iter([[cells[:2]], [cells[2:]]]),
        form=form,
        context_length=context_length,
        max_vocabulary=300,
    )


def fitted_tokens(form: TokenForm, rows: list[list[int]], context_length: int = 8) -> TokenPreprocessing:
    cells = np.array(rows, dtype=np.int16)
    column = Column(name="tokens", kind=ColumnKind.TENSOR, dtype="int16", shape=cells.shape[1:])
    return TokenPreprocessing.fit(
        [column], lambda: iter([[cells]]), form=form, context_length=context_length, max_vocabulary=300
    )


def texts_of(*texts: object) -> list[np.ndarray[tuple[int, ...], np.dtype[np.object_]]]:
    return [np.array(texts, dtype=object)]


def test_a_classifier_reads_one_padded_sequence_a_row() -> None:
    preprocessing = fitted(CLASSIFIER)
    (ids,) = preprocessing.encode(texts_of("the parcel", "", None)).inputs
    assert ids.dtype == torch.int32
    assert ids.shape == (3, 8)
    assert ids[0, 0] == END
    assert ids[1].tolist() == ids[2].tolist() == [END, END, *[PADDING] * 6]


def test_the_width_is_the_longest_of_train_and_at_most_the_context() -> None:
    assert fitted(CLASSIFIER, ["a", "b"], context_length=512).width == 8
    long = fitted(CLASSIFIER, ["parcel " * 100, "b"], context_length=16)
    (ids,) = long.encode(texts_of("parcel " * 500)).inputs
    assert ids.shape == (1, 16)
    assert PADDING not in ids


@pytest.mark.parametrize("form", [CLASSIFIER, LANGUAGE_MODEL])
def test_a_text_that_spells_a_special_token_is_a_text(form: TokenForm) -> None:
    preprocessing = fitted(form)
    for text in ("<end>", "<padding>"):
        (ids,) = preprocessing.encode(texts_of(text)).inputs
        assert ids[0, 1] not in (PADDING, END)
        assert preprocessing.decode(ids[0].tolist()).strip().startswith(text[:4])


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_windows_hold_every_byte_and_know_what_comes_next(texts: list[str]) -> None:
    preprocessing = fitted(LANGUAGE_MODEL)
    encoded = preprocessing.encode(texts_of(*texts))
    (ids,) = encoded.inputs
    assert encoded.targets is not None
    assert encoded.owners is not None
    assert encoded.owners.tolist() == sorted(encoded.owners.tolist())
    for row, text in enumerate(texts):
        mine = encoded.owners == row
        own, targets = ids[mine].flatten(), encoded.targets[mine].flatten()
        counted = targets != UNCOUNTED
        assert own[0] == END
        assert targets[counted][-1] == END
        assert own[1 : int(counted.sum())].tolist() == targets[counted][:-1].tolist()
        assert preprocessing.decode(targets[counted].tolist()) == text


def test_tokens_that_are_given_are_taken_as_they_are() -> None:
    preprocessing = fitted_tokens(LANGUAGE_MODEL, [[5, 0, 7, 2, 9]], context_length=8)
    assert (preprocessing.size, preprocessing.width) == (10, 8)
    encoded = preprocessing.encode([np.array([[5, 0, 7, 2, 9]])])
    assert encoded.inputs[0].tolist() == [[5, 0, 7, 2, 0, 0, 0, 0]]
    assert encoded.targets is not None
    assert encoded.targets.tolist() == [[0, 7, 2, 9, *[UNCOUNTED] * 4]]
    classifier = fitted_tokens(CLASSIFIER, [[5, 0, 7]])
    assert classifier.size == 9
    assert classifier.encode([np.array([[5, 0, 7]])]).inputs[0].tolist() == [[6, 1, 8, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("token", [-1, 10])
def test_a_token_beyond_those_of_train_names_its_row(token: int) -> None:
    preprocessing = fitted_tokens(LANGUAGE_MODEL, [[5, 9]])
    with pytest.raises(ValueError, match=f"row 2: got token {token}, allowed: 0 to 9"):
        preprocessing.encode([np.array([[5, 9], [5, token]])])


def test_a_column_of_something_else_is_refused() -> None:
    for column in (
        Column(name="t", kind=ColumnKind.TENSOR, dtype="float32", shape=(4,)),
        Column(name="t", kind=ColumnKind.TENSOR, dtype="int32", shape=(1,)),
        Column(name="t", kind=ColumnKind.TENSOR, dtype="int32", shape=(2, 2)),
    ):
        with pytest.raises(ValueError, match=r"column 't': got .*, allowed: texts, or integers of shape"):
            TokenPreprocessing.fit(
                [column],
                lambda: iter(()),
                form=LANGUAGE_MODEL,
                context_length=8,
                max_vocabulary=300,
            )


def test_a_vocabulary_too_large_is_refused() -> None:
    with pytest.raises(
        ValueError, match="column 'tokens': got token 300, allowed: below max_vocabulary, 300"
    ):
        fitted_tokens(LANGUAGE_MODEL, [[300, 1]])


@pytest.mark.parametrize("form", [CLASSIFIER, LANGUAGE_MODEL])
def test_tokens_survive_json(form: TokenForm) -> None:
    fit = fitted(form)
    again = preprocessing_from_json(json.loads(json.dumps(fit.to_json())))
    assert again == fit
    assert torch.equal(again.encode(texts_of(*TEXTS)).inputs[0], fit.encode(texts_of(*TEXTS)).inputs[0])
    tokens = fitted_tokens(form, [[1, 2]])
    assert preprocessing_from_json(json.loads(json.dumps(tokens.to_json()))) == tokens


_FIT = """
import hashlib, json, random, numpy as np
from gradsight_models import Column, ColumnKind, TokenForm, TokenPreprocessing
draw = random.Random(5)
cells = np.array([" ".join(f"w{draw.randrange(60)}" for _ in range(12)) for _ in range(200)], dtype=object)
fit = TokenPreprocessing.fit([Column(name="t", kind=ColumnKind.TEXT)], lambda: iter([[cells]]),
    form=TokenForm.CLASSIFIER, context_length=64, max_vocabulary=330)
print(hashlib.sha256(json.dumps(fit.to_json()).encode()).hexdigest())
"""


def test_the_same_texts_give_the_same_vocabulary_in_every_process() -> None:
    digests = {
        subprocess.run([sys.executable, "-c", _FIT], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1
