"""One connection of the listener: its socket, and the thread that owns it.

The thread that runs `Connection.handle_connection` owns the socket: it alone reads, writes and
closes it, and drives the `Conversation` that says what. Others may only wake the owner, or shut the
socket down, which wakes it too; closing it from outside would not, and would let the number be
reused under the owner's hands. Once a watch has waited the owner waits on the socket and on a
descriptor that mail wakes; so it reads the mail and writes it by itself, and sees at once that its
peer has gone.
"""

import socket
from contextlib import suppress
from math import ceil
from select import POLLIN, POLLOUT, poll
from time import monotonic
from typing import Final

from twinline.core.errors import Busy, RequestError
from twinline.core.locks import checking, may_block, new_lock
from twinline.core.looks import Look
from twinline.core.metrics import ConnectionCounts
from twinline.core.service import ChatService
from twinline.core.waiting import DeferredWakes, deferred_wakes, wake_deferred
from twinline.transports.contract import ServerCodec
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.introduction import Introduction
from twinline.transports.listener.settings import InForce
from twinline.transports.tls.layer import TlsLayer
from twinline.transports.wakeup import WakeDescriptor

_RECEIVE_BYTES: Final = 16 * 1024
_IDLE_RECEIVE_BYTES: Final = 1024
"""The room that a thread which waits for its peer holds; it asks for more when this was filled."""
_LINGER_SECONDS: Final = 0.5
_LINGER_BYTES: Final = 1024 * 1024
_NO_DESCRIPTOR: Final = "the server has no file descriptor left for a watch; try again"
_RETRY_AFTER_MS: Final = 1_000


