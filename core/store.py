"""The contract between the rules and whatever keeps the state.

A store is two independent halves. `Accounts` has users, password hashes and sessions;
`Mailboxes` has messages and positions. Neither half can reach the other, and that is what makes
the lock rule hold: no code path could take both halves' locks.

What keeps the halves coherent without a common lock: a mailbox is keyed by an account id that is
never used twice, not by a username. Creating makes the mailbox and then publishes the account;
deleting withdraws the account and then drops the mailbox; appending to a mailbox that is gone is
`NoSuchUser`. A new account of an old name can never see the old one's mail.

Every method may be called by any thread at any time. A method either does all it says or raises
and does nothing; a store that cannot be read or written raises `StoreUnavailable`, and where it
cannot know whether a write was made, for the engine did not say (`StoreUnavailable.in_doubt`), that
write was made whole or not at all, and before any write that is asked for later. Times are
milliseconds since 1970 UTC and are given by the caller, so that a store needs no clock.

What a crash leaves between the two steps of creating or deleting is a mailbox of no account. A
store that keeps anything drops those when it is opened; where several servers share it, not
before a creation that is under way can have ended.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from twinline.core.deadline import LONGEST_DAYS
from twinline.core.errors import RequestError
from twinline.core.names import NamePattern
from twinline.core.protocol import (
    MAIL_ALONE,
    MAX_PAGE,
    Conversation,
    Kinds,
    Message,
    Receipt,
)
from twinline.core.reloading import RELOADED_BY_STORE
from twinline.core.waiting import Wake

MOST_BLOCKED: Final = 1_000
"""How many accounts one may block."""
SEQ_JUMP: Final = 2**32
"""How far the seqs of a mailbox jump when its store was put back: more messages than it gets
between a backup and that moment, and 2^53 leaves two million jumps."""


class Durability(StrEnum):
    """What an acknowledged write survives; each level includes those before it."""

    NONE = "none"
    """Nothing is promised."""
    PROCESS = "process"
    """Everything but the end of the process that holds the store."""
    DISK = "disk"
    """kill -9 and power loss."""
    REPLICATED = "replicated"
    """The loss of a machine."""


class MailboxPolicy(BaseModel):
    """How much a mailbox keeps, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mailbox_messages: int = Field(
        default=10_000,
        ge=1,
        json_schema_extra=RELOADED_BY_STORE,
        description="unacknowledged messages that one mailbox holds before a sender gets "
        "`mailbox_full`",
    )
    history_messages: int = Field(
        default=1_000,
        ge=0,
        json_schema_extra=RELOADED_BY_STORE,
        description="acknowledged messages that one mailbox keeps as history, and as many copies "
        "of what was sent, and receipts; 0 keeps none",
    )
    history_days: float = Field(
        default=7,
        ge=0,
        le=LONGEST_DAYS,
        json_schema_extra=RELOADED_BY_STORE,
        description="how long an acknowledged message, a copy or a receipt is kept; 0 keeps none",
    )
    send_id_hours: float = Field(
        default=24,
        ge=0,
        le=24 * LONGEST_DAYS,
        json_schema_extra=RELOADED_BY_STORE,
        description="how long a repeated send_id gets the first result",
    )
    send_ids_per_mailbox: int = Field(
        default=10_000,
        ge=1,
        json_schema_extra=RELOADED_BY_STORE,
        description="send_ids that are remembered for one mailbox; beyond them the oldest is "
        "forgotten, and its repeat is a new message",
    )
    send_ids_per_sender: int = Field(
        default=4_000,
        ge=1,
        json_schema_extra=RELOADED_BY_STORE,
        description="of those, the ones of one sender: what it sends to one recipient while a "
        "connection is lost and made again",
    )


@dataclass(frozen=True, slots=True)
class Account:
    """A user.

    Attributes:
        account_id: never used twice, and the key of the mailbox.
        username: in its one spelling.
        password_hash: an argon2 string with its own parameters and salt.
        created_at: in ms.
        enabled: whether it may be logged in to; its mail comes in either case.
        must_change: whether its password opens nothing but the change of it: it is one that the
            operator gave out.
    """

    account_id: str
    username: str
    password_hash: str = field(repr=False)
    created_at: int
    enabled: bool = True
    must_change: bool = False


