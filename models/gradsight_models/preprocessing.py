"""What every preprocessing offers: columns in, tensors out, JSON both ways."""

from typing import Any, Protocol

from gradsight_models.columns import Chunk, Encoded


class Preprocessing(Protocol):
    """Fitted on training rows only; saved with the result, so that prediction sees what training saw."""

    @property
    def kind(self) -> str:
        """What reads its JSON: `table`, `ngrams`, `tokens`, `images`, `tensors`."""
        ...

    def encode(self, columns: Chunk) -> Encoded:
        """A chunk of the input columns to the model's input tensors, rows first.

        Raises ValueError that names row (from 1 within the chunk) and column (from 1) where a value cannot be used.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """The documented JSON."""
        ...
