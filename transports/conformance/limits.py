"""Rules 11 to 15 of the transport kit: where frames end, how long they may be, what is fatal."""

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import FrameTooLarge
from twinline.core.protocol import Done, Hello, Ping, Reply, Request, Send
from twinline.transports.conformance.bench import (
    FRAME_SLACK,
    ROOMY,
    Event,
    Pair,
    TransportBench,
    comparable,
    ends_connection,
    feed,
    same_events,
)
from twinline.transports.conformance.samples import long_reply
from twinline.transports.contract import (
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
)


@rule(11, "mid_frame is true from a frame's first byte until its last, which brings its event.")
def mid_frame_is_right(checks: Checks, bench: TransportBench) -> None:
    """Look after every byte of some frames, at both ends."""
    exchanges: list[tuple[int, Request, Reply]] = [
        (0, Ping(), Done()),
        (1, Hello(client="é👋"), long_reply(9)),
        (2, Hello(client="x" * 300), long_reply(200)),
        (3, Ping(), Done()),
    ]
    for end in bench.ends(exchanges):
        codec, who = end.codec, end.who
        checks.that(not codec.mid_frame, f"{who}'s mid_frame is true before the first byte")
        for nth, frame in enumerate(end.frames, 1):
            for at in range(len(frame)):
                events = feed(codec, [frame[at : at + 1]], checks)
                where = f"byte {at + 1} of {len(frame)} of frame {nth}"
                last = at + 1 == len(frame)
                checks.equal(len(events), int(last), f"at {who}, the number of events by {where}")
                checks.equal(codec.mid_frame, not last, f"{who}'s mid_frame after {where}")
    for end in bench.ends(exchanges):
        feed(end.codec, [end.frames[0] + end.frames[1][:1]], checks)
        checks.that(
            end.codec.mid_frame, "mid_frame is false behind one frame and a byte of the next"
        )


@rule(12, "The end of the stream drops what is left of a frame, and nothing else.")
def the_end_drops_half_a_frame(checks: Checks, bench: TransportBench) -> None:
    """End the stream at every place of a frame, behind a whole one that is still to be taken."""
    exchanges: list[tuple[int, Request, Reply]] = [
        (1, Ping(), Done()),
        (2, Hello(client="bob"), long_reply(9)),
    ]
    for at in range(max(len(end.frames[1]) for end in bench.ends(exchanges))):
        for end in bench.ends(exchanges):
            whole, part = end.frames
            end.codec.receive_data(whole + part[: at % len(part)])
            end.codec.receive_eof()
            how = f"at {end.who}, the end after {at} of {len(part)} bytes of a frame"
            same_events(checks, feed(end.codec, [b""], checks), end.events[:1], how)
            checks.that(not end.codec.mid_frame, f"{how}: mid_frame stays true")


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
        verdicts.append(list(map(comparable, seen)) == [RequestReceived(7, request)])
        if not verdicts[-1]:
            _refused(checks, pair, seen, f"{len(sent)} bytes with a limit of {limit}")
    checks.that(
        len(set(verdicts)) == 1, f"whether {limit} bytes are too few depends on how a frame is cut"
    )
    return verdicts[0]


def _refused(checks: Checks, pair: Pair, seen: list[Event], how: str) -> None:
    event = seen[-1] if seen else None
    if not isinstance(event, RequestRefused) or len(seen) != 1:
        checks.wrong(
            f"{how}: one refusal should come, there is {shown(list(map(comparable, seen)))}"
        )
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
    exchanges: list[tuple[int, Request, Reply]] = [
        (1, Ping(), Done()),
        (2, Hello(client="x" * 2_000), long_reply(2_000)),
    ]
    for before, after in ((1_000, ROOMY), (ROOMY, 1_000)):
        for end in bench.ends(exchanges):
            codec, how = end.codec, f"at {end.who}, a limit of {before}, then {after}"
            codec.frame_limit = before
            codec.receive_data(b"".join(end.frames))
            checks.equal(codec.next_event(), end.events[0], f"{how}: the first")
            codec.frame_limit = after
            if after == ROOMY:
                checks.equal(codec.next_event(), end.events[1], f"{how}: the second")
            else:
                checks.that(ends_connection(codec), f"{how}: the second is not refused")


@rule(15, "After a fatal event nothing more is yielded, whatever arrives.")
def a_fatal_event_is_the_last(checks: Checks, bench: TransportBench) -> None:
    """Go on with whole frames behind one that was too long, in the same piece and in others."""
    exchanges: list[tuple[int, Request, Reply]] = [
        (1, Hello(client="x" * 2_000), long_reply(2_000)),
        (2, Ping(), Done()),
        (3, Ping(), Done()),
    ]
    for glued in (1, 2):
        for end in bench.ends(exchanges):
            how = f"at {end.who}, a frame beyond the limit and {glued - 1} behind it in one piece"
            end.codec.frame_limit = 500
            end.codec.receive_data(b"".join(end.frames[:glued]))
            checks.that(ends_connection(end.codec), f"{how}: nothing fatal is yielded")
            later = feed(end.codec, [b"", *end.frames[glued:], b"".join(end.frames)], checks)
            checks.equal(later, [], f"{how}: what is yielded after a fatal event")
            end.codec.receive_eof()
            checks.equal(end.codec.next_event(), None, f"{how}: what comes at the end")
