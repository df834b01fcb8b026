"""Bytes for a transport to judge: good frames, broken ones, and noise."""

from collections.abc import Iterator
from random import Random
from typing import Final

from twinline.core.protocol import MAX_INT
from twinline.transports.conformance.bench import TransportBench
from twinline.transports.conformance.samples import replies, requests, small

TLS_HELLO: Final = bytes.fromhex("16030100c4010000c00303") + bytes(range(0x20, 0x60))
"""How a connection begins that wants TLS; no transport ever sees one that means it."""
HTTP_GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
STARTS: Final = (TLS_HELLO, HTTP_GET, b"\r\n\r\n", b"\0" * 64, b"\xff" * 64, b"SSH-2.0-x\r\n")
"""How connections begin, most of them none of any transport."""


def request_frames(bench: TransportBench) -> list[bytes]:
    """Return how short requests look on the wire, each as the first of its connection."""
    frames = []
    for request in small(requests()):
        pair = bench.pair()
        frames.append(pair.opening + pair.request(bench.random.choice((0, 1, MAX_INT)), request))
    return frames


def reply_frames(bench: TransportBench) -> list[bytes]:
    """Return how short replies to request 1 look on the wire."""
    frames = []
    for asked, reply in replies():
        if small([reply]):
            frames.append(bench.pair().answer(1, asked, reply))
    return frames


def broken_streams(
    bench: TransportBench, frames: list[bytes], *, fewer: bool = False
) -> Iterator[bytes]:
    """Yield streams of good frames, broken frames and noise, in any order."""
    yield from STARTS
    yield b""
    random = bench.random
    if not fewer:
        for frame in {len(frame): frame for frame in frames if len(frame) < 120}.values():
            for at in range(len(frame)):
                byte = (0, 0xFF, frame[at] ^ 1, random.randrange(256))[at % 4]
                yield frame[:at] + bytes([byte]) + frame[at + 1 :]
                yield frame[:at] + frame[at + 1 :]
    rounds = (120 if fewer else 300) * (10 if bench.slow else 1)
    for _ in range(rounds):
        parts = []
        for _ in range(random.randint(1, 4)):
            frame = random.choice(frames)
            parts.append(random.choice((frame, *(_broken(frame, random) for _ in range(3)))))
        yield b"".join(parts)[:2_000]


def _broken(frame: bytes, random: Random) -> bytes:
    """Return a frame with something wrong in it, or noise in its place."""
    at, to = sorted(random.choices(range(len(frame) + 1), k=2))
    return random.choice(
        (
            frame[:at] + random.randbytes(1) + frame[at + 1 :],
            frame[:at] + random.randbytes(random.randint(1, 8)) + frame[at:],
            frame[:at] + frame[to:],
            frame[:to] + frame[at:],
            frame[:at],
            random.randbytes(random.randint(1, 40)),
        )
    )
