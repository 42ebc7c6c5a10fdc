"""Long things in one piece: the attempt hears that the run is alive."""

import threading
import time

import pytest

from gradsight_worker.training import ticking as module
from gradsight_worker.training.channel import Message, TickMessage, open_channel
from gradsight_worker.training.ticking import ticking


def test_the_attempt_hears_ticks_while_something_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INTERVAL_SECONDS", 0.01)
    trainer, attempt = open_channel()
    heard: list[Message] = []
    deadline = time.monotonic() + 30
    with ticking(trainer, 7):
        while len(heard) < 3 and time.monotonic() < deadline:
            heard += attempt.receive()
    assert heard[:3] == [TickMessage(step=7)] * 3
    with ticking(trainer, 8):
        attempt.close()
        while any(thread.name == "ticking" for thread in threading.enumerate()):
            assert time.monotonic() < deadline
    trainer.close()
