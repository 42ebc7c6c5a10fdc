"""One run of the design as a job runs it: files, a spec with the service's defaults, a forked trainer, what it said."""

import base64
import os
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _fault_models as models
import numpy as np
import torch
from _fault_data import load
from _fault_design import Row
from _published_rules import fired
from pyarrow import parquet

import gradsight
from gradsight.v1 import event_pb2, spec_pb2, state_pb2
from gradsight_service.defaults import with_defaults
from gradsight_worker.training.channel import AttemptChannel, EventMessage, FailureMessage, open_channel
from gradsight_worker.training.nonfinite import BufferGuard, NonfiniteWatch
from gradsight_worker.training.optimizers import fused
from gradsight_worker.training.plan import DataFile, TrainingPlan
from gradsight_worker.training.trainer import run_trainer

LEARNING_RATE = 3e-3
STEPS = 1000
_EVALUATED_EVERY = 25
_LONGEST_S = 600.0
"""A run that takes longer says more of the machine than of the run."""
_PROGRAM = {"program": {"graph": f"sha256:{'0' * 64}", "weights": f"sha256:{'1' * 64}"}}


@dataclass
class Outcome:
    """What a run left behind."""

    events: list[event_pb2.JobEvent] = field(default_factory=list)
    error: state_pb2.JobError | None = None
    wrong: np.ndarray[Any, np.dtype[np.bool_]] | None = None
    """Of each test row, in the file's order; None when the run did not get that far."""
    seconds: float = 0.0

    def all(self, kind: str) -> list[Any]:
        """Its events of a kind."""
        return [getattr(event, kind) for event in self.events if event.HasField(kind)]  # type: ignore[arg-type]


def run(row: Row, graphs: Path) -> dict[str, Any]:
    """Make the run; the line about it for the file of results."""
    directory = Path(tempfile.mkdtemp(prefix="gradsight-fault-"))
    try:
        outcome = train(planned(row, graphs, directory), guarded=row.arm != "unguarded")
        return described(row, outcome)
    finally:
        shutil.rmtree(directory)


def structure_of(row: Row) -> models.Structure:
    """The structure of its model."""
    changes = row.broken.structure if row.broken else {}
    return models.Structure(family=row.family, data=row.data, **changes)


def planned(row: Row, graphs: Path, directory: Path) -> TrainingPlan:
    """Write the files of the run and plan it as a worker does."""
    dice = np.random.default_rng(row.dice_seed)
    splits, fault = load(row.data), row.broken
    if fault is not None and fault.damage_rows is not None:
        splits = fault.damage_rows(splits, dice)
    files = splits.write(directory / "rows")
    weights_seed = row.dice_seed + (row.arm == "same again")
    damage = fault.damage_weights if fault is not None and row.arm != "random again" else None
    graph, weights = models.write(structure_of(row), weights_seed, damage, graphs, directory)
    spec = _spec(row, files, dice)
    data = {
        name: DataFile(path=path, format=spec_pb2.DATA_FORMAT_UNSPECIFIED, filename=path.name)
        for name, path in files.items()
    }
    return TrainingPlan(
        job_id="job",
        attempt=1,
        spec=with_defaults(gradsight.JobSpec(spec)._message),
        device="cpu",
        directory=directory,
        train=data["train"],
        validation=data["validation"],
        test=data["test"],
        graph=graph,
        weights=weights,
        threads=1,
    )


def _spec(row: Row, files: Mapping[str, Path], dice: np.random.Generator) -> dict[str, Any]:
    """In human form."""
    spec: dict[str, Any] = {
        "model": _PROGRAM,
        "data": {"inputs": ["input"], "target": "label", "category": "category"},
        "optimizer": {"learning_rate": LEARNING_RATE},
        "budget": {"steps": STEPS},
        "evaluation": {"interval_steps": _EVALUATED_EVERY},
        "seed": row.seed + 1000 * (row.arm == "same again"),
    }
    sections = row.spec()
    if row.arm == "random again":
        sections = {**sections, "optimizer": _drawn(dice)}
        del spec["optimizer"]
    for name, section in sections.items():
        known = spec.get(name, {})
        spec[name] = {**known, **section} if isinstance(section, Mapping) else section
    if row.arm == "repaired":
        spec["monitoring"] = {"policy": "repair", "allow_recipe_changes": True}
    spec["data"] |= {name: str(path) for name, path in files.items()}
    return spec


def _drawn(dice: np.random.Generator) -> Mapping[str, Any]:
    algorithm = str(dice.choice(["adamw", "adam", "sgd"]))
    return {"learning_rate": float(10 ** dice.uniform(-5, 0)), algorithm: {}}


