"""A Valkey or Redis store's keys as an archive: read, or filled, while no server uses it.

A target says in ``{meta}:store`` that it is unfinished until it is whole, and no server begins to
use it. The hash of a mailbox is written last, as one step, so that a mailbox that is there is
whole. It is given the epoch that its last seq lies in, and the id of no engine: so its seqs jump
before the next one is given out.
"""

# ruff: noqa: D102 - the contract tells what the methods do

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from twinline.core.errors import StoreUnavailable
from twinline.core.passwords import profile_of
from twinline.core.protocol import Kind
from twinline.core.store import SEQ_JUMP, Account, Blocked, Invitation
from twinline.stores.archive import (
    AccountRow,
    AckRow,
    CopyRow,
    MailboxRow,
    MessageRow,
    ReceiptRow,
    SendIdRow,
)
from twinline.stores.shared.paged import FIRST, Beginnings, PagedArchive
from twinline.stores.upkeep import UpkeepError
from twinline.stores.valkey.accounts import account_of, ask_account, fields_of
from twinline.stores.valkey.entries import (
    COUNT,
    LETTERS,
    Header,
    from_header,
    members,
    result,
    send_id_field,
    send_id_row,
    sender_field,
)
from twinline.stores.valkey.invitations import Invitations, kept
from twinline.stores.valkey.keys import BOX, FORMAT, PENDING
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.session import Session
from twinline.stores.valkey.url import Target
from twinline.stores.valkey.wire import to_bytes, to_text

_BUCKETS: Final = 16  # whose names are asked for at once
_PAGE: Final = 256
_AT_ONCE: Final = 500  # calls in one pipeline
_SYNC_MS: Final = 3_000


