"""Two jobs side by side through the front door: from the answers that they left behind, as the store has them."""

import io
import zlib
from collections.abc import Callable
from typing import Any

import grpc
import pyarrow as pa
import pyarrow.parquet
import pytest

from gradsight.v1 import artifact_pb2, event_pb2, insight_pb2, state_pb2
from gradsight.v1 import training_service_pb2 as pb
from gradsight_store.artifacts import Artifacts

Service = Any
Refused = Callable[[Callable[[], Any]], Any]
Answers = dict[str, bool]

SAME_IDS = 'data { id_column: "id" category_column: "kind" }'


def examples(answers: Answers, category: Callable[[str], str] | None = None) -> bytes:
    """`examples.parquet` of a job that answered these rows right or wrong."""
    rows = [
        {
            "row_id": row_id,
            "split": "test",
            "category": category(row_id) if category else None,
            "target": "a",
            "correct": correct,
            "baseline_correct": None,
        }
        for row_id, correct in answers.items()
    ]
    types = [(name, pa.string()) for name in ("row_id", "split", "category", "target")]
    flags = [(name, pa.bool_()) for name in ("correct", "baseline_correct")]
    written = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows, schema=pa.schema([*types, *flags])), written)
    return written.getvalue()


@pytest.fixture
def finished(service: Service, worker: Any, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Makes jobs that have succeeded and left these answers behind; their ids."""
    made: list[str] = []

    def make(data: bytes | None, *parts: str, events: tuple[event_pb2.JobEvent, ...] = ()) -> str:
        queue = f"compared-{zlib.crc32(request.node.name.encode())}-{len(made)}"
        job_id: str = service.create(f'queue: "{queue}"', *parts).job_id
        attempt = worker(queue).wait_for_job()
        attempt.append(*events)
        files = []
        if data is not None:
            stored = Artifacts(service.root).put_bytes("default", data)
            kind = artifact_pb2.ARTIFACT_KIND_EXAMPLES
            files.append(artifact_pb2.Artifact(digest=stored.digest, kind=kind, filename="examples.parquet"))
        attempt.finish(state_pb2.JOB_STATE_SUCCEEDED, *files)
        made.append(job_id)
        return job_id

    return make


def compared(service: Service, old: str, new: str) -> pb.CompareJobsResponse:
    answer: pb.CompareJobsResponse = service.training.CompareJobs(
        pb.CompareJobsRequest(baseline_job_id=old, job_id=new)
    )
    return answer


def test_a_category_that_fell_is_named_and_the_specs_differences_stand_beside_it(
    service: Service, finished: Callable[..., str]
) -> None:
    ids = [f"r{number}" for number in range(400)]
    category = {row_id: "returns" if number < 60 else "sizing" for number, row_id in enumerate(ids)}
    good = {row_id: number % 10 != 0 for number, row_id in enumerate(ids)}
    worse = {
        row_id: right and (category[row_id] != "returns" or ids.index(row_id) > 20)
        for row_id, right in good.items()
    }
    old = finished(examples(good, category.__getitem__), SAME_IDS)
    new = finished(
        examples(worse, category.__getitem__), SAME_IDS, "seed: 7 optimizer { sgd { momentum: 0.5 } }"
    )
    answer = compared(service, old, new)
    comparison = answer.comparison
    assert (comparison.baseline_job_id, comparison.job_id) == (old, new)
    assert comparison.verdict == insight_pb2.COMPARISON_VERDICT_REGRESSED
    assert comparison.overall.examples == 400
    fallen = {
        found.category: found.change
        for found in comparison.categories
        if found.change.verdict == insight_pb2.CHANGE_VERDICT_REGRESSED
    }
    assert set(fallen) == {"returns"}
    assert fallen["returns"].only_new_wrong > 10
    assert fallen["returns"].error_ratio.lower > fallen["returns"].baseline_error_ratio.ratio
    told = {found.field: (found.baseline_value, found.value) for found in answer.differences}
    assert told["seed"] == ("0", "7")
    assert told["optimizer"][1].startswith('{"sgd": {"momentum": 0.5')
    assert told["optimizer"][0].startswith('{"adamw": {')
    assert answer.differences[0].field == "queue"


def test_only_rows_of_both_count_and_it_says_so(service: Service, finished: Callable[..., str]) -> None:
    old = finished(examples({f"r{number}": True for number in range(50)}), SAME_IDS)
    new = finished(examples({f"r{number}": True for number in range(20, 80)}), SAME_IDS)
    comparison = compared(service, old, new).comparison
    assert comparison.overall.examples == 30
    assert comparison.message.startswith(
        "Test rows that both answered: 30; left out: 20 of the old job's and 30"
    )
    none = finished(examples({"other": True}), SAME_IDS)
    comparison = compared(service, old, none).comparison
    assert comparison.verdict == insight_pb2.COMPARISON_VERDICT_NOT_COMPARABLE
    assert comparison.message == "The two jobs have no test row in common."
    assert not comparison.HasField("overall")


def test_rows_that_are_only_numbered_are_the_same_in_the_same_file_only(
    service: Service, finished: Callable[..., str]
) -> None:
    answers = examples({str(number): True for number in range(30)})
    old, new = finished(answers), finished(answers)
    comparison = compared(service, old, new).comparison
    assert comparison.verdict == insight_pb2.COMPARISON_VERDICT_NO_SIGNIFICANT_CHANGE
    other = service.upload(b"width,height,kind,label\n1,2,x,a\n", "other.csv")
    moved = finished(answers, f'data {{ test {{ artifact: "{other}" }} }}')
    comparison = compared(service, old, moved).comparison
    assert comparison.verdict == insight_pb2.COMPARISON_VERDICT_NOT_COMPARABLE
    assert "only numbered" in comparison.message
    named = finished(answers, SAME_IDS)
    assert "by number, the new one by the column id" in compared(service, old, named).comparison.message


def test_what_the_job_said_itself_of_its_baseline_is_what_it_still_says(
    service: Service, finished: Callable[..., str]
) -> None:
    old = finished(examples({"1": True}))
    told = insight_pb2.Comparison(
        baseline_job_id=old, verdict=insight_pb2.COMPARISON_VERDICT_MIXED, message="said then"
    )
    event = event_pb2.JobEvent(comparison_completed=event_pb2.ComparisonCompleted(comparison=told))
    new = finished(examples({"1": True}), f'evaluation {{ baseline_job_id: "{old}" }}', events=(event,))
    assert compared(service, old, new).comparison == told
    third = finished(examples({"1": True}))
    assert compared(service, third, new).comparison.message != "said then"


def test_jobs_without_answers_and_of_other_answers_are_not_comparable(
    service: Service, finished: Callable[..., str]
) -> None:
    with_answers, without = finished(examples({"1": True})), finished(None)
    comparison = compared(service, without, with_answers).comparison
    assert comparison.verdict == insight_pb2.COMPARISON_VERDICT_NOT_COMPARABLE
    assert comparison.message == f"Job {without} left no answers behind."
    numbers = finished(None, "objective { huber {} }")
    assert compared(service, with_answers, numbers).comparison.message == (
        "The old job answers classes, the new one numbers."
    )
    assert "not right or wrong" in compared(service, numbers, numbers).comparison.message


def test_only_jobs_that_have_succeeded_are_compared(
    service: Service, finished: Callable[..., str], refusal: Refused
) -> None:
    done, waiting = finished(examples({"1": True})), service.create('queue: "nobody-here"').job_id
    refused = refusal(lambda: compared(service, waiting, done))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.fields == {"baseline_job_id": "got a job that is QUEUED, allowed one that has succeeded"}
    refused = refusal(lambda: compared(service, done, waiting))
    assert list(refused.fields) == ["job_id"]
    refused = refusal(lambda: compared(service, "", done))
    assert refused.fields == {"baseline_job_id": "required: name the job"}
    refused = refusal(lambda: compared(service, done, "nobody"))
    assert (refused.reason, refused.metadata) == ("JOB_NOT_FOUND", {"job_id": "nobody"})
