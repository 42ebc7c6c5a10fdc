"""Bytes from outside are data everywhere: canaries in every slot that takes bytes, and none of them ever sang.

A canary is a pickle whose unpickling makes a file. The tests send it as every kind of file under every name, hide it in
archives and headers, and put it where files lie that the service wrote itself; each is refused with a reason.
"""

import hashlib
import io
import itertools
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import safetensors.torch
import torch
from google.protobuf import text_format
from tests.e2e.conftest import Datasets, Household, wait_until_saved

from gradsight import (
    ArtifactKind,
    Client,
    ExportedModel,
    Fault,
    InvalidSpec,
    JobErrorReason,
    JobState,
    export,
    load_result,
    load_spec,
)
from gradsight.v1 import artifact_pb2, artifact_service_pb2_grpc, spec_pb2, training_service_pb2_grpc
from gradsight.v1 import artifact_service_pb2 as files_pb
from gradsight.v1 import training_service_pb2 as pb
from gradsight_models import ResultError

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

FORMATS = ["csv", "jsonl", "parquet", "npy", "safetensors", "tar"]


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    """A canary; after the test it must not have sung."""
    canary = Canary(tmp_path / "sang")
    yield canary
    assert not canary.path.exists()


def pickled(canary: Canary) -> bytes:
    return pickle.dumps(canary)


def readable_pickle(canary: Canary) -> bytes:
    """Protocol 0 is text, and so gets past a check for UTF-8."""
    return pickle.dumps(canary, protocol=0)


def torch_saved(canary: Canary) -> bytes:
    torch.save({"weight": canary}, file := io.BytesIO())
    return file.getvalue()


def torch_saved_in_the_old_format(canary: Canary) -> bytes:
    torch.save({"weight": canary}, file := io.BytesIO(), _use_new_zipfile_serialization=False)
    return file.getvalue()


def exported(canary: Canary) -> bytes:
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, file := io.BytesIO(), extra_files={"canary.pkl": "x"})
    return _with_member(file.getvalue(), "data.pkl", pickled(canary))


def torchscript(canary: Canary) -> bytes:
    module = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(module, file := io.BytesIO())
    return _with_member(file.getvalue(), "constants/data.pkl", pickled(canary))


def array_of_objects(canary: Canary) -> bytes:
    np.save(file := io.BytesIO(), np.array([canary, canary], dtype=object), allow_pickle=True)
    return file.getvalue()


def archive_of_arrays(canary: Canary) -> bytes:
    np.savez(file := io.BytesIO(), label=np.array([canary, canary], dtype=object))
    return file.getvalue()


def parquet_with_python_types(canary: Canary) -> bytes:
    """An extension type that old versions of pyarrow unpickled from the schema."""
    metadata = {
        "ARROW:extension:name": "arrow.py_extension_type",
        "ARROW:extension:metadata": pickled(canary).decode("latin-1"),
    }
    fields = [
        pyarrow.field("x", pyarrow.binary(), metadata=metadata),
        pyarrow.field("label", pyarrow.binary()),
    ]
    rows = [pickled(canary)] * 20
    table = pyarrow.table(
        [rows, rows], schema=pyarrow.schema(fields, metadata={"pandas": readable_pickle(canary)})
    )
    pyarrow.parquet.write_table(table, file := io.BytesIO())
    return file.getvalue()


