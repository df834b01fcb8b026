"""The settings of the listener, as a typed model that any front end can fill in."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from twinline.core.addresses import AddressSet
from twinline.core.deadline import Seconds
from twinline.core.reloading import RELOADED
from twinline.transports.endpoints import Endpoint, EndpointError

FilePath = Annotated[str, Field(min_length=1, json_schema_extra={"format": "path"})]
"""The path of a file, which is read when it is used."""


class InForce:
    """The settings of a listener as they are now, for all of its connections.

    Attributes:
        settings: replaced as a whole, by any thread.
    """

    __slots__ = ("settings",)

    def __init__(self, settings: "ListenerSettings") -> None:
        self.settings = settings


class ListenerSettings(BaseModel):
    """How long the listener waits for a peer, and how many peers it takes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    login_seconds: Seconds = Field(
        default=10,
        gt=0,
        json_schema_extra=RELOADED,
        description="from connecting to being logged in; then it is cut",
    )
    frame_seconds: Seconds = Field(
        default=10,
        gt=0,
        json_schema_extra=RELOADED,
        description="from a frame's first byte to its last",
    )
    write_seconds: Seconds = Field(
        default=10,
        gt=0,
        json_schema_extra=RELOADED,
        description="for a peer to take what is written to it",
    )
    drain_seconds: Seconds = Field(
        default=4,
        ge=0,
        json_schema_extra=RELOADED,
        description="for replies in flight to finish when the server stops",
    )
    drain_spread_seconds: Seconds = Field(
        default=0,
        ge=0,
        json_schema_extra=RELOADED,
        description="over how long connections are told that the server stops, one after the "
        "other, so that their clients do not all go to other servers at once",
    )
    drain_endpoints: tuple[str, ...] = Field(
        default=(),
        max_length=16,
        json_schema_extra=RELOADED,
        description="an endpoint of another server with the same store, where clients are sent "
        "when this one stops",
    )
    connections: int = Field(
        default=10_000,
        ge=1,
        json_schema_extra=RELOADED,
        description="connections in all, each with a descriptor, and one more if it waits for mail",
    )
    connections_per_address: int = Field(
        default=1_024, ge=1, json_schema_extra=RELOADED, description="connections from one address"
    )
    limit_local_connections: bool = Field(
        default=False,
        json_schema_extra=RELOADED,
        description="count loopback addresses and Unix sockets in connections_per_address too",
    )
    loop_workers: int = Field(
        default=64,
        ge=1,
        le=1024,
        json_schema_extra=RELOADED,
        description="threads of the event loop's listener for requests that may block, and as "
        "many for those that take long: hashes, and listings",
    )
    loop_warn_seconds: Seconds = Field(
        default=0,
        ge=0,
        json_schema_extra=RELOADED,
        description="log what holds the event loop for longer, 0.05 for instance; 0: nothing",
    )
    tls_certificate: FilePath | None = Field(
        default=None,
        json_schema_extra=RELOADED,
        description="the file with the server's certificate, and behind it its chain, as PEM, for "
        "`tls://` and `wss://`",
    )
    tls_key: FilePath | None = Field(
        default=None,
        json_schema_extra=RELOADED,
        description="the file with the certificate's key; unset: in the certificate's file",
    )
    tls_client_ca: FilePath | None = Field(
        default=None,
        json_schema_extra=RELOADED,
        description="the file with those who sign clients' certificates; unset: clients are not "
        "asked for any",
    )
    tls_crl: FilePath | None = Field(
        default=None,
        json_schema_extra=RELOADED,
        description="the file with the revocation lists of those, as PEM or DER: whose "
        "certificate is on one is refused, and the sessions end that it opened",
    )
    tls_minimum: Literal["1.2", "1.3"] = Field(
        default="1.2",
        json_schema_extra=RELOADED,
        description="the lowest version of TLS that is spoken",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(),
        json_schema_extra=RELOADED,
        description="an address or a network, as `10.0.0.0/8`, of proxies that are believed where "
        "their peers come from; `unix` for those on Unix sockets",
    )

    @field_validator("trusted_proxies", "drain_endpoints", mode="before")
    @classmethod
    def _split_places(cls, value: object) -> object:
        # One variable holds several, as it does for endpoints.
        return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value

    @field_validator("drain_endpoints")
    @classmethod
    def _connectable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                Endpoint.parse(text).check_connectable()
            except EndpointError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _known_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        AddressSet(value)
        return value
