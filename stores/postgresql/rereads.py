"""What stands behind wakes that are lost: watched mailboxes are looked at every few seconds.

A notice may be lost: with the connection that listens, with the server that should have sent it, or
with the one that stored the mail and ended before it told. So for all mailboxes that somebody in
this process watches, a cheap statement compares its row with that of the look before, and those
that have grown since are woken, and those that are gone. It is one statement for hundreds of
mailboxes; after the connection was lost it is made at once.

Of mail the row has a number that nothing else changes. Of copies and receipts it has the last seq,
which mail changes too; and a mailbox that is looked at for the first time is woken, as is one whose
mail was told: who is woken for nothing looks once for nothing.
"""

import logging
from collections.abc import Sequence
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.protocol import EVERY_KIND, Kind, Kinds
from twinline.core.waiting import Waiter, wake_all
from twinline.stores.postgresql.arrays import texts
from twinline.stores.postgresql.database import Pool, start_thread
from twinline.stores.postgresql.link import Call, EngineError
from twinline.stores.postgresql.wakes import Wakes

log = logging.getLogger(__name__)

REREAD_SECONDS: Final = 3.0
"""How far two looks are apart: how late mail is told whose notice was lost."""
_AT_ONCE: Final = 500
_CLOSE_SECONDS: Final = 5.0
_LAST: Final = """
    SELECT account_id, last, newest FROM unnest($1::text[]) AS wanted
    CROSS JOIN LATERAL (SELECT account_id, last, newest FROM mailboxes
        WHERE account_id = wanted OFFSET 0) AS mailbox"""


class Rereads:
    """The thread that looks."""

    def __init__(self, pool: Pool, wakes: Wakes, seconds: float = REREAD_SECONDS) -> None:
        """Prepare; before the wakes are started.

        Args:
            pool: the connections that read.
            wakes: knows who watches.
            seconds: how far two looks are apart.
        """
        self._pool = pool
        self._wakes = wakes
        self._seconds = seconds
        # The thread's: the last seq and the newest mail's number, of those that are watched.
        self._known: dict[str, tuple[int, int]] = {}
        self._work = Waiter()
        self._closed = False
        wakes.on_gap.append(self._work.wake)

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread(self._run, "postgresql rereads")

    def close(self) -> None:
        """End the thread, if it was started."""
        self._closed = True
        self._work.wake()
        if hasattr(self, "_thread"):
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closed:
            try:
                watched = {id_: None for kind in Kind for id_ in self._wakes.watchers.watched(kind)}
                self._look(list(watched))
            except (StoreUnavailable, EngineError):
                pass  # it was logged, and is tried again
            except Exception:
                log.exception("watched mailboxes are not looked at; the thread goes on")
            self._work.wait(Deadline.after(self._seconds))

    def _look(self, watched: Sequence[str]) -> None:
        known, self._known = self._known, {}
        try:
            for at in range(0, len(watched), _AT_ONCE):
                self._look_at(watched[at : at + _AT_ONCE], known)
        except BaseException:
            self._known = known | self._known
            raise

    def _look_at(self, some: Sequence[str], known: dict[str, tuple[int, int]]) -> None:
        (rows,) = self._pool.run(Call(_LAST, texts(some)))
        found = {account_id: (last, newest) for account_id, last, newest in rows}
        watchers = self._wakes.watchers
        for account_id in some:
            now = found.get(account_id)
            if now is None:
                wake_all(watchers.end(account_id))
                continue
            self._known[account_id] = now
            kinds = _grown(known.get(account_id), now)
            if kinds:
                wake_all(watchers.wakes(account_id, *kinds))


def _grown(before: tuple[int, int] | None, now: tuple[int, int]) -> Kinds:
    """Return of which kinds a mailbox may have got entries between two looks."""
    if before == now:
        return frozenset()
    if before is None or before[1] != now[1]:
        return EVERY_KIND
    return EVERY_KIND - {Kind.MAIL}
