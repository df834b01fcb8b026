"""Carries out what is asked on the admin socket."""

import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from pydantic import BaseModel

from twinline.cli.console.shapes import ServerState
from twinline.cli.server.admin import replies, requests
from twinline.cli.server.reload import Outcome
from twinline.core import events
from twinline.core.admin import AccountView, Administration, number_of
from twinline.core.errors import BadRequest, Busy
from twinline.core.events import emit
from twinline.core.locks import new_lock
from twinline.core.service import ChatService
from twinline.core.store import Invitation
from twinline.transports.listener import Listener

MOST_EXPORTS: Final = 64
"""The most exports that are under way; the next page of one beyond is told of in the log again."""
_LEVELS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
}


@dataclass(frozen=True, slots=True)
class Doors:
    """What of a server is the operator's to use, besides its accounts and mailboxes.

    Attributes:
        listener: has the connections.
        drain: has the server drain, and the other nodes of it as well; it does not wait.
        reload: reads again what can be, and tells what came of it.
        node: the server's name among several; None where it is alone.
    """

    listener: Listener
    drain: Callable[[], object]
    reload: Callable[[], Sequence[Outcome]]
    node: str | None


class _Exports:
    """Which pages of mail are expected next, since the log has told who exports them."""

    def __init__(self) -> None:
        self._lock = new_lock("exports")
        self._after: OrderedDict[tuple[str, str], int] = OrderedDict()  # guarded by _lock

    def expect(self, by: str, account_id: str, after: int) -> None:
        """Remember that the page after this seq belongs to an export that was told of."""
        with self._lock:
            self._after[by, account_id] = after
            self._after.move_to_end((by, account_id))
            if len(self._after) > MOST_EXPORTS:
                self._after.popitem(last=False)

    def take(self, by: str, account_id: str, after: int) -> bool:
        """Return whether a page does, and expect it no longer."""
        with self._lock:
            return self._after.pop((by, account_id), None) == after


class Desk:
    """Carries requests out, for any thread."""

    def __init__(self, service: ChatService, doors: Doors) -> None:
        self._service = service
        self._doors = doors
        self._exports = _Exports()
        self._ops: Mapping[type[BaseModel], Callable[[Administration, str, Any], BaseModel]] = {
            requests.Accounts: lambda admin, _, asked: _accounts(admin, asked),
            requests.Sessions: lambda admin, _, asked: _sessions(admin, asked),
            requests.Kick: lambda admin, _, asked: replies.Kicked(
                username=asked.username, sessions=admin.kick(asked.username)
            ),
            requests.Disable: lambda admin, _, asked: _switch(admin, asked, enabled=False),
            requests.Enable: lambda admin, _, asked: _switch(admin, asked, enabled=True),
            requests.ResetPassword: lambda admin, _, asked: replies.OneTimePassword(
                username=asked.username, password=admin.reset_password(asked.username)
            ),
            requests.Quota: lambda admin, _, asked: _quota(admin, asked),
            requests.Delete: lambda admin, _, asked: _delete(admin, asked),
            requests.Invite: lambda admin, _, asked: _invite(admin, asked),
            requests.Invitations: lambda admin, *_: replies.OpenInvitations(
                invitations=tuple(map(_invitation, admin.invitations()))
            ),
            requests.Withdraw: lambda admin, _, asked: _invitation(
                admin.withdraw_invitation(asked.number)
            ),
            requests.Export: self._export,
            requests.ExportMail: self._mail,
            requests.Trace: lambda admin, _, asked: _trace(admin, asked),
            requests.CountUnread: lambda admin, _, asked: replies.Unread(
                unread=dict(admin.unread(asked.usernames))
            ),
            requests.Drain: lambda _, by, __: self._drain(by),
            requests.Reload: lambda _, by, __: self._reload(by),
            requests.SetLogLevel: lambda _, by, asked: self._log_level(by, asked),
            requests.Connections: lambda _, __, asked: self._connections(asked),
        }

    def answer(self, asked: BaseModel, by: str) -> BaseModel:
        """Carry a request out, and return its reply.

        Args:
            asked: one of `requests.AnyRequest`.
            by: who asks, for the log.

        Raises:
            RequestError: it is refused, with why.
            NotImplementedError: the store has nothing of the kind.
        """
        emit(events.ADMIN_ASKED, op=asked.op, by=by)  # type: ignore[attr-defined] # each has one
        return self._ops[type(asked)](self._service.administration(by), by, asked)

    # -- what is kept of an account -----------------------------------------------------

    def _export(
        self, admin: Administration, by: str, asked: requests.Export
    ) -> replies.ExportedAccount:
        account, blocked = admin.export(asked.username)
        self._exports.expect(by, account.account_id, 0)
        return replies.ExportedAccount(
            **_state(account),
            account_id=account.account_id,
            receipts=account.gives_receipts,
            blocked=blocked,
        )

    def _mail(
        self, admin: Administration, by: str, asked: requests.ExportMail
    ) -> replies.ExportedMail:
        goes_on = self._exports.take(by, asked.account_id, asked.after)
        page = admin.mail(asked.account_id, asked.after, goes_on=goes_on)
        if page.more and page.messages:
            self._exports.expect(by, asked.account_id, page.messages[-1].seq)
        return replies.ExportedMail(messages=page.messages, more=page.more)

    # -- the server ---------------------------------------------------------------------

    def _drain(self, by: str) -> replies.Draining:
        _tell("drain", "the server is to drain", by)
        connections = self._doors.listener.connection_count
        self._doors.drain()
        return replies.Draining(node=self._doors.node, connections=connections)

    def _reload(self, by: str) -> replies.Reloaded:
        _tell("reload", "everything that can be is read again", by)
        try:
            outcomes = self._doors.reload()
        except TimeoutError as error:
            raise Busy(str(error)) from None
        node = self._doors.node
        return replies.Reloaded(
            outcomes=tuple(
                replies.ReadAgain(
                    node=node,
                    what=each.what,
                    told=each.told,
                    kept=each.kept,
                    needs_restart=each.waits,
                )
                for each in outcomes
            )
        )

    def _log_level(self, by: str, asked: requests.SetLogLevel) -> replies.LogLevel:
        root = logging.getLogger()
        if asked.level is not None:
            told = f"the log has level {asked.level}"
            # While one of the two levels shows it.
            if root.isEnabledFor(events.ADMIN_ACTION.level):
                _tell("log_level", told, by)
                root.setLevel(asked.level.upper())
            else:
                root.setLevel(asked.level.upper())
                _tell("log_level", told, by)
        return replies.LogLevel.model_validate(
            {"node": self._doors.node, "level": _LEVELS.get(root.level, "warning")}
        )

    def _connections(self, asked: requests.Connections) -> replies.OpenConnections:
        listener = self._doors.listener
        views, more = listener.connections(after=asked.after, limit=asked.limit)
        return replies.OpenConnections(
            server=ServerState(
                node=self._doors.node,
                version=version("twinline"),
                pid=os.getpid(),
                now=time.time_ns() // 1_000_000,
                connections=listener.connection_count,
            ),
            # From the listener's own numbers and names: nothing is left to be validated.
            connections=tuple(
                replies.OpenConnection.model_construct(**each._asdict()) for each in views
            ),
            more=more,
        )


