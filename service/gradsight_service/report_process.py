"""The process that renders one report: a job's record, findings and log come in, the file goes out.

`python -m gradsight_service.report_process FORMAT` with `html` or `markdown`. Standard input is a row of frames, each a
letter (`e` a JobEvent, `f` a Finding, `j` the Job), the length in 4 bytes, big-endian, and the message. Apart from the
service, because plotting takes a second of one core and a library of many megabytes.
"""

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import BinaryIO

from google.protobuf.message import Message

from gradsight import __version__
from gradsight.v1 import event_pb2, insight_pb2, job_pb2
from gradsight_service.report_curves import ReportCurves
from gradsight_service.report_data import report_data

_LENGTH_BYTES = 4


def frame(letter: bytes, message: Message) -> bytes:
    """A message as it goes in."""
    body = message.SerializeToString()
    return letter + len(body).to_bytes(_LENGTH_BYTES, "big") + body


def render(file: BinaryIO, form: str, *, written: datetime) -> bytes:
    """The report of what the file holds.

    Raises:
        ValueError: It ends within a frame, or holds a letter that is none.
    """
    curves, job, findings = ReportCurves(), job_pb2.Job(), []
    for letter, body in _frames(file):
        match letter:
            case b"e":
                curves.add(event_pb2.JobEvent.FromString(body))
            case b"f":
                findings.append(insight_pb2.Finding.FromString(body))
            case b"j":
                job = job_pb2.Job.FromString(body)
            case _:
                raise ValueError(f"frame: got {letter!r}, allowed e, f, j")
    data = report_data(job, findings, curves, written=written, version=__version__)
    if form == "markdown":
        from gradsight_insight.report.markdown import markdown

        return markdown(data).encode()
    from gradsight_insight.report.page import html_page

    return html_page(data).encode()


def _frames(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    while letter := file.read(1):
        length = int.from_bytes(file.read(_LENGTH_BYTES), "big")
        body = file.read(length)
        if len(body) < length:
            raise ValueError(f"frame: got {len(body)} bytes of {length}")
        yield letter, body


if __name__ == "__main__":
    sys.stdout.buffer.write(render(sys.stdin.buffer, sys.argv[1], written=datetime.now(UTC)))