@dataclass(frozen=True, slots=True)
class Invitation:
    """Lets one account be created where registration is by invitation.

    Attributes:
        token_hash: SHA-256 of its token; the token itself is nowhere in the store.
        created_at: in ms.
        expires_at: in ms: it counts before then.
        note: what the operator wrote to it.
    """

    token_hash: bytes = field(repr=False)
    created_at: int
    expires_at: int
    note: str = ""


class SessionKey(NamedTuple):
    """What a session is found by: both of them, so that sessions can be split by account.

    Attributes:
        account_id: whose session it is; None for one that was opened before tokens named their
            account, which a store on one machine finds by the hash alone, and others do not.
        token_hash: SHA-256 of the token.
    """

    account_id: str | None
    token_hash: bytes

    def __repr__(self) -> str:
        return f"SessionKey(account_id={self.account_id!r})"


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """An open session.

    Attributes:
        token_hash: SHA-256 of the token; the token itself is nowhere in the store.
        account_id: whose session it is.
        username: of that account.
        opened_at: in ms.
        used_at: when it was last seen in use, in ms, to within an hour.
    """

    token_hash: bytes = field(repr=False)
    account_id: str
    username: str
    opened_at: int
    used_at: int

    @property
    def key(self) -> SessionKey:
        """What it is found by."""
        return SessionKey(self.account_id, self.token_hash)


@dataclass(frozen=True, slots=True)
class UsernamePage:
    """A page of usernames.

    Attributes:
        usernames: sorted by code point.
        more: whether others follow.
    """

    usernames: tuple[str, ...]
    more: bool


class Draft(NamedTuple):
    """A message on its way into a mailbox; a tuple, for every send makes one.

    Attributes:
        message_id: the id it gets unless it is a repeat.
        sender_id: the sender's account id.
        sender: the sender's username.
        body: the text.
        sent_at: in ms.
        send_id: the sender's own id for this message among those it sends to this mailbox, or
            None.
        copy_to: the recipient's username, where the sender's own mailbox is to have a copy; None:
            it is to have none.
    """

    message_id: str
    sender_id: str
    sender: str
    body: str
    sent_at: int
    send_id: str | None = None
    copy_to: str | None = None


class Accepted(NamedTuple):
    """What acknowledges a send: the same for every repeat of a send_id.

    Attributes:
        message_id: the message's.
        sent_at: when it was accepted, in ms.
        n: the message's number among those to this mailbox, for receipts: its ``sent_at``, or one
            more than the newest of the mailbox where that is not higher. So it always rises, and
            tells its sender of other mail only what came in the same millisecond, or while a clock
            was set back.
    """

    message_id: str
    sent_at: int
    n: int


class Delivery(NamedTuple):
    """What an ack has passed of one sender's mail.

    Attributes:
        sender_id: the sender's account id.
        n: of the last of its messages that the ack has passed.
    """

    sender_id: str
    n: int


class PeerReceipt(NamedTuple):
    """A receipt on its way into the mailbox of whoever sent what was acknowledged.

    Attributes:
        account_id: who has acknowledged.
        username: its name.
        n: of the last message that it has acknowledged.
        acked_at: in ms.
    """

    account_id: str
    username: str
    n: int
    acked_at: int


class Peer(NamedTuple):
    """The other side of a conversation.

    Attributes:
        account_id: of the account that has the name now; None: there is none. What is kept of an
            account that is gone is found by its name as long as nobody else has that.
        username: the name, by which messages are found whose sender's account id was not kept; "":
            by its id an account that has its name no more, and nothing else.
    """

    account_id: str | None
    username: str


class Blocked(NamedTuple):
    """An account whose mail another refuses.

    Attributes:
        account_id: whose mail; of a new account of the same name it says nothing.
        username: its name when it was blocked.
    """

    account_id: str
    username: str


