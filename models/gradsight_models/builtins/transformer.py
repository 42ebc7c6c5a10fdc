"""The block that `text_transformer` and `gpt` are made of."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_DEVIATION = 0.02
_WIDENING = 4


class Block(nn.Module):
    """Attention, then a hidden layer for each token, both added to what came in.

    Normalization comes before each part (Xiong et al., On layer normalization in the transformer architecture, 2020):
    the residual path stays straight, so that depth trains without a long warm-up. Attention is torch's fused one. Its
    weights are not dropped, for that would leave the fused kernel; what is added to the residual path is.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.hidden_norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, _WIDENING * width)
        self.output = nn.Linear(_WIDENING * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor, seen: Tensor | None = None) -> Tensor:
        """Values [batch, tokens, width]; `seen`: bool [batch, 1, 1, tokens], False where a token is padding."""
        values = values + self.dropout(self._attend(self.attention_norm(values), seen))
        hidden = functional.gelu(self.hidden(self.hidden_norm(values)))
        result: Tensor = values + self.dropout(self.output(hidden))
        return result

    def _attend(self, values: Tensor, seen: Tensor | None) -> Tensor:
        batch, tokens, width = values.shape
        parts = self.query_key_value(values).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, is_causal=self.causal
        )
        mixed: Tensor = self.mix(attended.transpose(1, 2).reshape(batch, tokens, width))
        return mixed


def initialise(module: nn.Module, layers: int) -> None:
    """Small normal weights, biases of 0.

    What is added to the residual path is smaller by the root of how often that happens, so that its variance does not
    grow with depth (Radford et al., Language models are unsupervised multitask learners, 2019, section 2.3).
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            residual = name.endswith((".mix", ".output"))
            nn.init.normal_(part.weight, std=_DEVIATION / (math.sqrt(2 * layers) if residual else 1.0))
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=_DEVIATION)


def require_heads(width: int, heads: int) -> None:
    """Raise ValueError unless the heads divide the width."""
    if width % heads:
        raise ValueError(f"heads: got {heads}, allowed: a divisor of the width, {width}")


def places(ids: Tensor) -> Tensor:
    """0, 1, 2, … for the tokens of ids [batch, tokens]."""
    return torch.arange(ids.shape[1], device=ids.device)
