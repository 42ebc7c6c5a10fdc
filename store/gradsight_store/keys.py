"""Every Redis key of gradsight, and the forms of what stands in the indexes.

A tenant's data carries the tenant in the key. What the whole fleet shares (leases, workers, waiting lines)
carries it in the member: `<tenant>_<job id>`; neither part contains `_`. RQ's own keys are in `transport.py`.
"""

import re

from gradsight_store.operations import JobRef

_MESSAGE = re.compile(r"(?P<tenant>[a-z0-9-]{1,64})_(?P<job_id>[a-z0-9-]{1,64})_(?P<term>[0-9]{1,15})")

PREFIX = "gradsight"
SCHEMA_VERSION = f"{PREFIX}:schema_version"
SERVER_RUN = f"{PREFIX}:server_run"
"""Hash: which run of the server was seen, since when."""
TENANTS = f"{PREFIX}:tenants"
"""Set of tenants that ever had a job."""
QUEUES = f"{PREFIX}:queues"
"""Set of queues that ever had a job."""

LEASES = f"{PREFIX}:leases"
"""Member by the end of its lease."""
ASSIGNMENTS = f"{PREFIX}:assignments"
"""Member by the time at which its assignment lapses."""
BACK_OFFS = f"{PREFIX}:back_offs"
"""Member by the end of its back-off."""
OVERLONG = f"{PREFIX}:overlong"
"""Set of members whose log has passed its bound."""
WAKE = f"{PREFIX}:wake"
"""Short stream: something happened that makes dispatching worth a try."""

WORKERS = f"{PREFIX}:workers"
"""Worker id by the end of its lease."""


def job(ref: JobRef) -> str:
    """Hash of the job: record, figures, counters that the scripts read."""
    return f"{PREFIX}:{ref.tenant}:job:{ref.job_id}"


def operations(ref: JobRef) -> str:
    """List of the operations that were applied lately, newest first."""
    return f"{PREFIX}:{ref.tenant}:operations:{ref.job_id}"


def events(ref: JobRef) -> str:
    """Stream of the job's events; the id is the sequence."""
    return f"{PREFIX}:{ref.tenant}:events:{ref.job_id}"


def findings(ref: JobRef) -> str:
    """Hash of the job's findings: id to `KeptFinding`. Goes with the job."""
    return f"{PREFIX}:{ref.tenant}:findings:{ref.job_id}"


def request(tenant: str, request_id: str) -> str:
    """Which job a request made: `<digest> <job id>`."""
    return f"{PREFIX}:{tenant}:request:{request_id}"


def feed(tenant: str) -> str:
    """Stream of the state events of all jobs."""
    return f"{PREFIX}:{tenant}:feed"


def jobs(tenant: str) -> str:
    """All job ids; ids sort by time."""
    return f"{PREFIX}:{tenant}:jobs"


def jobs_in_state(tenant: str, state: int) -> str:
    """Ids of the jobs in one state."""
    return f"{PREFIX}:{tenant}:jobs:state:{state}"


def jobs_of_name(tenant: str, name: str) -> str:
    """Ids of the jobs of one name."""
    return f"{PREFIX}:{tenant}:jobs:name:{name}"


def activity(tenant: str) -> str:
    """Job ids by the time of their end; unfinished ones lie in the far future."""
    return f"{PREFIX}:{tenant}:activity"


def counters(tenant: str) -> str:
    """Hash of the tenant's counters, see `figures.py`."""
    return f"{PREFIX}:{tenant}:counters"


def waiting(queue: str, device_class: int, recipe: str = "") -> str:
    """Members that could start now, best first. Jobs that need a recipe have lines of their own."""
    return f"{PREFIX}:waiting:{queue}:{device_class}" + (f":{recipe}" if recipe else "")


def queued(queue: str) -> str:
    """Members that are QUEUED for whatever reason, by the time since when."""
    return f"{PREFIX}:queued:{queue}"


def worker(worker_id: str) -> str:
    """Hash of the worker: record, reported state, slot."""
    return f"{PREFIX}:worker:{worker_id}"


def workers_of(queue: str, device_class: int) -> str:
    """Ids of the workers of a queue and class that take jobs, by the end of their lease."""
    return f"{PREFIX}:workers:{queue}:{device_class}"


def artifact(tenant: str, digest: str) -> str:
    """First record of a content: 13 digits of milliseconds, then the artifact without its time."""
    return f"{PREFIX}:{tenant}:artifact:{digest}"


def artifact_uses(tenant: str, digest: str) -> str:
    """Hash of every record of a content: the artifact without its time, to the time."""
    return f"{PREFIX}:{tenant}:artifact_uses:{digest}"


def artifacts(tenant: str, job_id: str, kind: int) -> str:
    """Records of a job's artifacts (of the uploads without a job) of a kind (of all for 0), by time."""
    return f"{PREFIX}:{tenant}:artifacts:{job_id}:{kind}"


def member(ref: JobRef) -> str:
    """The job's form in indexes of the whole fleet."""
    return f"{ref.tenant}_{ref.job_id}"


def parse_member(text: bytes) -> JobRef:
    """The job that a member names."""
    tenant, _, job_id = text.decode().partition("_")
    return JobRef(tenant, job_id)


def message_id(ref: JobRef, term: int) -> str:
    """What names one term of a job, in the worker's slot and in the transport."""
    return f"{member(ref)}_{term}"


def parse_message(text: str) -> tuple[JobRef, int]:
    """Job and term that a message id names.

    Raises:
        ValueError: It is not a message id.
    """
    matched = _MESSAGE.fullmatch(text)
    if matched is None:
        raise ValueError(f"message id: got {text[:80]!r}, allowed: <tenant>_<job id>_<term>")
    return JobRef(matched["tenant"], matched["job_id"]), int(matched["term"])
