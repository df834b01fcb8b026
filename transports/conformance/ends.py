"""Rules 31 to 33 of the transport kit: how a connection opens and ends, and what it says by itself.

Most transports have no handshake and no farewell, and keep these rules by saying nothing.
"""

from collections.abc import Callable
from typing import Final

from twinline.core.conformance import Checks, rule, shown
from twinline.core.protocol import Done, Ping
from twinline.transports.conformance.bench import (
    ROOMY,
    TransportBench,
    feed,
    same_events,
)
from twinline.transports.conformance.noise import broken_streams, reply_frames, request_frames
from twinline.transports.contract import (
    ClientCodec,
    LocalProtocolError,
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    ServerCodec,
)

_MOST_ROUNDS: Final = 8


@rule(31, "A client is opened by its handshake, however that is cut, and takes nothing before.")
def handshakes_open_a_client(checks: Checks, bench: TransportBench) -> None:
    """Shake hands in every way of cutting, and send a request then."""
    for how, cut in bench.ways():
        client = bench.transport.client_codec(ROOMY)
        server = bench.transport.server_codec(ROOMY)
        if not client.opened:
            checks.raises(
                LocalProtocolError,
                lambda: client.send(1, Ping()),  # noqa: B023 - called at once
                "a request before the handshake is over",
            )
        _shake_hands(checks, client, server, cut)
        if not checks.that(client.opened, f"a handshake {how} does not open the client"):
            return
        client.send(7, Ping())
        asked = feed(server, cut(client.data_to_send()), checks)
        same_events(checks, asked, [RequestReceived(7, Ping())], f"after a handshake {how}")
        server.send(7, Done())
        answered = feed(client, cut(server.data_to_send()), checks)
        same_events(checks, answered, [ReplyReceived(7, Done())], f"after a handshake {how}")


def _shake_hands(
    checks: Checks, client: ClientCodec, server: ServerCodec, cut: Callable[[bytes], list[bytes]]
) -> None:
    for _ in range(_MOST_ROUNDS):
        up = client.data_to_send()
        same_events(checks, feed(server, cut(up), checks), [], "of a handshake, at the server")
        down = server.data_to_send()
        same_events(checks, feed(client, cut(down), checks), [], "of a handshake, at the client")
        if not up and not down:
            return


@rule(32, "What end() says ends the other end, behind all that was said before; nothing follows.")
def farewells_end_the_other_end(checks: Checks, bench: TransportBench) -> None:
    """End a connection at either end, behind a message and without one, cut in every way."""
    for how, cut in bench.ways():
        for before in (True, False):
            pair = bench.pair()
            asked = pair.request(7, Ping())
            server, client = pair.server, pair.client
            pair.client.end()
            words = client.data_to_send()
            said = f"what a client says at its end, {how}"
            seen = feed(server, cut(asked + words if before else words), checks)
            same_events(checks, seen, [RequestReceived(7, Ping())] if before else [], said)
            _has_ended(checks, server, words, said)

            pair = bench.pair()
            server, client = pair.server, pair.client
            answer = pair.answer(7, Ping(), Done())
            server.end()
            words = server.data_to_send()
            said = f"what a server says at its end, {how}"
            seen = feed(client, cut(answer + words if before else words), checks)
            same_events(checks, seen, [ReplyReceived(7, Done())] if before else [], said)
            _has_ended(checks, client, words, said)


def _has_ended(checks: Checks, codec: ServerCodec | ClientCodec, words: bytes, said: str) -> None:
    checks.equal(codec.ended, bool(words), f"{said}, {shown(words)}: whether the other has ended")
    if not words:
        return
    codec.data_to_send()
    later = feed(codec, [words, b"\0" * 64], checks)
    checks.equal(later, [], f"{said}, {shown(words)}: what is yielded behind it")
    checks.equal(codec.data_to_send(), b"", f"{said}, {shown(words)}: what is said behind it")


@rule(33, "Only a codec that is `unprompted` says what no message put in, or ends by itself.")
def what_is_unprompted_is_told(checks: Checks, bench: TransportBench) -> None:
    """Feed good frames, broken ones and noise; nothing is put in."""
    asked, answered = request_frames(bench), reply_frames(bench)
    for stream in (*asked, *broken_streams(bench, asked, fewer=True)):
        server = bench.transport.server_codec(4_096)
        feed(server, [stream], checks)
        _prompted(checks, server, stream)
    for stream in (*answered, *broken_streams(bench, answered, fewer=True)):
        client = bench.pair(client=4_096).client
        try:
            feed(client, [stream], checks)
        except RemoteProtocolError:
            continue  # whatever it says now is not sent
        _prompted(checks, client, stream)


def _prompted(checks: Checks, codec: ServerCodec | ClientCodec, stream: bytes) -> None:
    if codec.unprompted:
        checks.count += 1
        return
    checks.equal(codec.data_to_send(), b"", f"what is said by itself after {shown(stream)}")
    checks.that(not codec.ended, f"it has ended by itself after {shown(stream)}")