def safetensors_with_a_canary_in_its_header(canary: Canary) -> bytes:
    header = {
        "__metadata__": {"pickle": pickled(canary).hex()},
        readable_pickle(canary).decode(): {
            "dtype": "O",
            "shape": [1],
            "data_offsets": [0, len(pickled(canary))],
        },
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + pickled(canary)


def rows_that_go_on_as_a_pickle(canary: Canary) -> bytes:
    """Gets past every look at the beginning of a file."""
    return SOUND_ROWS + readable_pickle(canary) + pickled(canary)


def tar_of_canaries(canary: Canary) -> bytes:
    """As images, as modules, and under names that lead out of the archive."""
    names = [
        "a/0.png",
        "b/1.jpg",
        "a/__init__.py",
        "a/data.pkl",
        "../../sang.py",
        "/tmp/sang.py",
        f"$(touch {canary.path})/2.png",
    ]
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(pickled(canary))
            archive.addfile(member, io.BytesIO(pickled(canary)))
    return file.getvalue()


PAYLOADS: dict[str, Callable[[Canary], bytes]] = {
    payload.__name__: payload
    for payload in (
        pickled,
        readable_pickle,
        torch_saved,
        torch_saved_in_the_old_format,
        exported,
        torchscript,
        array_of_objects,
        archive_of_arrays,
        parquet_with_python_types,
        safetensors_with_a_canary_in_its_header,
        rows_that_go_on_as_a_pickle,
        tar_of_canaries,
    )
}


@pytest.mark.parametrize("name", ["pickled", "readable_pickle", "torch_saved"])
def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path, name: str) -> None:
    canary = Canary(tmp_path / "sang")
    content = PAYLOADS[name](canary)
    if name == "torch_saved":
        torch.load(io.BytesIO(content), weights_only=False)
    else:
        pickle.loads(content)  # noqa: S301
    assert canary.path.exists()


@pytest.mark.parametrize("data_format", FORMATS)
def test_no_data_file_runs_code(household: Household, canary: Canary, data_format: str) -> None:
    with household.client() as client, Slots(household, client) as slots:
        for payload in PAYLOADS.values():
            slots.refused(
                payload(canary), f"rows.{data_format}", lambda digest: data_spec(digest, data_format)
            )
        slots.assert_healthy()


@pytest.mark.parametrize(
    "ending",
    ["pkl", "pickle", "pt", "pth", "pt2", "bin", "ckpt", "joblib", "npz", "zip", "py", "so", "tar.gz"],
)
def test_no_files_name_makes_it_code(household: Household, canary: Canary, ending: str) -> None:
    with household.client() as client, Slots(household, client) as slots:
        slots.refused(pickled(canary), f"rows.{ending}", lambda digest: data_spec(digest, ""))
        slots.refused(
            rows_that_go_on_as_a_pickle(canary), f"rows.{ending}", lambda digest: data_spec(digest, "")
        )


@pytest.mark.parametrize("part", ["graph", "weights"])
def test_no_part_of_a_program_runs_code(household: Household, canary: Canary, part: str) -> None:
    sound = export(torch.nn.Linear(2, 2), torch.zeros(2, 2))
    with household.client() as client, Slots(household, client) as slots:
        rows = slots.upload(SOUND_ROWS, "rows.csv")
        digests = {
            "graph": slots.upload(sound.graph, "graph.json", artifact_pb2.ARTIFACT_KIND_GRAPH),
            "weights": slots.upload(sound.weights, "weights.safetensors", artifact_pb2.ARTIFACT_KIND_WEIGHTS),
        }

        def spec(digest: str) -> spec_pb2.JobSpec:
            parts = {**digests, part: digest}
            model = f'program {{ graph: "{parts["graph"]}" weights: "{parts["weights"]}" }}'
            return data_spec(rows, "csv", model=model)

        kind = {"graph": artifact_pb2.ARTIFACT_KIND_GRAPH, "weights": artifact_pb2.ARTIFACT_KIND_WEIGHTS}[
            part
        ]
        for payload in PAYLOADS.values():
            slots.refused(payload(canary), f"{part}.bin", spec, kind)
        for text in (readable_pickle(canary).decode(), f"__import__('os').system('touch {canary.path}')"):
            slots.refused(named_in(sound, part, text), f"{part}.bin", spec, kind)
        ended = client.job(slots.create(spec(digests[part]))).wait(timeout=60)
        assert ended.state is JobState.SUCCEEDED, ended.error
        slots.assert_healthy()


