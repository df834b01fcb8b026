"""The admin socket: who may ask, how much a peer may hold up, and nothing of what is asked.

A peer is root or the server's own user, or whom the socket's file lets in where a group is set: the
system says who it is (SO_PEERCRED, unix(7)). All the same none of them can do harm by what it sends
or does not read. There are a few connections; one that waits for its peer makes room for the next
one; a line is short, and what takes too long is cut. A peer that is stuck has a thread of its own,
and the end of the server does not wait for it.
"""

import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from pydantic import BaseModel, ValidationError

from twinline.cli.server.admin.requests import ANY_REQUEST
from twinline.core import events
from twinline.core.errors import BadRequest, Busy, InternalError, RequestError
from twinline.core.events import emit
from twinline.core.locks import new_lock
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Waker, listen_private

log = logging.getLogger(__name__)

CONNECTIONS: Final = 16
LINE_BYTES: Final = 64 * 1024
IDLE_SECONDS: Final = 60.0
"""Between two requests."""
LINE_SECONDS: Final = 10.0
"""From a request's first byte to its last, and for a peer to take the reply."""
_END_SECONDS: Final = 0.5
"""For replies that are under way to be taken when the server ends."""
_CUT_SECONDS: Final = 0.2
_PAUSE_SECONDS: Final = 0.2
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: struct ucred of <sys/socket.h>
_BUSY: Final = "the admin socket has as many connections as it may have; try again"
Answer = Callable[[BaseModel, str], BaseModel]


