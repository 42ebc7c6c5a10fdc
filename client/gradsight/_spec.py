"""What to train, as a value: `JobSpec` from keyword arguments, a mapping or a file."""

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from gradsight._errors import FieldViolation, InvalidSpec, MissingExtra
from gradsight._export import ExportedModel, export
from gradsight._human import mapping_from_spec, spec_from_mapping

if TYPE_CHECKING:
    from gradsight._client import JobHandle
    from gradsight._job import Job
    from gradsight.aio import JobHandle as AsyncJobHandle
    from gradsight.v1 import spec_pb2


class JobOptions(TypedDict, total=False):
    """Keyword arguments that describe a job: the short names, and every section of a spec by its own name.

    `model`, `train` and `target` are enough. Paths are local files, uploaded when the job is submitted; a digest
    `sha256:…` names a file that is already there. A short name wins over the same entry of its section.

    `model` is the name of an architecture, a mapping, what `gradsight.export` returned, or a `torch.nn.Module`, which
    is exported with `example_inputs`, one batch of its inputs.
    """

    name: str
    labels: Mapping[str, str]
    queue: str
    priority: int
    model: Any
    example_inputs: Any
    train: str | os.PathLike[str]
    validation: str | os.PathLike[str]
    test: str | os.PathLike[str]
    text: str
    inputs: Sequence[str]
    target: str
    category: str
    id: str
    batch_size: int
    epochs: int
    steps: int
    learning_rate: float
    precision: str
    patience: int
    from_job: "str | Job | JobHandle | AsyncJobHandle"
    baseline: "str | Job | JobHandle | AsyncJobHandle"
    impacts: Mapping[str, float]
    policy: str
    seed: int
    data: Mapping[str, Any]
    objective: str | Mapping[str, Any]
    optimizer: str | Mapping[str, Any]
    schedule: str | Mapping[str, Any]
    budget: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    monitoring: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    resources: Mapping[str, Any]
    start: Mapping[str, Any]
    compute: Mapping[str, Any]
    result: Mapping[str, Any]


_SECTIONS = {
    "data": ("train", "validation", "test", "text", "inputs", "target", "category", "id", "batch_size"),
    "budget": ("epochs", "steps"),
    "optimizer": ("learning_rate",),
    "evaluation": ("baseline", "impacts", "patience"),
    "monitoring": ("policy",),
    "compute": ("precision",),
    "start": ("from_job",),
}
_SECTION_OF = {name: section for section, names in _SECTIONS.items() for name in names}
_NAME_IN_SECTION = {"impacts": "category_impacts"}
# Naming one of these says that the other one of an earlier mapping is meant no more.
_EXCLUSIVE = {"epochs": "steps", "steps": "epochs", "text": "inputs", "inputs": "text", "from_job": "extend"}


