"""The send_ids that a file of version 1 had when it was migrated, for as long as one counts.

In version 1 a sender's send_id stood for one message to anybody, and its content was a hash of the
recipient's name and the body. Only the writer's thread uses what is in this file.
"""

import hashlib
import sqlite3

from twinline.core.store import Accepted, Draft, MailboxPolicy
from twinline.stores.rules import send_ids_count
from twinline.stores.sqlite.columns import to_column
from twinline.stores.sqlite.schema import OLD_SEND_IDS


class OldSendIds:
    """The table that the migration left: it is read, and removed when its time is over.

    Attributes:
        policy: says how long they count; it may be replaced.
    """

    def __init__(self, policy: MailboxPolicy) -> None:
        self.policy = policy
        self._there = True  # until it was looked for
        self._newest: int | None = None  # of those that count

    def first(
        self, connection: sqlite3.Connection, account_id: str, draft: Draft
    ) -> Accepted | None:
        """Return what the first send under a draft's send_id got, if it still counts.

        One with another content may have been to another recipient, and is none.
        """
        if not self._there or draft.send_id is None or not self._counts(connection, draft.sent_at):
            return None
        row = connection.execute(
            f"SELECT content, message_id, sent_at FROM {OLD_SEND_IDS} "  # noqa: S608 - a constant
            "WHERE sender_id = ? AND send_id = ?",
            (draft.sender_id, to_column(draft.send_id)),
        ).fetchone()
        if row is None:
            return None
        content, message_id, sent_at = row
        begin, end = send_ids_count(self.policy, draft.sent_at)
        if begin < sent_at < end and content == _content(connection, account_id, draft.body):
            return Accepted(message_id, sent_at, 0)
        return None

    def roll_back(self) -> None:
        """Look again: a removal may have been rolled back."""
        self._there, self._newest = True, None

    def _counts(self, connection: sqlite3.Connection, now: int) -> bool:
        """Return whether any of them counts; when none does, remove the table."""
        begin, end = send_ids_count(self.policy, now)
        if self._newest is not None and begin < self._newest < end:
            return True
        self._there = bool(
            connection.execute(
                "SELECT 1 FROM sqlite_schema WHERE name = ?", (OLD_SEND_IDS,)
            ).fetchall()
        )
        if self._there:
            (self._newest,) = connection.execute(
                f"SELECT max(sent_at) FROM {OLD_SEND_IDS} "  # noqa: S608 - a constant
                "WHERE sent_at > ? AND sent_at < ?",
                (begin, end),
            ).fetchone()
            if self._newest is None:
                connection.execute(f"DROP TABLE {OLD_SEND_IDS}")
                self._there = False
        return self._there


def _content(connection: sqlite3.Connection, account_id: str, body: str) -> bytes | None:
    # The accounts are the other half's. Its name is a part of the hash, and nowhere else here.
    row = connection.execute(
        "SELECT username FROM accounts WHERE account_id = ?", (account_id,)
    ).fetchone()
    if row is None:
        return None
    content = f"{row[0]}\0{body}".encode(errors="surrogatepass")
    return hashlib.blake2b(content, digest_size=16).digest()
