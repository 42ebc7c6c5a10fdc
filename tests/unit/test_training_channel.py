"""The channel between trainer and attempt: order, completeness, and never a wait."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradsight.v1 import artifact_pb2, event_pb2, state_pb2
from gradsight_worker.training.channel import (
    AttemptChannel,
    ChannelClosed,
    CheckpointMessage,
    Command,
    EventMessage,
    FailureMessage,
    Message,
    ResultFile,
    ResultMessage,
    RewoundMessage,
    TickMessage,
    TrainerChannel,
    open_channel,
)

Ends = tuple[TrainerChannel, AttemptChannel]


@pytest.fixture
def ends() -> Iterator[Ends]:
    trainer, attempt = open_channel()
    yield trainer, attempt
    trainer.close()
    attempt.close()


def line(text: str) -> event_pb2.JobEvent:
    return event_pb2.JobEvent(log_line=event_pb2.LogLine(message=text))


def text_of(message: Message) -> str:
    assert isinstance(message, EventMessage)
    return message.event.log_line.message


def test_every_kind_of_message_arrives_in_order_as_it_was_sent(ends: Ends) -> None:
    trainer, attempt = ends
    file = ResultFile(
        path=Path("/a/b"), filename="weights.safetensors", kind=artifact_pb2.ARTIFACT_KIND_RESULT
    )
    error = state_pb2.JobError(message="no", row=7)
    trainer.send_event(line("one"))
    trainer.send_rewound(step=4, reason="damaged", unusable=[Path("/d"), Path("/e")])
    trainer.tick(5)
    trainer.send_checkpoint(Path("/c"), step=6, seconds=0.5)
    trainer.send_result([file])
    trainer.send_failure(error)
    assert attempt.receive() == [
        EventMessage(event=line("one")),
        RewoundMessage(step=4, reason="damaged", unusable=(Path("/d"), Path("/e"))),
        TickMessage(step=5),
        CheckpointMessage(path=Path("/c"), step=6, seconds=0.5),
        ResultMessage(files=(file,)),
        FailureMessage(error=error),
    ]
    assert not attempt.closed


def test_a_full_socket_never_blocks_and_only_droppable_events_are_lost(ends: Ends) -> None:
    trainer, attempt = ends
    start = time.monotonic()
    for number in range(400):
        trainer.send_event(line(f"drop {number} " + "x" * 100_000), droppable=True)
        trainer.send_event(line(f"keep {number}"))
    assert time.monotonic() - start < 5
    received: list[str] = []
    for _ in range(1000):
        trainer.tick(0)
        received += [text_of(m).split(" x")[0] for m in attempt.receive() if isinstance(m, EventMessage)]
    assert [text for text in received if text.startswith("keep")] == [f"keep {n}" for n in range(400)]
    dropped = 400 - sum(text.startswith("drop") for text in received)
    assert 0 < dropped < 400
    assert any(text.startswith("drop 399") for text in received)


def test_messages_sent_before_the_trainer_ended_are_still_received(ends: Ends) -> None:
    trainer, attempt = ends
    trainer.send_event(line("last words"))
    trainer.close()
    assert [text_of(message) for message in attempt.receive()] == ["last words"]
    assert attempt.closed


def test_a_command_reaches_the_trainer_once(ends: Ends) -> None:
    trainer, attempt = ends
    assert trainer.poll_command() is None
    attempt.send_command(Command.STOP_AFTER_CHECKPOINT)
    assert trainer.poll_command() is Command.STOP_AFTER_CHECKPOINT
    assert trainer.poll_command() is None


def test_the_trainer_notices_that_the_attempt_is_gone(ends: Ends) -> None:
    trainer, attempt = ends
    attempt.close()
    with pytest.raises(ChannelClosed):
        trainer.send_event(line("anyone?"))
    with pytest.raises(ChannelClosed):
        trainer.poll_command()


def test_a_command_to_a_trainer_that_is_gone_is_no_error(ends: Ends) -> None:
    trainer, attempt = ends
    trainer.close()
    attempt.send_command(Command.STOP_AFTER_CHECKPOINT)
    assert attempt.closed
