"""What the attempt hands to the trainer: everything a run depends on, and nothing that reaches the outside."""

import enum
from dataclasses import dataclass
from pathlib import Path

from gradsight.v1 import spec_pb2


def micro_batch_size(spec: spec_pb2.JobSpec) -> int:
    """Most rows that a step computes at once as the spec asks for it, before memory says otherwise."""
    return -(-spec.data.batch_size // max(1, spec.optimizer.accumulation_steps))


class ExitStatus(enum.IntEnum):
    """How a trainer ended; the exit status of its process."""

    SUCCEEDED = 0
    """The result was sent."""
    FAILED = 1
    """A failure was sent."""
    STOPPED = 3
    """Asked to stop: the state was saved and sent as a checkpoint, the run is not over."""
    CHANNEL_CLOSED = 4
    """The attempt is gone; nobody listens."""


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """One file of rows on the local disk."""

    path: Path
    format: spec_pb2.DataFormat.ValueType
    """Unspecified: by the ending of `filename`."""
    filename: str
    """Name under which it was uploaded; errors name the file so."""


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One attempt's work. Goes to the trainer as JSON."""

    job_id: str
    attempt: int
    """Number of the attempt, from 1; stands in the names of its checkpoints."""
    spec: spec_pb2.JobSpec
    """With the service's defaults filled in."""
    device: str
    """`cpu` or `cuda:<n>`."""
    directory: Path
    """Private scratch directory: rows that do not fit into memory, `checkpoints/`, `result/` and `examples.parquet`
    are written below it."""
    train: DataFile
    validation: DataFile | None = None
    test: DataFile | None = None
    baseline: Path | None = None
    """Directory with the result files of the baseline job."""
    graph: Path | None = None
    """A program's graph, JSON. Present exactly when the model is a program."""
    weights: Path | None = None
    """A program's initial weights, safetensors. Present exactly when the model is a program."""
    extended: Path | None = None
    """Last checkpoint of the job that this one goes on with; it counts while there is no checkpoint of its own."""
    start_weights: Path | None = None
    """Directory with the result files of the job whose weights this one begins with."""
    replayed: Path | None = None
    """Log of an earlier run of this spec under the policy repair, one JobEvent as a JSON object a line: its repairs are
    made again at their steps, whatever the detectors say."""
    checkpoints: tuple[Path, ...] = ()
    """To resume from, newest first; one that cannot be used is passed over and told of: `send_rewound`."""
    data_memory_bytes: int = 1 << 30
    """Most memory for encoded rows, on the device or the processor; more are kept in files below `directory`."""
    threads: int | None = None
    """CPU threads of torch; None leaves torch's own choice."""
