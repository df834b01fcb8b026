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
    """What is known of one message in a mailbox, or of the copy of one."""

    mailbox: str
    id: str
    is_copy: bool = False
    other: str | None = None  # of a message: its sender's mailbox; of a copy: the recipient's
    n: int | None = None
    given: str | None = None
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
        what = "the copy of " if self.is_copy else ""
        return f"{what}{self.id} in {self.mailbox}{place}"


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


@dataclass(slots=True)
class _Talk:
    """What is known of the receipts that one account gives another."""

    seq: int = 0  # of the newest
    n: int = 0  # of the newest
    settled: int = 0  # the number of the event that says that they have had their time
    # By n: the highest seq of the recipient's mailbox that had been received when it was named.
    named: dict[int, int] = field(default_factory=dict)


class Checker:
    """Takes events in order and says what they show; for one thread at a time."""

    def __init__(self) -> None:
        self._number = 0
        self._messages: dict[tuple[str, str], _Message] = {}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._handed: set[tuple[str, str, str]] = set()  # (worker, mailbox, message)
        self._reached: dict[tuple[str, str], int] = {}  # by worker and mailbox: the highest seq
        self._talks: dict[tuple[str, str], _Talk] = {}  # by whom they are for, and who gives them
        self._receipts = 0
        self._handings = 0
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
        mailbox = self._mailbox(event.mailbox)
        if event.op is Op.SEND:
            self._send(mailbox, event)
        elif event.op is Op.DRAIN:
            # A mailbox that is gone has nothing more to deliver either.
            if event.outcome in (Outcome.OK, Outcome.FAIL):
                mailbox.drained = self._number
            if event.outcome is Outcome.OK:
                mailbox.read = self._number
        elif event.op is Op.SETTLE and event.peer is not None:
            self._talk(event.mailbox, event.peer).settled = self._number
        elif event.outcome is Outcome.OK and event.seq is not None:
            if event.op is Op.ACK:
                mailbox.passed = max(mailbox.passed, event.seq)
            elif event.op is Op.READ:
                self._read(mailbox, event, event.seq)
            elif event.op is Op.RECEIVE:
                self._receive(mailbox, event, event.seq)
            elif event.op is Op.RECEIPT:
                self._take_receipt(mailbox, event, event.seq)

    def judge(self) -> Judgement:
        """Return what the events so far show."""
        # These depend on what may still come, so they are only judged now.
        found: dict[Anomaly, list[str]] = {
            anomaly: []
            for anomaly in (Anomaly.LOST, Anomaly.UNEXPECTED, Anomaly.ABORTED, Anomaly.UNCOPIED)
        }
        attempted = acknowledged = failed = delivered = undrained = 0
        mail_due = copies = copies_due = copies_failed = 0
        for message in self._messages.values():
            if message.is_copy:
                copies += message.received
                copies_failed += message.failed
            else:
                attempted += message.invokes > 0
                acknowledged += message.acknowledged is not None
                failed += message.failed
                delivered += message.received
            if message.seq is not None and not message.invokes:
                found[Anomaly.UNEXPECTED].append(str(message))
            elif message.seq is not None and message.failed:
                found[Anomaly.ABORTED].append(str(message))
            elif message.acknowledged is not None:
                mailbox = self._mailboxes[message.mailbox]
                is_due = message.received or mailbox.drained > mailbox.sent
                undrained += not is_due
                if message.is_copy:
                    copies_due += is_due
                else:
                    mail_due += is_due
                if is_due and not message.received:
                    rule = Anomaly.UNCOPIED if message.is_copy else Anomaly.LOST
                    found[rule].append(str(message))
        found |= self._judge_receipts()
        cases = dict.fromkeys(Anomaly, delivered) | {
            Anomaly.LOST: mail_due,
            Anomaly.ABORTED: failed + copies_failed,
            Anomaly.DUPLICATES: self._handings,
            Anomaly.DIVERGED: self._handings + self._reads,
            Anomaly.UNCOPIED: copies_due,
            Anomaly.PREMATURE: sum(len(talk.named) for talk in self._talks.values()),
            Anomaly.REGRESSED: self._receipts,
            Anomaly.UNTOLD: sum(talk.settled > 0 for talk in self._talks.values()),
        }
        counts = self._counts | {anomaly: len(examples) for anomaly, examples in found.items()}
        examples = self._examples | found
        return Judgement(
            attempted=attempted,
            acknowledged=acknowledged,
            failed=failed,
            undecided=attempted - acknowledged - failed,
            delivered=delivered,
            copies=copies,
            receipts=self._receipts,
            handed=self._handings,
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
                    examples=tuple(examples[anomaly][:EXAMPLES]),
                )
                for anomaly in Anomaly
            ),
        )

    def _judge_receipts(self) -> dict[Anomaly, list[str]]:
        """Return what is wrong with the receipts that came, and with those that did not."""
        premature: list[str] = []
        untold: list[str] = []
        sent: dict[tuple[str, str], list[_Message]] = {}
        for message in self._messages.values():
            if not message.is_copy and message.other is not None:
                sent.setdefault((message.other, message.mailbox), []).append(message)
        for pair, talk in self._talks.items():
            mine = sent.get(pair, [])
            where = {message.n: message.seq for message in mine if message.n is not None}
            # One whose sender got no reply may have any number that nobody was told.
            doubt = any(message.n is None and not message.failed for message in mine)
            for n, passed in talk.named.items():
                seq = where.get(n)
                if (n not in where and not doubt) or (n in where and (seq is None or seq > passed)):
                    premature.append(
                        f"{pair[1]} to {pair[0]}: n {n}, when seq {passed} was reached"
                    )
            due = [
                message.n
                for message in mine
                if message.n is not None and message.received
                if message.acknowledged is not None and message.acknowledged < talk.settled
            ]
            if due and max(due) > talk.n:
                untold.append(f"{pair[1]} to {pair[0]}: n {max(due)}, and the last was n {talk.n}")
        return {Anomaly.PREMATURE: premature, Anomaly.UNTOLD: untold}

    def _send(self, mailbox: _Mailbox, event: Event) -> None:
        mailbox.sent = self._number
        if event.message is None:
            return
        message = self._message(event.mailbox, event.message)
        message.other = event.peer or event.worker
        self._agree(message, event)
        if event.n is not None:
            message.n = event.n  # whatever its copy said before: it is this one that receipts name
        self._progress(message, event)
        if event.peer is not None:
            self._mailbox(event.peer).sent = self._number
            copy = self._message(event.peer, event.message)
            copy.is_copy, copy.other = True, event.mailbox
            self._progress(copy, event)

    def _progress(self, message: _Message, event: Event) -> None:
        """Note how far the send of a message has come, or that of its copy."""
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

    def _agree(self, message: _Message, event: Event) -> None:
        """Compare what an event says of a message with what is known of it."""
        for name in ("n", "given"):
            said, known = getattr(event, name), getattr(message, name)
            if known is None:
                setattr(message, name, said)
            elif said is not None and said != known:
                self._found(Anomaly.MISMATCHED, f"{message}: {name} {known}, and {said}")

    def _receive(self, mailbox: _Mailbox, event: Event, seq: int) -> None:
        self._handings += 1
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
        self._hold(mailbox, event, seq, message.id)
        if event.peer is None:
            self._agree(message, event)
        else:
            message.is_copy = True
            self._agree(self._message(event.peer, event.message), event)
            if message.other not in (None, event.peer):
                said = f"{message}: to {message.other}, and to {event.peer}"
                self._found(Anomaly.MISMATCHED, said)
        if message.seq is None:
            message.seq = seq
        elif message.seq != seq:
            self._found(Anomaly.DUPLICATES, f"{message}, and at seq {seq}")
        return message

    def _take_receipt(self, mailbox: _Mailbox, event: Event, seq: int) -> None:
        self._receipts += 1
        if event.peer is None or event.n is None:
            return
        self._hold(mailbox, event, seq, f"a receipt of {event.peer}, n {event.n}")
        reached = self._reached.get((event.worker, event.mailbox), 0)
        if seq <= reached:
            said = f"a receipt at seq {seq}, to {event.worker} after seq {reached}"
            self._found(Anomaly.SKIPPED, said)
        self._reached[event.worker, event.mailbox] = max(reached, seq)
        mailbox.passed = max(mailbox.passed, seq)
        talk = self._talk(event.mailbox, event.peer)
        talk.named.setdefault(event.n, self._mailbox(event.peer).passed)
        # Two workers may tell of two of them in either order: the seqs say which was the later.
        if (seq > talk.seq) is not (event.n > talk.n) or (seq == talk.seq) is not (
            event.n == talk.n
        ):
            said = (
                f"{event.peer} to {event.mailbox}: n {talk.n} at {talk.seq}, n {event.n} at {seq}"
            )
            self._found(Anomaly.REGRESSED, said)
        talk.seq, talk.n = max(talk.seq, seq), max(talk.n, event.n)

    def _hold(self, mailbox: _Mailbox, event: Event, seq: int, holds: str) -> None:
        """Note what a seq holds."""
        holder = mailbox.held.setdefault(seq, holds)
        if holder != holds:
            self._found(Anomaly.DIVERGED, f"seq {seq} of {event.mailbox}: {holder}, {holds}")

    def _mailbox(self, name: str) -> _Mailbox:
        mailbox = self._mailboxes.get(name)
        if mailbox is None:
            mailbox = self._mailboxes[name] = _Mailbox()
        return mailbox

    def _talk(self, mailbox: str, peer: str) -> _Talk:
        return self._talks.setdefault((mailbox, peer), _Talk())

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
