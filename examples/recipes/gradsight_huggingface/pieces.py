"""Texts as the ids of a pretrained tokenizer, all of one width."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch

from gradsight_models.columns import Chunk, Chunks, Column, ColumnKind, Encoded


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """A preprocessing of a recipe's own: gradsight gives its JSON back to the recipe to read."""

    tokenizer: str
    """JSON of the `tokenizers` library."""
    padding: int
    """Id that fills short texts."""
    width: int
    """Tokens of every text: the longest of train, at most what the spec allows."""
    kind: str = field(default="recipe", init=False)

    @classmethod
    def fit(
        cls, columns: Sequence[Column], chunks: Chunks, *, tokenizer: str, padding: int, max_length: int
    ) -> Self:
        """Find the width. Raises ValueError unless there is one column of texts."""
        if len(columns) != 1 or columns[0].kind is not ColumnKind.TEXT:
            got = ", ".join(f"{column.name} ({column.kind})" for column in columns)
            raise ValueError(f"got columns {got or 'none'}, allowed: one column of texts")
        widest = cls(tokenizer=tokenizer, padding=padding, width=max_length)
        longest = 1
        for chunk in chunks():
            _, mask = widest.encode(chunk).inputs
            longest = max(longest, int(mask.sum(1).max()) if len(mask) else 1)
        return cls(tokenizer=tokenizer, padding=padding, width=longest)

    def encode(self, columns: Chunk) -> Encoded:
        """Ids, int32 [rows, width], and where there is one, bool [rows, width]. A missing text is an empty one."""
        texts = ["" if cell is None else cell for cell in columns[0].tolist()]
        encodings = self._library_tokenizer.encode_batch(texts)
        ids = torch.tensor([encoding.ids for encoding in encodings], dtype=torch.int32)
        mask = torch.tensor([encoding.attention_mask for encoding in encodings], dtype=torch.bool)
        return Encoded(inputs=(ids.view(-1, self.width), mask.view(-1, self.width)))

    def to_json(self) -> dict[str, Any]:
        """`width`, `padding`, and the tokenizer's own document."""
        tokenizer = json.loads(self.tokenizer)
        return {"kind": self.kind, "width": self.width, "padding": self.padding, "tokenizer": tokenizer}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        tokenizer = json.dumps(document["tokenizer"])
        return cls(tokenizer=tokenizer, padding=document["padding"], width=document["width"])

    @cached_property
    def _library_tokenizer(self) -> Any:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_str(self.tokenizer)
        tokenizer.enable_truncation(self.width)
        tokenizer.enable_padding(length=self.width, pad_id=self.padding)
        return tokenizer
