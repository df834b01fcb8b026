"""Rules 16 and 17 of the transport kit: what a frame costs in memory and in time."""

import time
import tracemalloc
from collections.abc import Callable
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.protocol import Hello, Send
from twinline.transports.conformance.bench import FRAME_SLACK, TransportBench
from twinline.transports.conformance.samples import long_reply
from twinline.transports.contract import (
    ClientCodec,
    RemoteProtocolError,
    RequestRefused,
    ServerCodec,
)

_HUGE: Final = 4 << 20
_PIECE: Final = 1_024
_KEPT_BYTES: Final = 64 * 1024
_PEAK_BYTES: Final = 256 * 1024
_TOO_MUCH: Final = 16


@rule(16, "A frame that is too long is refused before it is collected, in bounded memory.")
def long_frames_are_not_collected(checks: Checks, bench: TransportBench) -> None:
    """Feed a huge frame in pieces, count those that are taken in, and go on after the refusal."""
    sent = bench.pair().request(7, Send(to="bob", body="x" * _HUGE))
    answer = bench.pair().answer(7, Hello(), long_reply(_HUGE))
    for limit in (256, 4_096):
        other = bench.pair(server=limit)
        _not_collected(checks, other.server, sent, limit, "the server")
        other = bench.pair(client=limit)
        other.request(7, Hello())
        _not_collected(checks, other.client, answer, limit, "the client")


def _not_collected(
    checks: Checks, codec: ServerCodec | ClientCodec, stream: bytes, limit: int, who: str
) -> None:
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        refused_after = None
        for at in range(0, len(stream), _PIECE):
            codec.receive_data(stream[at : at + _PIECE])
            if refused_after is None and _ends(codec):
                refused_after = at + _PIECE
        now, peak = tracemalloc.get_traced_memory()
    finally:
        if ours:
            tracemalloc.stop()
    most = limit + FRAME_SLACK + 2 * _PIECE
    checks.that(
        refused_after is not None and refused_after <= most,
        f"{who} with a limit of {limit} takes in {refused_after or 'all'} of {len(stream)} bytes "
        f"of a frame before it refuses it",
    )
    kept, reached = now - before, peak - before
    checks.that(kept <= _KEPT_BYTES, f"{who} keeps {kept} bytes of what came after a refusal")
    checks.that(reached <= _PEAK_BYTES, f"{who} takes {reached} bytes of memory for a refusal")


def _ends(codec: ServerCodec | ClientCodec) -> bool:
    """Return whether the next event ends the connection."""
    try:
        event = codec.next_event()
    except RemoteProtocolError:
        return True
    return isinstance(event, RequestRefused) and event.fatal


@rule(17, "A frame costs time in proportion to its length, in however many pieces it comes.")
def time_is_linear(checks: Checks, bench: TransportBench) -> None:
    """Compare the processor time for a frame with that for one of eight times the length.

    It should be eight times as much, and would be near 64 times if each piece cost what came
    before it.
    """
    short, long = 32 * 1024, 256 * 1024

    def server(length: int) -> tuple[ServerCodec | ClientCodec, bytes]:
        pair = bench.pair()
        return pair.server, pair.request(7, Send(to="bob", body="x" * length))

    def client(length: int) -> tuple[ServerCodec | ClientCodec, bytes]:
        pair = bench.pair()
        return pair.client, pair.answer(7, Hello(), long_reply(length))

    for who, end in (("server", server), ("client", client)):
        fast = slow = float("inf")
        # The best of some attempts, and of more before it is told: others only ever add time.
        for attempt in range(6):
            fast, slow = min(fast, _seconds(end, short)), min(slow, _seconds(end, long))
            if attempt >= 2 and not _TOO_MUCH <= slow / fast < 2 * _TOO_MUCH:
                break
        checks.that(
            slow < _TOO_MUCH * fast,
            f"the {who} needs {slow / fast:.0f} times the time for 8 times the length",
        )


def _seconds(end: Callable[[int], tuple[ServerCodec | ClientCodec, bytes]], length: int) -> float:
    codec, frame = end(length)
    pieces = [frame[at : at + 16] for at in range(0, len(frame) - 16, 16)]
    start = time.thread_time()
    for piece in pieces:
        codec.receive_data(piece)
        codec.next_event()
    return time.thread_time() - start


RULES: Final = (long_frames_are_not_collected, time_is_linear)
