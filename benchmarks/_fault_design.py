"""Which runs are made: every fault in every family with five seeds, the data sets in turn, and healthy runs."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from _fault_data import DATA
from _fault_list import FAULTS, NAMED, Fault
from _fault_models import FAMILIES

TUNING = ("mlp", "cnn")
"""Families whose runs were looked at while thresholds were chosen."""
REPORTED = ("gru", "transformer")
"""Families whose runs judge."""
SEEDS = range(5)
FRESH_SEEDS: Mapping[str, Sequence[int]] = dict.fromkeys(("Adam at 0.3", "SGD at 5"), range(5, 10))
"""Further seeds of faults for which rules were changed after a first look at the families that judge: nobody had looked
at these runs."""
_HEALTHY_SEEDS = {"mlp": 6, "cnn": 6, "gru": 18, "transformer": 18}
"""Healthy runs for each data set: 108 of the families that judge."""
_HEALTHY: tuple[Mapping[str, Any], ...] = (
    {},
    {"optimizer": {"learning_rate": 1e-3, "adam": {}}, "schedule": "constant"},
    {"optimizer": {"learning_rate": 0.1, "sgd": {"momentum": 0.9}}},
    {"optimizer": {"learning_rate": 0.05, "sgd": {"nesterov": True}}, "schedule": "constant"},
    {"data": {"batch_size": 32}},
    {"optimizer": {"learning_rate": 5e-3}, "schedule": "one_cycle"},
)
"""Specs of healthy runs; they take turns."""
AGAIN = ("same again", "random again")
"""What people do who have no repairs: start the same with another seed; start with a learning rate, an optimizer and
first weights that are drawn."""
AGAIN_SEEDS = range(2)
"""Seeds with which they are started again: what that brings is known from fewer runs."""
REPAIR_DATA = ("digits", "text")
"""Where repairs are tried: on MNIST-1D the budget ends while much is still to be learnt, and a lost step shows."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of the design."""

    fault: str
    """Its name in the list; empty for a healthy run."""
    family: str
    data: str
    seed: int
    arm: str = "watched"
    """What is done with it: `watched` only, `repaired`, one of AGAIN, `unguarded`, as no job is, or `twin`."""

    @property
    def key(self) -> str:
        return "/".join((self.fault or "healthy", self.family, self.data, str(self.seed), self.arm))

    @property
    def dice_seed(self) -> int:
        """Of everything that is drawn for the run: rows, weights, order."""
        return zlib.crc32(self.key.rpartition("/")[0].encode()) % 2**31

    @property
    def what(self) -> Fault | None:
        return NAMED[self.fault] if self.fault else None

    @property
    def broken(self) -> Fault | None:
        """The fault that the run really has."""
        return None if self.arm == "twin" else self.what

    def in_arm(self, arm: str) -> "Row":
        """The same run, treated otherwise."""
        return replace(self, arm=arm)

    @property
    def twin(self) -> "Row":
        """The run without the fault: of its own where its setting is no usual one, else a healthy run of the design."""
        if self.what is not None and self.what.setting:
            return self.in_arm("twin")
        return Row(fault="", family=self.family, data=self.data, seed=self.seed * len(_HEALTHY))

    def spec(self) -> Mapping[str, Any]:
        """Sections of the spec that are not a default run's."""
        if self.what is not None:
            return {**self.what.setting, **({} if self.arm == "twin" else self.what.spec)}
        return _HEALTHY[self.seed % len(_HEALTHY)]


def design() -> list[Row]:
    """Every run, each once, in an order in which any beginning is a fair sample of all."""
    rows = {row.key: row for row in (*_faulty(), *_repairs(), *_healthy())}
    return sorted(rows.values(), key=lambda row: zlib.crc32(f"{row.fault}{row.family}{row.seed}".encode()))


def _faulty() -> Iterator[Row]:
    for fault in FAULTS:
        for family in fault.families:
            for seed in _seeds(fault, family):
                yield Row(fault=fault.name, family=family, data=_turn(fault.data, family, seed), seed=seed)


def _repairs() -> Iterator[Row]:
    """Of the faults that can be repaired; with each the run that is left alone, and its healthy twin."""
    for fault in FAULTS:
        data = [name for name in fault.data if name in REPAIR_DATA]
        for family in fault.families if fault.repairable else ():
            for seed in _seeds(fault, family):
                row = Row(fault=fault.name, family=family, data=_turn(data, family, seed), seed=seed)
                yield from (row, row.twin, row.in_arm("repaired"))
                if seed in AGAIN_SEEDS:
                    yield from map(row.in_arm, AGAIN)
                if fault.guarded:
                    yield row.in_arm("unguarded")


def _seeds(fault: Fault, family: str) -> Sequence[int]:
    return (*SEEDS, *(FRESH_SEEDS.get(fault.name, ()) if family in REPORTED else ()))


def _turn(data: Sequence[str], family: str, seed: int) -> str:
    return data[(seed + FAMILIES.index(family)) % len(data)]


def _healthy() -> Iterator[Row]:
    for family, seeds in _HEALTHY_SEEDS.items():
        for data in DATA:
            for seed in range(seeds):
                yield Row(fault="", family=family, data=data, seed=seed)
