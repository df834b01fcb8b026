"""What `twinline serve` looks at before it serves, and `twinline config check` without serving.

A check is a function of the settings, and of the endpoints that they name: it raises
`SettingsError` where a server must not run so, and yields a sentence for whatever its operator
should know. Both commands make the same ones, in the same words.
"""

import grp
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from twinline.cli.console.errors import SettingsError
from twinline.cli.settings.model import MASK, Settings, refuse_exposure
from twinline.cli.settings.sources import unknown_variables
from twinline.core.addresses import UNIX, AddressSet
from twinline.core.protocol import MAX_INT, MAX_REPLY_BYTES, Send
from twinline.stores.registry import UnknownStore, check_store, is_shared
from twinline.stores.sqlite import StoreNotOpened
from twinline.transports.binary import BinaryTransport
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, EndpointError, Scheme
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.listener import check_proxies, server_tls
from twinline.transports.tls import TlsFiles, TlsFilesError, remarks
from twinline.transports.websocket import WebSocketTransport

_LAST_PORT: Final = 65_535
Endpoints = Sequence[tuple[Endpoint, Transport]]
"""As `Settings.endpoints` returns them."""


def check_variables(settings: Settings, endpoints: Endpoints) -> Iterator[str]:  # noqa: ARG001
    """See what the environment has that looks like a setting."""
    yield from unknown_variables()


def check_twice(settings: Settings, endpoints: Endpoints) -> Iterable[str]:  # noqa: ARG001
    """Refuse one port, or one file of a Unix socket, for two endpoints."""
    taken: list[tuple[Endpoint, frozenset[str]]] = []
    for endpoint, _ in endpoints:
        addresses = _addresses(endpoint)
        for other, theirs in taken:
            if endpoint.port == other.port and addresses & theirs:
                named = (
                    f"{endpoint.place} twice"
                    if endpoint.place == other.place
                    else f"{other.place} and {endpoint.place}, which are the same port"
                )
                raise SettingsError(
                    f"listen: it has {named}; transport=auto serves all transports at one endpoint"
                )
        if endpoint.scheme is Scheme.UNIX or endpoint.port:  # else the system chooses two ports
            taken.append((endpoint, addresses))
    return ()


_IPV4, _IPV6 = "0.0.0.0", "::"  # noqa: S104 - compared, not bound


def _addresses(endpoint: Endpoint) -> frozenset[str]:
    """Return what an endpoint takes: addresses, or the path of a socket."""
    if endpoint.scheme is Scheme.UNIX:
        return frozenset({os.path.realpath(endpoint.path)})
    host = endpoint.host.lower()
    if host == "localhost":
        return frozenset({"127.0.0.1", "::1", f"any {_IPV4}", f"any {_IPV6}"})
    if host == _IPV6:  # it takes IPv4 as well
        return frozenset({_IPV4, _IPV6, f"any {_IPV4}", f"any {_IPV6}"})
    return frozenset({host, f"any {_IPV6}" if ":" in host else f"any {_IPV4}"})


def check_sockets(settings: Settings, endpoints: Endpoints) -> Iterable[str]:  # noqa: ARG001
    """Refuse the path of a Unix socket where none can be."""
    for endpoint, _ in endpoints:
        if endpoint.scheme is not Scheme.UNIX:
            continue
        _check_socket(f"listen: {endpoint.place}", Path(endpoint.path))
    return ()


