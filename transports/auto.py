"""Every transport on one port: the first bytes of a connection choose who speaks on it.

Each transport is asked about the first byte, then about the first two, and so on, so that the
choice depends on the bytes and never on how they were cut. JSON-lines takes nearly any text, and
so it is asked last: a transport whose connections begin with words of its own is not swallowed.
"""

# ruff: noqa: D102 - the contract tells what the methods of a codec do

from collections.abc import Sequence
from typing import Final

from twinline.core.errors import BadRequest
from twinline.core.protocol import Reply
from twinline.transports.contract import (
    ClientCodec,
    RequestReceived,
    RequestRefused,
    ServerCodec,
    Transport,
)
from twinline.transports.jsonl import JsonlServerCodec, JsonlTransport, foreign_greeting

MAX_START_BYTES: Final = 256
"""A transport that has not made up its mind after so many bytes is not asked again."""


class AutoServerCodec(ServerCodec):
    """The server's end of a connection whose transport is not known yet, and then is."""

    def __init__(self, transports: Sequence[Transport], frame_limit: int) -> None:
        self._transports = transports
        self._frame_limit = frame_limit
        self._start = bytearray()
        self._asked = 0
        self._ended = False
        self._refused = False
        self._chosen: ServerCodec | None = None
        # Until the choice is made, and when none can be, the answer is one a person can read.
        self._undecided = JsonlServerCodec(frame_limit)

    @property
    def frame_limit(self) -> int:
        return self._frame_limit

    @frame_limit.setter
    def frame_limit(self, frame_limit: int) -> None:
        self._frame_limit = frame_limit
        if self._chosen is not None:
            self._chosen.frame_limit = frame_limit

    @property
    def chosen(self) -> ServerCodec | None:
        """The codec that the first bytes chose, or None while they are too few."""
        return self._chosen

    def receive_data(self, data: bytes) -> None:
        if self._chosen is not None:
            self._chosen.receive_data(data)
        elif not (self._refused or self._ended):
            self._start += data

    def receive_eof(self) -> None:
        self._ended = True
        if self._chosen is not None:
            self._chosen.receive_eof()

    @property
    def mid_frame(self) -> bool:
        return len(self._start) > 0 if self._chosen is None else self._chosen.mid_frame

    def next_event(self) -> RequestReceived | RequestRefused | None:
        if self._chosen is None:
            refused = self._choose()
            if self._chosen is None:
                return refused
        return self._chosen.next_event()

    def _choose(self) -> RequestRefused | None:
        while self._asked < len(self._start):
            self._asked += 1
            start = bytes(self._start[: self._asked])
            transport, undecided = self._ask(start)
            if transport is not None:
                self._hand_over(transport)
                return None
            if not undecided:
                self._refused = True
                self._start = bytearray()
                return RequestRefused(None, self._stranger(start), fatal=True)
        if self._ended:
            self._start = bytearray()
        return None

    def _ask(self, start: bytes) -> tuple[Transport | None, bool]:
        """Return the transport that these bytes choose, and whether more bytes may choose one."""
        for transport in self._transports:
            recognised = transport.recognises(start)
            if recognised:
                return transport, False
            if recognised is None and len(start) < MAX_START_BYTES:
                return None, True
        return None, False

    def _hand_over(self, transport: Transport) -> None:
        chosen = transport.server_codec(self._frame_limit)
        chosen.receive_data(bytes(self._start))
        self._start = bytearray()
        if self._ended:
            chosen.receive_eof()
        self._chosen = chosen

    def _stranger(self, start: bytes) -> BadRequest:
        greeting = foreign_greeting(start)
        if greeting is not None:
            return greeting
        names = ", ".join(sorted(transport.name for transport in self._transports))
        return BadRequest(f"these bytes begin none of the transports spoken here: {names}")

    def send(self, id: int | None, reply: Reply) -> None:
        (self._chosen or self._undecided).send(id, reply)

    def resolve(self) -> ServerCodec:
        chosen = self._chosen
        return self if chosen is None else chosen.resolve()

    def data_to_send(self) -> bytes:
        early = self._undecided.data_to_send()
        if self._chosen is None:
            return early
        data = self._chosen.data_to_send()
        return early + data if early else data


class AutoTransport(Transport):
    """Whatever the peer speaks; a client that says "auto" speaks JSON-lines.

    Args:
        transports: those to choose from, in the order of preference; JSON-lines is moved last.
    """

    name = "auto"

    def __init__(self, transports: Sequence[Transport]) -> None:
        self._transports = sorted(transports, key=lambda one: one.name == JsonlTransport.name)

    def recognises(self, start: bytes) -> bool | None:
        """Return whether any of the transports recognises a connection's first bytes."""
        answers = [transport.recognises(start) for transport in self._transports]
        return True if True in answers else None if None in answers else False

    def server_codec(self, frame_limit: int) -> AutoServerCodec:
        return AutoServerCodec(self._transports, frame_limit)

    def client_codec(self, frame_limit: int) -> ClientCodec:
        return JsonlTransport().client_codec(frame_limit)
