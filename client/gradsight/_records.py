"""What calls return besides jobs and events: files, workers, curves, the service itself."""

import dataclasses
import datetime
from typing import Any

from gradsight._enums import ArtifactKind, DeviceClass, WorkerState
from gradsight._plain import plain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A value that a call returned. Immutable; what the contract calls absent or empty is None."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record in the form of `--format json`: plain names, ISO times, durations as `30m`."""
        form: dict[str, Any] = plain(self)
        return form


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact(Record):
    """A file, known by the digest of its content.

    Attributes:
        digest: `sha256:` and 64 hex digits over the content.
        kind: What the file is.
        filename: Name for people and downloads.
        size_bytes: Size in bytes.
        job_id: Job that made it; None for uploads.
        create_time: When it was stored.
        step: Optimizer steps done when it was made; only for checkpoints.
    """

    digest: str
    kind: ArtifactKind
    filename: str
    size_bytes: int
    job_id: str | None
    create_time: datetime.datetime | None
    step: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Worker(Record):
    """A process that trains jobs on one device.

    Attributes:
        worker_id: Identity, made at start.
        queue: Queue that it serves.
        device_class: Class of its device.
        device: `cpu` or `cuda:0`.
        device_name: What the device is called by its maker.
        host: Host name.
        process_id: Process id of the supervisor.
        version: Version of gradsight that it runs.
        state: What it does.
        job_id: Job that it runs or was handed; None when idle.
        start_time: When it registered.
        renew_time: When its lease was last renewed.
        recipes: Recipes that are installed with it, by name.
    """

    worker_id: str
    queue: str
    device_class: DeviceClass
    device: str
    device_name: str
    host: str
    process_id: int
    version: str
    state: WorkerState
    job_id: str | None
    start_time: datetime.datetime | None
    renew_time: datetime.datetime | None
    recipes: "tuple[Recipe, ...]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """A way to make a model that an operator installed with the workers.

    Attributes:
        name: Name in a spec.
        description: What it does, in a sentence.
        options: Options, in the recipe's order.
    """

    name: str
    description: str
    options: "tuple[RecipeOption, ...]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeOption(Record):
    """An option of a recipe.

    Attributes:
        name: Name in a spec.
        description: What it means and what is allowed.
        default_value: Value where the spec says nothing, as text; None for none.
        required: True: the spec must say it.
    """

    name: str
    description: str
    default_value: str | None
    required: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series(Record):
    """One curve of a job: `values[i]` was measured at `steps[i]`; steps rise.

    Attributes:
        metric: Name of the metric, as asked for.
        layer: Path of the layer; None when the metric has none.
        category: Name of the category; None when the metric has none.
        steps: Optimizer steps, from 1.
        values: Values in the metric's own unit; may be non-finite.
    """

    metric: str
    layer: str | None
    category: str | None
    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerInfo(Record):
    """What the service is and can do.

    Attributes:
        version: Version of gradsight.
        schema_version: Version of what is in the store.
        architectures: Models that work now.
        optimizers: Optimizers that work now.
        schedules: Schedules that work now.
        data_formats: Data formats that work now.
        max_upload_bytes: Most bytes in one upload.
        max_chunk_bytes: Most bytes in one chunk of an upload.
        time: Time of the store.
        objectives: Objectives that work now.
    """

    version: str
    schema_version: int
    architectures: tuple[str, ...]
    optimizers: tuple[str, ...]
    schedules: tuple[str, ...]
    data_formats: tuple[str, ...]
    max_upload_bytes: int
    max_chunk_bytes: int
    time: datetime.datetime | None
    objectives: tuple[str, ...]
