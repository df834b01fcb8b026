"""The router that the Python peers share: a name's watcher, or else what waits for it.

Each name has a lock of its own: with one for all, 64 senders stood in each other's way.
"""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_Message = TypeVar("_Message")


class _Box(Generic[_Message]):
    """What a name has: either a watcher, or messages that wait for one."""

    __slots__ = ("deliver", "lock", "waiting")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.deliver: Callable[[_Message], object] | None = None  # guarded by lock
        self.waiting: list[_Message] = []  # guarded by lock


class Router(Generic[_Message]):
    """Passes each message to its recipient's watcher, and keeps it where there is none."""

    def __init__(self) -> None:
        self._boxes: dict[str, _Box[_Message]] = {}

    def send(self, to: str, message: _Message) -> None:
        """Route a message; when this returns, it is on its way or kept."""
        box = self._box(to)
        with box.lock:
            deliver = box.deliver
            if deliver is None:
                box.waiting.append(message)
                return
        deliver(message)

    def watch(self, name: str, deliver: Callable[[_Message], object]) -> None:
        """Deliver what waits, and from now on whatever comes."""
        box = self._box(name)
        with box.lock:
            box.deliver = deliver
            waiting, box.waiting = box.waiting, []
        for message in waiting:
            deliver(message)

    def unwatch(self, name: str, deliver: Callable[[_Message], object]) -> None:
        """Keep what comes from now on, unless somebody else has begun to watch."""
        box = self._box(name)
        with box.lock:
            if box.deliver == deliver:
                box.deliver = None

    def _box(self, name: str) -> _Box[_Message]:
        box = self._boxes.get(name)
        return self._boxes.setdefault(name, _Box()) if box is None else box
