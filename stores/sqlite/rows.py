"""Many rows in one statement.

Between two calls into SQLite another thread can take the interpreter, and under load one does.
So what a transaction writes goes into few statements, not into one for each row. There are as
many texts as numbers of rows, at most 64 a table, and the connection keeps them compiled.

A statement that may have to take back what it has inserted copies each page before it changes it,
into a file of its own when they are many. So it is ``INSERT OR FAIL`` where it can be: should one
of its rows be refused, which is a bug, all of the transaction is rolled back.
"""

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

_MOST: Final = 64  # rows in a statement: below the 999 values that every SQLite takes


def write_rows(
    connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[Any, ...]], tail: str = ""
) -> None:
    """Insert rows.

    Args:
        connection: with a transaction open.
        insert: ``INSERT OR FAIL INTO table``.
        rows: all of one width.
        tail: what follows the values.
    """
    for start in range(0, len(rows), _MOST):
        chunk = rows[start : start + _MOST]
        text = f"{insert} {values(len(chunk), len(chunk[0]))} {tail}"
        connection.execute(text, [value for row in chunk for value in row])


def read_rows(
    connection: sqlite3.Connection, select: str, keys: Sequence[tuple[Any, ...]]
) -> list[tuple[Any, ...]]:
    """Return the rows that are found for any of these keys, in any order.

    Args:
        connection: the connection.
        select: a query with ``{}`` where the keys stand as values.
        keys: all of one width.
    """
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(keys), _MOST):
        chunk = keys[start : start + _MOST]
        count = 1 << (len(chunk) - 1).bit_length()
        padded = [*chunk, *[chunk[-1]] * (count - len(chunk))]
        text = select.format(values(count, len(chunk[0])))
        found += connection.execute(text, [value for key in padded for value in key]).fetchall()
    return found


@lru_cache(maxsize=256)
def values(count: int, width: int) -> str:
    """Return ``VALUES`` with parameters for so many rows of so many columns."""
    row = ", ".join("?" * width)
    return "VALUES " + ", ".join([f"({row})"] * count)
