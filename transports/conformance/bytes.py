"""Rules 18 to 25 of the transport kit: bytes that are no frames, and whose bytes they are."""

from collections.abc import Callable
from functools import partial
from typing import Final

from twinline.core import protocol
from twinline.core.conformance import Checks, NotChecked, failure, rule, shown
from twinline.core.errors import ERROR_BY_CODE, RequestError
from twinline.core.protocol import MAX_INT, Done, Ping, Request, Send
from twinline.transports.conformance.bench import Event, TransportBench, comparable, feed
from twinline.transports.conformance.noise import (
    STARTS,
    TLS_HELLO,
    broken_streams,
    reply_frames,
    request_frames,
)
from twinline.transports.conformance.samples import plain, requests, small
from twinline.transports.contract import (
    ClientCodec,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    ServerCodec,
    Transport,
)

_MOST_START: Final = 256
_PLANTED: Final = "hunter2-hunter2-hunter2"


@rule(18, "Whatever bytes a client sends, the server's end yields requests or documented refusals.")
def any_bytes_are_answered(checks: Checks, bench: TransportBench) -> None:
    """Feed noise and broken frames; nothing is raised, and every refusal can be answered."""
    for stream in broken_streams(bench, request_frames(bench)):
        limit = bench.random.choice((64, 300, 4_096))
        server = bench.transport.server_codec(limit)
        try:
            events = feed(server, [stream], checks)
            for event in events:
                _documented(checks, event, stream)
                if isinstance(event, RequestRefused):
                    server.send(event.id, event.error.to_reply())
            checks.that(isinstance(server.data_to_send(), bytes), "data_to_send returns no bytes")
            server.receive_eof()
            checks.equal(server.next_event(), None, f"after {shown(stream)}, what comes at the end")
        except Exception as error:  # noqa: BLE001 - it is judged there
            _raised(checks, error, stream)


def _documented(checks: Checks, event: object, stream: bytes) -> None:
    if isinstance(event, RequestReceived):
        model = type(event.request)
        real = protocol.REQUEST_BY_OP.get(getattr(model, "op", "")) is model
        right = real and model.model_validate(event.request.model_dump()) == event.request
        right = right and type(event.id) is int and 0 <= event.id <= MAX_INT
        checks.that(right, f"of {shown(stream)} it makes {shown(event)}, which is no request")
    elif isinstance(event, RequestRefused):
        error = event.error
        right = isinstance(error, RequestError) and error.code in ERROR_BY_CODE
        checks.that(right, f"it refuses {shown(stream)} as {shown(error)}, which is not documented")
        right = event.id is None or (type(event.id) is int and 0 <= event.id <= MAX_INT)
        checks.that(right, f"it refuses {shown(stream)} with the id {shown(event.id)}")
    else:
        checks.wrong(f"of {shown(stream)} it makes {shown(event)}")


def _raised(checks: Checks, error: Exception, stream: bytes) -> None:
    if type(error).__module__ == Checks.__module__:
        raise error  # the rule was given up, with its evidence
    checks.wrong(f"{shown(stream)} raises {failure(error)}")


@rule(19, "Whatever bytes a server sends, the client's end yields replies or RemoteProtocolError.")
def any_bytes_are_replies_or_an_error(checks: Checks, bench: TransportBench) -> None:
    """Feed noise and broken replies to clients that wait for some; after an error comes nothing."""
    asked: list[Request] = [plain(model) for model in protocol.REQUESTS]
    for stream in broken_streams(bench, reply_frames(bench)):
        pair = bench.pair(client=bench.random.choice((64, 300, 4_096)))
        for _ in range(2):
            # The replies' frames answer request 1, whatever it was.
            pair.request(1, bench.random.choice(asked))
        try:
            for event in feed(pair.client, [stream], checks):
                checks.that(isinstance(event, ReplyReceived), f"it makes {shown(event)}")
        except RemoteProtocolError:
            later = feed(pair.client, [stream], checks)
            checks.equal(later, [], f"after the error about {shown(stream)}, what is yielded")
        except Exception as error:  # noqa: BLE001 - it is judged there
            _raised(checks, error, stream)


@rule(25, "What is said of a frame that is refused shows no password that was in it.")
def secrets_are_not_told(checks: Checks, bench: TransportBench) -> None:
    """Break each byte of a login, and put the password in the place of the op's name."""
    login = protocol.Login(username="ann", password=_PLANTED)
    frame = bench.pair().request(1, login)
    name, cut = login.op.encode(), _PLANTED[: len(login.op)]
    broken = [frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :] for at in range(len(frame))]
    for stream in (*broken, frame.replace(name, cut.encode())):
        for event in feed(bench.pair(server=4_096).server, [stream], checks):
            if isinstance(event, RequestRefused):
                told = f"{event!r} {event.error!r} {event.error.message}"
                checks.that(cut not in told, f"of {shown(stream)} it says {shown(told)}")


