"""What is said on one connection: no socket, no thread, and no clock of its own.

Bytes go in, and bytes come out; between them are requests that somebody else carries out. So the
same conversation is held over a thread's socket, by an event loop, or by a test, and whoever
carries the bytes decides nothing of it::

    driver                              Conversation
    what the peer sends      ─────▶     receive_data, receive_eof
    carries it out           ◀─────     next_job: a request, or a look at the mailbox
    what came of it          ─────▶     finish
    what the peer gets       ◀─────     data_to_send
    waits, as long as        ◀─────     waits, watches, deadline
    the wait has ended       ─────▶     receive_data, look_again, time_is_up

Its states, and what each event does in them::

    state     what happens                             what is said               next state
    waiting   a whole frame: a request                 nothing yet                working
              a whole frame that cannot be read        its error                  waiting
              a frame whose end cannot be found        its error                  ended
              login takes too long                     nothing                    ended, cut
              a frame takes too long                   nothing                    ended, cut
              end of input                             nothing                    ended
    working   the outcome of a request                 the reply                  waiting
              a look finds mail                        the reply, its last        waiting
              a look finds mail, the stream goes on    the reply, with ``more``   watching
              a look finds mail that has no room left  the two last replies       waiting
              a look finds none                        nothing                    watching
              a look finds none and is the last one    the last reply, empty      waiting
              a look is refused                        the error                  waiting
    watching  the mail's wake                          nothing yet                working
              a whole frame, whatever it is            the last reply, empty      as waiting
              a renewal that has nothing to look for   the last reply, empty      watching
              its time is up                           the last reply, empty      waiting
              end of input                             nothing yet                working
              a frame takes too long                   nothing                    ended, cut

    drain     in any state: an open watch and the requests that have arrived are answered
              `shutting_down`, and then it has ended
    session's in any state: an open watch is answered `session_expired`, what has arrived is not
    end       answered, and then it has ended
    unnamed   the header of a proxy cannot be read, or its peer has too many connections: nothing is
              said, and it has ended, cut
    codec's   in any state: nothing is answered any more, and it has ended; so ends a WebSocket
    end
    unsent    in any state: the peer takes too long to read; it has ended, cut

Where there is more mail than a look may bring, "watching" is left at once by another look, whatever
has arrived by then. A look is the last one when the watch does not wait, its time is up, its window
is full or its peer has ended its side. A renewal has nothing to look for where the stream that it
ends has sent all there is, unless it is to acknowledge: mail that has come since wakes it.

Where the endpoint is one of TLS a layer lies between these bytes and the codec's. What a state says
above is put in by the codec, sealed by the layer when it is taken out, and so never in clear text;
a drain, or the end of the session, in the middle of a handshake is said by closing alone.

Where the peer is a proxy, an `Introduction` finds out who is behind it, before TLS by a header and
after it by what the transport's handshake says; no request is carried out before that is known.
"""

from bisect import bisect_right
from collections.abc import Callable
from json.encoder import encode_basestring
from operator import itemgetter
from random import randint
from typing import Final

from twinline.core import events
from twinline.core.errors import RESTART_MS, RequestError, SessionExpired, ShuttingDown
from twinline.core.events import Event, emit
from twinline.core.looks import Look
from twinline.core.messages import PAGE_BYTES
from twinline.core.metrics import UNKNOWN_SEQ, ConnectionCounts
from twinline.core.protocol import (
    MAIL_ALONE,
    MAX_PAGE,
    AckReply,
    Entry,
    ErrorReply,
    Kinds,
    Message,
    Ping,
    Reply,
    Request,
    Watch,
    WatchReply,
    entries_of,
    kinds_of,
    maker,
)
from twinline.core.service import ChatService
from twinline.core.store import MailPage
from twinline.core.waiting import Wake
from twinline.transports.contract import RequestReceived, RequestRefused, ServerCodec
from twinline.transports.listener.introduction import Introduction
from twinline.transports.listener.proxy import ProxyHeaderError
from twinline.transports.listener.settings import InForce, ListenerSettings
from twinline.transports.tls.certificates import client_certificate
from twinline.transports.tls.layer import TlsError, TlsLayer