class Standing(NamedTuple):
    """Where a mailbox stands.

    Attributes:
        position: the last acked seq.
        unread: how many messages lie beyond it.
        gives_receipts: whether it gives and takes receipts.
    """

    position: int
    unread: int
    gives_receipts: bool = True


class Acked(NamedTuple):
    """What an ack came to.

    Attributes:
        position: the last acked seq now.
        unread: how many messages lie beyond it.
        deliveries: where the position has moved: whose mail it has passed, if the mailbox gives
            receipts. None of the account's own, of blocked ones, and of mail that came before
            senders were kept.
    """

    position: int
    unread: int
    deliveries: tuple[Delivery, ...] = ()


class MailboxUsage(NamedTuple):
    """What a mailbox holds.

    Attributes:
        messages: how many messages that were sent to it, acked or not.
        unread: how many of them lie beyond the position.
        size: the bodies' bytes of UTF-8, copies included.
        quota: how many unacked ones it may hold, where that is its own number; None: the policy's.
        copies: how many copies of what the account has sent.
    """

    messages: int
    unread: int
    size: int
    quota: int | None
    copies: int = 0


class MessageTrace(NamedTuple):
    """Where a message is; never what it says.

    Attributes:
        account_id: whose mailbox it was put into.
        message_id: its id.
        sent_at: when it was accepted, in ms.
        seq: its number there; None: it is not there any more.
        sender: the sender's username; None where it is gone.
        sender_id: the sender's account id; None where the store does not know it any more.
        acked: whether it is there and the position has passed it.
        acked_at: when that was, in ms; None: it has not, or that is not known any more.
        deleted: whether it is not there, though by the policy in force it would be, so that it was
            deleted. Of another one that is not there it cannot be told whether it has expired
            before that was done.
    """

    account_id: str
    message_id: str
    sent_at: int
    seq: int | None
    sender: str | None
    sender_id: str | None
    acked: bool
    acked_at: int | None
    deleted: bool = False

    @property
    def state(self) -> Literal["waiting", "acked", "deleted", "gone"]:
        """Where it is, in the protocol's word."""
        if self.seq is None:
            return "deleted" if self.deleted else "gone"
        return "acked" if self.acked else "waiting"


