"""Reading an archive over a network: the beginnings of all that is in a mailbox, in one go.

Most mailboxes have no more than one page of anything. Asked for row by kind of row, each would
cost seven round trips, and a move reads every mailbox several times.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeVar

from twinline.core.store import Blocked
from twinline.stores.archive import (
    AckRow,
    Archive,
    CopyRow,
    MailboxRow,
    MessageRow,
    ReceiptRow,
    SendIdRow,
)

FIRST: Final = 256
"""How many rows of each kind the beginnings have, if there are as many."""
Row = TypeVar("Row", MessageRow, AckRow, SendIdRow, CopyRow, ReceiptRow)


class Beginnings(NamedTuple):
    """A mailbox, and the first rows of what is in it: `FIRST`, or all that there are.

    Of those that the account has blocked it is all.
    """

    mailbox: MailboxRow
    messages: Sequence[MessageRow]
    acks: Sequence[AckRow]
    send_ids: Sequence[SendIdRow]
    copies: Sequence[CopyRow]
    receipts: Sequence[ReceiptRow]
    blocked: Sequence[Blocked]


class PagedArchive(Archive):
    """Asks for the beginnings with `mailbox`, and again for what is behind them."""

    # ruff: noqa: D102 - the contract tells what the methods do

    _read: Beginnings | None = None

    def mailbox(self, account_id: str) -> MailboxRow | None:
        self._read = self._beginnings(account_id)
        return None if self._read is None else self._read.mailbox

    def messages(self, account_id: str, after: int, limit: int) -> Sequence[MessageRow]:
        read = self._of(account_id)
        if read is None:
            return ()
        known = [row for row in read.messages if row.seq > after]
        return self._page(read.messages, known, after, limit, self._messages)

    def acks(self, account_id: str, after: int, limit: int) -> Sequence[AckRow]:
        read = self._of(account_id)
        if read is None:
            return ()
        known = [row for row in read.acks if row.position > after]
        return self._page(read.acks, known, after, limit, self._acks)

    def send_ids(self, account_id: str, after: int, limit: int) -> Sequence[SendIdRow]:
        read = self._of(account_id)
        if read is None:
            return ()
        known = [row for row in read.send_ids if row.seq > after]
        return self._page(read.send_ids, known, after, limit, self._send_ids)

    def copies(self, account_id: str, after: int, limit: int) -> Sequence[CopyRow]:
        read = self._of(account_id)
        if read is None:
            return ()
        known = [row for row in read.copies if row.seq > after]
        return self._page(read.copies, known, after, limit, self._copies)

    def receipts(self, account_id: str, after: int, limit: int) -> Sequence[ReceiptRow]:
        read = self._of(account_id)
        if read is None:
            return ()
        known = [row for row in read.receipts if row.seq > after]
        return self._page(read.receipts, known, after, limit, self._receipts)

    def blocked(self, account_id: str) -> Sequence[Blocked]:
        read = self._of(account_id)
        return () if read is None else read.blocked

    def _of(self, account_id: str) -> Beginnings | None:
        if self._read is None or self._read.mailbox.account_id != account_id:
            self.mailbox(account_id)
        return self._read

    def _page(
        self,
        beginning: Sequence[Row],
        known: list[Row],
        after: int,
        limit: int,
        more: Callable[[str, int, int], Sequence[Row]],
    ) -> Sequence[Row]:
        if len(known) >= limit or len(beginning) < FIRST:
            return known[:limit]
        assert self._read is not None  # noqa: S101 - for the type checker: `_of` has read it
        return more(self._read.mailbox.account_id, after, limit)

    # -- what the engine does

    @abstractmethod
    def _beginnings(self, account_id: str) -> Beginnings | None:
        """Return the beginnings, or None if there is no mailbox that is whole."""

    @abstractmethod
    def _messages(self, account_id: str, after: int, limit: int) -> Sequence[MessageRow]:
        """Return messages behind a seq."""

    @abstractmethod
    def _acks(self, account_id: str, after: int, limit: int) -> Sequence[AckRow]:
        """Return acks behind a position."""

    @abstractmethod
    def _send_ids(self, account_id: str, after: int, limit: int) -> Sequence[SendIdRow]:
        """Return send_ids behind a seq."""

    @abstractmethod
    def _copies(self, account_id: str, after: int, limit: int) -> Sequence[CopyRow]:
        """Return copies behind a seq."""

    @abstractmethod
    def _receipts(self, account_id: str, after: int, limit: int) -> Sequence[ReceiptRow]:
        """Return receipts behind a seq."""
