"""Rules 16 and 17 of the transport kit: what a frame costs in memory and in time."""

import time
import tracemalloc
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.protocol import Hello
from twinline.transports.conformance.bench import (
    FRAME_SLACK,
    End,
    TransportBench,
    ends_connection,
)
from twinline.transports.conformance.samples import long_reply

_HUGE: Final = 4 << 20
_PIECE: Final = 1_024
_KEPT_BYTES: Final = 64 * 1024
_PEAK_BYTES: Final = 256 * 1024
_TOO_MUCH: Final = 16


@rule(16, "A frame that is too long is refused before it is collected, in bounded memory.")
def long_frames_are_not_collected(checks: Checks, bench: TransportBench) -> None:
    """Feed a huge frame in pieces, count those that are taken in, and go on after the refusal."""
    for limit in (256, 4_096):
        for end in bench.ends([(7, Hello(client="x" * _HUGE), long_reply(_HUGE))], limit=limit):
            _not_collected(checks, end, limit)


def _not_collected(checks: Checks, end: End, limit: int) -> None:
    codec, who, stream = end.codec, end.who, end.frames[0]
    ours = not tracemalloc.is_tracing()
    if ours:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        refused_after = None
        for at in range(0, len(stream), _PIECE):
            codec.receive_data(stream[at : at + _PIECE])
            if refused_after is None and ends_connection(codec):
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


@rule(17, "A frame costs time in proportion to its length, in however many pieces it comes.")
def time_is_linear(checks: Checks, bench: TransportBench) -> None:
    """Compare the processor time for a frame with that for one of eight times the length.

    It should be eight times as much, and would be near 64 times if each piece cost what came
    before it.
    """
    short, long = 32 * 1024, 256 * 1024

    for which, who in enumerate(("server", "client")):
        fast = slow = float("inf")
        # The best of some attempts, and of more before it is reported: other load only adds time.
        for attempt in range(6):
            fast = min(fast, _seconds(bench, which, short))
            slow = min(slow, _seconds(bench, which, long))
            if attempt >= 2 and not _TOO_MUCH <= slow / fast < 2 * _TOO_MUCH:
                break
        checks.that(
            slow < _TOO_MUCH * fast,
            f"the {who} needs {slow / fast:.0f} times the time for 8 times the length",
        )


def _seconds(bench: TransportBench, which: int, length: int) -> float:
    end = bench.ends([(7, Hello(client="x" * length), long_reply(length))])[which]
    frame, codec = end.frames[0], end.codec
    pieces = [frame[at : at + 16] for at in range(0, len(frame) - 16, 16)]
    start = time.thread_time()
    for piece in pieces:
        codec.receive_data(piece)
        codec.next_event()
    return time.thread_time() - start
