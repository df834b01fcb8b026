"""One connection of the event loop's listener: moves the bytes of its conversation, in callbacks.

A connection rests until bytes arrive, mail wakes it, or its time is up; then `go_on` carries out
what there is to do, so much in a turn, and it rests again. It does not go on while a worker carries
out its request, nor while its peer does not read what it is written; nothing is read meanwhile
either, beyond what has been read already::

    resting ──bytes, mail, time──▶ going on ──nothing left to do──▶ resting
       ▲                            │  │  ▲
       │      may block: a worker ◀─┘  │  └── the next turn, marked in `Turns`
       │      carries it out, marks it │
       └── its peer reads ◀── the socket takes no more: `pause_writing`
"""

import asyncio
import logging
import os
import socket
from contextlib import suppress
from time import monotonic
from typing import Any, Final, Protocol

from twinline.core.errors import Busy, LockRuleError
from twinline.core.looks import Look
from twinline.core.metrics import ConnectionCounts
from twinline.core.protocol import Reply
from twinline.core.service import LOGINS, ChatService
from twinline.core.session import Session
from twinline.core.store import MailPage
from twinline.transports.contract import ServerCodec
from twinline.transports.listener.conversation import Conversation, Job
from twinline.transports.listener.holds import HoldDetector
from twinline.transports.listener.introduction import Introduction
from twinline.transports.listener.settings import InForce
from twinline.transports.listener.turns import RECEIVE_BYTES, Timer, Turns
from twinline.transports.listener.workers import Work
from twinline.transports.tls.layer import TlsLayer

log = logging.getLogger(__name__)

_JOBS_A_TURN: Final = 16
_LINGER_SECONDS: Final = 0.5
_LINGER_BYTES: Final = 1024 * 1024
_NO_WORKER: Final = "the server has no thread for this; try again"
_RETRY_AFTER_MS: Final = 1_000


class Host(Protocol):
    """What the connections of one loop share: its listener.

    Attributes:
        service: carries requests out.
        in_force: the deadlines.
        turns: of the loop.
        elsewhere: the jobs that may block, and so are a worker's.
        looks_together: whether the looks of several connections are one worker's.
        long: of those, the ones that take more than moments; they have workers of their own.
        detector: times what is carried out on the loop, or None.
    """

    service: ChatService
    in_force: InForce
    turns: Turns
    elsewhere: frozenset[type[Job]]
    looks_together: bool
    long: frozenset[type[Job]]
    detector: HoldDetector | None

    def submit(self, job: Job, work: Work) -> None:
        """Have a worker carry out a job by calling ``work``.

        Raises:
            RuntimeError, MemoryError: there is none.
        """

    def look(self, connection: "LoopConnection") -> None:
        """Have a worker make a connection's look, with those of others."""

    def ended(self, connection: "LoopConnection") -> None:
        """Count a connection no more."""


