"""Looking through a mailbox piece by piece, and making again what its entries alone decide.

What a mailbox's messages, copies and receipts are found by, and what it counts of them, follows
from these. So where it does not agree with them, it is made again; an entry that cannot be read, or
that is there twice, goes, for nobody could ask for what is behind it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from twinline.core.protocol import Kind
from twinline.stores.valkey.entries import LETTERS, Header, from_header, members
from twinline.stores.valkey.examine_scripts import PIECES
from twinline.stores.valkey.keys import BOX
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.pending import script_call
from twinline.stores.valkey.session import Session
from twinline.stores.valkey.wire import to_bytes

_PAGE: Final = 500  # entries


def look_through(session: Session, account_id: str) -> set[int]:
    """Return the numbers of what is wrong with the entries of a mailbox, or with its index."""
    keys = tuple(session.keys.of(account_id, kind) for kind in BOX)
    found: set[int] = set()
    places = dict(PIECES)
    while places:
        calls = [
            script_call(session.examine.piece, keys, (to_bytes(kind), place), writes=False)
            for kind, place in places.items()
        ]
        for kind, (place, *numbers) in zip(list(places), session.ask_all(calls), strict=True):
            found.update(numbers)
            places[kind] = place
            if not place:
                del places[kind]
    return found


class Rebuild:
    """The index and the counts of a mailbox, made again from its entries."""

    def __init__(self, session: Session, account_id: str) -> None:
        self._session = session
        self._key = {kind: session.keys.of(account_id, kind) for kind in BOX}
        self._gone = 0

    def make(self) -> int:
        """Make them; nobody else may use the mailbox.

        Returns:
            How many entries went.
        """
        index, talks, box = (self._key[each] for each in "ycb")
        self._write(plain(box, b"HDEL", box, b"i", writes=True))
        self._write(plain(box, b"UNLINK", index, talks, writes=True))
        position, last, newest = (
            int(each or 0)
            for each in self._session.ask(plain(box, b"HMGET", box, b"p", b"l", b"w"))
        )
        counts, lasts = [0, 0], [position, last]
        for seq, head in self._entries(Kind.MAIL):
            counts[seq > position] += 1
            newest = max(newest, head.n)
            lasts.append(seq)
        fields = {b"k": counts[0], b"n": counts[1], b"w": newest, b"m": lasts[-1]}
        for kind, field in ((Kind.SENT, b"s"), (Kind.RECEIPT, b"d")):
            fields[field] = self._index(kind)
            lasts.append(fields[field])
        refused = self._key["f"]
        fields[b"f"] = self._session.ask(plain(refused, b"HLEN", refused))
        fields[b"l"] = max(lasts)
        flat = [each for field, to in fields.items() for each in (field, b"%d" % to)]
        self._write(plain(box, b"HSET", box, *flat, writes=True))
        return self._gone

    def _index(self, kind: Kind) -> int:
        """Put copies or receipts into the index, each once; return the seq of the last one."""
        index, talks = self._key["y"], self._key["c"]
        known: dict[bytes, tuple[int, Header]] = {}
        last = 0
        for seq, head in self._entries(kind):
            own = to_bytes(head.message_id) if kind is Kind.SENT else head.place
            if own in known and kind is Kind.SENT:
                self._remove(kind, seq)
                continue
            if own in known:
                self._remove(kind, known[own][0])
            known[own] = last, _ = seq, head
        for seq, head in known.values():
            found_by = [each for member in members(kind, seq, head) for each in (b"0", member)]
            self._write(plain(index, b"ZADD", index, *found_by, writes=True))
            if kind is Kind.SENT:
                self._write(plain(talks, b"ZADD", talks, b"%d" % seq, head.place, writes=True))
        return last

    def _entries(self, kind: Kind) -> Iterator[tuple[int, Header]]:
        """Yield what can be read; the rest goes."""
        key, place = self._key[LETTERS[kind].decode()], b"-"
        while True:
            read = plain(key, b"XRANGE", key, place, b"+", b"COUNT", b"%d" % _PAGE)
            page = self._session.ask(read)
            for entry_id, fields in page:
                seq, head = int(entry_id.partition(b"-")[0]), _header(kind, fields)
                if head is None:
                    self._remove(kind, seq)
                else:
                    yield seq, head
            if len(page) < _PAGE:
                return
            place = b"(" + page[-1][0]

    def _remove(self, kind: Kind, seq: int) -> None:
        key = self._key[LETTERS[kind].decode()]
        self._write(plain(key, b"XDEL", key, b"%d-0" % seq, writes=True))
        self._gone += 1

    def _write(self, call: Call) -> None:
        self._session.ask(call)


def _header(kind: Kind, fields: Sequence[Any]) -> Header | None:
    """Return what the fields of an entry say, or None."""
    try:
        name, kept, _, _ = fields
        head = from_header(kept)
    except ValueError:
        return None
    return head if name == b"h" and bool(head.sender) is (kind is Kind.SENT) else None
