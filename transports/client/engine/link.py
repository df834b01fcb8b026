"""The state of a client as one machine, with what all its connections share; no I/O.

Each method is named after what has happened. It decides under the one lock which event that is and
makes the transition that `TRANSITIONS` has for it. A state, and the end of a session, is reported
after the lock has been released. An event that a state's row does not name changes nothing; what
happens to a connection of a session that is not the client's any more is no event at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from time import monotonic
from typing import Final, NamedTuple, Self

from twinline.core.deadline import Deadline
from twinline.core.errors import NotLoggedIn, RequestError
from twinline.core.locks import new_lock
from twinline.core.protocol import HelloReply, SessionReply
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.inbox import Inbox
from twinline.transports.client.engine.route import Route, believed
from twinline.transports.client.errors import ClientClosed
from twinline.transports.client.options import ClientOptions, Server
from twinline.transports.client.state import State, StateKind, StateReport
from twinline.transports.endpoints import Endpoint


class LinkState(Enum):
    """Where a client stands; `kind` is what is reported of it."""

    CONNECTING = "connecting"
    """Never connected yet."""
    LOGGED_OUT = "logged out"
    """Connected, without a session."""
    ONLINE = "online"
    """Connected, with a session."""
    LOST = "lost"
    """A connection broke, and no failed attempt is about to be repeated."""
    RETRYING = "retrying"
    """An attempt to connect failed, and is about to be repeated."""
    CLOSED = "closed"
    """The client was closed; the last state."""

    @property
    def kind(self) -> StateKind:
        """The state that a user interface is shown."""
        return _REPORTED.get(self) or StateKind(self.value)


_FORKED: Final = "the process was forked"
_REPORTED: Final = {
    LinkState.LOST: StateKind.RECONNECTING,
    LinkState.RETRYING: StateKind.RECONNECTING,
}


class Event(Enum):
    """What can happen to a client."""

    CONNECTED = "connected"
    """A connection was opened, and there is no session."""
    RESUMED = "resumed"
    """A connection was opened, and bound to the session."""
    ATTEMPT_FAILED = "attempt failed"
    """An attempt to connect failed, or a connection broke before it carried a request."""
    GAVE_UP = "gave up"
    """A command ended without a connection: it does not try again."""
    LOGGED_IN = "logged in"
    """A session was opened."""
    SESSION_ENDED = "session ended"
    """It was revoked or has expired, or a connection broke and the client does not resume."""
    WATCH_BROKE = "watch broke"
    """The watch connection broke, and the client resumes."""
    WATCH_ANSWERED = "watch answered"
    """The watch connection carried a request."""
    CLOSED = "closed"
    """The client was closed."""


TRANSITIONS: Final[Mapping[LinkState, Mapping[Event, LinkState]]] = {
    LinkState.CONNECTING: {
        Event.CONNECTED: LinkState.LOGGED_OUT,
        Event.ATTEMPT_FAILED: LinkState.CONNECTING,
        Event.CLOSED: LinkState.CLOSED,
    },
    LinkState.LOGGED_OUT: {
        Event.ATTEMPT_FAILED: LinkState.RETRYING,
        Event.LOGGED_IN: LinkState.ONLINE,
        Event.CLOSED: LinkState.CLOSED,
    },
    LinkState.ONLINE: {
        Event.ATTEMPT_FAILED: LinkState.RETRYING,
        Event.SESSION_ENDED: LinkState.LOGGED_OUT,
        Event.WATCH_BROKE: LinkState.LOST,
        Event.CLOSED: LinkState.CLOSED,
    },
    LinkState.LOST: {
        Event.CONNECTED: LinkState.LOGGED_OUT,
        Event.RESUMED: LinkState.ONLINE,
        Event.ATTEMPT_FAILED: LinkState.RETRYING,
        Event.LOGGED_IN: LinkState.ONLINE,
        Event.SESSION_ENDED: LinkState.LOGGED_OUT,
        Event.WATCH_BROKE: LinkState.LOST,
        Event.WATCH_ANSWERED: LinkState.ONLINE,
        Event.CLOSED: LinkState.CLOSED,
    },
    LinkState.RETRYING: {
        Event.CONNECTED: LinkState.LOGGED_OUT,
        Event.RESUMED: LinkState.ONLINE,
        Event.ATTEMPT_FAILED: LinkState.RETRYING,
        Event.GAVE_UP: LinkState.LOST,
        Event.LOGGED_IN: LinkState.ONLINE,
        Event.SESSION_ENDED: LinkState.LOGGED_OUT,
        Event.WATCH_BROKE: LinkState.RETRYING,
        Event.CLOSED: LinkState.CLOSED,
    },
    LinkState.CLOSED: {},
}
"""The state to which an event leads, for each state."""


@dataclass(eq=False, slots=True)
class ClientSession:
    """A session that this client has opened or resumed.

    Attributes:
        username: the account.
        token: what `resume` takes; a secret, and not in the repr.
        inbox: its messages.
    """

    username: str
    token: str = field(repr=False)
    inbox: Inbox = field(repr=False)

    @classmethod
    def of(cls, reply: SessionReply) -> Self:
        """Return the session that a reply has opened."""
        return cls(reply.username, reply.session, Inbox(reply.position))


class Snapshot(NamedTuple):
    """All that decides whether a request may be sent, at one moment.

    Attributes:
        at: where the client stands.
        session: the session, while there is one.
        ended: why there is none any more, or None where there is nothing to explain.
        generation: rises when a connection is found broken while online: other connections of
            before are not trusted either.
    """

    at: LinkState = LinkState.CONNECTING
    session: ClientSession | None = None
    ended: str | None = None
    generation: int = 0

    def require_open(self) -> None:
        """Do nothing while the client is open.

        Raises:
            ClientClosed: it is closed.
        """
        if self.at is LinkState.CLOSED:
            raise ClientClosed("the client is closed")

    def require_session(self) -> ClientSession:
        """Return the session.

        Raises:
            ClientClosed: the client is closed.
            NotLoggedIn: there is none; with why it has ended, if there was one.
        """
        self.require_open()
        if self.session is None:
            raise NotLoggedIn(None if self.ended is None else f"log in again: {self.ended}")
        return self.session


class Link:
    """Where a client stands, its session, the way to its servers, and the pace of its attempts.

    What is written under the lock is replaced as a whole, so it is read without.

    Attributes:
        closed: set by `close`; it ends every wait of the client.
        snapshot: where the client stands; written under the lock.
        state: what was reported of it last, or is about to be; written under the lock.
        hello: the server's, of the last connection; written under the lock.
        server: that the last connection leads to, else the one to try; written under the lock.
        next_attempt: before it no attempt to connect may begin; written under the lock.
        failures: how many attempts have failed; written under the lock.
        hurried: set by `hurry`; who waits for the next attempt looks again. Replaced by it.
    """

    def __init__(
        self,
        options: ClientOptions,
        report: StateReport,
        on_session_end: Callable[[ClientSession], None],
    ) -> None:
        """Begin unconnected.

        Args:
            options: the servers, the backoff, and whether a session outlives a broken connection.
            report: every state goes there.
            on_session_end: called once at each session's end, with no lock held; it returns soon.
        """
        self.closed = CancelToken("close of client")
        self.snapshot = Snapshot()
        self._options = options
        self._route = Route(options)  # guarded by _lock
        self.server = self._route.server
        self.state = State(StateKind.CONNECTING, endpoint=self.server.endpoint)
        self.hello: HelloReply | None = None
        self.next_attempt = Deadline(0.0)
        self.failures = 0
        self.hurried = CancelToken("hurry of client")
        self._asked = Deadline(0.0)  # no attempt before, as the server has it; guarded by _lock
        self._resume = options.resume
        self._report = report
        self._on_session_end = on_session_end
        self._lock = new_lock("client")
        self._backoff = Backoff.of(options.settings)  # guarded by _lock

    def inherit(self, before: "Link") -> ClientSession | None:
        """Go on, in a forked child, where the parent's client stands; nothing is connected yet.

        Returns:
            The session, an object of this client's own.
        """
        was, self.hello, self.server = before.snapshot, before.hello, before.server
        self._route.server = before.next_server
        if was.at is LinkState.CLOSED:
            self.close()
            return None
        if was.at is LinkState.CONNECTING:
            return None
        session, ended = None, was.ended
        if was.session is not None and self._resume:
            session = ClientSession(was.session.username, was.session.token, Inbox(0))
        elif was.session is not None:
            ended = _FORKED
        self.snapshot = Snapshot(LinkState.LOST, session, ended)
        self.state = State(StateKind.RECONNECTING, _FORKED, endpoint=self.server.endpoint)
        return session

    @property
    def next_server(self) -> Server:
        """The server that the next attempt goes to."""
        return self._route.server

    @property
    def why(self) -> str:
        """Why the attempts have failed since one was of use, for a person; "" if none has."""
        with self._lock:
            return self._route.why

    def connected(self, hello: HelloReply, server: Server) -> None:
        """A connection was opened, and bound to the session if there is one."""
        with self._lock:
            self.hello, self.server = hello, server
            session = self.snapshot.session
            if self.snapshot.at is LinkState.ONLINE:
                self._moved()
            else:
                self._move(Event.CONNECTED if session is None else Event.RESUMED)
        self._report.deliver()

    def attempt_failed(
        self,
        session: ClientSession | None,
        server: Server,
        reason: str,
        refusal: RequestError | None = None,
    ) -> None:
        """An attempt failed, or a new connection broke before it was of any use.

        The next attempt is made at once where there is a server that has not failed in this round,
        else after the backoff's wait; but never before the time that the server has asked for.

        Args:
            session: that the connection is for.
            server: that it leads to.
            reason: for a person.
            refusal: what the server has said, if it has.
        """
        named = []
        if refusal is not None and refusal.endpoints:
            named = believed(self._options, refusal.endpoints, server)
        with self._lock:
            goes_on = self._route.failed(server, reason, named)
            seconds = 0.0 if goes_on else self._backoff.next()
            if refusal is not None:
                asked = self._backoff.asked(refusal.retry_after())
                seconds = max(seconds, asked)
                self._asked = Deadline.after(asked)
            # Another connection may have been asked to wait for longer.
            seconds = max(seconds, self.next_attempt.remaining() or 0.0)
            self.next_attempt = Deadline.after(seconds)
            self.failures += 1
            why = self._route.why
        self._broke(Event.ATTEMPT_FAILED, session, why, seconds or None)

    def hurry(self) -> None:
        """Make the next attempt now, or as soon as the server that was asked last allows it."""
        with self._lock:
            if self.next_attempt.passed:
                return
            self.next_attempt = self._asked
            hurried, self.hurried = self.hurried, CancelToken("hurry of client")
            if self.state.retry_at is not None:
                left = self._asked.remaining() or None
                retry_at = None if left is None else monotonic() + left
                self.state = replace(self.state, retry_in=left, retry_at=retry_at)
                self._report.push(self.state)
        hurried.set()
        self._report.deliver()

    def proved(self, server: Server, failures: int) -> None:
        """A connection carried its first request: the next break is tried again at once.

        Args:
            server: that it leads to.
            failures: how many there were when it was dialled. If there was one since, that says
                more of the server than a reply that was under way.
        """
        with self._lock:
            if failures == self.failures:
                self._route.works(server)
                self._backoff.reset()
                self.next_attempt = Deadline(0.0)

    def stopped_answering(self, server: Server) -> None:
        """A connection that was of use has had no reply in time: others are tried first."""
        with self._lock:
            self._route.avoid(server)

    def gave_up(self) -> None:
        """A command has ended without a connection: it makes no more attempts."""
        with self._lock:
            self._move(Event.GAVE_UP)

    def command_broke(self, session: ClientSession | None, reason: str) -> None:
        """The command connection broke: it is replaced at once, or was the session's last."""
        if session is not None and not self._resume:
            self.session_ended(session, f"the connection was lost: {reason}")

    def watch_broke(self, session: ClientSession, reason: str) -> None:
        """The watch connection broke: until it is replaced the client is not online."""
        self._broke(Event.WATCH_BROKE, session, reason, None)

    def watch_answered(self, session: ClientSession) -> None:
        """The watch connection carried a request."""
        if self.snapshot.at is not LinkState.LOST:
            return  # as with nearly every page of mail: nothing changes, and no lock is taken
        with self._lock:
            if self.snapshot.session is session:
                self._move(Event.WATCH_ANSWERED)
        self._report.deliver()

    def logged_in(self, session: ClientSession) -> None:
        """A connection has opened a session."""
        with self._lock:
            self._move(Event.LOGGED_IN, now=self.snapshot._replace(session=session, ended=None))
        self._report.deliver()

    def session_ended(self, session: ClientSession, reason: str | None) -> None:
        """A session is over; a connection that is bound to it is of no use.

        Args:
            session: that has ended; nothing happens if it is not the client's any more.
            reason: for a person, or None when the user asked for it.
        """
        with self._lock:
            ended = self.snapshot.session is session
            if ended:
                now = self.snapshot._replace(session=None, ended=reason)
                self._move(Event.SESSION_ENDED, now=now)
        if ended:
            self._on_session_end(session)
        self._report.deliver()

    def refused_session(
        self, session: ClientSession, reason: str, hello: HelloReply, server: Server
    ) -> None:
        """A server does not know the session any more: what it says of itself may tell why.

        Args:
            session: that it does not know.
            reason: for a person.
            hello: the server's.
            server: that has refused it.
        """
        with self._lock:
            if self.snapshot.session is session:
                self.hello, self.server = hello, server
        self.session_ended(session, reason)

    def close(self) -> Snapshot:
        """End every wait. The state is reported by the next delivery.

        Returns:
            Where the client stood before.
        """
        with self._lock:
            before = self.snapshot
            self._move(Event.CLOSED)
        self.closed.set()
        return before

    def _broke(
        self, event: Event, session: ClientSession | None, reason: str, retry_in: float | None
    ) -> None:
        self.command_broke(session, reason)
        with self._lock:
            if session is self.snapshot.session:
                self._move(event, reason, retry_in)
        self._report.deliver()

    def _move(
        self,
        event: Event,
        reason: str | None = None,
        retry_in: float | None = None,
        now: Snapshot | None = None,
    ) -> None:
        """Make the transition, and queue its report; with the lock held.

        Args:
            event: that has happened.
            reason: for a person.
            retry_in: seconds to the next attempt.
            now: the snapshot with what else has changed; it is replaced once.
        """
        now = now or self.snapshot
        at = TRANSITIONS[now.at].get(event)
        if at is None:
            self.snapshot = now
            return
        broke = now.at is LinkState.ONLINE and at.kind is StateKind.RECONNECTING
        self.snapshot = now._replace(at=at, generation=now.generation + broke)
        if event is Event.GAVE_UP:
            return  # what was reported is still so
        if at is LinkState.LOGGED_OUT:
            reason = now.ended
        retry_at = None if retry_in is None else monotonic() + retry_in
        state = State(at.kind, reason, retry_in, retry_at, *self._place(at))
        # The same wait again is another wait: a user interface counts it down anew.
        if retry_in is not None or state != self.state:
            self.state = state
            self._report.push(state)

    def _moved(self) -> None:
        """Queue the report of another server, if this is one, while online; with the lock held."""
        endpoint, node = self._place(LinkState.ONLINE)
        state = replace(self.state, endpoint=endpoint, node=node)
        if state != self.state:
            self.state = state
            self._report.push(state)

    def _place(self, at: LinkState) -> tuple[Endpoint, str | None]:
        """Return the server that a state is about, and its node; with the lock held."""
        if self.hello is None or at.kind in (StateKind.CONNECTING, StateKind.RECONNECTING):
            return self._route.server.endpoint, None
        return self.server.endpoint, self.hello.node
