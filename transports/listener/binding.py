"""Listening sockets: all addresses of a name under one port, and the file of a Unix socket.

A port may be shared with other processes (SO_REUSEPORT, socket(7)): the system then gives each
peer to one of them. It is only where all of them ask for it, and are of one user; so nobody else
can join, but any program of the same user can that asks by mistake, and is then given peers that
are meant for this one.

The file of a Unix socket outlives a server that was killed, and is replaced when nobody listens on
it. Between looking and replacing, and between binding and listening, another server could do the
same; so whoever makes or removes such a file holds a lock (flock(2)) on its directory meanwhile.
"""

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from twinline.core.addresses import is_loopback
from twinline.core.deadline import Deadline
from twinline.core.locks import may_block
from twinline.transports.endpoints import Endpoint, EndpointError, Scheme

log = logging.getLogger(__name__)

_BACKLOG: Final = 1024
_PORTS_TRIED: Final = 20
"""How often the system may choose a port of one address that is taken on another."""
_NOT_HERE: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
_START_LOCK_SECONDS: Final = 5.0
_END_LOCK_SECONDS: Final = 1.0
"""Shorter than at the start: a file that stays is a left-over, which the next server replaces."""
_LOCK_RETRY_SECONDS: Final = 0.01
_PRIVATE: Final = 0o600
_OF_GROUP: Final = 0o660


@dataclass(frozen=True, slots=True)
class BoundEndpoint:
    """An endpoint with the sockets that listen there.

    Attributes:
        endpoint: with the port that it got.
        sockets: listen, one for each address; they do not block.
        file: the device and inode of a Unix socket's file; None for TCP.
    """

    endpoint: Endpoint
    sockets: tuple[socket.socket, ...]
    file: tuple[int, int] | None = None

    def close(self) -> None:
        """Stop listening, and remove a Unix socket's file, unless it is another server's now."""
        try:
            if self.file is not None:
                with contextlib.suppress(OSError):
                    self._remove_file()
        finally:
            for listening in self.sockets:
                listening.close()

    def _remove_file(self) -> None:
        # While the socket is open, so that the inode cannot be the number of a newer file.
        path = Path(self.endpoint.path)
        with _locked_directory(path, _END_LOCK_SECONDS):
            if _identity(path) == self.file:
                path.unlink()


def listen(endpoint: Endpoint) -> BoundEndpoint:
    """Listen on an endpoint: on every address of its host, under one port.

    An address that is not this machine's, as ``::1`` where IPv6 is off, is left out with a warning,
    as long as there is another. A socket file that no process listens on is a left-over and is
    replaced.

    Raises:
        EndpointError: an address is in use, may not be bound, or none is this machine's.
    """
    may_block("binding")
    with _told(endpoint):
        if endpoint.scheme is Scheme.UNIX:
            return _listen_unix(endpoint)
        return _bind_tcp(endpoint, listens=True)


def listen_private(endpoint: Endpoint, *, group: int | None = None) -> BoundEndpoint:
    """Listen on a Unix socket that nobody else may connect to.

    Its file has mode 600, or 660 where it is a group's too, and never had another one.

    Args:
        endpoint: of a Unix socket.
        group: whose members may connect as well as this user and root; None: nobody.

    Raises:
        EndpointError: as for `listen`, or this user may not give the file to that group.
    """
    may_block("binding")
    with _told(endpoint):
        return _listen_unix(endpoint, private=True, group=group)


def reserve(endpoint: Endpoint) -> BoundEndpoint:
    """Take a port for processes that will share it, and be given no peer.

    Its sockets are bound and do not listen. While they are open the port stays the same, and no
    process of another user gets it.

    Args:
        endpoint: of TCP, with the option ``reuse_port``.

    Raises:
        EndpointError: as for `listen`.
    """
    may_block("binding")
    with _told(endpoint):
        return _bind_tcp(endpoint, listens=False)


