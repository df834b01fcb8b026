"""What becomes of the writes of one transaction: decided here, with the mailboxes locked.

Calls that wait at the same time may be done in any order, so all of a kind are done at once, each
kind by one statement however many there are:

1. `opening`: the mailboxes are made that are to be; then those that are written to are locked,
   in the order of their ids, so that no two servers wait for each other; and then, by statements
   of their own, what acks pass and what the send_ids stand for is read. It must not be the same
   statement: it would see what was there before it had waited for the locks, and store a message
   twice.
2. `looking`: what cannot be told from the mailboxes' rows is asked, which is rare: which acks have
   aged, where a history with gaps begins, who is blocked, and what of repeated sends has its copy.
3. `closing`: everything is written, what the looks want is read, and it is committed.

The rows to be read are found one by one (``LATERAL``, and ``ON CONFLICT`` for those that change),
so that no plan that was made when a table was empty reads all of it.

A mailbox's history is trimmed by raising its ``floor``; the messages below it are removed some
dozens at a time.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from twinline.core.errors import CursorInvalid, NoSuchUser, Refused, RequestError
from twinline.core.protocol import EVERY_KIND, MAIL_ALONE, Kind, Kinds, Message, Receipt
from twinline.core.store import (
    Accepted,
    Acked,
    Delivery,
    Draft,
    MailboxLook,
    MailboxPolicy,
    MailPage,
    PeerReceipt,
)
from twinline.stores.postgresql.arrays import blobs, integers, integers_or_null, texts
from twinline.stores.postgresql.entries import bits, entry, message, of_kinds, page_after
from twinline.stores.postgresql.link import Call, Rows
from twinline.stores.postgresql.mailbox import Mailbox
from twinline.stores.postgresql.notes import DELETE_COPIES, DELETE_RECEIPTS, Notes, copy_of
from twinline.stores.postgresql.send_ids import Key, SendIds
from twinline.stores.rules import fingerprint, history_ends, history_span
from twinline.stores.sql.ageing import aged
from twinline.stores.sql.mailbox import NO_SUCH_SEQ, leaves_copy
from twinline.stores.sql.send_ids import First

_PIECE: Final = 64  # messages below the floor that are removed at once
_AGE_PIECE: Final = 64  # the part of the history's span by which an aged ack may be removed late

_CREATE: Final = """
    INSERT INTO mailboxes (account_id, epoch)
    SELECT account_id, (SELECT epoch FROM store) FROM unnest($1::text[]) AS account_id
    ORDER BY account_id ON CONFLICT (account_id) DO NOTHING RETURNING account_id"""
_LOCK: Final = """
    SELECT found.*, (SELECT epoch FROM store) FROM unnest($1::text[]) AS wanted
    CROSS JOIN LATERAL (
        SELECT box, account_id, position, last, unread, acked, oldest_ack, newest, copies,
            receipts, blocked, gives_receipts, floor, epoch, sends, quota
        FROM mailboxes WHERE account_id = wanted FOR NO KEY UPDATE) AS found"""
_KNOWN: Final = """
    SELECT number, content, message_id, sent_at, n
    FROM unnest($1::text[], $2::text[], $3::bytea[]) WITH ORDINALITY
        AS wanted (account_id, sender_id, send_id, number)
    CROSS JOIN LATERAL (
        SELECT box FROM mailboxes WHERE account_id = wanted.account_id OFFSET 0) AS mailbox
    CROSS JOIN LATERAL (
        SELECT content, message_id, sent_at, n FROM send_ids WHERE send_ids.box = mailbox.box
            AND sender_id = wanted.sender_id AND send_id = wanted.send_id OFFSET 0) AS known"""
_DELETE: Final = """
    DELETE FROM messages WHERE ctid = ANY(ARRAY(
        SELECT found.place FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
            AS wanted (box, seq, floor)
        CROSS JOIN LATERAL (SELECT ctid AS place FROM messages
            WHERE messages.box = wanted.box AND messages.seq = wanted.seq
            AND messages.seq > wanted.floor OFFSET 0) AS found))
    RETURNING box, seq"""
# What each ack passes: of every sender how many messages, the newest's n, and the sender if it is
# to have a receipt. An ack beyond the last seq is refused, but where the epoch lets it jump.
_PASSED: Final = """
    SELECT number, passed, n, CASE WHEN gives_receipts AND sender_id <> ''
        AND sender_id <> wanted.account_id AND NOT EXISTS (SELECT FROM blocked
            WHERE blocked.box = mine.box AND peer_id = sender_id) THEN sender_id END
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS wanted (account_id, up_to, number)
    CROSS JOIN LATERAL (SELECT box, position, last, epoch, gives_receipts FROM mailboxes
        WHERE mailboxes.account_id = wanted.account_id OFFSET 0) AS mine
    CROSS JOIN LATERAL (SELECT sender_id, count(*) AS passed, max(n) AS n FROM messages
        WHERE messages.box = mine.box AND seq > position AND seq <= up_to
            AND (up_to <= last OR mine.epoch <> (SELECT epoch FROM store))
        GROUP BY sender_id) AS found"""
# Of constants alone.
_AGED: Final = f"""
    SELECT box, aged, (SELECT count(*) FROM messages
        WHERE messages.box = wanted.box AND seq > floor AND seq <= aged),
        (SELECT acked_at FROM acks WHERE acks.box = wanted.box AND acks.position > aged
        ORDER BY acks.position LIMIT 1)
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS wanted (box, floor, ends)
    CROSS JOIN LATERAL (SELECT {aged("wanted.box", "wanted.ends")} AS aged) AS found"""  # noqa: S608
_SURPLUS: Final = """
    SELECT box, (SELECT seq FROM messages WHERE messages.box = wanted.box AND seq > floor
        ORDER BY seq OFFSET skip LIMIT 1)
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) AS wanted (box, floor, skip)"""
_BLOCKED: Final = """
    SELECT wanted.box, wanted.peer_id FROM unnest($1::bigint[], $2::text[]) AS wanted (box, peer_id)
    CROSS JOIN LATERAL (SELECT FROM blocked WHERE blocked.box = wanted.box
        AND blocked.peer_id = wanted.peer_id OFFSET 0) AS found"""

_INSERT: Final = """
    INSERT INTO messages (box, seq, message_id, sender, body, sent_at, sender_id, n)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bytea[],
        $6::bigint[], $7::text[], $8::bigint[])"""
_ACKS: Final = """
    INSERT INTO acks (box, position, acked_at)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) ON CONFLICT DO NOTHING"""
_UPDATE: Final = """
    INSERT INTO mailboxes AS old (box, account_id, position, last, unread, acked, oldest_ack,
        floor, epoch, sends, newest, copies, receipts)
    OVERRIDING SYSTEM VALUE
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[],
        $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[],
        $12::bigint[], $13::bigint[])
    ON CONFLICT (box) DO UPDATE SET position = excluded.position, last = excluded.last,
        unread = excluded.unread, acked = excluded.acked, oldest_ack = excluded.oldest_ack,
        floor = excluded.floor, epoch = excluded.epoch, sends = excluded.sends,
        newest = excluded.newest, copies = excluded.copies, receipts = excluded.receipts"""
_REMOVE: Final = """
    DELETE FROM messages WHERE ctid = ANY(ARRAY(
        SELECT found.place FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
            AS old (box, low, high)
        CROSS JOIN LATERAL (SELECT ctid AS place FROM messages
            WHERE messages.box = old.box AND seq > old.low AND seq <= old.high OFFSET 0)
            AS found))"""
_REMOVE_ACKS: Final = """
    DELETE FROM acks WHERE ctid = ANY(ARRAY(
        SELECT found.place FROM unnest($1::bigint[], $2::bigint[]) AS old (box, high)
        CROSS JOIN LATERAL (SELECT ctid AS place FROM acks
            WHERE acks.box = old.box AND acks.position <= old.high OFFSET 0) AS found))"""
_DROP: Final = """
    WITH gone AS (DELETE FROM mailboxes WHERE account_id = ANY($1::text[]) RETURNING box)
    INSERT INTO dropped (box) SELECT box FROM gone"""

_READ: Final = """
    SELECT number, seq, message_id, sender, body, sent_at
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[]) WITH ORDINALITY
        AS wanted (box, after, most, number)
    CROSS JOIN LATERAL (SELECT * FROM messages
        WHERE messages.box = wanted.box AND seq > after ORDER BY seq LIMIT most) AS found
    ORDER BY number, seq"""
_AFTER: Final = of_kinds(
    "wanted.box",
    "wanted.kinds",
    mail="seq > greatest(after, floor)",
    copies="seq > after",
    receipts="seq > after",
    order="ASC",
    most="most",
)
_READ_KINDS: Final = f"""
    SELECT number, found.*
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        WITH ORDINALITY AS wanted (box, floor, after, most, kinds, number)
    CROSS JOIN LATERAL {_AFTER} AS found
    ORDER BY number, seq"""  # noqa: S608 - of constants alone


# --- what is asked for


class Create(NamedTuple):
    """Make a mailbox; its outcome is None."""

    account_id: str


class Drop(NamedTuple):
    """Drop a mailbox; its outcome is None."""

    account_id: str


class Append(NamedTuple):
    """Send; its outcome is the receipt. ``content`` is the body's fingerprint, if it is needed."""

    account_id: str
    draft: Draft
    content: bytes


