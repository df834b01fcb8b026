"""One connection of the listener: its socket, codec and session, and the thread that owns them.

The thread that runs `Connection.handle_connection` owns the socket: it alone reads, writes and
closes it. Others may only shut it down, which wakes the owner; closing from outside would not,
and would let the number be reused under the owner's hands.
"""

import logging
import socket
from collections.abc import Callable
from contextlib import suppress

from twinline.core.deadline import Deadline
from twinline.core.errors import RequestError, ShuttingDown
from twinline.core.locks import checking, may_block, new_lock
from twinline.core.protocol import Reply, Request, Watch
from twinline.core.service import ChatService
from twinline.core.waiting import Wake, deferred_wakes, wake_deferred
from twinline.transports.contract import RequestRefused, ServerCodec
from twinline.transports.listener.settings import ListenerSettings

log = logging.getLogger(__name__)

_RECEIVE_BYTES = 16 * 1024
_IDLE_RECEIVE_BYTES = 1024
"""The room that a thread which waits for its peer holds; it asks for more when this was filled."""
_FLUSH_BYTES = 64 * 1024
"""Replies are written together until there is this much; it bounds what one connection holds."""
_LINGER_SECONDS = 0.5
_LINGER_BYTES = 1024 * 1024


class _CutError(Exception):
    """The peer took too long; the connection ends without another word."""


