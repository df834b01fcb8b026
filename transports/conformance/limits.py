"""Rules 11 to 15 of the transport kit: where frames end, how long they may be, what is fatal."""

from typing import Final

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import FrameTooLarge
from twinline.core.protocol import (
    Done,
    Hello,
    Ping,
    Reply,
    Request,
    Send,
)
from twinline.transports.conformance.bench import (
    FRAME_SLACK,
    ROOMY,
    Event,
    Pair,
    TransportBench,
    drain,
    feed,
    same_events,
    told,
)
from twinline.transports.conformance.samples import long_reply
from twinline.transports.contract import (
    ClientCodec,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    ServerCodec,
)


@rule(11, "mid_frame is true from a frame's first byte until its last, which brings its event.")
def mid_frame_is_right(checks: Checks, bench: TransportBench) -> None:
    """Look after every byte of some frames, at both ends."""
    asked: list[Request] = [
        Ping(),
        Send(to="bob", body="é👋"),
        Send(to="b", body="x" * 300),
        Ping(),
    ]
    pair = bench.pair()
    frames = pair.requests(enumerate(asked))
    _look(checks, pair.server, frames, "the server's")
    answers = [
        pair.reply(number, reply)
        for number, reply in enumerate([Done(), long_reply(9), long_reply(200), Done()])
    ]
    other = bench.pair()
    other.requests(enumerate([Ping(), Hello(), Hello(), Ping()]))
    _look(checks, other.client, answers, "the client's")
    both = bench.pair()
    first, second = both.requests([(1, Ping()), (2, Ping())])
    feed(both.server, [first + second[:1]], checks)
    checks.that(both.server.mid_frame, "mid_frame is false behind one frame and a byte of the next")


def _look(
    checks: Checks, codec: ServerCodec | ClientCodec, frames: list[bytes], whose: str
) -> None:
    checks.that(not codec.mid_frame, f"{whose} mid_frame is true before the first byte")
    for nth, frame in enumerate(frames, 1):
        for at in range(len(frame)):
            events = feed(codec, [frame[at : at + 1]], checks)
            where = f"byte {at + 1} of {len(frame)} of frame {nth}"
            last = at + 1 == len(frame)
            checks.equal(len(events), int(last), f"at {whose} end, the number of events by {where}")
            checks.equal(codec.mid_frame, not last, f"{whose} mid_frame after {where}")


@rule(12, "The end of the stream drops what is left of a frame, and nothing else.")
def the_end_drops_half_a_frame(checks: Checks, bench: TransportBench) -> None:
    """End the stream at every place of a frame, behind a whole one that nobody has taken yet."""
    length = len(bench.pair().request(2, Send(to="bob", body="hi")))
    for at in range(length):
        pair = bench.pair()
        whole, part = pair.requests([(1, Ping()), (2, Send(to="bob", body="hi"))])
        pair.server.receive_data(whole + part[:at])
        pair.server.receive_eof()
        how = f"the end after {at} of {length} bytes of a frame"
        seen = drain(pair.server, checks, 9)
        same_events(checks, seen, [RequestReceived(1, Ping())], how)
        checks.that(not pair.server.mid_frame, f"{how}: mid_frame stays true")
        answers = [pair.reply(1, Done()), pair.reply(2, long_reply(9))]
        pair.client.receive_data(answers[0] + answers[1][: at % len(answers[1])])
        pair.client.receive_eof()
        seen = drain(pair.client, checks, 9)
        same_events(checks, seen, [ReplyReceived(1, Done())], f"at the client's end, {how}")


@rule(13, "A frame of exactly the limit is taken; a longer one is FrameTooLarge, and fatal.")
def limits_are_exact(checks: Checks, bench: TransportBench) -> None:
    """Find the limit at which frames of some lengths are taken, by trying all around it."""
    for letters in (100, 500, 20_000):
        request, reply = Send(to="bob", body="x" * letters), long_reply(letters)
        up = len(bench.pair().request(7, request))
        down = len(bench.pair().answer(7, Hello(), reply))
        limits = [*range(up - FRAME_SLACK - 2, up + 1), up + 1, 2 * up]
        taken = [_server_takes(checks, bench, request, limit) for limit in limits]
        _sharp(checks, limits, taken, f"a request of {up} bytes")
        limits = [*range(down - FRAME_SLACK - 2, down + 1), down + 1, 2 * down]
        taken = [_client_takes(checks, bench, reply, limit) for limit in limits]
        _sharp(checks, limits, taken, f"a reply of {down} bytes")


