"""JSON-lines with one fault each, for the transport kit to find."""

from collections import deque
from collections.abc import Callable
from typing import ClassVar

from twinline.core.errors import FrameTooLarge, UnknownOp
from twinline.core.protocol import ErrorReply, Request, Send, WatchReply
from twinline.transports.contract import (
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    Transport,
)
from twinline.transports.jsonl import JsonlClientCodec, JsonlServerCodec, JsonlTransport

ROOMY = 1 << 30


def faulty(
    server: type[JsonlServerCodec] = JsonlServerCodec,
    client: type[JsonlClientCodec] = JsonlClientCodec,
    recognises: Callable[[bytes], bool | None] | None = None,
) -> Transport:
    """Return JSON-lines with some part of it replaced."""

    class Faulty(JsonlTransport):
        name = "faulty"

        def recognises(self, start):
            return recognises(start) if recognises else super().recognises(start)

        def server_codec(self, frame_limit):
            return server(frame_limit)

        def client_codec(self, frame_limit):
            return client(frame_limit)

    return Faulty()


class NeedsWholeLines(JsonlServerCodec):
    """Takes each piece for a line of its own, if it has more than a byte."""

    def receive_data(self, data):
        super().receive_data(data if len(data) < 2 or data.endswith(b"\n") else data + b"\n")


class ClientNeedsWholeLines(JsonlClientCodec):
    def receive_data(self, data):
        super().receive_data(data if data.endswith(b"\n") else data + b"\n")


class TellsWhatItHas(JsonlServerCodec):
    """Is right about good frames however they are cut, but not when it refuses one."""

    def next_event(self):
        have = len(self._received)
        event = super().next_event()
        if isinstance(event, RequestRefused) and event.fatal:
            return self._end(FrameTooLarge(f"{have} bytes are too many"))
        return event


class TellsWhichOpItWas(JsonlServerCodec):
    def next_event(self):
        line = bytes(self._received)
        event = super().next_event()
        if isinstance(event, RequestRefused) and isinstance(event.error, UnknownOp):
            return RequestRefused(event.id, UnknownOp(f"in {line!r} is no op"))
        return event


class TakesAnyLength(JsonlServerCodec):
    def next_event(self):
        limit, self.frame_limit = self.frame_limit, ROOMY
        try:
            return super().next_event()
        finally:
            self.frame_limit = limit


class ClientTakesAnyLength(JsonlClientCodec):
    def next_event(self):
        limit, self.frame_limit = self.frame_limit, ROOMY
        try:
            return super().next_event()
        finally:
            self.frame_limit = limit


class KeepsALimitOfItsOwn(JsonlServerCodec):
    """Does not look at the limit that it is made with."""

    def __init__(self, frame_limit):
        super().__init__(ROOMY)


class JudgesTheWholeFrame(JsonlServerCodec):
    """Refuses a line that is too long, but only when it has all of it."""

    def next_event(self):
        limit, self.frame_limit = self.frame_limit, ROOMY
        before = len(self._received)
        try:
            event = super().next_event()
        finally:
            self.frame_limit = limit
        if event is not None and before - len(self._received) > limit + 1:
            return self._end(FrameTooLarge())
        return event


class RefusesWithoutEnd(JsonlServerCodec):
    """Says that a line is too long, and not that the connection must end."""

    def next_event(self):
        event = super().next_event()
        if isinstance(event, RequestRefused):
            return RequestRefused(event.id, event.error)
        return event


class LosesCoalescedFrames(JsonlServerCodec):
    """Forgets what else came with a frame."""

    def next_event(self):
        event = super().next_event()
        self._received.clear()
        self._searched = 0
        return event


class ClientLosesCoalescedFrames(JsonlClientCodec):
    def next_event(self):
        event = super().next_event()
        if event is not None:
            self._received.clear()
            self._searched = 0
        return event


class GivesThePreviousId(JsonlServerCodec):
    last = None

    def next_event(self):
        event = super().next_event()
        if not isinstance(event, RequestReceived):
            return event
        self.last, previous = event.id, self.last
        return RequestReceived(event.id if previous is None else previous, event.request)


class SharesItsReplies(JsonlServerCodec):
    """Keeps what is to be sent on the class."""

    shared: ClassVar[list[bytes]] = []

    def send(self, id, reply):
        super().send(id, reply)
        self.shared += self._out
        self._out = []

    def data_to_send(self):
        out = b"".join(self.shared)
        self.shared.clear()
        return out


