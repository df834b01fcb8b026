"""Who is woken: the subscriptions to one mailbox or to one session's end, in memory.

Nearly every mailbox of somebody who is there has one, so a list serves: it takes less than half of
what a dictionary takes. Each subscription knows its place in the list, so it also goes at once
where a session has thousands. The lock of the half that has the list guards it, and no step here
can be torn by a signal's handler (see `twinline.core.interrupts`).
"""

from twinline.core.locks import Lock
from twinline.core.protocol import MAIL_ALONE, Kind, Kinds
from twinline.core.waiting import Wake


class Subscription:
    """One of them; to call it ends it.

    Attributes:
        wake: what is called.
        kinds: of one to a mailbox, for which entries.
    """

    __slots__ = ("_at", "_lock", "_others", "kinds", "wake")

    def __init__(self, wake: Wake, lock: Lock, kinds: Kinds = MAIL_ALONE) -> None:
        """Prepare; it is none before `join`.

        Args:
            wake: what is called.
            lock: guards the list that it will join.
            kinds: for which entries.
        """
        self.wake = wake
        self.kinds = kinds
        self._lock = lock
        self._others: list[Subscription] | None = None  # guarded by _lock, as is _at
        self._at = 0

    def join(self, subscriptions: "list[Subscription]") -> None:
        """Become one of these; the caller has the lock."""
        self._at = len(subscriptions)
        self._others = subscriptions
        subscriptions.append(self)

    def __call__(self) -> None:
        """End it; harmless when repeated, and when it never joined."""
        with self._lock:
            others = self._others
            if others is None:
                return
            # The last one takes its place. No call in between: all of this is done, or nothing.
            self._others = None
            last = others[-1]
            last._at = at = self._at  # noqa: SLF001 - its own
            others[at] = last
            del others[-1]


def wakes_of(subscriptions: list[Subscription] | None) -> tuple[Wake, ...]:
    """Return the wakes of subscriptions, if there are any; the caller has the lock."""
    if not subscriptions:
        return ()
    if len(subscriptions) == 1:  # spares a loop in nearly every delivery
        return (subscriptions[0].wake,)
    return tuple([each.wake for each in subscriptions])


def wakes_for(
    kind: Kind, watchers: list[Subscription] | None, others: list[Subscription] | None
) -> tuple[Wake, ...]:
    """Return the wakes of those that take a kind of entries; the caller has the lock."""
    if not watchers and not others:
        return ()
    both = (*(watchers or ()), *(others or ()))
    return tuple([each.wake for each in both if kind in each.kinds])
