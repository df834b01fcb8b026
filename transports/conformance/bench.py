"""What the transport kit's rules work on: both ends of connections, and ways to cut a stream."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from random import Random
from typing import Final

from twinline.core.conformance import Checks, shown
from twinline.core.protocol import Reply, Request
from twinline.transports.conformance.samples import answer
from twinline.transports.contract import (
    ClientCodec,
    RemoteProtocolError,
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
        others: transports whose connections it must not take for its own.
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

    def ends(
        self, exchanges: Sequence[tuple[int, Request, Reply]], *, limit: int = ROOMY
    ) -> tuple["End", "End"]:
        """Return a server's end that is to read requests, and a client's that waits for replies.

        Args:
            exchanges: ids, the requests, and what each is answered with; a stream is ended.
            limit: the frame limit of both.
        """
        up, down = self.pair(server=limit), self.pair(client=limit)
        server = End("the server", up.server, [], [])
        client = End("the client", down.client, [], [])
        for number, request, reply in exchanges:
            server.frames.append(up.request(number, request))
            server.events.append(RequestReceived(number, request))
            down.server.receive_data(down.request(number, request))
            down.server.next_event()
            for each in answer(reply):
                client.frames.append(down.reply(number, each))
                client.events.append(ReplyReceived(number, each))
        return server, client

    def ways(self, one_by_one: bool = True) -> Iterator[tuple[str, Callable[[bytes], list[bytes]]]]:  # noqa: FBT001, FBT002 - it is a kind of cut
        """Yield ways to cut a stream: whole, byte by byte, and at random, empty pieces too."""
        yield "whole", lambda stream: [stream]
        if one_by_one:
            yield "byte by byte", lambda stream: [bytes([byte]) for byte in stream]
        for pieces in (3, 40) if not self.slow else (2, 3, 5, 10, 40, 100, 400):
            yield f"in {pieces + 1} random pieces", partial(self._cut, pieces)

    def _cut(self, pieces: int, stream: bytes) -> list[bytes]:
        places = [self.random.randrange(len(stream) + 1) for _ in range(pieces)]
        edges = [0, *sorted([*places, places[0]]), len(stream)]
        return [stream[start:end] for start, end in pairwise(edges)]


@dataclass(slots=True)
class End:
    """One end of a connection, the frames that it is to read, and the events that they are.

    Attributes:
        who: "the server" or "the client".
        codec: reads them.
        frames: one a message.
        events: one a frame.
    """

    who: str
    codec: ServerCodec | ClientCodec
    frames: list[bytes]
    events: list[Event]


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


def ends_connection(codec: ServerCodec | ClientCodec) -> bool:
    """Take the next event, and return whether the connection ends by it."""
    try:
        event = codec.next_event()
    except RemoteProtocolError:
        return True
    return isinstance(event, RequestRefused) and event.fatal


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
        checks: given up when the events do not end.
        into: a list to add them to, which has those before an exception too.
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


def comparable(event: Event) -> object:
    """Return an event as something that can be compared: exceptions are equal to themselves."""
    if isinstance(event, RequestRefused):
        return event.id, event.error.code, event.error.message, event.fatal
    return event


def same_events(
    checks: Checks, seen: Sequence[Event], expected: Sequence[object], how: str
) -> bool:
    """Note evidence at the first event that is not as expected; return whether all are."""
    checks.count += len(expected)
    for at, (one, other) in enumerate(zip(map(comparable, seen), expected, strict=False)):
        if one != other:
            return checks.wrong(f"{how}: event {at + 1} should be {shown(other)}, is {shown(one)}")
    if len(seen) < len(expected):
        return checks.wrong(
            f"{how}: {len(expected) - len(seen)} events are missing, from "
            f"{shown(expected[len(seen)])} on",
        )
    if len(seen) > len(expected):
        extra = seen[len(expected)]
        return checks.wrong(
            f"{how}: an event more than there should be, {shown(comparable(extra))}"
        )
    return True
