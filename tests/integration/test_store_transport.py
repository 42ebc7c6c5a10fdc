"""Messages through a real RQ worker that forks: delivered once each, and forged entries harm nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from gradsight_store import transport, workers
from gradsight_store.operations import JobRef

if TYPE_CHECKING:
    from tests.integration.conftest import Lab

REF = JobRef("default", "1k85dfpb9vcfha8")
QUEUE = transport.queue_name("w1")
PROGRAM = Path(__file__).parent / "programs" / "stock_rq_worker.py"


@contextmanager
def rq_worker(url: str, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, str(PROGRAM), url, QUEUE, str(output)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def tried(output: Path) -> list[str]:
    return output.read_text().splitlines() if output.exists() else []


def test_a_message_names_tenant_job_and_term() -> None:
    assert transport.parse_message(transport.message_id(REF, 7)) == (REF, 7)


@pytest.mark.parametrize("text", ["", "a_b", "a_b_c", "a_b_1_2", "A_b_1", "a_b_-1", "os.system", "a_b_1\n"])
def test_what_is_no_message_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="message id"):
        transport.parse_message(text)


def test_messages_run_in_order_and_a_breaking_attempt_stops_nothing(
    lab: Lab, store_url: str, tmp_path: Path
) -> None:
    output = tmp_path / "tried"
    with rq_worker(store_url, output) as process:
        for term in (1, 666, 3):
            lab.run(transport.enqueue_attempt("w1", REF, term))
            lab.run(transport.enqueue_attempt("w1", REF, term))
        lab.until(lambda: len(tried(output)) == 3, 30)
        assert [line.split()[2] for line in tried(output)] == ["1", "666", "3"]
        assert process.poll() is None
    with redis.Redis.from_url(store_url) as client:
        assert client.lrange(f"rq:queue:{QUEUE}", 0, -1) == []


def test_forged_entries_neither_run_foreign_code_nor_stop_the_worker(
    lab: Lab, store_url: str, tmp_path: Path
) -> None:
    output, marker = tmp_path / "tried", tmp_path / "marker"
    call = json.dumps(["os.system", None, [f"touch {marker}"], {}])
    forged = {
        "data": call,
        "origin": QUEUE,
        "success_callback_name": "os.getpid",
        "failure_callback_name": "os.getpid",
        "stopped_callback_name": "os.getpid",
        "webhooks": json.dumps([{"url": "http://127.0.0.1:9", "job_status": "finished"}]),
        "timeout": "not a number",
        "created_at": "never",
        "result_ttl": "x",
        "retries_left": "9",
        "meta": b"\x80",
        "status": "nonsense",
    }
    names = ["not_a_message", "os.system", "x" * 300, "default_job_1:2"]
    with redis.Redis.from_url(store_url) as client, rq_worker(store_url, output) as process:
        client.hset(f"rq:job:{transport.message_id(REF, 1)}", mapping=forged)
        client.hset(f"rq:job:{transport.message_id(REF, 2)}", "nothing", b"\xff")
        client.set(f"rq:job:{transport.message_id(REF, 3)}x", "not even a hash")
        for name in names:
            client.hset(f"rq:job:{name}", mapping=forged)
        entries = [transport.message_id(REF, 1), transport.message_id(REF, 2), b"\xff\xfe", b"", *names]
        client.rpush(f"rq:queue:{QUEUE}", *entries, transport.message_id(REF, 99))
        lab.run(transport.enqueue_attempt("w1", REF, 4))
        lab.until(lambda: f"{REF.tenant} {REF.job_id} 4" in tried(output), 30)
        assert process.poll() is None
        assert client.keys("rq:queue:*") == []
    assert [line.split()[2] for line in tried(output)] == ["1", "2", "4"]
    assert not marker.exists()


def test_a_removed_worker_leaves_no_queue_behind(lab: Lab, store_url: str) -> None:
    ref = lab.create()
    lab.worker()
    lab.run(transport.enqueue_attempt("w1", ref, lab.assign(ref)))
    lab.run(workers.remove_worker("w1"))
    with redis.Redis.from_url(store_url) as client:
        assert client.keys("rq:queue*") == []
        assert 0 < client.ttl(f"rq:job:{transport.message_id(ref, 1)}") <= 3600
    assert lab.run(workers.list_workers()) == []
