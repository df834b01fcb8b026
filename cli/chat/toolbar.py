"""What the foot of the prompt says: who and where, whether it is online, what is unread."""

import time
from collections import Counter
from collections.abc import Callable
from math import ceil
from typing import Final

from twinline.cli.chat.theme import marks
from twinline.cli.console.text import visible
from twinline.transports.client import State, StateKind

_SLOW_SECONDS: Final = 0.5
"""How long a line may be under way before the toolbar says so."""
_NAMED: Final = 3


class Tally:
    """Counts what has come from others than the one who is being talked to.

    A message is unread until the talk turns to its sender. One thread counts and another turns,
    so each call is a single step on the counter.
    """

    def __init__(self) -> None:
        self._unread: Counter[str] = Counter()
        self._to: str | None = None

    def came_from(self, sender: str) -> None:
        """Count a message."""
        if sender != self._to:
            self._unread[sender] += 1

    def turn_to(self, name: str) -> int:
        """Take what came from an account as read, and what will come while the talk stays there.

        Returns:
            How many of its messages were unread.
        """
        self._to = name
        return self._unread.pop(name, 0)

    @property
    def senders(self) -> list[str]:
        """Those with something unread, most of it first."""
        return [name for name, _ in self._unread.copy().most_common()]

    def __str__(self) -> str:
        unread = self._unread.copy()
        total = sum(unread.values())
        if not total:
            return "0 unread"
        names = ", ".join(f"{visible(name)} {n}" for name, n in unread.most_common(_NAMED))
        more = ", ..." if len(unread) > _NAMED else ""
        return f"{total} unread ({names}{more})"


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
        tally: what is unread.
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
        self.tally = Tally()
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

    def __str__(self) -> str:
        now = self._clock()
        parts = [connection(self.state, now)]
        since = self._under_way_since
        if self.state.kind is not StateKind.ONLINE:
            if self.held_back:
                parts.append("this needs the server: Enter again when we are online")
        elif since is not None and now - since > _SLOW_SECONDS:
            parts.append("waiting for the server ...")
        waiting = self._waiting()
        if waiting:
            parts.append(f"{waiting} to be sent")
        came = self.delivered.of(self.to)
        if came is not None and self.to is not None:
            parts.append(f"{marks()[came]} {visible(self.to)}")
        # What matters most comes first, for a narrow terminal cuts off what is last.
        return " | ".join([*parts, str(self.tally), self.who])