class AdminSocket:
    """Listens on a Unix socket, and gives each peer a thread."""

    def __init__(self, endpoint: Endpoint, answer: Answer, *, group: int | None = None) -> None:
        """Listen; peers are served from `__enter__` on.

        Args:
            endpoint: where.
            answer: carries out a request of somebody; it may raise a `RequestError`.
            group: whose members may use it too; None: nobody but the server's user and root.

        Raises:
            EndpointError: it cannot be listened there.
        """
        self._answer = answer
        self._group = group
        self._bound = listen_private(endpoint, group=group)
        self._waker = Waker()
        self._closed = threading.Event()
        self._lock = new_lock("admin peers")
        self._peers: dict[_Peer, None] = {}  # guarded by _lock
        self._thread = threading.Thread(target=self._run, name="admin", daemon=True)

    def __enter__(self) -> "AdminSocket":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End it: let replies be taken that are under way, for a moment; harmless when repeated."""
        if self._closed.is_set():
            return
        self._closed.set()
        self._waker.wake()
        self._thread.join()
        self._bound.close()
        peers = self._now()
        for peer in peers:
            peer.shut(socket.SHUT_RD)  # what waits for its peer ends; a reply is still sent
        self._await_end(peers, _END_SECONDS)
        for peer in self._now():
            peer.shut(socket.SHUT_RDWR)
        self._await_end(self._now(), _CUT_SECONDS)
        self._waker.close()

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._now())

    def _now(self) -> "list[_Peer]":
        with self._lock:
            return list(self._peers)

    @staticmethod
    def _await_end(peers: "list[_Peer]", seconds: float) -> None:
        until = time.monotonic() + seconds
        for peer in peers:
            peer.thread.join(max(0.0, until - time.monotonic()))

    # -- accepting ----------------------------------------------------------------------

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._waker.woken, select.POLLIN)
        (listening,) = self._bound.sockets
        poll.register(listening, select.POLLIN)
        while not self._closed.is_set():
            poll.poll()
            try:
                accepted, _ = listening.accept()
            except BlockingIOError:
                continue
            except OSError:
                # There is no descriptor now, or that peer was gone again.
                self._closed.wait(_PAUSE_SECONDS)
                continue
            try:
                self._admit(accepted)
            except Exception:  # the next peer is served all the same
                accepted.close()
                log.exception("a peer of the admin socket cannot be served")

    def _admit(self, accepted: socket.socket) -> None:
        pid, uid, _gid = _CREDENTIALS.unpack(
            accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        by = f"uid {uid}, pid {pid}"
        # With a group it is the file's mode that decides, for the system tells one group of many.
        if self._group is None and uid not in (0, os.geteuid()):
            emit(events.ADMIN_REFUSED, by=by)
            _farewell(accepted, BadRequest("you may not use this socket"))
        elif not self._has_room():
            _farewell(accepted, Busy(_BUSY, retry_after_ms=1_000))
        else:
            peer = _Peer(accepted, by, self._answer, self._ended)
            with self._lock:
                self._peers[peer] = None
            try:
                peer.thread.start()
            except RuntimeError:
                self._ended(peer)
                raise

    def _has_room(self) -> bool:
        """Return whether there may be another one, in the place of who waits longest if need be."""
        with self._lock:
            peers = list(self._peers)
        if len(peers) < CONNECTIONS:
            return True
        waiting = [(since, peer) for peer in peers if (since := peer.waits_since) is not None]
        if not waiting:
            return False
        _, longest = min(waiting, key=lambda each: each[0])
        longest.shut(socket.SHUT_RDWR)
        longest.thread.join(_CUT_SECONDS)
        return not longest.thread.is_alive()

    def _ended(self, peer: "_Peer") -> None:
        with self._lock:
            self._peers.pop(peer, None)


class _Peer:
    """A connection; its thread owns the socket, and others may only shut it down.

    Attributes:
        thread: reads, asks and writes.
        waits_since: since when it waits for a request, by the monotonic clock; None: it has one.
    """

    def __init__(
        self, accepted: socket.socket, by: str, answer: Answer, ended: "Callable[[_Peer], None]"
    ) -> None:
        self.waits_since: float | None = time.monotonic()
        self._socket = accepted
        self._by = by
        self._answer = answer
        self._ended = ended
        self._begun = b""  # of the next line
        self._lock = new_lock("admin peer")
        self._closed = False  # guarded by _lock: a shutdown never meets a reused number
        self.thread = threading.Thread(target=self._run, name="admin peer", daemon=True)

    def shut(self, how: int) -> None:
        """Shut the socket down; from any thread."""
        with self._lock:
            if not self._closed:
                with suppress(OSError):  # the peer was faster
                    self._socket.shutdown(how)

    def _run(self) -> None:
        try:
            with suppress(OSError):
                self._serve()
        except Exception:
            log.exception("a connection of the admin socket failed")
        finally:
            with self._lock:
                self._closed = True
            self._socket.close()
            self._ended(self)

    def _serve(self) -> None:
        while True:
            try:
                line = self._read_line()
            except RequestError as error:
                self._write(refusal(error))
                return
            if line is None:
                return
            self.waits_since = None
            self._write(self._reply(line))
            self.waits_since = time.monotonic()

    def _reply(self, line: bytes) -> bytes:
        try:
            reply = self._answer(ANY_REQUEST.validate_json(line), self._by)
        except ValidationError as error:
            return refusal(BadRequest(_what_is_wrong(error)))
        except RequestError as error:
            return refusal(error)
        except NotImplementedError:
            return refusal(BadRequest("the store of this server has nothing of the kind"))
        except Exception:
            log.exception("what was asked on the admin socket has failed")
            return refusal(InternalError())
        return reply.model_dump_json().encode() + b"\n"

    def _read_line(self) -> bytes | None:
        """Return the next line, or None at the end.

        Raises:
            OSError: it takes too long, or the peer is gone.
            BadRequest: it is too long.
        """
        begun = bytearray(self._begun)
        until = time.monotonic() + (LINE_SECONDS if begun else IDLE_SECONDS)
        searched = 0
        while (end := begun.find(b"\n", searched)) < 0:
            if len(begun) > LINE_BYTES:
                raise BadRequest(f"a request has at most {LINE_BYTES:,} bytes")
            searched = len(begun)
            self._socket.settimeout(max(0.001, until - time.monotonic()))
            data = self._socket.recv(16_384)
            if not data:
                return None
            if not begun:
                until = time.monotonic() + LINE_SECONDS
            begun += data
        self._begun = bytes(begun[end + 1 :])
        return bytes(begun[:end])

    def _write(self, data: bytes) -> None:
        self._socket.settimeout(LINE_SECONDS)  # for all of it
        self._socket.sendall(data)


def refusal(error: RequestError) -> bytes:
    """Return the line that refuses a request."""
    said = error.to_reply().model_dump(exclude_none=True)
    return json.dumps({"error": said}).encode() + b"\n"


def _what_is_wrong(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    # The union's own name for a member stands first.
    where = ".".join(str(part) for part in first["loc"][1:])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


def _farewell(accepted: socket.socket, error: RequestError) -> None:
    with accepted, suppress(OSError):
        accepted.settimeout(0)
        accepted.send(refusal(error))
