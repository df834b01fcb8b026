"""How a client command gets from its flags to a client that is connected, and logged in."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from twinline.cli.client.sessions import KeptSession, SessionFile
from twinline.cli.console.command import option
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.settings.model import (
    ClientCommandSettings,
    SafetySettings,
    Settings,
    refuse_exposure,
)
from twinline.cli.settings.options import (
    CLIENT_FLAGS,
    config_option,
    json_option,
    load_from,
    settings_options,
)
from twinline.core.errors import NotLoggedIn, RequestError, SessionExpired
from twinline.core.protocol import SessionReply
from twinline.transports.client import (
    Client,
    ClientClosed,
    ClientSettings,
    ConnectionLost,
    NotConnected,
    State,
    StateKind,
    TimedOut,
    WatchMode,
)
from twinline.transports.endpoints import Endpoint

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_wait_option = option(
    "--wait",
    is_flag=True,
    help="Keep trying while nobody listens<|, until --timeout>.",
)


def client_options(function: Decorated) -> Decorated:
    """Give a command the flags that say which server it talks to, and how."""
    return client_options_but()(function)


def client_options_but(*without: str) -> Callable[[Decorated], Decorated]:
    """Do the same for a command that has a flag of its own for some of these settings."""

    def decorate(function: Decorated) -> Decorated:
        settings = settings_options(
            ClientCommandSettings, SafetySettings, names=CLIENT_FLAGS, without=without
        )
        for give in (_wait_option, settings, config_option, json_option):
            function = give(function)
        return function

    return decorate


@dataclass(frozen=True, slots=True)
class Target:
    """The server that a command talks to, and as whom.

    Attributes:
        endpoint: of the server.
        transport: the name of the transport to speak.
        user: the account to act as; None is the endpoint's current one.
        timeout: seconds to wait for the server.
        wait: whether to keep trying so long when it cannot be reached, or to give up at once.
        sessions: where sessions are kept.
    """

    endpoint: Endpoint
    transport: str
    user: str | None
    timeout: float
    wait: bool
    sessions: SessionFile

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the target that a command's flags, variables and file name.

        Raises:
            SettingsError: a setting is unknown, cannot be, or asks for what is not safe.
        """
        loaded = load_from(options, CLIENT_FLAGS)
        settings: Settings = loaded.settings
        endpoint = Endpoint.parse(settings.connect)
        refuse_exposure(settings, [endpoint])
        # A flag is nearer than what the endpoint says, that is nearer than the file.
        named = None if loaded.from_flag("client_transport") else endpoint.transport
        return cls(
            endpoint=endpoint,
            transport=named or settings.client_transport,
            user=settings.user,
            timeout=settings.timeout,
            wait=bool(options.get("wait")),
            sessions=SessionFile(),
        )

    @property
    def place(self) -> str:
        """The endpoint as a person knows it."""
        return str(self.endpoint).partition("?")[0]

    @contextlib.contextmanager
    def anonymous(
        self, on_state: Callable[[State], None] | None = None, **handlers: Any
    ) -> Iterator[Client]:
        """Return a connected client that is not logged in, and that watches only if asked to.

        Args:
            on_state: as for `Client`.
            handlers: ``watch``, ``on_message`` and ``on_handler_error``, as for `Client`.

        Raises:
            NotConnected: the server cannot be reached.
        """
        refusal: list[State] = []

        def take_in(state: State) -> None:
            if state.kind is StateKind.CONNECTING and state.retry_in is not None and not self.wait:
                # The first attempt failed, and without --wait there is no second one.
                refusal.append(state)
                client.close()
            elif on_state is not None:
                on_state(state)

        default = ClientSettings()
        settings = ClientSettings(
            connect_seconds=min(default.connect_seconds, self.timeout),
            reply_seconds=min(default.reply_seconds, self.timeout),
            command_seconds=self.timeout,
        )
        handlers = {"watch": WatchMode.OFF, **handlers}
        with Client(
            self.endpoint,
            transport=self.transport,
            on_state=take_in,
            settings=settings,
            **handlers,
        ) as client:
            try:
                client.connect(self.timeout)
            except ClientClosed:
                if not refusal:
                    raise
                reason = f"{refusal[0].reason} (--wait keeps trying)"
                raise NotConnected(f"cannot reach {self.place}: {reason}") from None
            yield client

    @contextlib.contextmanager
    def logged_in(self, session: KeptSession | None = None, **handlers: Any) -> Iterator[Client]:
        """Return a client that has resumed the kept session.

        Args:
            session: the one to resume, where the command has looked it up already.
            handlers: as for `anonymous`, ``on_state`` included.

        Raises:
            CommandError: there is no session, or it has ended, now or while the body ran; it is
                forgotten then.
            NotConnected: the server cannot be reached.
        """
        if session is None:
            session = self.session()
        try:
            with self.anonymous(**handlers) as client:
                client.resume(session.token)
                yield client
        except (SessionExpired, NotLoggedIn):
            self.forget(session)
            raise CommandError(
                f"the session of {session.username} at {self.place} has ended; "
                f"log in again with 'twinline login {session.username}'",
                ExitCode.REFUSED,
            ) from None

    def session(self) -> KeptSession:
        """Return the kept session of the account.

        Raises:
            CommandError: there is none, or the file cannot be read.
        """
        return self.sessions.find(self.endpoint, self.user)

    def keep(self, opened: SessionReply) -> KeptSession:
        """Keep a session for the commands that follow."""
        session = KeptSession(username=opened.username, token=opened.session)
        self.sessions.keep(self.endpoint, session)
        return session

    def forget(self, session: KeptSession) -> None:
        """Drop a session that has ended."""
        self.sessions.forget(self.endpoint, session)


def acked(client: Client, seq: int) -> bool:
    """Ack every message up to a seq, and return whether that could be done now.

    It takes its time where it could not, so whoever must have it done asks again at once.

    Raises:
        RequestError: the server refuses it for good.
        ClientClosed: the client was closed meanwhile.
    """
    try:
        client.ack(seq)
    except (NotConnected, ConnectionLost, TimedOut):
        return False  # each has taken its time, so that there is no need for a pause
    except RequestError as error:
        if not error.retryable:
            raise
        threading.Event().wait(error.retry_after(1.0))
        return False
    return True