class MailPage(NamedTuple):
    """A page of a mailbox.

    Attributes:
        messages: mail and copies, by rising seq.
        position: the last acked seq.
        more: whether there are others to read.
        seen: as far as it has looked: of `Mailboxes.read` the highest seq, at least ``after``, such
            that no entry of the kinds lies up to there that the page has not; of
            `Mailboxes.history` the lowest such seq, from which it goes on with ``before``: that of
            the first entry, or 0 if there are no more.
        receipts: by rising seq.
        deliveries: of a look that has acknowledged: as `Acked.deliveries`.
    """

    messages: tuple[Message, ...]
    position: int
    more: bool
    seen: int
    receipts: tuple[Receipt, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


class ConversationPage(NamedTuple):
    """A page of conversations.

    Attributes:
        conversations: the one with the newest message first.
        more: whether others follow.
    """

    conversations: tuple[Conversation, ...]
    more: bool


class MailboxLook(NamedTuple):
    """A look at a mailbox: what a watch does for each page.

    Attributes:
        account_id: whose mailbox.
        after: read what has a seq above it, as for `Mailboxes.read`.
        limit: at most so many messages; 0 reads nothing, and the page has the position alone.
        max_bytes: as for `Mailboxes.read`.
        ack: acknowledge up to here first, as for `Mailboxes.ack`; None: acknowledge nothing.
        now: in ms.
        kinds: as for `Mailboxes.read`.
    """

    account_id: str
    after: int
    limit: int
    max_bytes: int
    ack: int | None
    now: int
    kinds: Kinds = MAIL_ALONE


@dataclass(frozen=True, slots=True)
class Depths:
    """How full the mailboxes of a store are.

    Attributes:
        mailboxes: how many there are.
        deepest: the most unread messages that one of them has.
        full: how many have as many unread messages as they may, or more.
    """

    mailboxes: int
    deepest: int
    full: int


Unsubscribe = Callable[[], None]
"""Ends a subscription; harmless when called twice. It waits for nothing and raises nothing."""


class Accounts(ABC):
    """The half with users, password hashes and sessions."""

    @abstractmethod
    def create(self, account: Account, *, invitation: bytes | None = None) -> None:
        """Publish an account, and spend an invitation in the same step.

        Args:
            account: the account.
            invitation: the token hash of one, which is gone afterwards; None: none is needed.

        Raises:
            UsernameTaken: the name is in use or reserved.
            InvitationInvalid: there is no such invitation, or it has expired by ``created_at``.
            ValueError: the account id is in use: a bug in the caller; nothing changes.
        """

    @abstractmethod
    def find(self, username: str) -> Account | None:
        """Return the account of that name."""

    def recipient(self, username: str) -> str | None:
        """Return the id of the account of that name, for a send.

        A store shared by several servers may answer from memory that is at most a second old. A
        mailbox that is then found to be gone is looked for once more, by `find`.
        """
        account = self.find(username)
        return None if account is None else account.account_id

    def username_of(self, account_id: str) -> str | None:
        """Return the name of an account, for its operator; None: there is no such account.

        Here all names are gone through; a store that can look it up does.
        """
        after: str | None = None
        pattern = NamePattern("*")
        while True:
            page = self.page(pattern, after, MAX_PAGE)
            for name in page.usernames:
                if self.recipient(name) == account_id:
                    return name
            if not page.more:
                return None
            after = page.usernames[-1]

    @abstractmethod
    def is_free(self, username: str) -> bool:
        """Return whether the name is neither in use nor reserved."""

    @abstractmethod
    def page(self, pattern: NamePattern, after: str | None, limit: int) -> UsernamePage:
        """Return the first usernames beyond ``after`` that match, at most ``limit``.

        A page reads no more than it must: it seeks to the pattern's prefix, and no other
        request waits while it matches names.
        """

    @abstractmethod
    def set_password_hash(self, account_id: str, password_hash: str, *, instead_of: str) -> bool:
        """Replace a password hash, if it is still the one that the caller knows.

        Returns:
            False when it is another by now, and stays: of two calls at once one returns True.

        Raises:
            NoSuchUser: the account is gone.
        """

    @abstractmethod
    def hash_profiles(self) -> Mapping[str, int]:
        """Return how many accounts there are of each `profile_of` a password hash.

        A store shared by several servers may answer from memory that is at most a minute old.
        """

    @abstractmethod
    def note_address(self, account_id: str, address: str, at: int, *, most: int) -> None:
        """Note that the account was logged in to from an address; nothing happens if it is gone.

        At most ``most`` addresses of an account are kept, those that were noted last.

        Args:
            account_id: the account; when it is withdrawn, its addresses go.
            address: as limits by address count it; any text.
            at: in ms.
            most: how many are kept.
        """

    @abstractmethod
    def address_noted_at(self, account_id: str, address: str) -> int | None:
        """Return when an address was last noted for an account, in ms, or None.

        A store shared by several servers may answer from memory that is at most a minute old.
        """

    @abstractmethod
    def change_password(
        self,
        account_id: str,
        password_hash: str,
        *,
        instead_of: str | None,
        keep: bytes | None,
        must_change: bool = False,
    ) -> bool:
        """Replace a password hash and revoke the account's other sessions, as one step.

        Nobody ever sees the new hash beside a session that it revokes, and a call that raises
        has done neither.

        Args:
            account_id: the account.
            password_hash: the new one.
            instead_of: the one that the caller knows; None: whichever it is.
            keep: the token hash of the session that stays; None: all end.
            must_change: what `Account.must_change` is from now on.

        Returns:
            False when the hash is another by now: then nothing changes.

        Raises:
            NoSuchUser: the account is gone.
        """

    @abstractmethod
    def enable(self, account_id: str, *, enabled: bool) -> None:
        """Let an account be logged in to, or not; disabling it ends all its sessions, as one step.

        Nobody ever sees a session of an account that was found disabled.

        Raises:
            NoSuchUser: the account is gone.
        """

    @abstractmethod
    def addresses(self, account_id: str) -> Mapping[str, int]:
        """Return the addresses that are noted for an account, and when each was, in ms."""

    @abstractmethod
    def sessions(self, account_id: str) -> Sequence[SessionRecord]:
        """Return the account's open sessions, the one that was used last first."""

    @abstractmethod
    def close_sessions(self, account_id: str) -> int:
        """Revoke all sessions of an account and wake their subscribers; return how many."""

    @abstractmethod
    def add_invitation(self, invitation: Invitation) -> None:
        """Keep an invitation, and forget those that have expired by its ``created_at``.

        Raises:
            ValueError: there is one with this token hash.
        """

    @abstractmethod
    def find_invitation(self, token_hash: bytes) -> Invitation | None:
        """Return an invitation that was not spent yet; it may have expired."""

    @abstractmethod
    def invitations(self) -> Sequence[Invitation]:
        """Return the invitations that are not spent, the oldest first; some may have expired."""

    @abstractmethod
    def drop_invitation(self, token_hash: bytes) -> bool:
        """Withdraw an invitation, and return whether there was one."""

    @abstractmethod
    def withdraw(self, account_id: str, *, keep_name: bool, verified: str | None = None) -> bool:
        """Take the account and all its sessions away, and wake the subscribers of those.

        It is one step: the name is never free between its account and its reservation.

        Args:
            account_id: the account.
            keep_name: reserve the name, so that no new account can take it.
            verified: only if this is still the account's password hash, so that an old password
                deletes nothing once it is changed.

        Returns:
            Whether the account was withdrawn: of two calls at once one returns True.
        """

    @abstractmethod
    def open_session(
        self, session: SessionRecord, *, verified: str | None = None, most: int | None = None
    ) -> bool:
        """Keep a session.

        Args:
            session: the session; its token hash was never used before.
            verified: open it only if this is still the account's password hash, so that no
                login with an old password outlives the change of it.
            most: when the account has so many sessions already, the one that was used longest
                ago ends.

        Returns:
            Whether another session has ended to make room.

        Raises:
            NoSuchUser: the account is gone or disabled, or its password hash is not ``verified``.
            ValueError: the account has a session with this token hash.
        """

    @abstractmethod
    def find_session(self, key: SessionKey) -> SessionRecord | None:
        """Return the session, if it is of that account; called for every request.

        A store shared by several servers may answer from memory that is at most a second old.
        """

    @abstractmethod
    def touch_session(self, key: SessionKey, used_at: int) -> None:
        """Note that a session is in use; nothing happens if it is gone."""

    @abstractmethod
    def close_session(self, key: SessionKey) -> None:
        """Revoke a session and wake its subscribers; nothing happens if it is gone."""

    @abstractmethod
    def on_session_end(self, key: SessionKey, wake: Wake) -> Unsubscribe:
        """Have ``wake`` called when the session is revoked, by whichever server.

        Subscribe first and look afterwards: for a session that is gone already nothing is
        called. It may take a round trip to the engine of a store that several servers share.

        Raises:
            StoreUnavailable: such a store cannot be asked now.
        """


class Mailboxes(ABC):
    """The half with messages and positions; a mailbox has its account's id.

    What a store has acknowledged it may lose all the same, when an older backup is put back or a
    failover loses the tail. Readers have passed the seqs of what was lost, so these must not be
    given out again: a store that can be put back keeps an *epoch* that then changes, and the seqs
    of a mailbox jump by at least `SEQ_JUMP` before its next append. Until then, and after it, a
    place inside the jump (an ``after`` or ``up_to`` of before) is one beyond which there is
    nothing yet, and no error. A reader's view stays a prefix; seqs may have gaps.

    The entries of a mailbox are of three kinds (`twinline.core.protocol.Kind`) and share its seqs.
    Mail alone is unread or acked, counts for the quota, and moves with acks into the history. A
    copy of what the account has sent lies beside it, and so does one receipt for each account that
    has acknowledged some of that. Both age from when they were put in, by the policy's
    ``history_days``, and of each kind at most ``history_messages`` are kept, the newest. They never
    move the position.
    """

    @abstractmethod
    def create(self, account_id: str) -> None:
        """Make an empty mailbox: position 0, the first seq will be 1.

        Raises:
            ValueError: the account id has a mailbox: a bug in the caller; it stays as it is.
        """

    @abstractmethod
    def drop(self, account_id: str) -> None:
        """Remove a mailbox, its mail and its send_ids, and wake its watchers.

        Harmless when repeated.
        """

    @abstractmethod
    def append(self, account_id: str, draft: Draft) -> Accepted:
        """Store a message under the next seq and wake that mailbox's watchers of mail alone.

        A repeat is looked for before room is: a send_id that this sender used for this mailbox
        gets the first result and stores nothing, even if the mailbox has become full since, or
        has blocked the sender. To another mailbox it is another message, so mailboxes share
        nothing.

        With ``copy_to`` the sender's mailbox gets a copy, with the message's id, time and ``n``,
        and its watchers of copies are woken: mail first, and then the copy, as one step where the
        store can. If this returns, both are there. If it raises, both may be missing, or the copy
        alone; a repeat puts in what is missing, and never a second copy of a message whose copy is
        there. Mail to oneself has no copy, and a sender whose mailbox is gone gets none.

        A send_id counts for the policy's hours by the sent_at of both sends, whichever is the
        later one, so that a clock that was set wrong for a moment keeps none for ever. Of each
        mailbox, and of each sender within it, the policy's number is remembered: when there are
        more, the first to come are the first to go, and up to an eighth of them may go at once.

        Raises:
            NoSuchUser: there is no such mailbox.
            SendIdConflict: the send_id stands for another body.
            Refused: the mailbox has blocked the sender, and is not its own; it is looked for in
                the same step.
            MailboxFull: as much in it is not acked as its quota allows.
        """

    @abstractmethod
    def read(
        self,
        account_id: str,
        after: int,
        limit: int,
        max_bytes: int,
        kinds: Kinds = MAIL_ALONE,
    ) -> MailPage:
        """Return the first entries with a seq above ``after``, acked or not.

        Args:
            account_id: whose mailbox.
            after: a seq; 0 is before the first.
            limit: at most so many entries, of all kinds together.
            max_bytes: stop before the bodies have more bytes of UTF-8 than this, but not
                before the first entry.
            kinds: which entries; others are passed over.

        Raises:
            NoSuchUser: there is no such mailbox.
            CursorInvalid: ``after`` is beyond the last seq, and not inside a jump.
        """

    def look(self, look: MailboxLook) -> MailPage:
        """Acknowledge if that is asked for, and then read.

        A store may do both in one step. This default does one after the other, so what it
        acknowledged stays so if it cannot read.

        Raises:
            NoSuchUser: there is no such mailbox.
            CursorInvalid: ``after`` or ``ack`` is beyond the last seq, and not inside a jump.
        """
        account_id, after, limit, max_bytes, ack, now, kinds = look
        deliveries: tuple[Delivery, ...] = ()
        position = 0
        if ack is not None:
            position, _, deliveries = self.ack(account_id, ack, now)
        elif not limit:
            position = self.standing(account_id).position
        if not limit:
            return MailPage((), position, more=False, seen=after, deliveries=deliveries)
        page = self.read(account_id, after, limit, max_bytes, kinds)
        if not deliveries:
            return page
        return MailPage(*page[:-1], deliveries)  # a quarter of what `_replace` takes

    def look_many(self, looks: Sequence[MailboxLook]) -> list[MailPage | RequestError]:
        """Make several looks, of different mailboxes or of one; a store may make them as one.

        Returns:
            For each look, in their order, its page, or what `look` would have raised: one that is
            refused is no affair of the others.
        """
        outcomes: list[MailPage | RequestError] = []
        for look in looks:
            try:
                outcomes.append(self.look(look))
            except RequestError as error:
                outcomes.append(error)
        return outcomes

    @abstractmethod
    def history(
        self,
        account_id: str,
        before: int | None,
        limit: int,
        max_bytes: int,
        now: int,
        *,
        kinds: Kinds = MAIL_ALONE,
        peer: Peer | None = None,
    ) -> MailPage:
        """Return the last entries with a seq below ``before``, by rising seq.

        The limits are those of `read`, counted from the newest. An acked message, a copy or a
        receipt that is older than the policy's history at ``now`` is not returned.

        Args:
            account_id: whose mailbox.
            before: a seq; None: beyond the last one.
            limit: at most so many entries, of all kinds together.
            max_bytes: as for `read`.
            now: in ms.
            kinds: which entries.
            peer: only the mail of this account, the copies of what was sent to it, and its
                receipt; of one that is not known there is nothing. What that costs is of the page
                and not of the mailbox.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def conversations(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> ConversationPage:
        """Return with whom messages were exchanged, the newest message first.

        A conversation is with an account, not with a name, and says which: of two accounts that
        had one name, one after the other, each has its own. Mail to oneself is one too. Mail of
        which the sender's name alone was kept has one for each name, of no account.

        Args:
            account_id: whose mailbox.
            before: only those whose last message has a seq below this; None: all.
            limit: at most so many.
            max_bytes: as for `read`, of the bodies of the last messages.
            now: in ms; what is too old for `history` is not there.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        """Put in a receipt, instead of the one of the same account, and wake its watchers.

        Nothing happens if the mailbox is gone, gives no receipts, or has blocked the account; if it
        has a receipt of it with this ``n`` or a higher one; and if it is the account's own.
        """

    @abstractmethod
    def set_receipts(self, account_id: str, *, receipts: bool) -> None:
        """Let a mailbox give receipts and take them, or not; at first it does.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def block(self, account_id: str, peer: Blocked) -> None:
        """Refuse the mail of an account from now on; one that is blocked already stays so.

        Raises:
            NoSuchUser: there is no such mailbox.
            BlockListFull: `MOST_BLOCKED` others are.
        """

    @abstractmethod
    def unblock(self, account_id: str, peer_id: str) -> bool:
        """Take mail of an account again, and return whether it was blocked.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def blocked(self, account_id: str) -> Sequence[Blocked]:
        """Return whose mail a mailbox refuses, by username and then by account id.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def ack(self, account_id: str, up_to: int, now: int) -> Acked:
        """Move the position forward to ``up_to``; a lower seq changes nothing.

        Acked messages beyond the policy's history are removed.

        Raises:
            NoSuchUser: there is no such mailbox.
            CursorInvalid: ``up_to`` is beyond the last seq, and not inside a jump.
        """

    @abstractmethod
    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        """Delete entries of any kind, and return how many of them there were.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def standing(self, account_id: str) -> Standing:
        """Return the position, how many messages lie beyond it, and whether it gives receipts.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def usage(self, account_id: str) -> MailboxUsage:
        """Return what a mailbox holds; it may read all of it.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def set_quota(self, account_id: str, messages: int | None) -> None:
        """Set how many unacked messages one mailbox may hold; None: the policy's number.

        What is in it already stays.

        Args:
            account_id: whose mailbox.
            messages: at least 1.

        Raises:
            NoSuchUser: there is no such mailbox.
        """

    @abstractmethod
    def trace(
        self, message_id: str, account_id: str | None = None, *, now: int
    ) -> MessageTrace | None:
        """Return where a message is, or None if nothing is known of it.

        A message that is gone is known for as long as its send_id is. It may read all that a
        mailbox holds, and with no account given all that the store holds.

        Args:
            message_id: which message.
            account_id: whose mailbox to look into; None: every one, for the operator.
            now: in ms; as in `history`, what has aged by then is not there.
        """

    def depths(self) -> Depths | None:
        """Return how full the mailboxes are; None from a store that does not say.

        It looks at all of them, so it is called once a minute at most, by a thread that may wait.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        return None

    @abstractmethod
    def on_mail(self, account_id: str, wake: Wake, kinds: Kinds = MAIL_ALONE) -> Unsubscribe:
        """Have ``wake`` called whenever an entry of a kind arrives or the mailbox is dropped.

        Subscribe first and look afterwards: for a mailbox that is gone nothing is called. It may
        take a round trip to the engine of a store that several servers share.

        Raises:
            StoreUnavailable: such a store cannot be asked now.
        """


Step = Callable[[bytes | None], bytes | None]
"""Makes the next value of a state out of the present one; None is no state. It may be called again
with a newer value if another server was faster, and what it raises leaves everything as it is."""


class SharedStates(ABC):
    """Small values by key, which all servers of a store change one after the other.

    What limits count is kept in them, so that a limit holds however many servers there are. They
    are no messages: an engine may lose the newest of them when it fails.
    """

    @abstractmethod
    def change(self, key: str, step: Step, *, keep_ms: int) -> None:
        """Change a value as one step: no other server changes it meanwhile.

        Args:
            key: any text, of at most a few hundred bytes.
            step: makes the new value, of at most 8 KiB.
            keep_ms: the value is forgotten when it has not been changed for so long.

        Raises:
            StoreUnavailable: it was not changed, or that is not known.
            Exception: what ``step`` raises.
        """

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """Return a value as it is now.

        Raises:
            StoreUnavailable: it cannot be read.
        """


CLOCK_WARN_MS: Final = 2_000
"""How far a server's clock may be off its store's before its operator is told."""
CLOCK_REFUSE_MS: Final = 30_000
"""How far it may be off before a store that others share is not served: a server that lives in the
future would trim everybody's history."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a store is, as it was found to be just now.

    Attributes:
        durability: what an acknowledged write survives now. An engine's settings may change, and
            another machine may take its place.
        epoch: of a store that can be put back or fail over: it changes when that has happened.
            Any text, and "" where it never does.
        clock_offset_ms: how far this machine's clock is ahead of the store's, in ms.
        lag_seconds: for how long this server may not have heard what the others did; 0 where
            there are no others.
        free_bytes: how much room the file system has that the store is in; None where that is not
            on this machine, or not in files.
    """

    durability: Durability
    epoch: str = ""
    clock_offset_ms: int = 0
    lag_seconds: float = 0.0
    free_bytes: int | None = None


OnCommit = Callable[[int, float], None]
"""Called after a commit with how many writes were in it, and how many seconds it took."""


class Store(ABC):
    """Two halves that share nothing but their life.

    Attributes:
        accounts: users, password hashes and sessions.
        mailboxes: messages and positions.
        durability: what an acknowledged write survives.
        incarnation: unlike that of every other store, where all that it keeps ends with the
            process that has it open; None: it lasts. Clients are told, so that a person learns
            why an account is gone.
        blocks: whether a call may wait for anything: a disk, a network, a thread. One that says
            that it does not is called on an event loop, where all would wait with it; but for
            `Accounts.page`, which a loop leaves to another thread in any case.
        shared: whether several servers may have the same state open at once. `open_store`'s
            registry tells it of a URL, before anything is opened.
        states: what limits are counted in, of a store that several servers share. None: each
            server counts by itself.
    """

    accounts: Accounts
    mailboxes: Mailboxes
    durability: Durability
    incarnation: str | None = None
    blocks: bool = True
    shared: bool = False
    states: SharedStates | None = None

    def health(self) -> Health:
        """Ask how the store is; it may take a round trip to its engine.

        Raises:
            StoreUnavailable: it does not answer in time, or writes are refused, with why.
        """
        return Health(self.durability)

    def change_policy(self, policy: MailboxPolicy) -> bool:  # noqa: ARG002 - of those that can
        """Keep in mailboxes what another policy says, from now on; from any thread.

        What is too much by then goes when it would have gone: at the next ack, for instance.

        Returns:
            Whether it does. A store that servers share does not: all must have the same policy,
            and so it is changed while none uses the store.
        """
        return False

    def on_commit(self, call: OnCommit) -> None:  # noqa: B027 - most stores gather nothing
        """Have ``call`` called after each commit, if writes that wait are committed together.

        It is called by the thread that commits, and returns at once. A store that makes each write
        by itself need not do anything.
        """

    def close(self) -> None:  # noqa: B027 - a store in memory holds nothing to release
        """Release what the store holds; it must not be used afterwards."""

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
