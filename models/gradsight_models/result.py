"""The files of a result: written by the trainer, read by anyone with this package, and plain enough for anyone without.

    weights.safetensors   parameters and buffers by name
    model.json            architecture, options, input columns
    preprocessing.json    vocabulary or normalisation
    labels.json           class names in the order of the outputs
    manifest.json         format version, versions of the makers, size and sha256 of each file above, figures

Nothing in them is code, and nothing is unpickled.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from gradsight_models.architectures import build_model, preprocessing_from_json
from gradsight_models.labels import LabelNames
from gradsight_models.preprocessing import Preprocessing

T = TypeVar("T")

FORMAT_VERSION = 1
RESULT_FILES = ("weights.safetensors", "model.json", "preprocessing.json", "labels.json", "manifest.json")
"""Every file of a result, the manifest last: where it is, the others are whole."""

_PREDICTION_BATCH = 1024


class ResultError(ValueError):
    """A result cannot be loaded: a file is missing, damaged or of a newer format."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answer: the label, its probability (0 to 1), and the most probable labels, best first."""

    label: str
    confidence: float
    best: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A result, ready to answer. `figures` is what the trainer wrote about the run."""

    module: nn.Module
    architecture: str
    preprocessing: Preprocessing
    labels: LabelNames
    input_columns: tuple[str, ...]
    figures: Mapping[str, Any]

    def predict(self, rows: Sequence[Mapping[str, Any] | str], *, most: int = 3) -> list[Prediction]:
        """Answer rows: dicts with the input columns, or plain strings where the model reads one column.

        `most` is how many labels each answer lists. Raises ValueError for a row without an input column.
        """
        if not rows:
            return []
        probabilities = torch.softmax(self.scores(self._columns(rows)), dim=1)
        values, numbers = probabilities.topk(min(most, len(self.labels.names)), dim=1)
        answers = []
        for row_values, row_numbers in zip(values.tolist(), numbers.tolist(), strict=True):
            best = tuple(
                (self.labels.names[n], value) for n, value in zip(row_numbers, row_values, strict=True)
            )
            answers.append(Prediction(label=best[0][0], confidence=best[0][1], best=best))
        return answers

    def scores(self, columns: Sequence[Sequence[Any]]) -> torch.Tensor:
        """Class scores, float32 [rows, classes], of input columns in the order of `input_columns`."""
        inputs = self.preprocessing.encode(columns)
        self.module.eval()
        with torch.no_grad():
            parts = [
                self.module(*(part[start : start + _PREDICTION_BATCH] for part in inputs))
                for start in range(0, len(inputs[0]), _PREDICTION_BATCH)
            ]
        return torch.cat(parts)

    def _columns(self, rows: Sequence[Mapping[str, Any] | str]) -> list[list[Any]]:
        columns: list[list[Any]] = [[] for _ in self.input_columns]
        for number, row in enumerate(rows, start=1):
            fields = {self.input_columns[0]: row} if isinstance(row, str) else row
            for column, name in zip(columns, self.input_columns, strict=True):
                if name not in fields:
                    raise ValueError(
                        f"row {number}: no {name!r}; the model reads {', '.join(self.input_columns)}"
                    )
                column.append(fields[name])
        return columns


def save_result(
    directory: Path,
    *,
    module: nn.Module,
    architecture: str,
    options: Mapping[str, Any],
    input_columns: Sequence[str],
    preprocessing: Preprocessing,
    labels: LabelNames,
    figures: Mapping[str, Any],
    version: str,
) -> list[Path]:
    """Write the files of a result into `directory`, each whole or not at all, and return their paths.

    `options` are those of the architecture, `figures` anything JSON about the run, `version` that of gradsight.
    """
    directory.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    model = {"architecture": architecture, "options": dict(options), "input_columns": list(input_columns)}
    contents = {
        "weights.safetensors": safetensors.torch.save(weights),
        "model.json": _json(model),
        "preprocessing.json": _json(preprocessing.to_json()),
        "labels.json": _json(labels.to_json()),
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "gradsight_version": version,
        "torch_version": torch.__version__,
        "files": {
            name: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in contents.items()
        },
        "figures": _finite(figures),
    }
    contents["manifest.json"] = _json(manifest)
    return [_write(directory / name, contents[name]) for name in RESULT_FILES]


def load_result(path: str | os.PathLike[str]) -> LoadedModel:
    """Load the result in a directory, every file checked against the manifest; raises ResultError."""
    directory = Path(path)
    manifest = _read_manifest(directory)
    contents = {name: _read_checked(directory, name, manifest["files"][name]) for name in RESULT_FILES[:-1]}
    try:
        return _assemble(contents, manifest["figures"])
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ResultError(
            f"{directory}: its files do not fit together ({error}); download all of them again"
        ) from error


def _assemble(contents: Mapping[str, bytes], figures: Mapping[str, Any]) -> LoadedModel:
    model = json.loads(contents["model.json"])
    preprocessing = preprocessing_from_json(json.loads(contents["preprocessing.json"]))
    labels = LabelNames.from_json(json.loads(contents["labels.json"]))
    # On the meta device nothing is allocated and nothing drawn: sizes from a file are checked against the weights
    # first, and the caller's random numbers stay where they were.
    with torch.device("meta"):
        module = build_model(model["architecture"], model["options"], preprocessing, len(labels.names))
    module.load_state_dict(safetensors.torch.load(contents["weights.safetensors"]), assign=True)
    module.eval()
    return LoadedModel(
        module=module,
        architecture=model["architecture"],
        preprocessing=preprocessing,
        labels=labels,
        input_columns=tuple(model["input_columns"]),
        figures=figures,
    )


def _read_manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_bytes())
    except FileNotFoundError:
        raise ResultError(
            f"{directory}: no manifest.json, so no result; download all of {RESULT_FILES}"
        ) from None
    except ValueError:
        raise ResultError(f"{directory / 'manifest.json'}: not JSON; download it again") from None
    if manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version")
        raise ResultError(
            f"{directory}: format version {found}, allowed {FORMAT_VERSION}; use a newer gradsight"
        )
    files = manifest.get("files")
    missing = sorted({*RESULT_FILES[:-1]} - {*files}) if isinstance(files, dict) else list(RESULT_FILES[:-1])
    if missing or "figures" not in manifest:
        raise ResultError(
            f"{directory / 'manifest.json'}: names no {', '.join(missing) or 'figures'}; download it again"
        )
    return manifest


def _read_checked(directory: Path, name: str, entry: Mapping[str, Any]) -> bytes:
    try:
        content = (directory / name).read_bytes()
    except FileNotFoundError:
        raise ResultError(f"{directory}: {name} is missing; download it again") from None
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise ResultError(f"{directory / name}: its sha256 is not that of the manifest; download it again")
    return content


def _finite(value: Any) -> Any:
    """The same figures with null for what JSON cannot say: a run that diverged has such figures, too."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(document: object) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def _write(path: Path, content: bytes) -> Path:
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    return path
