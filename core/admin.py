"""What an operator may do to accounts, mailboxes and invitations: the door behind the admin socket.

It knows no password but the one-time one that it gives out, and shows no message's text but to the
export of an account's own data. Each action is in the log, with who did it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from twinline.core import events
from twinline.core.accounts import AccountRules
from twinline.core.clock import HOUR_MS, Clock
from twinline.core.errors import BadRequest, NoSuchUser
from twinline.core.events import emit
from twinline.core.names import NamePattern, parse_username
from twinline.core.protocol import MAX_PAGE, TALK, Message
from twinline.core.store import (
    Account,
    Invitation,
    MailboxUsage,
    MailPage,
    MessageTrace,
    SessionRecord,
    Standing,
    Store,
)
from twinline.core.tokens import invitation_hash, new_invitation

MOST_INVITATIONS: Final = 10_000
"""So many may be open at once."""
INVITATION_HOURS: Final = 72.0
"""How long an invitation counts, unless that is said."""
_EXPORT_BYTES: Final = 1 << 20
_NUMBER_DIGITS: Final = 16  # 64 bits of a hash: too few to try, and enough to tell thousands apart


class AccountView(NamedTuple):
    """An account, as an operator sees it.

    Attributes:
        account_id: never used twice.
        username: its name.
        created_at: in ms.
        enabled: whether it may be logged in to.
        must_change: whether its password is a one-time password.
        sessions: how many are open.
        usage: what its mailbox holds; None: it has none.
        position: the last acked seq.
        gives_receipts: whether it gives and takes receipts.
        addresses: where it was logged in to from, and when each was last noted, in ms.
    """

    account_id: str
    username: str
    created_at: int
    enabled: bool
    must_change: bool
    sessions: int
    usage: MailboxUsage | None
    position: int
    gives_receipts: bool
    addresses: dict[str, int]


class ExportView(NamedTuple):
    """What is kept of an account, but for its sessions and its mail.

    Attributes:
        account: the account.
        blocked: the names of those whose mail it refuses, sorted.
    """

    account: AccountView
    blocked: tuple[str, ...]


class AccountPage(NamedTuple):
    """A page of accounts.

    Attributes:
        accounts: sorted by name.
        last: the name to go on after; None: there was none.
        more: whether others follow.
    """

    accounts: tuple[AccountView, ...]
    last: str | None
    more: bool


class TraceView(NamedTuple):
    """Where a message is, and whose mailbox that is.

    Attributes:
        recipient: the account's name; None: it was deleted since.
        trace: the rest.
    """

    recipient: str | None
    trace: MessageTrace


class Administration:
    """What one operator does; made by `twinline.core.service.ChatService.administration`."""

    def __init__(self, store: Store, rules: AccountRules, clock: Clock, by: str) -> None:
        self._accounts = store.accounts
        self._mailboxes = store.mailboxes
        self._rules = rules
        self._clock = clock
        self._by = by

    # -- to see -------------------------------------------------------------------------

    def accounts(
        self, pattern: str = "*", after: str | None = None, limit: int = MAX_PAGE
    ) -> AccountPage:
        """Return the first accounts beyond ``after`` that match; each mailbox is read for its size.

        Raises:
            BadRequest: the pattern cannot be read.
        """
        page = self._accounts.page(NamePattern(pattern), after, limit)
        views = []
        for username in page.usernames:
            account = self._accounts.find(username)
            if account is not None:  # it was not deleted meanwhile
                views.append(self._view(account))
        last = page.usernames[-1] if page.usernames else None
        return AccountPage(tuple(views), last, page.more)

    def account(self, username: str) -> AccountView:
        """Return all that there is to see of an account; its mailbox is read for its size.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        return self._view(self._find(username))

    def _view(self, account: Account) -> AccountView:
        usage: MailboxUsage | None = None
        standing = Standing(0, 0)
        try:
            usage = self._mailboxes.usage(account.account_id)
            standing = self._mailboxes.standing(account.account_id)
        except NoSuchUser:
            pass  # it gets one when it is logged in to
        return AccountView(
            account_id=account.account_id,
            username=account.username,
            created_at=account.created_at,
            enabled=account.enabled,
            must_change=account.must_change,
            sessions=len(self._accounts.sessions(account.account_id)),
            usage=usage,
            position=standing.position,
            gives_receipts=standing.gives_receipts,
            addresses=dict(self._accounts.addresses(account.account_id)),
        )

    def sessions(self, username: str) -> Sequence[SessionRecord]:
        """Return an account's open sessions, the one that was used last first.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        return self._accounts.sessions(self._find(username).account_id)

    def trace(self, message_id: str, username: str | None = None) -> TraceView | None:
        """Return where a message is, or None if nothing is known of it.

        Args:
            message_id: which message.
            username: whom it was sent to; None: all mailboxes are looked through.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        account, now = None if username is None else self._find(username), self._clock()
        if account is not None:
            found = self._mailboxes.trace(message_id, account.account_id, now=now)
            return None if found is None else TraceView(account.username, found)
        found = self._mailboxes.trace(message_id, now=now)
        return (
            None
            if found is None
            else TraceView(self._accounts.username_of(found.account_id), found)
        )

    def unread(self, usernames: Collection[str]) -> Mapping[str, int]:
        """Return how many messages wait for these accounts, those left out that are not there."""
        found = {}
        for username in usernames:
            account_id = self._accounts.recipient(username)
            if account_id is not None:
                try:
                    found[username] = self._mailboxes.standing(account_id).unread
                except NoSuchUser:
                    continue  # it has no mailbox yet, or none any more
        return found

    def export(self, username: str) -> ExportView:
        """Begin to export what is kept of an account, for its owner; `mail` has its messages.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        account = self._find(username)
        name = account.username
        self._tell("export", name, f"what is kept of account {name} is exported")
        view = self._view(account)
        if view.usage is None:
            return ExportView(view, ())
        names = {peer.username for peer in self._mailboxes.blocked(account.account_id)}
        return ExportView(view, tuple(sorted(names)))

    def mail(self, account_id: str, after: int = 0, *, goes_on: bool = False) -> MailPage:
        """Return a page of the mail and the copies that a mailbox holds, for its owner.

        Args:
            account_id: as `export` has told it: another account of the same name has another one.
            after: the seq to go on after.
            goes_on: whether the log has this export already; else it is told of.

        Raises:
            NoSuchUser, CursorInvalid.
        """
        page = self._mailboxes.read(account_id, after, MAX_PAGE, _EXPORT_BYTES, TALK)
        if not goes_on:
            name = self._accounts.username_of(account_id)
            self._tell("export", name, f"mail of account {name} after seq {after} is exported")
        return page

    def messages(self, username: str) -> Iterator[Message]:
        """Yield the messages that an account's mailbox holds, by rising seq, for their owner.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        account_id = self.export(username).account.account_id
        after, more = 0, True
        while more:
            page = self.mail(account_id, after, goes_on=True)
            yield from page.messages
            more = page.more
            if page.messages:
                after = page.messages[-1].seq

    # -- to do --------------------------------------------------------------------------

    def kick(self, username: str) -> int:
        """End all sessions of an account, and return how many there were.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        account = self._find(username)
        count = self._accounts.close_sessions(account.account_id)
        name = account.username
        self._tell("kick", name, f"{count} sessions of account {name} were ended")
        return count

    def disable(self, username: str) -> None:
        """End all sessions of an account, and let nobody log in to it; its mail still comes.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        account = self._find(username)
        self._accounts.enable(account.account_id, enabled=False)
        self._tell("disable", account.username, f"account {account.username} was disabled")

    def enable(self, username: str) -> None:
        """Let an account be logged in to again.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        account = self._find(username)
        self._accounts.enable(account.account_id, enabled=True)
        self._tell("enable", account.username, f"account {account.username} was enabled")

    def reset_password(self, username: str) -> str:
        """Return a one-time password; all sessions end, and the first login has to set another.

        Raises:
            InvalidUsername, NoSuchUser, Busy.
        """
        account = self._find(username)
        password = self._rules.reset_password(account)
        name = account.username
        self._tell("reset_password", name, f"account {name} got a one-time password")
        return password

    def set_quota(self, username: str, messages: int | None) -> None:
        """Set how many unacked messages an account's mailbox may hold; None: as all others.

        Raises:
            BadRequest: it is less than 1.
            InvalidUsername, NoSuchUser.
        """
        if messages is not None and messages < 1:
            raise BadRequest("a quota is at least 1 message")
        account = self._find(username)
        self._mailboxes.set_quota(account.account_id, messages)
        what = "the default" if messages is None else f"{messages:,} messages"
        name = account.username
        self._tell("set_quota", name, f"the quota of account {name} is {what}")

    def delete(self, username: str) -> None:
        """Delete an account, its sessions and all its mail, acked or not.

        Raises:
            InvalidUsername, NoSuchUser.
        """
        account = self._find(username)
        if not self._rules.remove(account):
            raise NoSuchUser
        self._tell("delete", account.username, f"account {account.username} was deleted")

    # -- invitations --------------------------------------------------------------------

    def invite(self, hours: float = INVITATION_HOURS, note: str = "") -> tuple[str, Invitation]:
        """Return a new invitation, with its token, which is kept nowhere else.

        Raises:
            BadRequest: the time is not above 0, or too many are open.
        """
        now = self._clock()
        if not 0 < hours <= 24 * 366:
            raise BadRequest("an invitation counts for some hours, a year at most")
        if len(self._accounts.invitations()) >= MOST_INVITATIONS:
            raise BadRequest(f"{MOST_INVITATIONS:,} invitations are open: withdraw some")
        token = new_invitation()
        invitation = Invitation(invitation_hash(token), now, now + round(hours * HOUR_MS), note)
        self._accounts.add_invitation(invitation)
        until = datetime.fromtimestamp(invitation.expires_at / 1000, UTC)
        self._tell(
            "invite",
            None,
            f"invitation {number_of(invitation)} was made, which counts until "
            f"{until:%Y-%m-%d %H:%M} UTC",
        )
        return token, invitation

    def invitations(self) -> Sequence[Invitation]:
        """Return the invitations that count, the oldest first."""
        now = self._clock()
        return [each for each in self._accounts.invitations() if each.expires_at > now]

    def withdraw_invitation(self, number: str) -> Invitation:
        """Take an invitation back, and return it.

        Args:
            number: of `number_of`.

        Raises:
            BadRequest: there is none of this number.
        """
        for invitation in self._accounts.invitations():
            if number_of(invitation) == number and self._accounts.drop_invitation(
                invitation.token_hash
            ):
                self._tell("withdraw_invitation", None, f"invitation {number} was withdrawn")
                return invitation
        raise BadRequest("there is no invitation of this number: it is spent, or never was")

    # -- the rest -----------------------------------------------------------------------

    def _find(self, username: str) -> Account:
        account = self._accounts.find(parse_username(username))
        if account is None:
            raise NoSuchUser
        return account

    def _tell(self, action: str, username: str | None, told: str) -> None:
        emit(events.ADMIN_ACTION, action=action, by=self._by, username=username, told=told)


def number_of(invitation: Invitation) -> str:
    """Return what an operator knows an invitation by; it opens nothing."""
    return invitation.token_hash.hex()[:_NUMBER_DIGITS]
