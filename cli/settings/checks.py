"""What `twinline serve` looks at before it serves, and `twinline config check` without serving.

A check is a function of the settings, and of the endpoints that they name: it raises
`SettingsError` where a server must not run so, and yields a sentence for whatever its operator
should know. Both commands make the same ones, in the same words.
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from twinline.cli.console.errors import SettingsError
from twinline.cli.settings.model import Settings, refuse_exposure
from twinline.core.addresses import UNIX, AddressSet
from twinline.stores.registry import is_shared
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, EndpointError, Scheme
from twinline.transports.listener import check_proxies, server_tls
from twinline.transports.tls import TlsFiles, TlsFilesError, remarks
from twinline.transports.websocket import WebSocketTransport

Endpoints = Sequence[tuple[Endpoint, Transport]]
"""As `Settings.endpoints` returns them."""


def check_exposure(settings: Settings, endpoints: Endpoints) -> Iterable[str]:
    """Refuse what others could read on the way."""
    refuse_exposure(settings, (endpoint for endpoint, _ in endpoints))
    return ()


def check_certificates(settings: Settings, endpoints: Endpoints) -> Iterator[str]:
    """Read what TLS needs, and see whether clients will take it."""
    made_of: dict[TlsFiles, None] = {}
    for endpoint, transport in endpoints:
        try:
            tls = server_tls(endpoint, transport, settings)
        except TlsFilesError as error:
            raise SettingsError(str(error)) from None
        if tls is not None:
            made_of[tls.files] = None
    yield from remarks_on(made_of)


def check_proxied(settings: Settings, endpoints: Endpoints) -> Iterator[str]:
    """Refuse to have peers named by proxies of which none is trusted, and see who is trusted."""
    trusted = AddressSet(settings.trusted_proxies)
    for endpoint, transport in endpoints:
        try:
            check_proxies(endpoint, settings)
        except EndpointError as error:
            raise SettingsError(str(error)) from None
        if not endpoint.is_local or any(here in trusted for here in _here(endpoint)):
            continue
        first = _here(endpoint)[0]
        if endpoint.listening.proxy:
            yield f"nobody can connect to {endpoint.place}: trusted_proxies has no {first}"
        elif isinstance(transport, WebSocketTransport) and not endpoint.scheme.is_tls:
            # What ends TLS for a browser is a proxy.
            yield (
                f"if there is a proxy before {endpoint.place}, add {first} to trusted_proxies: "
                "limits by address do not hold for its peers, who count as this machine's"
            )
    for member in settings.trusted_proxies:
        if member.endswith("/0"):
            yield f"trusted_proxies has {member}: whoever connects can pose as any address"


def check_nodes(settings: Settings, endpoints: Endpoints) -> Iterable[str]:
    """Refuse to have several nodes where they could not share the endpoints or the store."""
    if settings.nodes == 1:
        return ()
    if not is_shared(settings.store):
        scheme = settings.store.partition(":")[0]
        raise SettingsError(
            f"nodes: {settings.nodes} nodes need a store that servers can share, and a store "
            f"{scheme}: is one server's alone"
        )
    for endpoint, _ in endpoints:
        if endpoint.scheme is Scheme.UNIX:
            raise SettingsError(
                f"nodes: {endpoint.place} is a Unix socket, and belongs to one process: nodes can "
                "only share a port of TCP"
            )
    if not hasattr(socket, "SO_REUSEPORT"):
        raise SettingsError("nodes: this system cannot share a port between processes")
    return ()


def _here(endpoint: Endpoint) -> tuple[str, ...]:
    """Return where a proxy on this machine connects from to an endpoint that only it reaches."""
    if endpoint.scheme is Scheme.UNIX:
        return (UNIX,)
    return ("127.0.0.1", "::1") if endpoint.host == "localhost" else (endpoint.host,)


CHECKS: Final[tuple[Callable[[Settings, Endpoints], Iterable[str]], ...]] = (
    check_exposure,
    check_certificates,
    check_proxied,
    check_nodes,
)


def check_settings(settings: Settings, endpoints: Endpoints) -> list[str]:
    """Make every check, and return what the operator should know.

    Args:
        settings: all of them.
        endpoints: those that they name; made by the caller, who may serve them, for making them
            reads the page's files.

    Raises:
        SettingsError: a server must not run so.
    """
    return [warning for check in CHECKS for warning in check(settings, endpoints)]


def remarks_on(made_of: Iterable[TlsFiles]) -> list[str]:
    """Return what the operator should know of the files of TLS, each thing once."""
    found: dict[str, None] = {}
    for files in made_of:
        try:
            found |= dict.fromkeys(remarks(files))
        except TlsFilesError as error:
            found[str(error)] = None
    return list(found)
