"""The files that a spec names: uploaded before it is sent, and named by their digests in it."""

from collections.abc import Mapping
from pathlib import Path

from gradsight import _transfer
from gradsight._data_formats import FORMATS_BY_ENDING
from gradsight._effects import Operation
from gradsight._errors import FieldViolation, InvalidRequest, InvalidSpec
from gradsight._export import GRAPH_FILE, WEIGHTS_FILE
from gradsight._human import UPLOAD
from gradsight._records import Artifact
from gradsight._retry import Patience
from gradsight.v1 import artifact_pb2, spec_pb2

_PROGRAM_FILES = (
    ("graph", GRAPH_FILE, artifact_pb2.ARTIFACT_KIND_GRAPH),
    ("weights", WEIGHTS_FILE, artifact_pb2.ARTIFACT_KIND_WEIGHTS),
)


def upload_files(
    spec: spec_pb2.JobSpec, contents: Mapping[str, bytes], patience: Patience
) -> Operation[None]:
    """Uploads local files, and those of an exported model from `contents`, by digest; puts digests in their places.

    Raises InvalidSpec with the field whose file cannot be read or is refused.
    """
    for split in ("train", "validation", "test"):
        if spec.data.HasField(split):
            yield from _upload_source(getattr(spec.data, split), f"data.{split}", patience)
    if spec.model.HasField("program"):
        yield from _upload_program(spec.model.program, contents, patience)


def _upload_source(source: spec_pb2.DataSource, field: str, patience: Patience) -> Operation[None]:
    if not source.uri.startswith(UPLOAD):
        return
    path = Path(source.uri.removeprefix(UPLOAD))
    artifact = yield from _upload_file(path, field, patience)
    if source.format == spec_pb2.DATA_FORMAT_UNSPECIFIED:
        # The content may have been uploaded before under another name, whose ending would then decide.
        source.format = FORMATS_BY_ENDING.get(path.suffix.lower(), spec_pb2.DATA_FORMAT_UNSPECIFIED)
    source.artifact = artifact.digest


def _upload_program(
    program: spec_pb2.ProgramModel, contents: Mapping[str, bytes], patience: Patience
) -> Operation[None]:
    """Uploads graph and weights, from local files or from an exported model, and names them by their digests."""
    for name, filename, kind in _PROGRAM_FILES:
        place, field = getattr(program, name), f"model.program.{name}"
        content = contents.get(place)
        if content is not None:
            yield from _transfer.upload(Path(filename), patience, kind=kind, content=content)
        elif place.startswith(UPLOAD):
            path = Path(place.removeprefix(UPLOAD))
            artifact = yield from _upload_file(path, field, patience, kind)
            setattr(program, name, artifact.digest)


def _upload_file(
    path: Path,
    field: str,
    patience: Patience,
    kind: artifact_pb2.ArtifactKind.ValueType = artifact_pb2.ARTIFACT_KIND_DATASET,
) -> Operation[Artifact]:
    try:
        return (yield from _transfer.upload(path, patience, kind=kind))
    except (OSError, InvalidRequest) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        violation = FieldViolation(field, f"{path} cannot be uploaded: {reason}")
        raise InvalidSpec(f"{field}: {violation.message}", [violation]) from None
