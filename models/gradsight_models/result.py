"""The files of a result: written by the trainer, read by anyone with this package, and plain enough for anyone without.

    weights.safetensors   parameters and buffers by name
    model.json            where the model comes from, and its input columns
    preprocessing.json    vocabulary or normalisation
    outputs.json          classes, labels, units of numbers or size of the vocabulary, in the order of the scores
    graph.json            of a program; a recipe may have further files of its own
    model.onnx            on request: from encoded inputs to scores
    manifest.json         format version, versions of the makers, size and sha256 of each file above, figures

docs/models.md describes each. Nothing in them is code, and nothing is unpickled.
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from gradsight_models.columns import Column, ColumnKind
from gradsight_models.documents import preprocessing_from_json, source_from_json
from gradsight_models.loaded_model import LoadedModel
from gradsight_models.onnx_export import example_inputs, export_onnx
from gradsight_models.outputs import Outputs, outputs_from_json
from gradsight_models.preprocessing import Preprocessing
from gradsight_models.source import ModelSource

FORMAT_VERSION = 1
RESULT_FILES = ("weights.safetensors", "model.json", "preprocessing.json", "outputs.json", "manifest.json")
"""The files that every result has, the manifest last: where it is, the others are whole."""

_WEIGHTS, _MANIFEST, _ONNX = RESULT_FILES[0], RESULT_FILES[-1], "model.onnx"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class ResultError(ValueError):
    """A result cannot be loaded: a file is missing, damaged or of a newer format."""


def save_result(
    directory: Path,
    *,
    module: nn.Module,
    source: ModelSource,
    columns: Sequence[Column],
    preprocessing: Preprocessing,
    outputs: Outputs,
    figures: Mapping[str, Any],
    version: str,
    onnx: bool = False,
) -> list[Path]:
    """Write the files of a result into `directory`, each whole or not at all, and return their paths.

    Args:
        directory: Made if need be.
        module: In the state that is kept; it is left as it is.
        source: Where the module came from.
        columns: The input columns, as the preprocessing was fitted on them.
        preprocessing: Fitted on train.
        outputs: What the scores mean.
        figures: Anything JSON about the run.
        version: Of gradsight.
        onnx: Write `model.onnx`, too. Raises ValueError where the module cannot be said in ONNX.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model = {"source": source.to_json(), "input_columns": [_column_json(column) for column in columns]}
    contents = {
        "model.json": _json(model),
        "preprocessing.json": _json(preprocessing.to_json()),
        "outputs.json": _json(outputs.to_json()),
        **{_allowed_name(name): content for name, content in source.files().items()},
    }
    paths = [_write_weights(directory / _WEIGHTS, module)]
    paths += [_write(directory / name, content) for name, content in contents.items()]
    if onnx:
        paths.append(export_onnx(module, example_inputs(columns, preprocessing), directory / _ONNX))
    manifest = {
        "format_version": FORMAT_VERSION,
        "gradsight_version": version,
        "torch_version": torch.__version__,
        "files": {path.name: {"size_bytes": path.stat().st_size, "sha256": _digest(path)} for path in paths},
        "figures": _finite(figures),
    }
    return [*paths, _write(directory / _MANIFEST, _json(manifest))]


def load_result(path: str | os.PathLike[str]) -> LoadedModel:
    """Load the result in a directory, every file checked against the manifest; raises ResultError."""
    directory = Path(path)
    manifest = _read_manifest(directory)
    for name, entry in manifest["files"].items():
        _check(directory, name, entry)
    try:
        return _assemble(directory, manifest)
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, ImportError, SafetensorError) as error:
        raise ResultError(
            f"{directory}: its files do not fit together ({error}); download all of them again"
        ) from error


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, a shared one once: under the name that comes first."""
    kept: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    for name, value in state.items():
        kept.setdefault(id(value), name)
    return {name: state[name].detach() for name in kept.values()}


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, assign: bool = False) -> None:
    """Put what `state_of` gave into a module of the same making. Raises RuntimeError or ValueError for another's."""
    first: dict[int, str] = {}
    complete = dict(state)
    for name, value in module.state_dict(keep_vars=True).items():
        same = first.setdefault(id(value), name)
        if name not in complete and same in complete:
            complete[name] = complete[same]
    module.load_state_dict(complete, assign=assign)


