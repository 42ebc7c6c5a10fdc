"""Fine-tunes a pretrained text model for the targets of a job: classes, labels or numbers.

The operator says where pretrained models lie (`GRADSIGHT_RECIPE_MODELS`), a spec names one of them. Nothing is
downloaded, no code of a model is run, and weights are read from safetensors only.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gradsight_huggingface.pieces import Pieces
from gradsight_models.columns import Chunks, Column, Reading
from gradsight_models.outputs import Outputs
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.recipes import Option, Options, Recipe

MODELS = "GRADSIGHT_RECIPE_MODELS"
"""Environment variable of the worker: the directory that holds a directory for each model."""

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class HuggingFaceText(Recipe):
    """`AutoModelForSequenceClassification` with a new head, trained whole or by LoRA."""

    description = "Fine-tunes a pretrained Hugging Face text model from a directory of the worker."
    options = (
        Option(name="model", description=f"Name of the model's directory below the worker's {MODELS}."),
        Option(name="max_length", description="Most tokens of a text.", default=128, low=8, high=8192),
        Option(
            name="lora_rank",
            description="Rank of the matrices that LoRA adds beside the frozen ones; 0: no LoRA, all weights train.",
            default=0,
            low=0,
            high=1024,
        ),
        Option(name="lora_alpha", description="LoRA's scale: alpha / rank.", default=16.0, low=0.0),
        Option(
            name="lora_targets",
            description="Names of the layers that LoRA adapts, with commas between; empty: peft's choice.",
            default="",
        ),
    )
    reads = Reading.TEXT

    def fit(self, columns: Sequence[Column], chunks: Chunks, options: Options) -> Preprocessing:
        """The model's own tokenizer; of train only the longest text is looked at."""
        tokenizer = _library().AutoTokenizer.from_pretrained(_directory(options), **_LOCAL)
        if not tokenizer.is_fast:
            raise ValueError(f"model {options['model']}: has no tokenizer.json, which this recipe needs")
        padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        return Pieces.fit(
            columns,
            chunks,
            tokenizer=tokenizer.backend_tokenizer.to_str(),
            padding=padding,
            max_length=int(options["max_length"]),
        )

    def files(self, options: Options) -> Mapping[str, bytes]:
        """The model's configuration: with it a result is loaded where the pretrained model is not."""
        return {"config.json": (_directory(options) / "config.json").read_bytes()}

    def build(
        self, preprocessing: Preprocessing, outputs: Outputs, options: Options, files: Mapping[str, bytes]
    ) -> nn.Module:
        """The architecture with as many outputs as the job has; its matrices are frozen where LoRA adapts them."""
        if outputs.kind == "tokens":
            raise ValueError("this recipe answers classes, labels and numbers, not tokens")
        document = json.loads(files["config.json"]) | {"num_labels": outputs.size}
        library = _library()
        config = library.AutoConfig.for_model(**document)
        model = library.AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        if options["lora_rank"]:
            _adapt(model, options)
        return TextModel(model.float())

    def load_pretrained(self, module: nn.Module, options: Options) -> None:
        """Everything but the head, which is new."""
        assert isinstance(module, TextModel)
        pretrained = _library().AutoModel.from_pretrained(_directory(options), use_safetensors=True, **_LOCAL)
        values = pretrained.float().state_dict()
        for name, target in module.model.base_model.state_dict(keep_vars=True).items():
            plain = name.replace(".base_layer.", ".")  # LoRA moves a matrix one level down
            if plain in values:
                target.data.copy_(values[plain])

    def read_preprocessing(self, document: Mapping[str, Any]) -> Preprocessing:
        """The tokenizer as it was saved."""
        return Pieces.from_json(document)


class TextModel(nn.Module):
    """What gradsight calls: ids and mask in, scores out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """From ids [rows, tokens] and where there is one, bool [rows, tokens], to scores [rows, outputs]."""
        scores: Tensor = self.model(input_ids=ids.long(), attention_mask=mask.long()).logits
        return scores


_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def _adapt(model: Any, options: Options) -> None:
    """Freeze the model, put LoRA's matrices beside its own, and let these and the head train."""
    import peft

    targets = [name for name in str(options["lora_targets"]).split(",") if name]
    settings = peft.LoraConfig(
        r=options["lora_rank"], lora_alpha=options["lora_alpha"], target_modules=targets or None
    )
    peft.inject_adapter_in_model(settings, model)
    for name, parameter in model.named_parameters():
        if not name.startswith(f"{model.base_model_prefix}."):
            parameter.requires_grad = True


def _directory(options: Options) -> Path:
    """The model's directory. Raises ValueError: a name is no way out of the operator's directory."""
    models, name = os.environ.get(MODELS), str(options["model"])
    if not models:
        raise ValueError(f"the worker's {MODELS} is not set: its operator says there where models lie")
    directory = Path(models) / name
    if not _NAME.fullmatch(name) or not (directory / "config.json").is_file():
        known = sorted(path.parent.name for path in Path(models).glob("*/config.json"))
        raise ValueError(f"option model: got {name!r}, allowed: {', '.join(known) or 'none, it is empty'}")
    return directory


def _library() -> Any:
    """The `transformers` library, which takes seconds to import, kept from the network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import transformers

    return transformers
