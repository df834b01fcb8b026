"""Copies and receipts: what a transaction puts beside the mail, and what goes for it.

Both are bounded by the policy's history. What is too much goes with the next that comes, and so
does what has aged, a few at a time: the oldest are read behind the locks, in front of anything that
depends on them. They age in the order of their seqs: one that has aged behind one that has not, as
time was set back between them, waits for it, and is passed over by those who read.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from twinline.core.store import Accepted, Draft, MailboxPolicy, PeerReceipt
from twinline.stores.postgresql.arrays import blobs, integers, texts
from twinline.stores.postgresql.link import Call, Rows
from twinline.stores.postgresql.mailbox import Mailbox
from twinline.stores.rules import history_ends
from twinline.stores.sql.mailbox import most_kept

Note = TypeVar("Note")

_AGED_AT_ONCE: Final = 8  # more than one comes, so that they end

# How many are too much depends on how many there are, and how many come.
_OLDEST: Final = """
    SELECT box, seq, {time} FROM unnest($1::text[], $2::bigint[]) AS wanted (account_id, added)
    CROSS JOIN LATERAL (SELECT box, {table} AS there FROM mailboxes
        WHERE mailboxes.account_id = wanted.account_id OFFSET 0) AS mine
    CROSS JOIN LATERAL (SELECT seq, {time} FROM {table} WHERE {table}.box = mine.box ORDER BY seq
        LIMIT greatest($3::bigint, there + added - $4::bigint)) AS oldest
    ORDER BY box, seq"""
_OLDEST_COPIES: Final = _OLDEST.format(table="copies", time="sent_at")
_OLDEST_RECEIPTS: Final = _OLDEST.format(table="receipts", time="acked_at")
# What has the `n` is found in the index alone; only copies of before there was one share it.
_KNOWN_COPIES: Final = """
    SELECT wanted.box, wanted.message_id
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[])
        AS wanted (box, peer_id, n, message_id)
    CROSS JOIN LATERAL (SELECT FROM copies WHERE copies.box = wanted.box
        AND copies.peer_id = wanted.peer_id AND copies.n = wanted.n
        AND copies.message_id = wanted.message_id
        ORDER BY copies.seq DESC LIMIT 1) AS known"""
_KNOWN_RECEIPTS: Final = """
    SELECT mine.box, known.peer_id, seq, n
    FROM unnest($1::text[], $2::text[]) AS wanted (account_id, peer_id)
    CROSS JOIN LATERAL (SELECT box FROM mailboxes
        WHERE mailboxes.account_id = wanted.account_id OFFSET 0) AS mine
    CROSS JOIN LATERAL (SELECT peer_id, seq, n FROM receipts
        WHERE receipts.box = mine.box AND receipts.peer_id = wanted.peer_id OFFSET 0) AS known"""
_INSERT_COPIES: Final = """
    INSERT INTO copies (box, seq, message_id, sender, peer_id, peer, body, sent_at, n)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[],
        $6::text[], $7::bytea[], $8::bigint[], $9::bigint[])"""
_INSERT_RECEIPTS: Final = """
    INSERT INTO receipts (box, seq, peer_id, peer, n, acked_at)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::bigint[],
        $6::bigint[])"""
_DELETE: Final = """
    DELETE FROM {table} WHERE ctid = ANY(ARRAY(
        SELECT found.place FROM unnest($1::bigint[], $2::bigint[]) AS wanted (box, seq)
        CROSS JOIN LATERAL (SELECT ctid AS place FROM {table}
            WHERE {table}.box = wanted.box AND {table}.seq = wanted.seq OFFSET 0) AS found))
    RETURNING box, seq"""
DELETE_COPIES: Final = _DELETE.format(table="copies")
DELETE_RECEIPTS: Final = _DELETE.format(table="receipts")


class Copy(NamedTuple):
    """A copy that comes, but for its mailbox and its seq."""

    message_id: str
    sender: str
    peer_id: str
    peer: str
    body: bytes
    sent_at: int
    n: int


def copy_of(draft: Draft, account_id: str, accepted: Accepted) -> Copy:
    """Return the copy of a message that was put into a mailbox, or was there already."""
    return Copy(
        accepted.message_id,
        draft.sender,
        account_id,
        draft.copy_to or "",
        draft.body.encode(errors="surrogatepass"),
        accepted.sent_at,
        accepted.n,
    )


class _Pile(Generic[Note]):
    """The copies, or the receipts, that come and go; all by mailbox and seq.

    Attributes:
        oldest: the oldest that a mailbox has, seqs and times.
        coming: what comes, the oldest first.
        gone: what goes.
    """

    def __init__(self) -> None:
        self.oldest: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self.coming: dict[tuple[int, int], Note] = {}
        self.gone: dict[tuple[int, int], None] = {}

    def know(self, rows: Rows) -> None:
        """Take the oldest."""
        for number, seq, at in rows:
            self.oldest[number].append((seq, at))

    def deleted(self, rows: Rows) -> None:
        """Forget some of them."""
        for number in {number for number, _ in rows}:
            self.oldest[number] = [
                each for each in self.oldest[number] if (number, each[0]) not in rows
            ]

    def shorten(self, number: int, surplus: int, ends: int) -> int:
        """Have the oldest go.

        Args:
            number: the mailbox.
            surplus: so many at least.
            ends: and those of this moment or before, up to the first that is not.

        Returns:
            How many go.
        """
        before = len(self.gone)
        for seq, at in self.oldest[number]:
            if len(self.gone) - before >= surplus and at > ends:
                break
            self.gone[number, seq] = None
        more = surplus - (len(self.gone) - before)
        mine = [place for place in self.coming if place[0] == number] if more > 0 else []
        for place in mine[:more]:
            del self.coming[place]
        return len(self.gone) - before + len(mine[:more])


class Notes:
    """The copies and receipts of one transaction."""

    def __init__(self, policy: MailboxPolicy) -> None:
        self._policy = policy
        self._most = most_kept(policy)
        self._takes: list[Callable[[Rows], None]] = []  # what takes each result of `opening`
        self._copies: _Pile[Copy] = _Pile()
        self._receipts: _Pile[PeerReceipt] = _Pile()
        self._nows: dict[int, int] = {}  # when something came into which mailbox
        # What a mailbox has by now of what comes: message ids of copies; and of receipts, by the
        # peer, the seq and `n`.
        self._known_copies: set[tuple[int, str]] = set()
        self._known_receipts: dict[tuple[int, str], tuple[int, int]] = {}

    # --- what is read behind the locks

    def opening(
        self, copied: Sequence[str], told: Sequence[tuple[str, PeerReceipt]]
    ) -> Iterator[Call]:
        """Yield what reads what is there.

        Args:
            copied: the account ids of those who send with a copy, once for each.
            told: the receipts that come, each with the account id of whom they tell.
        """
        if copied:
            self._takes.append(self._copies.know)
            yield self._oldest(_OLDEST_COPIES, copied)
        if told:
            accounts = [account_id for account_id, _ in told]
            peers = [receipt.account_id for _, receipt in told]
            self._takes += [self._receipts.know, self._know_receipts]
            yield self._oldest(_OLDEST_RECEIPTS, accounts)
            yield Call(_KNOWN_RECEIPTS, texts(accounts), texts(peers))

    def opened(self, results: Iterable[Rows]) -> None:
        """Take what `opening` asked for."""
        for take, rows in zip(self._takes, results, strict=True):
            take(rows)

    def _oldest(self, sql: str, accounts: Sequence[str]) -> Call:
        added = Counter(accounts)
        columns = texts(list(added)), integers(list(added.values()))
        return Call(sql, *columns, _AGED_AT_ONCE, self._most)

    def _know_receipts(self, rows: Rows) -> None:
        for number, peer_id, seq, n in rows:
            self._known_receipts[number, peer_id] = seq, n

    def deleted(self, copies: Rows, receipts: Rows) -> None:
        """Forget what the transaction has deleted since: mailboxes and seqs."""
        self._copies.deleted(copies)
        self._receipts.deleted(receipts)
        if receipts:
            gone = set(receipts)
            known = self._known_receipts.items()
            self._known_receipts = {
                key: (seq, n) for key, (seq, n) in known if (key[0], seq) not in gone
            }

    # --- what comes

    def asking(self, repeats: Iterable[tuple[int, str, int, str]]) -> Call:
        """Return what reads which messages have their copies; `know_copies` takes what it finds.

        Args:
            repeats: the sender's mailbox of each, the recipient's account id, its ``n`` and its id.
        """
        numbers, peer_ids, ns, message_ids = zip(*repeats, strict=True)
        columns = integers(numbers), texts(peer_ids), integers(ns), texts(message_ids)
        return Call(_KNOWN_COPIES, *columns)

    def know_copies(self, rows: Rows) -> None:
        """Take mailboxes, and the ids of messages whose copies they have."""
        self._known_copies.update((number, message_id) for number, message_id in rows)

    def copy(self, box: Mailbox, copy: Copy, now: int) -> bool:
        """Put a copy into its sender's mailbox, and return whether it was missing there."""
        key = box.number, copy.message_id
        if key in self._known_copies:
            return False
        self._note_time(box, now)
        if not self._most:
            return False
        self._known_copies.add(key)
        self._copies.coming[box.number, box.next_seq()] = copy
        box.copies += 1
        return True

    def receipt(self, box: Mailbox, receipt: PeerReceipt) -> bool:
        """Put a receipt into a mailbox that takes it, and return whether it says more."""
        key = box.number, receipt.account_id
        before = self._known_receipts.get(key)
        if before is not None and receipt.n <= before[1]:
            return False
        self._note_time(box, receipt.acked_at)
        if not self._most:
            return False
        if before is not None:
            place = box.number, before[0]
            if self._receipts.coming.pop(place, None) is None:
                self._receipts.gone[place] = None
            box.receipts -= 1
        seq = box.next_seq()
        self._known_receipts[key] = seq, receipt.n
        self._receipts.coming[box.number, seq] = receipt
        box.receipts += 1
        return True

    def _note_time(self, box: Mailbox, now: int) -> None:
        self._nows[box.number] = max(now, self._nows.get(box.number, now))

    # --- what goes for it, and what is written

    def settle(self, boxes: Mapping[int, Mailbox]) -> None:
        """See what is too much, or has aged, where something came."""
        for number, now in self._nows.items():
            box, ends = boxes[number], history_ends(self._policy, now)
            copies = self._copies.shorten(number, box.copies - self._most, ends)
            receipts = self._receipts.shorten(number, box.receipts - self._most, ends)
            box.copies -= copies
            box.receipts -= receipts
            box.changed = True

    def writing(self) -> Iterator[Call]:
        """Yield what writes all of it."""
        for sql, old in (
            (DELETE_COPIES, self._copies.gone),
            (DELETE_RECEIPTS, self._receipts.gone),
        ):
            if old:
                numbers, seqs = zip(*old, strict=True)
                yield Call(sql, integers(numbers), integers(seqs))
        if copies := self._copies.coming:
            numbers, seqs = zip(*copies, strict=True)
            ids, senders, peer_ids, peers, bodies, times, ns = zip(*copies.values(), strict=True)
            yield Call(
                _INSERT_COPIES,
                integers(numbers),
                integers(seqs),
                texts(ids),
                texts(senders),
                texts(peer_ids),
                texts(peers),
                blobs(bodies),
                integers(times),
                integers(ns),
            )
        if receipts := self._receipts.coming:
            numbers, seqs = zip(*receipts, strict=True)
            peer_ids, peers, ns, times = zip(*receipts.values(), strict=True)
            yield Call(
                _INSERT_RECEIPTS,
                integers(numbers),
                integers(seqs),
                texts(peer_ids),
                texts(peers),
                integers(ns),
                integers(times),
            )
