"""Put into a worker as `sitecustomize`: logs what each of its processes imports, and which ones are forks.

A line is `PID start` for a program that begins, and `PID MODULE` for a module that was not loaded yet.
"""

import os
import sys

_log = os.environ["IMPORT_LOG"]


def _note(word: str) -> None:
    # Opened each time: the trainer lets go of every descriptor it inherited.
    descriptor = os.open(_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{os.getpid()} {word}\n".encode())
    os.close(descriptor)


def _heard(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import":
        _note(str(arguments[0]))


_note("start")
sys.addaudithook(_heard)