class LoopConnection(asyncio.BufferedProtocol):
    """A peer, from its first byte to its last; all but `mark_mail` is called in the loop's thread.

    Attributes:
        address: where it comes from: an IP address, or "unix".
        limit_key: what limits by address count it by; "" while it is counted by none.
        counts: what it counts in, or None.
        socket: the connected one.
        timer: of `Turns`.
    """

    __slots__ = (
        "_at_end",
        "_buffer",
        "_early",
        "_failure",
        "_held",
        "_host",
        "_job",
        "_linger_bytes",
        "_mail",
        "_outcome",
        "_reading",
        "_resting",
        "_talk",
        "_transport",
        "_working",
        "address",
        "counts",
        "limit_key",
        "socket",
        "timer",
    )

    def __init__(
        self,
        peer: socket.socket,
        address: str,
        codec: ServerCodec,
        host: Host,
        limit_key: str,
        *,
        layer: TlsLayer | None = None,
        introduction: Introduction | None = None,
        counts: ConnectionCounts | None = None,
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            peer: the connected socket.
            address: where it comes from.
            codec: for this connection.
            host: what it shares with the others of its loop.
            limit_key: what limits by address count it by.
            layer: of TLS; None where the bytes travel in plain.
            introduction: finds out who the peer is; None where the address says that already.
            counts: what it counts in; None: nothing is counted.
        """
        self.address = address
        self.limit_key = limit_key
        self.counts = counts
        self.timer: Timer | None = None
        self.socket = peer
        self._host = host
        self._buffer = host.turns.buffer
        self._transport: Any = None  # asyncio's, from `connection_made` to `connection_lost`
        self._talk = Conversation(
            codec,
            host.service,
            host.in_force,
            address=address,
            on_mail=self.mark_mail,
            on_end=self._mark,
            clock=monotonic,
            layer=layer,
            introduction=introduction,
            counts=counts,
        )
        self._mail = False  # whether mail has woken it since it looked
        self._resting = False
        self._reading = True
        self._at_end = False  # of what its peer sends
        self._held = False  # while its peer does not read
        # While a worker carries out what there is to do, the conversation is the worker's.
        self._working = False
        self._job: Job | None = None  # that is to be carried out next, if it is known already
        self._outcome: Reply | MailPage | None = None  # of a look that was made with others
        self._early: list[bytes] = []  # what has arrived meanwhile; an empty piece is the end
        self._failure: BaseException | None = None  # what a worker has met
        self._linger_bytes = 0  # that may still be read and dropped, once it has ended

    @property
    def codec(self) -> ServerCodec:
        """What reads its requests."""
        return self._talk.codec

    @property
    def lingers(self) -> bool:
        """Whether all is said, and it only waits for its peer to take note of that."""
        return self._linger_bytes > 0

    @property
    def talk(self) -> Conversation:
        """What is said on it; it is the loop's."""
        return self._talk

    # -- called by other threads --------------------------------------------------------

    def mark_mail(self) -> None:
        """Have it look for mail in the loop's next turn."""
        if not self._mail:
            self._mail = True
            try:
                talk = self._talk
                if talk.brought >= talk.wake_timed_at:
                    talk.note_wake()
                self._host.turns.mark(self)
            except BaseException:
                self._mail = False  # or no later mail would mark it
                raise

    def has_looked(
        self, outcome: Reply | MailPage | None = None, *, failure: BaseException | None = None
    ) -> None:
        """Go on with what came of a look that was made with others, in the loop's next turn."""
        self._outcome, self._failure = outcome, failure
        self._working = False
        self._mark()

    def _mark(self) -> None:
        self._host.turns.mark(self)

    # -- called by the listener ---------------------------------------------------------

    def drain(self) -> None:
        """Let the request that is being carried out finish, and then end.

        One that rests has what has arrived answered first. The socket is not shut down for reading:
        the kernel would answer whatever arrives after the farewell with a reset, and what has not
        gone out by then would be lost.
        """
        self._talk.drain()
        if self._transport is None or not self._resting or self._linger_bytes:
            return  # it ends when what it is at is done
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            pass
        except OSError:
            return  # the loop is about to be told the same
        else:
            self._at_end = not data
            self._arrived(data)
        self.go_on()

    def cut(self) -> None:
        """End now, whatever the peer does."""
        self._talk.drain()
        if self._transport is not None:
            self._abort()
        else:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)  # the loop is about to read from it

    def close(self) -> None:
        """Close a socket that the loop does not have, or has no more."""
        self._host.service.leave(self._talk.session)
        self.socket.close()

    def forget(self) -> None:
        """Close a forked child's copy of the socket; the peer does not notice."""
        # By its number: uvloop has the socket put off its close until its parent's loop is done.
        with suppress(OSError):  # it was closed before
            os.close(self.socket.detach())

    @property
    def looks(self) -> tuple[Session, Look]:
        """The look that is to be made with those of others."""
        job, self._job = self._job, None
        assert isinstance(job, Look)  # noqa: S101 - it was handed over
        return self._talk.session, job

    def has_no_worker(self) -> None:
        """Go on without what was handed over: there is no thread for it."""
        self._job, self._working = None, False
        self._talk.finish(Busy(_NO_WORKER, retry_after_ms=_RETRY_AFTER_MS).to_reply())
        self._mark()

    # -- called by asyncio --------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        self._transport = transport
        # Whatever the socket does not take at once stops the conversation until it is taken. So
        # there is never more to be sent than what is written in one go.
        transport.set_write_buffer_limits(high=0)
        self.go_on()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take in what has arrived."""
        if self._linger_bytes:
            self._linger_bytes -= nbytes
            if self._linger_bytes <= 0:
                self._abort()
            return
        self._arrived(bytes(self._buffer[:nbytes]))
        if self._resting:
            self.go_on()
            if not self._resting or nbytes < len(self._buffer):
                return
            # There may be more, and uvloop would read on, 32 times, before others have a turn.
            self._host.turns.mark(self)
        if self._reading and self._transport is not None:
            # What it has read waits for its turn, and the rest in the socket.
            self._reading = False
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Take in that nothing else will arrive; return whether there may be more to send."""
        if self._linger_bytes:
            return False
        self._at_end = True
        self._arrived(b"")
        if self._resting:
            self.go_on()
        return True

    def pause_writing(self) -> None:
        """Go on no more: the peer reads too slowly."""
        self._held = True
        self._host.turns.call_at(self._talk.cannot_send(), self)

    def resume_writing(self) -> None:
        """Go on: the peer has read."""
        self._held = False
        self._talk.has_sent()
        self._mark()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._resting = False
        self._host.turns.forget(self)
        try:
            self._host.service.leave(self._talk.session)
        finally:
            told = exc is not None and not (self._linger_bytes or self._talk.silent)
            self._talk.tell_fault(self.address, str(exc) if told else None)
            self._host.ended(self)

    # -- called by `Turns` --------------------------------------------------------------

    def go_on(self) -> None:
        """Carry out what there is to do, so much in a turn."""
        if self._transport is None or self._linger_bytes or self._working:
            return
        if self._failure is not None:
            self._fail(self._failure)
            return
        detector = self._host.detector
        try:
            if detector is None:
                self.take_turn()
            else:
                detector.turn(self)
        except Exception as error:  # noqa: BLE001 - it is this connection's affair, and logged
            self._fail(error)
        except BaseException:
            # An exception of a signal's handler is not, but this turn was not finished.
            self._abort()
            raise

    def time_is_up(self) -> None:
        """Do what is due."""
        if self._transport is None or self._working:
            return  # a worker's delay is not its peer's; it is called again when it rests
        if self._linger_bytes:
            self._abort()
            return
        talk = self._talk
        try:
            talk.time_is_up()
        except Exception as error:  # noqa: BLE001 - as in `go_on`
            self._fail(error)
            return
        if talk.cut:
            self._abort()
        elif self._resting:
            self.go_on()
        elif self._held and talk.deadline is not None:
            self._host.turns.call_at(talk.deadline, self)
        # Else it is called again when it rests: nothing else is its peer's delay.

    # -- going on -----------------------------------------------------------------------

    def take_turn(self) -> None:
        """As `go_on`, and raise what goes wrong."""
        talk, host = self._talk, self._host
        if self._outcome is not None:
            outcome, self._outcome = self._outcome, None
            talk.finish(outcome)
        if self._early:
            early, self._early = self._early, []
            for data in early:
                self._take_in(data)
        if self._held:
            return
        self._resting = False
        if self._mail:
            self._mail = False  # before it looks, so that no mail is missed
            talk.look_again()
        session, elsewhere, detector = talk.session, host.elsewhere, host.detector
        handle = host.service.handle if detector is None else detector.handle
        job = self._job or talk.next_job()
        self._job = None
        for _ in range(_JOBS_A_TURN):
            if job is None:
                self._rest()
                return
            away = type(job) in elsewhere
            # What there is to send does not wait for a worker. And what was found before is sent
            # before more is looked for: its peer can read it meanwhile, and if it does not, or has
            # gone, the rest stays in the store.
            if (
                talk.urgent
                and (away or type(job) is Look)
                and (not self._flush() or self._transport.is_closing())
            ):
                self._job = job
                return
            if away:
                self._hand_over(job)
                return
            talk.finish(handle(session, job))
            job = talk.next_job()
        self._job = job
        if not talk.urgent or self._flush():
            host.turns.mark(self)

    def _rest(self) -> None:
        """Send what there is, and wait for what comes, or for the next turn; or end."""
        talk = self._talk
        if talk.urgent and not self._flush():
            return
        if talk.ended:
            self._end()
        elif talk.waits:
            self._resting = True
            if not self._reading:
                self._read_on()
            deadline = talk.deadline
            if deadline is not None:
                self._host.turns.call_at(deadline, self)
        else:  # there was as much to send as others may be kept waiting for
            self._mark()

    def _flush(self) -> bool:
        """Write what there is to send, and return whether it was taken at once."""
        self._transport.write(self._talk.data_to_send())
        return not self._held

    def _read_on(self) -> None:
        self._reading = True
        self._transport.resume_reading()

    def _arrived(self, data: bytes) -> None:
        """As `_take_in`, and end where that goes wrong."""
        try:
            self._take_in(data)
        except Exception as error:  # noqa: BLE001 - a transport of somebody else's may raise any
            self._fail(error)

    def _take_in(self, data: bytes) -> None:
        """Take in what has arrived, nothing being the end, unless a worker has the conversation."""
        if self._working or self._early:
            self._early.append(data)
        elif data:
            self._talk.receive_data(data)
        else:
            self._talk.receive_eof()

    def _hand_over(self, job: Job) -> None:
        """Have a worker carry out what may block, and what comes after it."""
        if type(job) in LOGINS:
            refusal = self._host.service.queue(self._talk.session, job)  # type: ignore[arg-type]
            if refusal is not None:
                self._talk.finish(refusal)
                self._mark()
                return
        self._job, self._working = job, True
        host = self._host
        if (
            host.looks_together
            and isinstance(job, Look)
            # To begin to follow may be a round trip for each.
            and not (job.follow and self._talk.session.followed != job.kinds)
        ):
            host.look(self)
            return
        try:
            host.submit(job, self._work)
        except (RuntimeError, MemoryError):
            self.has_no_worker()

    def _work(self) -> None:
        """Carry out what a worker may; in its thread."""
        talk, host = self._talk, self._host
        job, self._job = self._job, None
        session, mine, others = talk.session, host.elsewhere, host.long
        if type(job) in others:
            others = frozenset()  # who has the time for those has it for all
        try:
            for _ in range(_JOBS_A_TURN):
                if type(job) not in mine or type(job) in others or self._transport is None:
                    break
                if type(job) is Look and talk.urgent:
                    break  # as in the loop: what was found before is sent first
                talk.finish(host.service.handle(session, job))  # type: ignore[arg-type] # not None
                job = talk.next_job()
            self._job = job
        except BaseException as error:  # noqa: BLE001 - the loop ends the connection, and logs it
            self._failure = error
        finally:
            self._working = False
            self._mark()

    # -- ending -------------------------------------------------------------------------

    def _end(self) -> None:
        """Say what is left and that there is no more, and read on for a moment.

        Closing a socket with unread bytes resets the connection, and the reset can overtake
        the last reply (RFC 1122 section 4.2.2.13).
        """
        talk = self._talk
        if talk.cut:
            self._abort()
            return
        data = talk.data_to_send()
        if data:
            self._transport.write(data)
            if self._held:
                return  # it comes here again when that is sent, unless it is cut before
        self._linger_bytes = _LINGER_BYTES
        if self._at_end:
            self._transport.close()
            return
        try:
            self._transport.write_eof()
        except OSError:
            self._abort()
            return
        if not self._reading:
            self._read_on()
        turns = self._host.turns
        turns.forget(self)  # a deadline from before comes sooner, and is none any more
        turns.call_at(monotonic() + _LINGER_SECONDS, self)

    def _abort(self) -> None:
        """End at once, and do no more until `connection_lost` is called."""
        transport, self._transport = self._transport, None
        self._resting = False
        if transport is not None:
            transport.abort()

    def _fail(self, error: BaseException) -> None:
        """End at once: its transport, or what carries it out, has raised what it may not."""
        self._abort()
        if isinstance(error, LockRuleError):
            raise error  # a bug here, and not one to carry on with
        log.error("the connection from %s failed", self.address, exc_info=error)