def test_no_name_runs_code(household: Household, canary: Canary, tmp_path: Path) -> None:
    """Columns, categories and classes may be called anything; what they are called stays a text."""
    calls = [
        f"__import__('os').system('touch {canary.path}')",
        f"$(touch {canary.path})",
        f"{{0.__class__.__init__.__globals__}} `touch {canary.path}`",
        readable_pickle(canary).decode().replace("\n", " "),
        f"!!python/object/apply:os.system ['touch {canary.path}']",
    ]
    rows = [{calls[0]: n % 7, calls[1]: calls[n % 2], calls[2]: calls[n % 3]} for n in range(200)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with household.client() as client:
        handle = client.submit(
            model="mlp",
            train=path,
            inputs=[calls[0]],
            target=calls[1],
            category=calls[2],
            steps=20,
            batch_size=16,
            impacts={calls[0]: 2.0},
        )
        job = handle.wait(timeout=60)
        assert job.state is JobState.SUCCEEDED, job.error
        handle.download(tmp_path / "result")
        (prediction,) = load_result(tmp_path / "result").predict([{calls[0]: 3}])
        assert prediction.label in calls
        for field in ({"name": calls[1]}, {"labels": {"team": calls[0]}}, {"queue": calls[2]}):
            with pytest.raises(InvalidSpec, match=next(iter(field))):
                client.submit(model="mlp", train=path, target=calls[1], **field)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/object/new:os.system"])
def test_no_spec_file_runs_code(canary: Canary, tmp_path: Path, tag: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"model: {tag} ['touch {canary.path}']\n")
    with pytest.raises(InvalidSpec, match="python/object"):
        load_spec(path)


def test_no_checkpoint_runs_code(household: Household, datasets: Datasets, canary: Canary) -> None:
    """Every saved state of a running job is exchanged; the job begins anew and ends as if nothing had been."""
    with household.client() as client:
        handle = client.submit(datasets.long_job("mlp", seed=4711))
        wait_until_saved(handle)
        household.trainer().suspend()
        for artifact in client.artifacts(job_id=handle.job_id, kind=ArtifactKind.CHECKPOINT):
            for file in stored(household, artifact.digest):
                replace(file, torch_saved(canary))
        household.trainer().kill()
        job = handle.wait(timeout=90)
        assert job.state is JobState.SUCCEEDED, job.error
        assert len(job.attempts) > 1


def test_no_result_of_a_baseline_runs_code(household: Household, canary: Canary, tmp_path: Path) -> None:
    rows = tmp_path / "own.csv"
    rows.write_text("x,label\n" + "".join(f"{n},{'uncommon' if n % 9 > 4 else 'rare'}\n" for n in range(300)))
    with household.client() as client:
        model = {"mlp": {"hidden_sizes": [13]}}
        before = client.submit(model=model, train=rows, target="label", steps=7)
        before.result(timeout=60)
        for name in ("weights.safetensors", "model.json", "preprocessing.json", "manifest.json"):
            (digest,) = (file.digest for file in before.get().result if file.filename == name)
            (file,) = stored(household, digest)
            sound = file.read_bytes()
            replace(file, pickled(canary))
            try:
                after = client.submit(model=model, train=rows, target="label", steps=7, baseline=before)
                job = after.wait(timeout=60)
            finally:
                replace(file, sound)
            assert job.state is JobState.FAILED
            assert job.error is not None
            assert name in job.error.message or digest in job.error.message, job.error
            assert job.error.reason is not JobErrorReason.TRAINER_DIED


def test_no_file_of_a_result_runs_code_where_it_is_loaded(
    household: Household, datasets: Datasets, canary: Canary, tmp_path: Path
) -> None:
    """The manifest agrees with the canary: whoever forges one file forges both."""
    with household.client() as client:
        handle = client.submit(datasets.job("mlp", steps=5))
        handle.download(tmp_path, timeout=60)
    manifest = tmp_path / "manifest.json"
    sound = json.loads(manifest.read_text())
    for name, payload in itertools.product(sound["files"], PAYLOADS.values()):
        content, kept = payload(canary), (tmp_path / name).read_bytes()
        forged = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        manifest.write_text(json.dumps({**sound, "files": {**sound["files"], name: forged}}))
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ResultError):
            load_result(tmp_path)
        (tmp_path / name).write_bytes(kept)


SOUND_ROWS = b"x,y,label\n" + b"".join(b"%d,%d,%d\n" % (n, n % 5, n % 2) for n in range(100))


