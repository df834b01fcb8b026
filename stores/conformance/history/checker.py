"""Judges a history event by event: finds the anomalies that `verdict` names.

The checker keeps every message and no event. What an event costs does not grow with the
history, so a history of any length can be streamed through it, while it is being recorded too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Self

from twinline.stores.conformance.history.recorder import Event, Op, Outcome
from twinline.stores.conformance.history.verdict import Anomaly, Finding, Judgement

EXAMPLES: Final = 5
"""So many examples of each anomaly are named."""


@dataclass(slots=True)
class _Message:
    """What is known of one message."""

    mailbox: str
    id: str
    sender: str | None = None
    began: int = 0  # the number of the event that began it
    acknowledged: int | None = None  # the number of the event that acknowledged it
    invokes: int = 0
    failures: int = 0
    received: bool = False
    seq: int | None = None  # where it was first seen

    @property
    def failed(self) -> bool:
        return self.acknowledged is None and 0 < self.invokes == self.failures

    def __str__(self) -> str:
        place = "" if self.seq is None else f" at seq {self.seq}"
        return f"{self.id} in {self.mailbox}{place}"


@dataclass(slots=True)
class _Mailbox:
    """What is known of one mailbox."""

    passed: int = 0  # the highest seq that was received or acked
    read: int = 0  # the number of the event that says that it was read to its end
    drained: int = 0  # the same, or that it was gone
    sent: int = 0  # the number of the last event of a send to it
    # By seq: the message that it held first.
    held: dict[int, str] = field(default_factory=dict)
    # Of what was received, by sender: the latest moment at which one was begun.
    newest: dict[str, int] = field(default_factory=dict)


class Checker:
    """Takes events in order and says what they show; for one thread at a time."""

    def __init__(self) -> None:
        self._number = 0
        self._messages: dict[tuple[str, str], _Message] = {}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._handed: set[tuple[str, str, str]] = set()  # (worker, mailbox, message)
        self._reached: dict[tuple[str, str], int] = {}  # by worker and mailbox: the highest seq
        self._receipts = 0
        self._reads = 0
        self._redelivered = 0
        self._counts: dict[Anomaly, int] = dict.fromkeys(Anomaly, 0)
        self._examples: dict[Anomaly, list[str]] = {anomaly: [] for anomaly in Anomaly}

    @classmethod
    def over(cls, events: Iterable[Event]) -> Self:
        """Return a checker that has taken these events."""
        checker = cls()
        for event in events:
            checker.feed(event)
        return checker

    def feed(self, event: Event) -> None:
        """Take the next event."""
        self._number += 1
        mailbox = self._mailboxes.get(event.mailbox)
        if mailbox is None:
            mailbox = self._mailboxes[event.mailbox] = _Mailbox()
        if event.op is Op.SEND:
            self._send(mailbox, event)
        elif event.op is Op.DRAIN:
            # A mailbox that is gone has nothing more to deliver either.
            if event.outcome in (Outcome.OK, Outcome.FAIL):
                mailbox.drained = self._number
            if event.outcome is Outcome.OK:
                mailbox.read = self._number
        elif event.outcome is Outcome.OK and event.seq is not None:
            if event.op is Op.ACK:
                mailbox.passed = max(mailbox.passed, event.seq)
            elif event.op is Op.READ:
                self._read(mailbox, event, event.seq)
            elif event.op is Op.RECEIVE:
                self._receive(mailbox, event, event.seq)

    def judge(self) -> Judgement:
        """Return what the events so far show."""
        # These three depend on what may still come, so they are only judged now.
        found: dict[Anomaly, list[_Message]] = {
            anomaly: [] for anomaly in (Anomaly.LOST, Anomaly.UNEXPECTED, Anomaly.ABORTED)
        }
        attempted = acknowledged = failed = delivered = undrained = 0
        for message in self._messages.values():
            attempted += message.invokes > 0
            acknowledged += message.acknowledged is not None
            failed += message.failed
            delivered += message.received
            if message.seq is not None and not message.invokes:
                found[Anomaly.UNEXPECTED].append(message)
            elif message.seq is not None and message.failed:
                found[Anomaly.ABORTED].append(message)
            elif message.acknowledged is not None and not message.received:
                mailbox = self._mailboxes[message.mailbox]
                if mailbox.drained > mailbox.sent:
                    found[Anomaly.LOST].append(message)
                else:
                    undrained += 1
        cases = dict.fromkeys(Anomaly, delivered) | {
            Anomaly.LOST: acknowledged - undrained,
            Anomaly.ABORTED: failed,
            Anomaly.DUPLICATES: self._receipts,
            Anomaly.DIVERGED: self._receipts + self._reads,
        }
        counts = self._counts | {anomaly: len(messages) for anomaly, messages in found.items()}
        examples = self._examples | {
            anomaly: [str(message) for message in messages[:EXAMPLES]]
            for anomaly, messages in found.items()
        }
        return Judgement(
            attempted=attempted,
            acknowledged=acknowledged,
            failed=failed,
            undecided=attempted - acknowledged - failed,
            delivered=delivered,
            receipts=self._receipts,
            redelivered=self._redelivered,
            undrained=undrained,
            unread=sum(
                mailbox.read <= mailbox.sent
                for mailbox in self._mailboxes.values()
                if mailbox.sent or mailbox.held
            ),
            findings=tuple(
                Finding(
                    anomaly=anomaly,
                    count=counts[anomaly],
                    cases=cases[anomaly],
                    examples=tuple(examples[anomaly]),
                )
                for anomaly in Anomaly
            ),
        )

    def _send(self, mailbox: _Mailbox, event: Event) -> None:
        mailbox.sent = self._number
        if event.message is None:
            return
        message = self._message(event.mailbox, event.message)
        if event.outcome is Outcome.INVOKE:
            message.invokes += 1
            if message.invokes == 1:
                message.began = self._number
                message.sender = event.worker
            return
        message.invokes = max(1, message.invokes)  # what has an outcome was begun
        if event.outcome is Outcome.FAIL:
            message.failures += 1
        elif event.outcome is Outcome.OK and message.acknowledged is None:
            message.acknowledged = self._number

    def _receive(self, mailbox: _Mailbox, event: Event, seq: int) -> None:
        self._receipts += 1
        message = self._see(mailbox, event, seq)
        if message is None:
            return
        hand = (event.worker, event.mailbox, message.id)
        if hand in self._handed and seq == message.seq:
            self._found(Anomaly.DUPLICATES, f"{message}, twice to {event.worker}")
        elif message.received and hand not in self._handed:
            self._redelivered += 1
        reached = self._reached.get((event.worker, event.mailbox), 0)
        self._reached[event.worker, event.mailbox] = max(reached, seq)
        again = hand in self._handed
        self._handed.add(hand)
        if message.received:
            if seq < reached and not again:
                self._found(Anomaly.SKIPPED, f"{message}, to {event.worker} after seq {reached}")
            return
        message.received = True
        if seq <= mailbox.passed:
            self._found(Anomaly.SKIPPED, f"{message}, after seq {mailbox.passed}")
        mailbox.passed = max(mailbox.passed, seq)
        if message.sender is not None:
            newest = mailbox.newest.get(message.sender, 0)
            # One that was received before this one was begun after this one's acknowledgement.
            if message.acknowledged is not None and message.acknowledged < newest:
                self._found(Anomaly.REORDERED, f"{message}, of {message.sender}")
            mailbox.newest[message.sender] = max(newest, message.began)

    def _read(self, mailbox: _Mailbox, event: Event, seq: int) -> None:
        self._reads += 1
        message = self._see(mailbox, event, seq)
        if message is not None and not message.received and seq <= mailbox.passed:
            self._found(Anomaly.SKIPPED, f"{message}, after seq {mailbox.passed}")

    def _see(self, mailbox: _Mailbox, event: Event, seq: int) -> _Message | None:
        """Note that a seq holds a message."""
        if event.message is None:
            return None
        message = self._message(event.mailbox, event.message)
        holder = mailbox.held.setdefault(seq, message.id)
        if holder != message.id:
            self._found(Anomaly.DIVERGED, f"seq {seq} of {event.mailbox}: {holder}, {message.id}")
        if message.seq is None:
            message.seq = seq
        elif message.seq != seq:
            self._found(Anomaly.DUPLICATES, f"{message}, and at seq {seq}")
        return message

    def _message(self, mailbox: str, message_id: str) -> _Message:
        key = (mailbox, message_id)
        message = self._messages.get(key)
        if message is None:
            message = self._messages[key] = _Message(mailbox, message_id)
        return message

    def _found(self, anomaly: Anomaly, example: str) -> None:
        self._counts[anomaly] += 1
        if len(self._examples[anomaly]) < EXAMPLES:
            self._examples[anomaly].append(example)
