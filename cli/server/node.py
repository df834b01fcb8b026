"""One node of several: a process that `twinline serve --nodes` starts, and that ends with it.

It is started by ``python -m twinline.cli.server.node`` with its end of a `Channel` as standard
input, which brings its settings and, later, what its parent wants of it. Where that ends without a
word the parent was killed: the node drains, as it does when it is told to.
"""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from twinline.cli.console.errors import SettingsError, exit_code_of, sentence
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import prepare_streams
from twinline.cli.server.channel import Channel, Said
from twinline.cli.server.place import Place
from twinline.cli.server.serve import run_server
from twinline.cli.server.settings_in_force import Source
from twinline.cli.settings.model import Settings
from twinline.core.locks import new_lock
from twinline.transports.endpoints import Endpoint

log = logging.getLogger(__name__)


class _FromParent(Source):
    """The settings of a node: its parent reads them, checks them and passes them on."""

    name = "the settings file"
    checks = False  # they were checked
    tells = False  # until it has said something of a file

    def __init__(self, settings: Settings, channel: Channel) -> None:
        self._channel = channel
        # Both replaced by the thread that hears the parent.
        self._settings = settings
        self._refusal: str | None = None

    def files(self) -> Iterable[str]:
        """See `Source`: none of its own."""
        return ()

    def read(self) -> Settings:
        """See `Source`."""
        refusal = self._refusal
        if refusal is not None:
            raise SettingsError(refusal)
        return self._settings

    def ask(self, wake: Callable[[], None]) -> None:  # noqa: ARG002 - what the parent says wakes
        """See `Source`: the parent is asked."""
        self._channel.send(reload=True)

    def take(self, said: Said) -> None:
        """Take what the parent says of them."""
        self._refusal = said["refused"]
        self.tells = said["settings"] is not None
        if said["settings"] is not None:
            self._settings = Settings(**said["settings"])


class _Orders:
    """Does what the parent says, in a thread of its own, from the first moment of the process.

    Attributes:
        source: the settings, as the parent passes them on.
    """

    def __init__(self, channel: Channel, rest: list[Said], settings: Settings) -> None:
        self.source = _FromParent(settings, channel)
        self._channel = channel
        self._rest = rest
        self._lock = new_lock("orders")
        # Guarded by _lock; None: it does not serve yet, or no more.
        self._stop: Callable[[], None] | None = None
        self._reload: Callable[[], None] | None = None
        self._reloads = False  # whether it is to read again what it read before it served
        self._ends = False  # whether it was told to end
        threading.Thread(target=self._run, name="orders", daemon=True).start()

    @contextmanager
    def obeyed(self, stop: Callable[[], None], reload: Callable[[], None]) -> Iterator[None]:
        """Carry orders out by these while the block runs."""
        with self._lock:
            self._stop, self._reload = stop, reload
            reloads = self._reloads
        if reloads:
            reload()
        try:
            yield
        finally:
            with self._lock:
                self._stop = self._reload = None
                self._ends = True  # it is about to, and needs no order

    def _run(self) -> None:
        said: list[Said] | None = self._rest
        while said is not None:
            for each in said:
                if "reload" in each:
                    self.source.take(each["reload"])
                    self._order_reload()
                if "stop" in each:
                    self._order_stop()
            said = self._channel.receive()
        if not self._ends:
            log.warning("the parent of this node has ended, and so it drains")
        self._order_stop()

    def _order_reload(self) -> None:
        with self._lock:
            reload = self._reload
            self._reloads = True
        if reload is not None:
            reload()

    def _order_stop(self) -> None:
        with self._lock:
            stop, ends, self._ends = self._stop, self._ends, True
        if stop is not None:
            stop()
        elif not ends:
            # It has served nobody yet: there is nothing to drain, and whatever it waits for, a
            # database for instance, need not be waited for.
            os._exit(ExitCode.OK)


def main() -> int:
    """Serve as the parent says, and return the exit code."""
    # Its parent has held it back until now.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    prepare_streams()
    channel = Channel(socket.socket(fileno=os.dup(sys.stdin.fileno())))
    said: list[Said] | None = []
    while not said:
        said = channel.receive()
        if said is None:
            return ExitCode.OK  # nobody wants it any more
    start = said[0]["start"]
    settings = Settings(**start["settings"])
    orders = _Orders(channel, said[1:], settings)

    def tell_ready(_endpoints: Sequence[Endpoint], _settings: Settings, durability: str) -> None:
        channel.send(ready={"durability": durability})

    try:
        run_server(
            settings,
            tell_ready,
            place=Place(**start["place"]),
            orders=orders.obeyed,
            source=orders.source,
            drain=lambda: channel.send(drain=True),
        )
    except Exception as error:  # noqa: BLE001 - the parent tells it, whatever it is
        code = exit_code_of(error)
        channel.send(failed={"why": sentence(error), "exit_code": int(code)})
        return code
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
