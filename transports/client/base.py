"""What `Client` and `AsyncClient` have in common: how they are made, and what they know at once."""

import itertools
import secrets
from collections.abc import Callable
from typing import Final

from twinline.core.forks import watch_forks
from twinline.core.protocol import Limits
from twinline.transports.client.engine.backend import Backend
from twinline.transports.client.engine.engine import Engine
from twinline.transports.client.options import ClientOptions
from twinline.transports.client.state import State
from twinline.transports.endpoints import Endpoint

ACCOUNT_DELETED: Final = "the account was deleted"
"""Why there is no session any more."""


class ClientBase:
    """A client without its commands; nothing here waits.

    Attributes:
        endpoints: of the servers that it was given, in that order.
    """

    def __init__(self, new_backend: Callable[[], Backend], options: ClientOptions) -> None:
        self.endpoints = tuple(server.endpoint for server in options.servers)
        self._new_backend = new_backend
        self._options = options
        self._before_fork: Engine | None = None
        self._begin()
        watch_forks(self)

    def _begin(self) -> None:
        self._engine = Engine(self._new_backend(), self._options)
        self._send_prefix = secrets.token_urlsafe(6)  # 48 bits: no two clients share one
        self._sends = itertools.count(1)  # its next() is one step, whichever thread takes it

    def forked(self) -> None:
        """Begin anew in a forked child; connections, threads and send_ids stay the parent's.

        Commands go on in the parent's session; the mailbox is the parent's to watch.
        """
        # Kept, so that nothing of it is finalised here: tasks, and transports of the parent's loop.
        before = self._before_fork = self._engine
        before.forget()
        self._begin()
        self._engine.inherit(before)

    @property
    def state(self) -> State:
        """Where the client stands."""
        return self._engine.link.state

    @property
    def endpoint(self) -> Endpoint:
        """The server's that the newest connection leads to; before that, of the one to try."""
        return self._engine.link.server.endpoint

    @property
    def node(self) -> str | None:
        """How that server calls itself, where several have one state and are named; else None."""
        hello = self._engine.link.hello
        return None if hello is None else hello.node

    @property
    def token(self) -> str | None:
        """What `resume` takes, a secret; None without a session."""
        session = self._engine.link.snapshot.session
        return None if session is None else session.token

    @property
    def username(self) -> str | None:
        """The account, as the server spells it; None without a session."""
        session = self._engine.link.snapshot.session
        return None if session is None else session.username

    @property
    def limits(self) -> Limits | None:
        """What the server accepts; None before the first connection."""
        hello = self._engine.link.hello
        return None if hello is None else hello.limits

    @property
    def incarnation(self) -> str | None:
        """What stands for this start of the server, where accounts end with it; else None.

        Another one means that all accounts of before are gone.
        """
        hello = self._engine.link.hello
        return None if hello is None else hello.incarnation

    def __repr__(self) -> str:
        user = "" if self.username is None else f" as {self.username}"
        kind = self.state.kind.value
        name, server = type(self).__name__, self._engine.link.server
        return f"<{name} {server.endpoint} {server.transport.name} {kind}{user}>"

    def _new_send_id(self) -> str:
        return f"{self._send_prefix}{next(self._sends):x}"
