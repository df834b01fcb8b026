"""What the lines of a client share: the session, the state, and the pace of attempts.

Nothing here does I/O. Each method decides under the one lock and returns; states are delivered,
and the end of a session is told, after the lock has been released.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

from twinline.core.deadline import Deadline
from twinline.core.errors import NotLoggedIn
from twinline.core.locks import new_lock
from twinline.core.protocol import HelloReply, SessionReply
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.inbox import Inbox
from twinline.transports.client.errors import ClientClosed
from twinline.transports.client.state import State, StateKind, StateReport


@dataclass(eq=False, slots=True)
class Session:
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
    def of(cls, reply: SessionReply) -> "Session":
        """Return the session that a reply tells of."""
        return cls(reply.username, reply.session, Inbox(reply.position))


class Link:
    """The shared knowledge of a client's lines.

    Attributes:
        closed: set by `close`; it ends every wait of the client.
        report: delivers the states.
    """

    def __init__(
        self,
        backoff: Backoff,
        report: StateReport,
        *,
        resume: bool,
        on_session_end: Callable[[Session], None],
    ) -> None:
        """Begin unconnected.

        Args:
            backoff: the pace of failed attempts.
            report: told every state.
            resume: whether a session outlives a broken line.
            on_session_end: told once of each session's end, with no lock held; it returns soon.
        """
        self.closed = CancelToken("close of client")
        self.report = report
        self._resume = resume
        self._on_session_end = on_session_end
        self._lock = new_lock("client")
        self._backoff = backoff  # guarded by _lock
        self._not_before = 0.0  # monotonic; no attempt before it; guarded by _lock
        self._state = State(StateKind.CONNECTING)  # guarded by _lock
        self._session: Session | None = None  # guarded by _lock
        self._hello: HelloReply | None = None  # guarded by _lock
        self._generation = 0  # of lines; guarded by _lock
        self._dialling = False  # after a failed attempt, until one succeeds; guarded by _lock
        self._logged_out: str | None = None  # why there is no session; guarded by _lock

    # -- what is so ---------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the client stands."""
        with self._lock:
            return self._state

    @property
    def session(self) -> Session | None:
        """The session, while there is one."""
        with self._lock:
            return self._session

    def require_session(self) -> Session:
        """Return the session.

        Raises:
            ClientClosed: the client is closed.
            NotLoggedIn: there is none; with why it has ended, if there was one.
        """
        if self.closed.is_set:
            raise ClientClosed("the client is closed")
        with self._lock:
            session, reason = self._session, self._logged_out
        if session is None:
            raise NotLoggedIn(None if reason is None else f"log in again: {reason}")
        return session

    @property
    def hello(self) -> HelloReply | None:
        """What the server said of itself when it was last connected to."""
        with self._lock:
            return self._hello

    @property
    def generation(self) -> int:
        """Rises when the watch line breaks: a command line of before is not trusted either."""
        with self._lock:
            return self._generation

    @property
    def next_attempt(self) -> Deadline:
        """The moment before which nobody may try to connect."""
        with self._lock:
            return Deadline(self._not_before)

    # -- what happens to lines ----------------------------------------------------------

    def connected(self, hello: HelloReply) -> None:
        """A line was opened, and bound to the session if there is one."""
        with self._lock:
            self._hello = hello
            self._dialling = False
            self._settle()
        self.report.deliver()

    def failed(self, session: Session | None, reason: str, retry_after: float = 0.0) -> None:
        """An attempt failed, or a new line broke before it was of any use.

        Args:
            session: that the line is for; the state is told only while it is the client's.
            reason: for a person.
            retry_after: seconds that the server asks for.
        """
        with self._lock:
            seconds = max(self._backoff.next(), retry_after)
            self._not_before = monotonic() + seconds
            if session is self._session and (session is None or self._resume):
                self._dialling = True
                self._unsettle(reason, seconds)
        self.report.deliver()
        self.lost(session, reason)

    def proved(self) -> None:
        """A line carried its first request: the next break is tried again at once."""
        with self._lock:
            self._backoff.reset()
            self._not_before = 0.0

    def alive(self) -> None:
        """The watch line works: unless somebody is at it, nothing is broken."""
        with self._lock:
            if self._state.kind is StateKind.RECONNECTING and not self._dialling:
                self._settle()
        self.report.deliver()

    def gave_up(self) -> None:
        """Nobody tries to connect any more, for now."""
        with self._lock:
            self._dialling = False

    def lost(self, session: Session | None, reason: str) -> None:
        """A line of this session broke. Without ``resume`` that is the session's end."""
        if session is not None and not self._resume:
            self.end_session(session, f"the connection was lost: {reason}")

    def watch_lost(self, session: Session, reason: str) -> None:
        """The watch line broke: until a line can be opened the client is not online."""
        self.lost(session, reason)
        with self._lock:
            if self._session is session:
                self._unsettle(reason, None)
        self.report.deliver()

    # -- what happens to the session ----------------------------------------------------

    def bind(self, session: Session) -> None:
        """A line has logged in."""
        with self._lock:
            self._session = session
            self._logged_out = None
            self._settle()
        self.report.deliver()

    def end_session(self, session: Session, reason: str | None) -> None:
        """The session is over, if it is not already; a line that is bound to it is of no use.

        Args:
            session: that has ended; nothing happens if it is not the client's any more.
            reason: for a person, or None when the user asked for it.
        """
        with self._lock:
            ended = self._session is session
            if ended:
                self._session = None
                self._logged_out = reason
                self._set(State(StateKind.LOGGED_OUT, reason))
        if ended:
            self._on_session_end(session)
        self.report.deliver()

    def close(self) -> None:
        """End every wait. The state is told by the next delivery."""
        with self._lock:
            self._set(State(StateKind.CLOSED))
        self.closed.set()

    # -- with the lock held -------------------------------------------------------------

    def _settle(self) -> None:
        if self._session is not None:
            self._set(State(StateKind.ONLINE))
        else:
            self._set(State(StateKind.LOGGED_OUT, self._logged_out))

    def _unsettle(self, reason: str, retry_in: float | None) -> None:
        if self._state.kind is StateKind.ONLINE:
            self._generation += 1
        kind = StateKind.CONNECTING if self._hello is None else StateKind.RECONNECTING
        retry_at = None if retry_in is None else monotonic() + retry_in
        self._set(State(kind, reason, retry_in, retry_at))

    def _set(self, state: State) -> None:
        # The same wait again is another wait: a user interface counts it down anew.
        again = state.retry_in is not None
        if self._state.kind is not StateKind.CLOSED and (again or self._state != state):
            self._state = state
            self.report.push(state)
