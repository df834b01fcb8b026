"""Feeding codecs: a stream cut into pieces, and the events that come out of it."""

from collections.abc import Iterable
from itertools import pairwise

from twinline.core.protocol import Ping
from twinline.transports.contract import (
    ClientCodec,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
    ServerCodec,
)

PING = {"jsonl": b'{"op":"ping","id":9}\n', "binary": bytes.fromhex("b7010f000000000109")}
"""The frame of a ping with id 9, on each transport."""
PINGED = RequestReceived(9, Ping())


def pieces(data: bytes, size: int | None) -> list[bytes]:
    """Cut bytes into pieces of a size, or leave them whole."""
    if size is None:
        return [data]
    return [data[at : at + size] for at in range(0, len(data), size)]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut bytes at places."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def receive(codec: ServerCodec, stream: Iterable[bytes]) -> list[RequestReceived | RequestRefused]:
    """Feed pieces, and return the events: those that each piece completes, when it arrives."""
    events = []
    for piece in stream:
        codec.receive_data(piece)
        while (event := codec.next_event()) is not None:
            events.append(event)
    return events


def receive_replies(codec: ClientCodec, stream: Iterable[bytes]) -> list[ReplyReceived]:
    """Feed pieces, and return the replies."""
    events = []
    for piece in stream:
        codec.receive_data(piece)
        while (event := codec.next_event()) is not None:
            events.append(event)
    return events


def shown(event: RequestReceived | RequestRefused) -> object:
    """Return an event as something that can be compared: exceptions are equal to themselves."""
    if isinstance(event, RequestReceived):
        return event
    return event.id, event.error.code, event.error.message, event.fatal
