"""The client for an event loop: the methods of `Client`, to be awaited.

Theory of operation: that of `twinline.transports.client`, whose engine it shares, with tasks in
the place of threads::

    callers' tasks ──(one after another)──▶ command connection ──▶ server
    the watcher's task ───────────────────▶ watch connection ────▶ server

* A client belongs to the event loop from which it is used first, and is not safe for threads; a
  call from another loop raises `ClientBusy`. Nothing blocks the loop: names are looked up in a
  thread, which a deadline abandons, bytes travel by asyncio transports.
* Any number of tasks may call; their commands are carried out one after another.
* A command that is cancelled closes its connection, for where the next reply begins is unknown; a
  later command opens another one. Whether the request was done is unknown, as with
  `ConnectionLost`; a send can be repeated if it was given a ``send_id``.
* A task that is cancelled in the body of a loop over `AsyncClient.messages`, or while that waits,
  has not dealt with the message that it has: the next loop gets it again.
* What waits is woken by its own future, within the loop; the locks of the engine are free at
  every await, and so never wait.

Callbacks may be plain functions or coroutine functions. A plain one runs in the event loop, which
it must not block. ``on_message`` is awaited in the watcher's task, and may await anything,
`AsyncClient.close` too. ``on_state``, where it is a coroutine function, is awaited in a task of
its own, state after state; it may await `AsyncClient.close` but no command.
"""

# ruff: noqa: D102 - a method that is as in `Client` has its docstring

import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Self, TypeVar

from twinline.core import protocol
from twinline.core.protocol import MAIL_ALONE, Entry, Kind, Message
from twinline.transports.client.backends.aio import AsyncioBackend
from twinline.transports.client.base import ACCOUNT_DELETED, ClientBase
from twinline.transports.client.client import Client
from twinline.transports.client.engine.engine import Engine
from twinline.transports.client.engine.inbox import MessageLoop
from twinline.transports.client.errors import ClientBusy
from twinline.transports.client.options import ClientOptions, Endpoints
from twinline.transports.client.requests import build, build_deletions, build_history
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State
from twinline.transports.contract import Transport

__all__ = ["AsyncClient", "Messages"]

_C = TypeVar("_C")


def _documented(cls: type[_C]) -> type[_C]:
    """Give each method that has no docstring that of `Client`."""
    for name, method in vars(cls).items():
        if callable(method) and method.__doc__ is None:
            method.__doc__ = getattr(getattr(Client, name, None), "__doc__", None)
    return cls


