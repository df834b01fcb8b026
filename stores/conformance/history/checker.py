"""Judges a history event by event, by the rules of `twinline.stores.conformance.history.verdict`.

The checker remembers every message and no event. What an event costs does not grow with the
history, so a history of any length can be streamed through it, while it is being recorded too.
"""

from collections.abc import Iterable
from typing import Final, Self

from twinline.stores.conformance.history.recorder import Event, Op, Outcome
from twinline.stores.conformance.history.verdict import Finding, Judgement, Rule

EXAMPLES: Final = 5
"""So many breaches of each rule are named."""


class _Message:
    """What is known of one message."""

    __slots__ = (
        "acknowledged",
        "began",
        "failures",
        "id",
        "invokes",
        "mailbox",
        "received",
        "sender",
        "seq",
    )

    def __init__(self, mailbox: str, message_id: str) -> None:
        self.mailbox = mailbox
        self.id = message_id
        self.sender: str | None = None
        self.began = 0  # the number of the event that began it
        self.acknowledged: int | None = None  # the number of the event that acknowledged it
        self.invokes = 0
        self.failures = 0
        self.received = False
        self.seq: int | None = None  # where it was first seen

    @property
    def failed(self) -> bool:
        return self.acknowledged is None and 0 < self.invokes == self.failures

    def __str__(self) -> str:
        place = "" if self.seq is None else f" at seq {self.seq}"
        return f"{self.id} in {self.mailbox}{place}"


class _Box:
    """What is known of one mailbox."""

    __slots__ = ("drained", "newest", "passed", "places", "read", "sent")

    def __init__(self) -> None:
        self.passed = 0  # the highest seq that was received or acked
        self.read = 0  # the number of the event that told that it was read to its end
        self.drained = 0  # the same, or that it was gone
        self.sent = 0  # the number of the last event of a send to it
        self.places: dict[int, str] = {}  # a seq, and the message that it held first
        # Of what was received, by sender: the latest moment at which one was begun.
        self.newest: dict[str, int] = {}


