"""A thread that notes which sessions are in use, and looks after those that others wait on.

1. A request must not wait long for the note that it uses a session. So all that wait to be noted
   are noted at once, of sessions that nobody else is changing, and it waits for that only a moment.
2. Where notices are not heard, or some may have been missed, the end of a session that somebody in
   this process waits on is seen by looking: no later than the lease would have told it.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.locks import may_block, new_lock
from twinline.core.store import SessionKey, SessionRecord
from twinline.core.waiting import Waiter
from twinline.stores.postgresql.arrays import blobs, integers, texts
from twinline.stores.postgresql.database import Pool, start_thread
from twinline.stores.postgresql.link import Call, EngineError
from twinline.stores.postgresql.notices import Kind
from twinline.stores.postgresql.wakes import Wakes

log = logging.getLogger(__name__)

TOUCH_SECONDS: Final = 0.05
"""How long a request may wait for the note that it uses a session."""
SILENT_SECONDS: Final = 0.6
"""After so long without a heartbeat, sessions that somebody waits on are looked at: two that should
have come are missing, and the lease still holds."""
_LOOK_SECONDS: Final = 0.1
_PENDING: Final = 10_000  # notes that wait; beyond them none is taken
_AT_ONCE: Final = 1_000
_CLOSE_SECONDS: Final = 5.0

# That a session is in use may be lost in a crash, so no disk is waited for.
_LAZY: Final = "SELECT set_config('synchronous_commit', 'off', true)"
_TOUCH: Final = """
    WITH used AS MATERIALIZED (
        SELECT sessions.account_id, sessions.token_hash, wanted.used_at
        FROM unnest($1::text[], $2::bytea[], $3::bigint[])
            AS wanted (account_id, token_hash, used_at)
        JOIN sessions USING (account_id, token_hash)
        FOR NO KEY UPDATE OF sessions SKIP LOCKED
    )
    UPDATE sessions SET used_at = used.used_at FROM used
    WHERE sessions.account_id = used.account_id AND sessions.token_hash = used.token_hash"""


class _Note:
    """A session that is in use, and who waits for that to be noted."""

    __slots__ = ("done", "noted", "used_at")

    def __init__(self, used_at: int) -> None:
        self.used_at = used_at
        self.done = threading.Event()
        self.noted = False


class Touches:
    """The thread and what waits for it."""

    def __init__(
        self,
        pool: Pool,
        wakes: Wakes,
        read: Callable[[Sequence[SessionKey]], Mapping[SessionKey, SessionRecord]],
    ) -> None:
        """Prepare.

        Args:
            pool: the connections for accounts.
            wakes: knows who waits on sessions, and whether notices are heard.
            read: returns those of some sessions that are there.
        """
        self._pool = pool
        self._wakes = wakes
        self._read = read
        self._lock = new_lock("touches")
        self._pending: dict[SessionKey, _Note] = {}  # guarded by _lock
        self._work = Waiter()
        self._missed = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def note(self, key: SessionKey, used_at: int) -> bool:
        """Note that a session is in use.

        Returns:
            Whether that is done; otherwise it may be done yet, or not.
        """
        may_block("noting a use")
        with self._lock:
            note = self._pending.get(key)
            if note is None:
                if len(self._pending) >= _PENDING:
                    return False
                note = self._pending[key] = _Note(used_at)
            note.used_at = max(note.used_at, used_at)
        self._work.wake()
        return note.done.wait(TOUCH_SECONDS) and note.noted

    def look_again(self) -> None:
        """Look at all sessions that somebody waits on: notices of their end may be missing."""
        self._missed = True
        self._work.wake()

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread(self._run, "postgresql sessions")

    def close(self) -> None:
        """Note what waits, and end the thread."""
        self._closed = True
        self._work.wake()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            closing = self._closed
            try:
                while self._note_some():
                    pass
                if not closing and (self._missed or self._wakes.silent_seconds > SILENT_SECONDS):
                    self._look()
            except (StoreUnavailable, EngineError):
                pass  # it was logged; the next request notes its use again
            except Exception:
                log.exception("sessions are not looked after; the thread goes on")
            if closing:
                return
            self._work.wait(Deadline.after(_LOOK_SECONDS))

    def _note_some(self) -> bool:
        """Note what waits, as far as one statement goes; return whether there was anything."""
        with self._lock:
            keys = list(self._pending)[:_AT_ONCE]
            notes = [self._pending.pop(key) for key in keys]
        if not keys:
            return False
        account_ids = [key.account_id or "" for key in keys]
        try:
            self._pool.run(
                Call(_LAZY),
                Call(
                    _TOUCH,
                    texts(account_ids),
                    blobs([key.token_hash for key in keys]),
                    integers([note.used_at for note in notes]),
                ),
                self._wakes.telling(Kind.ACCOUNTS, dict.fromkeys(account_ids).keys()),
            )
            for note in notes:
                note.noted = True
        finally:
            for note in notes:
                note.done.set()
        return True

    def _look(self) -> None:
        self._missed = False
        keys = self._wakes.sessions.keys()
        try:
            for at in range(0, len(keys), _AT_ONCE):
                some = keys[at : at + _AT_ONCE]
                there = self._read(some)
                self._wakes.end_sessions(key for key in some if key not in there)
        except BaseException:
            self._missed = True
            raise
