"""What can go wrong when a module is exported, in plain words."""

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

_TORCH = Path(torch.__file__).parent
_NOT_THE_USERS = (Path(__file__).parent, _TORCH, Path(contextlib.__file__).parent)
"""Ours, torch's and Python's own."""


class ExportError(ValueError):
    """The module cannot be exported. The message says what, in which line of the module, and what to do instead."""


@contextlib.contextmanager
def plain_words(module: str) -> Iterator[None]:
    """Whatever torch or the module named `module` raise becomes an ExportError with the user's line."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # Of any kind: the user hears of all as one.
        frames = traceback.extract_tb(error.__traceback__)
        raise ExportError(f"{module}{_where(frames)}: {_reason(error, frames)}") from error


def line_of(stack_trace: str) -> str:
    """The last line of a stack trace in torch's text form, ` (model.py, line 3: code)`, or nothing."""
    lines = [line.strip() for line in stack_trace.splitlines() if line.strip()]
    if len(lines) < 2 or not lines[-2].startswith("File "):
        return ""
    file, number, *_ = lines[-2].removeprefix("File ").split(", ")
    return f" ({Path(file.strip(chr(34))).name}, {number}: {lines[-1][:120]})"


def _where(frames: Sequence[traceback.FrameSummary]) -> str:
    """The last line that is neither torch's nor ours."""
    for frame in reversed(frames):
        path = Path(frame.filename)
        installed = "site-packages" in path.parts and _TORCH not in path.parents
        if path.suffix == ".py" and (
            installed or not any(folder in path.parents for folder in _NOT_THE_USERS)
        ):
            return f" ({path.name}, line {frame.lineno}: {(frame.line or '').strip()[:120]})"
    return ""


def _reason(error: Exception, frames: Sequence[traceback.FrameSummary]) -> str:
    text = str(error)
    kind = type(error).__name__
    files = {Path(frame.filename).name for frame in frames if _TORCH in Path(frame.filename).parents}
    names = {frame.name for frame in frames}
    if names & {"pack_padded_sequence", "pad_packed_sequence"} or (
        "rnn.py" in files and "FakeTensor" in text
    ):
        return "packed sequences do not export; pad every row to one fixed length and pass the padded tensor"
    if "batchnorm.py" in files and ".item" not in text and kind == "GuardOnDataDependentSymNode":
        return (
            "batch norm with momentum=None counts its batches in Python; give it a momentum, 0.1 by default"
        )
    if kind == "GuardOnDataDependentSymNode" or "data-dependent" in text or "Could not guard" in text:
        return (
            "what it does next depends on values in a tensor (an `if`, a loop, .item(), a mask as an index), and only "
            "one way can travel; compute both ways and choose with torch.where, or keep the number out of the graph"
        )
    if "specialized" in text or "Constraints violated" in text:
        return (
            "the number of rows became a constant (len(x), int(x.shape[0]), a loop over rows, a reshape "
            "or an expand with a fixed number, an `if` on x.shape[0]); write x.shape[0] or -1 there"
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{kind}: {' '.join(lines[:3])[:400]}"
