"""How a client command gets from its flags to a client that is connected, and logged in."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import click

from twinline.cli.client.sessions import KeptSession, SessionFile
from twinline.cli.console.command import Option
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
from twinline.core.errors import NotLoggedIn, SessionExpired
from twinline.core.protocol import Message
from twinline.transports.client import (
    Client,
    ClientClosed,
    ClientSettings,
    NotConnected,
    State,
    StateKind,
    WatchMode,
)
from twinline.transports.endpoints import Endpoint

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_wait_option = click.option(
    "--wait",
    cls=Option,
    is_flag=True,
    brief="Keep trying while nobody listens.",
    help="Keep trying while nobody listens, until --timeout.",
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
        for option in (_wait_option, settings, config_option, json_option):
            function = option(function)
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
    def anonymous(self) -> Iterator[Client]:
        """Return a connected client that is not logged in."""
        with self._client(watch=WatchMode.OFF) as client:
            yield client

    @contextlib.contextmanager
    def logged_in(
        self,
        session: KeptSession | None = None,
        *,
        watch: WatchMode = WatchMode.OFF,
        on_message: Callable[[Message], None] | None = None,
        on_state: Callable[[State], None] | None = None,
        on_handler_error: Callable[[Message, Exception], None] | None = None,
    ) -> Iterator[Client]:
        """Return a client that has resumed the kept session.

        Args:
            session: the one to resume, where the command has looked it up already.
            watch: whether it receives mail.
            on_message: as for `Client`.
            on_state: as for `Client`.
            on_handler_error: as for `Client`.

        Raises:
            CommandError: nobody is logged in, or the session has ended, now or while the body
                ran; it is forgotten then.
        """
        if session is None:
            session = self.sessions.find(self.endpoint, self.user)
        try:
            with self._client(
                watch=watch,
                on_message=on_message,
                on_state=on_state,
                on_handler_error=on_handler_error,
            ) as client:
                client.resume(session.token)
                yield client
        except (SessionExpired, NotLoggedIn):
            self.sessions.forget(self.endpoint, session)
            raise CommandError(
                f"the session of {session.username} at {self.place} has ended; "
                f"log in again with 'twinline login {session.username}'",
                ExitCode.REFUSED,
            ) from None

    def keep(self, username: str, token: str) -> None:
        """Keep a session for the commands that follow."""
        self.sessions.keep(self.endpoint, KeptSession(username=username, token=token))

    @contextlib.contextmanager
    def _client(
        self,
        *,
        watch: WatchMode,
        on_message: Callable[[Message], None] | None = None,
        on_state: Callable[[State], None] | None = None,
        on_handler_error: Callable[[Message, Exception], None] | None = None,
    ) -> Iterator[Client]:
        refusal: list[State] = []

        def tell(state: State) -> None:
            if state.kind is StateKind.CONNECTING and state.retry_in is not None and not self.wait:
                # The first attempt failed, and nobody has the patience for a second one.
                refusal.append(state)
                client.close()
            elif on_state is not None:
                on_state(state)

        with Client(
            self.endpoint,
            transport=self.transport,
            watch=watch,
            on_message=on_message,
            on_state=tell,
            on_handler_error=on_handler_error,
            settings=self._patience(),
        ) as client:
            try:
                client.connect(self.timeout)
            except ClientClosed:
                if not refusal:
                    raise
                reason = f"{refusal[0].reason} (--wait keeps trying)"
                raise NotConnected(f"cannot reach {self.place}: {reason}") from None
            yield client

    def _patience(self) -> ClientSettings:
        default = ClientSettings()
        return ClientSettings(
            connect_seconds=min(default.connect_seconds, self.timeout),
            reply_seconds=min(default.reply_seconds, self.timeout),
            command_seconds=self.timeout,
        )
