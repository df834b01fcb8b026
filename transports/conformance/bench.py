"""What the transport kit's rules work on: pairs of codecs, and streams cut in every way."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Final

from twinline.core.conformance import Checks, shown
from twinline.core.protocol import Reply, Request
from twinline.transports.contract import (
    ClientCodec,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    ServerCodec,
    Transport,
)

ROOMY: Final = 1 << 21
"""A frame limit that no sample comes near."""
FRAME_SLACK: Final = 64
"""What a transport may put around a frame without counting it."""
_SPARE_EVENTS: Final = 16
Event = RequestReceived | RequestRefused | ReplyReceived


@dataclass(slots=True)
class TransportBench:
    """One rule's bench.

    Attributes:
        transport: the one that is checked.
        others: transports that it must be told from.
        random: seeded, so that a failure comes again.
        slow: whether to try much more.
    """

    transport: Transport
    others: Sequence[Transport]
    random: Random
    slow: bool

    def close(self) -> None:
        """Do nothing: codecs hold nothing to release."""

    def pair(self, *, client: int = ROOMY, server: int = ROOMY) -> "Pair":
        """Return the two ends of a new connection, with the frame limit of each."""
        return Pair(self.transport.client_codec(client), self.transport.server_codec(server))

    def cuts(self, stream: bytes, one_by_one: bool = True) -> Iterator[tuple[str, list[bytes]]]:  # noqa: FBT001, FBT002 - it is a kind of cut
        """Yield ways to cut a stream: whole, byte by byte, and at random, empty pieces too."""
        yield "whole", [stream]
        if one_by_one:
            yield "byte by byte", [stream[at : at + 1] for at in range(len(stream))]
        for pieces in (3, 40) if not self.slow else (2, 3, 5, 10, 40, 100, 400):
            places = [self.random.randrange(len(stream) + 1) for _ in range(pieces)]
            yield f"in {pieces + 1} random pieces", cut(stream, [*places, places[0]])


class Pair:
    """A client's and a server's codec, after whatever they say before the first request.

    Attributes:
        client: the client's end.
        server: the server's end.
        opening: what the client said to the server by itself; nothing, mostly.
    """

    def __init__(self, client: ClientCodec, server: ServerCodec) -> None:
        self.client = client
        self.server = server
        self.opening = b""
        while True:
            up = client.data_to_send()
            self.opening += up
            server.receive_data(up)
            server.next_event()
            down = server.data_to_send()
            client.receive_data(down)
            client.next_event()
            if not up and not down:
                return

    def request(self, id: int, request: Request) -> bytes:
        """Have the client send a request; return the bytes."""
        self.client.send(id, request)
        return self.client.data_to_send()

    def requests(self, requests: Iterable[tuple[int, Request]]) -> list[bytes]:
        """Have the client send requests; return each one's bytes."""
        return [self.request(number, request) for number, request in requests]

    def answer(self, id: int, request: Request, reply: Reply) -> bytes:
        """Have the client send a request and the server answer it; return the answer's bytes."""
        self.server.receive_data(self.request(id, request))
        self.server.next_event()
        return self.reply(id, reply)

    def reply(self, id: int | None, reply: Reply) -> bytes:
        """Have the server send a reply; return the bytes."""
        self.server.send(id, reply)
        return self.server.data_to_send()


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut a stream at places; one that is named twice gives an empty piece."""
    edges = [0, *sorted(places), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


def drain(codec: ServerCodec | ClientCodec, checks: Checks, most: int) -> list[Event]:
    """Return the events that there are now; more than ``most`` are without end."""
    events: list[Event] = []
    while (event := codec.next_event()) is not None:
        events.append(event)
        if len(events) > most:
            checks.give_up(f"the codec yields events without end, the last {shown(event)}")
    return events


def feed(
    codec: ServerCodec | ClientCodec,
    pieces: Iterable[bytes],
    checks: Checks,
    into: list[Event] | None = None,
) -> list[Event]:
    """Feed pieces, and return the events: those that each piece completes, when it arrives.

    Args:
        codec: either end.
        pieces: of a stream.
        checks: told when the events do not end.
        into: a list to add them to, for whoever wants those before an exception.
    """
    events: list[Event] = [] if into is None else into
    fed = len(events)
    for piece in pieces:
        fed += len(piece)
        codec.receive_data(piece)
        while (event := codec.next_event()) is not None:
            events.append(event)
            if len(events) > fed + _SPARE_EVENTS:
                checks.give_up(f"the codec yields events without end, the last {shown(event)}")
    return events


def told(event: Event) -> object:
    """Return an event as something that can be compared: exceptions are equal to themselves."""
    if isinstance(event, RequestRefused):
        return event.id, event.error.code, event.error.message, event.fatal
    return event


def same_events(
    checks: Checks, seen: Sequence[Event], expected: Sequence[object], how: str
) -> bool:
    """Note evidence at the first event that is not as expected; return whether all are."""
    checks.count += len(expected)
    for at, (one, other) in enumerate(zip(map(told, seen), expected, strict=False)):
        if one != other:
            return checks.wrong(f"{how}: event {at + 1} should be {shown(other)}, is {shown(one)}")
    if len(seen) < len(expected):
        return checks.wrong(
            f"{how}: {len(expected) - len(seen)} events are missing, from "
            f"{shown(expected[len(seen)])} on",
        )
    if len(seen) > len(expected):
        extra = seen[len(expected)]
        return checks.wrong(f"{how}: an event more than there should be, {shown(told(extra))}")
    return True
