"""Signs of life while the run does something long in one piece: compiling, judging many rows."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gradsight_worker.training.channel import ChannelClosed, TrainerChannel

_INTERVAL_SECONDS = 5.0


@contextmanager
def ticking(channel: TrainerChannel, step: int) -> Iterator[None]:
    """Inside, say every five seconds that the run is alive with `step` steps done."""
    done = threading.Event()

    def tick() -> None:
        try:
            while not done.wait(_INTERVAL_SECONDS):
                channel.tick(step)
        except ChannelClosed:
            return  # whoever uses the channel next finds out

    thread = threading.Thread(target=tick, name="ticking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
