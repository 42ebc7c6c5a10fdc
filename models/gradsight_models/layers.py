"""The layers by which gradients are reported: modules that own parameters, in forward order, at most 32 groups."""

from dataclasses import dataclass

from torch import nn

MOST_LAYERS = 32
_BATCH_NORMS = frozenset({"BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"})


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A group of parameters. `path` names the module, or the first and the last one of a folded group."""

    index: int
    path: str
    kind: str
    parameter_names: tuple[str, ...]
    parameter_count: int


def layers_of(module: nn.Module, *, most: int = MOST_LAYERS) -> list[Layer]:
    """Modules that own parameters themselves, in order of registration; a tied parameter counts where it is first.

    Beyond `most`, neighbours are folded into groups of nearly equal length: a deep model keeps its depth profile.
    """
    owners = _owners(module)
    groups = min(most, len(owners))
    layers = []
    for index in range(groups):
        start, end = index * len(owners) // groups, (index + 1) * len(owners) // groups
        layers.append(_fold(index, owners[start:end]))
    return layers


def kind_of(part: nn.Module) -> str:
    """Class name of a module; that of a program's part is the one that it had at its user's."""
    kind: str = getattr(part, "layer_kind", type(part).__name__)
    return kind


def normalizes_over_batches(module: nn.Module) -> bool:
    """Whether a row's scores in training depend on the other rows of its batch, and on there being any."""
    return any(
        isinstance(part, nn.modules.batchnorm._BatchNorm) or kind_of(part) in _BATCH_NORMS
        for part in module.modules()
    )


@dataclass(frozen=True)
class _Owner:
    path: str
    kind: str
    parameter_names: tuple[str, ...]
    parameter_count: int


def _owners(module: nn.Module) -> list[_Owner]:
    unique = dict(module.named_parameters(remove_duplicate=True))
    owners = []
    for path, part in module.named_modules():
        prefix = f"{path}." if path else ""
        names = [prefix + name for name, _ in part.named_parameters(recurse=False) if prefix + name in unique]
        if names:
            count = sum(unique[name].numel() for name in names)
            owners.append(_Owner(path or kind_of(module), kind_of(part), tuple(names), count))
    return owners


def _fold(index: int, owners: list[_Owner]) -> Layer:
    first, last = owners[0], owners[-1]
    return Layer(
        index=index,
        path=first.path if len(owners) == 1 else f"{first.path}…{last.path}",
        kind=first.kind if len(owners) == 1 else "Group",
        parameter_names=tuple(name for owner in owners for name in owner.parameter_names),
        parameter_count=sum(owner.parameter_count for owner in owners),
    )
