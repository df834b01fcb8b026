"""What servers tell each other through PostgreSQL's NOTIFY: a few words, and who said them.

A payload is ``1KNODE:KEYS``: the version of this form, the kind, the sender's random id, and keys
with a blank between them. PostgreSQL takes payloads below 8,000 bytes, and several of one
transaction travel together. A key that is not made of letters, digits, ``_`` and ``-`` is written
as ``=`` and the hexadecimal digits of its UTF-8, so that an account id may be any text.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

MOST_KEYS: Final = 230
"""Keys of 32 characters that fit a payload."""
_MOST_BYTES: Final = 7_900
_FORM: Final = "1"
_PLAIN: Final = re.compile(r"[\w-]+", re.ASCII)
EVERYTHING: Final = "*"
"""A key that stands for all."""


class Kind(StrEnum):
    """What a notice is about."""

    HEARTBEAT = "h"
    """A server hears itself; the key counts."""
    MAIL = "m"
    """Mailboxes got mail, or were dropped; the keys are their account ids."""
    COPIES = "c"
    """The same of copies."""
    RECEIPTS = "r"
    """The same of receipts."""
    SESSIONS = "s"
    """Sessions ended; the keys are ``ACCOUNT.HASH``, the hash in hexadecimal digits."""
    ACCOUNTS = "a"
    """Accounts were made, changed or withdrawn; the keys are their account ids."""


class Notice(NamedTuple):
    """A payload that was read."""

    kind: Kind
    node: str
    keys: tuple[str, ...]


def payloads(kind: Kind, node: str, keys: Iterable[str]) -> Iterator[str]:
    """Yield as few payloads as say this of all the keys."""
    head = f"{_FORM}{kind}{node}:"
    part: list[str] = []
    size = len(head)
    for key in keys:
        text = _written(key)
        if part and (size + len(text) + 1 > _MOST_BYTES or len(part) == MOST_KEYS):
            yield head + " ".join(part)
            part, size = [], len(head)
        part.append(text)
        size += len(text) + 1
    if part:
        yield head + " ".join(part)


def parse(payload: str) -> Notice | None:
    """Return what a payload says; None for one of another version of this program."""
    head, colon, keys = payload.partition(":")
    if not colon or len(head) < 2 or head[0] != _FORM or head[1] not in set(Kind):
        return None
    try:
        return Notice(Kind(head[1]), head[2:], tuple(map(_read, keys.split(" "))))
    except ValueError:
        return None


def session_key(account_id: str, token_hash: bytes) -> str:
    """Return the key of a session that ended."""
    return f"{account_id}.{token_hash.hex()}"


def parse_session_key(key: str) -> tuple[str, bytes]:
    """Return the account id and the hash of a session's key.

    Raises:
        ValueError: it is none.
    """
    account_id, _, token_hash = key.rpartition(".")
    return account_id, bytes.fromhex(token_hash)


def _written(key: str) -> str:
    if key == EVERYTHING or _PLAIN.fullmatch(key):
        return key
    account_id, dot, rest = key.rpartition(".")
    if dot and _PLAIN.fullmatch(account_id) and _PLAIN.fullmatch(rest):
        return key
    return "=" + key.encode(errors="surrogatepass").hex()


def _read(text: str) -> str:
    if text.startswith("="):
        return bytes.fromhex(text[1:]).decode(errors="surrogatepass")
    return text


def only(keys: Sequence[str]) -> set[str] | None:
    """Return the keys, or None when they stand for everything."""
    return None if EVERYTHING in keys else set(keys)
