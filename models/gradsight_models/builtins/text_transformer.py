"""`text_transformer`: a transformer encoder over pieces of words, averaged over a text's own tokens."""

from dataclasses import dataclass

from torch import Tensor, nn

from gradsight_models.builtins.transformer import Block, initialise, places, require_heads
from gradsight_models.configuration import Configuration, within
from gradsight_models.token_preprocessing import PADDING


@dataclass(frozen=True, kw_only=True)
class TextTransformerConfig(Configuration):
    """Options of `text_transformer`."""

    layers: int = 2
    """Number of blocks: trained from scratch on thousands of texts, more learn them by heart."""
    width: int = 128
    """Width of the residual stream: a few dozen classes need no more, and a step stays in milliseconds."""
    heads: int = 4
    """Attention heads per block: 32 numbers each, about the fewest that still tell words apart."""
    dropout: float = 0.1
    """Share of units dropped in training: the usual one of encoders."""
    context_length: int = 128
    """Most tokens of a text that are read: a paragraph. Short texts cost less: the width is the longest of train."""
    max_vocabulary: int = 8000
    """Most pieces of words in the vocabulary: words of some frequency are one piece, embeddings stay trainable."""

    def __post_init__(self) -> None:
        within("layers", self.layers, 1, 96)
        within("width", self.width, 8, 16_384)
        within("heads", self.heads, 1, 256)
        require_heads(self.width, self.heads)
        within("dropout", self.dropout, 0.0, 1.0, open_end=True)
        within("context_length", self.context_length, 8, 8192)
        within("max_vocabulary", self.max_vocabulary, 256, 1_000_000)


class TextTransformer(nn.Module):
    """Embedded pieces, blocks, the mean over real tokens, a linear output.

    The mean learns from every token in every step; a token of its own that gathers a text's meaning needs more rows.
    """

    def __init__(
        self, config: TextTransformerConfig, vocabulary_size: int, tokens: int, output_size: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.position = nn.Embedding(tokens, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout, causal=False) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, output_size)
        initialise(self, config.layers)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids int32 [batch, tokens], 0 where padded, to scores [batch, output_size]."""
        real = ids != PADDING
        values = self.dropout(self.embedding(ids) + self.position(places(ids)))
        for block in self.blocks:
            values = block(values, real[:, None, None, :])
        counted = real.to(values.dtype).unsqueeze(2)
        mean = (self.norm(values) * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1.0)
        scores: Tensor = self.output(self.dropout(mean))
        return scores