class PutReceipt(NamedTuple):
    """Tell that another account has acknowledged; its outcome is None."""

    account_id: str
    receipt: PeerReceipt


class Ack(NamedTuple):
    """Acknowledge; its outcome is what that came to."""

    account_id: str
    up_to: int
    now: int


class Looks(NamedTuple):
    """Acknowledge and read; its outcome is a list, as that of `Mailboxes.look_many`."""

    looks: tuple[MailboxLook, ...]


class Delete(NamedTuple):
    """Delete messages; its outcome is how many there were."""

    account_id: str
    seqs: Collection[int]


class Trim(NamedTuple):
    """Remove what has aged; its outcome is None."""

    account_id: str
    now: int


Write = Create | Drop | Append | PutReceipt | Ack | Looks | Delete | Trim
"""What a server asks of its mailboxes."""


def append_of(account_id: str, draft: Draft) -> Append:
    """Return a send."""
    content = b"" if draft.send_id is None else fingerprint(draft.body)
    return Append(account_id, draft, content)


def concerned(write: Write) -> tuple[str, ...]:
    """Return whose mailboxes a write may put something into, or drop."""
    if isinstance(write, Append):
        own = write.account_id
        return (own, write.draft.sender_id) if leaves_copy(own, write.draft) else (own,)
    return (write.account_id,) if isinstance(write, PutReceipt | Drop) else ()


