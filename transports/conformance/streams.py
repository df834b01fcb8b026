"""Rules 26 to 30 of the transport kit: a request that is answered by a stream of replies."""

from collections.abc import Sequence
from itertools import chain
from typing import Final

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import SessionExpired, ShuttingDown
from twinline.core.protocol import Done, Ping, Reply, Request
from twinline.transports.conformance.bench import Event, Pair, TransportBench, feed, same_events
from twinline.transports.conformance.samples import plain, replies, small, streamed
from twinline.transports.contract import RemoteProtocolError, ReplyReceived, RequestReceived

_MANY: Final = 2_000
_FEW: Final = 3
_ERRORS: Final = (ShuttingDown(retry_after_ms=100).to_reply(), SessionExpired().to_reply())


@rule(26, "Each reply of a stream comes out when it is there, and the stream goes on while `more`.")
def streams_arrive(checks: Checks, bench: TransportBench) -> None:
    """Answer a request by many replies, one by one and in one piece, and then the next request."""
    for request, parts in streamed():
        for last in _ends(request):
            how = f"a stream that ends with {shown(last)}"
            pair = _asked(checks, bench, [(7, request), (8, Ping())])
            for reply in (*parts[:_FEW], last):
                *most, end = _split(pair.reply(7, reply))
                same_events(checks, feed(pair.client, most, checks), [], f"{how}: in mid-frame")
                seen = feed(pair.client, [end], checks)
                same_events(checks, seen, [ReplyReceived(7, reply)], how)
            seen = feed(pair.client, [pair.reply(8, Done())], checks)
            same_events(checks, seen, [ReplyReceived(8, Done())], f"{how}: the request behind")
        pair = _asked(checks, bench, [(7, request)])
        many = [*(parts[at % len(parts)] for at in range(_MANY)), plain(request.reply)]
        seen = feed(pair.client, [_said(pair, 7, many)], checks)
        same_events(checks, seen, _received(7, many), f"a stream of {_MANY} replies in one piece")


@rule(27, "A reply without `more` ends its stream, an error too; another one to its id is stray.")
def streams_end(checks: Checks, bench: TransportBench) -> None:
    """End streams in every way, the shortest too, and have the server go on with them."""
    for request, parts in streamed():
        for last in _ends(request):
            for length in (0, 1, _FEW):
                for stray in (parts[0], plain(request.reply), *_ERRORS):
                    _ended(checks, bench, request, [*parts[:length], last], stray)


def _ended(
    checks: Checks, bench: TransportBench, request: Request, stream: Sequence[Reply], stray: Reply
) -> None:
    """See that a stray reply behind a stream is an error, if something else is awaited or not."""
    for behind in ([], [8]):
        pair = _asked(checks, bench, [(7, request), *((number, Ping()) for number in behind)])
        feed(pair.client, [_said(pair, 7, stream)], checks)
        checks.raises(
            RemoteProtocolError,
            lambda: feed(pair.client, [pair.reply(7, stray)], checks),  # noqa: B023 - called at once
            f"{shown(stray)} behind a stream of {len(stream)} that ended with {shown(stream[-1])}",
        )


@rule(28, "Requests behind a stream wait for its end, and are answered in their order.")
def requests_wait_for_a_stream(checks: Checks, bench: TransportBench) -> None:
    """Ask more while a stream is open, another stream too; a reply that overtakes is an error."""
    for request, parts in streamed():
        for ids in ((1, 2, 3, 4), (7, 7, 7, 7)):
            for late in range(_FEW):
                conversation = _conversation(request, parts, ids)
                asked = [(number, wanted) for number, wanted, _ in conversation]
                # The first is under way; what comes behind it is asked after some of its replies.
                pair = _asked(checks, bench, asked[:1])
                first, *others = conversation
                seen = feed(pair.client, [_said(pair, first[0], first[2][:late])], checks)
                up = feed(pair.server, pair.requests(asked[1:]), checks)
                wanted_up = [RequestReceived(*one) for one in asked[1:]]
                same_events(checks, up, wanted_up, "requests behind a stream")
                seen += feed(pair.client, [_said(pair, first[0], first[2][late:])], checks)
                for number, _, answers in others:
                    seen += feed(pair.client, [_said(pair, number, answers)], checks)
                expected = chain(
                    *(_received(number, answers) for number, _, answers in conversation)
                )
                how = f"a stream and what was asked after {late} of its replies, ids {shown(ids)}"
                same_events(checks, seen, list(expected), how)
        for overtaking in (2, 3):
            pair = _asked(checks, bench, [(1, request), (2, Ping()), (3, Ping())])
            feed(pair.client, [_said(pair, 1, parts[:_FEW])], checks)
            checks.raises(
                RemoteProtocolError,
                lambda: feed(pair.client, [pair.reply(overtaking, Done())], checks),  # noqa: B023 - called at once
                f"a reply to {overtaking} while the stream of 1 is open",
            )


