"""What there is to say of a kind of finding: the one source of explanations, thresholds, pages and links."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from gradsight_insight.signals import Signals

Severity = Literal["info", "warning", "critical"]
SubjectKind = Literal["run", "layer", "split", "category", "batch", "input"]
PAGES = "https://gradsight.dev/failure-modes"
"""Where the pages are published; `docs/failure-modes/` holds them."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A number that a job may change."""

    default: float
    low: float
    """Smallest value allowed."""
    high: float
    """Largest value allowed."""
    meaning: str
    """One sentence with the unit."""


@dataclass(frozen=True, kw_only=True)
class FindingKind:
    """A failure mode of training. Texts are for people, in plain words, whole sentences."""

    code: str
    """`FM-05`; only pages are named by it."""
    name: str
    """`vanishing_gradient`."""
    title: str
    """`Vanishing gradient`."""
    severity: Severity
    """Of a finding when nothing is said otherwise."""
    you_see: str
    mechanism: str
    """From the cause through the mathematics to the model's behaviour."""
    rule: str
    """How it is detected, with the thresholds' names."""
    look_alikes: Sequence[str]
    """What looks the same, and how to tell."""
    actions: Sequence[str]
    """What to do, best first."""
    gradsight_does: str
    """What gradsight does under each policy."""
    sources: Sequence[str]
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    repairs: Sequence[str] = ()
    """Repairs to try, in order: names of `MitigationAction` in lower case, `roll_back` say."""

    @property
    def page(self) -> str:
        """File name of the page: `FM-05-vanishing-gradient.md`."""
        return f"{self.code}-{self.name.replace('_', '-')}.md"

    @property
    def page_url(self) -> str:
        """Address of the page."""
        return f"{PAGES}/{self.page.removesuffix('.md')}"


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number that an observation stands on; as `gradsight.v1.Evidence`."""

    name: str
    observed: float
    threshold: float | None = None
    unit: str = ""
    first_step: int = 0
    last_step: int = 0


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A detector's answer: its failure mode holds now, for this subject."""

    kind: str
    subject_kind: SubjectKind = "run"
    subject: str = ""
    first_step: int
    """First step of the evidence's window."""
    last_step: int
    evidence: tuple[Number, ...]
    confidence: float
    """0 to 1."""
    explanation: str
    """The kind's mechanism with this run's numbers and names: two to four sentences."""
    severity: Severity | None = None
    """None: the kind's."""


class Detector(Protocol):
    """Looks at the signals; remembers nothing. Never raises on NaN, empty windows or missing signals."""

    @property
    def kinds(self) -> Sequence[FindingKind]:
        """What it can find."""
        ...

    @property
    def at_evaluations(self) -> bool:
        """Whether its answer holds until the next evaluation; others are asked at every look."""
        ...

    def __call__(
        self, signals: Signals, thresholds: Mapping[str, Mapping[str, float]]
    ) -> Sequence[Observation]:
        """Everything that holds now. `thresholds` are complete: by kind, then by name."""
        ...


@dataclass(frozen=True, kw_only=True)
class Family:
    """Kinds that are found together, and the function that finds them: the usual detector."""

    kinds: Sequence[FindingKind]
    find: Callable[[Signals, Mapping[str, Mapping[str, float]]], Sequence[Observation]]
    at_evaluations: bool = False
    """True: it judges evaluations, so what it says holds until there is another one."""

    def __call__(
        self, signals: Signals, thresholds: Mapping[str, Mapping[str, float]]
    ) -> Sequence[Observation]:
        """Everything that holds now."""
        return self.find(signals, thresholds)
