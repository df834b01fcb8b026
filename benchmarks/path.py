"""Counts what lies on a server's path: the calls and the rooms of a send and of a delivery.

    python benchmarks/path.py                                # some seconds
    python benchmarks/path.py --listener loop                # the event loop's path
    python benchmarks/path.py --rooms                        # and which rooms these are
    ../old/bin/python benchmarks/path.py --blocked           # an installation that has no streams

A real listener runs in this process, with the store in memory, and raw peers ask it one thing at a
time over sockets. Counted is what the server's threads enter: for a send, from its bytes to those
of its reply and back to waiting; for a delivery, that send, the message to the watcher, and the
watch that acknowledges it. Calls are the Python functions that are entered, all of them and
twinline's own; functions and rooms are the distinct ones of these, a room being a file. The
figures are what most of the repetitions had, for now and then two threads take another turn.
"""

# A script: it prints.
# ruff: noqa: T201

import argparse
import json
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import mode
from time import monotonic
from types import FrameType
from typing import Any, Final

from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST

from twinline.core.protocol import CreateAccount, Reply, Request, Send, SessionReply, Watch
from twinline.core.service import ChatService
from twinline.stores.memory import MemoryStore
from twinline.transports import registry
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import LoopListener, ThreadedListener

BODY: Final = "See you at the station at half past seven, platform 4."
LISTENERS: Final = {"threads": ThreadedListener, "loop": LoopListener}
FIGURES: Final = ("calls", "calls of twinline", "functions of twinline", "rooms")
REPEATED: Final = 25
_WARM_UP: Final = 5
_QUIET_SECONDS: Final = 0.01
_PATIENCE_SECONDS: Final = 10.0
_REPLY_BYTES: Final = 1 << 20

_HOME: Final = Path(registry.__file__).parents[1]


class Recorder:
    """What the server's threads enter."""

    def __init__(self) -> None:
        self._entered: list[tuple[str, str]] = []  # appended to by several threads

    def profile(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Note a call; for `threading.setprofile`."""
        if event == "call":
            self._entered.append((frame.f_code.co_filename, frame.f_code.co_qualname))

    def taken(self) -> list[tuple[str, str]]:
        """Return the file and the name of each call since the last time, when there are no more."""
        deadline, seen = monotonic() + _PATIENCE_SECONDS, -1
        pause = threading.Event()
        while seen != len(self._entered):
            seen = len(self._entered)
            if monotonic() > deadline:
                raise SystemExit("the server does not come to rest")
            pause.wait(_QUIET_SECONDS)
        entered, self._entered = self._entered, []
        return entered


class Peer:
    """A raw connection to the server."""

    def __init__(self, endpoint: Endpoint, wire: Transport) -> None:
        self._codec = wire.client_codec(_REPLY_BYTES)
        self._socket = socket.create_connection((endpoint.host, endpoint.port), _PATIENCE_SECONDS)

    def say(self, request: Request) -> None:
        """Send a request, and leave its reply for later."""
        self._codec.send(1, request)
        self._socket.sendall(self._codec.data_to_send())

    def hear(self) -> Reply:
        """Return the next reply."""
        while (event := self._codec.next_event()) is None:
            data = self._socket.recv(1 << 16)
            if not data:
                raise SystemExit("the server has ended a connection")
            self._codec.receive_data(data)
        return event.reply

    def enter(self, name: str) -> None:
        """Create an account."""
        self.say(CreateAccount(username=name, password="correct horse"))  # noqa: S106
        if not isinstance(self.hear(), SessionReply):
            raise SystemExit(f"there is no account {name}")

    def close(self) -> None:
        """Leave."""
        self._socket.close()


@contextmanager
def listening(recorder: Recorder, listener_name: str) -> Iterator[Endpoint]:
    """Serve while the block runs, with threads whose calls are recorded."""
    service = ChatService(MemoryStore(), hasher=PasswordHasher.from_parameters(CHEAPEST))
    listener = LISTENERS[listener_name](
        service, [(Endpoint.parse("tcp://127.0.0.1:0"), registry.transport("auto"))]
    )
    threading.setprofile(recorder.profile)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield listener.endpoints[0]
    finally:
        listener.stop()
        thread.join()
        threading.setprofile(None)


def counted(name: str, listener: str, *, blocked: bool) -> dict[str, list[list[tuple[str, str]]]]:
    """Return the calls of every repetition of a send and of a delivery, in one transport.

    Args:
        name: of the transport.
        listener: ``threads`` or ``loop``.
        blocked: whether the watcher watches by blocked watches, not by a stream.
    """
    wire, recorder = registry.transport(name), Recorder()
    found: dict[str, list[list[tuple[str, str]]]] = {}
    how: dict[str, Any] = {} if blocked else {"window": 256, "renew": True}
    with ExitStack() as stack:
        endpoint = stack.enter_context(listening(recorder, listener))
        ann, bob, eve = (stack.enter_context(closing(Peer(endpoint, wire))) for _ in range(3))
        for peer, username in ((ann, "ann"), (bob, "bob"), (eve, "eve")):
            peer.enter(username)
        number = 0

        def send(to: str) -> None:
            nonlocal number
            number += 1
            ann.say(Send(to=to, body=BODY, send_id=f"path-id0{number:06x}"))
            ann.hear()

        def deliver() -> None:
            send("bob")
            while not (messages := getattr(bob.hear(), "messages", ())):
                pass  # the end of the stream that was renewed
            seq = messages[-1].seq
            bob.say(Watch(after=seq, ack=seq, wait=60, **how))

        def repeated(operation: Callable[[], None]) -> list[list[tuple[str, str]]]:
            rows = []
            for _ in range(_WARM_UP + REPEATED):
                operation()
                rows.append(recorder.taken())
            return rows[_WARM_UP:]

        found["a send"] = repeated(lambda: send("eve"))
        bob.say(Watch(after=0, ack=0, wait=60, **how))
        recorder.taken()
        found["a delivery"] = repeated(deliver)
    return found


def figures(calls: list[tuple[str, str]]) -> tuple[int, ...]:
    """Return `FIGURES` of one repetition."""
    ours = [call for call in calls if Path(call[0]).is_relative_to(_HOME)]
    return len(calls), len(ours), len(set(ours)), len({path for path, _ in ours})


def rooms(rows: list[list[tuple[str, str]]]) -> list[str]:
    """Return a line for each room, with how many calls it has in the usual repetition."""
    usual = mode(figures(row) for row in rows)
    row = next(row for row in rows if figures(row) == usual)
    entered = Counter(
        str(Path(path).relative_to(_HOME)) for path, _ in row if Path(path).is_relative_to(_HOME)
    )
    return [f"      {calls:3} {room}" for room, calls in entered.most_common()]


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--listener", choices=list(LISTENERS), default="threads", help="[default: threads]"
    )
    parser.add_argument("--blocked", action="store_true", help="watch by blocked watches")
    parser.add_argument("--rooms", action="store_true", help="list the rooms")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args()
    said: dict[str, dict[str, dict[str, int]]] = {}
    for name in ("jsonl", "binary"):
        for operation, rows in counted(name, options.listener, blocked=options.blocked).items():
            usual = mode(figures(row) for row in rows)
            named = dict(zip(FIGURES, usual, strict=True))
            said.setdefault(name, {})[operation] = named
            if not options.json:
                words = ", ".join(f"{value} {figure}" for figure, value in named.items())
                print(f"{name:7} {operation:11} {words}")
                if options.rooms:
                    print(*rooms(rows), sep="\n")
    if options.json:
        json.dump(said, sys.stdout)


if __name__ == "__main__":
    main()
