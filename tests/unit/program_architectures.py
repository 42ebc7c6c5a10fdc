"""Modules as people write them, small: what programs are proved on."""

# mypy: disable-error-code="no-any-return"

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own custom)
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A module and how to feed it."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], tuple[Tensor, ...]]
    output: str | None = None
    names: tuple[str, ...] | None = None

    def scores(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """What the module itself gives for the scores."""
        call = dict(zip(self.names, inputs, strict=True)) if self.names else None
        result: Any = module(**call) if call else module(*inputs)
        if self.output is not None:
            result = result[self.output]
        return result if isinstance(result, Tensor) else result[0]


class Mlp(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


class Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        return F.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )
        self.blocks = nn.Sequential(Residual(8, 8, 1), Residual(8, 16, 2))
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(self.stem(image))
        return self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.position = nn.Parameter(torch.randn(1, 5, 16) * 0.02)
        layer = nn.TransformerEncoderLayer(16, 2, 32, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        return self.head(self.encoder(x)[:, 0])


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.LSTM | nn.GRU]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 6, padding_idx=0)
        self.cells = kind(6, 5, num_layers=2, dropout=0.1, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        steps, _ = self.cells(self.embedding(tokens))
        return self.head(steps.mean(dim=1))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self.block(1, 4), self.block(4, 8)
        self.middle = self.block(8, 8)
        self.up2 = nn.ConvTranspose2d(8, 8, 2, 2)
        self.join2 = self.block(16, 4)
        self.join1 = self.block(8, 4)
        self.head = nn.Conv2d(4, 2, 1)

    @staticmethod
    def block(channels: int, out: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(2, out), nn.SiLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        deep = self.middle(F.avg_pool2d(second, 2))
        up = self.join2(torch.cat([self.up2(deep), second], 1))
        up = F.interpolate(up, scale_factor=2, mode="bilinear", align_corners=False)
        up = F.pad(up, (0, x.shape[-1] - up.shape[-1], 0, x.shape[-2] - up.shape[-2]))
        return self.head(self.join1(torch.cat([up, first], 1))).flatten(1)


class FTTransformer(nn.Module):
    """Numbers and categories as tokens, after Gorishniy et al. 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8))
        self.bias = nn.Parameter(torch.zeros(4, 8))
        self.categories = nn.Embedding(11, 8)
        self.offsets: Tensor
        self.register_buffer("offsets", torch.tensor([0, 5]))
        self.cls = nn.Parameter(torch.randn(8))
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.forward1, self.forward2 = nn.Linear(8, 32), nn.Linear(16, 8)
        self.head = nn.Sequential(nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, numbers: Tensor, categories: Tensor) -> Tensor:
        x = self.weight[None] * numbers[..., None] + self.bias
        x = torch.cat(
            [self.cls.expand(x.shape[0], 1, -1), x, self.categories(categories + self.offsets)], dim=1
        )
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        hidden, gate = self.forward1(self.norm2(x)).chunk(2, dim=-1)
        return self.head((x + self.forward2(hidden * F.gelu(gate)))[:, 0])


class Rotary(nn.Module):
    """A causal model with tied weights, a mask made anew, a region without gradients and constants in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 8)
        self.qkv = nn.Linear(8, 24)
        self.norm = nn.RMSNorm(8)
        self.head = nn.Linear(8, 30, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        rows, steps = tokens.shape
        x = self.embedding(tokens) * math.sqrt(8)
        with torch.no_grad():
            angles = torch.arange(steps, device=tokens.device)[:, None] * torch.tensor([1.0, 0.5, 0.25, 0.1])
            scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-3)
        q, k, v = self.qkv(self.norm(x / scale)).view(rows, steps, 3, 2, 4).permute(2, 0, 3, 1, 4)
        q = torch.cat([q[..., 2:], -q[..., :2]], -1) * angles.sin() + q * angles.cos()
        mask = torch.full((steps, steps), float("-inf"), device=tokens.device).triu(1)
        weights = (q @ k.transpose(-1, -2) / 2 + mask).softmax(-1)
        return self.head(x + (weights @ v).transpose(1, 2).reshape(rows, steps, 8))


def bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_labels=3,
        max_position_embeddings=16,
    )  # fmt: skip
    module: nn.Module = BertForSequenceClassification(config)
    return module


def gpt() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, use_cache=False)
    module: nn.Module = GPT2LMHeadModel(config)
    return module


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16, use_cache=False, tie_word_embeddings=True,
    )  # fmt: skip
    module: nn.Module = LlamaForCausalLM(config)
    return module


def tokens(size: int, steps: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda rows: (torch.randint(1, size, (rows, steps)),)


def images(channels: int, side: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda rows: (torch.randn(rows, channels, side, side),)


def tokens_and_mask(rows: int) -> tuple[Tensor, ...]:
    mask = torch.ones(rows, 7, dtype=torch.int64)
    mask[:, 5:] = 0
    return torch.randint(0, 50, (rows, 7)), mask


ARCHITECTURES = {
    "mlp": Architecture(make=Mlp, inputs=lambda rows: (torch.randn(rows, 8),)),
    "resnet": Architecture(make=ResNet, inputs=images(3, 8)),
    "vit": Architecture(make=ViT, inputs=images(3, 8)),
    "lstm": Architecture(make=lambda: Recurrent(nn.LSTM), inputs=tokens(20, 5)),
    "gru": Architecture(make=lambda: Recurrent(nn.GRU), inputs=tokens(20, 5)),
    "unet": Architecture(make=UNet, inputs=images(1, 8)),
    "ft_transformer": Architecture(
        make=FTTransformer, inputs=lambda rows: (torch.randn(rows, 4), torch.randint(0, 5, (rows, 2)))
    ),
    "rotary": Architecture(make=Rotary, inputs=tokens(30, 6)),
}
FROM_TRANSFORMERS = {
    "bert": Architecture(
        make=bert, inputs=tokens_and_mask, output="logits", names=("input_ids", "attention_mask")
    ),
    "gpt": Architecture(make=gpt, inputs=tokens(40, 6), output="logits", names=("input_ids",)),
    "llama": Architecture(make=llama, inputs=tokens(40, 6), output="logits", names=("input_ids",)),
}
