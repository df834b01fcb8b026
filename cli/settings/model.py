"""Every setting, once: the file, the environment, the flags and the docs are made from this model.

The settings of the service, the mailboxes and the listener are declared where they are used;
here they become one model, with those of the command line beside them. `load` fills it in.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from twinline.cli.console.errors import SettingsError
from twinline.core.deadline import Seconds
from twinline.core.errors import InvalidUsername
from twinline.core.metrics import SAMPLE
from twinline.core.names import parse_username
from twinline.core.reloading import RELOADED, OnReload
from twinline.core.settings import ServiceSettings
from twinline.core.store import MailboxPolicy
from twinline.stores.registry import store_schemes
from twinline.transports.contract import Transport, TransportError
from twinline.transports.endpoints import DEFAULT_PORT, Endpoint, EndpointError, Scheme
from twinline.transports.listener import ListenerSettings
from twinline.transports.registry import UnknownTransport, listening_transport, transport
from twinline.transports.web import ChatPage, page_server
from twinline.transports.websocket import WebSocketTransport

ENVIRONMENT_PREFIX: Final = "TWINLINE_"
_BETWEEN: Final = re.compile(rf"[\s,]+(?=(?:{'|'.join(Scheme)}):)", re.IGNORECASE)
_HERE: Final = f"tcp://127.0.0.1:{DEFAULT_PORT}"


def _known_endpoint(text: str) -> str:
    try:
        endpoint = Endpoint.parse(text)
    except EndpointError as error:
        raise ValueError(str(error)) from None
    if endpoint.transport is not None:
        _known_transport(endpoint.transport)
    return text


def _listenable(text: str) -> str:
    try:
        Endpoint.parse(text).check_listenable()
    except EndpointError as error:
        raise ValueError(str(error)) from None
    return text


def _connectable(text: str) -> str:
    try:
        Endpoint.parse(text).check_connectable()
    except EndpointError as error:
        raise ValueError(str(error)) from None
    return text


def _origin(text: str) -> str:
    if re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?", text.lower()) is None:
        raise ValueError("expected the origin of a page, as in https://chat.example.org")
    return text.lower()


def _web_server(text: str) -> str:
    try:
        return page_server(text)
    except EndpointError as error:
        raise ValueError(str(error)) from None


def _known_transport(name: str) -> str:
    try:
        transport(name)
    except UnknownTransport as error:
        raise ValueError(str(error)) from None
    return name


def _username(text: str) -> str:
    try:
        return parse_username(text)
    except InvalidUsername as error:
        raise ValueError(f"{text!r} is no username: {error.message}") from None


def _admin_place(text: str) -> str:
    try:
        endpoint = Endpoint.parse(text)
    except EndpointError as error:
        raise ValueError(str(error)) from None
    if endpoint.scheme is not Scheme.UNIX or str(endpoint) != endpoint.place:
        raise ValueError("expected a Unix socket without options, as in unix:/run/twinline/admin")
    return text


_AdminText = Annotated[str, AfterValidator(_admin_place)]
_EndpointText = Annotated[str, AfterValidator(_known_endpoint)]
_ListenText = Annotated[_EndpointText, AfterValidator(_listenable)]
_ServerText = Annotated[_EndpointText, AfterValidator(_connectable)]
_TransportName = Annotated[str, AfterValidator(_known_transport)]


_OriginText = Annotated[str, AfterValidator(_origin)]
_WebServerText = Annotated[str, AfterValidator(_web_server)]


class ServerSettings(BaseModel):
    """Where a server listens and what it serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: tuple[_ListenText, ...] = Field(
        default=(_HERE,),
        min_length=1,
        description="an endpoint to listen on: `tcp://host:port`, `tls://`, `ws://`, `wss://`, or "
        "`unix:/path`; it may name its transport, as in `tcp://127.0.0.1:7767?transport=binary`",
    )
    transport: _TransportName = Field(
        default="auto",
        description="the transport of an endpoint that names none; `auto` serves all on one port",
    )
    web_origins: tuple[_OriginText, ...] = Field(
        default=(),
        json_schema_extra=RELOADED,
        description="a site whose pages may connect by WebSocket, such as "
        "`https://chat.example.org`; the server's own pages always may",
    )
    web_servers: tuple[_WebServerText, ...] = Field(
        default=(),
        json_schema_extra=RELOADED,
        description="another server with the same store that the chat page uses when this one is "
        "away, such as `wss://b.example.org/`; its web_origins has the page's site",
    )
    listener: Literal["threads", "loop"] = Field(
        default="threads",
        description="what drives the connections: `threads`, one for each; `loop`, one event loop",
    )
    store: str = Field(
        default="memory:",
        repr=False,  # it may have a password
        description="where the state is kept, as a URL",
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=256,
        description="how many server processes to start on these endpoints, to use as many "
        "processors; more than one needs a store that servers can share",
    )
    node: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,48}$",
        description="the name of this server among those with the same store, in the log and in "
        "the reply to `hello`; unset: the machine's and a number, where there may be others",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        json_schema_extra=RELOADED,
        description="how much the server logs, on stderr",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        json_schema_extra=RELOADED,
        description="what a line of the log is: text, or a JSON object",
    )
    log_time: Literal["utc", "none"] = Field(
        default="utc",
        json_schema_extra=RELOADED,
        description="the time at the start of a line of text: UTC, or none; none where stderr is "
        "systemd's journal, which notes it",
    )
    log_queue: int = Field(
        default=4096,
        ge=16,
        json_schema_extra=RELOADED,
        description="lines of the log that may wait to be written; beyond it they are lost, "
        "the debug lines first, and the next line tells how many; events are counted instead",
    )
    reload_seconds: Seconds = Field(
        default=5,
        ge=0,
        json_schema_extra=RELOADED,
        description="how often to look whether the settings file and the files of TLS have "
        "changed, to read them again; 0: only when SIGHUP comes",
    )
    one_processor: bool = Field(
        default=True,
        description="keep the threads on one processor, where the system can: with many busy "
        "connections Python is about twice as fast so; password hashes use all of them",
    )
    check_locks: bool = Field(
        default=False, description="check the lock rule while running, at some cost"
    )

    @field_validator("listen", "web_origins", "web_servers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        # One variable holds several of them; one string in the file means one.
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("store")
    @classmethod
    def _known_store(cls, value: str) -> str:
        # Only the scheme: opening the store is for those who mean to use it.
        scheme, colon, _ = value.partition(":")
        if not colon or scheme not in store_schemes():
            known = ", ".join(f"{name}:" for name in store_schemes())
            raise ValueError(f"expected the URL of a store, which begins with one of {known}")
        return value


class AdminSettings(BaseModel):
    """Where the operator reaches a server that runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    admin_listen: _AdminText | None = Field(
        default=None,
        description="the admin socket, `unix:/path`, that `twinline admin` and `twinline top` talk "
        "to; with several nodes each adds its number to the path, as in `admin.0`; unset: none",
    )
    admin_group: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="the group whose members may use the admin socket; unset: only root and the "
        "server's own user",
    )


def _metrics_place(text: str) -> str:
    try:
        endpoint = Endpoint.parse(text)
    except EndpointError as error:
        raise ValueError(str(error)) from None
    if endpoint.scheme is not Scheme.TCP or str(endpoint) != endpoint.place or endpoint.transport:
        raise ValueError("expected tcp://host:port, with no option: HTTP is spoken there")
    return text


_MetricsText = Annotated[str, AfterValidator(_metrics_place)]


class MetricsSettings(BaseModel):
    """What an operator's monitoring may see of a server."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metrics_listen: _MetricsText | None = Field(
        default=None,
        description="where to serve metrics for Prometheus, and health, by HTTP, such as "
        "`tcp://127.0.0.1:9464`; of several nodes each takes the next port. It needs the extra "
        "`metrics`",
    )
    metrics_insecure: bool = Field(
        default=False,
        description="allow that beyond this machine, where whoever can connect can read it",
    )
    metrics_sample: int = Field(
        default=SAMPLE,
        ge=1,
        le=1_000_000,
        description="times are taken of one request in so many",
    )
    ready_free_bytes: int = Field(
        default=256 * 1024 * 1024,
        ge=0,
        description="with less room in the file system of its store a server is not ready",
    )


