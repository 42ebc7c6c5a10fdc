"""Findings: what detectors see, kept as things with an identity, a beginning and an end."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gradsight_insight.json_values import packed_fields, unpacked_fields
from gradsight_insight.kinds import FindingKind, Number, Observation, Severity, SubjectKind
from gradsight_insight.signals import State

Key = tuple[str, str]
"""Kind and subject: what makes two observations the same finding."""
WINDOW_PROBES = 20
"""Probes in a full window: a condition that has not held for so long is over."""
QUIET_EVALUATIONS = 3
"""Or evaluations."""
MATERIAL_CHANGE = 0.25
"""Share by which a number has to change to be worth telling."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something about the run that a person should know; as `gradsight.v1.Finding`."""

    finding_id: str
    """Kind and number, `vanishing_gradient-1`."""
    kind: str
    severity: Severity
    subject_kind: SubjectKind
    subject: str
    """Name of the layer, category, input …; empty for the run as a whole."""
    first_step: int
    last_step: int
    """Last step at which it was seen."""
    evidence: tuple[Number, ...]
    confidence: float
    """0 to 1."""
    explanation: str
    actions: tuple[str, ...]
    open: bool
    cause_finding_id: str
    """The finding that explains this one; empty for a first cause."""
    page_url: str
    suspects: tuple[Any, ...] = ()
    """Rows that it is about; who finds them fills them in."""

    @property
    def key(self) -> Key:
        """Kind and subject."""
        return self.kind, self.subject


@dataclass(frozen=True, kw_only=True)
class FindingChange:
    """A finding that began, changed or ended."""

    change: Literal["opened", "updated", "closed"]
    finding: Finding


