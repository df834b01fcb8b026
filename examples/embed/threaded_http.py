"""The JSON API by the standard library's threaded HTTP server: a caller who waits has a thread."""

import argparse
import contextlib
import select
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import api

from twinline.core.errors import FrameTooLarge
from twinline.core.protocol import Reply
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.stores.memory import MemoryStore


class Server(ThreadingHTTPServer):
    """A thread for each connection, and one that is told when a caller hangs up."""

    daemon_threads = False  # so that closing waits for the replies that are under way
    request_queue_size = 128

    def __init__(self, port: int, service: ChatService) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.service = service
        self._sessions: dict[int, Session] = {}
        self._hang_ups = select.epoll()
        threading.Thread(target=self._interrupt, name="hang-ups", daemon=True).start()

    @contextlib.contextmanager
    def interrupted_by_hang_up(self, fd: int, session: Session) -> Iterator[None]:
        """End the wait of a session when its peer hangs up: its own thread reads no socket."""
        self._sessions[fd] = session
        self._hang_ups.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        try:
            yield
        finally:
            self._hang_ups.unregister(fd)

    def _interrupt(self) -> None:
        while True:
            for fd, _ in self._hang_ups.poll():
                # If the number belongs to another peer by now, that one's wait ends early: no harm.
                self._sessions[fd].interrupt()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what went wrong, unless a caller has just left."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """One connection, in a thread of its own."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout = 5  # seconds without a byte from the caller
    wbufsize = -1  # a reply's head and body leave in one piece

    def answer(self) -> None:
        status, body = api.response(self._carry_out())
        self.close_connection |= self.server.service.stopping
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close" if self.close_connection else "keep-alive")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = answer  # noqa: N815 - as the base class has them

    def _carry_out(self) -> Reply:
        service = self.server.service
        length = self.headers.get("Content-Length", "0")
        known = length.isdecimal() and "Transfer-Encoding" not in self.headers
        if not known or len(length) > 9 or int(length) > service.settings.frame_bytes:
            self.close_connection = True  # it is not known where the next request begins
            return FrameTooLarge("a body has a Content-Length, and a small one").to_reply()
        body = self.rfile.read(int(length))
        session = service.session(self.client_address[0])
        token = self.headers.get("Authorization", "")
        try:
            with self.server.interrupted_by_hang_up(self.connection.fileno(), session):
                return api.answer(
                    service, session, self.command, self.path, token, body=body, may_wait=True
                )
        finally:
            service.leave(session)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    with Server(parser.parse_args().port, ChatService(MemoryStore())) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        server.service.stop()  # who waits for mail is answered; leaving waits for the threads
