"""Histories for tests: by hand, of simulated runs with a fault, and the stores that cheat."""

import random
import threading
from bisect import insort
from dataclasses import dataclass, field
from enum import Enum

from twinline.core.errors import StoreUnavailable
from twinline.core.store import Accepted, Draft, MailboxPolicy
from twinline.stores.conformance.history import Event, Op, Outcome
from twinline.stores.memory.mailboxes import MemoryMailboxes


class Script:
    """Writes a history event by event."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(
        self,
        worker: str,
        op: Op,
        outcome: Outcome,
        mailbox: str = "box",
        *,
        message: str | None = None,
        seq: int | None = None,
        peer: str | None = None,
        n: int | None = None,
        given: str | None = None,
    ) -> "Script":
        self.events.append(
            Event(
                at=float(len(self.events)),
                worker=worker,
                op=op,
                outcome=outcome,
                mailbox=mailbox,
                message=message,
                seq=seq,
                peer=peer,
                n=n,
                given=given,
            )
        )
        return self

    def invoke(self, message: str, sender: str = "ann", box: str = "box") -> "Script":
        return self.add(sender, Op.SEND, Outcome.INVOKE, box, message=message)

    def ok(self, message: str, sender: str = "ann", box: str = "box") -> "Script":
        return self.add(sender, Op.SEND, Outcome.OK, box, message=message)

    def fail(self, message: str, sender: str = "ann", box: str = "box") -> "Script":
        return self.add(sender, Op.SEND, Outcome.FAIL, box, message=message)

    def info(self, message: str, sender: str = "ann", box: str = "box") -> "Script":
        return self.add(sender, Op.SEND, Outcome.INFO, box, message=message)

    def sent(self, *messages: str, sender: str = "ann", box: str = "box") -> "Script":
        for message in messages:
            self.invoke(message, sender, box).ok(message, sender, box)
        return self

    def came(self, seq: int, message: str, reader: str = "bob", box: str = "box") -> "Script":
        return self.add(reader, Op.RECEIVE, Outcome.OK, box, message=message, seq=seq)

    def read(self, seq: int, message: str, reader: str = "bob", box: str = "box") -> "Script":
        return self.add(reader, Op.READ, Outcome.OK, box, message=message, seq=seq)

    def acked(self, seq: int, reader: str = "bob", box: str = "box") -> "Script":
        return self.add(reader, Op.ACK, Outcome.OK, box, seq=seq)

    def talked(self, message: str, n: int, outcome: Outcome = Outcome.OK) -> "Script":
        """Send from ann to the box, with a copy."""
        self.add("ann", Op.SEND, Outcome.INVOKE, message=message, peer="ann")
        done = outcome is Outcome.OK
        told = {"n": n, "given": f"id-{message}"} if done else {}
        return self.add("ann", Op.SEND, outcome, message=message, peer="ann", **told)  # type: ignore[arg-type]

    def copied(
        self,
        seq: int,
        message: str,
        n: int,
        *,
        to: str = "box",
        given: str | None = None,
        worker: str = "desk",
    ) -> "Script":
        """Hand a copy to another device of ann."""
        given = given or f"id-{message}"
        return self.add(
            *(worker, Op.RECEIVE, Outcome.OK, "ann"),
            message=message,
            seq=seq,
            peer=to,
            n=n,
            given=given,
        )

    def told(self, seq: int, n: int, worker: str = "desk") -> "Script":
        """Hand a receipt of the box to another device of ann."""
        return self.add(worker, Op.RECEIPT, Outcome.OK, "ann", seq=seq, peer="box", n=n)

    def settled(self) -> "Script":
        """Give the receipts of the box their time."""
        return self.add("desk", Op.SETTLE, Outcome.OK, "ann", peer="box")

    def ended(self) -> "Script":
        """Drain both mailboxes."""
        return self.drained().drained(box="ann")

    def drained(self, outcome: Outcome = Outcome.OK, box: str = "box") -> "Script":
        return self.add("bob", Op.DRAIN, outcome, box)


class Fault(Enum):
    """What a simulated store does wrong, once in a run unless it says otherwise."""

    ACK_BEFORE_COMMIT = "it acknowledges a batch, and a crash comes before the commit"
    DROP = "it drops a message in 1,000, and says nothing"
    SWAP = "it swaps a sender's two messages in a mailbox"
    GLOBAL_SEQUENCE = "it takes seqs before the commit, so that a lower one appears later"
    REUSE = "it forgets after a crash which seqs it gave out"
    INVENT = "it delivers what nobody sent"
    ABORT = "it refuses a send and keeps the message"
    REPEAT = "it stores a repeated send twice"
    REDELIVER = "it hands a message twice to one reader"
    MISDELIVER = "it puts a message into another mailbox"


@dataclass
class _Box:
    name: str
    log: list[tuple[int, str]] = field(default_factory=list)
    place: int = 0  # how many its reader has had
    life: int = 0

    def append(self, message: str) -> None:
        self.log.append((self.next, message))

    @property
    def next(self) -> int:
        return self.log[-1][0] + 1 if self.log else 1


class _Simulation:
    """Three senders, two mailboxes, and a store that is correct but for what it is told."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.script = Script()
        self.boxes = [_Box("box-0"), _Box("box-1")]

    def run(self, fault: Fault | None, sends: int) -> None:
        for number in range(sends):
            sender = f"sender-{self.chance.randrange(3)}"
            box = self.chance.choice(self.boxes)
            message = f"{sender}-{number}"
            self.script.invoke(message, sender, box.name)
            if fault is not None and number == sends // 2:
                self.go_wrong(fault, box, message, sender)
            else:
                self.send(box, message, sender)
            if self.chance.random() < 0.5:
                self.deliver(box, self.chance.randint(box.place, len(box.log)))
            if self.chance.random() < 0.02:
                # Its reader crashes, and the next one is handed again what was not acked.
                box.life += 1
                box.place = max(0, box.place - self.chance.randrange(3))
        for box in self.boxes:
            self.deliver(box)
            for seq, message in box.log:
                self.script.read(seq, message, f"reader-{box.name}.{box.life}", box.name)
            self.script.drained(box=box.name)

    def send(self, box: _Box, message: str, sender: str) -> None:
        """Answer a send, and now and then refuse it or leave its outcome unknown."""
        kind = self.chance.random()
        if kind < 0.05:
            self.script.fail(message, sender, box.name)
        elif kind < 0.15:
            # It may have been stored; the repeat, if there is one, finds it or stores it.
            stored = self.chance.random() < 0.5
            if stored:
                box.append(message)
            self.script.info(message, sender, box.name)
            if self.chance.random() < 0.8:
                self.script.invoke(message, sender, box.name)
                if not stored:
                    box.append(message)
                self.script.ok(message, sender, box.name)
        else:
            self.accept(box, message, sender)

    def accept(self, box: _Box, message: str, sender: str) -> None:
        box.append(message)
        self.script.ok(message, sender, box.name)

    def deliver(self, box: _Box, upto: int | None = None) -> None:
        for seq, message in box.log[box.place : upto]:
            self.script.came(seq, message, f"reader-{box.name}.{box.life}", box.name)
            box.place += 1

    def go_wrong(self, fault: Fault, box: _Box, message: str, sender: str) -> None:
        script = self.script
        other = f"{message}-other"
        match fault:
            case Fault.DROP:
                script.ok(message, sender, box.name)
            case Fault.ACK_BEFORE_COMMIT:
                # A batch that nobody has had yet, and its seqs go to others afterwards.
                self.deliver(box)
                self.accept(box, message, sender)
                script.invoke(other, sender, box.name)
                self.accept(box, other, sender)
                del box.log[-2:]
                box.life += 1
            case Fault.SWAP:
                self.accept(box, message, sender)
                script.invoke(other, sender, box.name)
                self.accept(box, other, sender)
                (low, first), (high, second) = box.log[-2:]
                box.log[-2:] = [(low, second), (high, first)]
            case Fault.GLOBAL_SEQUENCE:
                # This one has its seq, and another, which took the next, is committed first.
                seq = box.next
                script.invoke(other, "sender-x", box.name)
                box.log.append((seq + 1, other))
                script.ok(other, "sender-x", box.name)
                self.deliver(box)
                box.log.append((seq, message))
                script.ok(message, sender, box.name)
                self.deliver(box)
                box.log.sort()
            case Fault.REUSE:
                self.accept(box, message, sender)
                self.deliver(box)
                box.log.pop()
                box.place -= 1
                box.life += 1
                script.invoke(other, sender, box.name)
                self.accept(box, other, sender)
            case Fault.INVENT:
                self.accept(box, message, sender)
                box.append(f"nobody-{message}")
            case Fault.ABORT:
                box.append(message)
                script.fail(message, sender, box.name)
            case Fault.REPEAT:
                box.append(message)
                script.info(message, sender, box.name).invoke(message, sender, box.name)
                self.accept(box, message, sender)
            case Fault.REDELIVER:
                self.accept(box, message, sender)
                self.deliver(box)
                box.place -= 1
                self.deliver(box)
            case Fault.MISDELIVER:
                next(wrong for wrong in self.boxes if wrong is not box).append(message)
                script.ok(message, sender, box.name)


