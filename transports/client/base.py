"""What `Client` and `AsyncClient` have in common: how they are made, and what they tell at once."""

import secrets
from collections.abc import Callable
from typing import Final

from twinline.core.locks import new_lock
from twinline.core.protocol import Limits
from twinline.transports import registry
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.engine import Engine
from twinline.transports.client.engine.watcher import OnHandlerError, OnMessage
from twinline.transports.client.settings import ClientSettings, WatchMode
from twinline.transports.client.state import State
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint

DEFAULT_TRANSPORT: Final = "jsonl"
ACCOUNT_DELETED: Final = "the account was deleted"
"""Why there is no session any more."""


class ClientBase:
    """A client without its commands; nothing here waits.

    Attributes:
        endpoint: the server's.
    """

    def __init__(
        self,
        backend: Backend,
        endpoint: str | Endpoint,
        transport: str | Transport | None,
        settings: ClientSettings | None,
        watch: WatchMode,
        *,
        resume: bool,
        on_message: OnMessage | None,
        on_state: Callable[[State], object] | None,
        on_handler_error: OnHandlerError | None,
    ) -> None:
        self.endpoint = endpoint if isinstance(endpoint, Endpoint) else Endpoint.parse(endpoint)
        if transport is None:
            transport = self.endpoint.transport or DEFAULT_TRANSPORT
        if isinstance(transport, str):
            transport = registry.transport(transport)
        self._transport_name = transport.name
        self._engine = Engine(
            backend,
            self.endpoint,
            transport,
            settings or ClientSettings(),
            watch,
            resume=resume,
            on_message=on_message,
            on_state=on_state,
            on_handler_error=on_handler_error,
        )
        self._send_prefix = secrets.token_urlsafe(6)  # 48 bits: no two clients share one
        self._lock = new_lock("send numbers")
        self._sends = 0  # guarded by _lock

    @property
    def state(self) -> State:
        """Where the client stands."""
        return self._engine.link.state

    @property
    def token(self) -> str | None:
        """What `resume` takes, a secret; None without a session."""
        session = self._engine.link.session
        return None if session is None else session.token

    @property
    def username(self) -> str | None:
        """The account, as the server spells it; None without a session."""
        session = self._engine.link.session
        return None if session is None else session.username

    @property
    def limits(self) -> Limits | None:
        """What the server accepts; None before the first connection."""
        hello = self._engine.link.hello
        return None if hello is None else hello.limits

    def __repr__(self) -> str:
        user = "" if self.username is None else f" as {self.username}"
        kind = self.state.kind.value
        name = type(self).__name__
        return f"<{name} {self.endpoint} {self._transport_name} {kind}{user}>"

    def _new_send_id(self) -> str:
        with self._lock:
            self._sends += 1
            return f"{self._send_prefix}{self._sends:x}"
