"""The page's colours, light and dark.

Pictures are drawn in stand-ins that become CSS variables, so that one picture serves both themes.
Text keeps a contrast of at least 4.5 : 1 to its background, marks of at least 3 : 1; what differs in hue differs in
shape or words, too.
"""

from typing import NamedTuple


class Shade(NamedTuple):
    """One colour in both themes, as `#rrggbb`."""

    light: str
    dark: str


SHADES = {
    "page": Shade("#f6f7f9", "#101216"),
    "surface": Shade("#ffffff", "#191c22"),
    "ink": Shade("#1a1d23", "#e9ecf1"),
    "quiet": Shade("#565d69", "#a4acb9"),
    "line": Shade("#dde1e7", "#333944"),
    "train": Shade("#2463b4", "#72aaf8"),
    "held-out": Shade("#b8530a", "#f5a05a"),
    "old": Shade("#6d7480", "#98a1af"),
    "good": Shade("#0b7261", "#45c9ae"),
    "neutral": Shade("#4b5a75", "#9db0d0"),
    "warning": Shade("#935800", "#f0b44e"),
    "critical": Shade("#b3203f", "#ff8496"),
    "good-wash": Shade("#e3f3ef", "#14302b"),
    "neutral-wash": Shade("#e9edf4", "#232b3a"),
    "warning-wash": Shade("#fbf0da", "#382a12"),
    "critical-wash": Shade("#fbe6ea", "#3c1a22"),
}

_STAND_INS = {name: f"#0102{place + 3:02x}" for place, name in enumerate(SHADES)}
SEVERITIES = {"info": "neutral", "warning": "warning", "critical": "critical"}
"""Shade of each severity."""


def paint(name: str) -> str:
    """The colour to draw with in a picture."""
    return _STAND_INS[name]


def with_variables(svg: str) -> str:
    """The picture with variables for stand-ins."""
    for name, stand_in in _STAND_INS.items():
        svg = svg.replace(stand_in, f"var(--{name})")
    return svg


def variables(theme: str) -> str:
    """CSS declarations of the colours in `light` or `dark`."""
    return " ".join(f"--{name}: {getattr(shade, theme)};" for name, shade in SHADES.items())
