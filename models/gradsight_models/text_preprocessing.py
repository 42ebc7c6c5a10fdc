"""From texts to weighted n-grams: what `text_classifier` reads.

A text is lower-cased and split into words; its features are single words, pairs of neighbouring words, and the
character n-grams of each word with its borders marked, so that a slip of the finger or an unseen ending still shares
most features with what was seen. Each feature weighs (1 + log count) × idf, and a row's weights have length 1
(sublinear TF-IDF: Manning, Raghavan, Schütze, Introduction to Information Retrieval, section 6.4).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import torch

_WORD = re.compile(r"[^\W_]+|[^\w\s]")
# Longer texts keep their heaviest features: enough for several paragraphs, and it bounds the padded width.
_MOST_FEATURES = 2048
# No word of two or more characters contains it.
_NGRAM_MARK = "#"


@dataclass(frozen=True, kw_only=True)
class TextPreprocessing:
    """A vocabulary of n-grams with their inverse document frequencies, fitted on training texts only.

    `vocabulary` maps a feature to its id, from 1; id 0 is padding. `idf[id]` is the weight of a feature. `char_ngrams`
    is the shortest and the longest character n-gram, `word_ngrams` the longest run of words.
    """

    vocabulary: dict[str, int]
    idf: tuple[float, ...]
    word_ngrams: int = 2
    char_ngrams: tuple[int, int] = (2, 5)
    kind: str = field(default="text", init=False)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        *,
        max_vocabulary: int,
        word_ngrams: int = 2,
        char_ngrams: tuple[int, int] = (2, 5),
    ) -> Self:
        """Keep the features that most training texts have, those of one text alone left out; ties by name."""
        features = _Features(word_ngrams, char_ngrams)
        frequency: Counter[str] = Counter()
        for row, text in enumerate(texts, start=1):
            frequency.update(set(features.of(_checked(text, row))))
        ranked = sorted(frequency.items(), key=lambda item: (-item[1], item[0]))
        kept = [(name, count) for name, count in ranked[:max_vocabulary] if count > 1 or len(texts) < 100]
        idf = [math.log((1 + len(texts)) / (1 + count)) + 1 for _, count in kept]
        vocabulary = {name: number for number, (name, _) in enumerate(kept, start=1)}
        return cls(vocabulary=vocabulary, idf=(0.0, *idf), word_ngrams=word_ngrams, char_ngrams=char_ngrams)

    @property
    def size(self) -> int:
        """Number of ids, padding included."""
        return len(self.idf)

    def encode(self, columns: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, ...]:
        """One column of texts to ids, int32 [rows, width], and weights, float32 [rows, width], padded with 0."""
        (texts,) = columns
        features = _Features(self.word_ngrams, self.char_ngrams)
        idf = np.asarray(self.idf, dtype=np.float32)
        rows = [self._row(features.of(_checked(text, row)), idf) for row, text in enumerate(texts, start=1)]
        width = max((len(ids) for ids, _ in rows), default=0) or 1
        ids = np.zeros((len(rows), width), dtype=np.int32)
        weights = np.zeros((len(rows), width), dtype=np.float32)
        for number, (row_ids, row_weights) in enumerate(rows):
            ids[number, : len(row_ids)] = row_ids
            weights[number, : len(row_weights)] = row_weights
        return torch.from_numpy(ids), torch.from_numpy(weights)

    def to_json(self) -> dict[str, Any]:
        """The documented JSON: `vocabulary` lists the features by id, from 1; `idf` their weights in that order."""
        return {
            "kind": self.kind,
            "word_ngrams": self.word_ngrams,
            "char_ngrams": list(self.char_ngrams),
            "vocabulary": list(self.vocabulary),
            "idf": list(self.idf[1:]),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """The inverse of `to_json`."""
        shortest, longest = document["char_ngrams"]
        return cls(
            vocabulary={name: number for number, name in enumerate(document["vocabulary"], start=1)},
            idf=(0.0, *document["idf"]),
            word_ngrams=document["word_ngrams"],
            char_ngrams=(shortest, longest),
        )

    def _row(self, features: Iterable[str], idf: "np.ndarray[Any, np.dtype[np.float32]]") -> tuple[Any, Any]:
        known = [number for name in features if (number := self.vocabulary.get(name))]
        ids, counts = np.unique(np.asarray(known, dtype=np.int32), return_counts=True)
        weights = (1 + np.log(counts.astype(np.float32))) * idf[ids]
        if len(ids) > _MOST_FEATURES:
            heaviest = np.sort(np.argsort(-weights, kind="stable")[:_MOST_FEATURES])
            ids, weights = ids[heaviest], weights[heaviest]
        length = float(np.sqrt(np.square(weights).sum()))
        return ids, weights / length if length > 0 else weights


def _checked(text: object, row: int) -> str:
    if not isinstance(text, str):
        raise ValueError(f"row {row}: got {text!r}, allowed: a text")
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