def simulated(seed: int, fault: Fault | None = None, sends: int = 400) -> list[Event]:
    """Return the history of a simulated run, with at most one fault, in the middle of it."""
    simulation = _Simulation(seed)
    simulation.run(fault, sends)
    return simulation.script.events


# -- stores that cheat ------------------------------------------------------------------

SENDS = 300


class Cheat(MemoryMailboxes):
    """Mailboxes that count their appends; what is wrong is a subclass's."""

    def __init__(self) -> None:
        super().__init__(MailboxPolicy())
        self._counting = threading.Lock()
        self._count = 0

    def number(self) -> int:
        with self._counting:
            self._count += 1
            return self._count


class Drops(Cheat):
    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        if self.number() % 1000 == 0:
            return Accepted(draft.message_id, draft.sent_at, draft.sent_at)
        return super().append(account_id, draft)


class AcksBeforeCommit(Cheat):
    """Commits eight at a time; the process once dies before a commit."""

    def __init__(self) -> None:
        super().__init__()
        self._committing = threading.Lock()
        self._batch: list[tuple[str | None, Draft]] = []  # guarded by _committing

    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        number = self.number()
        with self._committing:  # one batch after the other: it swaps nothing
            self._batch.append((account_id, draft))
            if len(self._batch) == 8 or number > SENDS // 2:
                batch, self._batch = self._batch, []
                if number != SENDS // 2 + 1:
                    for entry in batch:
                        super().append(*entry)
        return Accepted(draft.message_id, draft.sent_at, draft.sent_at)


