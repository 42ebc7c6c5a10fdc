"""File work that may take long, done in a child so that the lease is renewed meanwhile."""

from __future__ import annotations

import json
import os
import select
import selectors
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from gradsight_worker import processes

Work = Callable[[], Any]
"""Returns something that JSON can say."""


class ErrandFailed(Exception):
    """The work raised. `kind` is the name of the exception's class, the message its text."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Errands:
    """Pieces of work, one after the other, each in a child of its own.

    Args:
        selector: The loop that waits for them; the key's data is the function to call.
    """

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._waiting: deque[tuple[Work, Callable[[Errand], None]]] = deque()
        self._running: Errand | None = None
        self._when_idle: Callable[[], None] | None = None

    def add(self, work: Work, done: Callable[[Errand], None]) -> None:
        """Have work done after all that was added before; `done` asks the errand for its result."""
        self._waiting.append((work, done))
        self._go_on()

    def when_idle(self, then: Callable[[], None]) -> None:
        """Call `then` once nothing is left to do: now, or later."""
        self._when_idle = then
        self._go_on()

    def drop(self) -> None:
        """Kill what runs and forget what waits."""
        self._waiting.clear()
        if self._running is not None:
            self._selector.unregister(self._running)
            self._running.abandon()
            self._running = None
        self._go_on()

    def finish(self, patience_s: float) -> None:
        """Wait until nothing is left to do; after `patience_s` drop the rest."""
        deadline = time.monotonic() + patience_s
        while self._running is not None and (remaining := deadline - time.monotonic()) > 0:
            if select.select([self._running], [], [], remaining)[0]:
                self._selector.get_key(self._running).data()
        self.drop()

    def _go_on(self) -> None:
        if self._running is not None:
            return
        if self._waiting:
            work, done = self._waiting.popleft()
            self._running = Errand(work)
            self._selector.register(self._running, selectors.EVENT_READ, self._receiver(self._running, done))
        elif self._when_idle is not None:
            then, self._when_idle = self._when_idle, None
            then()

    def _receiver(self, errand: Errand, done: Callable[[Errand], None]) -> Callable[[], None]:
        def receive() -> None:
            # It may have been dropped by what else happened in the same turn of the loop.
            if errand is self._running and errand.take():
                self._selector.unregister(errand)
                self._running = None
                done(errand)
                self._go_on()

        return receive


class Errand:
    """One piece of work in a child of its own. Wait on `fileno()`, then call `take`.

    A child rather than a thread: it can be killed, it cannot hold the interpreter, and nobody forks with threads.
    """

    def __init__(self, work: Work) -> None:
        self._reading, writing = os.pipe()
        self._child = processes.fork_child(lambda: _work(work, writing))
        self._received = b""
        os.close(writing)

    def fileno(self) -> int:
        """Descriptor to wait on for reading."""
        return self._reading

    def take(self) -> bool:
        """Read what the child wrote; True once it has ended and `result` may be called."""
        data = os.read(self._reading, 65536)
        self._received += data
        return not data

    def result(self) -> Any:
        """What the work returned. Call it once.

        Raises:
            ErrandFailed: The work raised, or its process died.
        """
        status = self._close()
        if status != 0 or not self._received:
            raise ErrandFailed(
                "ProcessDied", f"the process for file transfers {processes.describe_exit(status)}"
            )
        answer = json.loads(self._received)
        if "kind" in answer:
            raise ErrandFailed(answer["kind"], answer["message"])
        return answer["result"]

    def abandon(self) -> None:
        """Kill the child and forget the work."""
        self._child.kill()
        self._close()

    def _close(self) -> int:
        os.close(self._reading)
        return self._child.wait()


def _work(work: Work, writing: int) -> int:
    processes.ignore_stop_signals()
    try:
        answer = {"result": work()}
    except Exception as error:  # told to the parent, which decides
        answer = {"kind": type(error).__name__, "message": str(error)}
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        json.dump(answer, pipe)
    return 0
