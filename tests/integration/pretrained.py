"""A tiny pretrained model as Hugging Face saves one: random weights, and a tokenizer of the words it is given."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch


def require_transformers() -> None:
    """Skip where `transformers` is not installed; CI has it."""
    if os.environ.get("CI") == "true":
        import peft
        import transformers

        assert peft.__version__ and transformers.__version__  # noqa: PT018
    else:
        pytest.importorskip("transformers")
        pytest.importorskip("peft")


def make_bert(directory: Path, texts: Iterable[str], *, width: int = 32, layers: int = 2) -> Path:
    """Write a BERT that knows the words of the texts."""
    import tokenizers
    import tokenizers.models
    import tokenizers.normalizers
    import tokenizers.pre_tokenizers
    import tokenizers.processors
    import transformers

    words = sorted({word for text in texts for word in text.lower().split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: number for number, word in enumerate([*special, *words])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    torch.manual_seed(1)
    model = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=2 * width,
            max_position_embeddings=64,
        )
    )
    model.save_pretrained(directory)
    fast.save_pretrained(directory)
    return directory