class Connection:
    """A peer, from its first byte to its last.

    Attributes:
        address: where it comes from: an IP address, or "unix".
        limit_key: what limits by address count it by.
    """

    def __init__(
        self,
        peer: socket.socket,
        address: str,
        codec: ServerCodec,
        service: ChatService,
        settings: ListenerSettings,
        *,
        limit_key: str,
        before_wait: Callable[["Connection"], None],
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            peer: the connected socket.
            address: where it comes from.
            codec: for this connection.
            service: carries the requests out.
            settings: the deadlines.
            limit_key: what limits by address count it by.
            before_wait: called once, before the first request that waits.
        """
        self.address = address
        self.limit_key = limit_key
        self._socket = peer
        self._codec = codec
        self._service = service
        self._settings = settings
        self._before_wait: Callable[[Connection], None] | None = before_wait
        self._session = service.session(address, on_end=self._session_ended, keep_subscription=True)
        self._login_deadline: Deadline | None = Deadline.after(settings.login_seconds)
        self._frame_deadline: Deadline | None = None
        self._timed = True  # whether the socket has a timeout; unknown yet
        self._receive_bytes = _IDLE_RECEIVE_BYTES
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._deferred: list[Wake] = []  # of watches that got mail, until the replies are written
        self._fault: str | None = None
        self._ending = False  # set by any thread: no further request is carried out
        self._draining = False  # set by any thread, before _ending: those left are answered
        self._lock = new_lock("connection")
        self._closed = False  # guarded by _lock: a shutdown never meets a reused number

    # -- instead of the connection's own thread ------------------------------------------

    def refuse(self, error: RequestError) -> None:
        """Answer with an error what has arrived, if that can be done at once.

        For the accepting thread, where there is no thread for this connection.
        """
        with suppress(OSError, MemoryError):
            self._socket.setblocking(False)  # noqa: FBT003 - the name of the method says it
            # Read first, for its bytes choose the transport.
            with suppress(BlockingIOError):
                self._codec.receive_data(self._socket.recv(_RECEIVE_BYTES))
            asked = self._codec.next_event()
            self._codec.send(asked.id if asked is not None else None, error.to_reply())
            self._socket.send(self._codec.data_to_send())
            self._socket.shutdown(socket.SHUT_WR)

    def discard(self) -> None:
        """Read what has come since it was refused: unread, it would reset the connection."""
        with suppress(OSError, MemoryError):
            self._socket.recv(_RECEIVE_BYTES)

    # -- called by other threads --------------------------------------------------------

    def fileno(self) -> int:
        """Return the socket's descriptor; valid until the owner thread closes it."""
        return self._socket.fileno()

    def hung_up(self) -> None:
        """End a wait for mail: the peer has hung up."""
        self._session.interrupt()

    def drain(self) -> None:
        """Let the request that is being carried out finish, and then end."""
        self._draining = True
        self._ending = True
        self._session.interrupt()
        self._shutdown(socket.SHUT_RD)

    def cut(self) -> None:
        """End now, whatever the peer does."""
        self._ending = True
        self._session.interrupt()
        self._shutdown(socket.SHUT_RDWR)

    def _session_ended(self) -> None:
        self._ending = True
        self._shutdown(socket.SHUT_RD)

    def _shutdown(self, how: int) -> None:
        with self._lock:
            if not self._closed:
                try:
                    self._socket.shutdown(how)  # does not block
                except OSError:
                    return  # the peer was faster

    # -- the connection's own thread ----------------------------------------------------

    def handle_connection(self) -> None:
        """Answer requests until the peer leaves, breaks the rules, or takes too long.

        A transport with a handshake of its own (TLS) does it here, in the connection's thread
        and under the login deadline.
        """
        try:
            with deferred_wakes() as self._deferred:
                self._converse()
        except _CutError as cut:
            self._fault = self._fault or str(cut)
        except OSError as error:
            self._fault = self._fault or str(error)
        finally:
            self._service.leave(self._session)
            if self._fault is not None:
                log.info("connection from %s: %s", self.address, self._fault)

    def close(self) -> None:
        """Close the socket; the last thing that the owner thread does."""
        with self._lock:
            self._closed = True
        self._socket.close()

    def forget(self) -> None:
        """Close a forked child's copy of the socket; the peer does not notice."""
        self._socket.close()

    def _converse(self) -> None:
        # What happens to every request stands here in one piece. A thread that was just woken
        # finds nothing in the processor's caches, and each call costs it about a microsecond.
        while True:
            event = self._codec.next_event()
            if event is None:
                self._flush()
                if self._ending:
                    break
                data = self._receive()
                if not data:
                    self._codec.receive_eof()
                    break
                self._codec.receive_data(data)
                continue
            self._frame_deadline = None
            if isinstance(event, RequestRefused):
                self._refuse(event)
                if event.fatal:
                    self._flush()
                    break
            elif self._draining:
                self._reply(event.id, ShuttingDown().to_reply())
            elif self._ending:
                # The session is gone; what the peer asked after that is not answered.
                self._flush()
                break
            else:
                request_id, request = event
                if request.may_take_long:
                    self._prepare(request)
                self._reply(request_id, self._service.handle(self._session, request))
                if self._login_deadline is not None and self._session.logged_in:
                    self._logged_in()
        self._linger()

    def _prepare(self, request: Request) -> None:
        """Send replies and wakes now: neither is to wait for a request that may take long."""
        self._flush()
        if self._before_wait is not None and isinstance(request, Watch) and request.wait:
            self._before_wait(self)
            self._before_wait = None

    def _logged_in(self) -> None:
        self._login_deadline = None
        self._codec = self._codec.resolve()
        self._codec.frame_limit = self._service.settings.frame_bytes

    def _refuse(self, event: RequestRefused) -> None:
        self._fault = self._fault or f"{event.error.code}: {event.error.message}"
        self._reply(event.id, event.error.to_reply())

    def _reply(self, id: int | None, reply: Reply) -> None:
        self._codec.send(id, reply)
        data = self._codec.data_to_send()
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= _FLUSH_BYTES:
            self._flush()

    def _receive(self) -> bytes:
        """Return what arrives next, b"" at the end.

        The clock runs until login, and while a frame has begun; a peer that is logged in and
        has nothing to say may be silent for as long as it likes.
        """
        if self._codec.mid_frame and self._frame_deadline is None:
            self._frame_deadline = Deadline.after(self._settings.frame_seconds)
        if checking.on:
            may_block("receiving")
        if self._login_deadline is not None or self._frame_deadline is not None:
            self._set_timeout(self._seconds_left())
        elif self._timed:
            self._set_timeout(None)
        try:
            data = self._socket.recv(self._receive_bytes)
        except TimeoutError:
            raise _CutError(self._lateness()) from None
        full = len(data) == self._receive_bytes
        self._receive_bytes = _RECEIVE_BYTES if full else _IDLE_RECEIVE_BYTES
        return data

    def _seconds_left(self) -> float:
        deadlines = [d for d in (self._login_deadline, self._frame_deadline) if d is not None]
        seconds = min(d.remaining() or 0.0 for d in deadlines)
        if seconds <= 0:
            raise _CutError(self._lateness())
        return seconds

    def _lateness(self) -> str:
        late = "log in" if self._login_deadline is not None else "finish a frame"
        return f"took too long to {late}"

    def _flush(self) -> None:
        if not self._out:
            return  # and no wake is deferred, for each comes with a reply
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        if checking.on:
            may_block("sending")
        if self._timed:
            self._set_timeout(None)
        # Nearly always the kernel takes it all, and no clock is needed.
        try:
            sent = self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        if self._deferred:
            wake_deferred(self._deferred)
        if sent < len(data):
            self._send_slowly(memoryview(data)[sent:])

    def _send_slowly(self, rest: memoryview) -> None:
        deadline = Deadline.after(self._settings.write_seconds)
        while rest:
            try:
                self._set_timeout(deadline.timeout())
                rest = rest[self._socket.send(rest) :]
            except TimeoutError:
                raise _CutError("stopped reading") from None

    def _set_timeout(self, seconds: float | None) -> None:
        # A system call, so callers check `_timed` first.
        self._socket.settimeout(seconds)
        self._timed = seconds is not None

    def _linger(self) -> None:
        """Say that there is no more, and read on for a moment.

        Closing a socket with unread bytes resets the connection, and the reset can overtake
        the last reply (RFC 1122 section 4.2.2.13).
        """
        self._shutdown(socket.SHUT_WR)
        deadline = Deadline.after(_LINGER_SECONDS)
        unread = _LINGER_BYTES
        while unread > 0 and (seconds := deadline.remaining()):
            may_block("receiving")
            self._set_timeout(seconds)
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError:  # TimeoutError among them
                return
            if not data:
                return
            unread -= len(data)
