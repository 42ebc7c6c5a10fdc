"""The page that Prometheus scrapes: fleet first, then every active or recently ended job, family by family."""

from collections.abc import Iterable

from gradsight._version import __version__
from gradsight.v1 import state_pb2
from gradsight_insight.catalogue import KINDS
from gradsight_service.exporter.exposition import Family, labelled, sample
from gradsight_service.exporter.fleet_families import fleet_lines
from gradsight_service.exporter.job_families import FAMILIES, job_lines
from gradsight_store.errors import StoreUnavailable
from gradsight_store.figures import FleetFigures, active_jobs, fleet_figures
from gradsight_store.store import Store

STORE_UP = Family(name="gradsight_store_up", kind="gauge", help="1 when the store answered this scrape.")
BUILD_INFO = Family(name="gradsight_build_info", kind="gauge", help="Version of the exporter; always 1.")
KIND_INFO = Family(
    name="gradsight_finding_kind_info",
    kind="gauge",
    help="Title and page of a kind of finding; always 1.",
)
FOLDED_SERIES = Family(
    name="gradsight_exporter_folded_series",
    kind="gauge",
    help="Series left out of this page because of its bounds.",
)

MOST_JOBS = 10_000


class Page:
    """Renders the page from the store's records. Not safe for two threads at once."""

    def __init__(self, store: Store, *, grace_s: float) -> None:
        self._store = store
        self._grace_ms = int(grace_s * 1000)
        # Lines by job, with the sequence that they were rendered at: a job without news keeps its lines.
        self._rendered: dict[str, tuple[int, dict[str, str]]] = {}

    def render(self) -> bytes:
        """The whole page; without the store, only the figure that says so."""
        try:
            figures = self._store.run(fleet_figures())
            jobs = self._store.run(active_jobs(figures.now_ms - self._grace_ms, limit=MOST_JOBS + 1))
        except StoreUnavailable:
            return "".join(_own_lines(store_up=False)).encode()
        kept = jobs[:MOST_JOBS]
        known = self._rendered
        self._rendered = {}
        for job in kept:
            before = known.get(job.job_id)
            if before is None or before[0] != job.last_sequence:
                before = (job.last_sequence, job_lines(job))
            self._rendered[job.job_id] = before
        lines = [*_own_lines(store_up=True), *_folded_lines(figures, shown=len(kept)), *fleet_lines(figures)]
        return "".join([*lines, *self._job_families()]).encode()

    def ping(self) -> None:
        """Ask the store for anything; raises StoreUnavailable."""
        self._store.run(fleet_figures())

    def _job_families(self) -> Iterable[str]:
        for key, family in FAMILIES.items():
            lines = [rendered[key] for _, rendered in self._rendered.values() if key in rendered]
            if lines:
                yield family.header()
                yield from lines


def _own_lines(*, store_up: bool) -> Iterable[str]:
    yield BUILD_INFO.header()
    yield sample(BUILD_INFO.name, labelled(version=__version__), 1.0)
    yield KIND_INFO.header()
    for kind in KINDS.values():
        labels = labelled(kind=kind.name, title=kind.title, page=kind.page.removesuffix(".md"))
        yield sample(KIND_INFO.name, labels, 1.0)
    yield STORE_UP.header()
    yield f"{STORE_UP.name} {int(store_up)}\n"


def _folded_lines(figures: FleetFigures, *, shown: int) -> Iterable[str]:
    """How many jobs the page leaves out; 0 says that it is complete."""
    unfinished = sum(count for (_, state), count in figures.jobs.items() if not _terminal(state))
    yield FOLDED_SERIES.header()
    yield sample(FOLDED_SERIES.name, labelled(dimension="job"), float(max(0, unfinished - shown)))


def _terminal(state: int) -> bool:
    return state in (state_pb2.JOB_STATE_SUCCEEDED, state_pb2.JOB_STATE_FAILED, state_pb2.JOB_STATE_CANCELLED)
