"""The socketpair between trainer and attempt: frames of 4 bytes length, 1 byte type, payload.

Reporting never blocks training: what the socket does not take waits in the trainer's outbox, and when that is
full the oldest droppable frames go. Facts that must arrive (events, checkpoints, the result) are never dropped.
"""

import enum
import json
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradsight.v1 import artifact_pb2, event_pb2, state_pb2

_HEADER = struct.Struct(">IB")
_MOST_PAYLOAD_BYTES = 256 * 1024 * 1024
_OUTBOX_BYTES = 8 * 1024 * 1024
_SOCKET_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024


class ChannelClosed(Exception):
    """The other end is gone."""


class Command(enum.IntEnum):
    """What the attempt may ask of the trainer."""

    STOP_AFTER_CHECKPOINT = 1
    """Save the state, send it, exit with `ExitStatus.STOPPED`."""


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A file that the job leaves behind."""

    path: Path
    filename: str
    kind: artifact_pb2.ArtifactKind.ValueType


@dataclass(frozen=True, kw_only=True)
class EventMessage:
    """An event to append to the job's log; only its `kind` is set."""

    event: event_pb2.JobEvent


@dataclass(frozen=True, kw_only=True)
class CheckpointMessage:
    """A checkpoint to store: complete, flushed to disk and no longer written to."""

    path: Path
    step: int
    seconds: float
    """Time that saving took from the training."""


@dataclass(frozen=True, kw_only=True)
class ResultMessage:
    """The files of a run that went well; the last message."""

    files: tuple[ResultFile, ...]


@dataclass(frozen=True, kw_only=True)
class FailureMessage:
    """Why the run failed; the last message."""

    error: state_pb2.JobError


@dataclass(frozen=True, kw_only=True)
class RewoundMessage:
    """The run begins at another step than the plan's newest checkpoint says."""

    step: int
    """Optimizer steps that are done."""
    reason: str
    """For people: which checkpoint could not be used, and why."""
    unusable: tuple[Path, ...]
    """Checkpoints of the plan that nobody should try again."""


@dataclass(frozen=True, kw_only=True)
class TickMessage:
    """The trainer is alive; `step` optimizer steps are done."""

    step: int


Message = EventMessage | CheckpointMessage | ResultMessage | FailureMessage | RewoundMessage | TickMessage


class _Frame(enum.IntEnum):
    EVENT = 1
    CHECKPOINT = 2
    RESULT = 3
    FAILURE = 4
    TICK = 5
    COMMAND = 6
    REWOUND = 7


def open_channel() -> tuple["TrainerChannel", "AttemptChannel"]:
    """Both ends of a new channel. After the fork each process closes the end that is not its own."""
    ours, theirs = socket.socketpair()
    return TrainerChannel(ours), AttemptChannel(theirs)


class TrainerChannel:
    """The trainer's end. Sends never block, except for the two that end a run."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._connection = connection
        self._outbox = _Outbox()
        self._sending = threading.Lock()
        """Ticks may come from a thread of their own."""
        self._incoming = _FrameBuffer()

    def send_event(self, event: event_pb2.JobEvent, *, droppable: bool = False) -> None:
        """Queue an event; a droppable one may be lost when the attempt does not read. Raises ChannelClosed."""
        self._send(_Frame.EVENT, event.SerializeToString(), droppable=droppable)

    def send_checkpoint(self, path: Path, *, step: int, seconds: float) -> None:
        """Queue a checkpoint that lies complete on disk. Raises ChannelClosed."""
        self._send_json(_Frame.CHECKPOINT, {"path": str(path), "step": step, "seconds": seconds})

    def send_rewound(self, *, step: int, reason: str, unusable: Sequence[Path]) -> None:
        """Say, before the first step, that the run begins at `step`. Raises ChannelClosed."""
        paths = [str(path) for path in unusable]
        self._send_json(_Frame.REWOUND, {"step": step, "reason": reason, "unusable": paths})

    def tick(self, step: int) -> None:
        """Say that the run is alive with `step` optimizer steps done. Raises ChannelClosed."""
        self._send(_Frame.TICK, json.dumps({"step": step}).encode(), droppable=True)

    def send_result(self, files: Sequence[ResultFile]) -> None:
        """Send the result after all that waits in the outbox, and wait for the socket. Raises ChannelClosed."""
        rows = [{"path": str(file.path), "filename": file.filename, "kind": file.kind} for file in files]
        self._send_json(_Frame.RESULT, {"files": rows})
        self.flush()

    def send_failure(self, error: state_pb2.JobError) -> None:
        """Send the failure after all that waits in the outbox, and wait for the socket. Raises ChannelClosed."""
        self._send(_Frame.FAILURE, error.SerializeToString())
        self.flush()

    def flush(self) -> None:
        """Wait until the socket has taken the whole outbox. Raises ChannelClosed."""
        self._connection.setblocking(True)
        try:
            self._outbox.pump(self._connection)
        finally:
            self._connection.setblocking(False)

    def poll_command(self) -> Command | None:
        """The newest command, if one has come. Raises ChannelClosed."""
        if not self._incoming.fill(self._connection):
            raise ChannelClosed("the attempt closed the channel")
        frames = self._incoming.frames()
        return Command(frames[-1][1][0]) if frames else None

    def close(self) -> None:
        """Close this end."""
        self._connection.close()

    def _send_json(self, kind: _Frame, value: object) -> None:
        self._send(kind, json.dumps(value).encode())

    def _send(self, kind: _Frame, payload: bytes, *, droppable: bool = False) -> None:
        with self._sending:
            self._outbox.put(_HEADER.pack(len(payload), kind) + payload, droppable=droppable)
            self._outbox.pump(self._connection)


class AttemptChannel:
    """The attempt's end: wait on `fileno()`, then `receive()`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._incoming = _FrameBuffer()
        self.closed = False
        """True after everything was received and the trainer's end is closed."""

    def fileno(self) -> int:
        """Descriptor to wait on for reading."""
        return self._connection.fileno()

    def receive(self) -> list[Message]:
        """Every message that has come, in order; empty when none has. Raises ValueError on a malformed frame."""
        if not self._incoming.fill(self._connection):
            self.closed = True
        return [_decode(kind, payload) for kind, payload in self._incoming.frames()]

    def send_command(self, command: Command) -> None:
        """Ask something of the trainer; one that is gone already is no error."""
        try:
            self._connection.sendall(_HEADER.pack(1, _Frame.COMMAND) + bytes([command]))
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


