"""A store as what it keeps: the contract by which all of it moves to another store.

An `Archive` applies no rules, wakes nobody, and is not served: while it is open no server has the
store. It has no sessions: whose token names no account an engine that several servers share would
not find, so they all end with the move, and everybody logs in again.

Reading goes by pages, each the first rows behind a place, so that no archive has to hold more than
a page. Writing replaces: what is put twice is there once, so a move that was stopped can begin
again anywhere. What an archive cannot keep it refuses, so that nothing is lost silently.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, Self

from twinline.core.store import Account, Blocked, Invitation


class AccountRow(NamedTuple):
    """An account, and the addresses that it was logged in to from, with when, in ms."""

    account: Account
    addresses: tuple[tuple[str, int], ...]


class MailboxRow(NamedTuple):
    """A mailbox without what is in it.

    Attributes:
        account_id: whose it is.
        position: the last acked seq.
        last: the last seq that was given out.
        quota: how many unacked messages it may hold; None: as many as the policy says.
        newest: the highest ``n`` of a message that was put into it; see
            `twinline.core.store.Accepted`.
        receipts: whether it gives and takes receipts.
    """

    account_id: str
    position: int
    last: int
    quota: int | None = None
    newest: int = 0
    receipts: bool = True


class MessageRow(NamedTuple):
    """A message in a mailbox, as `twinline.core.protocol.Message` has it.

    Attributes:
        sender_id: the sender's account id; "" of a message that came before it was kept.
        n: as `twinline.core.store.Accepted` has it; 0 of such a message.
    """

    seq: int
    message_id: str
    sender: str
    body: str
    sent_at: int
    sender_id: str = ""
    n: int = 0


class CopyRow(NamedTuple):
    """The copy of a message, in the mailbox of its sender.

    Attributes:
        sender: the username of the account itself, as `twinline.core.protocol.Message` has it.
        peer_id: the recipient's account id.
        peer: the recipient's username.
    """

    seq: int
    message_id: str
    sender: str
    peer_id: str
    peer: str
    body: str
    sent_at: int
    n: int


class ReceiptRow(NamedTuple):
    """A receipt in a mailbox, as `twinline.core.protocol.Receipt` has it.

    Attributes:
        peer_id: the account id of who has acknowledged.
        peer: its username.
    """

    seq: int
    peer_id: str
    peer: str
    n: int
    acked_at: int


class AckRow(NamedTuple):
    """When a mailbox's position was moved to where, in ms: its history ages by it."""

    position: int
    acked_at: int


class SendIdRow(NamedTuple):
    """What a send_id stands for in a mailbox.

    Attributes:
        seq: of its message, and so the order in which they came.
        sender_id: the sender's account id.
        send_id: the sender's.
        content: the body's `twinline.stores.rules.fingerprint`.
        message_id: the first result's.
        sent_at: the first result's, in ms.
        n: the first result's; 0 of one that was kept before there was one.
    """

    seq: int
    sender_id: str
    send_id: str
    content: bytes
    message_id: str
    sent_at: int
    n: int = 0


class Archive(ABC):
    """What a store keeps, for one reader or writer; what it raises is its engine's own.

    Attributes:
        name: what the store is called in messages; no secret is in it.
        filled_from: of which store's move this is the unfinished target; "" for a whole store.
            No server opens a store that is unfinished.
    """

    name: str
    filled_from: str = ""

    # -- reading: each returns the first rows behind a place, in order, and none when there are
    # no more

    @abstractmethod
    def accounts(self, after: str, limit: int) -> Sequence[AccountRow]:
        """Return accounts behind a username, by username."""

    @abstractmethod
    def reserved_names(self, after: str, limit: int) -> Sequence[str]:
        """Return reserved names behind a name, sorted."""

    @abstractmethod
    def invitations(self, after: bytes, limit: int) -> Sequence[Invitation]:
        """Return invitations behind a token hash, by token hash."""

    @abstractmethod
    def mailbox(self, account_id: str) -> MailboxRow | None:
        """Return an account's mailbox, or None if there is none that is whole."""

    @abstractmethod
    def messages(self, account_id: str, after: int, limit: int) -> Sequence[MessageRow]:
        """Return messages behind a seq, by seq."""

    @abstractmethod
    def acks(self, account_id: str, after: int, limit: int) -> Sequence[AckRow]:
        """Return acks behind a position, by position."""

    @abstractmethod
    def send_ids(self, account_id: str, after: int, limit: int) -> Sequence[SendIdRow]:
        """Return send_ids behind a seq, by seq; no two of a mailbox have one seq."""

    @abstractmethod
    def copies(self, account_id: str, after: int, limit: int) -> Sequence[CopyRow]:
        """Return copies of what the account has sent behind a seq, by seq."""

    @abstractmethod
    def receipts(self, account_id: str, after: int, limit: int) -> Sequence[ReceiptRow]:
        """Return receipts behind a seq, by seq."""

    @abstractmethod
    def blocked(self, account_id: str) -> Sequence[Blocked]:
        """Return whom the account has blocked, by account id: they are few."""

    # -- writing

    @abstractmethod
    def begin(self, source: str) -> None:
        """Make this the unfinished target of a source's move; it is empty, or was that already."""

    @abstractmethod
    def put_accounts(self, rows: Sequence[AccountRow]) -> None:
        """Keep accounts, instead of those with the same ids or names."""

    @abstractmethod
    def put_reserved_names(self, names: Sequence[str]) -> None:
        """Reserve names."""

    @abstractmethod
    def put_invitations(self, rows: Sequence[Invitation]) -> None:
        """Keep invitations, instead of those with the same token hashes."""

    @abstractmethod
    def begin_mailbox(self, account_id: str) -> None:
        """Remove what there is of a mailbox; it is whole again only after `end_mailbox`."""

    @abstractmethod
    def put_messages(self, account_id: str, rows: Sequence[MessageRow]) -> None:
        """Keep messages in a mailbox that was begun."""

    @abstractmethod
    def put_acks(self, account_id: str, rows: Sequence[AckRow]) -> None:
        """Keep acks of a mailbox that was begun."""

    @abstractmethod
    def put_send_ids(self, account_id: str, rows: Sequence[SendIdRow]) -> None:
        """Keep send_ids of a mailbox that was begun."""

    @abstractmethod
    def put_copies(self, account_id: str, rows: Sequence[CopyRow]) -> None:
        """Keep copies in a mailbox that was begun."""

    @abstractmethod
    def put_receipts(self, account_id: str, rows: Sequence[ReceiptRow]) -> None:
        """Keep receipts in a mailbox that was begun."""

    @abstractmethod
    def put_blocked(self, account_id: str, rows: Sequence[Blocked]) -> None:
        """Keep whom the account of a mailbox that was begun has blocked."""

    @abstractmethod
    def end_mailbox(self, row: MailboxRow) -> None:
        """Make a mailbox whole: its counts are those of what was put.

        Its seqs jump before its next append, as those of a backup that was put back.
        """

    @abstractmethod
    def end(self) -> None:
        """Make this a whole store, which servers open, and be sure that it is kept."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the store; what is unfinished stays so, and can be gone on with."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
