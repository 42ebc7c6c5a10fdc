"""What a result must be to be used, as a line that can stand in a script: parsed, and judged against a job.

    no-regression                   nothing got worse against the baseline, beyond chance
    no-regression=returns,sizing    the error of these categories did not rise, and their rows could have shown it
    improved                        something got better, nothing got worse
    improved=returns,sizing         the error of each of these categories fell, significantly
    error<=0.1                      a figure on test: also 10%; the other figures are in `_FIGURES`
    error[returns]<=0.05            the same in a category
    verdict=converged,plateaued     the verdict on the run is one of these
    verdict!=diverged,overfit       it is none of these
    usable                          the kept weights are worth using

What cannot be judged (no baseline, no such category, no verdict yet) is not met.
"""

import dataclasses
import difflib
import enum
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from gradsight._enums import ChangeVerdict, ComparisonVerdict, JobState, Verdict
from gradsight._errors import InvalidRequest
from gradsight._figures import number, percent, points
from gradsight._insight import CategoryChange, Comparison, PairedChange
from gradsight._measurements import EvaluationCompleted
from gradsight._records import Record

if TYPE_CHECKING:
    from gradsight._job import Job


class RequirementOutcome(enum.StrEnum):
    """What became of a requirement."""

    MET = enum.auto()
    NOT_MET = enum.auto()
    CANNOT_BE_JUDGED = enum.auto()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequirementResult(Record):
    """What became of a requirement.

    Attributes:
        requirement: The requirement, as it was written.
        outcome: Whether it is met; what cannot be judged counts as not met.
        sentence: Why, with the numbers.
    """

    requirement: str
    outcome: RequirementOutcome
    sentence: str

    @property
    def met(self) -> bool:
        """True only when it was judged and holds."""
        return self.outcome is RequirementOutcome.MET


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A condition on a job's result.

    Requirement.parse("error[returns]<=0.05").check(job).sentence
    """

    text: str
    _judge: "_Judge" = dataclasses.field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Returns the requirement that the text means. Raises InvalidRequest, which says what is allowed."""
        text = text.strip()
        for pattern, make in _GRAMMAR:
            if said := pattern.fullmatch(text):
                return cls(text, make(text, said))
        raise _refused(text, _nearest(text))

    def check(self, job: "Job") -> RequirementResult:
        """Returns whether the job meets it, and why. Of a job that has not succeeded nothing can be judged."""
        outcome, why = (
            self._judge(job)
            if job.state is JobState.SUCCEEDED
            else _unknown(f"the job is {job.state}, there is no result to judge")
        )
        return RequirementResult(
            requirement=self.text, outcome=outcome, sentence=f"{self.text} {_SAID[outcome]}: {why}"
        )

    @property
    def needs_baseline(self) -> bool:
        """True: only a job with a baseline can meet it."""
        return self.text.startswith(("no-regression", "improved"))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).parse, (self.text,)


Required = Iterable[Requirement | str] | Requirement | str


def requirements(given: Required) -> tuple[Requirement, ...]:
    """Returns requirements that are given as one or many, parsed or as text."""
    several = (given,) if isinstance(given, str | Requirement) else given
    return tuple(each if isinstance(each, Requirement) else Requirement.parse(each) for each in several)


_SAID = {
    RequirementOutcome.MET: "is met",
    RequirementOutcome.NOT_MET: "is not met",
    RequirementOutcome.CANNOT_BE_JUDGED: "cannot be judged",
}
_Answer = tuple[RequirementOutcome, str]
_Judge = Callable[["Job"], _Answer]


def _answer(met: bool, why: str) -> _Answer:
    return (RequirementOutcome.MET if met else RequirementOutcome.NOT_MET), why


def _unknown(why: str) -> _Answer:
    return RequirementOutcome.CANNOT_BE_JUDGED, why


# Against the baseline.


def _against_baseline(text: str, said: re.Match[str]) -> _Judge:
    improved, categories = said["claim"] == "improved", _names(text, said["names"])

    def judge(job: "Job") -> _Answer:
        comparison = job.summary.comparison if job.summary else None
        if comparison is None:
            return _unknown("there is no comparison; submit with a baseline to have one")
        if comparison.overall is None or comparison.verdict is ComparisonVerdict.NOT_COMPARABLE:
            why = (comparison.message or "no reason was given").rstrip(".")
            return _unknown(f"not comparable with {comparison.baseline_job_id}: {why}")
        if not categories:
            return _overall(comparison, comparison.overall, improved=improved)
        known = {each.category: each for each in comparison.categories}
        return _joined([_category(name, known, improved=improved) for name in categories])

    return judge


