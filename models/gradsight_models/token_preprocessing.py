"""From texts or tokens to ids of a fixed width: what `text_transformer` and `gpt` read.

Texts are cut into pieces of words by byte-level BPE (Sennrich, Haddow and Birch, Neural machine translation of rare
words with subword units, 2016), learnt on the training texts: frequent words are one token, and no text is unknown, for
every byte is one at worst. A column of integers is taken for tokens as it is.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from types import ModuleType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from gradsight_models.columns import Chunk, Chunks, Column, ColumnKind, Encoded
from gradsight_models.ngram_preprocessing import require_one_column

PADDING = 0
END = 1
"""Begins and ends every text."""
UNCOUNTED = -100
"""Target where no token is expected."""
_SPECIAL = ("<padding>", "<end>")
_MULTIPLE = 8
_MOST_TEXTS_LEARNT = 1_000_000
"""Texts that the pieces are learnt from: more change nothing but the time it takes."""


class TokenForm(StrEnum):
    """What a row becomes."""

    CLASSIFIER = "classifier"
    """One sequence, cut at the width; 0 pads it."""
    LANGUAGE_MODEL = "language_model"
    """Windows of the width one after the other, each with the tokens that come next as targets."""


@dataclass(frozen=True, kw_only=True)
class TokenPreprocessing:
    """A vocabulary of pieces, or none where the column has tokens already."""

    form: TokenForm
    width: int
    """Tokens in a sequence: the longest of train, at most the model's context."""
    size: int
    """Number of ids, padding included."""
    tokenizer: str | None
    """JSON of the `tokenizers` library; None: rows are integers."""
    kind: str = field(default="tokens", init=False)

    @classmethod
    def fit(
        cls,
        columns: Sequence[Column],
        chunks: Chunks,
        *,
        form: TokenForm,
        context_length: int,
        max_vocabulary: int,
    ) -> Self:
        """Learn the pieces, or find the largest token; then the width. The same texts give the same vocabulary.

        `max_vocabulary` counts pieces: padding and end come on top. Raises ValueError unless there is one column, of
        texts or of integers [tokens].
        """
        column = require_one_column(columns, ColumnKind.TEXT, ColumnKind.TENSOR)
        if column.kind is ColumnKind.TEXT:
            tokenizer = _learn(chunks, max_vocabulary, lower=form is TokenForm.CLASSIFIER)
            size = tokenizer.get_vocab_size()
            document = tokenizer.to_str()
        else:
            _require_tokens(column, form)
            size = _largest_token(column, chunks, max_vocabulary) + 1 + (form is TokenForm.CLASSIFIER)
            document = None
        widest = cls(form=form, width=context_length, size=size, tokenizer=document)
        return cls(form=form, width=widest._needed_width(chunks), size=size, tokenizer=document)

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length, so that padding is met."""
        return self.tokenizer is not None

    def encode(self, columns: Chunk) -> Encoded:
        """Ids, int32 [encoded rows, width]; windows with their targets and owners for a language model.

        A missing text is an empty one. Raises ValueError for a cell that is no text, or a token beyond those of train.
        """
        (cells,) = columns
        sequences = self._sequences(cells)
        if self.form is TokenForm.LANGUAGE_MODEL:
            return self._windows(sequences)
        ids = np.full((len(cells), self.width), PADDING, dtype=np.int32)
        for row, sequence in enumerate(sequences):
            kept = sequence[: self.width]
            ids[row, : len(kept)] = kept
        return Encoded(inputs=(torch.from_numpy(ids),))

    def encode_prompt(self, prompt: str | Sequence[int]) -> list[int]:
        """A beginning that a language model goes on with, as ids. Raises ValueError for one that it cannot read."""
        if self.tokenizer is None:
            if isinstance(prompt, str) or not len(prompt):
                raise ValueError(
                    f"prompt: got {prompt!r}, allowed: at least one token, as a list of integers"
                )
            self._require_known(np.asarray(prompt, dtype=np.int64).reshape(1, -1))
            return [int(token) for token in prompt]
        if not isinstance(prompt, str):
            raise ValueError(f"prompt: got {prompt!r}, allowed: a text")
        return [END, *self._library_tokenizer.encode(prompt).ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; without a tokenizer, the numbers with blanks between them."""
        if self.tokenizer is None:
            return " ".join(map(str, ids))
        text: str = self._library_tokenizer.decode([token for token in ids if token >= len(_SPECIAL)])
        return text

    def to_json(self) -> dict[str, Any]:
        """`form`, `width`, `size`, and `tokenizer`: the document that the `tokenizers` library reads, or null."""
        return {
            "kind": self.kind,
            "form": str(self.form),
            "width": self.width,
            "size": self.size,
            "tokenizer": None if self.tokenizer is None else json.loads(self.tokenizer),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        tokenizer = document["tokenizer"]
        read = cls(
            form=TokenForm(document["form"]),
            width=document["width"],
            size=document["size"],
            tokenizer=None
            if tokenizer is None
            else _library().Tokenizer.from_str(json.dumps(tokenizer)).to_str(),
        )
        if read.tokenizer is not None and read._library_tokenizer.get_vocab_size() != read.size:
            raise ValueError(f"preprocessing: got size {read.size}, which is not the tokenizer's")
        return read

    @cached_property
    def _library_tokenizer(self) -> Any:
        return _library().Tokenizer.from_str(self.tokenizer)

    def _sequences(self, cells: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.int64]]:
        """Every row's ids: texts between two ends."""
        if self.tokenizer is not None:
            texts = [_checked(cell, row) for row, cell in enumerate(cells.tolist())]
            for encoding in self._library_tokenizer.encode_batch(texts):
                yield np.array([END, *encoding.ids, END], dtype=np.int64)
            return
        self._require_known(cells)
        # A classifier's 0 pads.
        yield from cells.astype(np.int64) + (self.form is TokenForm.CLASSIFIER)

    def _require_known(self, tokens: npt.NDArray[Any]) -> None:
        known = self.size - (self.form is TokenForm.CLASSIFIER)
        bad = np.argwhere((tokens < 0) | (tokens >= known))
        if len(bad):
            row, place = bad[0]
            raise ValueError(
                f"column 1: row {row + 1}: got token {tokens[row, place]}, "
                f"allowed: 0 to {known - 1}, the largest of train"
            )

    def _windows(self, sequences: Iterator[npt.NDArray[np.int64]]) -> Encoded:
        ids: list[npt.NDArray[np.int64]] = []
        targets: list[npt.NDArray[np.int64]] = []
        owners: list[int] = []
        for row, sequence in enumerate(sequences):
            windows = -(-(len(sequence) - 1) // self.width)
            ids.append(_padded(sequence[:-1], windows * self.width, PADDING))
            targets.append(_padded(sequence[1:], windows * self.width, UNCOUNTED))
            owners += [row] * windows
        return Encoded(
            inputs=(torch.from_numpy(self._stacked(ids).astype(np.int32)),),
            targets=torch.from_numpy(self._stacked(targets)),
            owners=np.array(owners, dtype=np.int64),
        )

    def _stacked(self, windows: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
        empty = np.zeros(0, dtype=np.int64)
        return np.concatenate([empty, *windows]).reshape(-1, self.width)

    def _needed_width(self, chunks: Chunks) -> int:
        """The longest row's, rounded up, at most the present one."""
        longest = 1
        for (cells,) in chunks():
            for sequence in self._sequences(cells):
                longest = max(longest, len(sequence) - (self.form is TokenForm.LANGUAGE_MODEL))
            if longest >= self.width:
                return self.width
        return min(self.width, -(-longest // _MULTIPLE) * _MULTIPLE)


def _learn(chunks: Chunks, max_vocabulary: int, *, lower: bool) -> Any:
    """Byte-level BPE over the training texts; a classifier's ignores case, a language model's keeps every byte."""
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    if lower:
        tokenizer.normalizer = library.normalizers.Sequence(
            [library.normalizers.NFKC(), library.normalizers.Lowercase()]
        )
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=lower)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=max_vocabulary + len(_SPECIAL),
        min_frequency=2,
        special_tokens=list(_SPECIAL),
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_learning_texts(chunks), trainer)
    # Padding and end stay in the vocabulary but are not looked for: a text that spells one is a text.
    document = json.loads(tokenizer.to_str()) | {"added_tokens": []}
    return library.Tokenizer.from_str(json.dumps(document))


def _learning_texts(chunks: Chunks) -> Iterator[list[str]]:
    learnt = 0
    for (cells,) in chunks():
        yield [_checked(cell, row) for row, cell in enumerate(cells.tolist())]
        learnt += len(cells)
        if learnt >= _MOST_TEXTS_LEARNT:
            return


def _require_tokens(column: Column, form: TokenForm) -> None:
    least = 2 if form is TokenForm.LANGUAGE_MODEL else 1
    if np.dtype(column.dtype).kind not in "iu" or len(column.shape) != 1 or column.shape[0] < least:
        raise ValueError(
            f"column {column.name!r}: got {column.dtype} of shape {list(column.shape)} a row, "
            f"allowed: texts, or integers of shape [tokens], at least {least}"
        )


def _largest_token(column: Column, chunks: Chunks, max_vocabulary: int) -> int:
    largest = 0
    for (cells,) in chunks():
        if len(cells):
            if int(cells.min()) < 0:
                raise ValueError(f"column {column.name!r}: got token {cells.min()}, allowed: 0 and above")
            largest = max(largest, int(cells.max()))
    if largest >= max_vocabulary:
        raise ValueError(
            f"column {column.name!r}: got token {largest}, allowed: below max_vocabulary, {max_vocabulary}"
        )
    return largest


def _checked(cell: object, row: int) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise ValueError(f"column 1: row {row + 1}: got {cell!r}, allowed: a text")
    return cell


def _padded(values: npt.NDArray[np.int64], length: int, filler: int) -> npt.NDArray[np.int64]:
    return np.pad(values, (0, length - len(values)), constant_values=filler)


def _library() -> ModuleType:
    """The `tokenizers` library, on one thread: its pool would not survive a fork, and order must not depend on it."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tokenizers
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.normalizers
    import tokenizers.pre_tokenizers
    import tokenizers.trainers

    return tokenizers
