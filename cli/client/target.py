"""How a client command gets from its flags to a client that is connected, and logged in."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeVar

from twinline.cli.client.gone import gone_for_a_command, is_gone
from twinline.cli.client.sessions import KeptSession, SessionFile
from twinline.cli.console.command import option
from twinline.cli.console.errors import CommandError, SettingsError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import say
from twinline.cli.console.text import visible
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
from twinline.cli.settings.sources import Loaded, flag_name, unknown_variables
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
from twinline.transports.endpoints import Endpoint, Scheme
from twinline.transports.tls import (
    ALPN,
    ALPN_WEB,
    UNKNOWN_AUTHORITY,
    TlsFilesError,
    client_context,
)

_TLS_SETTINGS: Final = ("ca_file", "client_cert", "client_key", "insecure_skip_verify")
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
_KEEP_TRYING: Final = "--wait keeps trying"
_wait_option = option(
    "--wait",
    is_flag=True,
    help="Keep trying while nobody listens<|, until --timeout>.",
)


def client_options(function: Decorated) -> Decorated:
    """Give a command the flags that say which server it talks to, and how."""
    return client_options_but()(function)


def client_options_but(
    *without: str, rare: Collection[str] = ()
) -> Callable[[Decorated], Decorated]:
    """Do the same for a command that has a flag of its own for some of these settings.

    Args:
        without: those settings.
        rare: settings whose flags only the long help shows.
    """

    def decorate(function: Decorated) -> Decorated:
        settings = settings_options(
            ClientCommandSettings, SafetySettings, names=CLIENT_FLAGS, without=without, rare=rare
        )
        for give in (_wait_option, settings, config_option, json_option):
            function = give(function)
        return function

    return decorate


@dataclass(frozen=True, slots=True)
class Target:
    """The server that a command talks to, or several with one state, and as whom.

    Attributes:
        endpoints: of the servers.
        transport: the name of the transport to speak where an endpoint names none.
        user: the account to act as; None is the endpoint's current one.
        timeout: seconds to wait for the server.
        wait: whether to keep trying so long when it cannot be reached, or to give up at once.
        sessions: where sessions are kept.
        tls: what connections over TLS begin with; None where every endpoint is one in plain.
        tls_settings: the settings that it is made from, as variables have them.
    """

    endpoints: tuple[Endpoint, ...]
    transport: str
    user: str | None
    timeout: float
    wait: bool
    sessions: SessionFile
    tls: ssl.SSLContext | None = None
    tls_settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Mapping[str, Any], *, warn: bool = True) -> Self:
        """Return the target that a command's flags, variables and file name.

        Args:
            options: the command's parameters.
            warn: whether to say on stderr what is allowed and not safe.

        Raises:
            SettingsError: a setting is unknown, cannot be, or asks for what is not safe; or a file
                of certificates cannot be used.
        """
        loaded = load_from(options, CLIENT_FLAGS)
        if warn:
            for warning in unknown_variables():
                say(f"warning: {visible(warning)}")
        settings: Settings = loaded.settings
        endpoints = [Endpoint.parse(text) for text in dict.fromkeys(settings.connect)]
        refuse_exposure(settings, endpoints)
        # A flag is nearer than what the endpoint says, that is nearer than the file.
        is_nearer = loaded.from_flag("client_transport")
        return cls(
            endpoints=tuple(
                replace(each, transport=None) if is_nearer else each for each in endpoints
            ),
            transport=settings.client_transport,
            user=settings.user,
            timeout=settings.timeout,
            wait=bool(options.get("wait")),
            sessions=SessionFile(),
            tls=_tls(loaded, endpoints, warn=warn),
            tls_settings={
                name: str(value) for name in _TLS_SETTINGS if (value := getattr(settings, name))
            },
        )

    @property
    def shows_certificate(self) -> bool:
        """Whether the server is shown a certificate."""
        return self.tls is not None and "client_cert" in self.tls_settings

    def require_certificate(self) -> None:
        """Do nothing if the server is shown a certificate.

        Raises:
            CommandError: there is none, or no TLS to show it in.
        """
        if self.tls is None:
            raise CommandError(
                f"{self.place} is not an endpoint with TLS (tls:// or wss://), so that no "
                "certificate can be shown",
                ExitCode.USAGE,
            )
        if not self.shows_certificate:
            raise CommandError("name the certificate with --client-cert", ExitCode.USAGE)

    @property
    def place(self) -> str:
        """The server as a person knows it: its endpoint, or those of several."""
        return " or ".join(endpoint.place for endpoint in self.endpoints)

    @property
    def spoken(self) -> list[Endpoint]:
        """The endpoints, each with the transport that is spoken there."""
        return [
            each if each.transport is not None else replace(each, transport=self.transport)
            for each in self.endpoints
        ]

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
            if state.kind is StateKind.CONNECTING and not self.wait:
                # An attempt failed, and without --wait there is one for each server.
                refusal.append(state)
                if len(refusal) >= len(self.endpoints):
                    client.close()
            elif on_state is not None:
                on_state(state)

        default = ClientSettings()
        settings = ClientSettings(
            connect_seconds=min(default.connect_seconds, self.timeout / len(self.endpoints)),
            reply_seconds=min(default.reply_seconds, self.timeout),
            command_seconds=self.timeout,
        )
        handlers = {"watch": WatchMode.OFF, **handlers}
        with Client(
            self.spoken,
            tls=self.tls,
            on_state=take_in,
            settings=settings,
            **handlers,
        ) as client:
            try:
                client.connect(self.timeout)
            except ClientClosed:
                if not refusal:
                    raise
                reason = refusal[-1].reason or ""
                what = "trust it with --ca-file" if UNKNOWN_AUTHORITY in reason else _KEEP_TRYING
                # Where there are several, the reason names each.
                where = self.place if len(self.endpoints) == 1 else "any server"
                raise NotConnected(f"cannot reach {where}: {reason} ({what})") from None
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
        except (SessionExpired, NotLoggedIn) as error:
            raise self.ended(session, client) from error

    def ended(self, session: KeptSession, client: Client) -> CommandError:
        """Forget a session that has ended, and return what to say of it.

        Args:
            session: is forgotten.
            client: was connected since.
        """
        self.forget(session)
        name = session.username
        if is_gone(session, client):
            return gone_for_a_command(name, self.place)
        return CommandError(
            f"the session of {name} at {self.place} has ended; "
            f"log in again with 'twinline login {name}'",
            ExitCode.REFUSED,
        )

    def session(self) -> KeptSession:
        """Return the kept session of the account.

        Raises:
            CommandError: there is none, or the file cannot be read.
        """
        return self.sessions.find(self.endpoints, self.user)

    def keep(self, opened: SessionReply, client: Client) -> KeptSession:
        """Keep a session, which a client has opened, for the commands that follow."""
        session = KeptSession(
            username=opened.username, token=opened.session, incarnation=client.incarnation
        )
        self.sessions.keep(self.endpoints, session)
        return session

    def forget(self, session: KeptSession) -> None:
        """Drop a session that has ended."""
        self.sessions.forget(self.endpoints, session)


def _tls(loaded: Loaded, endpoints: Sequence[Endpoint], *, warn: bool) -> ssl.SSLContext | None:
    """Return what the settings say about TLS, or None: each endpoint is one in plain.

    Raises:
        SettingsError: a flag is for TLS and no endpoint is, a key has no certificate, or a file
            cannot be used.
    """
    settings = loaded.settings
    sealed = [endpoint for endpoint in endpoints if endpoint.scheme.is_tls]
    if not sealed:
        for name in filter(loaded.from_flag, _TLS_SETTINGS):
            schemes = f"{Scheme.TLS} and {Scheme.WSS}"
            raise SettingsError(f"{flag_name(name)} is for {schemes} endpoints, not {endpoints[0]}")
        return None
    if settings.client_key is not None and settings.client_cert is None:
        raise SettingsError("client_key: the key comes with its certificate, client_cert")
    if settings.insecure_skip_verify and warn:
        say(
            f"twinline: warning: nobody checks who answers at "
            f"{' or '.join(each.place for each in sealed)}: others on the way "
            "could read and change everything (insecure_skip_verify)"
        )
    try:
        return client_context(
            ca_file=settings.ca_file,
            certificate=settings.client_cert,
            key=settings.client_key,
            insecure_skip_verify=settings.insecure_skip_verify,
            protocols=sorted({ALPN_WEB if each.scheme.is_web else ALPN for each in sealed}),
        )
    except TlsFilesError as error:
        raise SettingsError(str(error)) from None


def whereabouts(client: Client) -> str:
    """Return the server that a client is connected to, as a person knows it."""
    place = client.endpoint.place
    return place if client.node is None else f"{place} ({visible(client.node)})"


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
