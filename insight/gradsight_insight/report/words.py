"""How numbers and judgements are said to people."""

import math
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from gradsight_insight.kinds import Number
from gradsight_insight.report.data import Interval

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Judgement(NamedTuple):
    """A judgement as people read it."""

    title: str
    meaning: str
    tone: str
    """`good`, `neutral`, `warning` or `critical`."""


VERDICTS = {
    "converged": Judgement("Converged", "Training has done what it can; more of it would not help.", "good"),
    "still_improving": Judgement("Still improving", "More training would help.", "neutral"),
    "plateaued": Judgement("Plateaued", "Training stalls before it is good.", "warning"),
    "overfit": Judgement(
        "Overfit", "The model learns the training rows by heart and gets worse on others.", "warning"
    ),
    "underfit": Judgement("Underfit", "The model does not even fit the training rows.", "warning"),
    "diverged": Judgement("Diverged", "The loss ran away.", "critical"),
    "unsound": Judgement(
        "Unsound", "Something is wrong with data or set-up: the figures cannot be trusted.", "critical"
    ),
    "undecided": Judgement("Undecided", "The evidence does not suffice for a judgement.", "neutral"),
}
NO_VERDICT = Judgement("Not judged yet", "There is no judgement on this run yet.", "neutral")

COMPARISONS = {
    "improved": Judgement("Improved", "Something got better and nothing got worse.", "good"),
    "regressed": Judgement("Regressed", "Something got worse and nothing got better.", "critical"),
    "mixed": Judgement("Mixed", "Some got better, some got worse.", "warning"),
    "no_significant_change": Judgement("No significant change", "No difference beyond chance.", "neutral"),
    "not_comparable": Judgement("Not comparable", "The two were not judged on the same rows.", "neutral"),
}

CHANGES = {
    "improved": Judgement("better", "The error fell, more than chance explains.", "good"),
    "regressed": Judgement("worse", "The error rose, more than chance explains.", "critical"),
    "no_significant_change": Judgement(
        "no change", "No difference beyond chance; a fall worth knowing of would have shown.", "neutral"
    ),
    "insufficient_evidence": Judgement(
        "too few rows", "These rows could not even have shown a fall worth knowing of.", "neutral"
    ),
}

EFFICACIES = {
    "effective": Judgement(
        "effective", "updates brought what they promised, and held-out rows got better", "good"
    ),
    "cautious": Judgement(
        "cautious", "steps so small that all goes as promised; larger ones would be faster", "neutral"
    ),
    "overshoot": Judgement("overshoot", "steps go past the minimum along their way", "warning"),
    "ascent": Judgement("ascent", "updates went against the gradient for a whole window", "critical"),
    "inert": Judgement("inert", "updates do what they promise, and nothing gets better", "warning"),
    "misdirected": Judgement("misdirected", "batches get better, held-out rows worse", "critical"),
    "unresolved": Judgement("unresolved", "the promise is too small to be measured", "old"),
}

ACTIONS = {
    "skip_step": "Skip a step",
    "tighten_clipping": "Tighten clipping",
    "scale_learning_rate": "Scale the learning rate",
    "roll_back": "Roll back",
    "reinitialize": "Reinitialize layers",
    "standardize_inputs": "Standardize inputs",
    "stop": "Stop training",
}


def plain(word: str) -> str:
    """A word of the contract for people: `vanishing_gradient` is `Vanishing gradient`."""
    text = word.replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def number(value: float | None) -> str:
    """Three significant digits, `1.2e-5` for what is far from 1, `–` for nothing."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6 or size < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        text = f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    elif size >= 1000:
        text = f"{value:,.0f}"
    else:
        digits = max(0, 2 - math.floor(math.log10(size)))
        text = f"{value:.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    return text.replace("-", "−")


def unit(name: str) -> str:
    """A unit as it stands behind its number; standard errors are numbers without one."""
    return "" if name == "z" else name


def count(value: float) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,.0f}".replace("-", "−")


def percent(ratio: float | None) -> str:
    """`12.3 %`, its parts never on two lines; `–` for nothing."""
    return "–" if ratio is None or math.isnan(ratio) else f"{100 * ratio:.1f}\N{NO-BREAK SPACE}%"


def interval(value: Interval | None) -> str:
    """`12.3 % (10.1 to 14.9)`."""
    if value is None:
        return "–"
    return f"{percent(value.ratio)} ({100 * value.lower:.1f} to {100 * value.upper:.1f})"


def points(change: float) -> str:
    """A difference of shares: `−3.4 points`."""
    return f"{100 * change:+.1f} points".replace("-", "−")


def steps(first: int, last: int) -> str:
    """`step 5`, `steps 5 to 10`."""
    return f"step {count(first)}" if last <= first else f"steps {count(first)} to {count(last)}"


def moment(time: datetime | None) -> str:
    """Date and time in UTC to the minute, `–` for none."""
    return "–" if time is None else f"{time:%Y-%m-%d %H:%M} UTC"


def span(start: datetime | None, end: datetime | None) -> str:
    """How long it took: `4.2 s`, `3 min 12 s`, `2 h 5 min`; `–` when unknown."""
    if start is None or end is None:
        return "–"
    seconds = max(timedelta(0), end - start).total_seconds()
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def proof(evidence: Iterable[Number]) -> str:
    """What a judgement stands on, in a line: `Held out z −3.1 (against −2.58)`."""
    return "; ".join(
        f"{plain(one.name)} {number(one.observed)} {unit(one.unit)}".rstrip()
        + ("" if one.threshold is None else f" (against {number(one.threshold)})")
        for one in evidence
    )


def code_spans(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a text, and whether each stood between backticks, as names do in explanations."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        yield text, False
        return
    yield from ((part, place % 2 == 1) for place, part in enumerate(parts) if part)


def visible(text: str) -> str:
    """The text without characters that steer how others are shown: a name must not turn its neighbours around."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_REPLACEMENT if _steers(letter) else letter for letter in text)


def short(text: str, most: int = 28) -> str:
    """A name as a label: the middle left out when it is long."""
    shown = visible(" ".join(text.split()))
    if len(shown) <= most:
        return shown
    head = (most - 1) // 2
    return f"{shown[:head]}…{shown[-(most - 1 - head) :]}"


def _steers(letter: str) -> bool:
    # Joiners are part of words and emoji; other format characters, direction overrides say, are not needed to read.
    return unicodedata.category(letter) in ("Cc", "Cf", "Cs") and letter not in "\t\n\r\u200c\u200d"
