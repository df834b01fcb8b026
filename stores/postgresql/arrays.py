"""Values as PostgreSQL takes them: one for each ``$1``, and whole columns of rows as arrays.

An array is sent in PostgreSQL's binary format (``array_send`` in
``src/backend/utils/adt/arrayfuncs.c``): five 32-bit numbers in front, then each value behind its
length. psycopg's own dumpers look at each value's type; here all of an array have one.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Final

INT8: Final = 20
TEXT: Final = 25
BYTEA: Final = 17
_INT8_ARRAY: Final = 1016
_TEXT_ARRAY: Final = 1009
_BYTEA_ARRAY: Final = 1001
_HEAD: Final = struct.Struct(">iiiii")  # dimensions, whether there are nulls, type, length, bound
_EMPTY: Final = struct.Struct(">iii")
_NULL: Final = (-1).to_bytes(4, "big", signed=True)


class Array:
    """A value that is an array: its bytes, and the type's number (``pg_type.oid``)."""

    __slots__ = ("data", "oid")

    def __init__(self, oid: int, data: bytes) -> None:
        self.oid = oid
        self.data = data


Value = str | bytes | int | bool | Array | None
"""What a parameter may be."""


def integers(values: Sequence[int]) -> Array:
    """Return a ``bigint[]``."""
    count = len(values)
    parts = [8] * (2 * count)
    parts[1::2] = values
    return Array(_INT8_ARRAY, _head(INT8, count) + struct.pack(">" + "iq" * count, *parts))


def texts(values: Sequence[str]) -> Array:
    """Return a ``text[]``; no value may have a zero or half a surrogate pair in it."""
    return Array(_TEXT_ARRAY, _joined(TEXT, [value.encode() for value in values]))


def blobs(values: Sequence[bytes]) -> Array:
    """Return a ``bytea[]``."""
    return Array(_BYTEA_ARRAY, _joined(BYTEA, values))


def integers_or_null(values: Iterable[int | None]) -> Array:
    """Return a ``bigint[]`` that may have nulls."""
    parts = [
        _NULL if value is None else b"\0\0\0\x08" + value.to_bytes(8, "big", signed=True)
        for value in values
    ]
    if not parts:
        return integers(())
    head = _HEAD.pack(1, 1, INT8, len(parts), 1)
    return Array(_INT8_ARRAY, head + b"".join(parts))


def _joined(oid: int, values: Sequence[bytes]) -> bytes:
    parts = [b""] * (2 * len(values))
    parts[::2] = [len(value).to_bytes(4, "big") for value in values]
    parts[1::2] = values
    return _head(oid, len(values)) + b"".join(parts)


def _head(oid: int, count: int) -> bytes:
    return _HEAD.pack(1, 0, oid, count, 1) if count else _EMPTY.pack(0, 0, oid)
