"""What every load of `twinline bench` waits with: sockets that do not block, epoll, and errors."""

import select
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode

PATIENCE_SECONDS: Final = 10.0
"""How long a server may take to answer before the run is given up."""
RECEIVE_BYTES: Final = 1 << 16
_RECORD_BYTES: Final = 1 << 14
"""The most that a record of TLS brings (RFC 8446 section 5.1)."""


class LoadError(CommandError):
    """The server did not do its part, so that there is nothing to measure."""


class Refused(LoadError):
    """The server answered a request of the load with something else than a good reply.

    Attributes:
        reply: what it answered, as it came; perhaps not to its end.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, reply: bytes) -> None:
        super().__init__(f"the server refused a request: {reply[:200]!r}")
        self.reply = reply


class TlsSocket(ssl.SSLSocket):
    """A socket over TLS, as the load uses those in plain.

    The load is no part of what is measured, and this is what costs it the least. A read brings a
    whole record or nothing, so that whatever is left to read is at the socket, where epoll sees it.
    """

    def recv(self, buflen: int = RECEIVE_BYTES, flags: int = 0) -> bytes:
        """Receive what comes next; once something has come it waits for the rest of a record."""
        while True:
            try:
                return super().recv(max(buflen, _RECORD_BYTES), flags)
            except ssl.SSLWantReadError:
                wait_for(self)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """Do the same into a buffer that a record fits into."""
        while True:
            try:
                return super().recv_into(buffer, nbytes, flags)
            except ssl.SSLWantReadError:
                wait_for(self)


def over_tls(connected: socket.socket, context: ssl.SSLContext, host: str) -> TlsSocket:
    """Return a connected socket once the handshake was made over it, within its timeout.

    Raises:
        OSError: it was not; the socket is closed.
    """
    context.sslsocket_class = TlsSocket
    try:
        sealed = context.wrap_socket(connected, server_hostname=host)
    except BaseException:
        connected.close()
        raise
    assert isinstance(sealed, TlsSocket)  # noqa: S101 - the context makes such
    return sealed


def receive(connected: socket.socket) -> bytes:
    """Return what a connection that is ready has, at least a byte."""
    data = connected.recv(RECEIVE_BYTES)
    if not data:
        raise ended()
    return data


def ended() -> LoadError:
    """Return what to raise when a connection has come to its end."""
    return LoadError("the server ended a connection", ExitCode.UNREACHABLE)


def wait_for(connected: socket.socket) -> None:
    """Wait until a connection has something to read."""
    with polling([connected.fileno()]) as poll:
        events(poll)


def events(poll: select.epoll) -> list[tuple[int, int]]:
    """Return which descriptors are ready, at least one."""
    ready = poll.poll(PATIENCE_SECONDS)
    if not ready:
        raise LoadError("the server does not answer", ExitCode.TIMED_OUT)
    return ready


@contextmanager
def polling(descriptors: Iterable[int]) -> Iterator[select.epoll]:
    """Wait for descriptors to have something to read, while the block runs."""
    with select.epoll() as poll:
        for descriptor in descriptors:
            poll.register(descriptor, select.EPOLLIN)
        yield poll


@contextmanager
def unblocked(sockets: Iterable[socket.socket]) -> Iterator[None]:
    """Let sockets not wait for themselves while they are loaded.

    One with a timeout would make a system call more for every transfer, to poll.

    Raises:
        LoadError: for what goes wrong with one of them in the block.
    """
    before = [(each, each.gettimeout()) for each in sockets]
    try:
        for each, _ in before:
            each.setblocking(False)
        yield
    except (BlockingIOError, ssl.SSLWantWriteError):
        raise LoadError("the server does not take what it is sent", ExitCode.TIMED_OUT) from None
    except OSError as error:
        reason = error.strerror or str(error)
        message = f"the server ended a connection: {reason}"
        raise LoadError(message, ExitCode.UNREACHABLE) from error
    finally:
        for each, timeout in before:
            each.settimeout(timeout)
