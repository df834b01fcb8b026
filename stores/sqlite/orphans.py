"""What is left of creating and deleting that stopped between their two steps.

Creating makes the mailbox and then publishes the account; deleting withdraws the account and then
drops the mailbox. So a crash in between leaves a mailbox that no account has. These are dropped
when the file is opened: no creation is under way in it then, as one server at a time has it.

The tables of both halves are looked at here, and nowhere else.
"""

import logging
from contextlib import suppress
from typing import Final

from twinline.core.errors import StoreUnavailable
from twinline.stores.sqlite.mailboxes import SqliteMailboxes
from twinline.stores.sqlite.readers import Readers
from twinline.stores.sqlite.writer import Transaction, Writer

log = logging.getLogger(__name__)

_PIECE: Final = 1_000  # rows that one write looks at, so that others' writes are not held up
_BEGINNING: Final = (
    "SELECT (SELECT ifnull(max(box), 0) FROM mailboxes), "
    "EXISTS (SELECT 1 FROM accounts) OR EXISTS (SELECT 1 FROM reserved_names)"
)


class Orphans:
    """Looks through the file once, a piece at a time, in the writer's thread."""

    def __init__(self, readers: Readers, writer: Writer, mailboxes: SqliteMailboxes) -> None:
        """Begin; until now nobody has the store."""
        self._writer = writer
        self._mailboxes = mailboxes
        self._looked = 0  # at the mailboxes up to this one
        self._last = 0
        with suppress(StoreUnavailable), readers.reading() as connection:
            ((last, kept),) = connection.execute(_BEGINNING).fetchall()
            # With no account at all, and none that ever was, they are kept somewhere else.
            self._last = last if kept else 0
        writer.on_reopen.append(self._look_soon)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._looked < self._last:
            self._writer.post(self._drop_some)

    def _drop_some(self, transaction: Transaction) -> None:
        until = min(self._last, self._looked + _PIECE)
        found = transaction.connection.execute(
            "SELECT account_id FROM mailboxes WHERE box > ? AND box <= ? "
            "AND account_id NOT IN (SELECT account_id FROM accounts)",
            (self._looked, until),
        ).fetchall()
        for (account_id,) in found:
            self._mailboxes.drop_in(transaction, account_id)

        def done() -> None:
            self._looked = until
            if found:
                log.info("%d mailboxes of no account were dropped", len(found))
            self._look_soon()

        transaction.committed.append(done)