class Connection:
    """A peer, from its first byte to its last.

    Attributes:
        address: where it comes from: an IP address, or "unix".
        limit_key: what limits by address count it by; "" while it is counted by none.
        counts: what it counts in, or None.
        lingers: whether all is said, and it only waits for its peer to take note of that.
    """

    def __init__(
        self,
        peer: socket.socket,
        address: str,
        codec: ServerCodec,
        service: ChatService,
        in_force: InForce,
        *,
        limit_key: str,
        layer: TlsLayer | None = None,
        introduction: Introduction | None = None,
        counts: ConnectionCounts | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            peer: the connected socket.
            address: where it comes from.
            codec: for this connection.
            service: carries the requests out.
            in_force: the deadlines.
            limit_key: what limits by address count it by.
            layer: of TLS; None where the bytes travel in plain.
            introduction: finds out who the peer is; None where the address says that already.
            counts: what it counts in; None: nothing is counted.
        """
        self.address = address
        self.limit_key = limit_key
        self.counts = counts
        self.lingers = False
        self._socket = peer
        self._service = service
        self._wake = WakeDescriptor()  # opened for the first watch that waits
        self._talk = Conversation(
            codec,
            service,
            in_force,
            address=address,
            on_mail=self._wake.wake if counts is None else self._wake_to_look,
            on_end=self._wake_to_end,
            clock=monotonic,
            layer=layer,
            introduction=introduction,
            counts=counts,
        )
        self._receive_bytes = _IDLE_RECEIVE_BYTES
        self._woken = -1  # the number of what wakes it, once that is open
        self._poll: poll | None = None  # on the socket, and on that
        self._deferred = DeferredWakes()  # of watches that got mail, until the replies are written
        self._lock = new_lock("connection")
        self._closed = False  # guarded by _lock: a shutdown never meets a reused number

    @property
    def talk(self) -> Conversation:
        """What is said on it; it is its own thread's."""
        return self._talk

    # -- instead of the connection's own thread ------------------------------------------

    def refuse(self, error: RequestError) -> None:
        """Answer with an error what has arrived, if that can be done at once.

        For the accepting thread, where there is no thread for this connection.
        """
        with suppress(OSError, MemoryError):
            self._socket.setblocking(False)  # noqa: FBT003 - the name of the method says it
            data = b""
            with suppress(BlockingIOError):
                data = self._socket.recv(_RECEIVE_BYTES)
            self._talk.refuse(data, error)
            self._socket.send(self._talk.data_to_send())
            self._socket.shutdown(socket.SHUT_WR)

    def discard(self) -> None:
        """Read what has come since it was refused: unread, it would reset the connection."""
        with suppress(OSError, MemoryError):
            self._socket.recv(_RECEIVE_BYTES)

    # -- called by other threads --------------------------------------------------------

    def drain(self) -> None:
        """Let the request that is being carried out finish, and then end."""
        self._talk.drain()
        self._wake_to_end()

    def cut(self) -> None:
        """End now, whatever the peer does."""
        self._talk.drain()
        self._shutdown(socket.SHUT_RDWR)

    def _wake_to_look(self) -> None:
        """Have the owner look for mail, and note when it was woken if that is of the sample."""
        talk = self._talk
        if talk.brought >= talk.wake_timed_at:
            talk.note_wake()
        self._wake.wake()

    def _wake_to_end(self) -> None:
        """Have the owner see that it is to end, if it waits.

        Shutting the socket down for reading wakes the one that has no descriptor for it: it has no
        watch open, and so seldom has anything to say. For after that the kernel answers whatever
        arrives behind the farewell with a reset, and what has not gone out by then is lost.
        """
        if self._woken >= 0:
            self._wake.wake()
        else:
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

        The handshakes of TLS and of a WebSocket are made here too, under the login deadline.
        """
        error: str | None = None
        try:
            with deferred_wakes() as self._deferred:
                self._converse()
        except OSError as failure:
            error = None if self._talk.silent else str(failure)
        finally:
            self._service.leave(self._talk.session)
            self._talk.tell_fault(self.address, error)

    def close(self) -> None:
        """Close the socket; the last thing that the owner thread does."""
        with self._lock:
            self._closed = True
        self.forget()

    def forget(self) -> None:
        """Close a forked child's copies of the descriptors; the peer does not notice."""
        self._socket.close()
        self._wake.close()

    def _converse(self) -> None:
        talk, session, service = self._talk, self._talk.session, self._service
        while True:
            job = talk.next_job()
            if job is not None:
                if job.may_take_long:
                    # Neither replies nor wakes are to wait for it.
                    if talk.urgent:
                        self._flush()
                    if (
                        isinstance(job, Look)
                        and job.follow
                        and self._woken < 0
                        and session.logged_in
                        and not self._open_wake()
                    ):
                        error = Busy(_NO_DESCRIPTOR, retry_after_ms=_RETRY_AFTER_MS)
                        talk.finish(error.to_reply())
                        continue
                talk.finish(service.handle(session, job))
                continue
            if talk.urgent:
                self._flush()
            if talk.ended:
                break
            if talk.waits:
                self._wait()
        if not talk.cut:
            self._flush()
            self._linger()

    def _open_wake(self) -> bool:
        """Have mail wake this thread from now on; return whether there is a descriptor for it."""
        try:
            self._wake.open()
        except OSError:
            return False
        self._woken = self._wake.fileno()
        self._poll = None
        return True

    def _wait(self) -> None:
        """Wait for bytes, for mail if a watch is open, and for the deadline; take in what came."""
        talk = self._talk
        if checking.on:
            may_block("receiving")
        deadline = talk.deadline
        if (deadline is not None or self._woken >= 0) and not self._wait_until(deadline):
            return
        # Blocks, where there is neither a deadline nor a descriptor that wakes it.
        data = self._socket.recv(self._receive_bytes)
        if not data:
            talk.receive_eof()
            return
        full = len(data) == self._receive_bytes
        self._receive_bytes = _RECEIVE_BYTES if full else _IDLE_RECEIVE_BYTES
        talk.receive_data(data)

    def _wait_until(self, deadline: float | None) -> bool:
        """Wait for bytes, for a wake and until the deadline; return whether there are bytes."""
        waiting = self._poll
        if waiting is None:
            waiting = self._poll = poll()
            waiting.register(self._socket, POLLIN)
            if self._woken >= 0:
                waiting.register(self._woken, POLLIN)
        milliseconds = None if deadline is None else ceil((deadline - monotonic()) * 1000)
        # Too late, whatever there is to read: a peer that never stops sending extends nothing, nor
        # does mail that never stops coming.
        happened = waiting.poll(milliseconds) if milliseconds is None or milliseconds > 0 else ()
        arrived = False
        for descriptor, _ in happened:
            if descriptor != self._woken:
                arrived = True
            else:
                self._wake.clear()
                self._talk.look_again()
        if not happened:
            self._talk.time_is_up()
        return arrived

    def _flush(self) -> None:
        data = self._talk.data_to_send()
        if not data:
            return
        if checking.on:
            may_block("sending")
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
        talk = self._talk
        deadline = talk.cannot_send()
        writable = poll()
        writable.register(self._socket, POLLOUT)
        while rest:
            if not writable.poll(_milliseconds(deadline)):
                talk.time_is_up()
                if talk.cut:
                    return
            with suppress(BlockingIOError):
                rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]
        talk.has_sent()

    def _linger(self) -> None:
        """Say that there is no more, and read on for a moment.

        Closing a socket with unread bytes resets the connection, and the reset can overtake
        the last reply (RFC 1122 section 4.2.2.13).
        """
        self.lingers = True
        self._shutdown(socket.SHUT_WR)
        readable = poll()
        readable.register(self._socket, POLLIN)
        deadline = monotonic() + _LINGER_SECONDS
        unread = _LINGER_BYTES
        while unread > 0 and readable.poll(_milliseconds(deadline)):
            if checking.on:
                may_block("receiving")
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except OSError:
                return
            if not data:
                return
            unread -= len(data)


def _milliseconds(deadline: float) -> int:
    """Return how long to poll: until the deadline has passed, and not a moment less."""
    return max(0, ceil((deadline - monotonic()) * 1000))
