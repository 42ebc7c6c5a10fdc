"""The matrix of bad inputs, as far as Create answers: each over a real channel, refused at once, without a trace.

docs/bad-inputs.md tells for every row where it is answered; B20 to B49 are its numbers.
"""

import json
import tarfile
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
import redis
from tests.integration.service.bad_specs import (
    GRAPH,
    LINEAR,
    NODE,
    WEIGHTS,
    Builder,
    chain,
    digest_of,
    long_header,
    nodes,
    npy,
    parameters,
    program,
    program_of,
    rows,
    safetensors,
    said,
    tar,
    zipped,
)

from gradsight.v1 import artifact_pb2
from gradsight.v1 import artifact_service_pb2 as files_pb
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store.settings import StoreSettings

Service = Any
Refused = Callable[[Callable[[], Any]], Any]

CODE = grpc.StatusCode
CYCLE = nodes(
    {"name": "a", "arguments": [{"node": "b"}, *NODE["arguments"][1:]]},
    {"name": "b", "arguments": [{"node": "a"}, *NODE["arguments"][1:]]},
)
DANGLING = nodes({"arguments": [{"input": "y"}, *NODE["arguments"][1:]]})
UNREACHED = nodes({"arguments": NODE["arguments"][:2]})
TWO_INPUTS = [GRAPH["inputs"][0], {"name": "mask", "dtype": "float32", "shape": ["batch", 2]}]
MANY_TENSORS = {f"t{number}": [1] for number in range(10_001)}
TENSOR_FILES: list[tuple[str, Callable[[bytes], Builder]]] = [
    ("data.train.artifact", lambda content: rows(content, "rows.safetensors")),
    ("model.program.weights", program),
]
CARRIER = b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."
TORCH_ARCHIVE = zipped("archive/data.pkl", "archive/version")
GRAPH_PATH, WEIGHTS_PATH, ROWS_PATH = "model.program.graph", "model.program.weights", "data.train.artifact"
PROCEDURE_PATH = f"{GRAPH_PATH}.training.nodes"

