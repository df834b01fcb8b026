"""Transports by name: the built-in ones, and those that others installed.

A package adds a transport by an entry point in the group ``twinline.transports``: its name is
the transport's, its value a `Transport` subclass that needs no arguments, or an instance.
"""

import difflib
import logging
from collections.abc import Iterable
from importlib.metadata import EntryPoint
from typing import Any, Final

from twinline.core.plugins import entry_points
from twinline.transports.auto import AutoTransport
from twinline.transports.binary import BinaryTransport
from twinline.transports.contract import LocalProtocolError, Transport, TransportError
from twinline.transports.endpoints import Endpoint
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.websocket import Pages, WebSocketTransport

ENTRY_POINTS: Final = "twinline.transports"
"""The group of entry points that is read."""
AUTO: Final = AutoTransport.name
"""The name under which all transports are served on one port."""
_BUILT_IN: Final[dict[str, type[Transport]]] = {
    JsonlTransport.name: JsonlTransport,
    BinaryTransport.name: BinaryTransport,
    WebSocketTransport.name: WebSocketTransport,
}
_log = logging.getLogger(__name__)


class UnknownTransport(TransportError):
    """There is no transport of that name; the message names those that there are."""


class BrokenTransport(TransportError):
    """A transport was installed by another package and cannot be used."""


def transport_names() -> list[str]:
    """Return the names of all transports, sorted; none is imported for it."""
    return sorted({AUTO, *_BUILT_IN, *_installed()})


def transport(name: str) -> Transport:
    """Return a transport by its name.

    A built-in name cannot be taken over by another package.

    Raises:
        UnknownTransport: there is none of that name.
        BrokenTransport: it comes from another package and cannot be loaded.
    """
    if name == AUTO:
        return AutoTransport(_all_but_auto())
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    entry_point = _installed().get(name)
    if entry_point is None:
        names = transport_names()
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UnknownTransport(f"there is no transport {name!r}; {hint}known: {', '.join(names)}")
    return _load(entry_point)


def listening_transport(
    endpoint: Endpoint, name: str, *, origins: Iterable[str] = (), page: Pages | None = None
) -> Transport:
    """Return what a server speaks at an endpoint.

    Args:
        endpoint: where it listens. One of WebSocket speaks that, and its transport says what
            travels in it.
        name: the transport of an endpoint that names none.
        origins: the sites besides the server's own whose pages may connect by WebSocket.
        page: what a browser is served where WebSocket is spoken, and nothing else.

    Raises:
        UnknownTransport: there is none of that name, or it does not travel over WebSocket.
        BrokenTransport: as `transport`.
    """
    name = endpoint.transport or name
    if endpoint.scheme.is_web:
        return _over_websocket(_inner(name), origins=origins, page=page)
    if name == WebSocketTransport.name:
        return WebSocketTransport(origins=origins, page=page)
    if name == AUTO:
        return AutoTransport(_all_but_auto(WebSocketTransport(origins=origins)))
    return transport(name)


def connecting_transport(endpoint: Endpoint, spoken: Transport | str | None) -> Transport:
    """Return what a client speaks at an endpoint.

    Args:
        endpoint: where it connects. One of WebSocket speaks that, and asks for its path.
        spoken: the transport, or the one that travels in WebSocket, or its name; None where the
            endpoint says it, or JSON-lines.

    Raises:
        UnknownTransport: there is none of that name, or it does not travel over WebSocket.
        BrokenTransport: as `transport`.
    """
    if spoken is None:
        spoken = endpoint.transport or JsonlTransport.name
    if isinstance(spoken, WebSocketTransport):
        return spoken
    if endpoint.scheme.is_web:
        inner = _inner(spoken) if isinstance(spoken, str) else [spoken]
        return _over_websocket(inner, host=endpoint.authority, path=endpoint.path or "/")
    if spoken == WebSocketTransport.name and endpoint.host:
        return WebSocketTransport(host=endpoint.authority)
    return transport(spoken) if isinstance(spoken, str) else spoken


def _inner(name: str) -> list[Transport] | None:
    """Return what a name means that stands at an endpoint of WebSocket: one, or all of them."""
    return None if name in (AUTO, WebSocketTransport.name) else [transport(name)]


def _over_websocket(inner: list[Transport] | None, **options: Any) -> WebSocketTransport:
    try:
        return WebSocketTransport(inner, **options)
    except LocalProtocolError as error:
        raise UnknownTransport(str(error)) from None


def _installed() -> dict[str, EntryPoint]:
    return {entry_point.name: entry_point for entry_point in entry_points(group=ENTRY_POINTS)}


def _load(entry_point: EntryPoint) -> Transport:
    try:
        loaded = entry_point.load()
        made = loaded() if isinstance(loaded, type) else loaded
    except Exception as error:
        raise BrokenTransport(
            f"the transport {entry_point.name!r} ({entry_point.value}) cannot be loaded: {error}"
        ) from error
    if not isinstance(made, Transport):
        raise BrokenTransport(
            f"the transport {entry_point.name!r} ({entry_point.value}) is no Transport"
        )
    return made


def _all_but_auto(websocket: WebSocketTransport | None = None) -> list[Transport]:
    """Return what is served on one port.

    Args:
        websocket: with its settings.
    """
    found: list[Transport] = [
        JsonlTransport(),
        BinaryTransport(),
        websocket or WebSocketTransport(),
    ]
    for name, entry_point in sorted(_installed().items()):
        if name == AUTO or name in _BUILT_IN:
            continue
        try:
            found.append(_load(entry_point))
        except BrokenTransport as error:
            # One broken package must not keep a server from serving the rest.
            _log.warning("%s; it is not served", error)
    return found
