"""What every architecture's options share: JSON both ways, and refusals that say what is allowed."""

import dataclasses
import math
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
        """Options by name; those left out keep their defaults.

        Raises:
            ValueError: An option is unknown, or its value is not allowed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(options.keys() - known)
        if unknown:
            raise ValueError(
                f"{unknown[0]}: not an option of {cls.__name__}, allowed: {', '.join(sorted(known))}"
            )
        return cls(
            **{key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        )


def require_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless the value is an integer and low <= value <= high."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name}: got {value!r}, allowed: a whole number, {low} to {high}")


def require_fraction(name: str, value: object) -> None:
    """Raise ValueError unless the value is a number and 0 <= value < 1."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name}: got {value!r}, allowed: a number, 0 to below 1")


def require_positive(name: str, value: object) -> None:
    """Raise ValueError unless the value is a finite number above 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name}: got {value!r}, allowed: a number above 0")


def require_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Raise ValueError unless the value is allowed."""
    if value not in allowed:
        raise ValueError(f"{name}: got {value!r}, allowed: {', '.join(allowed)}")