class SafetySettings(BaseModel):
    """What a server and a client both refuse to risk unless it is set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    insecure: bool = Field(
        default=False,
        description="allow plain TCP and `ws://` beyond this machine, where others can read "
        "passwords and messages",
    )


class ClientCommandSettings(BaseModel):
    """Which server the client commands talk to, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    connect: tuple[_ServerText, ...] = Field(
        default=(_HERE,),
        min_length=1,
        description="the server's endpoint, or those of several servers with one state, of which "
        "a client uses whichever works",
    )
    client_transport: _TransportName = Field(
        default="jsonl", description="the transport to speak where the endpoint names none"
    )
    user: Annotated[str, AfterValidator(_username)] | None = Field(
        default=None,
        description="the account to act as; unset: the one that logged in last at this endpoint",
    )
    timeout: Seconds = Field(
        default=10, gt=0, description="how many seconds a client command waits for the server"
    )
    ca_file: str | None = Field(
        default=None,
        description="the file with the certificates to trust at a `tls://` or `wss://` server, as "
        "PEM; unset: those that the system trusts",
    )
    client_cert: str | None = Field(
        default=None,
        description="the file with the certificate that client commands show to a `tls://` or "
        "`wss://` server, and behind it its chain, as PEM",
    )
    client_key: str | None = Field(
        default=None,
        description="the file with that certificate's key; unset: in the certificate's file",
    )
    insecure_skip_verify: bool = Field(
        default=False,
        description="take a `tls://` or `wss://` server's word for who it is: anybody on the way "
        "can pass for it, and read and change everything",
    )

    @field_validator("connect", mode="before")
    @classmethod
    def _split_connect(cls, value: object) -> object:
        # Between endpoints only: the path of a Unix socket may well have a space or a comma.
        return tuple(_BETWEEN.split(value.strip())) if isinstance(value, str) else value