class Swaps(Cheat):
    """Once holds a message back until the same sender's next one to that mailbox."""

    def __init__(self) -> None:
        super().__init__()
        self._held: tuple[str | None, Draft] | None = None  # guarded by _counting

    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        number = self.number()
        with self._counting:
            if number == 100:
                self._held = (account_id, draft)
                return Accepted(draft.message_id, draft.sent_at, draft.sent_at)
            held = self._held
            due = held is not None and (held[0], held[1].sender) == (account_id, draft.sender)
            if due:
                self._held = None
        receipt = super().append(account_id, draft)
        if due and held is not None:
            super().append(*held)
        return receipt


class TakesSeqsEarly(Cheat):
    """Once gives a message its seq, and commits it when others with higher ones were acked."""

    def __init__(self) -> None:
        super().__init__()
        self._late: tuple[str, Draft, int] | None = None  # guarded by _counting

    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        number = self.number()
        with self._counting:
            if number == 100:
                assert account_id is not None
                box = self._boxes[account_id]
                box.last += 1
                self._late = (account_id, draft, box.last)
                return Accepted(draft.message_id, draft.sent_at, draft.sent_at)
            late = self._late
            due = late is not None and self._boxes[late[0]].position > late[2]
            if due:
                self._late = None
        if due and late is not None:
            box = self._boxes[late[0]]
            box._messages[late[2]] = (*late[1][:5], late[1].sent_at)
            insort(box._seqs, late[2])
        return super().append(account_id, draft)


class Changes(Cheat):
    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        if self.number() == 100:
            draft = draft._replace(body=draft.body[:-1] + "?")
        return super().append(account_id, draft)


class Cuts(Cheat):
    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        return super().append(account_id, draft._replace(body=draft.body[: len(draft.body) // 2]))


class ForgetsSendIds(Cheat):
    """Once stores a message, and says that nobody knows."""

    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        receipt = super().append(account_id, draft._replace(send_id=None))
        if self.number() == 100:
            raise StoreUnavailable
        return receipt
