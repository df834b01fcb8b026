"""Rules 1 to 10 of the transport kit: what goes in comes out, in order, however it is cut."""

from collections.abc import Sequence
from typing import Final

from twinline.core import protocol
from twinline.core.conformance import Checks, failure, rule, shown
from twinline.core.errors import Busy, UndeliveredMessages
from twinline.core.protocol import MAX_INT, Done, ErrorReply, Ping, Reply, Request, Send, Status
from twinline.transports.conformance.bench import (
    ROOMY,
    Event,
    TransportBench,
    feed,
    same_events,
)
from twinline.transports.conformance.samples import plain, replies, requests, small
from twinline.transports.contract import (
    ClientCodec,
    LocalProtocolError,
    ReplyReceived,
    RequestReceived,
    ServerCodec,
)

_IDS: Final = (1, 0, 127, 128, 255, 256, 2**16, 2**31, 2**32, MAX_INT - 1, MAX_INT)
_HALF_A_PAIR: Final = "\ud83d"
_BUSY: Final = ErrorReply(code="busy", message="later", retryable=True)


@rule(1, "Every request that a client sends arrives at the server, every field of it as it was.")
def requests_arrive(checks: Checks, bench: TransportBench) -> None:
    """Send each sample alone, so that the evidence names it."""
    for request in requests():
        pair = bench.pair()
        sent = pair.request(7, request)
        seen = feed(pair.server, [sent], checks)
        same_events(checks, seen, [RequestReceived(7, request)], _named(request))


@rule(2, "Every reply that a server sends arrives at the client, every field of it as it was.")
def replies_arrive(checks: Checks, bench: TransportBench) -> None:
    """Answer each sample's request with it."""
    for request, reply in replies():
        pair = bench.pair()
        feed(pair.server, [pair.request(7, request)], checks)
        seen = feed(pair.client, [pair.reply(7, reply)], checks)
        same_events(checks, seen, [ReplyReceived(7, reply)], _named(reply))


@rule(3, "An error arrives with the id of its request, or with none if that could not be read.")
def errors_arrive_with_and_without_id(checks: Checks, bench: TransportBench) -> None:
    """Send errors of every kind of content both ways."""
    errors = [
        Busy(retry_after_ms=MAX_INT).to_reply(),
        UndeliveredMessages(count=0).to_reply(),
        ErrorReply(code="of_tomorrow", message="nöch nie gesehen", retryable=True),
        ErrorReply(code="", message="", retryable=False, retry_after_ms=0, count=MAX_INT),
    ]
    for error in errors:
        for number in (0, MAX_INT, None):
            pair = bench.pair()
            feed(pair.server, [pair.request(number or 0, Ping())], checks)
            seen = feed(pair.client, [pair.reply(number, error)], checks)
            same_events(checks, seen, [ReplyReceived(number, error)], f"an error to id {number}")


@rule(4, "The events depend on the bytes, never on how they were cut.")
def cuts_change_nothing(checks: Checks, bench: TransportBench) -> None:
    """Feed one stream of many frames to both ends, cut in every way; the long ones less so."""
    for some, one_by_one in ((small(requests()), True), (requests(), bench.slow)):
        expected = [RequestReceived(number, request) for number, request in enumerate(some)]
        pair = bench.pair()
        stream = pair.opening + b"".join(pair.requests(enumerate(some)))
        for how, cut in bench.ways(one_by_one):
            server = bench.transport.server_codec(ROOMY)
            same_events(checks, feed(server, cut(stream), checks), expected, f"requests {how}")
    for some_replies, one_by_one in (
        ([one for one in replies() if small([one[1]])], True),
        (replies(), bench.slow),
    ):
        exchanges = [(number, *one) for number, one in enumerate(some_replies)]
        for how, cut in bench.ways(one_by_one):
            # A new client each: what it understands may depend on what came before.
            _, end = bench.ends(exchanges)
            seen = feed(end.codec, cut(b"".join(end.frames)), checks)
            same_events(checks, seen, end.events, f"replies {how}")