Job = Request | Look
FLUSH_BYTES: Final = 64 * 1024
"""Replies are written together until there is about this much."""
_STREAM_BYTES: Final = 64 * 1024
"""What a stream sends before its peer has said that it goes on."""
_REPLY_BYTES: Final = 126
_MAIL_BYTES: Final = 144
_COPY_BYTES: Final = 205
_RECEIPT_BYTES: Final = 120
"""What a reply has besides its entries, a message and a copy besides its body, and a receipt: as
JSON, at the most."""
_watched: Final = maker(WatchReply)
_seq_of: Final = itemgetter(0)  # of what is under way, as the next
_size_of: Final = itemgetter(1)


class Conversation:
    """What is said on one connection.

    It is used by one thread at a time, its owner. Only `drain`, `end_session` and `note_wake` may
    be called by others; the owner has to be woken then.

    Attributes:
        session: whose requests these are.
        codec: reads its requests.
        waits: whether there is nothing to do until more arrives, a wake comes or time passes.
        urgent: whether there is something to send that the peer waits for.
        full: whether there is so much to send that nothing may be added before it is sent.
        ended: whether nothing follows what there is to send.
        cut: whether not even that is sent: the peer took too long.
        fault: what was wrong with the peer, in a few words, or None.
        fault_event: what kind of fault that is.
        asked: how many requests have come.
        brought: how many entries of its mailbox it was sent.
        watched: how many watches were answered, and are no more.
        last_sent: the last seq that it was sent; `UNKNOWN_SEQ` while its counts are to be asked
            for what its session was sent before.
        observed: whether its counts are to be told what comes next; always False without them.
        wake_timed_at: what `brought` is when its owner is to `note_wake`: from then on, for each
            wake by mail; more than it ever is where nothing is counted.
        received: how many bytes have come.
        said: how many bytes were to be sent.
    """

    __slots__ = (
        "_clock",
        "_counts",
        "_drains",
        "_frame_by",
        "_frame_bytes",
        "_id",
        "_in_force",
        "_introduction",
        "_kind",
        "_layer",
        "_login_by",
        "_on_end",
        "_out",
        "_out_bytes",
        "_replies",
        "_replies_left",
        "_said_end",
        "_sent",
        "_sent_by",
        "_session_over",
        "_spoken",
        "_stops",
        "_timed_at",
        "_watch",
        "asked",
        "brought",
        "codec",
        "cut",
        "ended",
        "fault",
        "fault_event",
        "full",
        "last_sent",
        "observed",
        "received",
        "said",
        "session",
        "urgent",
        "waits",
        "wake_timed_at",
        "watched",
    )

    def __init__(
        self,
        codec: ServerCodec,
        service: ChatService,
        in_force: InForce,
        *,
        address: str,
        on_mail: Wake,
        on_end: Wake,
        clock: Callable[[], float],
        layer: TlsLayer | None = None,
        introduction: Introduction | None = None,
        counts: ConnectionCounts | None = None,
    ) -> None:
        """Begin: the time to log in runs.

        Args:
            codec: of the connection.
            service: carries the requests out.
            in_force: the deadlines.
            address: where the peer comes from.
            on_mail: called from any thread when the owner is to call `look_again`.
            on_end: called from any thread when the session has ended, and the owner is to go on.
            clock: seconds that never leap.
            layer: of TLS, through which all bytes go; None where they travel in plain.
            introduction: finds out who the peer is; None where the address says that already.
            counts: what it counts in; None: nothing is counted.
        """
        self.waits = False
        self.urgent = False
        self.full = False
        self.ended = False
        self.cut = False
        self.fault: str | None = None
        self.fault_event = events.CONNECTION_FAILED
        # Whoever shows them reads them as they are: they are small, and cost next to nothing.
        self.asked = self.brought = self.watched = self.received = self.said = 0
        # What its counts take a look at themselves is rare: one flag says whether it is anything.
        self.observed = False
        self.wake_timed_at = UNKNOWN_SEQ
        self.last_sent = 0 if counts is None else UNKNOWN_SEQ
        self._timed_at = 0 if counts is None else counts.gap()  # what `asked` is then
        self._kind: type[Request] = Ping  # of the request that is being carried out
        self._spoken: str | None = None  # what `codec.spoken` was at login
        self.codec = codec
        self._layer = layer
        self._introduction = introduction  # until all is known
        self._in_force = in_force
        self._frame_bytes = service.settings.frame_bytes
        self._clock = clock
        self._on_end = on_end
        self.session = service.session(address, on_end=self._session_ended, on_mail=on_mail)
        self._counts = counts
        if counts is not None:
            counts.follow(self)
        self._login_by: float | None = clock() + in_force.settings.login_seconds
        self._frame_by: float | None = None  # from a frame's first byte
        self._sent_by: float | None = None  # while the peer reads more slowly than it is written to
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._replies = False  # whether there are any in it
        self._replies_left = False  # whether there were, when it was last taken out
        self._said_end = False
        self._id = 0  # of the request that is being carried out
        self._watch: _OpenWatch | None = None
        self._sent: _Sent | None = None  # by the last stream
        # Whether it ends when what has arrived is dealt with: set by the owner at the end of input,
        # and by any thread, after one of the two that say why.
        self._stops = False
        self._drains = False
        self._session_over = False

    # -- called by other threads --------------------------------------------------------

    def drain(self) -> None:
        """End once what is being carried out is answered; the rest is refused."""
        self._drains = True
        self._stops = True

    def end_session(self) -> None:
        """End once what is being carried out is answered; the rest is not answered."""
        self._session_over = True
        self._stops = True

    def note_wake(self) -> None:
        """Note that mail wakes the owner now, as `wake_timed_at` asks for."""
        if self._counts is not None:
            self._counts.note_wake()

    def _session_ended(self) -> None:
        self.end_session()
        self._on_end()

    # -- what was wrong -----------------------------------------------------------------

    def _note_fault(self, fault: str | None, event: Event) -> None:
        """Note what was wrong with the peer; what was wrong first is what counts."""
        if self.fault is None and fault is not None:
            self.fault, self.fault_event = fault, event

    def tell_fault(self, address: str, error: str | None) -> None:
        """Tell of what was wrong with the peer, if anything was; once it has ended.

        Args:
            address: where the peer comes from.
            error: what the socket has said, or None.
        """
        why = self.fault or error
        if why is not None:
            emit(self.fault_event, address=address, why=why)

    # -- what happens -------------------------------------------------------------------

    def receive_data(self, data: bytes) -> None:
        """Take in what has arrived, unless it comes too late.

        So a peer that never ceases to send cannot keep its deadlines from being looked at.
        """
        self.received += len(data)
        if self._login_by is not None or self._frame_by is not None:
            self.time_is_up()
        if self._introduction is not None and self._introduction.awaits_header:
            data = self._behind_header(self._introduction, data)
            if not data:
                return
        if self._layer is None:
            self.codec.receive_data(data)
        else:
            self._open_seal(self._layer, data)

    def _behind_header(self, introduction: Introduction, data: bytes) -> bytes:
        """Take in what has arrived of a proxy's header, and return what lies behind it."""
        if self.ended:
            return b""
        try:
            data = introduction.receive_data(data)
        except ProxyHeaderError as error:
            self._cut_off(str(error), events.PROXY_REFUSED)
            return b""
        if not introduction.awaits_header and not self._introduced(introduction):
            return b""
        return data

    def _hear(self, introduction: Introduction) -> bool:
        """Take in what the transport's handshake has said, and return whether to go on."""
        introduction.hear(self.codec.forwarded_for)
        return self._introduced(introduction)

    def _introduced(self, introduction: Introduction) -> bool:
        """Go by the address that has become known, unless it has too many connections."""
        self.session.address = introduction.address
        if introduction.known:
            self._introduction = None
        accepted = introduction.tell()
        if not accepted:
            self._cut_off("connections_per_address", events.CONNECTION_REFUSED)
        return accepted

    def _cut_off(self, fault: str | None, event: Event = events.CONNECTION_FAILED) -> None:
        self._note_fault(fault, event)
        self.ended = self.cut = True

    def _open_seal(self, layer: TlsLayer, data: bytes) -> None:
        """Take in what has arrived through TLS."""
        established = layer.established
        try:
            opened = layer.receive_data(data)
        except TlsError as error:
            self._note_fault(str(error), events.TLS_FAILED)
            self.ended = self.urgent = True  # an alert may be left to send
            return
        if layer.established and not established:
            self.session.certificate = client_certificate(layer)
        if layer.has_to_send:
            self.urgent = True
        if opened:
            self.codec.receive_data(opened)
        if layer.ended:
            self.receive_eof()

    def receive_eof(self) -> None:
        """Take in that nothing else will arrive."""
        layer = self._layer
        # Where a frame ends is known, so that a cut between two of them takes nothing away.
        if (
            layer is not None
            and not (layer.ended or self._stops)
            and (layer.mid_record or self.codec.mid_frame)
        ):
            self.fault = self.fault or "the TLS connection was cut off in the middle of a frame"
        introduction = self._introduction
        if introduction is not None and introduction.mid_header and not self._stops:
            self.fault = self.fault or "the connection ended in the middle of its PROXY header"
        self.codec.receive_eof()
        self._stops = True
        # In a drain it is not its peer that has ended its side, and the watch is told why it ends.
        if self._watch is not None and not self._drains:
            self._watch.hurry()

    def look_again(self) -> None:
        """Have an open watch look for mail: its session's ``on_mail`` was called."""
        if self._watch is not None:
            self._watch.looks = True
            if self._frame_by is not None:
                self.time_is_up()  # as in `receive_data`

    def time_is_up(self) -> None:
        """Do what is due, if anything; `deadline` has passed.

        While something is carried out only the peer's time to read runs: the rest is not its delay.
        """
        now = self._clock()
        for by, late in (
            (self._sent_by, "read what it was sent"),
            (self._login_by if self.waits else None, self._late_login),
            (self._frame_by if self.waits else None, "finish a frame"),
        ):
            if by is not None and by <= now:
                resting = by == self._login_by and self.codec.at_rest
                self._cut_off(None if resting else f"took too long to {late}")
                return
        watch = self._watch
        # While a look is under way or due, the watch ends by what that finds.
        if watch is not None and self.waits and not watch.looks and watch.until <= now:
            self._end_watch()
            self.urgent = True

    @property
    def _late_login(self) -> str:
        """What a peer has not done that is not logged in."""
        introduction = self._introduction
        if introduction is not None and introduction.awaits_header:
            return "say by a PROXY header who it is"
        return "log in"

    def cannot_send(self) -> float:
        """Have the peer's time to read run: what there was to send could not be sent yet.

        Returns:
            When it is up.
        """
        self._sent_by = by = self._clock() + self._in_force.settings.write_seconds
        return by

    def has_sent(self) -> None:
        """Have the peer's time to read run no more: it was all sent."""
        self._sent_by = None

    # -- what is to be done -------------------------------------------------------------

    def next_job(self) -> Job | None:  # noqa: PLR0912 - one piece, for the reason below
        """Return what is to be carried out now, if anything; `finish` takes what came of it.

        None does not mean that it `waits`: there may be something to send first.
        """
        # What happens to every request stands here in one piece. A thread that was just woken
        # finds nothing in the processor's caches, and each call costs it about a microsecond.
        self.waits = False
        watch = self._watch
        # A due look comes first, even if a frame has arrived: what a stream brings before that
        # frame ends it does not depend on when it arrived.
        if (
            watch is not None
            and watch.looks
            and not (self.ended or self.full or self._drains or self._session_over)
        ):
            if self.observed and self._counts is not None:
                self._counts.look()
            return watch.look()
        while not (self.ended or self.full):
            event = self.codec.next_event()
            if event is None:
                self._exhausted()
                return None
            if self._introduction is not None and not self._hear(self._introduction):
                return None
            self._frame_by = None
            ended = self._watch
            if ended is not None:
                self._end_watch()
            if self._session_over and not self._drains:
                self.ended = True
            elif isinstance(event, RequestRefused):
                self._refuse(event)
            elif self._drains:
                self._decline(event)
            else:
                self._id, request = event
                self._kind = type(request)
                self.asked = asked = self.asked + 1
                if self.observed or asked == self._timed_at:
                    self._take_up()
                if type(request) is not Watch:
                    return request
                look = self._open(request, ended)
                if look is not None:
                    return look
                if self.observed and self._counts is not None:
                    self._counts.began = 0.0  # there is nothing that takes time
        return None

    def _exhausted(self) -> None:
        """Take in that all that has arrived is dealt with: wait for more, or end."""
        codec = self.codec
        if codec.unprompted:
            self._say(codec.data_to_send())
            introduction = self._introduction
            if introduction and codec.forwarded_for and not self._hear(introduction):
                return
            if codec.ended:
                self._watch = None  # whatever it could be told, nothing may be said any more
                self.ended = True
                return
        if self._stops:
            self._stop()
            return
        if not (codec.mid_frame or (self._layer is not None and self._layer.mid_record)):
            self._frame_by = None
        elif self._frame_by is None:
            self._frame_by = self._clock() + self._in_force.settings.frame_seconds
        self.waits = not self.full

    def finish(self, outcome: Reply | MailPage) -> None:
        """Take what came of the job that was returned last."""
        if self.observed:
            self._observe(outcome)
        if self._watch is None:
            counts = self._counts
            if counts is not None:
                kind = type(outcome)
                if kind is ErrorReply:
                    counts.refused[self._kind, outcome.code] += 1  # type: ignore[union-attr]
                else:
                    counts.answered[self._kind] += 1
                    if kind is AckReply:
                        counts.acked(outcome.position)  # type: ignore[union-attr]
            self._reply(self._id, outcome)  # type: ignore[arg-type]  # only watches look
            if self._login_by is not None and self.session.logged_in:
                self._logged_in()
        elif isinstance(outcome, MailPage):
            self._found(self._watch, outcome)
        else:
            self._watch = None
            self._reply(self._id, outcome)
            if self._counts is not None and isinstance(outcome, ErrorReply):
                self._counts.refused[Watch, outcome.code] += 1

    # -- what is counted of it, now and then --------------------------------------------

    def _take_up(self) -> None:
        """Have the time of a request taken, if that is due, and no wake's: it is no look."""
        counts = self._counts
        assert counts is not None  # noqa: S101 - nothing is observed without them
        counts.woken = 0.0
        if self.asked == self._timed_at:
            self._timed_at += counts.begin()
            self.observed = True

    def _observe(self, outcome: Reply | MailPage) -> None:
        """Tell the counts what came of a job."""
        counts = self._counts
        assert counts is not None  # noqa: S101 - nothing is observed without them
        page = outcome if type(outcome) is MailPage else None
        self.observed = counts.end(self._kind, page)
        if counts.woken:  # by another thread, in between
            self.observed = True

    def _look_ahead(self, counts: ConnectionCounts) -> None:
        """See whether the counts are to be told what comes next."""
        self.observed = counts.observing
        if counts.woken:  # by another thread, in between
            self.observed = True

    def _deliver(self, messages: tuple[Message, ...]) -> None:
        """Tell the counts what a watch was sent."""
        counts = self._counts
        assert counts is not None  # noqa: S101 - nothing is observed without them
        counts.deliver(messages)
        self._look_ahead(counts)

    def _repeat(self, after: int) -> None:
        """Have the counts see what a watch sends, for it begins before what was sent last."""
        counts = self._counts
        if counts is not None:
            self.last_sent = counts.repeat(after, self.last_sent)
            self._look_ahead(counts)

    @property
    def silent(self) -> bool:
        """Whether nothing is lost on its peer if that has gone already.

        It has asked nothing: so proxies look after a server's health every few seconds, and most of
        them reset it. Or it has all its replies, and what it does not take is a farewell.
        """
        asks = self._login_by is None or self._id != 0 or self.codec.mid_frame
        return not asks or (self.ended and not self._replies_left)

    @property
    def spoken(self) -> str | None:
        """The transport that was chosen on this connection; see `ServerCodec.spoken`."""
        return self.codec.spoken if self._login_by is not None else self._spoken

    @property
    def watches(self) -> bool:
        """Whether it waits for mail as well."""
        return self._watch is not None

    @property
    def deadline(self) -> float | None:
        """When `time_is_up`, by the clock; None while the peer may take as long as it likes.

        The clock runs until login, and while a frame has begun; a peer that is logged in and has
        nothing to say may be silent.
        """
        until = None if self._watch is None else self._watch.until
        if self._login_by is self._frame_by is self._sent_by is None:
            return until
        moments = (self._login_by, self._frame_by, self._sent_by, until)
        return min(moment for moment in moments if moment is not None)

    def data_to_send(self) -> bytes:
        """Return what is to be sent, and forget it."""
        out = self._out
        if self.ended and not self._said_end:
            self._said_end = True
            self.codec.end()
            out.append(self.codec.data_to_send())
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        self._out_bytes = 0
        self._replies_left, self._replies = self._replies, False
        self.urgent = self.full = False
        if self._layer is not None:
            data = self._layer.send(data, last=self.ended)
        self.said += len(data)
        return data

    def refuse(self, data: bytes, error: RequestError) -> None:
        """Answer what has arrived with an error, and end: there is nobody to hold this.

        Over TLS nothing can be said before a handshake, and the connection just ends.
        """
        if self._introduction is not None and self._introduction.awaits_header:
            data = self._behind_header(self._introduction, data)
            if self.ended:
                return
        self.ended = True
        if self._layer is None:
            self.codec.receive_data(data)  # read first, for its bytes choose the transport
            asked = self.codec.next_event()
            self._reply(None if asked is None else asked.id, error.to_reply())

    # -- requests -----------------------------------------------------------------------

    def _reply(self, id: int | None, reply: Reply) -> None:
        codec = self.codec
        codec.send(id, reply)
        self._replies = True
        self._say(codec.data_to_send())

    def _say(self, data: bytes) -> None:
        if data:
            self._out.append(data)
            self._out_bytes = waiting = self._out_bytes + len(data)
            self.urgent = True
            if waiting >= FLUSH_BYTES:
                self.full = True

    def _refuse(self, event: RequestRefused) -> None:
        self.fault = self.fault or f"{event.error.code}: {event.error.message}"
        refusal = event.error.to_reply()
        self._reply(event.id, refusal)
        if self._counts is not None:
            self._counts.refused[None, refusal.code] += 1
        self.ended = event.fatal

    def _decline(self, event: RequestReceived) -> None:
        """Answer a request that has arrived before the drain, and was not begun."""
        refusal = _shutting_down(self._in_force.settings)
        self._reply(event.id, refusal)
        if self._counts is not None:
            self._counts.refused[type(event.request), refusal.code] += 1

    def _logged_in(self) -> None:
        self._login_by = None
        if self._counts is not None:
            self._counts.speaks()  # while there is the codec that knows
        self._spoken = self.codec.spoken
        self.codec = self.codec.resolve()
        self.codec.frame_limit = self._frame_bytes

    # -- watches ------------------------------------------------------------------------

    def _open(self, request: Watch, ended: "_OpenWatch | None") -> Look | None:
        """Begin a watch in the place of one that has ended for it, and return its first look."""
        after, sent = request.after, self._sent
        kinds = kinds_of(request.kinds)
        continued = ended if ended is not None and ended.window > 0 else None  # a stream
        if sent is not None and (continued is not None or request.renew):
            # It was asked for when its peer had not seen all that the stream before it has sent.
            sent.seen(after)
            if sent.kinds == kinds:
                after = max(after, sent.last)
            else:
                sent.last, sent.kinds = after, kinds  # other kinds may lie before that
        elif request.window:
            self._sent = sent = _Sent(kinds)
        else:
            sent = None  # what it brings is of no stream, and the last stream can still be renewed
        if after < self.last_sent:
            self._repeat(after)
        until = self._clock() + request.wait
        self._watch = watch = _OpenWatch(self._id, request, after, until, sent, kinds=kinds)
        if (
            continued is not None
            and continued.after == after
            and continued.kinds == kinds
            and continued.waits
            and watch.waits
        ):
            return watch.take_over(continued)
        return watch.look()

    def _stop(self) -> None:
        """End, now that all that has arrived is dealt with."""
        if self._watch is not None:
            self._end_watch()
            self.urgent = True
        self.ended = True

    def _found(self, watch: "_OpenWatch", page: MailPage) -> None:
        """Say what a look has found, if anything, and end the watch if that was its last."""
        watch.position = page.position
        messages, receipts, stream = page.messages, page.receipts, watch.stream
        entries: tuple[Entry, ...] = entries_of(messages, receipts) if receipts else messages
        if not entries:
            watch.after = max(watch.after, page.seen)
            if watch.room < 1 or not watch.waits or self._clock() >= watch.until:
                self._end_watch()
                self.urgent = True
            return
        before = self._out_bytes
        if not watch.window:
            self._watch = None
            reply = WatchReply(
                messages=messages, position=page.position, seen=page.seen, receipts=receipts
            )
            self._reply(watch.id, reply)
            self.watched += 1
            self._brought(watch, messages, entries, self._out_bytes - before)
            return
        assert stream is not None  # noqa: S101 - who has a window has a stream
        others, seen = page.more, page.seen
        if len(entries) > 1:  # for one always fits
            fitting = _fitting(entries, _STREAM_BYTES - stream.bytes)
            if fitting < len(entries):
                others, seen = True, entries[fitting].seq - 1
                entries = entries[:fitting]
                messages = tuple(each for each in messages if each.seq <= seen)
                receipts = tuple(each for each in receipts if each.seq <= seen)
        more = watch.room > len(entries) and (
            others or (watch.waits and self._clock() < watch.until)
        )
        told = {"messages": messages, "position": page.position, "seen": seen, "more": more}
        if receipts:
            told["receipts"] = receipts
        self._reply(watch.id, _watched(told))
        self._brought(watch, messages, entries, self._out_bytes - before)
        watch.after = stream.last = seen
        if others:  # else a wake may have come during the look
            watch.looks = True
        if not more:
            self._watch = None
            self.watched += 1
        elif stream.bytes >= _STREAM_BYTES:
            self._end_watch()

    def _brought(
        self,
        watch: "_OpenWatch",
        messages: tuple[Message, ...],
        entries: tuple[Entry, ...],
        size: int,
    ) -> None:
        """Note what a reply to a watch has brought.

        Args:
            watch: the watch.
            messages: mail and copies.
            entries: those and receipts.
            size: of the reply, in bytes.
        """
        self.brought += len(entries)
        if watch.stream is not None:
            watch.stream.note(entries, size)
        if watch.kinds is not MAIL_ALONE:
            messages = tuple(each for each in messages if each.to is None)
            if not messages:
                return
        self.last_sent = messages[-1].seq
        if self.observed:
            self._deliver(messages)

    def _end_watch(self) -> None:
        """Say the last reply of the open watch.

        As it brings no news it is not urgent: whoever sends something else sends it along. It is
        where there is so much of it that nothing else may be added.
        """
        watch = self._watch
        assert watch is not None  # noqa: S101 - only an open watch ends
        self._watch = None
        urgent = self.urgent
        reply: Reply
        if self._drains:
            reply = _shutting_down(self._in_force.settings)
        elif self._session_over:
            reply = SessionExpired().to_reply()
        else:
            reply = WatchReply(messages=(), position=watch.position, seen=watch.after)
        self._reply(watch.id, reply)
        if type(reply) is WatchReply:
            self.urgent = urgent or self.full
            self.watched += 1
        elif self._counts is not None and type(reply) is ErrorReply:
            self._counts.refused[Watch, reply.code] += 1