def _server_takes(checks: Checks, bench: TransportBench, request: Request, limit: int) -> bool:
    """Return whether a frame is taken under a limit; if not, see that it is refused rightly."""
    verdicts: list[bool] = []
    for cut in (None, limit // 2, limit):
        pair = bench.pair(server=max(limit, 1))
        sent = pair.request(7, request)
        seen = feed(pair.server, [sent] if cut is None else [sent[:cut], sent[cut:]], checks)
        verdicts.append([told(event) for event in seen] == [RequestReceived(7, request)])
        if not verdicts[-1]:
            _refused(checks, pair, seen, f"{len(sent)} bytes with a limit of {limit}")
    checks.that(
        len(set(verdicts)) == 1, f"whether {limit} bytes are too few depends on how a frame is cut"
    )
    return verdicts[0]


def _refused(checks: Checks, pair: Pair, seen: list[Event], how: str) -> None:
    event = seen[-1] if seen else None
    if not isinstance(event, RequestRefused) or len(seen) != 1:
        checks.wrong(f"{how}: one refusal should come, there is {shown(list(map(told, seen)))}")
        return
    checks.that(isinstance(event.error, FrameTooLarge), f"{how}: refused as {event.error.code}")
    checks.that(event.fatal, f"{how}: the refusal is not fatal")
    answered = feed(pair.client, [pair.reply(event.id, event.error.to_reply())], checks)
    expected = [ReplyReceived(event.id, event.error.to_reply())]
    same_events(checks, answered, expected, f"{how}: the refusal, answered")


def _client_takes(checks: Checks, bench: TransportBench, reply: Reply, limit: int) -> bool:
    pair = bench.pair(client=max(limit, 1))
    answer = pair.answer(7, Hello(), reply)
    try:
        seen = feed(pair.client, [answer], checks)
    except RemoteProtocolError:
        return False
    same_events(checks, seen, [ReplyReceived(7, reply)], f"a reply with a limit of {limit}")
    return True


def _sharp(checks: Checks, limits: list[int], taken: list[bool], what: str) -> None:
    refused = [limit for limit, took in zip(limits, taken, strict=True) if not took]
    took = [limit for limit, took in zip(limits, taken, strict=True) if took]
    checks.that(refused and refused[0] == limits[0], f"{what} is taken with a limit of {limits[0]}")
    checks.that(not refused or refused[-1] < limits[-3], f"{what} is refused with a limit of that")
    between = f"{what} is taken with limits {shown(took)} and refused with {shown(refused)}"
    checks.that(not (refused and took) or refused[-1] < took[0], between)


@rule(14, "A limit that is changed between two events holds for the next, raised or lowered.")
def limits_change_between_events(checks: Checks, bench: TransportBench) -> None:
    """Have two frames in the codec, and change the limit when the first was taken out."""
    long = Send(to="bob", body="x" * 2_000)
    for before, after in ((1_000, ROOMY), (ROOMY, 1_000)):
        how = f"a limit of {before}, then {after}"
        pair = bench.pair()
        stream = b"".join(pair.requests([(1, Ping()), (2, long)]))
        pair.server.frame_limit = before
        pair.server.receive_data(stream)
        checks.equal(pair.server.next_event(), RequestReceived(1, Ping()), f"{how}: the first")
        pair.server.frame_limit = after
        event = pair.server.next_event()
        if after == ROOMY:
            checks.equal(event, RequestReceived(2, long), f"{how}: the second")
        else:
            refused = isinstance(event, RequestRefused) and isinstance(event.error, FrameTooLarge)
            checks.that(refused, f"{how}: the second is {shown(event)}")
        pair = bench.pair()
        feed(pair.server, pair.requests([(1, Ping()), (2, Hello())]), checks)
        pair.client.frame_limit = before
        pair.client.receive_data(pair.reply(1, Done()) + pair.reply(2, long_reply(2_000)))
        checks.equal(pair.client.next_event(), ReplyReceived(1, Done()), f"{how}: the first reply")
        pair.client.frame_limit = after
        if after == ROOMY:
            second = ReplyReceived(2, long_reply(2_000))
            checks.equal(pair.client.next_event(), second, f"{how}: the second reply")
        else:
            checks.raises(RemoteProtocolError, pair.client.next_event, f"{how}: the second reply")


@rule(15, "After a fatal event nothing more is yielded, whatever arrives.")
def a_fatal_event_is_the_last(checks: Checks, bench: TransportBench) -> None:
    """Go on with whole frames behind one that was too long, in the same piece and in others."""
    pair = bench.pair()
    long, *good = pair.requests([(1, Send(to="bob", body="x" * 2_000)), (2, Ping()), (3, Ping())])
    for how, pieces in (("one piece", [long + good[0], good[1]]), ("pieces", [long, *good])):
        other = bench.pair()
        other.server.frame_limit = 500
        seen = feed(other.server, pieces, checks)
        ends = [isinstance(event, RequestRefused) and event.fatal for event in seen]
        checks.that(any(ends), f"a frame beyond the limit, in {how}: nothing fatal is yielded")
        checks.that(not any(ends[:-1]), f"in {how}: after a fatal event comes {shown(seen[-1:])}")
        other.server.receive_eof()
        checks.equal(other.server.next_event(), None, f"in {how}: what comes at the end")
        other = bench.pair()
        feed(other.server, other.requests([(1, Hello()), (2, Ping()), (3, Ping())]), checks)
        answers = [
            other.reply(1, long_reply(2_000)),
            other.reply(2, Done()),
            other.reply(3, Done()),
        ]
        other.client.frame_limit = 500
        checks.raises(
            RemoteProtocolError,
            lambda: feed(other.client, [b"".join(answers[:2])], checks),  # noqa: B023 - called at once
            "a reply beyond the limit",
        )
        later = feed(other.client, [answers[2], b"".join(answers)], checks)
        checks.equal(later, [], "what a client yields after its error")


RULES: Final = (
    mid_frame_is_right,
    the_end_drops_half_a_frame,
    limits_are_exact,
    limits_change_between_events,
    a_fatal_event_is_the_last,
)