@_documented
class AsyncClient(ClientBase):
    """A user of a server, for the tasks of one event loop.

    Every command opens the connection if need be, takes at most ``command_seconds``, and raises
    what the method of that name of `Client` raises. Besides what each names, commands raise
    `NotConnected`, `ConnectionLost`, `TimedOut`, `ClientClosed`, `ClientBusy`, and any
    `twinline.core.errors.RequestError` that the server answers.

    Attributes:
        endpoints: of the servers that it was given, in that order.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        transport: str | Transport | None = None,
        resume: bool = True,
        watch: WatchMode = WatchMode.STREAMING,
        kinds: Iterable[Kind] = MAIL_ALONE,
        on_message: Callable[[Message], Awaitable[None] | None] | None = None,
        on_state: Callable[[State], Awaitable[None] | None] | None = None,
        on_handler_error: Callable[[Message, Exception], Awaitable[None] | None] | None = None,
        tls: ssl.SSLContext | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        """Prepare; nothing is connected yet, and no event loop is needed yet.

        Args:
            endpoints: such as ``tcp://127.0.0.1:7767`` or ``unix:/run/twinline.sock``; or several,
                of servers with one state, of which it uses one at a time.
            transport: a name or a transport; None for what each endpoint says, else ``jsonl``.
            resume: whether to resume the session after a broken connection, or be logged out.
            watch: how the mailbox is watched.
            kinds: as `Client` has it.
            on_message: called with each message, in order, in the watcher's task; the message is
                acked after it has returned, and comes again if it has raised. None leaves the
                messages to `messages`.
            on_state: called with each state, in order.
            on_handler_error: called when ``on_message`` has raised; None logs it.
            tls: for ``tls://`` and ``wss://``, as `twinline.transports.tls.client_context` makes
                it; None for one that trusts what the system does.
            settings: None for the defaults.

        Raises:
            EndpointError: an endpoint cannot be understood, or there is none.
            UnknownTransport: there is no transport of that name.
        """
        options = ClientOptions.of(
            endpoints,
            transport,
            settings,
            tls=tls,
            watch=watch,
            kinds=frozenset(kinds),
            resume=resume,
            on_message=on_message,
            on_state=on_state,
            on_handler_error=on_handler_error,
        )
        super().__init__(AsyncioBackend, options)

    # -- the connection -----------------------------------------------------------------

    async def connect(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as `Client.connect` has it
    ) -> protocol.HelloReply:
        """Connect, trying again until the server is there; calling it is optional.

        Args:
            timeout: seconds, or None for as long as it takes.

        Raises:
            BadRequest: the timeout is neither a number nor None.
            NotConnected: not in time.
            UnsupportedVersion: the server speaks another version of the protocol.
            ClientClosed: the client is closed, or was while this waited.
        """
        return await self._engine.connect(timeout)

    def retry_now(self) -> None:
        """Make the next attempt to connect now, where one is waited for: a person asks for it.

        A server that has asked for some time is given it. Otherwise nothing happens.
        """
        self._engine.link.hurry()

    async def ping(self) -> float:
        begin = time.monotonic()
        await self._engine.ask(protocol.Ping(), protocol.Done)
        return time.monotonic() - begin

    async def close(self) -> None:
        """Ack what is dealt with and end; from any task of the loop, twice if need be.

        Every call that waits raises `ClientClosed` at once, and `messages` ends. When this returns
        the server has the acks, unless it does not answer within a second. No task and no socket is
        left afterwards: a callback that does not return within a few seconds is
        cancelled. Only an ``on_message`` that has called this goes on until it returns. The
        session stays open at the server, for `resume` with the `token`.
        """
        await self._engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    # -- the session --------------------------------------------------------------------

    async def create_account(
        self, username: str, password: str, *, invitation: str | None = None
    ) -> protocol.SessionReply:
        request = build(
            protocol.CreateAccount, username=username, password=password, invitation=invitation
        )
        return await self._engine.log_in(request)

    async def login(
        self, username: str, password: str, *, new_password: str | None = None
    ) -> protocol.SessionReply:
        request = build(
            protocol.Login, username=username, password=password, new_password=new_password
        )
        return await self._engine.log_in(request)

    async def login_certificate(self) -> protocol.SessionReply:
        return await self._engine.log_in(protocol.LoginCertificate())

    async def resume(self, token: str) -> protocol.SessionReply:
        return await self._engine.log_in(build(protocol.Resume, session=token))

    async def logout(self) -> None:
        await self._engine.end_session(protocol.Logout(), None)

    async def status(self) -> protocol.StatusReply:
        return await self._engine.ask(protocol.Status(), protocol.StatusReply)

    async def change_password(self, password: str, new_password: str) -> None:
        request = build(protocol.ChangePassword, password=password, new_password=new_password)
        await self._engine.ask(request, protocol.Done)

    async def delete_account(self, password: str, *, force: bool = False) -> None:
        request = build(protocol.DeleteAccount, password=password, force=force)
        await self._engine.end_session(request, ACCOUNT_DELETED)

    async def list_accounts(
        self, pattern: str = "*", after: str | None = None, limit: int = 100
    ) -> protocol.AccountsReply:
        request = build(protocol.ListAccounts, pattern=pattern, after=after, limit=limit)
        return await self._engine.ask(request, protocol.AccountsReply)

    async def accounts(self, pattern: str = "*") -> AsyncIterator[str]:
        page = await self.list_accounts(pattern)
        for username in page.usernames:
            yield username
        while page.more:
            page = await self.list_accounts(pattern, after=page.usernames[-1])
            for username in page.usernames:
                yield username

    # -- the mail -----------------------------------------------------------------------

    async def send(
        self, to: str, body: str, send_id: str | None = None, *, copy: bool = False
    ) -> protocol.SentReply:
        """Send a message; when this returns the server has stored it.

        Args:
            to: the recipient's username.
            body: the text.
            send_id: 1 to 64 bytes that stand for this message; None lets the client choose. To
                repeat a send whose outcome is unknown, pass the error's ``send_id``; give one of
                your own to a send that may be cancelled and then repeated.
            copy: whether a copy is kept in this account's own mailbox.

        Raises:
            BadRequest, MessageTooLong, NoSuchUser, Refused, MailboxFull, SendIdConflict,
            RateLimited.
        """
        request = build(
            protocol.Send,
            to=to,
            body=body,
            send_id=send_id or self._new_send_id(),
            copy_=copy,
        )
        return await self._engine.ask(request, protocol.SentReply)

    def messages(self, timeout: float | None = None, *, ack: bool = True) -> "Messages":
        """Return the messages as they come, in order, for ``async for``.

        A message is dealt with when the loop comes back for the next one: leaving the loop
        within the body, by ``break``, an error or a cancellation, leaves the message to the next
        loop.

        Args:
            timeout: end when there is no message for so many seconds; None for never.
            ack: ack each message that is dealt with; else `ack` is the caller's to call.

        Returns:
            What ends at the timeout, at the end of the session, or when the client is closed.
            Its first step raises what `Client.messages` raises.
        """
        return Messages(self.entries(timeout, ack=ack))

    def entries(self, timeout: float | None = None, *, ack: bool = True) -> "Entries":
        """Return entries of all the kinds that this client watches for; see `Client.entries`."""
        return Entries(self._engine, timeout, ack=ack)

    async def ack(self, up_to: int) -> protocol.AckReply:
        return await self._engine.ack(build(protocol.Ack, up_to=up_to))

    async def history(
        self,
        before: int | None = None,
        limit: int = 50,
        *,
        peer: str | None = None,
        account: str | None = None,
        kinds: Iterable[Kind] | None = None,
    ) -> protocol.HistoryReply:
        request = build_history(before, limit, peer, account, kinds)
        return await self._engine.ask(request, protocol.HistoryReply)

    async def conversations(
        self, before: int | None = None, limit: int = 50
    ) -> protocol.ConversationsReply:
        request = build(protocol.Conversations, before=before, limit=limit)
        return await self._engine.ask(request, protocol.ConversationsReply)

    async def block(self, username: str) -> None:
        await self._engine.ask(build(protocol.Block, username=username), protocol.Done)

    async def unblock(self, username: str) -> None:
        await self._engine.ask(build(protocol.Unblock, username=username), protocol.Done)

    async def blocked(self) -> tuple[str, ...]:
        return (await self._engine.ask(protocol.ListBlocked(), protocol.BlockedReply)).usernames

    async def set_receipts(self, receipts: bool) -> None:  # noqa: FBT001 - it is what is set
        await self._engine.ask(build(protocol.SetReceipts, receipts=receipts), protocol.Done)

    async def trace(self, message_id: str, to: str) -> protocol.TraceReply:
        request = build(protocol.Trace, message_id=message_id, to=to)
        return await self._engine.ask(request, protocol.TraceReply)

    async def delete_messages(self, seqs: Iterable[int]) -> int:
        deleted = 0
        for request in build_deletions(seqs):
            deleted += (await self._engine.ask(request, protocol.DeletedReply)).deleted
        return deleted


class Messages(AsyncIterator[Message]):
    """A loop over a client's messages; see `AsyncClient.messages`."""

    def __init__(self, entries: "Entries") -> None:
        self._entries = entries

    async def __anext__(self) -> Message:
        while not isinstance(entry := await anext(self._entries), Message):
            pass
        return entry

    async def aclose(self) -> None:
        """Leave the loop; its message, if it has one, stays for the next loop."""
        await self._entries.aclose()


