"""The client engine under asyncio: the methods of `Client`, to be awaited.

Theory of operation: that of `twinline.transports.client`, whose engine it shares, with tasks in
the place of threads::

    callers' tasks ──(one after another)──▶ command line ──▶ server
    the watcher's task ───────────────────▶ watch line ────▶ server

* A client belongs to the event loop from which it is used first, and is not safe for threads; a
  call from another loop raises `ClientBusy`. Nothing blocks the loop: names are looked up by
  ``loop.getaddrinfo``, bytes travel by asyncio transports (`async_line`).
* Any number of tasks may call; their commands are carried out one after another.
* A command that is cancelled closes its line, for nobody could tell where the next reply begins;
  a later command opens another one. Whether the request was done is unknown, as with
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

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Self

from twinline.core import protocol
from twinline.core.deadline import Deadline
from twinline.core.protocol import Message
from twinline.transports.client import requests
from twinline.transports.client.backends.aio import AsyncioBackend
from twinline.transports.client.base import ACCOUNT_DELETED, ClientBase
from twinline.transports.client.engine.engine import Engine
from twinline.transports.client.engine.inbox import MessageLoop
from twinline.transports.client.errors import ClientBusy
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint

__all__ = ["AsyncClient", "Messages"]


class AsyncClient(ClientBase):
    """A user of a server, for the tasks of one event loop.

    Every command opens the connection if need be, takes at most ``command_seconds``, and raises
    what the method of that name of `Client` raises. Besides what each names, commands raise
    `NotConnected`, `ConnectionLost`, `TimedOut`, `ClientClosed`, `ClientBusy`, and any
    `twinline.core.errors.RequestError` that the server answers.

    Attributes:
        endpoint: the server's.
    """

    def __init__(
        self,
        endpoint: str | Endpoint,
        *,
        transport: str | Transport | None = None,
        resume: bool = True,
        watch: WatchMode = WatchMode.BLOCKING,
        on_message: Callable[[Message], Awaitable[None] | None] | None = None,
        on_state: Callable[[State], Awaitable[None] | None] | None = None,
        on_handler_error: Callable[[Message, Exception], Awaitable[None] | None] | None = None,
        settings: ClientSettings | None = None,
    ) -> None:
        """Prepare; nothing is connected yet, and no event loop is needed yet.

        Args:
            endpoint: such as ``tcp://127.0.0.1:7767`` or ``unix:/run/twinline.sock``.
            transport: a name or a transport; None for what the endpoint says, else ``jsonl``.
            resume: whether to resume the session after a broken connection, or be logged out.
            watch: how the mailbox is watched.
            on_message: called with each message, in order, in the watcher's task; the message is
                acked after it has returned, and comes again if it has raised. None leaves the
                messages to `messages`.
            on_state: called with each state, in order.
            on_handler_error: called when ``on_message`` has raised; None logs it.
            settings: None for the defaults.

        Raises:
            EndpointError: the endpoint cannot be understood.
            UnknownTransport: there is no transport of that name.
        """
        super().__init__(
            AsyncioBackend(),
            endpoint,
            transport,
            settings,
            watch,
            resume=resume,
            on_message=on_message,
            on_state=on_state,
            on_handler_error=on_handler_error,
        )

    # -- the connection -----------------------------------------------------------------

    async def connect(
        self,
        timeout: float | None = None,  # noqa: ASYNC109 - as `Client.connect` has it
    ) -> protocol.HelloReply:
        """Connect, trying again until the server is there; calling it is optional.

        Args:
            timeout: seconds, or None for as long as it takes.

        Raises:
            NotConnected: not in time.
            UnsupportedVersion: the server speaks another version of the protocol.
            ClientClosed: the client is closed, or was while this waited.
        """
        return await self._engine.connect(Deadline.after(timeout))

    async def ping(self) -> float:
        """Ask whether the server is there, and return the seconds that it took."""
        begin = time.monotonic()
        await self._engine.ask(protocol.Ping(), protocol.Done)
        return time.monotonic() - begin

    async def close(self) -> None:
        """Ack what is dealt with and end; from any task of the loop, twice if need be.

        Every call that waits raises `ClientClosed` at once, and `messages` ends. No task and no
        socket is left afterwards: a callback that does not return within a few seconds is
        cancelled. Only an ``on_message`` that has called this goes on until it returns. The
        session stays open at the server, for `resume` with the `token`.
        """
        await self._engine.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()

    # -- the session --------------------------------------------------------------------

    async def create_account(self, username: str, password: str) -> protocol.SessionReply:
        """Create an account, log in to it, and begin to watch its mailbox.

        Raises:
            AlreadyLoggedIn, InvalidUsername, InvalidPassword, UsernameTaken, Busy.
        """
        return await self._engine.log_in(requests.create_account(username, password))

    async def login(self, username: str, password: str) -> protocol.SessionReply:
        """Open a session and begin to watch the mailbox.

        Raises:
            AlreadyLoggedIn, InvalidUsername, BadCredentials, RateLimited, Busy.
        """
        return await self._engine.log_in(requests.login(username, password))

    async def resume(self, token: str) -> protocol.SessionReply:
        """Go on with a session that is open at the server, and begin to watch the mailbox.

        Args:
            token: what `token` was then.

        Raises:
            AlreadyLoggedIn, SessionExpired.
        """
        return await self._engine.log_in(requests.resume(token))

    async def logout(self) -> None:
        """Ack what is dealt with, and revoke the session.

        Called from within ``on_message`` it leaves that message un-acked.

        Raises:
            NotLoggedIn: there is no session.
        """
        await self._engine.end_session(protocol.Logout(), None)

    async def status(self) -> protocol.StatusReply:
        """Return who is logged in, and where the mailbox stands."""
        return await self._engine.ask(protocol.Status(), protocol.StatusReply)

    async def change_password(self, password: str, new_password: str) -> None:
        """Set another password; every other session of the account is revoked.

        Raises:
            InvalidPassword, BadCredentials, RateLimited, Busy.
        """
        request = requests.change_password(password, new_password)
        await self._engine.ask(request, protocol.Done)

    async def delete_account(self, password: str, *, force: bool = False) -> None:
        """Delete the account, its mailbox and its sessions.

        Args:
            password: the account's.
            force: even with undelivered mail.

        Raises:
            UndeliveredMessages: unless ``force``.
            BadCredentials, RateLimited, Busy.
        """
        request = requests.delete_account(password, force=force)
        await self._engine.end_session(request, ACCOUNT_DELETED)

    async def list_accounts(
        self, pattern: str = "*", after: str | None = None, limit: int = 100
    ) -> protocol.AccountsReply:
        r"""Return a page of usernames, sorted.

        Args:
            pattern: ``*`` any run, ``?`` any character, ``\`` escapes the next.
            after: the last username of the page before.
            limit: 1 to 1,000.

        Raises:
            BadRequest: the pattern cannot be read.
        """
        request = requests.list_accounts(pattern, after, limit)
        return await self._engine.ask(request, protocol.AccountsReply)

    async def accounts(self, pattern: str = "*") -> AsyncIterator[str]:
        """Yield all usernames that match, sorted, fetching page after page."""
        page = await self.list_accounts(pattern)
        for username in page.usernames:
            yield username
        while page.more:
            page = await self.list_accounts(pattern, after=page.usernames[-1])
            for username in page.usernames:
                yield username

    # -- the mail -----------------------------------------------------------------------

    async def send(self, to: str, body: str, send_id: str | None = None) -> protocol.SentReply:
        """Send a message; when this returns the server has stored it.

        Args:
            to: the recipient's username.
            body: the text.
            send_id: 1 to 64 bytes that stand for this message; None lets the client choose. To
                repeat a send whose outcome is unknown, pass the error's ``send_id``; give one of
                your own to a send that may be cancelled and then repeated.

        Raises:
            BadRequest, MessageTooLong, NoSuchUser, MailboxFull, SendIdConflict, RateLimited.
        """
        request = requests.send(to, body, send_id or self._new_send_id())
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
        return Messages(self._engine, timeout, ack=ack)

    async def ack(self, up_to: int) -> protocol.AckReply:
        """Acknowledge every message up to a seq; `messages` hands them over no more.

        Raises:
            CursorInvalid: there is no such seq yet.
        """
        return await self._engine.ack(requests.ack(up_to))

    async def history(self, before: int | None = None, limit: int = 50) -> protocol.HistoryReply:
        """Return a page of the mailbox, acked messages included, the newest last.

        Args:
            before: only seqs below this one; None begins at the newest.
            limit: 1 to 1,000.
        """
        request = requests.history(before, limit)
        return await self._engine.ask(request, protocol.HistoryReply)

    async def delete_messages(self, seqs: Iterable[int]) -> int:
        """Delete messages from the mailbox, and return how many of them there were."""
        deleted = 0
        for request in requests.delete_messages(seqs):
            deleted += (await self._engine.ask(request, protocol.DeletedReply)).deleted
        return deleted


class Messages(AsyncIterator[Message]):
    """A loop over a client's messages; see `AsyncClient.messages`.

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

    async def __anext__(self) -> Message:
        if self._ended:
            raise StopAsyncIteration
        if self._waiting:
            raise ClientBusy("another task is in this loop")
        if self._loop is None:
            self._loop = self._engine.messages(self._timeout, ack=self._ack)
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
            loop.leave()