def data_spec(digest: str, data_format: str, *, model: str = "") -> spec_pb2.JobSpec:
    """A small job over these rows."""
    built_in = "cnn {}" if data_format == "tar" else "mlp {}"
    said = f"format: DATA_FORMAT_{data_format.upper()}" if data_format else ""
    text = f'''
        model {{ {model or f"builtin {{ {built_in} }}"} }}
        data {{ train {{ artifact: "{digest}" {said} }} target_column: "label" }}
        budget {{ steps: 3 }}
    '''
    return text_format.Parse(text, spec_pb2.JobSpec())


def named_in(sound: ExportedModel, part: str, text: str) -> bytes:
    """The part of a program with a text where names and expressions stand."""
    if part == "graph":
        operator = next(iter(json.loads(sound.graph)["operators"]))
        return sound.graph.replace(json.dumps(operator).encode(), json.dumps(text).encode())
    tensors = safetensors.torch.load(sound.weights)
    return safetensors.torch.save(
        {f"{text}{name}": tensor for name, tensor in tensors.items()}, {"code": text}
    )


class Slots:
    """Calls past the client, which would refuse much of it. A context manager."""

    def __init__(self, household: Household, client: Client) -> None:
        self._household, self._client = household, client
        self._channel = grpc.insecure_channel(household.service)
        self._training = training_service_pb2_grpc.TrainingServiceStub(self._channel)
        self._files = artifact_service_pb2_grpc.ArtifactServiceStub(self._channel)

    def __enter__(self) -> "Slots":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def upload(
        self, content: bytes, filename: str, kind: artifact_pb2.ArtifactKind.ValueType | None = None
    ) -> str:
        """The digest of the uploaded file. Raises grpc.RpcError."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        announced = files_pb.CreateUploadRequest(
            digest=digest,
            size_bytes=len(content),
            filename=filename,
            kind=kind or artifact_pb2.ARTIFACT_KIND_DATASET,
        )
        upload_id = self._files.CreateUpload(announced).upload_id
        if upload_id:
            self._files.WriteUpload(iter([files_pb.WriteUploadRequest(upload_id=upload_id, data=content)]))
        return digest

    def refused(
        self,
        content: bytes,
        filename: str,
        spec: Callable[[str], spec_pb2.JobSpec],
        kind: artifact_pb2.ArtifactKind.ValueType | None = None,
    ) -> None:
        """Upload the file and create a job with it: one of both is refused, or the job fails for the file."""
        try:
            job_id = self.create(spec(self.upload(content, filename, kind)))
        except grpc.RpcError as refusal:
            if refusal.code() is not grpc.StatusCode.INVALID_ARGUMENT or len(refusal.details() or "") < 20:
                raise
            return
        ended = self._client.job(job_id).wait(timeout=60)
        assert ended.state is JobState.FAILED
        assert ended.error is not None
        assert ended.error.fault in (Fault.DATA, Fault.MODEL, Fault.USER), ended.error
        assert len(ended.error.message) > 20, ended.error

    def create(self, spec: spec_pb2.JobSpec) -> str:
        """The id of the job. Raises grpc.RpcError."""
        return self._training.CreateJob(pb.CreateJobRequest(spec=spec)).job.job_id

    def assert_healthy(self) -> None:
        """Service and worker still do what they are for."""
        job_id = self.create(data_spec(self.upload(SOUND_ROWS, "rows.csv"), "csv"))
        assert self._client.job(job_id).wait(timeout=60).state is JobState.SUCCEEDED
        assert self._household.process.poll() is None


def stored(household: Household, digest: str) -> list[Path]:
    """Where the content with this digest lies."""
    return [path for path in household.data.rglob(f"*{digest.removeprefix('sha256:')}*") if path.is_file()]


def replace(path: Path, content: bytes) -> None:
    """Another content under the same name, whoever else has a link to the old one."""
    path.unlink()
    path.write_bytes(content)


def _with_member(archive: bytes, name: str, content: bytes) -> bytes:
    file = io.BytesIO(archive)
    with zipfile.ZipFile(file, "a") as opened:
        opened.writestr(name, content)
    return file.getvalue()
