"""What systemd is told of a server that it has started: ready, reloading, stopping, and alive.

By the protocol of sd_notify(3): datagrams to the socket that ``NOTIFY_SOCKET`` names. Without that
variable nothing is told. It is taken out of the environment, so that no process that this one
starts is taken for the server. With ``WatchdogSec=`` in the unit, systemd ends a server that has
not said for so long that it is alive; it says so at least twice in that time, for as long as it is.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final

from twinline.transports.endpoints import Endpoint

log = logging.getLogger(__name__)

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG: Final = ("WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """Tells systemd; harmless where there is none. Each of its calls may come from any thread."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        """Take what systemd has left in the environment, before any other process is started.

        Args:
            environment: None for this process's.
        """
        found = os.environ if environment is None else environment
        self._address = _address(found.pop(_SOCKET, ""))
        microseconds, pid = (found.pop(name, "") for name in _WATCHDOG)
        ours = pid in ("", str(os.getpid()))
        self._watchdog = int(microseconds) / 1e6 if microseconds.isdecimal() and ours else 0.0
        self._status = ""

    def ready(self, status: str) -> None:
        """Say that connections are taken.

        Args:
            status: a line for a person, for ``systemctl status``.
        """
        self._status = status
        self._say(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Say that files are read again, until `reloaded` says that this is over."""
        self._say(
            f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"
        )

    def reloaded(self) -> None:
        """Say that what was to be read again was read, or was refused: the server goes on."""
        self._say(f"READY=1\nSTATUS={self._status}")

    def stopping(self) -> None:
        """Say that the server drains, and will end."""
        self._say("STOPPING=1\nSTATUS=drains")

    @contextmanager
    def watched(self, is_alive: Callable[[float], bool]) -> Iterator[None]:
        """Say that the server is alive while the block runs, for as long as it is.

        Args:
            is_alive: asked in a thread of its own, with the seconds that it may take to know.
        """
        if self._address is None or not self._watchdog:
            yield
            return
        ended = threading.Event()

        def run() -> None:
            while True:
                if is_alive(self._watchdog / 4):
                    self._say("WATCHDOG=1")
                else:
                    log.error("the server does not answer: systemd is not told that it is alive")
                if ended.wait(self._watchdog / 4):
                    return

        thread = threading.Thread(target=run, name="watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _say(self, text: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as said:
                # It would wait where nobody reads what was said before.
                said.setblocking(False)
                said.sendto(text.encode(), self._address)
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", text.partition("\n")[0], error)


def status_of(endpoints: Iterable[Endpoint]) -> str:
    """Return the line of a server that takes connections."""
    return f"listening on {', '.join(endpoint.place for endpoint in endpoints)}"


def _address(path: str) -> str | None:
    """Return where the socket is; one that begins with @ has no place in the file system."""
    if path.startswith("@"):
        return f"\0{path[1:]}"
    return path if path.startswith("/") else None