def train(plan: TrainingPlan, *, guarded: bool = True) -> Outcome:
    """Fork a trainer, read its channel as an attempt does, and wait for its end.

    Raises:
        TimeoutError: The machine was too slow for it.
    """
    ours, theirs = open_channel()
    outcome, began = Outcome(), time.perf_counter()
    process = os.fork()
    if process == 0:
        theirs.close()
        if not guarded:
            _remove_guards()
        os._exit(run_trainer(plan, ours))
    ours.close()
    try:
        _read(theirs, outcome, until=began + _LONGEST_S)
    finally:
        if not theirs.closed:
            os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    if not theirs.closed:
        raise TimeoutError(f"{plan.directory}: the run has not ended after {_LONGEST_S:.0f} s")
    outcome.seconds = time.perf_counter() - began
    examples = plan.directory / "examples.parquet"
    if examples.exists():
        table = parquet.read_table(examples, columns=["split", "correct"]).to_pydict()
        outcome.wrong = np.array(
            [
                not right
                for split, right in zip(table["split"], table["correct"], strict=True)
                if split == "test"
            ]
        )
    return outcome


def _remove_guards() -> None:
    """What gradsight does in every job against steps that are not finite is not done in this process."""

    def unguarded(step: Any) -> Any:
        def stepped(self: Any, learning_rate: float, *, divisor: Any, nonfinite: Any) -> None:
            step(self, learning_rate, divisor=divisor, nonfinite=torch.zeros_like(nonfinite))

        return stepped

    for optimizer in (fused.FusedAdam, fused.FusedSgd):
        optimizer.step = unguarded(optimizer.step)  # type: ignore[method-assign]
    BufferGuard.put_back_where = lambda *_: None  # type: ignore[method-assign]
    NonfiniteWatch._judge = lambda *_: None  # type: ignore[method-assign]


def _read(channel: AttemptChannel, outcome: Outcome, *, until: float) -> None:
    while not channel.closed and time.perf_counter() < until:
        select.select([channel], [], [], 1.0)
        for message in channel.receive():
            if isinstance(message, EventMessage):
                outcome.events.append(message.event)
            elif isinstance(message, FailureMessage):
                outcome.error = message.error


def described(row: Row, outcome: Outcome) -> dict[str, Any]:
    """The run in a line: what was found and when, how it ended, which test rows it gets wrong."""
    verdicts = outcome.all("verdict_reached")
    last = verdicts[-1].verdict if verdicts else None
    return {
        "key": row.key,
        "error": state_pb2.JobErrorReason.Name(outcome.error.reason) if outcome.error else "",
        "findings": _findings(outcome),
        "repairs": _repairs(outcome),
        "verdict": None
        if last is None
        else _short(type(last).DESCRIPTOR.fields_by_name["verdict"], last.verdict),
        "test_error": None if outcome.wrong is None else round(float(outcome.wrong.mean()), 5),
        "test_wrong": ""
        if outcome.wrong is None
        else base64.b64encode(np.packbits(outcome.wrong).tobytes()).decode(),
        "test_rows": 0 if outcome.wrong is None else len(outcome.wrong),
        "published": fired(outcome.events),
        "seconds": round(outcome.seconds, 2),
    }


def _findings(outcome: Outcome) -> list[dict[str, Any]]:
    """In the order in which they were opened; `step` is the step at which it was."""
    found: dict[str, dict[str, Any]] = {}
    causes: dict[str, str] = {}
    for event in outcome.events:
        kind = event.WhichOneof("kind")
        if kind not in ("finding_opened", "finding_updated", "finding_closed"):
            continue
        finding = getattr(event, kind).finding
        causes[finding.finding_id] = finding.cause_finding_id
        line = found.setdefault(
            finding.finding_id, {"kind": finding.kind, "subject": finding.subject, "step": finding.last_step}
        )
        line["severity"] = _short(finding.DESCRIPTOR.fields_by_name["severity"], finding.severity)
        line["open"] = kind != "finding_closed"
    for finding_id, line in found.items():
        line["cause"] = found[causes[finding_id]]["kind"] if causes[finding_id] in found else ""
    return list(found.values())


def _repairs(outcome: Outcome) -> list[dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for applied in outcome.all("mitigation_applied"):
        action = _short(applied.DESCRIPTOR.fields_by_name["action"], applied.action)
        made[applied.mitigation_id] = {"action": action, "step": applied.step, "end": ""}
    for end in ("kept", "reverted"):
        for event in outcome.all(f"mitigation_{end}"):
            made.get(event.mitigation_id, {})["end"] = end
    return list(made.values())


def _short(described_field: Any, number: int) -> str:
    """An enum's value in lower case without its prefix."""
    enum = described_field.enum_type
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    name: str = enum.values_by_number[number].name
    return name.removeprefix(prefix).lower()
