"""A stock RQ worker on one queue that forks per message and writes down what it was asked to try.

python stock_rq_worker.py STORE_URL QUEUE OUTPUT
"""

import sys
from pathlib import Path

from rq import Worker
from rq.serializers import JSONSerializer

from gradsight_store import transport
from gradsight_store.operations import JobRef
from gradsight_store.settings import StoreSettings
from gradsight_store.transport import AttemptJob, AttemptQueue


def main(url: str, queue_name: str, output: Path) -> None:
    connection = transport.rq_connection(StoreSettings(url=url))

    def run_attempt(ref: JobRef, term: int) -> None:
        with output.open("a") as file:
            file.write(f"{ref.tenant} {ref.job_id} {term}\n")
        if term == 666:
            raise RuntimeError("the attempt breaks")

    AttemptJob.entry_point = staticmethod(run_attempt)
    queue = AttemptQueue(queue_name, connection=connection, serializer=JSONSerializer)
    worker = Worker(
        [queue],
        connection=connection,
        job_class=AttemptJob,
        queue_class=AttemptQueue,
        serializer=JSONSerializer,
        default_worker_ttl=20,
    )
    worker.work(logging_level="ERROR")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