class _OpenWatch:
    """A watch that was asked for and whose last reply is not said yet.

    Attributes:
        id: of the request.
        after: the last seq that it has looked at.
        kinds: of the entries that it sends.
        position: of the mailbox, as the last look found it.
        limit: of one reply.
        until: when its time is up, by the conversation's clock.
        looks: whether it is to look (again).
        stream: where what it sends is noted, or None: it neither is a stream nor renews one.
        window: how many messages its stream may send, or 0: it has one reply.
        waits: whether it goes on when there is no more to say.
        room: how many messages it might send when it looked last.
    """

    __slots__ = (
        "_ack",
        "after",
        "id",
        "kinds",
        "limit",
        "looks",
        "position",
        "room",
        "stream",
        "until",
        "waits",
        "window",
    )

    def __init__(
        self,
        id: int,
        request: Watch,
        after: int,
        until: float,
        stream: "_Sent | None",
        *,
        kinds: Kinds,
    ) -> None:
        self.id = id
        self.after = after
        self.kinds = kinds
        self.position = 0
        self.limit = request.limit
        self.until = until
        self.looks = True
        self.stream = stream
        self._ack = request.ack
        self.waits = request.wait > 0
        self.window = request.window
        self.room = 0

    def look(self) -> Look:
        """Return the look that is due, with the room that there is now."""
        self.looks = False
        ack, self._ack = self._ack, None
        limit, stream = self.limit, self.stream
        if stream is None or not self.window:
            self.room = limit
            return Look(self.after, ack, limit, PAGE_BYTES, self.waits, self.kinds)
        left = _STREAM_BYTES - stream.bytes
        room = self.window - len(stream.under_way)
        if left <= 0 or room < 0:  # more than the window may be under way, if it shrank
            room = 0
        self.room = room
        return Look(self.after, ack, min(room, limit), left, self.waits, self.kinds)

    def take_over(self, ended: "_OpenWatch") -> Look | None:
        """Begin in the place of a stream that has seen all there is.

        It needs no look, for mail that has come since has woken its connection; it may have to
        acknowledge.
        """
        self.position = ended.position
        look = self.look()
        if look.ack is None and look.limit:
            return None
        look.limit = 0
        return look

    def hurry(self) -> None:
        """Wait no more: look once more, and end when there is no more to say."""
        self.waits = False
        self.looks = True