class Checker:
    """Takes events in order and says what they show; for one thread at a time."""

    def __init__(self) -> None:
        self._number = 0
        self._messages: dict[tuple[str, str], _Message] = {}
        self._boxes: dict[str, _Box] = {}
        self._handed: set[tuple[str, str, str]] = set()  # (worker, mailbox, message)
        self._reached: dict[tuple[str, str], int] = {}  # by worker and mailbox: the highest seq
        self._receipts = 0
        self._reads = 0
        self._redelivered = 0
        self._counts: dict[Rule, int] = dict.fromkeys(Rule, 0)
        self._examples: dict[Rule, list[str]] = {rule: [] for rule in Rule}

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
        box = self._boxes.get(event.mailbox)
        if box is None:
            box = self._boxes[event.mailbox] = _Box()
        if event.op is Op.SEND:
            self._send(box, event)
        elif event.op is Op.DRAIN:
            # A mailbox that is gone has nothing more to deliver either.
            if event.outcome in (Outcome.OK, Outcome.FAIL):
                box.drained = self._number
            if event.outcome is Outcome.OK:
                box.read = self._number
        elif event.outcome is Outcome.OK and event.seq is not None:
            if event.op is Op.ACK:
                box.passed = max(box.passed, event.seq)
            elif event.op is Op.READ:
                self._read(box, event, event.seq)
            elif event.op is Op.RECEIVE:
                self._receive(box, event, event.seq)

    def judge(self) -> Judgement:
        """Return what the events so far show."""
        # These three depend on what may still come, so they are only told now.
        found: dict[Rule, list[_Message]] = {
            rule: [] for rule in (Rule.LOST, Rule.UNEXPECTED, Rule.ABORTED)
        }
        attempted = acknowledged = failed = delivered = undrained = 0
        for message in self._messages.values():
            attempted += message.invokes > 0
            acknowledged += message.acknowledged is not None
            failed += message.failed
            delivered += message.received
            if message.seq is not None and not message.invokes:
                found[Rule.UNEXPECTED].append(message)
            elif message.seq is not None and message.failed:
                found[Rule.ABORTED].append(message)
            elif message.acknowledged is not None and not message.received:
                box = self._boxes[message.mailbox]
                if box.drained > box.sent:
                    found[Rule.LOST].append(message)
                else:
                    undrained += 1
        cases = dict.fromkeys(Rule, delivered) | {
            Rule.LOST: acknowledged - undrained,
            Rule.ABORTED: failed,
            Rule.DUPLICATES: self._receipts,
            Rule.DIVERGED: self._receipts + self._reads,
        }
        counts = self._counts | {rule: len(messages) for rule, messages in found.items()}
        examples = self._examples | {
            rule: [str(message) for message in messages[:EXAMPLES]]
            for rule, messages in found.items()
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
                box.read <= box.sent for box in self._boxes.values() if box.sent or box.places
            ),
            findings=tuple(
                Finding(
                    rule=rule,
                    count=counts[rule],
                    cases=cases[rule],
                    examples=tuple(examples[rule]),
                )
                for rule in Rule
            ),
        )

    def _send(self, box: _Box, event: Event) -> None:
        box.sent = self._number
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

    def _receive(self, box: _Box, event: Event, seq: int) -> None:
        self._receipts += 1
        message = self._see(box, event, seq)
        if message is None:
            return
        hand = (event.worker, event.mailbox, message.id)
        if hand in self._handed and seq == message.seq:
            self._breach(Rule.DUPLICATES, f"{message}, twice to {event.worker}")
        elif message.received and hand not in self._handed:
            self._redelivered += 1
        reached = self._reached.get((event.worker, event.mailbox), 0)
        self._reached[event.worker, event.mailbox] = max(reached, seq)
        again = hand in self._handed
        self._handed.add(hand)
        if message.received:
            if seq < reached and not again:
                self._breach(Rule.SKIPPED, f"{message}, to {event.worker} after seq {reached}")
            return
        message.received = True
        if seq <= box.passed:
            self._breach(Rule.SKIPPED, f"{message}, after seq {box.passed}")
        box.passed = max(box.passed, seq)
        if message.sender is not None:
            newest = box.newest.get(message.sender, 0)
            # One that was received before this one was begun after this one's acknowledgement.
            if message.acknowledged is not None and message.acknowledged < newest:
                self._breach(Rule.REORDERED, f"{message}, of {message.sender}")
            box.newest[message.sender] = max(newest, message.began)

    def _read(self, box: _Box, event: Event, seq: int) -> None:
        self._reads += 1
        message = self._see(box, event, seq)
        if message is not None and not message.received and seq <= box.passed:
            self._breach(Rule.SKIPPED, f"{message}, after seq {box.passed}")

    def _see(self, box: _Box, event: Event, seq: int) -> _Message | None:
        """Note that a seq holds a message."""
        if event.message is None:
            return None
        message = self._message(event.mailbox, event.message)
        holder = box.places.setdefault(seq, message.id)
        if holder != message.id:
            self._breach(Rule.DIVERGED, f"seq {seq} of {event.mailbox}: {holder}, {message.id}")
        if message.seq is None:
            message.seq = seq
        elif message.seq != seq:
            self._breach(Rule.DUPLICATES, f"{message}, and at seq {seq}")
        return message

    def _message(self, mailbox: str, message_id: str) -> _Message:
        key = (mailbox, message_id)
        message = self._messages.get(key)
        if message is None:
            message = self._messages[key] = _Message(mailbox, message_id)
        return message

    def _breach(self, rule: Rule, example: str) -> None:
        self._counts[rule] += 1
        if len(self._examples[rule]) < EXAMPLES:
            self._examples[rule].append(example)