def _tell(action: str, told: str, by: str) -> None:
    emit(events.ADMIN_ACTION, action=action, by=by, username=None, told=told)


# -- accounts ---------------------------------------------------------------------------------


def _state(view: AccountView) -> dict[str, Any]:
    usage = view.usage
    return {
        "username": view.username,
        "enabled": view.enabled,
        "must_change": view.must_change,
        "sessions": view.sessions,
        "unread": 0 if usage is None else usage.unread,
        "messages": 0 if usage is None else usage.messages,
        "bytes": 0 if usage is None else usage.size,
        "quota": None if usage is None else usage.quota,
        "created_at": view.created_at,
        "addresses": tuple(
            replies.AddressSeen(address=address, at=at)
            for address, at in sorted(view.addresses.items(), key=lambda item: -item[1])
        ),
    }


def _accounts(admin: Administration, asked: requests.Accounts) -> replies.AccountStates:
    page = admin.accounts(asked.pattern, asked.after, asked.limit)
    return replies.AccountStates(
        accounts=tuple(replies.AccountState(**_state(view)) for view in page.accounts),
        last=page.last,
        more=page.more,
    )


def _sessions(admin: Administration, asked: requests.Sessions) -> replies.OpenSessions:
    return replies.OpenSessions(
        sessions=tuple(
            replies.OpenSession(
                username=each.username, opened_at=each.opened_at, used_at=each.used_at
            )
            for each in admin.sessions(asked.username)
        )
    )


def _switch(
    admin: Administration, asked: requests.Disable | requests.Enable, *, enabled: bool
) -> replies.Switched:
    (admin.enable if enabled else admin.disable)(asked.username)
    return replies.Switched(username=asked.username, enabled=enabled)


def _quota(admin: Administration, asked: requests.Quota) -> replies.QuotaSet:
    admin.set_quota(asked.username, asked.messages)
    return replies.QuotaSet(username=asked.username, quota=asked.messages)


def _delete(admin: Administration, asked: requests.Delete) -> replies.Deleted:
    admin.delete(asked.username)
    return replies.Deleted(username=asked.username)


# -- invitations and messages -----------------------------------------------------------------


def _invite(admin: Administration, asked: requests.Invite) -> replies.NewInvitation:
    if not asked.note.isprintable():
        raise BadRequest("a note is one line of text")
    token, invitation = admin.invite(asked.hours, asked.note)
    return replies.NewInvitation(**_invitation(invitation).model_dump(), token=token)


def _invitation(invitation: Invitation) -> replies.OpenInvitation:
    return replies.OpenInvitation(
        number=number_of(invitation),
        created_at=invitation.created_at,
        expires_at=invitation.expires_at,
        note=invitation.note,
    )


def _trace(admin: Administration, asked: requests.Trace) -> replies.Traced:
    found = admin.trace(asked.message_id, asked.to)
    if found is None:
        return replies.Traced(
            message_id=asked.message_id,
            state="unknown",
            recipient=None,
            seq=None,
            sender=None,
            sent_at=None,
            acked_at=None,
        )
    trace = found.trace
    return replies.Traced(
        message_id=asked.message_id,
        state=trace.state,
        recipient=found.recipient,
        seq=trace.seq,
        sender=trace.sender,
        sent_at=trace.sent_at,
        acked_at=trace.acked_at,
    )
