"""A transport as another package would bring it, for the registry's tests."""

from twinline.transports.contract import Transport
from twinline.transports.jsonl import JsonlServerCodec, JsonlTransport


class HolaServerCodec(JsonlServerCodec):
    def receive_data(self, data):
        super().receive_data(data.removeprefix(b"HOLA\n"))


class Hola(JsonlTransport):
    """Lines after a greeting."""

    name = "worded"

    def recognises(self, start):
        return start.startswith(b"HOLA\n") or (None if b"HOLA\n".startswith(start) else False)

    def server_codec(self, frame_limit):
        return HolaServerCodec(frame_limit)


class Unmakeable(Transport):
    """Cannot even be made."""

    def __new__(cls):
        raise RuntimeError("not today")


WORDED = Hola()
