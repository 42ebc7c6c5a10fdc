"""Findings of a job, whole, beside its record: written by the appends of its attempts, read without the log.

`FindingsBook` folds the events in and is pure, like the figures; the hash holds what the book holds.
"""

import base64
import binascii
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gradsight.v1 import insight_pb2, job_pb2
from gradsight_store import keys
from gradsight_store.errors import JobNotFound
from gradsight_store.operations import JobRef, Operation, Pipeline
from gradsight_store.v1 import record_pb2

MOST_KEPT = 200
"""Findings kept of a job: open ones before closed ones, then the most severe, then the newest."""
_FORGET = b""
_TOKEN = re.compile(r"(?P<severity>\d+) (?P<closed>[01]) (?P<first_step>\d{1,19}) (?P<finding_id>.+)")
_Group = tuple[str, int]


@dataclass(frozen=True)
class FindingPage:
    """Findings, most severe first. An empty token says that this was the last page."""

    findings: list[insight_pb2.Finding]
    next_page_token: str


class FindingsBook:
    """The findings of a job so far, and how many there were of each kind.

    Args:
        kept: What an earlier attempt left in the store.
        counts: The counts that belong to it. What they count beyond `kept` was forgotten for the bound's sake.
    """

    def __init__(
        self,
        kept: Iterable[record_pb2.KeptFinding] = (),
        counts: Iterable[job_pb2.FindingCount] = (),
    ) -> None:
        self._kept = {entry.finding.finding_id: entry for entry in kept}
        self._changed: set[str] = set()
        total, still_open = self._tally()
        self._forgotten = Counter({_group(count): count.total for count in counts})
        self._forgotten_open = Counter({_group(count): count.open for count in counts})
        self._forgotten.subtract(total)
        self._forgotten_open.subtract(still_open)

    def note(self, finding: insight_pb2.Finding, step: int, *, opened: bool = False) -> None:
        """Keep a finding as it is told after `step` steps: the same id is the same finding.

        `opened`: it is said to be new.
        """
        known = self._kept.get(finding.finding_id)
        if known is None and not opened:
            self._remember(finding)
        # Detectors look back: it may have been found later than it was seen.
        opened_step = max(step, finding.last_step) if known is None else known.opened_step
        self._kept[finding.finding_id] = record_pb2.KeptFinding(finding=finding, opened_step=opened_step)
        self._changed.add(finding.finding_id)
        if len(self._kept) > MOST_KEPT:
            self._forget(min(self._kept.values(), key=_worth))

    def go_back(self, step: int) -> None:
        """The run goes on after `step` steps: what was found later was not, until it is found again."""
        later = [name for name, entry in self._kept.items() if entry.opened_step > step or step == 0]
        for name in later:
            del self._kept[name]
        self._changed.update(later)
        if step == 0:
            self._forgotten.clear()
            self._forgotten_open.clear()

    def counts(self) -> list[job_pb2.FindingCount]:
        """How many there are by kind and severity, most severe first."""
        total, still_open = self._tally()
        total.update(self._forgotten)
        still_open.update(self._forgotten_open)
        groups = sorted((group for group, count in total.items() if count > 0), key=_most_severe_first)
        return [
            job_pb2.FindingCount(
                kind=group[0],
                severity=group[1],  # type: ignore[arg-type]
                open=max(0, still_open[group]),
                total=total[group],
            )
            for group in groups
        ]

    def unsent(self) -> Mapping[str, bytes]:
        """What the store does not know yet: the bytes by id; none for a finding to be forgotten."""
        return {
            name: self._kept[name].SerializeToString() if name in self._kept else _FORGET
            for name in sorted(self._changed)
        }

    def note_sent(self, sent: Mapping[str, bytes]) -> None:
        """The store has these now."""
        now = self.unsent()
        self._changed -= {name for name, data in sent.items() if now.get(name) == data}

    def _tally(self) -> tuple[Counter[_Group], Counter[_Group]]:
        total = Counter(_group(entry.finding) for entry in self._kept.values())
        return total, Counter(_group(entry.finding) for entry in self._kept.values() if entry.finding.open)

    def _forget(self, entry: record_pb2.KeptFinding) -> None:
        del self._kept[entry.finding.finding_id]
        self._changed.add(entry.finding.finding_id)
        self._forgotten[_group(entry.finding)] += 1
        self._forgotten_open[_group(entry.finding)] += entry.finding.open

    def _remember(self, finding: insight_pb2.Finding) -> None:
        """It is told of again after it was forgotten: it must not count twice."""
        group = _group(finding)
        if self._forgotten[group] > 0:
            self._forgotten[group] -= 1
            self._forgotten_open[group] = max(0, self._forgotten_open[group] - 1)


def read_kept(ref: JobRef) -> Operation[list[record_pb2.KeptFinding]]:
    """A job's findings as they are kept, in no order; none for a job from before there were any."""
    (values,) = yield Pipeline([("HVALS", keys.findings(ref))])
    return [record_pb2.KeptFinding.FromString(value) for value in values]


def list_findings(
    ref: JobRef, *, page_size: int, page_token: str = "", open_only: bool = False
) -> Operation[FindingPage]:
    """A page of a job's findings: most severe first, of those the open ones, of those the earliest.

    A finding that changes while pages are read may be in none of them, or in two.

    Raises:
        JobNotFound: There is no such job.
        ValueError: The token is malformed.
    """
    after = _parse_token(page_token) if page_token else None
    exists, values = yield Pipeline([("EXISTS", keys.job(ref)), ("HVALS", keys.findings(ref))])
    if not exists:
        raise JobNotFound(ref.job_id)
    found = [record_pb2.KeptFinding.FromString(value).finding for value in values]
    found = sorted((finding for finding in found if finding.open or not open_only), key=_place)
    found = [finding for finding in found if after is None or _place(finding) > after]
    more = len(found) > page_size
    return FindingPage(found[:page_size], _token(found[page_size - 1]) if more else "")


def _group(counted: insight_pb2.Finding | job_pb2.FindingCount) -> _Group:
    return counted.kind, counted.severity


def _most_severe_first(group: _Group) -> tuple[int, str]:
    return -group[1], group[0]


def _worth(entry: record_pb2.KeptFinding) -> tuple[bool, int, int, int]:
    finding = entry.finding
    return finding.open, finding.severity, finding.last_step, entry.opened_step


def _place(finding: insight_pb2.Finding) -> tuple[int, bool, int, str]:
    return -finding.severity, not finding.open, finding.first_step, finding.finding_id


def _token(finding: insight_pb2.Finding) -> str:
    place = f"{finding.severity} {int(not finding.open)} {finding.first_step} {finding.finding_id}"
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def _parse_token(token: str) -> tuple[int, bool, int, str]:
    try:
        place = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        place = ""
    matched = _TOKEN.fullmatch(place)
    if matched is None:
        raise ValueError(f"page_token: got {token[:80]!r}, allowed: the token of an earlier page, or none")
    return (
        -int(matched["severity"]),
        matched["closed"] == "1",
        int(matched["first_step"]),
        matched["finding_id"],
    )