def _overall(comparison: Comparison, overall: PairedChange, *, improved: bool) -> _Answer:
    wanted = {ComparisonVerdict.IMPROVED}
    if not improved:
        wanted.add(ComparisonVerdict.NO_SIGNIFICANT_CHANGE)
    found = [f"{comparison.verdict.replace('_', ' ')}, all rows {_moved(overall)}"]
    for verdict in (ChangeVerdict.REGRESSED, ChangeVerdict.IMPROVED):
        found += [
            f"{each.category} {verdict} ({_moved(each.change)})"
            for each in comparison.categories
            if each.change.verdict is verdict
        ]
    quiet = comparison.verdict is ComparisonVerdict.NO_SIGNIFICANT_CHANGE
    if quiet and overall.smallest_detectable_fall is not None:
        found.append(f"these rows could have shown a fall of {_fall(overall)} points")
    return _answer(comparison.verdict in wanted, "; ".join(found))


def _category(name: str, known: Mapping[str, CategoryChange], *, improved: bool) -> _Answer:
    if name not in known:
        return _unknown(f"no category {name} among the test rows{_did_you_mean(name, known)}")
    change = known[name].change
    moved = f"{name} {(change.verdict or 'not judged').replace('_', ' ')} ({_moved(change)})"
    if change.verdict is ChangeVerdict.INSUFFICIENT_EVIDENCE:
        shown = f"only a fall of {_fall(change)} points" if change.smallest_detectable_fall else "no change"
        return _unknown(f"{name} has too few rows ({_moved(change)}): they could have shown {shown}")
    wanted = {ChangeVerdict.IMPROVED}
    if not improved:
        wanted.add(ChangeVerdict.NO_SIGNIFICANT_CHANGE)
    return _answer(change.verdict in wanted, moved)


def _joined(answers: list[_Answer]) -> _Answer:
    """The worst outcome: not met before cannot be judged before met; every sentence."""
    outcomes = {outcome for outcome, _ in answers}
    order = (RequirementOutcome.NOT_MET, RequirementOutcome.CANNOT_BE_JUDGED, RequirementOutcome.MET)
    worst = next(outcome for outcome in order if outcome in outcomes)
    return worst, "; ".join(why for _, why in answers)


def _moved(change: PairedChange) -> str:
    """`9.1 % → 4.2 % of 120 rows, p 0.031`."""
    before, after = change.baseline_errors, change.errors
    rows = max(change.examples, 1)
    return f"{percent(before / rows)} → {percent(after / rows)} of {change.examples:,} rows, p {number(change.p_value)}"


def _fall(change: PairedChange) -> str:
    return points(change.smallest_detectable_fall or 0.0).removeprefix("+")


# Figures on test.

_FIGURES: Mapping[str, str] = {
    "error": "error_ratio",
    "weighted_error": "weighted_error_ratio",
    "loss": "loss",
    "macro_f1": "macro_f1",
    "rmse": "root_mean_square_error",
    "mae": "mean_absolute_error",
    "perplexity": "perplexity",
    "calibration_error": "calibration_error",
}
_RATIOS = {"error", "weighted_error", "macro_f1", "calibration_error"}
_OF_CATEGORIES = ("error", "loss")
_RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