class Entries(AsyncIterator[Entry]):
    """A loop over the entries that a client watches for; see `AsyncClient.entries`.

    It is no asynchronous generator, whose end a ``break`` leaves to the event loop: this one is
    left when the loop drops it, and the next loop can begin at once.
    """

    def __init__(self, engine: Engine, timeout: float | None, *, ack: bool) -> None:
        self._engine = engine
        self._timeout = timeout
        self._ack = ack
        self._loop: MessageLoop | None = None
        self._waiting = False
        self._ended = False

    async def __anext__(self) -> Entry:
        if self._ended:
            raise StopAsyncIteration
        if self._waiting:
            raise ClientBusy("another task is in this loop")
        if self._loop is not None:
            message = self._loop.next_nowait()
            if message is not None:
                return message
        else:
            loop = self._engine.messages(self._timeout, ack=self._ack)
            loop.lasts.acquire()
            loop.enter()
            self._loop = loop
        self._waiting = True
        try:
            message = await self._loop.next()
        except BaseException:
            # Whoever catches this may hold the traceback, and so this object, for long.
            self._leave()
            raise
        finally:
            self._waiting = False
        if message is None:
            self._ended = True
            self._leave()
            raise StopAsyncIteration
        return message

    async def aclose(self) -> None:
        """Leave the loop; its message, if it has one, stays for the next loop."""
        self._ended = True
        self._leave()

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.lasts.release()
