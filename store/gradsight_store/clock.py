"""The server's clock, the only one that counts. Also the cheapest question whether the store answers."""

from gradsight_store.operations import Operation, Pipeline
from gradsight_store.records import milliseconds


def read_clock() -> Operation[int]:
    """Milliseconds since the epoch on the server's clock."""
    (reply,) = yield Pipeline([("TIME",)])
    return milliseconds(reply)