class _Outbox:
    """Frames that wait for the socket, in order; bounded for the droppable ones."""

    def __init__(self) -> None:
        self._frames: deque[tuple[bytes, bool]] = deque()
        self._bytes = 0
        self._partial = memoryview(b"")

    def put(self, frame: bytes, *, droppable: bool) -> None:
        self._frames.append((frame, droppable))
        self._bytes += len(frame)
        if self._bytes > _OUTBOX_BYTES:
            self._drop_oldest()

    def pump(self, connection: socket.socket) -> None:
        """Send what the socket takes; all of it when the socket blocks."""
        try:
            while self._partial or self._frames:
                if not self._partial:
                    frame, _ = self._frames.popleft()
                    self._bytes -= len(frame)
                    self._partial = memoryview(frame)
                self._partial = self._partial[connection.send(self._partial) :]
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosed("the attempt closed the channel") from error

    def _drop_oldest(self) -> None:
        excess = self._bytes - _OUTBOX_BYTES
        kept: deque[tuple[bytes, bool]] = deque()
        for frame, droppable in self._frames:
            if droppable and excess > 0:
                excess -= len(frame)
                self._bytes -= len(frame)
            else:
                kept.append((frame, droppable))
        self._frames = kept


class _FrameBuffer:
    """Bytes that came, cut into frames."""

    def __init__(self) -> None:
        self._data = bytearray()

    def fill(self, connection: socket.socket) -> bool:
        """Read what is there; False at the end of the stream."""
        try:
            while data := connection.recv(_READ_BYTES):
                self._data += data
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False
        return False

    def frames(self) -> list[tuple[int, bytes]]:
        """Take every complete frame."""
        found = []
        start = 0
        while len(self._data) - start >= _HEADER.size:
            length, kind = _HEADER.unpack_from(self._data, start)
            if length > _MOST_PAYLOAD_BYTES:
                raise ValueError(f"frame of {length} bytes, allowed {_MOST_PAYLOAD_BYTES}")
            end = start + _HEADER.size + length
            if len(self._data) < end:
                break
            found.append((kind, bytes(self._data[start + _HEADER.size : end])))
            start = end
        del self._data[:start]
        return found


def _decode(kind: int, payload: bytes) -> Message:
    if kind == _Frame.EVENT:
        return EventMessage(event=event_pb2.JobEvent.FromString(payload))
    if kind == _Frame.FAILURE:
        return FailureMessage(error=state_pb2.JobError.FromString(payload))
    fields = json.loads(payload)
    if kind == _Frame.TICK:
        return TickMessage(step=fields["step"])
    if kind == _Frame.CHECKPOINT:
        return CheckpointMessage(path=Path(fields["path"]), step=fields["step"], seconds=fields["seconds"])
    if kind == _Frame.REWOUND:
        return RewoundMessage(
            step=fields["step"], reason=fields["reason"], unusable=tuple(map(Path, fields["unusable"]))
        )
    if kind == _Frame.RESULT:
        files = (
            ResultFile(path=Path(f["path"]), filename=f["filename"], kind=f["kind"]) for f in fields["files"]
        )
        return ResultMessage(files=tuple(files))
    raise ValueError(f"frame of unknown type {kind}")