class AnswersInAnyOrder(JsonlClientCodec):
    """Takes a reply to whatever it was sent for."""

    def _read_reply(self, line):
        found = line.split(b":")[1].split(b",")[0].rstrip(b"}")
        if self._pending and found.isdigit():
            self._pending[0] = (int(found), self._pending[0][1])
        return super()._read_reply(line)


class RaisesOnOddBytes(JsonlServerCodec):
    def receive_data(self, data):
        data.decode(errors="strict" if b"\xff" in data else "ignore")
        super().receive_data(data)


class ClientRaisesOnOddBytes(JsonlClientCodec):
    def _read_reply(self, line):
        if line[:1] != b"{":
            raise ValueError("not an object")
        return super()._read_reply(line)


class GoesOnAfterTheEnd(JsonlServerCodec):
    """Skips a line that is too long, and says that this was fatal."""

    def _end(self, error):
        rest = bytes(self._received).partition(b"\n")[2]
        super()._end(error)
        self._ended = False
        self._searched = 0
        self.receive_data(rest)
        return RequestRefused(None, error, fatal=True)


class ClientGoesOnAfterTheEnd(JsonlClientCodec):
    def next_event(self):
        try:
            return super().next_event()
        except RemoteProtocolError:
            self._ended = False
            self._searched = 0
            raise


class KeepsItsFirstLimit(JsonlServerCodec):
    """Ignores a limit that is changed later."""

    first = None

    def next_event(self):
        self.first = self.first or self.frame_limit
        limit, self.frame_limit = self.frame_limit, self.first
        try:
            return super().next_event()
        finally:
            self.frame_limit = limit


class DecodesAhead(JsonlServerCodec):
    """Reads all frames that there are, so that a new limit comes too late."""

    def __init__(self, frame_limit):
        super().__init__(frame_limit)
        self.ahead = []

    def next_event(self):
        while (event := super().next_event()) is not None:
            self.ahead.append(event)
        return self.ahead.pop(0) if self.ahead else None


class DropsWhatIsNotAscii(JsonlClientCodec):
    def send(self, id: int, request: Request) -> None:
        if isinstance(request, Send):
            body = request.body.encode("ascii", "ignore").decode()
            request = request.model_copy(update={"body": body})
        super().send(id, request)


class StripsReplies(JsonlClientCodec):
    """Takes white space from the ends of every text."""

    def next_event(self):
        event = super().next_event()
        server = getattr(event and event.reply, "server", None)
        if server is None:
            return event
        reply = event.reply.model_copy(update={"server": server.strip()})
        return ReplyReceived(event.id, reply)


class NeverInMidFrame(JsonlServerCodec):
    mid_frame = False


class ClientAlwaysInMidFrame(JsonlClientCodec):
    mid_frame = True


class TakesHalfAFrameAtTheEnd(JsonlServerCodec):
    def receive_eof(self):
        self.receive_data(b"\n")
        super().receive_eof()


class ForgetsAllAtTheEnd(JsonlServerCodec):
    def receive_eof(self):
        self._drop()


class SendsTwice(JsonlClientCodec):
    def data_to_send(self):
        return b"".join(self._out)


class SendsAnyId(JsonlClientCodec):
    def send(self, id, request):
        super().send(abs(id) % 1000, request)


class LosesErrorIds(JsonlServerCodec):
    """Sends every error as if the frame had not been read."""

    def send(self, id, reply):
        super().send(None if hasattr(reply, "retryable") else id, reply)


class Quadratic(JsonlServerCodec):
    """Copies all that it has with every piece."""

    def receive_data(self, data):
        for _ in range(3):  # plain even under a tracer, which makes every call slow
            self._received = bytearray(bytes(self._received))
        self._received += data


class Endless(JsonlServerCodec):
    """Yields the same refusal again and again."""

    def next_event(self):
        event = super().next_event()
        self.last = event or getattr(self, "last", None)
        return self.last if isinstance(self.last, RequestRefused) else event


class ForgetsAStreamAfterItsFirstReply(JsonlClientCodec):
    """Takes every reply for the only one."""

    def _received_reply(self, id, reply):
        self._pending.popleft()
        return ReplyReceived(id, reply)


class HoldsAStreamBack(JsonlClientCodec):
    """Yields a stream when all of it is there."""

    def __init__(self, frame_limit):
        super().__init__(frame_limit)
        self.held = []
        self.whole = []

    def next_event(self):
        while not self.whole and (event := super().next_event()) is not None:
            self.held.append(event)
            if not event.more:
                self.whole, self.held = self.held, []
        return self.whole.pop(0) if self.whole else None


