"""One tree of exceptions, one map into it."""

import pickle
import re
import traceback
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import gradsight
from gradsight import _errors
from gradsight._errors import error_for

if TYPE_CHECKING:
    from tests.unit.client.conftest import LittleService

CLASSES = sorted(
    (
        cls
        for cls in vars(_errors).values()
        if isinstance(cls, type) and issubclass(cls, gradsight.GradsightError)
    ),
    key=lambda cls: cls.__name__,
)


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (_errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)", line)
        if match:
            depth = len(match[1]) // 4
            path = [*path[:depth], match[2]]
            drawn[match[2]] = path[-2] if depth else "Exception"
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}


def test_every_status_code_has_an_exception() -> None:
    codes = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
    assert len(codes) == 16
    for code in codes:
        assert isinstance(error_for(code.name, None, "text"), gradsight.GradsightError)


def test_every_reason_has_an_exception_that_knows_it() -> None:
    for reason in gradsight.Reason:
        error = error_for("INTERNAL", reason.value, "text", metadata={"job_id": "x"})
        assert type(error) is not gradsight.GradsightError
        assert error.reason is reason
        assert error.metadata == {"job_id": "x"}


def test_every_reason_says_its_status_and_is_documented() -> None:
    source = (_errors.__file__).replace("_errors", "_reasons")
    with open(source) as file:
        text = file.read()
    for reason in gradsight.Reason:
        assert re.search(rf'{reason} = "{reason}"\n    """\[[A-Z_]+', text), reason


def test_a_reason_of_a_newer_service_falls_back_to_the_status() -> None:
    error = error_for("UNAVAILABLE", "MOON_PHASE", "not tonight")
    assert type(error) is gradsight.ServiceUnreachable
    assert error.reason == "MOON_PHASE"


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_exception_survives_pickling(cls: type[gradsight.GradsightError]) -> None:
    arguments: dict[str, Any] = {
        "InvalidSpec": ("wrong", [gradsight.FieldViolation("data.target", "got nothing")]),
        "JobEnded": ("ended", None),
        "JobFailed": ("failed", None, None),
        "JobCancelled": ("cancelled", None),
        "RequirementNotMet": ("worse", None, ()),
        "WaitTimeout": ("late", "job1"),
        "WatchGap": ("gap", 3, 5),
    }
    error = cls(*arguments.get(cls.__name__, ("text",)))
    error.reason, error.metadata = gradsight.Reason.INTERNAL, {"a": "b"}
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 (our own bytes)
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_a_refused_call_shows_no_grpc_in_its_traceback(service: "LittleService") -> None:
    with gradsight.Client(service.address) as client, pytest.raises(gradsight.JobNotFound) as caught:
        client.job("nope").get()
    shown = "".join(traceback.format_exception(caught.value))
    assert "RpcError" not in shown
    assert "site-packages/grpc" not in shown
    assert caught.value.reason is gradsight.Reason.JOB_NOT_FOUND


def test_a_refused_spec_names_its_fields(service: "LittleService") -> None:
    with gradsight.Client(service.address) as client, pytest.raises(gradsight.InvalidSpec) as caught:
        client.submit(model="mlp")
    assert caught.value.fields == (("data.target_column", "got nothing, allowed 1 to 256 characters"),)
    assert isinstance(caught.value, ValueError)