def _assemble(directory: Path, manifest: Mapping[str, Any]) -> LoadedModel:
    model, fitted, answered = (json.loads((directory / name).read_bytes()) for name in RESULT_FILES[1:-1])
    further = {*manifest["files"]} - {*RESULT_FILES, _ONNX}
    source = source_from_json(model["source"], {name: (directory / name).read_bytes() for name in further})
    preprocessing = preprocessing_from_json(fitted, source)
    outputs = outputs_from_json(answered)
    # On the meta device nothing is allocated and nothing drawn: sizes from a file are checked against the weights
    # first, and the caller's random numbers stay where they were.
    with torch.device("meta"):
        module = source.build(preprocessing, outputs)
    load_state(module, safetensors.torch.load_file(directory / _WEIGHTS), assign=True)
    module.eval()
    return LoadedModel(
        module=module,
        source=source,
        columns=tuple(_column_from_json(column) for column in model["input_columns"]),
        preprocessing=preprocessing,
        outputs=outputs,
        figures=manifest["figures"],
    )


def _column_json(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "kind": str(column.kind),
        "dtype": column.dtype,
        "shape": list(column.shape),
    }


def _column_from_json(document: Mapping[str, Any]) -> Column:
    return Column(
        name=document["name"],
        kind=ColumnKind(document["kind"]),
        dtype=document["dtype"],
        shape=tuple(document["shape"]),
    )


def _read_manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((directory / _MANIFEST).read_bytes())
    except FileNotFoundError:
        raise ResultError(
            f"{directory}: no {_MANIFEST}, so no result; download all of {RESULT_FILES}"
        ) from None
    except ValueError:
        raise ResultError(f"{directory / _MANIFEST}: not JSON; download it again") from None
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found != FORMAT_VERSION:
        raise ResultError(
            f"{directory}: format version {found}, allowed {FORMAT_VERSION}; use a newer gradsight"
        )
    files = manifest.get("files")
    missing = sorted({*RESULT_FILES[:-1]} - {*files}) if isinstance(files, dict) else list(RESULT_FILES[:-1])
    if missing or "figures" not in manifest:
        raise ResultError(
            f"{directory / _MANIFEST}: names no {', '.join(missing) or 'figures'}; download it again"
        )
    return manifest


def _check(directory: Path, name: str, entry: Any) -> None:
    """Raise ResultError unless the file is there, in this directory, as the manifest has it."""
    if not _FILE_NAME.fullmatch(name):
        raise ResultError(f"{directory / _MANIFEST}: names {name!r}, which is no file of a result")
    path = directory / name
    if not path.is_file():
        raise ResultError(f"{directory}: {name} is missing; download it again")
    if not isinstance(entry, dict) or _digest(path) != entry.get("sha256"):
        raise ResultError(f"{path}: its sha256 is not that of the manifest; download it again")


def _allowed_name(name: str) -> str:
    if not _FILE_NAME.fullmatch(name) or name in (*RESULT_FILES, _ONNX):
        raise ValueError(
            f"file of the model: got {name!r}, allowed: a name of its own, of letters, digits, `.`, `_`, `-`"
        )
    return name


def _finite(value: Any) -> Any:
    """The same figures with null for what JSON cannot say: a run that diverged has such figures, too."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(document: object) -> bytes:
    return (json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_weights(path: Path, module: nn.Module) -> Path:
    # Clones: parameters may be views of one flat tensor, which the format does not know.
    weights = {
        name: value.cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state_of(module).items()
    }
    return _write(path, safetensors.torch.save(weights))


def _write(path: Path, content: bytes) -> Path:
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    scratch.rename(path)
    return path