class AnswersOnce(JsonlServerCodec):
    """Sends no second reply to a request."""

    def next_event(self):
        self.answered = False
        return super().next_event()

    def send(self, id, reply):
        if not getattr(self, "answered", False):
            super().send(id, reply)
        self.answered = reply.continues


class NeverEndsAStream(JsonlClientCodec):
    """Takes every further reply to a request whose replies may be a stream."""

    def _received_reply(self, id, reply):
        if not isinstance(reply, WatchReply):
            return super()._received_reply(id, reply)
        return ReplyReceived(id, reply)


class GoesOnAfterAnError(JsonlClientCodec):
    """Takes an error for one reply of a stream."""

    streaming = False

    def _received_reply(self, id, reply):
        if self.streaming and isinstance(reply, ErrorReply):
            return ReplyReceived(id, reply)
        self.streaming = reply.continues
        return super()._received_reply(id, reply)


class IsOvertaken(JsonlClientCodec):
    """Takes a reply to a later request while a stream is open."""

    streaming = False

    def _read_reply(self, line):
        found = line.split(b":")[1].split(b",")[0].rstrip(b"}")
        if self.streaming and found.isdigit():
            self._pending = deque(sorted(self._pending, key=lambda one: one[0] != int(found)))
        return super()._read_reply(line)

    def _received_reply(self, id, reply):
        self.streaming = reply.continues
        return super()._received_reply(id, reply)


class ForgetsWhatStandsBehindAStream(JsonlClientCodec):
    streaming = False

    def _received_reply(self, id, reply):
        event = super()._received_reply(id, reply)
        if self.streaming and not reply.continues:
            self._pending.clear()
        self.streaming = reply.continues
        return event


class EndsAStreamWithItsPiece(JsonlClientCodec):
    """Takes a stream for what is there when its first reply is read."""

    def _received_reply(self, id, reply):
        event = ReplyReceived(id, reply)
        if not reply.continues or not self._received:
            self._pending.popleft()
        return event


class TakesPagesForStreams(JsonlClientCodec):
    """Takes any reply that has ``more`` for one of a stream."""

    def _received_reply(self, id, reply):
        if not getattr(reply, "more", False):
            self._pending.popleft()
        return ReplyReceived(id, reply)


class NeverOpens(JsonlClientCodec):
    """Waits for a handshake that no server of JSON-lines knows."""

    opened = False


class TakesRequestsTooEarly(JsonlClientCodec):
    """Is not open before it was fed, and does not mind."""

    fed = False

    @property
    def opened(self):
        return self.fed

    def receive_data(self, data):
        self.fed = True
        super().receive_data(data)


class SaysGoodbye(JsonlServerCodec):
    """Has last words that the other end takes for no end."""

    unprompted = True

    def end(self):
        self._out.append(b'{"id":null,"ok":false,"error":{"code":"bye","message":"","retryable":')
        self._out.append(b"false}}\n")


class EchoesWhatIsEmpty(JsonlServerCodec):
    """Answers a line feed by one, and does not say that it does such things."""

    def receive_data(self, data):
        super().receive_data(data)
        if b"\n\r\n" in data:
            self._out.append(b"\n")


def sometimes(start: bytes) -> bool | None:
    """Change its mind at every byte."""
    return None if start[:1] == b"{" and len(start) < 9 else len(start) % 2 == 1