class Batch:
    """The writes of one transaction.

    Attributes:
        outcomes: what each write came to; an exception is to be raised.
        news: which mailboxes got entries of which kinds, and those that are dropped, of all.
        dropped: those that are dropped.
    """

    def __init__(self, policy: MailboxPolicy, sends: SendIds, writes: Iterable[Write]) -> None:
        self._policy = policy
        self._sends = sends
        self._writes = list(writes)
        self.outcomes: list[Any] = [None] * len(self._writes)
        self.news: dict[str, Kinds] = {}
        self.dropped: dict[str, None] = {}
        # By kind, each with its index.
        self._creates: list[tuple[int, Create]] = []
        self._drops: list[tuple[int, Drop]] = []
        self._appends: list[tuple[int, Append]] = []
        self._receipts: list[tuple[int, PutReceipt]] = []
        self._acks: list[tuple[int, Ack]] = []
        self._looks: list[tuple[int, Looks]] = []
        self._deletes: list[tuple[int, Delete]] = []
        self._trims: list[tuple[int, Trim]] = []
        # What was read, by account id and by number.
        self._boxes: dict[str, Mailbox] = {}
        self._numbers: dict[int, Mailbox] = {}
        self._keys: list[tuple[str, str, bytes]] = []
        self._known: dict[Key, First] = {}
        self._stored: frozenset[Key] = frozenset()  # what of that is in the table
        self._rows: list[Rows] = []  # what the last step of `looking` came to
        # What each ack passes, from where the position was when the transaction began; and the
        # `n` that each sender was told of since.
        self._passed: dict[tuple[str, int], list[tuple[int, int, str | None]]] = {}
        self._told: dict[tuple[int, str], int] = {}
        self._refuses: set[tuple[int, str]] = set()  # mailboxes, and whom they have blocked
        self._notes = Notes(policy)
        # What is to be written, and read.
        self._moves: list[tuple[int, int, int]] = []
        self._messages: list[tuple[int, int, str, str, bytes, int, str, int]] = []
        self._reads: list[_Read] = []
        self._mail_reads = 0  # so many of them are of mail alone, and come first
        self._keep_none = not policy.history_messages or not history_span(policy)

    # --- 1. what is opened with

    def opening(self) -> list[Call]:
        """Return what makes, locks and reads the mailboxes."""
        wanted: dict[str, None] = {}
        lists: dict[type, list[Any]] = {
            Create: self._creates,
            Drop: self._drops,
            Append: self._appends,
            PutReceipt: self._receipts,
            Ack: self._acks,
            Looks: self._looks,
            Delete: self._deletes,
            Trim: self._trims,
        }
        for index, write in enumerate(self._writes):
            lists[type(write)].append((index, write))
            if isinstance(write, Looks):
                for look in write.looks:
                    wanted[look.account_id] = None
            elif not isinstance(write, Create):
                wanted[write.account_id] = None
        copied = []
        for _, (account_id, draft, _) in self._appends:
            if leaves_copy(account_id, draft):
                wanted[draft.sender_id] = None
                copied.append(draft.sender_id)
        calls = []
        if self._creates:
            created = {create.account_id for _, create in self._creates}
            calls.append(Call(_CREATE, texts(sorted(created))))
        if wanted:
            calls.append(Call(_LOCK, texts(sorted(wanted))))
        self._passed = {(account_id, up_to): [] for account_id, up_to, _ in self._wanted_acks()}
        if self._passed:
            accounts, seqs = zip(*self._passed, strict=True)
            calls.append(Call(_PASSED, texts(accounts), integers(seqs)))
        for _, (account_id, draft, _) in self._appends:
            if draft.send_id is not None:
                self._keys.append((account_id, draft.sender_id, _column(draft.send_id)))
        if self._keys:
            accounts, senders, send_ids = zip(*self._keys, strict=True)
            calls.append(Call(_KNOWN, texts(accounts), texts(senders), blobs(send_ids)))
        calls += self._notes.opening(copied, [write for _, write in self._receipts])
        return calls

    def opened(self, results: list[Rows]) -> None:
        """Take what `opening` returned."""
        left = iter(results)
        made = {account_id for (account_id,) in next(left)} if self._creates else set()
        for index, write in self._creates:
            if write.account_id in made:
                made.discard(write.account_id)  # of two at once one makes it
            else:
                self.outcomes[index] = ValueError(f"account id {write.account_id!r} is used twice")
        for *columns, quota, epoch in next(left, []):  # of creations alone there is none
            box = Mailbox(*columns, quota=quota)
            box.enter(epoch)
            self._boxes[box.account_id] = box
            self._numbers[box.number] = box
        passes = list(self._passed.values())
        for number, *passed in next(left) if passes else ():
            count, n, sender_id = passed
            passes[number - 1].append((count, n, sender_id))
        for number, *known in next(left) if self._keys else ():
            account_id, sender_id, send_id = self._keys[number - 1]
            found = self._boxes.get(account_id)
            if found is not None:
                content, message_id, sent_at, n = known
                self._known[found.number, sender_id, send_id] = content, message_id, sent_at, n
        self._stored = frozenset(self._known)
        self._notes.opened(left)

    # --- 2. what has to be looked up

    def looking(self) -> Iterator[list[Call]]:
        """Yield what has to be asked, step by step; what it came to is given to `looked`."""
        self._acknowledge()  # first: what acks pass was counted before anything is deleted
        if self._deletes:
            deletes = self._wanted_deletes()
            if deletes:
                yield deletes
                self._count_deleted(*self._rows)
            else:
                self._count_deleted()
        ageing = self._ageing()
        if ageing:
            yield [Call(_AGED, *ageing)]
            self._age()
        surplus = self._surplus()
        if surplus:
            yield [Call(_SURPLUS, *surplus)]
            for number, seq in self._rows[0]:
                box = self._numbers[number]
                box.raise_floor(seq, box.acked - self._policy.history_messages)
        refusals = self._uncertain_refusals()
        if refusals:
            yield [Call(_BLOCKED, *refusals)]
            self._refuses = {(number, peer_id) for number, peer_id in self._rows[0]}
        repeats = self._uncertain_copies()
        if repeats:
            yield [self._notes.asking(repeats)]
            self._notes.know_copies(self._rows[0])
        self._append_all()
        for _, write in self._receipts:
            self._put_receipt(write)
        self._notes.settle(self._numbers)
        self.dropped = {
            drop.account_id: None for _, drop in self._drops if drop.account_id in self._boxes
        }
        self.news |= dict.fromkeys(self.dropped, EVERY_KIND)
        uncounted = self._sends.uncounted(self._numbers)
        if uncounted:
            yield [uncounted]
            self._sends.count(self._rows[0], self._numbers)

    def looked(self, results: list[Rows]) -> None:
        """Take what one step of `looking` came to."""
        self._rows = results

    def _box(self, account_id: str) -> Mailbox:
        box = self._boxes.get(account_id)
        if box is None:
            raise NoSuchUser
        return box

    def _wanted_deletes(self) -> list[Call]:
        wanted: dict[tuple[int, int], int] = {}
        notes: dict[tuple[int, int], None] = {}
        for _, write in self._deletes:
            box = self._boxes.get(write.account_id)
            if box is not None:
                for seq in write.seqs:
                    if box.floor < seq <= box.last:
                        wanted[box.number, seq] = box.floor
                    if (box.copies or box.receipts) and 0 < seq <= box.last:
                        notes[box.number, seq] = None
        if not (wanted or notes):
            return []
        numbers, seqs = (integers([place[at] for place in wanted]) for at in (0, 1))
        calls = [Call(_DELETE, numbers, seqs, integers(list(wanted.values())))]
        if notes:
            numbers, seqs = (integers([place[at] for place in notes]) for at in (0, 1))
            calls += [Call(DELETE_COPIES, numbers, seqs), Call(DELETE_RECEIPTS, numbers, seqs)]
        return calls

    def _count_deleted(
        self,
        mail: Rows | tuple[()] = (),
        copies: Rows | tuple[()] = (),
        receipts: Rows | tuple[()] = (),
    ) -> None:
        for number, seq in mail:
            box = self._numbers[number]
            if seq > box.position:
                box.unread -= 1
            else:
                box.acked -= 1
        for number, _ in copies:
            self._numbers[number].copies -= 1
        for number, _ in receipts:
            self._numbers[number].receipts -= 1
        self._notes.deleted(list(copies), list(receipts))
        gone = {(number, seq) for number, seq in (*mail, *copies, *receipts)}
        for number, _ in gone:
            self._numbers[number].changed = True
        for index, write in self._deletes:
            mailbox = self._boxes.get(write.account_id)
            if mailbox is None:
                self.outcomes[index] = NoSuchUser()
                continue
            mine = {(mailbox.number, seq) for seq in write.seqs} & gone
            self.outcomes[index] = len(mine)
            gone -= mine  # of two who delete it one is told

    def _wanted_acks(self) -> Iterator[tuple[str, int, int]]:
        """Yield each ack's mailbox, seq and time."""
        for _, ack in self._acks:
            yield ack
        for _, looks in self._looks:
            for look in looks.looks:
                if look.ack is not None:
                    yield look.account_id, look.ack, look.now

    def _acknowledge(self) -> None:
        begins = {number: box.unread for number, box in self._numbers.items()}
        for index, ack in self._acks:
            try:
                box, deliveries = self._ack(ack, begins)
                self.outcomes[index] = Acked(box.position, box.unread, deliveries)
            except RequestError as error:
                self.outcomes[index] = error
        for index, looks in self._looks:
            self.outcomes[index] = [
                self._look(index, place, look, begins) for place, look in enumerate(looks.looks)
            ]

    def _ack(self, ack: Ack, begins: dict[int, int]) -> tuple[Mailbox, tuple[Delivery, ...]]:
        """Acknowledge; return the mailbox, and whose mail that has passed."""
        account_id, up_to, now = ack
        box = self._box(account_id)
        if not box.moves(up_to):
            return box, ()
        found = self._passed[account_id, up_to]
        passed = box.passed(up_to)
        if passed is None:
            # Counted from where the position was when the transaction began.
            passed = sum(count for count, _, _ in found) - (begins[box.number] - box.unread)
        deliveries = []
        for _, n, sender_id in found:
            if sender_id is not None and n > self._told.get((box.number, sender_id), 0):
                self._told[box.number, sender_id] = n
                deliveries.append(Delivery(sender_id, n))
        box.move(up_to, passed, now)
        box.changed = True
        if self._keep_none:
            box.raise_floor(box.position, box.acked)
            box.oldest_ack = None
        elif passed:
            self._moves.append((box.number, up_to, now))
        return box, tuple(deliveries)

    def _look(
        self, index: int, place: int, look: MailboxLook, begins: dict[int, int]
    ) -> RequestError | MailPage:
        deliveries: tuple[Delivery, ...] = ()
        try:
            box = self._box(look.account_id)
            if look.ack is not None:
                _, deliveries = self._ack(Ack(look.account_id, look.ack, look.now), begins)
            if look.limit and look.after > box.last:
                raise CursorInvalid
        except RequestError as error:
            return error
        if look.limit:
            self._reads.append(_Read(index, place, look, box))
        return MailPage((), box.position, more=False, seen=look.after, deliveries=deliveries)

    def _ageing(self) -> tuple[Any, ...] | None:
        """Return whose history may have aged."""
        wanted: dict[int, int] = {}
        late = 0 if self._keep_none else history_span(self._policy) // _AGE_PIECE
        for account_id, now, slack in self._times(late):
            box = self._boxes.get(account_id)
            if box is None or box.oldest_ack is None:
                continue
            ends = history_ends(self._policy, now)
            if box.oldest_ack <= ends - slack:
                wanted[box.number] = max(ends, wanted.get(box.number, ends))
        if not wanted:
            return None
        return (
            integers(list(wanted)),
            integers([self._numbers[number].floor for number in wanted]),
            integers(list(wanted.values())),
        )

    def _times(self, late: int) -> Iterator[tuple[str, int, int]]:
        """Yield when each write is made to which mailbox, and how late it may remove what aged."""
        for _, trim in self._trims:
            yield trim.account_id, trim.now, 0
        for _, append in self._appends:
            yield append.account_id, append.draft.sent_at, late
        for account_id, _, now in self._wanted_acks():
            yield account_id, now, late

    def _age(self) -> None:
        for number, up_to, removed, oldest in self._rows[0]:
            box = self._numbers[number]
            if up_to > box.floor:
                box.raise_floor(up_to, removed)
            # Those of now are not in the table yet.
            of_now = next((at for each, _, at in self._moves if each == number), None)
            box.oldest_ack = of_now if oldest is None else oldest
            box.changed = True

    def _surplus(self) -> tuple[Any, ...] | None:
        """Trim histories that are too long; return those of which the row does not say where."""
        wanted = []
        for box in self._numbers.values():
            surplus = box.acked - self._policy.history_messages
            if surplus <= 0:
                continue
            ends = box.surplus_ends(surplus)
            if ends is None:
                wanted.append((box.number, box.floor, surplus - 1))
            else:
                box.raise_floor(ends, surplus)
        if not wanted:
            return None
        return tuple(integers(column) for column in zip(*wanted, strict=True))

    def _append_all(self) -> None:
        for index, append in self._appends:
            try:
                self.outcomes[index] = self._append(append)
            except RequestError as error:
                self.outcomes[index] = error

    def _uncertain_refusals(self) -> tuple[Any, ...] | None:
        wanted: dict[tuple[int, str], None] = {}
        for _, (account_id, draft, _) in self._appends:
            box = self._boxes.get(account_id)
            if box is not None and box.blocked:
                wanted[box.number, draft.sender_id] = None
        for _, (account_id, receipt) in self._receipts:
            box = self._boxes.get(account_id)
            if box is not None and box.blocked:
                wanted[box.number, receipt.account_id] = None
        if not wanted:
            return None
        numbers, peers = zip(*wanted, strict=True)
        return integers(numbers), texts(peers)

    def _uncertain_copies(self) -> dict[tuple[int, str, int, str], None]:
        """Return the messages that are sent again and may have copies: a new one has none."""
        wanted: dict[tuple[int, str, int, str], None] = {}
        for _, (account_id, draft, _) in self._appends:
            mine, box = self._boxes.get(draft.sender_id), self._boxes.get(account_id)
            if draft.send_id is None or not leaves_copy(account_id, draft):
                continue
            if mine is not None and mine.copies and box is not None:
                known = self._known.get((box.number, draft.sender_id, _column(draft.send_id)))
                if known is not None:
                    _, message_id, _, n = known
                    wanted[mine.number, account_id, n, message_id] = None
        return wanted

    def _put_receipt(self, write: PutReceipt) -> None:
        account_id, receipt = write
        box = self._boxes.get(account_id)
        if (
            box is not None
            and box.gives_receipts
            and receipt.account_id != account_id
            and (box.number, receipt.account_id) not in self._refuses
            and self._notes.receipt(box, receipt)
        ):
            self._tell(account_id, Kind.RECEIPT)

    def _tell(self, account_id: str, kind: Kind) -> None:
        self.news[account_id] = self.news.get(account_id, frozenset()) | {kind}

    def _append(self, write: Append) -> Accepted:
        accepted = self._put(write)
        account_id, draft, _ = write
        if leaves_copy(account_id, draft):
            box = self._boxes.get(draft.sender_id)
            copy = copy_of(draft, account_id, accepted)
            if box is not None and self._notes.copy(box, copy, draft.sent_at):
                self._tell(draft.sender_id, Kind.SENT)
        return accepted

    def _put(self, write: Append) -> Accepted:
        """Put a message into its recipient's mailbox, unless it is there."""
        account_id, draft, content = write
        box = self._box(account_id)
        key: Key | None = None
        if draft.send_id is not None:
            key = box.number, draft.sender_id, _column(draft.send_id)
            first = self._sends.first(draft, content, self._known.get(key))
            if first is not None:
                return first
        if (box.number, draft.sender_id) in self._refuses and draft.sender_id != account_id:
            raise Refused
        box.require_room(self._policy)
        seq, n = box.add(draft.sent_at)
        box.changed = True
        self._messages.append(
            (
                box.number,
                seq,
                draft.message_id,
                draft.sender,
                _column(draft.body),
                draft.sent_at,
                draft.sender_id,
                n,
            )
        )
        if key is not None:
            self._known[key] = content, draft.message_id, draft.sent_at, n
            if self._sends.keep(key, draft, content, seq, n, stored=key in self._stored):
                box.sends += 1
        before = self.news.get(account_id)
        self.news[account_id] = MAIL_ALONE if before is None else before | MAIL_ALONE
        return Accepted(draft.message_id, draft.sent_at, n)

    # --- 3. what is closed with

    def closing(self) -> list[Call]:
        """Return what writes everything, and then reads what the looks want."""
        calls = []
        if self._messages:
            numbers, seqs, ids, senders, bodies, times, sender_ids, ns = zip(
                *self._messages, strict=True
            )
            calls.append(
                Call(
                    _INSERT,
                    integers(numbers),
                    integers(seqs),
                    texts(ids),
                    texts(senders),
                    blobs(bodies),
                    integers(times),
                    texts(sender_ids),
                    integers(ns),
                )
            )
        calls += self._notes.writing()
        calls += self._sends.writing(self._numbers)
        if self._moves:
            calls.append(Call(_ACKS, *(integers(each) for each in zip(*self._moves, strict=True))))
        changed = [box for box in self._numbers.values() if box.changed]
        if changed:
            calls.append(
                Call(
                    _UPDATE,
                    integers([box.number for box in changed]),
                    texts([box.account_id for box in changed]),
                    integers([box.position for box in changed]),
                    integers([box.last for box in changed]),
                    integers([box.unread for box in changed]),
                    integers([box.acked for box in changed]),
                    integers_or_null([box.oldest_ack for box in changed]),
                    integers([box.floor for box in changed]),
                    integers([box.epoch for box in changed]),
                    integers([box.sends for box in changed]),
                    integers([box.newest for box in changed]),
                    integers([box.copies for box in changed]),
                    integers([box.receipts for box in changed]),
                )
            )
            calls += self._removing(changed)
        if self.dropped:
            calls.append(Call(_DROP, texts(sorted(self.dropped))))
        for read in self._reads:
            pages, place = self.outcomes[read.index], read.place
            pages[place] = pages[place]._replace(seen=max(read.look.after, read.box.last))
        # Last, for their rows are the last results; and of what there is nothing to read, nothing.
        calls += self._reading([read for read in self._reads if read.look.after < read.box.last])
        return calls

    def _reading(self, reads: list["_Read"]) -> list[Call]:
        """Return what reads, mail alone in front of what wants other kinds too."""
        mail = [read for read in reads if read.look.kinds == MAIL_ALONE]
        kinds = [read for read in reads if read.look.kinds != MAIL_ALONE]
        self._reads, self._mail_reads = mail + kinds, len(mail)
        calls = []
        if mail:
            calls.append(
                Call(
                    _READ,
                    integers([read.box.number for read in mail]),
                    integers([max(read.look.after, read.box.floor) for read in mail]),
                    integers([min(read.look.limit, NO_SUCH_SEQ) + 1 for read in mail]),
                )
            )
        if kinds:
            calls.append(
                Call(
                    _READ_KINDS,
                    integers([read.box.number for read in kinds]),
                    integers([read.box.floor for read in kinds]),
                    integers([read.look.after for read in kinds]),
                    integers([min(read.look.limit, NO_SUCH_SEQ) + 1 for read in kinds]),
                    integers([bits(read.look.kinds) for read in kinds]),
                )
            )
        return calls

    def closed(self, results: list[Rows]) -> None:
        """Take what `closing` returned, once it is committed."""
        self._sends.written()
        if not self._reads:
            return
        mail = self._mail_reads
        found: list[list[Message | Receipt]] = [[] for _ in self._reads]
        if mail < len(self._reads):
            for number, *row in results[-1]:
                found[mail + number - 1].append(entry(row))
        if mail:
            for number, *row in results[-1 if mail == len(self._reads) else -2]:
                found[number - 1].append(message(*row))
        for read, entries in zip(self._reads, found, strict=True):
            look, before = read.look, self.outcomes[read.index][read.place]
            page = page_after(entries, look.limit, look.max_bytes, before.position, before.seen)
            self.outcomes[read.index][read.place] = page._replace(deliveries=before.deliveries)

    def _removing(self, changed: list[Mailbox]) -> list[Call]:
        piece = 1 if self._keep_none else max(1, min(_PIECE, self._policy.history_messages // 8))
        wanted = []
        for box in changed:
            low = box.low // piece
            if box.floor // piece > low:
                wanted.append((box.number, low * piece, box.floor))
        if not wanted:
            return []
        numbers, lows, highs = (integers(column) for column in zip(*wanted, strict=True))
        calls = [Call(_REMOVE, numbers, lows, highs)]
        if not self._keep_none:
            calls.append(Call(_REMOVE_ACKS, numbers, highs))
        return calls


@dataclass(frozen=True, slots=True)
class _Read:
    """A look that reads."""

    index: int
    place: int
    look: MailboxLook
    box: Mailbox


def _column(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