@contextlib.contextmanager
def _told(endpoint: Endpoint) -> Iterator[None]:
    """Tell an error of the system as one of the endpoint."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise EndpointError(f"cannot listen on {endpoint}: {reason}") from error


# -- TCP ------------------------------------------------------------------------------------


def _bind_tcp(endpoint: Endpoint, *, listens: bool) -> BoundEndpoint:
    if endpoint.listening.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise EndpointError(f"cannot listen on {endpoint}: this system cannot share a port")
    found = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    foreign = [address[0] for _, address in addresses if not is_loopback(str(address[0]))]
    if endpoint.host == "localhost" and foreign:
        # What is allowed for localhost alone, as plain TCP is, relies on it (RFC 6761 section 6.3).
        raise EndpointError(
            f"cannot listen on {endpoint}: here localhost is {foreign[0]}, which others can reach"
        )
    tries = 1 if endpoint.port else _PORTS_TRIED
    while True:
        tries -= 1
        try:
            sockets = _bind_all(addresses, endpoint, listens=listens)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not tries:
                raise
        else:
            return BoundEndpoint(replace(endpoint, port=sockets[0].getsockname()[1]), sockets)


def _bind_all(
    addresses: Sequence[tuple[int, Any]], endpoint: Endpoint, *, listens: bool
) -> tuple[socket.socket, ...]:
    sockets: list[socket.socket] = []
    port = endpoint.port
    both_families = len(addresses) == 1
    failure: OSError | None = None
    with contextlib.ExitStack() as closed_on_error:
        for family, (host, _, *rest) in addresses:
            try:
                listening = _bind(
                    family,
                    (host, port, *rest),
                    both_families=both_families,
                    reuse_port=endpoint.listening.reuse_port,
                    listens=listens,
                )
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    if both_families:
                        raise
                    raise OSError(error.errno, f"{error.strerror} ({host})") from error
                failure = error
                log.warning("cannot listen on %s of %s: %s", host, endpoint, error.strerror)
                continue
            closed_on_error.callback(listening.close)
            sockets.append(listening)
            port = listening.getsockname()[1]
        if not sockets and failure is not None:
            raise failure
        closed_on_error.pop_all()
    return tuple(sockets)


def _bind(
    family: int,
    address: tuple[Any, ...],
    *,
    both_families: bool,
    reuse_port: bool,
    listens: bool,
) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # The same on every system: [::] alone takes IPv4 as well; beside an IPv4 address, of
            # the same name, it would be in the way of that.
            shared = both_families and socket.has_dualstack_ipv6()
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(not shared))
        listening.bind(address)
        return _listening(listening) if listens else listening
    except BaseException:
        listening.close()
        raise


def _listening(bound: socket.socket) -> socket.socket:
    bound.listen(_BACKLOG)
    # The accept loop must not block on a connection that was gone again.
    bound.setblocking(False)  # noqa: FBT003 - the name of the method says what it means
    return bound


# -- Unix sockets ---------------------------------------------------------------------------


def _listen_unix(
    endpoint: Endpoint, *, private: bool = False, group: int | None = None
) -> BoundEndpoint:
    path = Path(endpoint.path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if private:
            # Of the socket, which its file then has from the start (Linux: unix_bind).
            os.fchmod(listening.fileno(), _PRIVATE)
        with _locked_directory(path, _START_LOCK_SECONDS):
            try:
                listening.bind(endpoint.path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _is_left_over(path):
                    raise
                path.unlink()
                listening.bind(endpoint.path)
            file = _identity(path)
            bound = BoundEndpoint(endpoint, (listening,), file)
            try:
                if private:
                    _restrict(path, group)
                _listening(listening)
            except BaseException:
                with contextlib.suppress(OSError):
                    path.unlink()
                raise
            return bound
    except BaseException:
        listening.close()
        raise


def _restrict(path: Path, group: int | None) -> None:
    """Let nobody connect but this user, root and a group; before there is anybody to answer."""
    path.chmod(_PRIVATE)
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(_OF_GROUP)


@contextlib.contextmanager
def _locked_directory(path: Path, seconds: float) -> Iterator[None]:
    """Keep other servers from making or removing socket files beside this one meanwhile.

    Raises:
        OSError: the directory cannot be opened, or stays locked (TimeoutError).
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        deadline = Deadline.after(seconds)
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.passed:
                    raise TimeoutError(
                        errno.ETIMEDOUT, f"another process keeps {path.parent} locked"
                    ) from None
            time.sleep(_LOCK_RETRY_SECONDS)
        yield
    finally:
        os.close(directory)  # which unlocks it


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _is_left_over(path: Path) -> bool:
    """Return whether a path is a socket file that no process listens on."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            return False  # someone listens and has much to do
        return False