FAULTS: tuple[tuple[str, Transport, str], ...] = (
    ("a result that depends on the cuts", faulty(NeedsWholeLines), "cuts_change_nothing"),
    (
        "a client whose result depends on the cuts",
        faulty(client=ClientNeedsWholeLines),
        "cuts_change_nothing",
    ),
    (
        "a refusal that depends on the cuts",
        faulty(TellsWhatItHas),
        "cuts_of_broken_bytes_change_nothing",
    ),
    ("an op that is told", faulty(TellsWhichOpItWas), "secrets_are_not_told"),
    ("an oversized frame is taken", faulty(TakesAnyLength), "limits_are_exact"),
    ("the limit it is made with is ignored", faulty(KeepsALimitOfItsOwn), "limits_are_exact"),
    ("a client takes an oversized frame", faulty(client=ClientTakesAnyLength), "limits_are_exact"),
    ("oversized, not fatal", faulty(RefusesWithoutEnd), "limits_are_exact"),
    (
        "an oversized frame is collected first",
        faulty(JudgesTheWholeFrame),
        "long_frames_are_not_collected",
    ),
    ("coalesced frames are lost", faulty(LosesCoalescedFrames), "coalesced_frames_all_come_out"),
    (
        "coalesced replies are lost",
        faulty(client=ClientLosesCoalescedFrames),
        "coalesced_frames_all_come_out",
    ),
    ("ids are mixed up", faulty(GivesThePreviousId), "ids_are_echoed"),
    ("ids are mixed up in a pipeline", faulty(GivesThePreviousId), "pipelines_keep_their_order"),
    ("two connections share state", faulty(SharesItsReplies), "codecs_are_independent"),
    ("a stray reply is taken", faulty(client=AnswersInAnyOrder), "stray_replies_are_refused"),
    ("an exception on odd bytes", faulty(RaisesOnOddBytes), "any_bytes_are_answered"),
    (
        "an exception on odd bytes from the server",
        faulty(client=ClientRaisesOnOddBytes),
        "any_bytes_are_replies_or_an_error",
    ),
    ("it goes on after a fatal event", faulty(GoesOnAfterTheEnd), "a_fatal_event_is_the_last"),
    (
        "a client goes on after its error",
        faulty(client=ClientGoesOnAfterTheEnd),
        "a_fatal_event_is_the_last",
    ),
    ("a raised limit is ignored", faulty(KeepsItsFirstLimit), "limits_change_between_events"),
    ("frames are decoded ahead", faulty(DecodesAhead), "limits_change_between_events"),
    ("what is not ASCII is dropped", faulty(client=DropsWhatIsNotAscii), "requests_arrive"),
    ("white space is stripped", faulty(client=StripsReplies), "replies_arrive"),
    ("mid_frame is always false", faulty(NeverInMidFrame), "mid_frame_is_right"),
    ("mid_frame is always true", faulty(client=ClientAlwaysInMidFrame), "mid_frame_is_right"),
    (
        "half a frame is taken at the end",
        faulty(TakesHalfAFrameAtTheEnd),
        "the_end_drops_half_a_frame",
    ),
    (
        "whole frames are dropped at the end",
        faulty(ForgetsAllAtTheEnd),
        "the_end_drops_half_a_frame",
    ),
    ("bytes are sent twice", faulty(client=SendsTwice), "bytes_are_handed_out_once"),
    ("an id out of range is sent", faulty(client=SendsAnyId), "the_callers_mistakes_are_told"),
    ("errors lose their id", faulty(LosesErrorIds), "errors_arrive_with_and_without_id"),
    ("time is quadratic", faulty(Quadratic), "time_is_linear"),
    ("events without end", faulty(Endless), "any_bytes_are_answered"),
    (
        "nothing is recognised",
        faulty(recognises=lambda start: False),
        "its_own_beginnings_are_recognised",
    ),
    (
        "nothing is ever decided",
        faulty(recognises=lambda start: None),
        "its_own_beginnings_are_recognised",
    ),
    (
        "everything is recognised",
        faulty(recognises=lambda start: True),
        "other_beginnings_are_not_recognised",
    ),
    ("recognition changes its mind", faulty(recognises=sometimes), "recognition_is_final"),
    (
        "a stream is forgotten after its first reply",
        faulty(client=ForgetsAStreamAfterItsFirstReply),
        "streams_arrive",
    ),
    ("a stream is held back", faulty(client=HoldsAStreamBack), "streams_arrive"),
    ("a server answers once", faulty(AnswersOnce), "streams_arrive"),
    ("a stream never ends", faulty(client=NeverEndsAStream), "streams_end"),
    ("an error does not end a stream", faulty(client=GoesOnAfterAnError), "streams_end"),
    ("a stream is overtaken", faulty(client=IsOvertaken), "requests_wait_for_a_stream"),
    (
        "what stands behind a stream is forgotten",
        faulty(client=ForgetsWhatStandsBehindAStream),
        "requests_wait_for_a_stream",
    ),
    (
        "a stream ends with its piece",
        faulty(client=EndsAStreamWithItsPiece),
        "cuts_of_streams_change_nothing",
    ),
    ("a client never opens", faulty(client=NeverOpens), "handshakes_open_a_client"),
    (
        "a request is taken before the handshake is over",
        faulty(client=TakesRequestsTooEarly),
        "handshakes_open_a_client",
    ),
    ("a farewell is no end", faulty(SaysGoodbye), "farewells_end_the_other_end"),
    ("bytes that nobody put in", faulty(EchoesWhatIsEmpty), "what_is_unprompted_is_told"),
    ("a page is taken for a stream", faulty(client=TakesPagesForStreams), "pages_are_no_streams"),
)
"""What is wrong, a transport in which it is, and the rule that must say so."""
