"""The client's records say everything that the contract says, by the same names."""

import dataclasses
import datetime
import enum
import math
import pickle
import random
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

import gradsight
from gradsight import _convert, _enums
from gradsight.v1 import (
    artifact_pb2,
    event_pb2,
    insight_pb2,
    job_pb2,
    spec_pb2,
    state_pb2,
    training_service_pb2,
    worker_pb2,
)

PAIRS: list[tuple[type[gradsight.Record], type[Message]]] = [
    (gradsight.Job, job_pb2.Job),
    (gradsight.JobProgress, job_pb2.JobProgress),
    (gradsight.JobWaiting, job_pb2.JobWaiting),
    (gradsight.JobSummary, job_pb2.JobSummary),
    (gradsight.JobAttempt, job_pb2.JobAttempt),
    (gradsight.JobError, state_pb2.JobError),
    (gradsight.Artifact, artifact_pb2.Artifact),
    (gradsight.Worker, worker_pb2.Worker),
    (gradsight.Series, training_service_pb2.Series),
    (gradsight.ServerInfo, training_service_pb2.GetServerInfoResponse),
    (gradsight.Gap, training_service_pb2.Gap),
    (gradsight.Layer, event_pb2.Layer),
    (gradsight.Probe, event_pb2.Probe),
    (gradsight.SplitRows, event_pb2.SplitRows),
    (gradsight.CategoryRows, event_pb2.CategoryRows),
    (gradsight.CategoryEvaluation, event_pb2.CategoryEvaluation),
    (gradsight.InputFigures, event_pb2.InputFigures),
    (gradsight.ColumnRemark, event_pb2.ColumnRemark),
    (gradsight.EvaluationCompleted, event_pb2.EvaluationCompleted),
    (gradsight.MitigationApplied, event_pb2.MitigationApplied),
    (gradsight.Finding, insight_pb2.Finding),
    (gradsight.Evidence, insight_pb2.Evidence),
    (gradsight.SuspectRow, insight_pb2.SuspectRow),
    (gradsight.FindingCount, job_pb2.FindingCount),
    (gradsight.UpdateEfficacy, insight_pb2.UpdateEfficacy),
    (gradsight.RunVerdict, insight_pb2.RunVerdict),
    (gradsight.Comparison, insight_pb2.Comparison),
    (gradsight.CategoryChange, insight_pb2.CategoryChange),
    (gradsight.PairedChange, insight_pb2.PairedChange),
    (gradsight.RatioInterval, insight_pb2.RatioInterval),
    (gradsight.JobComparison, training_service_pb2.CompareJobsResponse),
    (gradsight.SpecDifference, training_service_pb2.SpecDifference),
    (gradsight.Report, training_service_pb2.GetJobReportResponse),
]
KINDS = list(event_pb2.JobEvent.DESCRIPTOR.oneofs_by_name["kind"].fields)


