"""The names of everything that the store keeps in an engine.

What belongs together has one hash tag, the part in braces, so that a cluster keeps it in one place
and a script can change it as one step. ``ID`` is an account's id::

    {ID}:b      hash     a mailbox: its position, seqs and counts
    {ID}:m      stream   its messages; the id of an entry is SEQ-0
    {ID}:a      list     acks that still count for the history: POSITION:TIME
    {ID}:u      hash     send_ids and what each stands for, and how many there are of each sender
                         (`twinline.stores.valkey.box_scripts`)
    {ID}:t      stream   these send_ids, by seq
    {ID}:s      stream   copies of what the account has sent
    {ID}:r      stream   receipts for that
    {ID}:y      zset     messages, copies and receipts by whom they are from or to
    {ID}:c      zset     whom it has messages of or copies to, by the seq of the last of these
    {ID}:f      hash     whose mail it refuses: their names, by account id
    {ID}:p      hash     the account
    {ID}:k      hash     its sessions, by token hash
    {ID}:d      hash     the addresses that it was logged in from
    {ID}:w      channel  mail has come, up to this seq; or a copy, sSEQ; or a receipt, rSEQ; or
                         nothing: the mailbox is gone
    {ID}:e      channel  sessions have ended

    {d:XY}:n    hash     the names that begin with XY: the account's id, or nothing if reserved
    {d:XY}:z    zset     those of them that are in use, by code point
    {d}:x       zset     every XY

    {q:N}:q     zset     accounts that are made or deleted just now, with since when
    {meta}:store   hash  what this store is: its format and policy, and, as ``filled_from``, which
                         store it is the unfinished copy of
    {meta}:nodes   zset  the servers that use it, with when they were last heard of
    {meta}:held    string  a command has it to itself; it ends by itself
    {meta}:h       hash  how many accounts there are of each profile of a password hash
    {meta}:i       hash  invitations that are not spent, by token hash: CREATED:EXPIRES:NOTE
    {meta}:c       hash  those of them that are claimed: SINCE:ID, by token hash
    l:KEY       string   a state that limits are counted in
"""

from functools import lru_cache
from typing import Final, NamedTuple
from zlib import crc32

from twinline.stores.valkey.wire import packed, to_bytes, to_text

_CACHED: Final = 10_000  # mailboxes whose keys are not made anew for every call
BOX: Final = "bmautycsrf"
"""The kinds of a mailbox's keys, in the order in which its scripts have them."""
_OWN: Final = f"{BOX}pkd".encode()  # the kinds of an account's keys
FORMAT: Final = 4
"""The version of how everything is kept."""
ALIVE_MS: Final = 10_000
"""A server that was not heard of for so long does not use the store."""
PENDING: Final = 16
"""How many parts the accounts that are made or deleted just now are kept in."""


def format_text(name: str, found: int) -> str:
    """Return what is said of a store of another format than this program's."""
    if found > FORMAT:
        return (
            f"{name} has format {found}, and this program knows formats up to {FORMAT}; use the "
            "program that wrote it, or a later one"
        )
    return (
        f"{name} has format {found}, which this program does not read; copy it to a file with "
        "'twinline store copy' of the program that wrote it, and the file to an empty store with "
        "that of this one"
    )


class Keys:
    """The names, behind a prefix."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self.store = self._prefix + b"{meta}:store"
        self.nodes = self._prefix + b"{meta}:nodes"
        self.held = self._prefix + b"{meta}:held"
        self.profiles = self._prefix + b"{meta}:h"
        self.invitations = self._prefix + b"{meta}:i"
        self.claims = self._prefix + b"{meta}:c"
        self.buckets = self._prefix + b"{d}:x"
        self.box = lru_cache(maxsize=_CACHED)(self._box)

    def of(self, account_id: str, kind: str) -> bytes:
        """Return a key of an account or its mailbox."""
        return b"%b{%b}:%b" % (self._prefix, to_bytes(account_id), kind.encode())

    def all_of_box(self, account_id: str) -> tuple[bytes, ...]:
        """Return the keys of a mailbox, in the order in which its scripts have them."""
        return tuple([self.of(account_id, kind) for kind in BOX])

    @property
    def pattern(self) -> bytes:
        """What every key matches that belongs to an account, or to names."""
        return self._prefix + b"{*"

    @property
    def boxes(self) -> bytes:
        """What the hash of every mailbox matches."""
        return self._prefix + b"{*}:b"

    def account_of(self, key: bytes) -> tuple[str, str] | None:
        """Return whose key this is, and of which kind; None if it is no account's."""
        tagged, _, kind = key.removeprefix(self._prefix).rpartition(b":")
        if len(kind) != 1 or kind not in _OWN or not tagged.startswith(b"{"):
            return None
        return to_text(tagged[1:-1]), kind.decode()

    def _box(self, account_id: str) -> "BoxKeys":
        keys = self.all_of_box(account_id)
        channel = self.of(account_id, "w")
        every = packed(b"%d" % len(keys), *keys)
        return BoxKeys(keys[0], channel, every, 1 + len(keys), packed(b"2", *keys[:2]))

    def bucket_of(self, username: str) -> bytes:
        """Return what names are kept apart by: the first two letters."""
        return to_bytes(username[:2])

    def names(self, bucket: bytes, kind: str) -> bytes:
        """Return a key of the names of a bucket."""
        return b"%b{d:%b}:%b" % (self._prefix, bucket, kind.encode())

    def pending(self, account_id: str) -> bytes:
        """Return where it stands that an account is made or deleted just now."""
        return self.pending_part(crc32(to_bytes(account_id)) % PENDING)

    def pending_part(self, number: int) -> bytes:
        """Return one of the parts of these."""
        return b"%b{q:%d}:q" % (self._prefix, number)

    def state(self, key: str) -> bytes:
        """Return the key of a state."""
        return self._prefix + b"l:" + to_bytes(key)


class BoxKeys(NamedTuple):
    """The keys of a mailbox, as every script on it takes them.

    Attributes:
        first: the hash, which says where they all are.
        channel: where the mailbox's watchers are told that mail has come.
        packed: how many there are, and all of them.
        arguments: how many arguments that is.
        of_mail: the same of the hash and the messages alone, which is three arguments.
    """

    first: bytes
    channel: bytes
    packed: bytes
    arguments: int
    of_mail: bytes
