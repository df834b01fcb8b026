"""The writer's view of what lies beside the mail of a mailbox: copies, receipts, blocked accounts.

Only the writer's thread uses what is in this file, inside its transaction.
"""

import sqlite3
from contextlib import closing
from typing import Final, Literal

from twinline.core.errors import BlockListFull
from twinline.core.store import MOST_BLOCKED, Accepted, Blocked, MailboxPolicy, PeerReceipt
from twinline.stores.rules import history_ends
from twinline.stores.sql.mailbox import most_kept
from twinline.stores.sqlite.mailbox import Mailbox
from twinline.stores.sqlite.schema import FILED

Table = Literal["copies", "receipts"]

# When an entry came, by which it ages.
_CAME: Final = {"copies": "sent_at", "receipts": "acked_at"}
_KNOWN_RECEIPT: Final = """
    SELECT (SELECT n FROM receipts WHERE box = :box AND peer_id = :peer),
        (SELECT acked_at FROM receipts WHERE box = :box ORDER BY seq LIMIT 1)"""
# What has the `n` is found in the index alone; only copies of before there was one share it.
_KNOWN_COPY: Final = f"""
    SELECT 1 FROM copies WHERE box = :box AND message_id = :message AND seq IN (
        SELECT seq FROM copies WHERE box = :box AND peer_id = :peer AND n = :n AND {FILED})
    UNION ALL SELECT 1 FROM copies WHERE box = :box AND message_id = :message AND seq > :filed"""  # noqa: S608 - constants
_FILE: Final = {
    table: f"UPDATE {table} SET filed = 1 WHERE box = ? AND seq > ?"  # noqa: S608 - constants
    for table in ("messages", "copies")
}


def has_copy(
    connection: sqlite3.Connection, box: Mailbox, peer_id: str, accepted: Accepted
) -> bool:
    """Return whether a mailbox has the copy of a message to a peer."""
    of = {
        "box": box.number,
        "peer": peer_id,
        "message": accepted.message_id,
        "n": accepted.n,
        "filed": box.filed,
    }
    return bool(box.copies and connection.execute(_KNOWN_COPY, of).fetchall())


def put_receipt(
    connection: sqlite3.Connection, box: Mailbox, receipt: PeerReceipt, policy: MailboxPolicy
) -> bool:
    """Put in a receipt instead of the one of the same account; return whether it was."""
    account_id, username, n, acked_at = receipt
    most = most_kept(policy)
    if not most or not box.gives_receipts or is_blocked(connection, box, account_id):
        return False
    known, oldest = connection.execute(
        _KNOWN_RECEIPT, {"box": box.number, "peer": account_id}
    ).fetchone()
    if known is not None and known >= n:
        return False
    seq = box.last + 1
    connection.execute(
        "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?, ?, ?, ?)",
        (box.number, account_id, username, seq, n, acked_at),
    )
    box.last = seq
    box.receipts += known is None
    ends = history_ends(policy, acked_at)
    if box.receipts > most or (oldest is not None and oldest <= ends):
        surplus = box.receipts - most
        gone, _ = trim(connection, "receipts", box, seq, surplus=surplus, ends=ends)
        box.receipts -= gone
    return True


def trim(
    connection: sqlite3.Connection,
    table: Table,
    box: Mailbox,
    below: int,
    *,
    surplus: int,
    ends: int,
) -> tuple[int, int | None]:
    """Remove the oldest entries of a mailbox: so many, and those behind them that have aged.

    Args:
        connection: with a transaction open.
        table: of which kind.
        box: whose.
        below: only those with a seq below this one.
        surplus: how many have to go.
        ends: what came at this moment or before it has aged.

    Returns:
        How many were removed, and when the first came that is left below the seq.
    """
    oldest = f"SELECT seq, {_CAME[table]} FROM {table} WHERE box = ? AND seq < ? ORDER BY seq"  # noqa: S608 - constants
    gone, first, end = 0, None, below
    with closing(connection.execute(oldest, (box.number, below))) as rows:
        for seq, came in rows:
            if gone >= surplus and came > ends:
                first, end = came, seq
                break
            gone += 1
    if gone:
        connection.execute(
            f"DELETE FROM {table} WHERE box = ? AND seq < ?",  # noqa: S608 - a constant
            (box.number, end),
        )
    return gone, first


def file(connection: sqlite3.Connection, box: Mailbox) -> None:
    """Have the indexes by conversation have all mail and copies of a mailbox."""
    connection.execute(_FILE["messages"], (box.number, box.filed))
    if box.copies:
        connection.execute(_FILE["copies"], (box.number, box.filed))
    box.filed = box.last


def is_blocked(connection: sqlite3.Connection, box: Mailbox, peer_id: str) -> bool:
    """Return whether a mailbox refuses the mail of an account."""
    return bool(
        box.blocked
        and connection.execute(
            "SELECT 1 FROM blocked WHERE box = ? AND peer_id = ?", (box.number, peer_id)
        ).fetchall()
    )


def block(connection: sqlite3.Connection, box: Mailbox, peer: Blocked) -> None:
    """Refuse the mail of an account from now on.

    Raises:
        BlockListFull: too many others are blocked.
    """
    if is_blocked(connection, box, peer.account_id):
        return
    if box.blocked >= MOST_BLOCKED:
        raise BlockListFull
    connection.execute("INSERT INTO blocked VALUES (?, ?, ?)", (box.number, *peer))
    _count_blocked(connection, box, 1)


def unblock(connection: sqlite3.Connection, box: Mailbox, peer_id: str) -> bool:
    """Take the mail of an account again, and return whether it was blocked."""
    gone = connection.execute(
        "DELETE FROM blocked WHERE box = ? AND peer_id = ?", (box.number, peer_id)
    ).rowcount
    if gone:
        _count_blocked(connection, box, -1)
    return bool(gone)


def _count_blocked(connection: sqlite3.Connection, box: Mailbox, more: int) -> None:
    # At once and by itself: what mail changes is written without it.
    connection.execute(
        "UPDATE mailboxes SET blocked = blocked + ? WHERE box = ?", (more, box.number)
    )
    box.blocked += more