# Row of the matrix, what is wrong, how it is said, the field, what the answer says.
MATRIX: list[tuple[str, str, Builder, str, str]] = [
    *(
        (
            "B20",
            f"{path} {value}",
            said(f"{section} {{ {name}: {value} }}"),
            path,
            f"got {value}, allowed 1 to",
        )
        for section, name in (("budget", "epochs"), ("budget", "steps"), ("data", "batch_size"))
        for value in (0, -1, 2_000_000_000)
        for path in [f"{section}.{name}"]
    ),
    *(
        (
            "B21",
            f"learning rate {rate}",
            said(f"optimizer {{ learning_rate: {rate} }}"),
            "optimizer.learning_rate",
            f"got {got}, allowed above 0 to 1000",
        )
        for rate, got in (("nan", "nan"), ("inf", "inf"), ("-0.1", "-0.1"), ("0", "0"), ("1e30", "1e+30"))
    ),
    (
        "B22",
        "unknown type of numbers",
        said("compute { precision: 9 }"),
        "compute.precision",
        "got 9, allowed float32, bfloat16, float16",
    ),
    (
        "B22",
        "unknown operator",
        program(operators={"aten.system.default": "aten::system(str s) -> int"}),
        f"{GRAPH_PATH}.operators",
        "'aten.system.default' is not supported",
    ),
    (
        "B22",
        "operator with another schema",
        program(operators={LINEAR: "aten::linear(Tensor input, Tensor weight) -> Tensor"}),
        f"{GRAPH_PATH}.operators",
        "schema",
    ),
    (
        "B23",
        "forbidden attribute of an operator",
        program(training=nodes({"options": {"fn": "lambda: 0"}})),
        f"{PROCEDURE_PATH}[0].options",
        "'fn' is not an argument of aten.linear.default",
    ),
    ("B23", "code beside the graph", program(code="import os"), GRAPH_PATH, "'code' is not known here"),
    ("B24", "cycle", program(training=CYCLE), f"{PROCEDURE_PATH}[0].arguments[0]", "cycle a -> b -> a"),
    (
        "B25",
        "dangling input",
        program(training=DANGLING),
        f"{PROCEDURE_PATH}[0].arguments[0]",
        "input 'y' is not defined",
    ),
    ("B25", "duplicate name", program(training=nodes({}, {})), f"{PROCEDURE_PATH}[1].name", "stands twice"),
    ("B26", "too many nodes", program(training=chain(10_001)), PROCEDURE_PATH, "10001 nodes, limit 10000"),
    (
        "B26",
        "too deep",
        program_of(b"[" * 100_000 + b"]" * 100_000, safetensors(WEIGHTS)),
        GRAPH_PATH,
        "nested too deeply",
    ),
    (
        "B26",
        "7 MB of a name",
        program(training=nodes({"name": "x" * 7_000_000})),
        f"{PROCEDURE_PATH}[0].name",
        "allowed 1 to 256",
    ),
    (
        "B27",
        "2^62 parameters",
        program(parameters=parameters([2**31, 2**31])),
        f"{GRAPH_PATH}.parameters",
        "limit 2,000,000,000",
    ),
    (
        "B27",
        "negative size",
        program(parameters=parameters([-1, 2])),
        f"{GRAPH_PATH}.parameters[0].shape",
        "allowed sizes of 0",
    ),
    (
        "B28",
        "heads that do not divide the width",
        said("model { builtin { text_transformer { width: 100 heads: 3 } } } data { input_columns: 'kind' }"),
        "model.builtin.text_transformer.heads",
        "got 3 with a width of 100, allowed a divisor",
    ),
    (
        "B28",
        "inputs that are no columns",
        program(columns=(), inputs=TWO_INPUTS),
        "data.input_columns",
        'train has no column "x", "mask"',
    ),
    (
        "B28",
        "other columns than inputs",
        program(columns=("width",), inputs=TWO_INPUTS),
        "data.input_columns",
        'got 1 columns, allowed 2: one for each of the inputs "x", "mask"',
    ),
    (
        "B30",
        "parameter that no loss reaches",
        program(training=UNREACHED),
        f"{GRAPH_PATH}.parameters",
        "the scores do not depend on 'fc.bias'",
    ),
    (
        "B36",
        "npz archive",
        rows(zipped("x.npy"), "rows.npy"),
        ROWS_PATH,
        "got a zip archive (.zip, .npz) by its first bytes",
    ),
    (
        "B36",
        "gzip",
        rows(b"\x1f\x8b\x08" + bytes(99), "rows.tar"),
        ROWS_PATH,
        "got a gzip file by its first bytes",
    ),
    ("B37", "member above", rows(tar("../x.png"), "rows.tar"), ROWS_PATH, '"../x.png" leads out'),
    ("B37", "absolute member", rows(tar("/x.png"), "rows.tar"), ROWS_PATH, "leads out of the archive"),
    (
        "B37",
        "symbolic link",
        rows(tar("cat/1.png", tarfile.SYMTYPE), "rows.tar"),
        ROWS_PATH,
        '"cat/1.png" is a symbolic link',
    ),
    ("B37", "device", rows(tar("cat/1.png", tarfile.CHRTYPE), "rows.tar"), ROWS_PATH, "is a device"),
    ("B38", "archive within", rows(tar("cat/more.tar"), "rows.tar"), ROWS_PATH, "is an archive itself"),
    *(
        (
            "B39",
            f"{what} called {name}",
            rows(content, name),
            ROWS_PATH,
            "which can run code when it is loaded",
        )
        for what, content in (("carrier of code", CARRIER), ("archive of weights", TORCH_ARCHIVE))
        for name in ("rows.csv", "rows.npy", "rows.safetensors", "rows.parquet", "rows.tar", "rows.jsonl")
    ),
    (
        "B39",
        "carrier of code for weights",
        program(weights=CARRIER),
        WEIGHTS_PATH,
        "which can run code when it is loaded",
    ),
    (
        "B39",
        "carrier of code for a graph",
        program_of(CARRIER, safetensors(WEIGHTS)),
        GRAPH_PATH,
        "which can run code when it is loaded",
    ),
    ("B40", "objects", rows(npy("(16,)", "'|O'"), "rows.npy"), ROWS_PATH, "dtype object"),
    (
        "B40",
        "2^42 rows",
        rows(npy("(4398046511104,)", "'<f4'"), "rows.npy"),
        ROWS_PATH,
        "needs 17592186044416 bytes, the file has 128",
    ),
    (
        "B40",
        "cut off",
        rows(npy("(17,)", "'<f8'"), "rows.npy"),
        ROWS_PATH,
        "needs 136 bytes, the file has 128",
    ),
    *(
        (
            "B41",
            f"header of 27 MB as {path}",
            build(long_header()),
            path,
            "header of 28311552 bytes, limit 1048576",
        )
        for path, build in TENSOR_FILES
    ),
    *(
        (
            "B41",
            f"10,001 tensors as {path}",
            build(safetensors(MANY_TENSORS)),
            path,
            "10001 tensors, limit 10000",
        )
        for path, build in TENSOR_FILES
    ),
    *(
        ("B42", f"{what} as {path}", build(safetensors(WEIGHTS, **entry)), path, message)
        for path, build in TENSOR_FILES
        for what, entry, message in (
            ("overlap", {"data_offsets": [8, 16]}, "tensor 'fc.bias' overlaps"),
            ("offsets beyond the end", {"data_offsets": [1 << 40, (1 << 40) + 8]}, "no tensor's"),
            ("unknown type", {"dtype": "X99"}, "dtype 'X99', allowed"),
            ("negative size", {"shape": [-2]}, "sizes from 0"),
            ("size that is none of its bytes", {"shape": [1 << 40]}, "needs 4398046511104 bytes, got 8"),
        )
    ),
    (
        "B44",
        "weights of another graph",
        program(weights=safetensors({"fc.weight": [2, 2], "other": [2]})),
        WEIGHTS_PATH,
        "missing 'fc.bias', unexpected 'other'",
    ),
    (
        "B44",
        "weights of another shape",
        program(weights=safetensors({"fc.weight": [2, 3], "fc.bias": [2]})),
        WEIGHTS_PATH,
        "'fc.weight' is float32 [2, 3], the graph says float32 [2, 2]",
    ),
    ("B45", "bad UTF-8", rows(b"width,label\n\xff\xfe,1\n", "r.csv"), ROWS_PATH, "byte 13 is not UTF-8"),
    ("B45", "column twice", rows(b"label,label\n1,2\n", "r.csv"), ROWS_PATH, 'the column "label" twice'),
    (
        "B45",
        "line of 2 MB",
        rows(b"x" * (2 << 20), "r.csv"),
        ROWS_PATH,
        "no header line within 1048576 bytes",
    ),
    ("B45", "no object", rows(b"[1, 2]\n", "r.jsonl"), ROWS_PATH, "not a JSON object"),
    *(
        (
            "B46",
            address,
            said(f'data {{ train {{ uri: "{address}" }} }}'),
            "data.train.uri",
            "not supported yet",
        )
        for address in ("file:///etc/passwd", "http://169.254.169.254/latest", "s3://bucket/rows")
    ),
    *(
        ("B47", repr(text), said(f"name: {json.dumps(text)}"), "name", "allowed 1 to 64 characters of")
        for text in ("a\nb", "a\u202eb", 'a"} 1\n', "x" * 1_000_000)
    ),
    (
        "B47",
        "label of 1 MB",
        said(f'labels {{ key: "team" value: "{"x" * 1_000_000}" }}'),
        'labels["team"]',
        "got 1000000 characters, allowed values of 0 to 63",
    ),
    (
        "B49",
        "longer than 30 days",
        said("budget { timeout { seconds: 2592001 } }"),
        "budget.timeout",
        "allowed 1 s to 30 days",
    ),
]