@rule(29, "However a stream is cut, it brings the same events, and the same error behind its end.")
def cuts_of_streams_change_nothing(checks: Checks, bench: TransportBench) -> None:
    """Feed a conversation of streams, and then a reply too many, in every way."""
    for request, parts in streamed():
        conversation = _conversation(request, parts, (1, 2, 3, 4))
        expected = [*chain(*(_received(number, answers) for number, _, answers in conversation))]
        for how, cut in bench.ways():
            pair = _asked(checks, bench, [(number, wanted) for number, wanted, _ in conversation])
            stream = b"".join(_said(pair, number, answers) for number, _, answers in conversation)
            stream += pair.reply(3, parts[0])
            seen: list[Event] = []
            checks.raises(
                RemoteProtocolError,
                lambda: feed(pair.client, cut(stream), checks, seen),  # noqa: B023 - called at once
                f"a reply behind the end of a stream, {how}",
            )
            same_events(checks, seen, expected, f"streams {how}")


@rule(30, "Only what continues is a stream: `more` of a page says nothing about other replies.")
def pages_are_no_streams(checks: Checks, bench: TransportBench) -> None:
    """Answer each request by a reply that is its only one, and then once more."""
    for request, reply in replies():
        if reply.continues or not small([reply]):
            continue
        pair = _asked(checks, bench, [(7, request), (8, Ping())])
        seen = feed(pair.client, [pair.reply(7, reply)], checks)
        same_events(checks, seen, [ReplyReceived(7, reply)], shown(reply))
        checks.raises(
            RemoteProtocolError,
            lambda: feed(pair.client, [pair.reply(7, reply)], checks),  # noqa: B023 - called at once
            f"{shown(reply)}, a second time",
        )


# -- what is said in a stream -------------------------------------------------------------


def _asked(checks: Checks, bench: TransportBench, requests: Sequence[tuple[int, Request]]) -> Pair:
    """Return the two ends of a connection on which the server has read some requests."""
    pair = bench.pair()
    feed(pair.server, pair.requests(requests), checks)
    return pair


def _ends(request: Request) -> list[Reply]:
    """Return replies that end a stream: those to its request that do not continue, and errors."""
    own = [reply for asked, reply in replies() if asked == request and not reply.continues]
    return [*small([reply for reply in own if isinstance(reply, request.reply)]), *_ERRORS]


def _conversation(
    request: Request, parts: Sequence[Reply], ids: tuple[int, int, int, int]
) -> list[tuple[int, Request, list[Reply]]]:
    """Return two streams and what is asked behind each, with all of their replies."""
    first, second, third, fourth = ids
    return [
        (first, request, [*parts[:_FEW], plain(request.reply)]),
        (second, Ping(), [Done()]),
        (third, request, [*parts[-_FEW:], _ERRORS[0]]),
        (fourth, Ping(), [Done()]),
    ]


def _received(number: int, answers: Sequence[Reply]) -> list[ReplyReceived]:
    return [ReplyReceived(number, reply) for reply in answers]


def _said(pair: Pair, number: int, answers: Sequence[Reply]) -> bytes:
    """Have the server send replies to one request; return the bytes."""
    return b"".join(pair.reply(number, reply) for reply in answers)


def _split(frame: bytes) -> tuple[bytes, bytes]:
    return frame[:-1], frame[-1:]
