"""A trained model, ready to answer rows."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradsight_models.answers import Answer, TokensPrediction, answers_of, token_answers, window_losses
from gradsight_models.columns import Chunk, Column, Encoded
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.rows import Row, chunk_of
from gradsight_models.source import ModelSource
from gradsight_models.token_preprocessing import END, PADDING, TokenPreprocessing

_BATCH = 256
"""Rows answered at a time: memory stays flat, matrices are large enough."""
_WINDOWS = 32
"""The same of windows of a language model."""

Prompt = str | Sequence[int]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A result, ready to answer. `figures` is what the trainer wrote about the run."""

    module: nn.Module
    source: ModelSource
    columns: tuple[Column, ...]
    """The input columns, in the order in which the model reads them."""
    preprocessing: Preprocessing
    outputs: Outputs
    figures: Mapping[str, Any]

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Names of `columns`."""
        return tuple(column.name for column in self.columns)

    def predict(self, rows: Sequence[Row], *, most: int = 3, threshold: float = 0.5) -> list[Answer]:
        """Answer rows: dicts with the input columns, or bare values where the model reads one column.

        A number may be None (missing, handled as in training); an image is an array, the bytes of a PNG or JPEG
        file, or its path. Classes give `Prediction`, labels `LabelsPrediction`, numbers `NumberPrediction`, a language
        model `TokensPrediction`.

        Args:
            rows: What to answer.
            most: How many classes each answer lists.
            threshold: Probability from which on a label holds, 0 to 1.

        Raises:
            ValueError: A row lacks an input column or has a value of another kind; row and column are named.
        """
        if not rows:
            return []
        encoded = self.encode(rows)
        if encoded.targets is not None and encoded.owners is not None:
            return list(self._token_answers(encoded, encoded.targets, encoded.owners, len(rows)))
        return list(answers_of(self._scores(encoded), self.outputs, most=most, threshold=threshold))

    def next_tokens(self, prompt: Prompt, *, most: int = 3) -> list[tuple[str | int, float]]:
        """The most probable next tokens of a language model with their probabilities (0 to 1), best first.

        A prompt is a text, or a list of tokens where the model was trained on tokens; so are the answers. The end of a
        text is `""`.
        """
        tokens = self._tokens
        values, ids = self._next(tokens, tokens.encode_prompt(prompt)).softmax(dim=0).topk(most)
        named = [token if tokens.tokenizer is None else tokens.decode([token]) for token in ids.tolist()]
        return list(zip(named, values.tolist(), strict=True))

    def generate(
        self, prompt: Prompt = "", tokens: int = 50, *, temperature: float = 1.0, seed: int = 0
    ) -> str | list[int]:
        """What a language model goes on with, the prompt left out, up to the end of the text.

        Args:
            prompt: As in `next_tokens`.
            tokens: At most how many.
            temperature: 0 takes the most probable token each time; 1 draws as often as the model thinks right.
            seed: Of the draws, which are the caller's own: no other random numbers move.
        """
        preprocessing = self._tokens
        ids = preprocessing.encode_prompt(prompt)
        start = len(ids)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(tokens):
            token = _draw(self._next(preprocessing, ids), temperature, generator)
            if preprocessing.tokenizer is not None and token == END:
                break
            ids.append(token)
        return ids[start:] if preprocessing.tokenizer is None else preprocessing.decode(ids[start:])

    def encode(self, rows: Sequence[Row]) -> Encoded:
        """Rows as the module takes them. Raises ValueError that names row and column."""
        optional: frozenset[str] = getattr(self.preprocessing, "optional", frozenset())
        return self.preprocessing.encode(chunk_of(rows, self.columns, optional=optional))

    def scores(self, chunk: Chunk) -> Tensor:
        """Scores of a chunk of the input columns, encoded row by encoded row, on the processor."""
        return self._scores(self.preprocessing.encode(chunk))

    @property
    def _tokens(self) -> TokenPreprocessing:
        """The preprocessing of a language model; raises TypeError for another model."""
        if self.outputs.kind != "tokens" or not isinstance(self.preprocessing, TokenPreprocessing):
            raise TypeError(
                f"this model answers with {self.outputs.kind}; only a language model goes on with a text"
            )
        return self.preprocessing

    def _next(self, preprocessing: TokenPreprocessing, ids: list[int]) -> Tensor:
        """Scores [size] of what comes after the ids, of which the last `width` are read."""
        window = torch.tensor([ids[-preprocessing.width :]], dtype=torch.int32)
        with _answering(self.module):
            scores: Tensor = self.module(window)[0, -1]
        if preprocessing.tokenizer is not None:
            scores[PADDING] = -math.inf
        return scores

    def _token_answers(
        self, encoded: Encoded, targets: Tensor, owners: npt.NDArray[np.int64], rows: int
    ) -> list[TokensPrediction]:
        """A few windows at a time: scores over a vocabulary are large."""
        losses = []
        for start in range(0, len(targets), _WINDOWS):
            part = slice(start, start + _WINDOWS)
            scores = self._scores(Encoded(inputs=tuple(values[part] for values in encoded.inputs)))
            losses.append(window_losses(scores, targets[part]))
        return token_answers(torch.cat(losses), targets, owners, rows=rows)

    def _scores(self, encoded: Encoded) -> Tensor:
        rows = len(encoded.inputs[0])
        with _answering(self.module):
            parts = [
                self.module(*(part[start : start + _BATCH] for part in encoded.inputs))
                for start in range(0, max(rows, 1), _BATCH)
            ]
        return torch.cat(parts)


def _draw(scores: Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature <= 0:
        return int(scores.argmax())
    return int(torch.multinomial((scores / temperature).softmax(dim=0), 1, generator=generator))


@contextmanager
def _answering(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every part is left in the mode it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True