class JobSpec(Mapping[str, Any]):
    """What to train, on what, how, for how long and how to judge it: an immutable mapping in human form.

    Made from a mapping, from keyword arguments, or from both, where the arguments win:

        JobSpec(model="text_classifier", train="train.csv", text="text", target="intent")
        JobSpec({"model": "mlp", "data": {"train": "rows.csv", "target": "label"}}, epochs=3)
        JobSpec(model=my_module, example_inputs=(batch,), train="rows.npy", target="label")

    Relative paths begin at `directory`, by default the working directory of now. Raises InvalidSpec for unknown names
    and wrong types; ranges and what the files hold are checked by the service.
    """

    __slots__ = ("_files", "_form", "_message")

    def __init__(
        self,
        mapping: Mapping[str, Any] | None = None,
        /,
        *,
        directory: str | os.PathLike[str] = ".",
        **options: Unpack[JobOptions],
    ) -> None:
        merged = _merge({} if mapping is None else mapping, options)
        # Of an exported model, by digest: they travel with the spec until it is submitted.
        kept: Mapping[str, bytes] = mapping._files if isinstance(mapping, JobSpec) else {}
        self._files: Mapping[str, bytes] = _exported(merged) or kept
        self._message = spec_from_mapping(merged, Path(directory))
        self._form = mapping_from_spec(self._message)

    @classmethod
    def _from_message(
        cls, message: "spec_pb2.JobSpec", files: Mapping[str, bytes] | None = None
    ) -> "JobSpec":
        spec = cls.__new__(cls)
        spec._files = files or {}
        spec._message = message
        spec._form = mapping_from_spec(message)
        return spec

    def __getitem__(self, name: str) -> Any:
        return copy.deepcopy(self._form[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._form)

    def __len__(self) -> int:
        return len(self._form)

    def __repr__(self) -> str:
        return f"JobSpec({self._form!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _read_back, (self._message.SerializeToString(), self._files)


def _read_back(data: bytes, files: Mapping[str, bytes]) -> JobSpec:
    from gradsight.v1 import spec_pb2

    return JobSpec._from_message(spec_pb2.JobSpec.FromString(data), files)


def load_spec(path: str | os.PathLike[str], **options: Unpack[JobOptions]) -> JobSpec:
    """Reads a spec from a YAML or JSON file; paths in it begin at the file's own directory.

    Keyword arguments win over the file; paths in them begin at the working directory. Raises InvalidSpec when the file
    cannot be read or says something wrong, MissingExtra for YAML without the extra `cli`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        mapping = _load_json(text) if path.suffix == ".json" else _load_yaml(text)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise InvalidSpec(f"{path} cannot be read as a spec: {reason}") from None
    if not isinstance(mapping, Mapping):
        raise InvalidSpec(f"{path} holds {type(mapping).__name__}, allowed: a mapping such as `model: mlp`")
    absolute = {
        name: os.path.abspath(value)  # type: ignore[call-overload]
        for name, value in options.items()
        if name in ("train", "validation", "test") and _is_local(value)
    }
    return JobSpec(mapping, directory=path.absolute().parent, **{**options, **absolute})


def _is_local(value: Any) -> bool:
    return isinstance(value, str | os.PathLike) and not re.match(r"sha256:|\w+://", str(value))


def _merge(mapping: Mapping[str, Any], options: JobOptions) -> dict[str, Any]:
    merged = dict(mapping)
    merged |= {
        name: value for name, value in options.items() if value is not None and name not in _SECTION_OF
    }
    for name, value in options.items():
        section = _SECTION_OF.get(name)
        if value is None or section is None:
            continue
        entries = merged.get(section) or {}
        entries = {entries: {}} if isinstance(entries, str) else entries
        if not isinstance(entries, Mapping):
            raise _wrong(section, f"got {entries!r}, allowed: a mapping")
        kept = {key: item for key, item in entries.items() if key != _EXCLUSIVE.get(name) or key in options}
        merged[section] = {**kept, _NAME_IN_SECTION.get(name, name): value}
    return merged


def _exported(merged: dict[str, Any]) -> Mapping[str, bytes]:
    """Puts the digests of an exported model, or of a module once it is exported, in the model's place."""
    model, examples = merged.get("model"), merged.pop("example_inputs", None)
    if hasattr(model, "state_dict"):
        if examples is None:
            raise _wrong(
                "model",
                "got a module without example_inputs, allowed: both, as in example_inputs=(batch,)",
            )
        model = export(model, examples)
    elif examples is not None:
        raise _wrong("example_inputs", f"got one beside the model {model!r}, allowed: beside a module only")
    if not isinstance(model, ExportedModel):
        return {}
    merged["model"] = model.form
    return model.files


def _wrong(field: str, message: str) -> InvalidSpec:
    return InvalidSpec(f"{field}: {message}", [FieldViolation(field, message)])


def _load_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise ValueError("a name stands twice in one mapping: " + ", ".join(name for name, _ in pairs))
        return mapping

    return json.loads(text, object_pairs_hook=unique)


def _load_yaml(text: str) -> Any:
    try:
        from gradsight._yaml import load
    except ImportError:
        raise MissingExtra("reading YAML needs PyYAML: pip install 'gradsight[cli]'") from None
    return load(text)