class ValkeyArchive(PagedArchive):
    """The keys of a store that this command has to itself."""

    def __init__(self, session: Session, filled_from: str) -> None:
        """Take over a session that is alone.

        Args:
            session: the session.
            filled_from: see `Archive`.
        """
        self.name = session.name
        self.filled_from = filled_from
        self._session = session
        self._keys = session.keys
        self._reserved: tuple[bytes, list[bytes]] = (b"", [])  # a bucket, and its reserved names
        self._invitations = Invitations(session.engine, self._keys, session.accounts, 0.0)
        self._invited: list[Invitation] | None = None  # until they are asked for
        self._withdrawn: set[bytes] = set()  # names of accounts whose deletion reserves them
        self._place = ("", 0, 0)  # of which mailbox acks were read, up to which, and where it is
        # Of the mailbox that is not whole; what is still to be asked goes with its end.
        self._waiting: list[Call] = []
        self._seqs: list[int] = []
        self._last_of = dict.fromkeys(Kind, 0)  # seqs
        self._blocked = 0  # how many
        self._oldest_ack = b""
        self._senders: Counter[bytes] = Counter()  # how many send_ids they have, by their field

    @classmethod
    def open_source(cls, target: Target) -> Self:
        """Open the store to be read.

        Raises:
            UpkeepError: servers use it, or it cannot be read.
            StoreNotOpened: it is no store of this format.
        """
        session = Session(target)
        try:
            filled_from = session.require_store()
            session.take_alone()
            archive = cls(session, filled_from)
            archive._find_withdrawn()
        except BaseException:
            session.close()
            raise
        return archive

    @classmethod
    def open_target(cls, target: Target) -> Self:
        """Open the store that is to be one, or go on with one that is unfinished.

        Raises:
            UpkeepError: servers use it, or it cannot be written.
            StoreNotOpened: it is of another format.
        """
        session = Session(target)
        try:
            filled_from = session.require_store() if session.is_there else ""
            session.take_alone()
            return cls(session, filled_from)
        except BaseException:
            session.close()
            raise

    # -- reading

    def accounts(self, after: str, limit: int) -> Sequence[AccountRow]:
        while names := self._names_in_use(after, limit):
            rows = self._accounts_of(names)
            if rows:
                return rows
            after = to_text(names[-1])  # deletions that are not finished, all of them
        return ()

    def _names_in_use(self, after: str, limit: int) -> list[bytes]:
        buckets = self._session.buckets(self._keys.bucket_of(after))
        found: list[bytes] = []
        for start in range(0, len(buckets), _BUCKETS):
            sets = [self._keys.names(each, "z") for each in buckets[start : start + _BUCKETS]]
            begin, count = b"(" + to_bytes(after), b"%d" % limit
            for names in self._session.ask_all(
                [
                    plain(key, b"ZRANGEBYLEX", key, begin, b"+", b"LIMIT", b"0", count)
                    for key in sets
                ]
            ):
                found += names
            if len(found) >= limit:
                break
        return found[:limit]

    def _accounts_of(self, names: Sequence[bytes]) -> list[AccountRow]:
        ids = self._session.ask_all([self._owner(name) for name in names])
        known = [(to_text(name), to_text(own)) for name, own in zip(names, ids, strict=True) if own]
        calls: list[Call] = []
        for _, account_id in known:
            record, addresses = (self._keys.of(account_id, kind) for kind in "pd")
            calls.append(plain(record, *ask_account(record)))
            calls.append(plain(addresses, b"HGETALL", addresses))
        answers = iter(self._session.ask_all(calls))
        rows = []
        for username, account_id in known:
            found, flat = next(answers), next(answers)
            account = account_of(account_id, username, found)
            if account is None:
                continue
            noted = zip(flat[::2], flat[1::2], strict=True)
            rows.append(
                AccountRow(account, tuple(sorted((to_text(each), int(at)) for each, at in noted)))
            )
        return rows

    def _owner(self, name: bytes) -> Call:
        key = self._keys.names(self._keys.bucket_of(to_text(name)), "n")
        return plain(key, b"HGET", key, name)

    def reserved_names(self, after: str, limit: int) -> Sequence[str]:
        place = to_bytes(after)
        found: list[bytes] = []
        for bucket in self._session.buckets(self._keys.bucket_of(after)):
            found += [name for name in self._reserved_in(bucket) if name > place]
            if len(found) >= limit:
                break
        return [to_text(name) for name in found[:limit]]

    def _reserved_in(self, bucket: bytes) -> list[bytes]:
        if self._reserved[0] != bucket:
            names = {
                name
                for page in self._session.names_in(bucket)
                for name, own in page
                if not own or name in self._withdrawn
            }
            self._reserved = bucket, sorted(names)
        return self._reserved[1]

    def _find_withdrawn(self) -> None:
        """See which deletions are not finished, and whose names they reserve."""
        for number in range(PENDING):
            key = self._keys.pending_part(number)
            ids = self._session.ask(plain(key, b"ZRANGE", key, b"0", b"-1"))
            records = [self._keys.of(to_text(each), "p") for each in ids]
            for name, gone in self._session.ask_all(
                [plain(record, b"HMGET", record, b"u", b"g") for record in records]
            ):
                if gone == b"1":
                    self._withdrawn.add(name)

    def invitations(self, after: bytes, limit: int) -> Sequence[Invitation]:
        if self._invited is None:
            with self._session.named():
                found = self._invitations.unspent()
            self._invited = sorted(found, key=lambda each: each.token_hash)
        return [each for each in self._invited if each.token_hash > after][:limit]

    def _beginnings(self, account_id: str) -> Beginnings | None:
        box, acks, blocked = (self._keys.of(account_id, kind) for kind in "baf")
        streams = [self._keys.of(account_id, kind) for kind in "mtsr"]
        first = b"%d" % FIRST
        found, refused, passed, *rows = self._session.ask_all(
            [
                plain(box, b"HMGET", box, b"p", b"l", b"q", b"w", b"g"),
                plain(blocked, b"HGETALL", blocked),
                plain(acks, b"LRANGE", acks, b"0", b"%d" % (FIRST - 1)),
                *(plain(key, b"XRANGE", key, b"-", b"+", b"COUNT", first) for key in streams),
            ]
        )
        position, last, quota, newest, gives = found
        if position is None:
            return None
        return Beginnings(
            MailboxRow(
                account_id,
                int(position),
                int(last),
                quota and int(quota),
                int(newest),
                receipts=gives != b"0",
            ),
            _messages(rows[0]),
            _acks(passed),
            self._standing_for(account_id, rows[1]),
            _copies(rows[2]),
            _receipts(rows[3]),
            _blocked(refused),
        )

    def _messages(self, account_id: str, after: int, limit: int) -> Sequence[MessageRow]:
        return _messages(self._range(account_id, "m", after, limit))

    def _copies(self, account_id: str, after: int, limit: int) -> Sequence[CopyRow]:
        return _copies(self._range(account_id, "s", after, limit))

    def _receipts(self, account_id: str, after: int, limit: int) -> Sequence[ReceiptRow]:
        return _receipts(self._range(account_id, "r", after, limit))

    def _send_ids(self, account_id: str, after: int, limit: int) -> Sequence[SendIdRow]:
        return self._standing_for(account_id, self._range(account_id, "t", after, limit))

    def _standing_for(self, account_id: str, entries: Sequence[Any]) -> list[SendIdRow]:
        """Return what send_ids stand for that the stream of them has."""
        if not entries:
            return []
        key, fields = self._keys.of(account_id, "u"), [field for _, (_, field) in entries]
        values = self._session.ask(plain(key, b"HMGET", key, *fields))
        # All of them are gone at once, when their time has come.
        return [
            send_id_row(_seq(place), field, kept)
            for (place, _), field, kept in zip(entries, fields, values, strict=True)
            if kept is not None
        ]

    def _range(self, account_id: str, kind: str, after: int, limit: int) -> list[Any]:
        key = self._keys.of(account_id, kind)
        begin, count = b"(%d-0" % after, b"%d" % limit
        found: list[Any] = self._session.ask(
            plain(key, b"XRANGE", key, begin, b"+", b"COUNT", count)
        )
        return found

    def _acks(self, account_id: str, after: int, limit: int) -> Sequence[AckRow]:
        """Return acks from a list, which is read from where the last page of them ended."""
        key = self._keys.of(account_id, "a")
        index = self._place[2] if self._place[:2] == (account_id, after) else 0
        found: list[AckRow] = []
        while len(found) < limit:
            until = b"%d" % (index + _PAGE - 1)
            page = _acks(self._session.ask(plain(key, b"LRANGE", key, b"%d" % index, until)))
            for row in page:
                if len(found) == limit:
                    break
                index += 1
                if row.position > after:
                    found.append(row)
            if len(page) < _PAGE:
                break
        if found:
            self._place = account_id, found[-1].position, index
        return found

    # -- writing

    def begin(self, source: str) -> None:
        if self.filled_from:
            return
        for keys in self._session.scan():
            if any(kind == "b" for _, kind in keys):
                raise UpkeepError(f"{self.name} has mailboxes already; nothing in it was changed")
        self._describe(b"HSET", b"format", b"%d" % FORMAT, b"filled_from", to_bytes(source))
        self.filled_from = source

    def _describe(self, command: bytes, *arguments: bytes) -> None:
        store = self._keys.store
        self._session.ask(plain(store, command, store, *arguments, writes=True))

    def put_accounts(self, rows: Sequence[AccountRow]) -> None:
        owners = self._session.ask_all(
            [self._owner(to_bytes(row.account.username)) for row in rows]
        )
        records = [self._keys.of(row.account.account_id, "p") for row in rows]
        names = self._session.ask_all([plain(key, b"HGET", key, b"u") for key in records])
        calls: list[Call] = []
        for (account, addresses), owner, name in zip(rows, owners, names, strict=True):
            if owner and to_text(owner) != account.account_id:
                calls += self._removing(to_text(owner))
            if name is not None and to_text(name) != account.username:
                calls += self._freeing(name)
            calls += self._keeping(account, addresses)
        self._session.ask_all(calls)

    def _removing(self, account_id: str) -> Iterator[Call]:
        """Yield what removes an account and its mailbox, but not its name."""
        for kind in f"pkd{BOX}":
            key = self._keys.of(account_id, kind)
            yield plain(key, b"UNLINK", key, writes=True)

    def _freeing(self, name: bytes) -> Iterator[Call]:
        bucket = self._keys.bucket_of(to_text(name))
        for kind, command in (("n", b"HDEL"), ("z", b"ZREM")):
            key = self._keys.names(bucket, kind)
            yield plain(key, command, key, name, writes=True)

    def _keeping(self, account: Account, addresses: Sequence[tuple[str, int]]) -> Iterator[Call]:
        record, noted = (self._keys.of(account.account_id, kind) for kind in "pd")
        name = to_bytes(account.username)
        yield plain(record, b"UNLINK", record, writes=True)
        yield plain(record, b"HSET", record, *fields_of(account), writes=True)
        yield plain(noted, b"UNLINK", noted, writes=True)
        for address, at in addresses:
            yield plain(noted, b"HSET", noted, to_bytes(address), b"%d" % at, writes=True)
        yield from self._naming(name, to_bytes(account.account_id))
        key = self._keys.names(self._keys.bucket_of(account.username), "z")
        yield plain(key, b"ZADD", key, b"0", name, writes=True)

    def _naming(self, name: bytes, owner: bytes) -> Iterator[Call]:
        bucket, buckets = self._keys.bucket_of(to_text(name)), self._keys.buckets
        key = self._keys.names(bucket, "n")
        yield plain(buckets, b"ZADD", buckets, b"0", bucket, writes=True)
        yield plain(key, b"HSET", key, name, owner, writes=True)

    def put_reserved_names(self, names: Sequence[str]) -> None:
        self._reserved = b"", []
        self._session.ask_all(
            [each for name in names for each in self._naming(to_bytes(name), b"")]
        )

    def put_invitations(self, rows: Sequence[Invitation]) -> None:
        self._invited = None
        key = self._keys.invitations
        flat = [each for row in rows for each in (row.token_hash, kept(row))]
        self._session.ask(plain(key, b"HSET", key, *flat, writes=True))

    def begin_mailbox(self, account_id: str) -> None:
        self._read = None
        self._seqs, self._oldest_ack = [], b""
        self._last_of, self._blocked = dict.fromkeys(Kind, 0), 0
        self._senders.clear()
        keys = self._keys.all_of_box(account_id)
        self._waiting = [plain(keys[0], b"UNLINK", *keys, writes=True)]

    def _put(self, calls: Sequence[Call]) -> None:
        """Leave calls for the end of the mailbox, where there are not too many already."""
        self._waiting += calls
        if len(self._waiting) > _AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        calls, self._waiting = self._waiting, []
        self._session.ask_all(calls)

    def put_messages(self, account_id: str, rows: Sequence[MessageRow]) -> None:
        self._seqs += [row.seq for row in rows]
        self._put_entries(
            account_id,
            Kind.MAIL,
            [
                (
                    row.seq,
                    Header(row.sender_id, row.sender, row.sent_at, row.message_id, row.n),
                    row.body,
                )
                for row in rows
            ],
        )

    def put_copies(self, account_id: str, rows: Sequence[CopyRow]) -> None:
        self._put_entries(
            account_id,
            Kind.SENT,
            [
                (
                    row.seq,
                    Header(row.peer_id, row.peer, row.sent_at, row.message_id, row.n, row.sender),
                    row.body,
                )
                for row in rows
            ],
        )

    def put_receipts(self, account_id: str, rows: Sequence[ReceiptRow]) -> None:
        self._put_entries(
            account_id,
            Kind.RECEIPT,
            [(row.seq, Header(row.peer_id, row.peer, row.acked_at, "", row.n), "") for row in rows],
        )

    def _put_entries(
        self, account_id: str, kind: Kind, rows: Sequence[tuple[int, Header, str]]
    ) -> None:
        key, index, talks = (
            self._keys.of(account_id, each) for each in (LETTERS[kind].decode(), "y", "c")
        )
        calls = []
        for seq, head, body in rows:
            entry = b"%d-0" % seq, b"h", head.kept, b"b", to_bytes(body)
            calls.append(plain(key, b"XADD", key, *entry, writes=True))
            if kind is not Kind.MAIL:  # that comes into the index when it is looked for
                found_by = [each for member in members(kind, seq, head) for each in (b"0", member)]
                calls.append(plain(index, b"ZADD", index, *found_by, writes=True))
            if kind is Kind.SENT:
                calls.append(plain(talks, b"ZADD", talks, b"%d" % seq, head.place, writes=True))
        self._last_of[kind] = rows[-1][0]
        self._put(calls)

    def put_blocked(self, account_id: str, rows: Sequence[Blocked]) -> None:
        if rows:
            key = self._keys.of(account_id, "f")
            flat = [to_bytes(each) for row in rows for each in row]
            self._put([plain(key, b"HSET", key, *flat, writes=True)])
        self._blocked = len(rows)

    def put_acks(self, account_id: str, rows: Sequence[AckRow]) -> None:
        key = self._keys.of(account_id, "a")
        self._oldest_ack = self._oldest_ack or b"%d" % rows[0].acked_at
        kept = [b"%d:%d" % row for row in rows]
        self._put([plain(key, b"RPUSH", key, *kept, writes=True)])

    def put_send_ids(self, account_id: str, rows: Sequence[SendIdRow]) -> None:
        key, order = (self._keys.of(account_id, kind) for kind in "ut")
        calls = []
        for row in rows:
            field = send_id_field(row.sender_id, row.send_id)
            sent_at, message_id = b"%d" % row.sent_at, to_bytes(row.message_id)
            kept = b"%d:%b" % (row.n, result(sent_at, message_id, row.content))
            calls += [
                plain(key, b"HSET", key, field, kept, writes=True),
                plain(order, b"XADD", order, b"%d-0" % row.seq, b"k", field, writes=True),
            ]
        self._senders.update(sender_field(row.sender_id) for row in rows)
        self._put(calls)

    def _count_send_ids(self, account_id: str) -> None:
        if not self._senders:
            return
        # The next send gives them the time after which they are forgotten.
        key = self._keys.of(account_id, "u")
        self._senders[COUNT] = self._senders.total()
        self._put(
            [
                plain(key, b"HSET", key, field, b"%d" % count, writes=True)
                for field, count in self._senders.items()
            ]
        )

    def end_mailbox(self, row: MailboxRow) -> None:
        key = self._keys.of(row.account_id, "b")
        acked = bisect_right(self._seqs, row.position)
        fields = {
            b"p": b"%d" % row.position,
            b"l": b"%d" % row.last,
            b"n": b"%d" % (len(self._seqs) - acked),
            b"k": b"%d" % acked,
            b"o": self._oldest_ack,
            b"w": b"%d" % row.newest,
            b"f": b"%d" % self._blocked,
            b"s": b"%d" % self._last_of[Kind.SENT],
            b"d": b"%d" % self._last_of[Kind.RECEIPT],
            b"m": b"%d" % self._last_of[Kind.MAIL],
            b"r": b"",
            b"e": b"%d" % (row.last // SEQ_JUMP),
        }
        if row.quota is not None:
            fields[b"q"] = b"%d" % row.quota
        if not row.receipts:
            fields[b"g"] = b"0"
        flat = [each for pair in fields.items() for each in pair]
        self._count_send_ids(row.account_id)
        if len(self._waiting) > 1:
            self._flush()  # so that it is whole only if all of them were done
        self._waiting.append(plain(key, b"HSET", key, *flat, writes=True))
        self._flush()

    def end(self) -> None:
        profiles = count_profiles(self)
        key = self._keys.profiles
        calls = [plain(key, b"UNLINK", key, writes=True)]
        for profile, count in profiles.items():
            counted = to_bytes(profile), b"%d" % count
            calls.append(plain(key, b"HSET", key, *counted, writes=True))
        self._session.ask_all(calls)
        if profiles:
            self._describe(b"HSET", b"accounts", b"1")
        self._sync()
        self._session.require_alone()
        self._describe(b"HDEL", b"filled_from")
        self.filled_from = ""

    def _sync(self) -> None:
        """Have all of it on the engine's disk, if that has a log; an old one cannot be asked."""
        wait = plain(b"", b"WAITAOF", b"1", b"0", b"%d" % _SYNC_MS)
        for peer in self._session.engine.peers():
            with suppress(StoreUnavailable):
                self._session.engine.ask_peer(peer, [wait], 2 * _SYNC_MS / 1000)

    def close(self) -> None:
        self._session.close()


def count_profiles(archive: ValkeyArchive) -> Counter[str]:
    """Return how many accounts have hashes of each profile."""
    profiles: Counter[str] = Counter()
    after = ""
    while rows := archive.accounts(after, _PAGE):
        profiles.update(profile_of(row.account.password_hash) for row in rows)
        after = rows[-1].account.username
    return profiles


def _messages(entries: Sequence[Any]) -> list[MessageRow]:
    return [
        MessageRow(seq, head.message_id, head.peer, body, head.at, head.peer_id, head.n)
        for seq, head, body in _entries(entries)
    ]


def _copies(entries: Sequence[Any]) -> list[CopyRow]:
    return [
        CopyRow(
            *(seq, head.message_id, head.sender, head.peer_id, head.peer),
            *(body, head.at, head.n),
        )
        for seq, head, body in _entries(entries)
    ]


def _receipts(entries: Sequence[Any]) -> list[ReceiptRow]:
    return [
        ReceiptRow(seq, head.peer_id, head.peer, head.n, head.at)
        for seq, head, _ in _entries(entries)
    ]


def _entries(entries: Sequence[Any]) -> Iterator[tuple[int, Header, str]]:
    for place, (_, head, _, body) in entries:
        yield _seq(place), from_header(head), to_text(body)


def _blocked(flat: Sequence[bytes]) -> list[Blocked]:
    texts = [to_text(each) for each in flat]
    return sorted([Blocked(*each) for each in zip(texts[::2], texts[1::2], strict=True)])


def _acks(kept: Sequence[bytes]) -> list[AckRow]:
    return [AckRow(*map(int, each.split(b":"))) for each in kept]


def _seq(place: bytes) -> int:
    return int(place.partition(b"-")[0])
