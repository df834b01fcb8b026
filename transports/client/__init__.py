"""The client of a server: `Client` for threads, `AsyncClient` for an event loop; one engine.

::

    client          Client: every method blocks the thread that calls it
    async_client    AsyncClient: the same methods, to be awaited
    base            what both have: how they are made, and what they answer at once
    options         what a client is made with, as one object
    settings        waits, retries and the pace of attempts, as a typed model
    state           where a client stands, as a user interface shows it
    errors          what goes wrong at this end of a connection
    requests        requests from arguments that are checked
    interrupted     whether a signal's handler has come in the midst of a call
    engine/         what a client does: commands, the watch, reconnecting
    backends/       how it waits, works and connects: threads, asyncio
"""

from typing import TYPE_CHECKING, Any

from twinline.transports.client.client import Client
from twinline.transports.client.engine.backoff import Backoff
from twinline.transports.client.errors import (
    ClientBusy,
    ClientClosed,
    ClientError,
    ConnectionLost,
    NotConnected,
    TimedOut,
)
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State, StateKind

if TYPE_CHECKING:
    from twinline.transports.client.async_client import AsyncClient, Entries, Messages

__all__ = [
    "AsyncClient",
    "Backoff",
    "Client",
    "ClientBusy",
    "ClientClosed",
    "ClientError",
    "ClientSettings",
    "ConnectionLost",
    "Entries",
    "Messages",
    "NotConnected",
    "State",
    "StateKind",
    "TimedOut",
    "WatchMode",
]


def __getattr__(name: str) -> Any:
    """Import what needs asyncio when it is asked for: commands that do without start sooner."""
    if name in ("AsyncClient", "Entries", "Messages"):
        from twinline.transports.client import async_client  # noqa: PLC0415

        return getattr(async_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
