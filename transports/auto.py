"""Every transport on one port: the first bytes of a connection choose its transport.

Each transport is asked about the first byte, then about the first two, and so on, so that the
choice depends on the bytes and never on how they were cut. JSON-lines takes nearly any text, and
so it is asked last: a transport whose connections begin with words of its own is not swallowed.
"""

# ruff: noqa: D102 - the contract documents the methods of a codec

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
from twinline.transports.foreign import is_http, is_tls
from twinline.transports.jsonl import JsonlServerCodec, JsonlTransport

MAX_START_BYTES: Final = 256
"""A transport that has not decided after so many bytes is not asked again."""


class AutoServerCodec(ServerCodec):
    """The server's end of a connection whose transport is not known yet, and then is."""

    unprompted = True  # as what is chosen may be

    __slots__ = (
        "_asked",
        "_chosen",
        "_codec",
        "_early",
        "_ended",
        "_spoken",
        "_start",
        "_transports",
    )

    def __init__(self, transports: Sequence[Transport], frame_limit: int) -> None:
        self._transports = transports
        self._start = bytearray()  # what has arrived, until a transport is chosen
        self._asked = 0
        self._ended = False
        # Until the choice is made, and when none can be, the answer is one a person can read.
        self._codec: ServerCodec = JsonlServerCodec(frame_limit)
        self._chosen = False
        self._spoken = ""
        self._early = b""  # to be sent, from before the choice

    @property
    def frame_limit(self) -> int:
        return self._codec.frame_limit

    @frame_limit.setter
    def frame_limit(self, frame_limit: int) -> None:
        self._codec.frame_limit = frame_limit

    def receive_data(self, data: bytes) -> None:
        if self._chosen:
            self._codec.receive_data(data)
        elif not self._ended:
            self._start += data

    def receive_eof(self) -> None:
        self._ended = True
        self._codec.receive_eof()

    @property
    def mid_frame(self) -> bool:
        return bool(self._start) or self._codec.mid_frame

    def next_event(self) -> RequestReceived | RequestRefused | None:
        if not self._chosen:
            refused = self._choose()
            if refused is not None:
                return refused
        return self._codec.next_event()

    def _choose(self) -> RequestRefused | None:
        while self._asked < len(self._start):
            self._asked += 1
            start = bytes(self._start[: self._asked])
            for transport in self._transports:
                recognised = transport.recognises(start)
                if recognised:
                    self._hand_over(transport)
                    return None
                if recognised is None and len(start) < MAX_START_BYTES:
                    break  # it may be this one: ask again about one byte more
            else:
                self._ended = True
                self._start = bytearray()
                return self._not_recognised(start)
        if self._ended:
            self._start = bytearray()
        return None

    def _hand_over(self, transport: Transport) -> None:
        chosen = transport.server_codec(self.frame_limit)
        chosen.receive_data(bytes(self._start))
        if self._ended:
            chosen.receive_eof()
        self._early = self._codec.data_to_send()
        self._start = bytearray()
        self._codec = chosen
        self._chosen = True
        self._spoken = chosen.spoken or transport.name

    def _not_recognised(self, start: bytes) -> RequestRefused:
        if is_http(start) or is_tls(start):
            # It says so, and answers HTTP in HTTP.
            self._codec.receive_data(start)
            refused = self._codec.next_event()
            assert isinstance(refused, RequestRefused)  # noqa: S101 - no line begins so
            return refused
        names = ", ".join(sorted(transport.name for transport in self._transports))
        return RequestRefused(
            None,
            BadRequest(f"these bytes begin none of the transports spoken here: {names}"),
            fatal=True,
        )

    def send(self, id: int | None, reply: Reply) -> None:
        self._codec.send(id, reply)

    @property
    def ended(self) -> bool:
        return self._codec.ended

    def end(self) -> None:
        self._codec.end()

    @property
    def forwarded_for(self) -> tuple[str, ...]:
        return self._codec.forwarded_for

    @property
    def spoken(self) -> str:
        return self._spoken

    def resolve(self) -> ServerCodec:
        return self._codec.resolve() if self._chosen else self

    def data_to_send(self) -> bytes:
        early, self._early = self._early, b""
        return early + self._codec.data_to_send() if early else self._codec.data_to_send()


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