def _check_socket(named: str, path: Path) -> None:
    """Refuse a path where no Unix socket can be.

    Args:
        named: what the refusal begins with.
        path: of the socket.
    """
    # Releases of Python differ in which errors `Path.is_dir` and its like pass over: none of them
    # is here.
    try:
        folder = path.parent.stat()
    except (FileNotFoundError, NotADirectoryError):
        folder = None
    except OSError as error:
        raise SettingsError(f"{named}: {path.parent}: {error.strerror}") from None
    if folder is None or not stat.S_ISDIR(folder.st_mode):
        raise SettingsError(f"{named}: there is no folder {path.parent}; make it first")
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SettingsError(f"{named}: {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise SettingsError(f"{named}: what is there is no socket")


def check_frames(settings: Settings, endpoints: Endpoints) -> Iterable[str]:  # noqa: ARG001
    """Refuse frames that are too short for the longest message."""
    longest = longest_send(settings.body_bytes)
    if longest > settings.frame_bytes:
        raise SettingsError(
            f"frame_bytes: a message of {settings.body_bytes:,} bytes, the most that body_bytes "
            f"allows, takes a frame of up to {longest:,}, and frame_bytes is "
            f"{settings.frame_bytes:,}"
        )
    return ()


def longest_send(body_bytes: int) -> int:
    """Return how long the longest request to send so many bytes is, in a frame of any transport.

    What JSON has to escape takes more: a quotation mark twice, a control character six times.
    """
    request = Send(to="x" * 32, body="x" * body_bytes, send_id="x" * 64)
    frames = []
    for spoken in (JsonlTransport(), BinaryTransport()):
        codec = spoken.client_codec(MAX_REPLY_BYTES)
        codec.send(MAX_INT, request)
        frames.append(len(codec.data_to_send()))
    return max(frames)


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


def check_admin(settings: Settings, endpoints: Endpoints) -> Iterator[str]:
    """Refuse an admin socket that cannot be, and see whether a group is meant for none."""
    if settings.admin_group is not None:
        try:
            grp.getgrnam(settings.admin_group)
        except KeyError:
            raise SettingsError(
                f"admin_group: there is no group {settings.admin_group} on this machine"
            ) from None
    if settings.admin_listen is None:
        if settings.admin_group is not None:
            yield "admin_group has no effect: there is no admin_listen"
        return
    if not hasattr(socket, "SO_PEERCRED"):
        raise SettingsError("admin_listen: this system does not say who connects to a Unix socket")
    try:
        last = own_place(settings.admin_listen, settings.nodes - 1 if settings.nodes > 1 else None)
    except EndpointError as error:
        raise SettingsError(f"admin_listen: {error}") from None
    _check_socket("admin_listen", Path(last.path))
    taken = {last.path, Endpoint.parse(settings.admin_listen).path}
    for endpoint, _ in endpoints:
        if endpoint.scheme is Scheme.UNIX and endpoint.path in taken:
            raise SettingsError(f"admin_listen: {endpoint.place} is where clients connect")


def own_place(admin_listen: str, index: int | None) -> Endpoint:
    """Return where one server's admin socket is.

    Each of several nodes listens at the path that is set with its number behind a dot:
    ``/run/twinline/admin.0``, ``/run/twinline/admin.1``.

    Args:
        admin_listen: the setting.
        index: of one of several nodes; None for a server that is alone.

    Raises:
        EndpointError: the path is too long with its number.
    """
    path = Endpoint.parse(admin_listen).path
    return Endpoint(Scheme.UNIX, path=path if index is None else f"{path}.{index}")


def check_metrics(settings: Settings, endpoints: Endpoints) -> Iterable[str]:
    """Refuse to show what others could read, or where it cannot be shown."""
    if settings.metrics_listen is None:
        return ()
    if find_spec("prometheus_client") is None:
        raise SettingsError(
            "metrics_listen: what writes metrics is not installed: pip install 'twinline[metrics]'"
        )
    place = Endpoint.parse(settings.metrics_listen)
    if not place.is_local and not settings.metrics_insecure:
        raise SettingsError(
            f"metrics_listen: {place} is beyond this machine: whoever connects there can read how "
            "this server fares; stay on 127.0.0.1, or accept that with --metrics-insecure"
        )
    last = place.port + settings.nodes - 1
    if last > _LAST_PORT:
        raise SettingsError(f"metrics_listen: {settings.nodes} nodes take ports up to {last:,}")
    for endpoint, _ in endpoints:
        if place.port and place.port <= endpoint.port <= last:
            raise SettingsError(
                f"metrics_listen: {endpoint.place} is where peers connect; metrics have a port of "
                "their own"
            )
    return ()


def _here(endpoint: Endpoint) -> tuple[str, ...]:
    """Return where a proxy on this machine connects from to an endpoint that only it reaches."""
    if endpoint.scheme is Scheme.UNIX:
        return (UNIX,)
    return ("127.0.0.1", "::1") if endpoint.host == "localhost" else (endpoint.host,)


CHECKS: Final[tuple[Callable[[Settings, Endpoints], Iterable[str]], ...]] = (
    check_variables,
    check_twice,
    check_sockets,
    check_frames,
    check_exposure,
    check_certificates,
    check_proxied,
    check_nodes,
    check_admin,
    check_metrics,
)


def check_settings(
    settings: Settings, endpoints: Endpoints, *, store_in_use: str | None = None
) -> list[str]:
    """Make every check, and return what the operator should know.

    Args:
        settings: all of them.
        endpoints: those that they name; made by the caller, who may serve them, for making them
            reads the page's files.
        store_in_use: the URL of the store that this process has open, and which is not looked at;
            None: it has none.

    Raises:
        SettingsError: a server must not run so.
    """
    if MASK in settings.store:
        raise SettingsError(
            f"store: {MASK} is what is shown of a password, and none; write the password, or leave "
            "it to the variable TWINLINE_STORE"
        )
    try:
        check_store(settings.store, in_use=store_in_use)
    except (UnknownStore, StoreNotOpened) as error:
        raise SettingsError(f"store: {error}") from None
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
