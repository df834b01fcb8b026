"""What the send_ids stand for, and how many of them are remembered, whichever server adds them.

A mailbox's row counts the send_ids that it ever had. Until that reaches the least of the bounds,
nothing has to be counted. Beyond it the lane counts those of the mailbox once, and then adds its
own; what other servers add meanwhile it sees in the row, and takes for the same sender's, so it
may count anew too early, and never forgets too late.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from twinline.core.store import Accepted, Draft, MailboxPolicy
from twinline.stores.postgresql.arrays import blobs, integers, texts
from twinline.stores.postgresql.link import Call, Rows
from twinline.stores.postgresql.mailbox import Mailbox
from twinline.stores.sql.send_ids import AT_ONCE, First, fewest, first_accepted

COUNTED: Final = 10_000
"""Mailboxes whose send_ids are counted from one transaction to the next."""
Key = tuple[int, str, bytes]
"""A mailbox's number, a sender's account id, and its send_id in UTF-8."""

_INSERT: Final = """
    INSERT INTO send_ids (box, sender_id, send_id, content, message_id, sent_at, seq, n)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[], $4::bytea[], $5::text[],
        $6::bigint[], $7::bigint[], $8::bigint[])"""
# Those that stand for nothing any more may be there still. This costs half as much again.
_REPLACE: Final = f"""{_INSERT}
    ON CONFLICT (box, sender_id, send_id) DO UPDATE SET content = excluded.content,
        message_id = excluded.message_id, sent_at = excluded.sent_at, seq = excluded.seq,
        n = excluded.n"""
_COUNT: Final = """
    SELECT box, sender_id, count(*) FROM send_ids WHERE box = ANY($1::bigint[])
    GROUP BY box, sender_id"""
# How many are forgotten is counted by the statement itself: what is known here may be too high.
_FORGET: Final = """
    DELETE FROM send_ids WHERE box = $1::bigint AND sender_id = $2 AND seq IN (
        SELECT seq FROM send_ids WHERE box = $1::bigint AND sender_id = $2 ORDER BY seq
        LIMIT (SELECT CASE WHEN count(*) > $3::bigint THEN count(*) - $3::bigint + $4::bigint
            ELSE 0 END FROM send_ids WHERE box = $1::bigint AND sender_id = $2))"""
_FORGET_ANY: Final = """
    DELETE FROM send_ids WHERE box = $1::bigint AND seq IN (
        SELECT seq FROM send_ids WHERE box = $1::bigint ORDER BY seq
        LIMIT (SELECT CASE WHEN count(*) > $2::bigint THEN count(*) - $2::bigint + $3::bigint
            ELSE 0 END FROM send_ids WHERE box = $1::bigint))"""


class _New(NamedTuple):
    content: bytes
    message_id: str
    sent_at: int
    seq: int
    n: int


class SendIds:
    """What one lane adds to the table, and how many it knows to be in it."""

    def __init__(self, policy: MailboxPolicy) -> None:
        self._policy = policy
        self._keeps = policy.send_id_hours > 0
        self._fewest = fewest(policy)
        self._new: dict[Key, _New] = {}
        self._old: set[Key] = set()  # of the new ones, those that the table has already
        # By mailbox; only where a bound may be reached.
        self._counts: dict[int, _Count] = {}

    def roll_back(self) -> None:
        """Drop what was done in a transaction that was not committed."""
        self.written()
        self._counts.clear()

    def first(self, draft: Draft, content: bytes, known: First | None) -> Accepted | None:
        """Return what the first send got; see `first_accepted`."""
        return first_accepted(self._policy, draft, content, known)

    def keep(
        self, key: Key, draft: Draft, content: bytes, seq: int, n: int, *, stored: bool
    ) -> bool:
        """Have a send_id remembered, and return whether it is one more.

        Args:
            key: which one.
            draft: what it stands for from now on.
            content: the draft's fingerprint.
            seq: of its message.
            n: of its message.
            stored: whether the table may have it, standing for something that has expired. If it
                has not, nobody else can put it there: the mailbox is locked.
        """
        if not self._keeps:
            return False
        if stored:
            self._old.add(key)
        more = key not in self._new
        self._new[key] = _New(content, draft.message_id, draft.sent_at, seq, n)
        return more

    def uncounted(self, boxes: Mapping[int, Mailbox]) -> Call | None:
        """Return what counts those of the mailboxes where a bound may be reached."""
        wanted = {key[0] for key in self._new if boxes[key[0]].sends > self._fewest}
        wanted -= self._counts.keys()
        return Call(_COUNT, integers(sorted(wanted))) if wanted else None

    def count(self, rows: Rows, boxes: Mapping[int, Mailbox]) -> None:
        """Take the counts, of before what is added now."""
        if len(self._counts) > COUNTED:
            self._counts.clear()
        added = Counter(key[0] for key in self._new)
        for number in added.keys() - self._counts.keys():
            if boxes[number].sends > self._fewest:
                self._counts[number] = _Count(boxes[number].sends - added[number], Counter())
        for number, sender_id, count in rows:
            self._counts[number].by_sender[sender_id] = count

    def writing(self, boxes: Mapping[int, Mailbox]) -> list[Call]:
        """Return what writes those that are new, and forgets those beyond the bounds."""
        if not self._new:
            return []
        old = {key: self._new[key] for key in self._old}
        new = {key: each for key, each in self._new.items() if key not in old}
        calls = [_writing(sql, some) for sql, some in ((_INSERT, new), (_REPLACE, old)) if some]
        if self._counts:
            for (number, sender_id), added in Counter(key[:2] for key in self._new).items():
                calls += self._forgetting(boxes[number], sender_id, added)
            for number in {key[0] for key in self._new}:
                calls += self._forgetting_any(boxes[number])
        return calls

    def written(self) -> None:
        """Drop what was written: it is committed."""
        self._new.clear()
        self._old.clear()

    def _forgetting(self, box: Mailbox, sender_id: str, added: int) -> list[Call]:
        known = self._counts.get(box.number)
        if known is None:
            return []
        known.by_sender[sender_id] += added
        known.sends += added
        most = self._policy.send_ids_per_sender
        if known.by_sender[sender_id] + box.sends - known.sends <= most:
            return []
        known.outdated = True
        return [Call(_FORGET, box.number, sender_id, most, most // AT_ONCE)]

    def _forgetting_any(self, box: Mailbox) -> list[Call]:
        number = box.number
        known = self._counts.get(number)
        if known is None:
            return []
        most = self._policy.send_ids_per_mailbox
        full = known.by_sender.total() + box.sends - known.sends > most
        if full or known.outdated:
            del self._counts[number]  # it is counted anew when there is a reason to
        return [Call(_FORGET_ANY, number, most, most // AT_ONCE)] if full else []


def _writing(sql: str, some: Mapping[Key, _New]) -> Call:
    numbers, senders, send_ids = zip(*some, strict=True)
    contents, ids, times, seqs, ns = zip(*some.values(), strict=True)
    return Call(
        sql,
        integers(numbers),
        texts(senders),
        blobs(send_ids),
        blobs(contents),
        texts(ids),
        integers(times),
        integers(seqs),
        integers(ns),
    )


@dataclass(slots=True)
class _Count:
    """What a mailbox's row counted when its send_ids were counted, and how many each sender has."""

    sends: int
    by_sender: Counter[str]
    outdated: bool = False