@pytest.mark.parametrize(("cls", "message"), PAIRS, ids=lambda value: value.__name__)
def test_a_record_has_the_fields_of_its_message(cls: type[gradsight.Record], message: type[Message]) -> None:
    assert [field.name for field in dataclasses.fields(cls)] == list(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_of_event_has_a_class_with_its_fields(kind: FieldDescriptor) -> None:
    assert kind.message_type is not None
    cls = getattr(gradsight, kind.message_type.name)
    assert [field.name for field in dataclasses.fields(cls)] == list(kind.message_type.fields_by_name)


@pytest.mark.parametrize(
    "cls",
    [
        value
        for value in vars(_enums).values()
        if isinstance(value, enum.EnumMeta) and value is not enum.StrEnum
    ],
)
def test_every_enumeration_has_the_words_of_the_contract(cls: type[enum.StrEnum]) -> None:
    modules = (artifact_pb2, insight_pb2, job_pb2, spec_pb2, state_pb2, training_service_pb2, worker_pb2)
    descriptor = next(
        module.DESCRIPTOR.enum_types_by_name[cls.__name__]
        for module in modules
        if cls.__name__ in module.DESCRIPTOR.enum_types_by_name
    )
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    words = [value.name.removeprefix(prefix).lower() for value in descriptor.values if value.number]
    assert [member.value for member in cls] == list(dict.fromkeys([*words, "unknown"]))


@pytest.mark.parametrize(("cls", "message"), PAIRS, ids=lambda value: value.__name__)
def test_a_full_message_becomes_a_full_record_that_pickles(
    cls: type[gradsight.Record], message: type[Message]
) -> None:
    full = _fill(message(), random.Random(7))
    record = _convert.record(cls, full)
    for field in dataclasses.fields(record):
        assert getattr(record, field.name) is not None, field.name
    assert pickle.loads(pickle.dumps(record)) == record  # noqa: S301 (our own bytes)
    assert list(record.to_dict()) == list(message.DESCRIPTOR.fields_by_name)


def test_an_empty_job_reads_as_nothing_known() -> None:
    job = _convert.job(job_pb2.Job(job_id="x"))
    assert job.start_time is None
    assert job.progress is None
    assert job.verdict is None
    assert job.attempts == ()
    assert job.name == ""


def test_zero_and_absent_differ_where_the_contract_says_so() -> None:
    assert _convert.record(gradsight.JobSummary, job_pb2.JobSummary(train_loss=0.0)).train_loss == 0.0
    assert _convert.record(gradsight.JobSummary, job_pb2.JobSummary()).train_loss is None


def test_times_are_aware_and_in_utc() -> None:
    job = job_pb2.Job()
    job.create_time.FromJsonString("2026-11-23T12:00:00.5Z")
    job.progress.remaining.FromJsonString("90.5s")
    read = _convert.job(job)
    assert read.create_time == datetime.datetime(2026, 11, 23, 12, 0, 0, 500_000, tzinfo=datetime.UTC)
    assert read.progress is not None
    assert read.progress.remaining == datetime.timedelta(seconds=90.5)
    assert read.to_dict()["create_time"] == "2026-11-23T12:00:00.500Z"
    assert read.to_dict()["progress"]["remaining"] == "1m30.5s"


def test_what_a_newer_service_sends_does_not_break_the_client() -> None:
    job = job_pb2.Job(state=99)  # type: ignore[arg-type]
    assert _convert.job(job).state is gradsight.JobState.UNKNOWN
    assert _convert.event(event_pb2.JobEvent(sequence=3)) is None


def _fill(message: Any, rng: random.Random) -> Any:
    """Sets every field of a message, of a choice the first, to something that is not its default."""
    descriptor: Descriptor = message.DESCRIPTOR
    for field in descriptor.fields:
        oneof = field.containing_oneof
        if oneof is not None and not oneof.name.startswith("_") and oneof.fields[0] is not field:
            continue
        target = getattr(message, field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            value_field = field.message_type.fields_by_name["value"]
            if value_field.message_type:
                _fill(target["name"], rng)
            else:
                target["name"] = _scalar(value_field, rng)
        elif field.message_type and field.is_repeated:
            _fill(target.add(), rng)
        elif field.message_type:
            target.SetInParent()
            _fill(target, rng)
        elif field.is_repeated:
            target.append(_scalar(field, rng))
        else:
            setattr(message, field.name, _scalar(field, rng))
    return message


def _scalar(field: FieldDescriptor, rng: random.Random) -> Any:
    if field.enum_type:
        return field.enum_type.values[1].number
    if field.type == FieldDescriptor.TYPE_BYTES:
        return b"text"
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "text"
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return True
    if field.cpp_type in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        return 0.5
    return rng.randint(1, 1000)


def test_records_of_the_same_message_are_equal_whatever_was_not_measured() -> None:
    probe = event_pb2.Probe(step=3, layer_saturated_ratio=[math.nan, 0.5], predicted_decrease=math.nan)
    wire = probe.SerializeToString()
    first, second = (_convert.record(gradsight.Probe, event_pb2.Probe.FromString(wire)) for _ in range(2))
    assert first == second
    assert math.isnan(first.layer_saturated_ratio[0])