@rule(5, "All frames of one piece come out at once, and what begins behind them is kept.")
def coalesced_frames_all_come_out(checks: Checks, bench: TransportBench) -> None:
    """Feed a number of frames with every tail of the next one, then the rest of it."""
    kinds: list[tuple[Request, Reply]] = [
        (Ping(), Done()),
        (Send(to="bob", body="hi"), _BUSY),
        (Status(), _BUSY),
    ]
    for count in (1, 2, 3, 10):
        exchanges = [(number, *kinds[number % 3]) for number in (*range(count), 10_000)]
        for at in range(5):
            for end in bench.ends(exchanges):
                *frames, last = end.frames
                tail = (0, 1, 2, len(last) // 2, len(last) - 1)[at]
                how = f"at {end.who}, {count} frames and {tail} bytes of the next in one piece"
                seen = feed(end.codec, [b"".join(frames) + last[:tail]], checks)
                same_events(checks, seen, end.events[:-1], how)
                seen = feed(end.codec, [last[tail:]], checks)
                same_events(checks, seen, end.events[-1:], f"{how}, then its rest")


@rule(6, "An id is any integer from 0 to 2^53-1, comes back as it was, and may be used again.")
def ids_are_echoed(checks: Checks, bench: TransportBench) -> None:
    """Use odd ids on both ends, in one pipeline, each of them twice."""
    for end in bench.ends([(number, Ping(), Done()) for number in (*_IDS, *reversed(_IDS))]):
        same_events(checks, feed(end.codec, end.frames, checks), end.events, f"at {end.who}")


@rule(7, "Any number of requests may be under way; they and their replies keep their order.")
def pipelines_keep_their_order(checks: Checks, bench: TransportBench) -> None:
    """Pipeline thousands of requests of every kind, taken out of the codec in one go."""
    total = 10_000 if bench.slow else 2_000
    kinds = [plain(model) for model in protocol.REQUESTS]
    samples = {
        type(reply): reply for _, reply in replies() if small([reply]) and not reply.continues
    }
    pair = bench.pair()
    asked = [(bench.random.randint(0, MAX_INT), kinds[at % len(kinds)]) for at in range(total)]
    for number, request in asked:
        pair.client.send(number, request)
    seen = feed(pair.server, [pair.client.data_to_send()], checks)
    same_events(checks, seen, [RequestReceived(*one) for one in asked], f"{total} requests")
    for number, request in asked:
        pair.server.send(number, samples[request.reply])
    answers = feed(pair.client, [pair.server.data_to_send()], checks)
    expected = [ReplyReceived(number, samples[request.reply]) for number, request in asked]
    same_events(checks, answers, expected, f"{total} replies")


@rule(8, "Two connections of one transport have nothing in common.")
def codecs_are_independent(checks: Checks, bench: TransportBench) -> None:
    """Run two connections in step, byte by byte, with other ids and contents."""
    stories = {
        name: [
            (number, Send(to=name, body=name * 9), _BUSY.model_copy(update={"message": name}))
            for number in ids
        ]
        for name, ids in (("ann", range(5)), ("bob", range(100, 105)))
    }
    pairs = {name: bench.pair() for name in stories}
    for name, story in stories.items():
        for number, request, _ in story:
            pairs[name].client.send(number, request)
    _in_step(
        checks,
        [(pair.server, pair.client.data_to_send()) for pair in pairs.values()],
        [[RequestReceived(*one[:2]) for one in story] for story in stories.values()],
    )
    for name, story in stories.items():
        for number, _, reply in story:
            pairs[name].server.send(number, reply)
    _in_step(
        checks,
        [(pair.client, pair.server.data_to_send()) for pair in pairs.values()],
        [
            [ReplyReceived(number, reply) for number, _, reply in story]
            for story in stories.values()
        ],
    )


def _in_step(
    checks: Checks,
    ends: Sequence[tuple[ServerCodec | ClientCodec, bytes]],
    expected: Sequence[Sequence[object]],
) -> None:
    seen: list[list[Event]] = [[] for _ in ends]
    for at in range(max(len(stream) for _, stream in ends)):
        for events, (codec, stream) in zip(seen, ends, strict=True):
            feed(codec, [stream[at : at + 1]], checks, events)
    for events, wanted in zip(seen, expected, strict=True):
        same_events(checks, events, wanted, "two connections in step")


@rule(9, "What data_to_send returned once is not returned again, and nothing is lost between.")
def bytes_are_handed_out_once(checks: Checks, bench: TransportBench) -> None:
    """Take the bytes out after each message, and twice."""
    pair = bench.pair()
    for number in range(3):
        sent = pair.request(number, Ping())
        checks.that(sent, "a client that was given a request has nothing to send")
        checks.equal(pair.client.data_to_send(), b"", "what a client has to send after all is")
        seen = feed(pair.server, [sent], checks)
        same_events(checks, seen, [RequestReceived(number, Ping())], "requests one by one")
        answer = pair.reply(number, Done())
        checks.that(answer, "a server that was given a reply has nothing to send")
        checks.equal(pair.server.data_to_send(), b"", "what a server has to send after all is")
        seen = feed(pair.client, [answer], checks)
        same_events(checks, seen, [ReplyReceived(number, Done())], "replies one by one")


@rule(10, "What cannot be sent is LocalProtocolError; nothing of it goes out, the rest still does.")
def the_callers_mistakes_are_told(checks: Checks, bench: TransportBench) -> None:
    """Give both ends what the contract says they cannot take."""
    pair = bench.pair()
    for number in (-1, MAX_INT + 1, 2**64):
        checks.raises(
            LocalProtocolError,
            lambda: pair.client.send(number, Ping()),  # noqa: B023 - called at once
            f"request id {number}",
        )
    checks.raises(
        LocalProtocolError,
        lambda: pair.server.send(None, Done()),
        "a reply with no id and no error",
    )
    _half_a_pair(checks, bench)
    checks.equal(pair.client.data_to_send(), b"", "what a client sends of requests it refused")
    checks.equal(pair.server.data_to_send(), b"", "what a server sends of replies it refused")
    seen = feed(pair.server, [pair.request(1, Ping())], checks)
    same_events(checks, seen, [RequestReceived(1, Ping())], "the request after those refused")
    answers = feed(pair.client, [pair.reply(1, Done())], checks)
    same_events(checks, answers, [ReplyReceived(1, Done())], "the reply after those refused")


def _half_a_pair(checks: Checks, bench: TransportBench) -> None:
    """A lone surrogate is refused, or else it arrives: it is never another text."""
    request = Send(to="bob", body=f"half {_HALF_A_PAIR} a pair")
    pair = bench.pair()
    try:
        sent = pair.request(1, request)
    except LocalProtocolError:
        checks.count += 1
    except Exception as error:  # noqa: BLE001 - whatever it is, it is evidence
        checks.wrong(f"a text with half a surrogate pair raises {failure(error)}")
    else:
        seen = feed(pair.server, [sent], checks)
        same_events(
            checks, seen, [RequestReceived(1, request)], "a text with half a surrogate pair"
        )


def _named(model: Request | Reply) -> str:
    return f"{type(model).__name__} {shown(model.model_dump(exclude_defaults=True))}"
