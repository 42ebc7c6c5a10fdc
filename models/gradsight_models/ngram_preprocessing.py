"""From texts to weighted n-grams: what `text_classifier` reads.

A text is lower-cased and split into words; its features are single words, pairs of neighbouring words, and the
character n-grams of each word with its borders marked, so that a slip of the finger or an unseen ending still shares
most features with what was seen. Each feature weighs (1 + log count) × idf, and a row's weights have length 1
(sublinear TF-IDF: Manning, Raghavan, Schütze, Introduction to Information Retrieval, section 6.4).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from gradsight_models.columns import Chunk, Chunks, Column, ColumnKind, Encoded

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
# No word of two or more characters contains it.
_NGRAM_MARK = "#"
_MOST_WIDTH = 2048
"""Features of one row: enough for several paragraphs."""
_ROWS_WITHIN = 0.9
"""Share of training rows that keep all their features: a single long text must not make every row wide."""
_MOST_COUNTED = 4_000_000
"""Features counted at a time while fitting: about half a gigabyte."""
_MOST_WORDS_REMEMBERED = 200_000


@dataclass(frozen=True, kw_only=True)
class NgramPreprocessing:
    """A vocabulary of n-grams with their inverse document frequencies, fitted on training texts only.

    `vocabulary` maps a feature to its id, from 1; id 0 is padding. `idf[id]` is the weight of a feature. `width` is how
    many features a row has room for; one with more keeps its heaviest. `char_ngrams` is the shortest and the longest
    character n-gram, `word_ngrams` the longest run of words.
    """

    vocabulary: dict[str, int]
    idf: tuple[float, ...]
    width: int
    word_ngrams: int = 2
    char_ngrams: tuple[int, int] = (2, 5)
    kind: str = field(default="ngrams", init=False)

    @classmethod
    def fit(
        cls,
        columns: Sequence[Column],
        chunks: Chunks,
        *,
        max_vocabulary: int,
        word_ngrams: int = 2,
        char_ngrams: tuple[int, int] = (2, 5),
    ) -> Self:
        """Keep the features that most training texts have, those of one text alone left out; ties by name.

        Two passes: the second finds the width. Raises ValueError unless there is one column, of texts.
        """
        name = require_one_column(columns, ColumnKind.TEXT).name
        features = _Features(word_ngrams, char_ngrams)
        frequency, rows = _document_frequency(name, chunks, features)
        ranked = sorted(frequency.items(), key=lambda item: (-item[1], item[0]))
        kept = [(feature, count) for feature, count in ranked[:max_vocabulary] if count > 1 or rows < 100]
        vocabulary = {feature: number for number, (feature, _) in enumerate(kept, start=1)}
        return cls(
            vocabulary=vocabulary,
            idf=(0.0, *(math.log((1 + rows) / (1 + count)) + 1 for _, count in kept)),
            width=_width(chunks, features, vocabulary),
            word_ngrams=word_ngrams,
            char_ngrams=char_ngrams,
        )

    @property
    def size(self) -> int:
        """Number of ids, padding included."""
        return len(self.idf)

    def encode(self, columns: Chunk) -> Encoded:
        """Texts to ids, int32 [rows, width], and weights, float32 [rows, width], padded with 0.

        A missing text has no features, like an empty one. Raises ValueError for a cell that is no text.
        """
        (texts,) = columns
        features = _Features(self.word_ngrams, self.char_ngrams)
        idf = np.asarray(self.idf, dtype=np.float32)
        ids = np.zeros((len(texts), self.width), dtype=np.int32)
        weights = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, text in enumerate(texts):
            row_ids, row_weights = self._row(features.of(_checked(text, row, "the text")), idf)
            ids[row, : len(row_ids)] = row_ids
            weights[row, : len(row_weights)] = row_weights
        return Encoded(inputs=(torch.from_numpy(ids), torch.from_numpy(weights)))

    def to_json(self) -> dict[str, Any]:
        """The documented JSON: `vocabulary` lists the features by id, from 1; `idf` their weights in that order."""
        return {
            "kind": self.kind,
            "word_ngrams": self.word_ngrams,
            "char_ngrams": list(self.char_ngrams),
            "width": self.width,
            "vocabulary": list(self.vocabulary),
            "idf": list(self.idf[1:]),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        shortest, longest = document["char_ngrams"]
        return cls(
            vocabulary={name: number for number, name in enumerate(document["vocabulary"], start=1)},
            idf=(0.0, *document["idf"]),
            width=document["width"],
            word_ngrams=document["word_ngrams"],
            char_ngrams=(shortest, longest),
        )

    def _row(
        self, features: Iterable[str], idf: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        known = [number for name in features if (number := self.vocabulary.get(name))]
        ids, counts = np.unique(np.asarray(known, dtype=np.int32), return_counts=True)
        weights = (1 + np.log(counts.astype(np.float32))) * idf[ids]
        if len(ids) > self.width:
            heaviest = np.sort(np.argsort(-weights, kind="stable")[: self.width])
            ids, weights = ids[heaviest], weights[heaviest]
        length = float(np.sqrt(np.square(weights).sum()))
        return ids, weights / length if length > 0 else weights


def require_one_column(columns: Sequence[Column], *kinds: ColumnKind) -> Column:
    """The one column of such a kind; raises ValueError for none, several or another kind."""
    allowed = " or ".join(kinds)
    if len(columns) != 1:
        raise ValueError(f"got {len(columns)} input columns, allowed: 1, of {allowed}")
    if columns[0].kind not in kinds:
        raise ValueError(f"column {columns[0].name!r}: got {columns[0].kind}, allowed: {allowed}")
    return columns[0]


def _document_frequency(name: str, chunks: Chunks, features: "_Features") -> tuple[Counter[str], int]:
    """In how many texts each feature is, and how many texts there are."""
    frequency: Counter[str] = Counter()
    rows = 0
    for (texts,) in chunks():
        for row, text in enumerate(texts):
            frequency.update(set(features.of(_checked(text, row, name))))
        rows += len(texts)
        if len(frequency) > _MOST_COUNTED:
            # What was met once by now is rare in all likelihood: dropping it keeps memory flat.
            frequency = Counter({feature: count for feature, count in frequency.items() if count > 1})
    return frequency, rows


def _width(chunks: Chunks, features: "_Features", vocabulary: Mapping[str, int]) -> int:
    """Features that most rows have, rounded up to a multiple of 8."""
    lengths = [len({*features.of(text or "")} & vocabulary.keys()) for (texts,) in chunks() for text in texts]
    wanted = math.ceil(float(np.quantile(lengths, _ROWS_WITHIN))) if lengths else 1
    return min(_MOST_WIDTH, -(-max(wanted, 1) // 8) * 8)


def _checked(text: object, row: int, name: str) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ValueError(f"column {name!r}: row {row + 1}: got {text!r}, allowed: a text")
    return text


class _Features:
    """The features of texts, remembering those of every word: texts share their words."""

    def __init__(self, word_ngrams: int, char_ngrams: tuple[int, int]) -> None:
        self._word_ngrams = word_ngrams
        self._shortest, self._longest = char_ngrams
        self._by_word: dict[str, list[str]] = {}

    def of(self, text: str) -> list[str]:
        words = _WORD.findall(text.lower())
        found: list[str] = []
        for word in words:
            of_word = self._by_word.get(word)
            if of_word is None:
                if len(self._by_word) >= _MOST_WORDS_REMEMBERED:
                    self._by_word.clear()
                of_word = self._by_word[word] = self._of_word(word)
            found += of_word
        for length in range(2, self._word_ngrams + 1):
            found += [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]
        return found

    def _of_word(self, word: str) -> list[str]:
        # The borders keep `<ing` (a beginning) apart from `ing>` (an ending), the mark keeps both apart from words.
        marked = f"<{word}>"
        ngrams = [
            _NGRAM_MARK + marked[start : start + length]
            for length in range(self._shortest, min(self._longest, len(marked) - 1) + 1)
            for start in range(len(marked) - length + 1)
        ]
        return [word, *ngrams]