@pytest.mark.parametrize(
    ("build", "path", "message"),
    [
        pytest.param(build, path, message, id=f"{row}: {what}"[:60])
        for row, what, build, path, message in MATRIX
    ],
)
def test_a_bad_input_is_refused_at_once_and_leaves_nothing(
    service: Service, refusal: Refused, build: Builder, path: str, message: str
) -> None:
    spec = build(service)
    keys_before, started = key_count(service), time.monotonic()
    refused = refusal(lambda: service.training.CreateJob(pb.CreateJobRequest(spec=spec)))
    assert time.monotonic() - started < 1
    assert refused.code is CODE.INVALID_ARGUMENT
    assert refused.reason in ("INVALID_FIELD", "NOT_SUPPORTED_YET")
    assert path in refused.fields, refused.fields
    assert message in refused.fields[path]
    assert refused.message.startswith(path)
    assert "Error" not in refused.message
    assert "/tmp" not in refused.message
    assert key_count(service) == keys_before


@pytest.mark.parametrize(
    "build",
    [
        program(),
        rows(b"\xef\xbb\xbfwidth,label\r\n1,2\r\n", "windows.csv"),
        rows(safetensors({"width": [4], "label": [4]}), "rows.safetensors"),
        rows(npy("(8,)", "[('width', '<f8'), ('label', '<f8')]"), "rows.npy"),
    ],
)
def test_what_looks_odd_and_is_sound_is_accepted(service: Service, build: Builder) -> None:
    request = pb.CreateJobRequest(spec=build(service), validate_only=True)
    assert service.training.CreateJob(request).job.spec.name


@pytest.mark.parametrize("content", [CARRIER, TORCH_ARCHIVE])
@pytest.mark.parametrize("kind", ["DATASET", "GRAPH", "WEIGHTS"])
def test_a_file_that_can_run_code_is_refused_with_its_first_chunk(
    service: Service, refusal: Refused, content: bytes, kind: str
) -> None:
    number = artifact_pb2.ArtifactKind.Value(f"ARTIFACT_KIND_{kind}")
    request = files_pb.CreateUploadRequest(
        digest=digest_of(content + b"\n"), size_bytes=len(content) + 1, filename="rows.csv", kind=number
    )
    upload_id = service.files.CreateUpload(request).upload_id
    chunk = files_pb.WriteUploadRequest(upload_id=upload_id, data=content)
    refused = refusal(lambda: service.files.WriteUpload(iter([chunk])))
    assert (refused.code, refused.reason) == (CODE.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "which can run code when it is loaded" in refused.fields["data"]
    status = service.files.GetUpload(files_pb.GetUploadRequest(upload_id=upload_id))
    assert status.committed_bytes == 0


def key_count(service: Service) -> int:
    with redis.Redis(**StoreSettings(url=service.store_server.url).redis_arguments()) as client:
        return client.dbsize()  # type: ignore[no-any-return]
