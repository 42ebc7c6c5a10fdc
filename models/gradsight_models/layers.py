"""The layers of a model: what gradients are measured by."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

MOST_LAYERS = 32
"""More than this folds neighbours together: a person cannot compare more curves, nor a scrape carry them."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module that owns parameters, or neighbours folded into one."""

    index: int
    """Place in forward order, from 0."""
    path: str
    """Path of the module, `hidden.0` say; `<first>..<last>` of folded ones; `(root)` of the model itself."""
    kind: str
    """Class of the module; `Linear+ReLU`-like, distinct ones joined, of folded ones."""
    parameter_names: tuple[str, ...]
    """Full names of its trainable parameters, as in `named_parameters()`."""
    parameter_count: int
    """Number of trainable numbers."""


def layers_of(module: nn.Module) -> list[Layer]:
    """The layers of a model in the order in which they were registered, at most 32.

    A parameter that several modules share belongs to the first. With more than 32 modules, neighbours are folded
    into 32 groups as even as can be.
    """
    owners = [(path, type(owner).__name__, names) for path, owner, names in _owners(module) if names]
    sizes = {name: parameter.numel() for name, parameter in module.named_parameters()}
    count = min(MOST_LAYERS, len(owners))
    bounds = [len(owners) * place // count for place in range(count + 1)] if count else [0]
    return [
        _folded(index, owners[start:stop], sizes)
        for index, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False))
    ]


def _owners(module: nn.Module) -> list[tuple[str, nn.Module, tuple[str, ...]]]:
    """Every module with the full names of the trainable parameters that it is the first to own."""
    first_names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return [
        (
            path,
            owner,
            tuple(
                full
                for name, _ in owner.named_parameters(recurse=False)
                if (full := f"{path}.{name}" if path else name) in first_names
            ),
        )
        for path, owner in module.named_modules()
    ]


def _folded(index: int, owners: Sequence[tuple[str, str, tuple[str, ...]]], sizes: dict[str, int]) -> Layer:
    paths = [path or "(root)" for path, _, _ in owners]
    names = tuple(name for _, _, of_owner in owners for name in of_owner)
    return Layer(
        index=index,
        path=paths[0] if len(paths) == 1 else f"{paths[0]}..{paths[-1]}",
        kind="+".join(dict.fromkeys(kind for _, kind, _ in owners)),
        parameter_names=names,
        parameter_count=sum(sizes[name] for name in names),
    )
