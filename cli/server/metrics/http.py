"""A bounded HTTP server for a few pages, on a port of its own.

Whoever is on the machine may connect, and must not be able to hold it up: it has one thread, which
waits for nobody; so many connections, of which the one goes first that has been silent for the
longest; a head of so many bytes; and so many seconds for all of an exchange.
"""

import asyncio
import logging
import re
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Final, NamedTuple, Self

from twinline.transports.endpoints import Endpoint, EndpointError

log = logging.getLogger(__name__)

SECONDS: Final = 10.0
"""For a connection, from its first byte to its last."""
HEAD_BYTES: Final = 8 * 1024
CONNECTIONS: Final = 32
_LINGER_SECONDS: Final = 1.0
_LINGER_BYTES: Final = 64 * 1024
_START_SECONDS: Final = 10.0
_REQUEST: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) (\S+) HTTP/1\.[01]\r?\n")
_TEXT: Final = "text/plain; charset=utf-8"


class Page(NamedTuple):
    """What is answered.

    Attributes:
        body: as it is sent.
        status: of the answer.
        content_type: what the body is.
    """

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = _TEXT


Answer = Callable[[], Awaitable[Page]]


class HttpServer:
    """Answers GET and HEAD of a few paths, in a thread of its own, while it is entered.

    Attributes:
        endpoint: where it listens, with the port that the system chose.
    """

    def __init__(self, endpoint: Endpoint, pages: Callable[[], Mapping[str, Answer]]) -> None:
        """Listen.

        Args:
            endpoint: ``tcp://host:port``.
            pages: called in the server's thread when its loop runs; what answers each path.

        Raises:
            EndpointError: it cannot be listened on.
        """
        self._listening = _listen(endpoint)
        port = self._listening.getsockname()[1]
        self.endpoint = Endpoint(endpoint.scheme, endpoint.host, port)
        self._make_pages = pages
        self._pages: Mapping[str, Answer] = {}
        # In the order in which they came, each with whether its request has not come yet.
        self._open: dict[asyncio.StreamWriter, bool] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._thread.start()
        except BaseException:
            self._listening.close()
            raise
        self._begun.wait(_START_SECONDS)
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._loop is not None and self._stop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_START_SECONDS)
        self._listening.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:
            log.exception("metrics and health are served no more")
        finally:
            self._begun.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._pages = self._make_pages()
        server = await asyncio.start_server(self._connected, sock=self._listening, limit=HEAD_BYTES)
        async with server:
            self._begun.set()
            await self._stop.wait()
            server.close()
            for writer in tuple(self._open):
                writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS:
            silent = [other for other, is_silent in self._open.items() if is_silent]
            if not silent:
                writer.transport.abort()
                return
            # Not counted any more from now on: its end comes with the loop's next round, and a
            # hundred others may come in this one.
            del self._open[silent[0]]
            silent[0].transport.abort()
        self._open[writer] = True
        try:
            async with asyncio.timeout(SECONDS):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, EOFError):
            pass  # its peer has gone, or is too slow
        except asyncio.CancelledError:
            pass  # the server ends; the loop of Python 3.11 would log it as an error
        except Exception:
            log.exception("a request for metrics or health failed")
        finally:
            self._open.pop(writer, None)
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            page, method = _failed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), "GET"
        else:
            if writer in self._open:
                self._open[writer] = False
            page, method = await self._answer(head)
        writer.write(_head(page))
        if method != "HEAD":
            writer.write(page.body)
        await writer.drain()
        # Closed with unread bytes, a socket resets the connection, and the reset can overtake the
        # answer.
        writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_SECONDS):
                unread = _LINGER_BYTES
                while unread > 0 and (data := await reader.read(unread)):
                    unread -= len(data)

    async def _answer(self, head: bytes) -> tuple[Page, str]:
        found = _REQUEST.match(head)
        if found is None:
            return _failed(HTTPStatus.BAD_REQUEST), "GET"
        method = found[1].decode("ascii")
        answer = self._pages.get(found[2].partition(b"?")[0].decode("ascii", "replace"))
        if answer is None:
            return _failed(HTTPStatus.NOT_FOUND), method
        if method not in ("GET", "HEAD"):
            return _failed(HTTPStatus.METHOD_NOT_ALLOWED), method
        return await answer(), method


def _failed(status: HTTPStatus) -> Page:
    return Page(f"{status.phrase}\n".encode(), status)


def _head(page: Page) -> bytes:
    lines = [
        f"HTTP/1.1 {page.status.value} {page.status.phrase}",
        f"Content-Type: {page.content_type}",
        f"Content-Length: {len(page.body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if page.status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join((*lines, "", "")).encode("ascii")


def _listen(endpoint: Endpoint) -> socket.socket:
    try:
        found = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EndpointError(f"cannot listen on {endpoint.place}: {reason}") from error