@rule(20, "Broken bytes too give the same events however they are cut.")
def cuts_of_broken_bytes_change_nothing(checks: Checks, bench: TransportBench) -> None:
    """Feed noise and broken frames whole, byte by byte and at random."""

    def client() -> ClientCodec:
        pair = bench.pair(client=300)
        pair.requests([(1, Ping()), (1, Ping())])
        return pair.client

    for stream in broken_streams(bench, request_frames(bench), fewer=True):
        limit = bench.random.choice((64, 300))
        _same_however_cut(checks, bench, stream, partial(bench.transport.server_codec, limit))
    for stream in broken_streams(bench, reply_frames(bench), fewer=True):
        _same_however_cut(checks, bench, stream, client)


def _same_however_cut(
    checks: Checks,
    bench: TransportBench,
    stream: bytes,
    make: Callable[[], ServerCodec | ClientCodec],
) -> None:
    first: object = None
    for how, cut in bench.ways():
        codec = make()
        events: list[Event] = []
        try:
            feed(codec, cut(stream or b"\n"), checks, events)
            end = f"mid_frame is {codec.mid_frame}"
        except RemoteProtocolError as error:
            end = str(error)
        outcome = ([*map(comparable, events)], end)
        first = first or outcome
        checks.equal(outcome, first, f"{shown(stream)} {how}, with a limit of {codec.frame_limit}")


@rule(21, "A reply to a request that was not sent, or not to the oldest one, is an error.")
def stray_replies_are_refused(checks: Checks, bench: TransportBench) -> None:
    """Reply to nothing, to another id, twice, and out of order."""
    for asked, answered in (([], 1), ([1], 2), ([1, 2], 2), ([0], MAX_INT)):
        pair = bench.pair()
        pair.requests((number, Ping()) for number in asked)
        stray = bench.pair().answer(answered, Ping(), Done())
        checks.raises(
            RemoteProtocolError,
            lambda: feed(pair.client, [stray], checks),  # noqa: B023 - called at once
            f"a reply to {answered} when {asked} wait for one",
        )
    pair = bench.pair()
    answer = pair.answer(1, Ping(), Done())
    feed(pair.client, [answer], checks)
    checks.raises(
        RemoteProtocolError, lambda: feed(pair.client, [answer], checks), "a second reply"
    )


@rule(22, "A transport recognises how its own connections begin, and sooner or later says so.")
def its_own_beginnings_are_recognised(checks: Checks, bench: TransportBench) -> None:
    """Ask about every prefix of what a client says first, with every request for a beginning."""
    for request in small(requests()):
        pair = bench.pair()
        start = pair.opening + pair.request(bench.random.randint(0, MAX_INT), request)
        answers = [
            bench.transport.recognises(start[:length])
            for length in range(1, min(len(start), _MOST_START) + 1)
        ]
        if False in answers:
            wrong = start[: answers.index(False) + 1]
            checks.wrong(f"it does not recognise {shown(wrong)}, its own beginning")
        checks.that(answers[-1] is True, f"it never says that {shown(start)} is its own")


@rule(23, "A transport does not recognise a TLS hello, nor how another transport begins.")
def other_beginnings_are_not_recognised(checks: Checks, bench: TransportBench) -> None:
    """Ask about every prefix of what others say first."""
    starts = [("a TLS hello", TLS_HELLO)]
    for other in bench.others:
        starts += [(f"a client of {other.name!r}", start) for start in _beginnings(other)]
    for whose, start in starts:
        for length in range(1, min(len(start), _MOST_START) + 1):
            if bench.transport.recognises(start[:length]) is True:
                checks.wrong(f"it recognises {shown(start[:length])}, which is {whose}")
                break
        checks.count += 1


def _beginnings(other: Transport) -> list[bytes]:
    found = []
    for request in (Ping(), Send(to="bob", body="hi")):
        codec = other.client_codec(4_096)
        start = codec.data_to_send()
        if codec.opened:
            codec.send(1, request)
        found.append(start + codec.data_to_send())
    return found


@rule(24, "recognises() answers True, False or None for any bytes, and sticks to True and False.")
def recognition_is_final(checks: Checks, bench: TransportBench) -> None:
    """Ask about every prefix of many beginnings, of its own and of others."""
    starts = [*STARTS, *request_frames(bench)]
    starts += [bytes([first]) + bench.random.randbytes(12) for first in range(256)]
    for start in starts:
        decided = None
        for length in range(1, min(len(start), _MOST_START) + 1):
            try:
                answer = bench.transport.recognises(start[:length])
            except Exception as error:  # noqa: BLE001 - whatever it is, it is evidence
                checks.wrong(f"recognises({shown(start[:length])}) raises {failure(error)}")
                break
            right = answer is decided if decided is not None else answer in (True, False, None)
            if not checks.that(
                right,
                f"recognises({shown(start[:length])}) is {answer!r}; for fewer of these bytes it "
                f"was {decided!r}",
            ):
                break
            decided = answer if answer is not None else decided
    if not checks.evidence and checks.count == 0:
        raise NotChecked("there were no bytes to ask about")
