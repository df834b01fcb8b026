"""What the foot of the prompt says: who and where, whether it is online, what is unread."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final

from twinline.cli.chat.theme import marks
from twinline.cli.chat.unread import Unread
from twinline.cli.console.text import visible
from twinline.transports.client import State, StateKind

_SLOW_SECONDS: Final = 0.5
"""How long a line may be under way before the toolbar says so."""


class Delivered:
    """Knows of each account the last message that was sent to it, and the last that it has acked.

    One thread sends, another hears of receipts, so each call is a single step on a dictionary.
    """

    def __init__(self) -> None:
        self._sent: dict[str, int] = {}
        self._acked: dict[str, int] = {}

    def sent(self, to: str, n: int) -> None:
        """Note a message that is stored."""
        self._sent[to] = max(n, self._sent.get(to, 0))

    def acked(self, by: str, n: int) -> None:
        """Note a receipt."""
        self._acked[by] = max(n, self._acked.get(by, 0))

    def begin_anew(self) -> None:
        """Forget all: the mailbox is another one."""
        self._sent, self._acked = {}, {}

    def of(self, name: str | None) -> bool | None:
        """Return whether the last message to an account has come; None if none was sent."""
        if name is None or name not in self._sent:
            return None
        return self._sent[name] <= self._acked.get(name, 0)


def connection(state: State, now: float) -> str:
    """Return the state of the connection, with the seconds until the next attempt.

    Args:
        state: the client's.
        now: on the monotonic clock.
    """
    if state.retry_at is None:
        text: str = state.kind.value
        if state.node is not None:
            text += f" at {visible(state.node)}"
        if state.kind is StateKind.RECONNECTING:
            text += " ..."
    else:
        left = ceil(state.retry_at - now)
        text = f"{state.kind.value} in {left} s" if left > 0 else f"{state.kind.value} ..."
    return text if state.reason is None else f"{text} ({visible(state.reason)})"


class Toolbar:
    """Puts the toolbar's text together.

    Attributes:
        who: the account and the server.
        unread: what is not opened.
        delivered: what was acknowledged of what was sent.
        to: whom the talk is with, or None.
        state: the client's, as last taken in.
        held_back: whether a line waits at the prompt for the server to come back.
    """

    def __init__(
        self,
        who: str,
        clock: Callable[[], float] = time.monotonic,
        waiting: Callable[[], int] = lambda: 0,
    ) -> None:
        """Prepare.

        Args:
            who: the account and the server.
            clock: monotonic, in seconds.
            waiting: returns how many messages have been waiting to be sent.
        """
        self.who = who
        self._waiting = waiting
        self._clock = clock
        self.unread = Unread()
        self.delivered = Delivered()
        self.to: str | None = None
        self.state = State(StateKind.ONLINE)
        self.held_back = False
        self._under_way_since: float | None = None

    def take_in(self, state: State) -> None:
        """Note where the client stands now."""
        self.state = state
        if state.kind is StateKind.ONLINE:
            self.held_back = False

    def under_way(self, *, is_so: bool) -> None:
        """Note that a line is being carried out, or no longer."""
        self._under_way_since = self._clock() if is_so else None

    @property
    def is_slow(self) -> bool:
        """Whether a line has been under way for long."""
        since = self._under_way_since
        return since is not None and self._clock() - since > _SLOW_SECONDS

    @contextmanager
    def waiting_for_the_person(self) -> Iterator[None]:
        """Do not count what the body waits for."""
        since, self._under_way_since = self._under_way_since, None
        try:
            yield
        finally:
            self._under_way_since = None if since is None else self._clock()

    def __str__(self) -> str:
        now = self._clock()
        parts = [connection(self.state, now)]
        if self.state.kind is not StateKind.ONLINE:
            if self.held_back:
                parts.insert(0, "this needs the server: Enter again when online")
        elif self.is_slow:
            parts.append("waiting for the server ...")
        waiting = self._waiting()
        if waiting:
            parts.append(f"{waiting} to be sent")
        came = self.delivered.of(self.to)
        if came is not None and self.to is not None:
            parts.append(f"{marks()[came]} {visible(self.to)}")
        # What matters most comes first, for a narrow terminal cuts off what is last.
        return " | ".join([*parts, str(self.unread), self.who])