def _figure(text: str, said: re.Match[str]) -> _Judge:
    name, category, relation = said["figure"], said["category"], said["relation"]
    if name not in _FIGURES:
        raise _refused(
            text, f"no figure {name}, allowed: {', '.join(_FIGURES)}{_did_you_mean(name, _FIGURES)}"
        )
    if category is not None and name not in _OF_CATEGORIES:
        raise _refused(text, f"{name} is not known by category, allowed: {', '.join(_OF_CATEGORIES)}")
    if said["percent"] and name not in _RATIOS:
        raise _refused(text, f"{name} is no share, so that it has no %")
    bound = float(said["bound"]) / (100 if said["percent"] else 1)
    if name in _RATIOS and bound > 1:
        raise _refused(text, f"{name} is a share of 0 to 1; write {bound / 100:g} or {bound:g}%")

    def judge(job: "Job") -> _Answer:
        test = job.summary.test if job.summary else None
        if test is None:
            return _unknown("the job has no figures on test rows")
        where = f"{name} on test" if category is None else f"{name} of {category} on test"
        value, rows, missing = _look_up(test, name, category)
        if value is None:
            return _unknown(missing)
        shown = percent(value) if name in _RATIOS else number(value)
        return _answer(_RELATIONS[relation](value, bound), f"{where} is {shown} over {rows:,} rows")

    return judge


def _look_up(test: EvaluationCompleted, name: str, category: str | None) -> tuple[float | None, int, str]:
    """Returns a figure and its number of rows, or what is missing."""
    field = _FIGURES[name]
    if category is None:
        value: float | None = getattr(test, field)
        return value, test.examples, f"the job's answers have no {name}"
    known = {each.category: each for each in test.categories}
    if category not in known:
        return None, 0, f"no category {category} among the test rows{_did_you_mean(category, known)}"
    found = known[category]
    return getattr(found, field), found.examples, f"the job's answers have no {name}"


# The verdict on the run.


def _verdict(text: str, said: re.Match[str]) -> _Judge:
    allowed = [each.value for each in Verdict if each is not Verdict.UNKNOWN]
    named = _names(text, said["names"])
    for name in named:
        if name not in allowed:
            raise _refused(
                text, f"no verdict {name}, allowed: {', '.join(allowed)}{_did_you_mean(name, allowed)}"
            )
    excluded = said["relation"] == "!="

    def judge(job: "Job") -> _Answer:
        if job.verdict is None:
            return _unknown("the run has no verdict")
        why = f": {job.verdict.reason.rstrip('.')}" if job.verdict.reason else ""
        met = (job.verdict.verdict in named) is not excluded
        return _answer(met, f"the run is {job.verdict.verdict.replace('_', ' ')}{why}")

    return judge


def _usable(text: str, said: re.Match[str]) -> _Judge:
    def judge(job: "Job") -> _Answer:
        if job.verdict is None:
            return _unknown("the run has no verdict")
        usable = job.verdict.kept_checkpoint_usable
        why = f": {job.verdict.reason.rstrip('.')}" if job.verdict.reason else ""
        return _answer(
            usable, f"the kept weights are {'' if usable else 'not '}worth using{'' if usable else why}"
        )

    return judge


# What may be written.

_GRAMMAR: tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], _Judge]], ...] = (
    (re.compile(r"(?P<claim>no-regression|improved)(?:\s*=(?P<names>.*))?", re.DOTALL), _against_baseline),
    (re.compile(r"verdict\s*(?P<relation>!?=)(?P<names>.*)"), _verdict),
    (re.compile(r"usable"), _usable),
    (
        re.compile(
            r"(?P<figure>\w+)(?:\[(?P<category>.+)\])?\s*(?P<relation><=|>=|<|>)"
            r"\s*(?P<bound>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<percent>%?)",
            re.DOTALL,
        ),
        _figure,
    ),
)
_FORMS = (
    "no-regression, no-regression=CATEGORY,…, improved, improved=CATEGORY,…, error<=0.1, error[CATEGORY]<=0.05, "
    "verdict=converged,…, verdict!=diverged,…, usable"
)
_WORDS = ("no-regression", "improved", "verdict", "usable", *_FIGURES)


def _names(text: str, names: str | None) -> tuple[str, ...]:
    """Returns the names between commas; none where nothing was said."""
    if names is None:
        return ()
    found = tuple(name.strip() for name in names.split(","))
    if not all(found):
        raise _refused(text, "a name is missing between the commas")
    return found


def _nearest(text: str) -> str:
    word = re.match(r"[\w-]*", text)
    near = difflib.get_close_matches(word[0] if word else "", _WORDS, n=1)
    return f"did you mean {near[0]}?" if near and near[0] != (word and word[0]) else ""


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _refused(text: str, why: str) -> InvalidRequest:
    said = f"require: got {text!r}, allowed: {_FORMS}"
    return InvalidRequest(f"{said}; {why}" if why else said)
