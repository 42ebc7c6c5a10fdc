"""Whether a weights file is a graph's: compared by header, without torch, at the door and where it is loaded."""

from collections.abc import Iterator, Mapping, Sequence

from gradsight.graph import Graph

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Type and shape by name."""

_MOST_NAMED = 5


def needed_tensors(graph: Graph) -> Tensors:
    """What the weights file of a graph holds: parameters, of tied ones the first, and buffers."""
    tensors = {owned.name: (owned.dtype, owned.shape) for owned in graph.parameters if not owned.tied_to}
    return tensors | {buffer.name: (buffer.dtype, buffer.shape) for buffer in graph.buffers}


def misfits(needed: Tensors, found: Tensors) -> Iterator[str]:
    """How a file does not fit: names that are missing or too many, then each tensor of another type or shape."""
    missing = [name for name in needed if name not in found]
    unexpected = [name for name in found if name not in needed]
    if missing or unexpected:
        parts = [f"missing {_named(missing)}"] if missing else []
        parts += [f"unexpected {_named(unexpected)}"] if unexpected else []
        yield f"{', '.join(parts)}; use the weights that were exported with this graph"
    for name, (dtype, shape) in needed.items():
        got = found.get(name, (dtype, shape))
        if got != (dtype, shape):
            yield f"{name!r} is {got[0]} {list(got[1])}, the graph says {dtype} {list(shape)}"


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:_MOST_NAMED]))
    return shown + (f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else "")
