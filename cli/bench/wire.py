"""A connection of `twinline bench` while it is set up, in the words of a transport."""

import itertools
import socket
import ssl
from typing import Final, TypeVar

from twinline.cli.bench.sockets import (
    PATIENCE_SECONDS,
    RECEIVE_BYTES,
    LoadError,
    ended,
    over_tls,
)
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


def opened(transport: Transport) -> ClientCodec:
    """Return a client's codec whose handshake, if the transport has one, is over."""
    codec = transport.client_codec(MAX_REPLY_BYTES)
    if not codec.opened:
        server = transport.server_codec(MAX_REPLY_BYTES)
        server.receive_data(codec.data_to_send())
        server.next_event()
        codec.receive_data(server.data_to_send())
        codec.next_event()
    return codec


class Encoder:
    """Makes the bytes of requests, as every connection sends them."""

    def __init__(self, transport: Transport) -> None:
        self._codec = opened(transport)

    def __call__(self, request: Request) -> bytes:
        """Return the bytes of a request."""
        self._codec.send(1, request)
        return self._codec.data_to_send()


def encoded(transport: Transport, request: Request) -> bytes:
    """Return the bytes of a request, as every connection sends them."""
    return Encoder(transport)(request)


def cut(frame: bytes, number: str) -> tuple[bytes, int, bytes]:
    """Cut a client's frame of WebSocket (RFC 6455 section 5.2) where a number of 8 bytes stands.

    Returns:
        What is before it, what 8 bytes that stand there are masked with, and what is behind it.
    """
    size = frame[1] & 0x7F
    start = 6 if size < 126 else 8 if size == 126 else 14
    key = itertools.cycle(frame[start - 4 : start])
    text = bytes(byte ^ mask for byte, mask in zip(frame[start:], key, strict=False))
    at = start + text.index(number.encode())
    masked = int.from_bytes(frame[at : at + 8])
    return frame[:at], masked ^ int.from_bytes(number.encode()), frame[at + 8 :]


def decoded(transport: Transport, data: bytes) -> Reply | None:
    """Return the reply to a send that begins these bytes, or None when they hold no whole one."""
    codec = opened(transport)
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

    def __init__(
        self, endpoint: Endpoint, transport: Transport, tls: ssl.SSLContext | None = None
    ) -> None:
        """Connect, and make the handshakes that there are.

        Args:
            endpoint: of the server.
            transport: to speak.
            tls: for an endpoint over TLS.

        Raises:
            LoadError: there is no listener, no more can be connected, or a handshake failed.
        """
        self._codec: ClientCodec = transport.client_codec(MAX_REPLY_BYTES)
        try:
            connected = connect(endpoint, Deadline.after(PATIENCE_SECONDS))
        except OSError as error:
            reason = error.strerror or str(error)
            raise LoadError(f"cannot reach {endpoint}: {reason}", ExitCode.UNREACHABLE) from error
        self.socket: socket.socket = connected.socket
        self.socket.settimeout(PATIENCE_SECONDS)
        if tls is not None and endpoint.scheme.is_tls:
            try:
                self.socket = over_tls(self.socket, tls, endpoint.host)
            except OSError as error:
                message = f"no TLS with {endpoint}: {error.strerror or error}"
                raise LoadError(message, ExitCode.UNREACHABLE) from error
        try:
            self._shake_hands()
        except BaseException:
            self.socket.close()
            raise

    def _shake_hands(self) -> None:
        """Make the transport's handshake."""
        while not self._codec.opened:
            try:
                self.socket.sendall(self._codec.data_to_send())
                self.take(self.socket.recv(RECEIVE_BYTES))
            except RemoteProtocolError as error:
                raise LoadError(str(error), ExitCode.UNREACHABLE) from error
            except OSError as error:
                raise ended() from error

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
