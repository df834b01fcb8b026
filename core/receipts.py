"""Tells senders that their mail was acknowledged: late, perhaps not at all, and never wrongly.

What an ack has passed is noted here, and a thread puts it into the mailboxes of those who sent it:
an ack waits for no other mailbox. The thread begins when something is noted, and ends when nothing
was for a second. It goes in rounds, with a second from the end of one to the next: of two accounts,
the one gets at most one receipt of the other a second, from each server where several share the
state. One that is lost is mended by the next ack in that conversation.
"""

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import LockRuleError, RequestError
from twinline.core.forks import watch_forks
from twinline.core.locks import new_lock
from twinline.core.store import Delivery, Mailboxes, PeerReceipt, SessionRecord
from twinline.core.waiting import Waiter

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 1.0
"""From the end of a round to the next: what a pair waits for its next receipt, at least."""
MOST_DUE: Final = 10_000
"""How many pairs may wait for the next round, and be in one; of more, the next ack tells."""
STOP_SECONDS: Final = 0.5
"""How long `Receipts.stop` waits for what is due; the rest is dropped."""


class Receipts:
    """What is to be put into mailboxes, and the thread that does it."""

    def __init__(
        self,
        mailboxes: Mailboxes,
        *,
        pause_seconds: float = PAUSE_SECONDS,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """Prepare; there is no thread before the first receipt is due.

        Args:
            mailboxes: into which they are put.
            pause_seconds: from the end of a round to the next.
            stop_seconds: how long `stop` waits at most.
        """
        self._mailboxes = mailboxes
        self._pause_seconds = pause_seconds
        self._stop_seconds = stop_seconds
        self._stopped: Deadline | None = None  # after which nothing is put in; None: not stopped
        self._begin()
        watch_forks(self)

    def _begin(self) -> None:
        self._lock = new_lock("receipts")
        # These are guarded by _lock.
        # By sender and recipient. A record is made of it when it is put in: most are replaced.
        self._due: dict[tuple[str, str], tuple[str, int, int]] = {}
        self._thread: threading.Thread | None = None
        self._waiter = Waiter()
        self._refused = False  # whether the last one was, which was logged; of the thread

    def forked(self) -> None:
        """Begin anew in a forked child: what is due is the parent's to put in."""
        self._begin()

    def note(self, record: SessionRecord, deliveries: Iterable[Delivery], now: int) -> None:
        """Have senders told what an account has acknowledged; it waits for no store.

        Args:
            record: a session of the account.
            deliveries: whose mail, up to which ``n``.
            now: in ms.
        """
        account_id, username = record.account_id, record.username
        with self._lock:
            if self._stopped is not None:
                return
            due = self._due
            for sender_id, n in deliveries:
                pair = (sender_id, account_id)
                noted = due.get(pair)
                if noted is None and len(due) >= MOST_DUE:
                    continue
                if noted is None or noted[1] < n:
                    due[pair] = (username, n, now)
            # One that is not alive was not started: it could not be, or whoever made it was
            # interrupted, or is about to; then it finds that it was replaced. Or it came to a bad
            # end, in which case there is another from here on.
            if self._thread is not None and self._thread.is_alive():
                return
            self._thread = thread = threading.Thread(target=self._run, name="receipts", daemon=True)
        # There may be no room for another thread, or the interpreter is about to end: the next ack
        # tries again.
        with suppress(RuntimeError):
            thread.start()

    def stop(self) -> None:
        """Put in what is due, in the time that there is for it, and take nothing more."""
        with self._lock:
            if self._stopped is None:
                self._stopped = Deadline.after(self._stop_seconds)
            until, thread = self._stopped, self._thread
        self._waiter.wake()
        if thread is None:
            return
        try:
            thread.join(until.remaining())
        except RuntimeError:  # it was not started: what is due is dropped, if it starts after all
            with self._lock:
                self._stopped = Deadline.after(0)

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._thread is not threading.current_thread():
                    return
                due, self._due = self._due, {}
                if not due:
                    self._thread = None
                    return
            for (sender_id, account_id), noted in due.items():
                if self._stopped is not None and self._stopped.passed:
                    return  # nobody waits for it any more, and the store may be closed
                self._put(sender_id, PeerReceipt(account_id, *noted))
            if self._stopped is None:
                self._waiter.wait(Deadline.after(self._pause_seconds))

    def _put(self, sender_id: str, receipt: PeerReceipt) -> None:
        try:
            self._mailboxes.put_receipt(sender_id, receipt)
        except LockRuleError:
            raise
        except Exception as error:
            if not self._refused:
                self._refused = True
                log.warning(
                    "receipts are lost, until the store takes them: %s",
                    error,
                    exc_info=None if isinstance(error, RequestError) else error,
                )
        else:
            self._refused = False
