"""A connection of `twinline bench` while it is set up, in the words of a transport."""

import socket
from typing import Final, TypeVar

from twinline.cli.bench.sockets import PATIENCE_SECONDS, RECEIVE_BYTES, LoadError, ended
from twinline.cli.console.exit_codes import ExitCode
from twinline.core.deadline import Deadline
from twinline.core.errors import RequestError
from twinline.core.protocol import MAX_REPLY_BYTES, ErrorReply, Reply, Request, Send
from twinline.transports.client import ClientSettings
from twinline.transports.connecting import connect
from twinline.transports.contract import ClientCodec, RemoteProtocolError, Transport
from twinline.transports.endpoints import Endpoint

BODY: Final = "See you at the station at half past seven, platform 4."
"""What is sent."""
WINDOW: Final = ClientSettings().window
"""Of a stream: as the client engine asks for it."""
_Reply = TypeVar("_Reply", bound=Reply)
_ANY: Final = Send(to="", body="")


def encoded(transport: Transport, request: Request) -> bytes:
    """Return the bytes of a request, as every connection sends them."""
    codec = transport.client_codec(MAX_REPLY_BYTES)
    codec.send(1, request)
    return codec.data_to_send()


def decoded(transport: Transport, data: bytes) -> Reply | None:
    """Return the reply to a send that begins these bytes, or None when they hold no whole one."""
    codec = transport.client_codec(MAX_REPLY_BYTES)
    codec.send(1, _ANY)
    codec.receive_data(data)
    try:
        event = codec.next_event()
    except RemoteProtocolError:
        return None
    return None if event is None else event.reply


def expect(reply: Reply, kind: type[_Reply]) -> _Reply:
    """Return a reply that is of a kind.

    Raises:
        RequestError: it is a refusal.
        LoadError: it is of another kind.
    """
    if isinstance(reply, ErrorReply):
        raise RequestError.from_reply(reply)
    if not isinstance(reply, kind):
        raise LoadError(f"the server answered with a {type(reply).__name__}")
    return reply


class Wire:
    """One connection while it is set up; under load only its socket is used.

    Attributes:
        socket: connected, and with nothing unread between two requests.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        """Connect.

        Raises:
            LoadError: there is no listener, or no more can be connected.
        """
        self._codec: ClientCodec = transport.client_codec(MAX_REPLY_BYTES)
        try:
            connected = connect(endpoint, Deadline.after(PATIENCE_SECONDS))
        except OSError as error:
            reason = error.strerror or str(error)
            raise LoadError(f"cannot reach {endpoint}: {reason}", ExitCode.UNREACHABLE) from error
        self.socket: socket.socket = connected.socket
        self.socket.settimeout(PATIENCE_SECONDS)

    def ask(self, request: Request, kind: type[_Reply]) -> _Reply:
        """Return the reply to a request.

        Raises:
            RequestError: the server refused it.
            LoadError: it does not answer, or ended the connection.
        """
        return expect(self.answer(self.frame(request))[1], kind)

    def frame(self, request: Request) -> bytes:
        """Return the bytes of a request whose reply will be expected here."""
        self._codec.send(1, request)
        return self._codec.data_to_send()

    def answer(self, frame: bytes) -> tuple[bytes, Reply]:
        """Send a frame, and return the reply as it came and as it is.

        Raises:
            LoadError: the server does not answer, or ended the connection.
        """
        try:
            self.socket.sendall(frame)
            data = b""
            while (reply := self.take(received := self.socket.recv(RECEIVE_BYTES))) is None:
                data += received
        except TimeoutError as error:
            raise LoadError("the server does not answer", ExitCode.TIMED_OUT) from error
        except OSError as error:
            raise ended() from error
        return data + received, reply

    def take(self, received: bytes) -> Reply | None:
        """Take in what was received, and return the reply that it completes, if it does.

        Raises:
            LoadError: nothing was received: the connection has ended.
        """
        if not received:
            raise ended()
        self._codec.receive_data(received)
        event = self._codec.next_event()
        return None if event is None else event.reply

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()
