"""Numbers and names as an explanation says them."""

import math
from collections.abc import Sequence


def percent(ratio: float) -> str:
    """A share as people say it: `38.5 %`, `2.5 %`, `0.04 %`."""
    if not math.isfinite(ratio):
        return "an unknown share"
    return f"{100 * ratio:.3g} %"


def figure(value: float) -> str:
    """A number in three digits: `1.05`, `0.0031`, `2.4e+06`."""
    return f"{value:.3g}" if math.isfinite(value) else "not finite"


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names in a sentence: `'a', 'b' and 'c'`; beyond `most` how many more."""
    quoted = [f"'{name}'" for name in names[:most]]
    if len(names) > most:
        return ", ".join(quoted) + f" and {len(names) - most} more"
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]]) if len(quoted) > 1 else "".join(quoted)