GROUPS: Final[tuple[tuple[str, type[BaseModel]], ...]] = (
    ("Where to listen, what to serve", ServerSettings),
    ("The operator", AdminSettings),
    ("Metrics and health", MetricsSettings),
    ("Safety", SafetySettings),
    ("Accounts and messages", ServiceSettings),
    ("Mailboxes", MailboxPolicy),
    ("Connections", ListenerSettings),
    ("Client commands", ClientCommandSettings),
)
"""The parts of the model, in the order of the documentation."""


SERVER_FIELDS: Final = tuple(
    name for _, model in GROUPS if model is not ClientCommandSettings for name in model.model_fields
)
"""The settings that are not the client commands' alone."""


class Settings(
    ServerSettings,
    AdminSettings,
    MetricsSettings,
    SafetySettings,
    ServiceSettings,
    MailboxPolicy,
    ListenerSettings,
    ClientCommandSettings,
    BaseSettings,
):
    """All of them. It can be passed wherever one of its parts is asked for."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENVIRONMENT_PREFIX,
        env_ignore_empty=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing by itself: `load` reads the sources one by one, to tell them apart."""
        return (init_settings,)

    def endpoints(self) -> list[tuple[Endpoint, Transport]]:
        """Return where to listen, and the transport spoken there.

        Raises:
            SettingsError: what is to be spoken at an endpoint is not spoken over it.
        """
        parsed = [Endpoint.parse(text) for text in self.listen]
        names = [endpoint.transport or self.transport for endpoint in parsed]
        pages = WebSocketTransport.name in names or any(each.scheme.is_web for each in parsed)
        page = ChatPage(self.web_servers) if pages else None
        try:
            return [
                (
                    endpoint,
                    listening_transport(
                        endpoint, self.transport, origins=self.web_origins, page=page
                    ),
                )
                for endpoint in parsed
            ]
        except TransportError as error:
            raise SettingsError(f"listen: {error}") from None


RELOAD_WORDS: Final[Mapping[str, str]] = {
    OnReload.APPLIES: "applied by a reload",
    OnReload.STORE: "applied by a reload with memory: and sqlite:; servers that share a store must "
    "all have the same, so there it needs a restart",
    OnReload.RESTART: "needs a restart",
    "client": "no server's: each command reads it when it starts",
}
"""What becomes of a setting that is changed while a server runs, for a person."""
_PASSWORD: Final = re.compile(r"(?P<begin>//[^/?#@]*?:)[^/?#]*(?P<end>@)")
_PASSWORD_OPTION: Final = re.compile(r"(?P<begin>[?&](?:ssl)?password=)[^&]*", re.IGNORECASE)
MASK: Final = "***"
"""What is shown of a password."""


def masked(url: str) -> str:
    """Return a store's URL with its passwords masked, to be shown."""
    url = _PASSWORD.sub(rf"\g<begin>{MASK}\g<end>", url)
    return _PASSWORD_OPTION.sub(rf"\g<begin>{MASK}", url)


def refuse_exposure(settings: Settings, endpoints: Iterable[Endpoint]) -> None:
    """Refuse to speak in plain with other machines, unless the settings accept it.

    Raises:
        SettingsError: an endpoint is in plain beyond loopback, and ``insecure`` is off.
    """
    for endpoint in endpoints:
        if endpoint.scheme.is_tls or endpoint.is_local or settings.insecure:
            continue
        plain, sealed = _SEALED[endpoint.scheme]
        raise SettingsError(
            f"{endpoint} is {plain} beyond this machine: others on the way could read passwords "
            f"and messages; use {sealed}://, stay on 127.0.0.1 or a Unix socket, or accept the "
            "risk with --insecure"
        )


_SEALED: Final = {
    Scheme.TCP: ("plain TCP", Scheme.TLS),
    Scheme.WS: ("a plain WebSocket", Scheme.WSS),
}


_EXPECTED: Final = {
    "connect": "one or more endpoints",
    "drain_endpoints": "any number of endpoints",
    "listen": "one or more endpoints",
    "trusted_proxies": "addresses, networks and unix",
    "web_origins": "any number of origins",
    "web_servers": "any number of URLs of WebSocket",
}


def describe_expected(name: str) -> str:
    """Return what a setting's value must be, for the docs and for errors: ``a number, at least 0``.

    Args:
        name: the setting.
    """
    schema: dict[str, Any] = Settings.model_json_schema()["properties"][name]
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    kinds = {
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
    }
    if name in _EXPECTED:
        return _EXPECTED[name]
    forms = (schema, *schema.get("anyOf", ()))
    if any(each.get("format") == "path" for each in forms):
        return "the path of a file"
    words = [kinds.get(schema.get("type", ""), "text")]
    for key, phrase in (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    ):
        if key in schema:
            words.append(f"{phrase} {schema[key]:,}")
    return ", ".join(words)