@dataclass
class _Entry:
    finding: Finding
    told: Finding
    """As it was last told."""
    seen_at_probe: int
    seen_at_evaluation: int
    told_at_probe: int


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a look was taken."""

    step: int
    probes: int
    """Probes of the run so far."""
    evaluations: int
    """Evaluations so far."""


@dataclass
class Register:
    """All findings of a run.

    The same kind and subject is the same finding, also when it comes back after it ended: it opens again, with its
    identity and first step. Changes are told sparingly: at once when severity or cause change, otherwise when a
    number has moved by a quarter, at most once per window. A finding ends when it was not seen for a window of
    probes or for three evaluations.
    """

    _entries: dict[Key, _Entry] = field(default_factory=dict)

    @property
    def findings(self) -> Sequence[Finding]:
        """All of the run, open ones first, each in the order in which they were found."""
        found = [entry.finding for entry in self._entries.values()]
        return sorted(found, key=lambda finding: not finding.open)

    @property
    def open(self) -> Mapping[Key, Finding]:
        """The open ones."""
        return {key: entry.finding for key, entry in self._entries.items() if entry.finding.open}

    def take_in(
        self,
        observations: Iterable[Observation],
        causes: Mapping[Key, Key],
        kinds: Mapping[str, FindingKind],
        moment: Moment,
    ) -> list[FindingChange]:
        """Bring the findings up to date with one look.

        Args:
            observations: All that holds now.
            causes: The cause of each open or observed finding that has one.
            kinds: The catalogue.
            moment: When it was looked.

        Returns:
            What is worth telling; causes come before their consequences.
        """
        seen = {(observation.kind, observation.subject): observation for observation in observations}
        # Causes first, so that a consequence never names a finding nobody has heard of.
        changes = [
            self._seen(seen[key], kinds[key[0]], causes.get(key), moment)
            for key in sorted(seen, key=lambda key: key in causes)
        ]
        changes += [self._unseen(key, causes.get(key), moment) for key in self.open if key not in seen]
        return [change for change in changes if change is not None]

    def _seen(
        self, observation: Observation, kind: FindingKind, cause: Key | None, moment: Moment
    ) -> FindingChange | None:
        key = (observation.kind, observation.subject)
        entry = self._entries.get(key)
        finding = Finding(
            finding_id=entry.finding.finding_id if entry else self._next_id(kind.name),
            kind=kind.name,
            severity=_severity(observation.severity or kind.severity, entry),
            subject_kind=observation.subject_kind,
            subject=observation.subject,
            first_step=entry.finding.first_step if entry else observation.first_step,
            last_step=max(observation.last_step, entry.finding.last_step if entry else 0),
            evidence=observation.evidence,
            confidence=observation.confidence,
            explanation=observation.explanation,
            actions=tuple(kind.actions),
            open=True,
            # A cause that is over was the cause nevertheless.
            cause_finding_id=self._id_of(cause) or (entry.finding.cause_finding_id if entry else ""),
            page_url=kind.page_url,
            suspects=entry.finding.suspects if entry else (),
        )
        if entry is None or not entry.finding.open:
            self._entries[key] = _Entry(finding, finding, moment.probes, moment.evaluations, moment.probes)
            return FindingChange(change="opened", finding=finding)
        entry.finding = finding
        entry.seen_at_probe, entry.seen_at_evaluation = moment.probes, moment.evaluations
        return self._told(entry, moment) if _worth_telling(entry, moment) else None

    def _unseen(self, key: Key, cause: Key | None, moment: Moment) -> FindingChange | None:
        entry = self._entries[key]
        if (
            moment.probes - entry.seen_at_probe >= WINDOW_PROBES
            or moment.evaluations - entry.seen_at_evaluation >= QUIET_EVALUATIONS
        ):
            entry.finding = replace(entry.finding, open=False)
            return FindingChange(change="closed", finding=entry.finding)
        if cause is not None and self._id_of(cause) != entry.finding.cause_finding_id:
            entry.finding = replace(entry.finding, cause_finding_id=self._id_of(cause))
            return self._told(entry, moment)
        return None

    def _told(self, entry: _Entry, moment: Moment) -> FindingChange:
        entry.told, entry.told_at_probe = entry.finding, moment.probes
        return FindingChange(change="updated", finding=entry.finding)

    def _next_id(self, kind: str) -> str:
        return f"{kind}-{1 + sum(key[0] == kind for key in self._entries)}"

    def _id_of(self, key: Key | None) -> str:
        entry = self._entries.get(key) if key else None
        return entry.finding.finding_id if entry else ""

    def state(self) -> State:
        """All of it as plain JSON values."""
        return {"entries": [_entry_state(entry) for entry in self._entries.values()]}

    @classmethod
    def from_state(cls, state: State) -> "Register":
        """The register that gave `state`."""
        entries = [_entry_from_state(value) for value in state["entries"]]
        return cls({entry.finding.key: entry for entry in entries})


def _severity(now: Severity, entry: _Entry | None) -> Severity:
    """The worst since the finding opened: a number that wavers about a threshold is no news each time."""
    if entry is None or not entry.finding.open:
        return now
    return max(now, entry.finding.severity, key=("info", "warning", "critical").index)


def _worth_telling(entry: _Entry, moment: Moment) -> bool:
    now, told = entry.finding, entry.told
    if (now.severity, now.cause_finding_id) != (told.severity, told.cause_finding_id):
        return True
    if moment.probes - entry.told_at_probe < WINDOW_PROBES:
        return False
    before = {number.name: number.observed for number in told.evidence}
    return any(_moved(before.get(number.name), number.observed) for number in now.evidence)


def _moved(before: float | None, now: float) -> bool:
    if before is None:
        return True
    # Compared as "not within" so that a number that became infinite or NaN has moved, and one that stays so has not.
    same = before == now or (before != before and now != now)
    return not same and not abs(now - before) <= MATERIAL_CHANGE * max(abs(before), abs(now))


def _entry_state(entry: _Entry) -> list[Any]:
    return [
        _finding_state(entry.finding),
        _finding_state(entry.told),
        entry.seen_at_probe,
        entry.seen_at_evaluation,
        entry.told_at_probe,
    ]


def _entry_from_state(state: Sequence[Any]) -> _Entry:
    finding, told, *moments = state
    return _Entry(_finding_from_state(finding), _finding_from_state(told), *moments)


def _finding_state(finding: Finding) -> dict[str, Any]:
    evidence = [packed_fields(number) for number in finding.evidence]
    # Suspect rows are found after training, when nothing is resumed any more.
    return {**vars(finding), "evidence": evidence, "actions": list(finding.actions), "suspects": []}


def _finding_from_state(state: Mapping[str, Any]) -> Finding:
    evidence = tuple(Number(**unpacked_fields(number)) for number in state["evidence"])
    return Finding(**{**state, "evidence": evidence, "actions": tuple(state["actions"]), "suspects": ()})
