"""The one thread of a server that writes mail: a transaction for all that waits.

The queue before it is `twinline.stores.sql.writes`; what a transaction does, `batch`.

1. No call returns before its commit has, with all that the database promises. A commit whose wait
   for the standby was cancelled says so by a warning alone (01000): it is in doubt.
2. What is known not to be committed is tried once more, on a new connection if the old one is
   gone; a client notices a database that restarts or fails over by a slower answer.
3. What may be committed or not is `StoreUnavailable`, in doubt. Nothing else is written until the
   process that had it has ended (`Database.settle`).
4. While there is no connection, writes are refused at once, and it is tried again at growing
   intervals.
5. A write that the database refuses is refused alone: half of a transaction's writes are tried by
   themselves, and halves of that.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.store import MailboxPolicy
from twinline.core.waiting import Wake, wake_all
from twinline.stores.postgresql.batch import Append, Batch, Create, Write, concerned
from twinline.stores.postgresql.condition import PROMISE_SECONDS, SETTINGS, Condition
from twinline.stores.postgresql.database import Database, Keeper, is_passing
from twinline.stores.postgresql.link import (
    BEGIN,
    CALL_SECONDS,
    COMMIT,
    Asked,
    EngineError,
    Link,
    LinkLost,
)
from twinline.stores.postgresql.send_ids import SendIds
from twinline.stores.postgresql.wakes import Wakes
from twinline.stores.sql.writes import Request, WriteQueue, follow

log = logging.getLogger(__name__)

SECONDS: Final = 2 * CALL_SECONDS
"""How long a write may wait for its commit."""
SENDS: Final = 64
"""So many times of sends are kept."""
_BATCH: Final = 1_000  # the most writes in a transaction: what waits behind it is not kept long
_TOLD_SECONDS: Final = 1.0  # how long a notice behind a commit may take
_UNTOLD_SECONDS: Final = 10.0  # for so long after one that failed there is none
_UNREPLICATED: Final = "01000"  # the warning of a commit whose wait for the standby was cancelled


class _InDoubt(Exception):
    """What became of a transaction is not known."""


@dataclass(frozen=True, slots=True)
class _Committed:
    """A transaction that is committed.

    Attributes:
        batch: what became of its writes.
        link: where.
        told: what tells the other servers of it, if that was sent behind it.
    """

    batch: Batch
    link: Link
    told: Asked | None


class Lane(WriteQueue[Write]):
    """Takes writes from any thread and makes them in its own.

    Attributes:
        sent: the times of its last sends, in ms; `SENDS` at the most.
    """

    def __init__(
        self, database: Database, condition: Condition, wakes: Wakes, policy: MailboxPolicy
    ) -> None:
        super().__init__("postgresql lane")
        self._database = database
        self._condition = condition
        self._wakes = wakes
        self._policy = policy
        self.sent: deque[int] = deque(maxlen=SENDS)  # written by the lane's thread alone
        # The lane's thread's.
        self._keeper = Keeper(database)
        self._sends = SendIds(policy)
        self._settings_at = 0.0
        self._told_from = 0.0  # when notices may follow commits

    def do(
        self,
        write: Write,
        wake: Callable[[Iterable[Wake]], None] = wake_all,
        seconds: float = SECONDS,
    ) -> Any:
        """Have a write made; when this returns, it is committed. See `WriteQueue.wait_for`."""
        return self.wait_for(write, seconds, wake)

    def _too_late(self, request: Request[Write]) -> StoreUnavailable:  # noqa: ARG002 - as the base
        return _unavailable("the store does not answer in time", in_doubt=True)

    # --- in the lane's thread

    def _run(self) -> None:
        while True:
            batch, closed = self._take(_BATCH)
            if batch:
                self._make(batch)
            elif closed:
                break
            else:
                self._work.wait(Deadline.after(None))
        self._disconnect()

    def _disconnect(self) -> None:
        if self._keeper.link is not None:
            self._keeper.link.close()

    def _make(self, requests: list[Request[Write]]) -> None:
        refusal = self._condition.refusal
        if refusal is not None and not self._look_again():
            self._fail(requests, StoreUnavailable(f"the store refuses writes: {refusal}"))
            return
        until = time.monotonic() + CALL_SECONDS
        for _ in range(2):
            link = self._keeper.ready()
            if link is None:
                break
            try:
                self._database.settle(link)
                committed = self._committed(link, [request.write for request in requests], until)
            except Exception as error:  # noqa: BLE001 - whatever it is, this thread must go on
                if self._give_up(requests, link, error):
                    return
                if time.monotonic() >= until:
                    break
            else:
                self._tell(requests, committed)
                return
        self._fail(requests, StoreUnavailable())
        self._recover()

    def _give_up(self, requests: list[Request[Write]], link: Link, error: Exception) -> bool:
        """Tell those who asked what a transaction came to, unless it is to be tried once more."""
        self._sends.roll_back()
        self._roll_back(link)
        if isinstance(error, _InDoubt) or (isinstance(error, LinkLost) and error.in_doubt):
            self._database.failed(error)
            if link.broken:
                self._database.doubt(link)
            self._fail(requests, _unavailable("what became of it is not known", in_doubt=True))
            self._recover()
            return True
        if isinstance(error, StoreUnavailable):
            self._fail(requests, error)
            return True
        if isinstance(error, LinkLost) or (isinstance(error, EngineError) and is_passing(error)):
            self._database.failed(error)
            return False
        self._halve(requests, error)
        return True

    def _committed(self, link: Link, writes: Sequence[Write], until: float) -> _Committed:
        """Make writes as one transaction.

        Raises:
            EngineError, LinkLost: it was not committed, or that is in doubt.
            StoreUnavailable: the database does not promise enough any more.
            _InDoubt: it was committed, and may not be on the standby.
        """
        batch = Batch(self._policy, self._sends, writes)
        calls = [BEGIN, *batch.opening()]
        now = time.monotonic()
        looks = now >= self._settings_at
        if looks:
            calls.append(SETTINGS)
        _, *results = link.run(*calls, seconds=until - now)
        if looks:
            ((fsync, commit, standbys),) = results.pop()
            self._condition.note(fsync, commit, standbys)
            self._settings_at = now + PROMISE_SECONDS
        # Also where it was not asked now: the connection may be a new one, to another machine.
        if self._condition.refusal is not None:
            raise StoreUnavailable(f"the store refuses writes: {self._condition.refusal}")
        batch.opened(results)
        for step in batch.looking():
            batch.looked(link.run(*step, seconds=until - time.monotonic()))
        asked = link.ask(*batch.closing(), COMMIT)
        told = self._sent_behind(link, batch)
        results = link.answer(asked, until - time.monotonic())
        if _UNREPLICATED in link.warnings:
            raise _InDoubt("the wait for the standby was cancelled")
        batch.closed(results[:-1])
        return _Committed(batch, link, told)

    def _sent_behind(self, link: Link, batch: Batch) -> Asked | None:
        """Send what tells the other servers behind the commit that was asked for, if it is alone.

        Where writes wait, the lane has more to do, and the notifier tells of many commits at once.

        Raises:
            LinkLost: the connection is gone, and with it the answer to the commit.
        """
        if self._waiting or not batch.news:
            return None
        try:
            if time.monotonic() >= self._told_from:
                call = self._wakes.telling_news(batch.news)
                return None if call is None else link.ask(call)
        except LinkLost:
            raise
        except Exception:  # those whose commit it is must hear of that, and nothing else
            log.exception("no notice was sent behind a commit")
        return None

    def _tell(self, requests: list[Request[Write]], committed: _Committed) -> None:
        watchers, batch = self._wakes.watchers, committed.batch
        for request, outcome in zip(requests, batch.outcomes, strict=True):
            request.value = outcome
            if isinstance(request.write, Create) and outcome is None:
                watchers.discard(request.write.account_id)  # what they waited for was gone
        if batch.news:
            wakes: dict[str, Sequence[Wake]] = {
                account_id: watchers.end(account_id)
                if account_id in batch.dropped
                else watchers.wakes(account_id, *kinds)
                for account_id, kinds in batch.news.items()
            }
            for request in requests:
                for account_id in concerned(request.write):
                    request.wakes.extend(wakes.pop(account_id, ()))
            self.sent.extend(
                request.write.draft.sent_at
                for request in requests
                if isinstance(request.write, Append)
            )
            if committed.told is None:
                follow(lambda: self._wakes.tell_news(batch.news))
        self._finish(requests)
        if committed.told is not None:
            self._see_told(committed, committed.told)

    def _see_told(self, committed: _Committed, told: Asked) -> None:
        """Have the other servers told in the other way if it has failed behind the commit."""
        try:
            committed.link.answer(told, _TOLD_SECONDS)
        except (EngineError, LinkLost) as error:
            self._database.failed(error)
            self._told_from = time.monotonic() + _UNTOLD_SECONDS
            follow(lambda: self._wakes.tell_news(committed.batch.news))

    def _halve(self, requests: list[Request[Write]], error: Exception) -> None:
        """Make the writes of a transaction that one of them has spoilt, in two transactions."""
        half = len(requests) // 2
        if half:
            self._make(requests[:half])
            self._make(requests[half:])
            return
        log.error("a write is refused: %s", error, exc_info=error)
        self._fail(requests, error)

    def _roll_back(self, link: Link) -> None:
        """Undo the transaction that is open, if the connection is there."""
        try:
            link.roll_back()
        except (EngineError, LinkLost):
            self._keeper.drop()

    def _look_again(self) -> bool:
        """Return whether writes are taken again, asking about once a second."""
        if time.monotonic() >= self._settings_at:
            self._settings_at = time.monotonic() + PROMISE_SECONDS
            link = self._keeper.ready()
            if link is not None:
                try:
                    self._condition.check(link)
                except Exception as error:  # noqa: BLE001 - it is refused as before
                    self._database.failed(error)
                    self._keeper.drop()
        return self._condition.refusal is None

    def _fail(self, requests: list[Request[Write]], error: Exception) -> None:
        for request in requests:
            if isinstance(error, StoreUnavailable):  # each thread raises its own
                error = _unavailable(error.message, in_doubt=error.in_doubt)
            request.outcome.put(error)

    def _recover(self) -> None:
        """Refuse writes until there is a connection again, or the store is closed."""
        if self._keeper.link is not None and not self._keeper.link.broken:
            return
        with self._lock:
            self._refusing = True
        while True:
            done = self._settled()
            with self._lock:
                # What came before writes were refused is made now, or fails as well.
                late = [] if done else self._waiting
                self._waiting = self._waiting if done else []
                self._refusing = not done
                closed = self._closed
            self._fail(late, StoreUnavailable())
            if done:
                log.warning("the store can be written again")
                return
            if closed:
                return
            self._work.wait(Deadline.after(max(0.01, self._keeper.retry_at - time.monotonic())))

    def _settled(self) -> bool:
        """Return whether there is a connection, and no write of before is still to come."""
        link = self._keeper.ready()
        if link is None:
            return False
        try:
            self._database.settle(link)
        except (EngineError, LinkLost, StoreUnavailable):
            self._keeper.drop()
            return False
        return True


def _unavailable(message: str, *, in_doubt: bool) -> StoreUnavailable:
    error = StoreUnavailable(message)
    error.in_doubt = in_doubt
    return error
