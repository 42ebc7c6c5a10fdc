"""Curves of a job over its attempts: what a resumed attempt took back is dropped, long curves are thinned."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Point(NamedTuple):
    """One measurement."""

    attempt: int
    """Number of the attempt that took it, from 1."""
    step: int
    """Optimizer steps done, from 1; 0 before the first."""
    value: float
    """May be non-finite."""


def last_valid_steps(resumed_at_step: Mapping[int, int]) -> dict[int, float]:
    """Up to which step the points of each attempt still hold.

    A later attempt goes on from a checkpoint and repeats what came after it: points of earlier attempts beyond its
    `resumed_at_step` are superseded.

    Args:
        resumed_at_step: For each attempt that started, the optimizer steps already done at its start; where it
            found out later that it begins at an earlier step (AttemptRewound), those.

    Returns:
        For each of these attempts its last valid step; infinity for the newest.
    """
    valid: dict[int, float] = {}
    last = math.inf
    for attempt in sorted(resumed_at_step, reverse=True):
        valid[attempt] = last
        last = min(last, resumed_at_step[attempt])
    return valid


def without_superseded(points: Iterable[Point], resumed_at_step: Mapping[int, int]) -> list[Point]:
    """The points that still hold, in the order given.

    Raises:
        ValueError: A point belongs to an attempt that is not in `resumed_at_step`.
    """
    valid = last_valid_steps(resumed_at_step)
    try:
        return [point for point in points if point.step <= valid[point.attempt]]
    except KeyError as error:
        raise ValueError(f"got a point of attempt {error}, allowed: {sorted(valid)}") from None


def thin(points: Sequence[Point], max_points: int) -> list[Point]:
    """At most `max_points` of the points, in their order; see `thinned_places`."""
    return [points[place] for place in thinned_places([point.value for point in points], max_points)]


def thinned_places(values: Sequence[float], max_points: int) -> list[int]:
    """Places of the values to draw, rising: of each of equally long stretches the lowest, the highest and the last.

    So no spike is lost, and the newest value always stays. Not-a-number counts as the highest: it is what one must
    see. With fewer than three points allowed these are the last, and the first.

    Raises:
        ValueError: `max_points` is below 1.
    """
    if max_points < 1:
        raise ValueError(f"max_points: got {max_points}, allowed: at least 1")
    size = len(values)
    if size <= max_points:
        return list(range(size))
    if max_points < 3:
        return [0, size - 1][-max_points:]
    heights = [math.inf if math.isnan(value) else value for value in values]
    stretches = max_points // 3
    kept: set[int] = set()
    for index in range(stretches):
        stretch = range(index * size // stretches, (index + 1) * size // stretches)
        kept |= {min(stretch, key=heights.__getitem__), max(stretch, key=heights.__getitem__), stretch[-1]}
    return sorted(kept)
