"""What every architecture's options share: JSON both ways, and refusals that say what is allowed."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configuration:
    """Base of the options of an architecture; subclasses are frozen dataclasses that check themselves."""

    def to_json(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, options: Mapping[str, Any]) -> Self:
        """Options by name; those left out keep their defaults. Raises ValueError for an unknown or unfit one."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(options.keys() - known)
        if unknown:
            raise ValueError(
                f"{unknown[0]}: not an option of {cls.__name__}, allowed: {', '.join(sorted(known))}"
            )
        return cls(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        )


def within(name: str, value: float, low: float, high: float, *, open_end: bool = False) -> None:
    """Raise ValueError unless low ≤ value ≤ high (< high with `open_end`); bounds that are integers ask for one."""
    numbers = int if isinstance(low, int) else (int, float)
    fits = isinstance(value, numbers) and (low <= value < high if open_end else low <= value <= high)
    if not fits:
        raise ValueError(f"{name}: got {value!r}, allowed {low} to {'below ' if open_end else ''}{high}")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, allowed: {', '.join(allowed)}")
