"""JSON lines on stderr: time, level, message and the fields of the caller."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One JSON object a record. What the caller passed as `extra` becomes further fields."""

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = fields

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields,
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def log_also(**fields: str) -> None:
    """Add fields to every record of this process from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonLines):
            handler.formatter.fields |= fields


def log_as_json(level: str = "info", **fields: str) -> None:
    """Send every record of this process to stderr as JSON with these fields, `worker` or `job_id` say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**fields))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # RQ narrates every step of its own bookkeeping, which we do not use.
    for name in ("rq.worker", "rq.queue", "rq.job"):
        logging.getLogger(name).setLevel(logging.WARNING)