class _Sent:
    """What the streams of a connection have sent, and how much of it is under way.

    Attributes:
        last: the last seq that was sent, or looked at for what was sent.
        kinds: of the entries.
        bytes: of the replies that brought what is under way.
        under_way: the seqs that the peer has not said that it saw, `MAX_PAGE` at most, each with
            the bytes of the reply whose last message it is, or 0.
    """

    __slots__ = ("bytes", "kinds", "last", "under_way")

    def __init__(self, kinds: Kinds) -> None:
        self.last = 0
        self.kinds = kinds
        self.bytes = 0
        # No deque: an empty one is ten times as large, and every idle watch would hold it.
        self.under_way: list[tuple[int, int]] = []

    def note(self, entries: tuple[Entry, ...], size: int) -> None:
        """Note that a reply was sent."""
        under_way = self.under_way
        for entry in entries[:-1]:
            under_way.append((entry.seq, 0))
        self.last = last = entries[-1].seq
        under_way.append((last, size))
        self.bytes += size
        if len(under_way) > MAX_PAGE:
            # Only watches without a window send more than the largest one. With so many behind
            # them the first need not be known: who has not seen them has no room in any window.
            self._forget(len(under_way) - MAX_PAGE)

    def seen(self, seq: int) -> None:
        """Note that the peer has seen everything up to a seq."""
        self._forget(bisect_right(self.under_way, seq, key=_seq_of))

    def _forget(self, count: int) -> None:
        self.bytes -= sum(map(_size_of, self.under_way[:count]))
        del self.under_way[:count]


def _fitting(entries: tuple[Entry, ...], left: int) -> int:
    """Return how many entries, from the first, have so many bytes as JSON at most; at least one.

    The store has measured bodies, but a stream is bounded by what the transport writes. No built-in
    one writes more than JSON, and none can be asked before: what a codec was given goes out.
    """
    left -= _REPLY_BYTES
    for count, entry in enumerate(entries):
        if type(entry) is Message:
            body = encode_basestring(entry.body)
            left -= _MAIL_BYTES if entry.to is None else _COPY_BYTES
            left -= len(body) if body.isascii() else len(body.encode())
        else:
            left -= _RECEIPT_BYTES
        if left < 0:
            return count or 1
    return len(entries)


def _shutting_down(settings: ListenerSettings) -> ErrorReply:
    """Return what a peer is told when the server stops.

    Where it can go to another server it need not wait for this one: it only takes a moment of its
    own, for others are told at the same time.
    """
    elsewhere = bool(settings.drain_endpoints)
    wait_ms = randint(1, RESTART_MS) if elsewhere else RESTART_MS  # noqa: S311 - guards nothing
    return ShuttingDown(
        retry_after_ms=wait_ms, endpoints=settings.drain_endpoints or None
    ).to_reply()
