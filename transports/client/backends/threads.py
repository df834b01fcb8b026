"""The client engine on threads: its coroutines run to their end in the thread that calls.

Sockets do not block. An exchange sends at once, polls for the reply with what is left of its
deadline, and receives: with the look for an end that came before, four system calls. The wait for a
stream polls a `twinline.transports.wakeup.WakeDescriptor` besides, which other threads ring.
"""

# ruff: noqa: D102 - `Backend`, `Worker` and `Connection` have what their methods do

import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from select import POLLIN, POLLOUT, poll
from typing import Any, TypeVar

from twinline.core.deadline import Deadline
from twinline.core.waiting import Waiter
from twinline.transports.client.engine.backend import Backend, Run, Worker
from twinline.transports.client.engine.cancel import CancelToken
from twinline.transports.client.engine.connection import RECEIVE_BYTES, Connection
from twinline.transports.client.options import OnState
from twinline.transports.client.state import StateReport
from twinline.transports.connecting import connect
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.race import Address
from twinline.transports.tls.layer import TlsLayer
from twinline.transports.wakeup import WakeDescriptor

_T = TypeVar("_T")


def run(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine that blocks where another would suspend, and return its result.

    Raises:
        RuntimeError: it did suspend, so it awaited what is not of a `ThreadBackend`: a bug.
    """
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    coroutine.close()
    raise RuntimeError("the coroutine has suspended, and no event loop is here to go on with it")


class ThreadWaiter:
    """A thread's place to wait."""

    __slots__ = ("_waiter", "wake")

    def __init__(self) -> None:
        self._waiter = Waiter()
        self.wake = self._waiter.wake

    async def wait(self, deadline: Deadline) -> bool:
        return self._waiter.wait(deadline)


class SocketConnection(Connection):
    """A connection over a socket that does not block."""

    def __init__(
        self,
        connected: socket.socket,
        transport: Transport,
        address: Address | None = None,
        layer: TlsLayer | None = None,
    ) -> None:
        """Take over a socket.

        Args:
            connected: owned by the connection from now on; it stays the caller's if this raises.
            transport: makes the codec.
            address: that was connected to.
            layer: of TLS; None where the bytes travel in plain.
        """
        super().__init__(transport, address, layer)
        connected.setblocking(False)  # noqa: FBT003 - the name of the method says what it means
        self._socket = connected
        self._readable = poll()
        self._readable.register(connected, POLLIN)
        self._nudges = WakeDescriptor()
        self._readable_or_nudged = self._readable  # since `accept_nudges`: both

    def is_quiet(self) -> bool:
        return not self.closed and not self._readable.poll(0)

    def shutdown(self) -> None:
        _shutdown(self._socket, socket.SHUT_RDWR)

    def stop_reading(self) -> None:
        _shutdown(self._socket, socket.SHUT_RD)

    def accept_nudges(self) -> None:
        self._nudges.open()
        self._readable_or_nudged = poll()
        self._readable_or_nudged.register(self._socket, POLLIN)
        self._readable_or_nudged.register(self._nudges, POLLIN)

    def nudge(self) -> None:
        self._nudges.wake()

    def forget(self) -> None:
        self._socket.close()
        self._nudges.close()

    def _close(self) -> None:
        # A child that was forked while this one was opened may have a copy of the socket.
        _shutdown(self._socket, socket.SHUT_RDWR)
        self._socket.close()
        self._nudges.close()

    def _send(self, data: bytes, deadline: Deadline) -> None:
        left = memoryview(data)
        while left:
            milliseconds = _milliseconds(deadline)
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                writable = poll()
                writable.register(self._socket, POLLOUT)
                writable.poll(milliseconds)

    async def _receive(self, deadline: Deadline) -> bytes:
        while True:
            self._readable.poll(_milliseconds(deadline))
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue  # the deadline has passed, which the next round raises
            if not data:
                raise EOFError
            return data

    async def _receive_or_nudge(self, until: Deadline) -> bytes | None:
        seconds = until.remaining()
        ready = self._readable_or_nudged.poll(None if seconds is None else seconds * 1000)
        nudged = False
        for descriptor, _ in ready:
            if descriptor == self._nudges.fileno():
                self._nudges.clear()
                nudged = True
        if len(ready) > nudged:  # the socket is among them
            with suppress(BlockingIOError):
                data = self._socket.recv(RECEIVE_BYTES)
                if not data:
                    raise EOFError
                return data
        return None if nudged else b""


class ThreadWorker(Worker):
    """A daemon thread."""

    def __init__(self, run_: Run, name: str) -> None:
        self._thread = threading.Thread(target=lambda: run(run_()), name=name, daemon=True)

    @property
    def is_here(self) -> bool:
        return self._thread is threading.current_thread()

    def start(self) -> None:
        self._thread.start()

    async def call(self, callback: Callable[..., object], *arguments: object) -> None:
        callback(*arguments)

    async def join(self, seconds: float | None) -> None:
        if self._thread.ident is not None:  # None: it has not begun yet
            self._thread.join(seconds)

    async def abandon(self, seconds: float) -> None:
        """Do nothing: a thread cannot be ended by force."""


class ThreadBackend(Backend):
    """Any thread may use the client."""

    def check(self) -> None:
        pass

    def waiter(self) -> ThreadWaiter:
        return ThreadWaiter()

    def worker(self, run: Run, name: str) -> ThreadWorker:
        return ThreadWorker(run, name)

    def report(self, on_state: OnState | None) -> StateReport:
        return StateReport(on_state)

    async def connect(
        self,
        endpoint: Endpoint,
        transport: Transport,
        layer: TlsLayer | None,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> SocketConnection:
        connected = connect(endpoint, deadline, self.resolver, cancel.waking)
        try:
            return SocketConnection(connected.socket, transport, connected.address, layer)
        except BaseException:  # the transport is anybody's
            connected.socket.close()
            raise

    async def settle(self, seconds: float) -> None:
        """Do nothing: closing a socket closes it."""


def _milliseconds(deadline: Deadline) -> float | None:
    seconds = deadline.timeout()
    return None if seconds is None else seconds * 1000


def _shutdown(wakened: socket.socket, how: int) -> None:
    with suppress(OSError):  # it was not connected yet, or is not any more
        wakened.shutdown(how)
