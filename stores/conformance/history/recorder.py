"""The history of a workload: what was asked of a store, what came of it, as JSON lines.

A history is what `twinline.stores.conformance.history.checker` judges. Each line is one event:

==============  =============================  ====================================================
op              outcomes                       says
==============  =============================  ====================================================
``send``        invoke, then ok, fail or info  a worker sends a message to a mailbox
``receive``     ok                             a worker was handed a message, with its seq
``read``        ok                             a worker read a message without taking it
``ack``         ok                             a mailbox's position was moved up to a seq
``receipt``     ok                             a worker was told what ``peer`` has acknowledged
``drain``       ok, fail or info               all that a mailbox holds has been received
``settle``      ok                             the receipts of ``peer`` have had their time
==============  =============================  ====================================================

``fail`` says that it was certainly not done. A timeout, a cut connection and an error of the
server's own are ``info``: the outcome is unknown. A send that is repeated has several invokes
under one message id; it was done if any of them was. A drain that fails says that the mailbox is
gone, and so will never deliver what it held.

A send that asks for a copy names in ``peer`` the mailbox that is to have it. What is received or
read with a ``peer`` is such a copy: it lies in the sender's mailbox, and names its recipient there.
A receipt names by ``n`` the last message of the mailbox's owner that ``peer`` has acknowledged. It
may be lost in a crash, and the next ack mends that: who says that receipts have had their time has
waited for them, or for those of one more message.

A message's id is the workload's own: it is chosen before the first invoke, travels in the body,
and is unique in the history. A worker that receives is one life of one reader: one that begins
again after a crash, and so may be handed a message again, is another worker.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import IO, Final, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twinline.core.errors import TwinlineError
from twinline.core.locks import new_lock


class HistoryError(TwinlineError):
    """A line of a history cannot be read."""


class Op(StrEnum):
    """What a worker did."""

    SEND = "send"
    """Sent a message."""
    RECEIVE = "receive"
    """Was handed a message."""
    READ = "read"
    """Read a message without taking it."""
    ACK = "ack"
    """Moved a mailbox's position."""
    RECEIPT = "receipt"
    """Was told what another account has acknowledged."""
    DRAIN = "drain"
    """Received all that a mailbox holds."""
    SETTLE = "settle"
    """Waited for the receipts of an account as long as they may take."""


class Outcome(StrEnum):
    """How far it has come."""

    INVOKE = "invoke"
    """Begun."""
    OK = "ok"
    """Done."""
    FAIL = "fail"
    """Certainly not done."""
    INFO = "info"
    """Perhaps done."""


_OUTCOMES: Final = {
    Op.SEND: frozenset(Outcome),
    Op.RECEIVE: frozenset({Outcome.OK}),
    Op.READ: frozenset({Outcome.OK}),
    Op.ACK: frozenset({Outcome.OK}),
    Op.RECEIPT: frozenset({Outcome.OK}),
    Op.DRAIN: frozenset({Outcome.OK, Outcome.FAIL, Outcome.INFO}),
    Op.SETTLE: frozenset({Outcome.OK}),
}


class Event(BaseModel):
    """One line of a history."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    at: float = Field(description="seconds on the recorder's monotonic clock")
    worker: str = Field(description="the worker")
    op: Op = Field(description="what was done")
    outcome: Outcome = Field(description="how far it has come")
    mailbox: str = Field(description="whose mailbox")
    message: str | None = Field(default=None, description="the message's id")
    seq: int | None = Field(default=None, description="a number in the mailbox")
    peer: str | None = Field(
        default=None,
        description="the other mailbox: of a send, the one that is to have a copy; of a copy, the "
        "one that it was sent to; of receipts, the one whose owner gives them",
    )
    n: int | None = Field(
        default=None, description="the message's number among those to its recipient, for receipts"
    )
    given: str | None = Field(default=None, description="the id that the store gave the message")
    note: str | None = Field(default=None, description="why, for a person")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.outcome not in _OUTCOMES[self.op]:
            raise ValueError(f"no {self.op} has the outcome {self.outcome}")
        of_a_message = self.op in (Op.SEND, Op.RECEIVE, Op.READ)
        if of_a_message and self.message is None:
            raise ValueError(f"this {self.op} has no message")
        of_a_place = self.op in (Op.RECEIVE, Op.READ, Op.ACK, Op.RECEIPT)
        if of_a_place and self.seq is None:
            raise ValueError(f"this {self.op} has no seq")
        if self.op in (Op.RECEIPT, Op.SETTLE) and self.peer is None:
            raise ValueError(f"this {self.op} has no peer")
        if self.op is Op.RECEIPT and self.n is None:
            raise ValueError(f"this {self.op} has no n")
        return self


class EventSink(Protocol):
    """What takes every event, in order; the checker is one."""

    def feed(self, event: Event, /) -> None:
        """Take the next event."""


class Recorder:
    """Records a history, in one order for all workers.

    An event is in the history when `record` returns, so what a worker records before it acts is
    recorded before any other worker can see the act.
    """

    def __init__(
        self,
        sinks: Iterable[EventSink] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin an empty history.

        Args:
            sinks: given every event, in order, under the recorder's lock: they must not block.
            clock: for the events' times.
        """
        self._sinks = tuple(sinks)
        self._clock = clock
        self._lock = new_lock("history")
        self._events: list[Event] = []  # not taken yet; guarded by _lock

    def record(
        self,
        worker: str,
        op: Op,
        outcome: Outcome,
        mailbox: str,
        *,
        message: str | None = None,
        seq: int | None = None,
        peer: str | None = None,
        n: int | None = None,
        given: str | None = None,
        note: str | None = None,
    ) -> None:
        """Add an event; any thread may."""
        with self._lock:
            event = Event(
                at=self._clock(),
                worker=worker,
                op=op,
                outcome=outcome,
                mailbox=mailbox,
                message=message,
                seq=seq,
                peer=peer,
                n=n,
                given=given,
                note=note,
            )
            self._events.append(event)
            for sink in self._sinks:
                sink.feed(event)

    def take(self) -> list[Event]:
        """Return the events since the last call, and keep them no longer."""
        with self._lock:
            events, self._events = self._events, []
        return events


def write_history(file: IO[str], events: Iterable[Event]) -> None:
    """Write events as JSON lines."""
    for event in events:
        file.write(event.model_dump_json(exclude_none=True) + "\n")


def read_history(lines: Iterable[str]) -> Iterator[Event]:
    """Yield the events of JSON lines, one at a time.

    Raises:
        HistoryError: a line is no event; it is named by its number.
    """
    for number, line in enumerate(lines, start=1):
        try:
            yield Event.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise HistoryError(f"line {number} is no event: {first['msg']}") from None
