"""What the client engine asks of threads or of asyncio, so that its logic is written once.

The rest of the engine is written as coroutines that await nothing but what is declared here and in
`connection`, and knows neither threads nor asyncio::

    Client ───────▶ run(coroutine) ───▶ engine ───▶ ThreadBackend     sockets, threads, waiters
    AsyncClient ──▶ await coroutine ──▶ engine ───▶ AsyncioBackend    transports, tasks, futures

On threads whatever is awaited blocks and then returns, so such a coroutine never suspends, and
`backends.threads.run` takes it to its end in the calling thread. Under asyncio it suspends as any
other. The engine keeps these rules for both:

1. No lock is held across an await. Under asyncio the locks are simply free.
2. Any await may raise anything, a signal's exception or a cancellation: state is put right by
   ``finally``, and a connection with a request in flight is closed.
3. No asynchronous generator, for it would belong to an event loop even on threads.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from typing import Any

from twinline.core.deadline import Deadline
from twinline.transports.client.engine.cancel import CancelToken, Waiter
from twinline.transports.client.engine.connection import Connection
from twinline.transports.client.options import OnState
from twinline.transports.client.state import StateReport
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.resolver import Resolver
from twinline.transports.tls.layer import TlsLayer

Run = Callable[[], Coroutine[Any, Any, None]]


class Worker(ABC):
    """A thread or a task of the client's own: the watcher's."""

    @property
    @abstractmethod
    def is_here(self) -> bool:
        """Whether the caller is the worker, or within a callback that it calls."""

    @abstractmethod
    def start(self) -> None:
        """Begin."""

    @abstractmethod
    async def call(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call a callback of the user's within this worker; await what it returns if need be.

        Raises:
            Exception: what the callback raises.
        """

    @abstractmethod
    async def join(self, seconds: float | None) -> None:
        """Wait until it has ended, or the time is up; at once if it was never started."""

    @abstractmethod
    async def abandon(self, seconds: float) -> None:
        """End it by force where that can be done; it has been asked and given time."""


class Backend(ABC):
    """What there is once for each client.

    Attributes:
        resolver: finds the addresses of its endpoints.
    """

    def __init__(self, resolver: Resolver | None = None) -> None:
        """Begin.

        Args:
            resolver: None for one that asks the system.
        """
        self.resolver = resolver or Resolver()

    @abstractmethod
    def check(self) -> None:
        """Do nothing if the client may be used from here.

        Raises:
            ClientBusy: it may not.
        """

    @abstractmethod
    def waiter(self) -> Waiter:
        """Return a new place to wait, for one thread or task."""

    @abstractmethod
    def worker(self, run: Run, name: str) -> Worker:
        """Return a thread or a task that will run this."""

    @abstractmethod
    def report(self, on_state: OnState | None) -> StateReport:
        """Return what reports the states."""

    @abstractmethod
    async def connect(
        self,
        endpoint: Endpoint,
        transport: Transport,
        layer: TlsLayer | None,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> Connection:
        """Return a new connection; whatever this raises, no socket is left open.

        Args:
            endpoint: where to.
            transport: what to speak there.
            layer: of TLS, which begins; None to speak in plain.
            deadline: for being connected.
            cancel: ends the attempt early.

        Raises:
            OSError: it cannot be reached; TimeoutError when that took too long.
            Cancelled: the token was set.
        """

    @abstractmethod
    async def settle(self, seconds: float) -> None:
        """Wait until every socket of a closed connection is closed, for so long at most."""
