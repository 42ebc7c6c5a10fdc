"""`gpt`: a causal transformer that foresees the next token."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from gradsight_models.builtins.transformer import Block, initialise, places, require_heads
from gradsight_models.configuration import Configuration, within


@dataclass(frozen=True, kw_only=True)
class GptConfig(Configuration):
    """Options of `gpt`."""

    layers: int = 4
    """Number of blocks: what a processor trains on a megabyte of text in minutes."""
    width: int = 256
    """Width of the residual stream: 64 for each block, the usual shape of small language models."""
    heads: int = 4
    """Attention heads per block: 64 numbers each, the size that fused kernels are made for."""
    context_length: int = 128
    """Tokens in one training sequence: about a hundred words; attention costs little up to there."""
    dropout: float = 0.1
    """Share of units dropped in training: small corpora are read many times."""
    max_vocabulary: int = 4096
    """Most pieces of words in the vocabulary: the scores over it are the largest product of a small model."""

    def __post_init__(self) -> None:
        within("layers", self.layers, 1, 96)
        within("width", self.width, 8, 16_384)
        within("heads", self.heads, 1, 256)
        require_heads(self.width, self.heads)
        within("context_length", self.context_length, 8, 8192)
        within("dropout", self.dropout, 0.0, 1.0, open_end=True)
        within("max_vocabulary", self.max_vocabulary, 256, 1_000_000)


class Gpt(nn.Module):
    """Embedded tokens, causal blocks, and scores by the embedding itself.

    One matrix reads and writes tokens (Press and Wolf, Using the output embedding to improve language models, 2017):
    half the parameters of a small model, and rare tokens learn from both sides. It is one parameter under one name.
    """

    def __init__(self, config: GptConfig, vocabulary_size: int, tokens: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, config.width)
        self.position = nn.Embedding(tokens, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.dropout, causal=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)
        initialise(self, config.layers)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids int32 [batch, tokens] to scores [batch, tokens, vocabulary]: of the token after each."""
        values = self.dropout(self.embedding(ids) + self.position(places(ids)))
        for block in self.blocks:
            values = block(values)
        return functional.linear(self.norm(values), self.embedding.weight)
