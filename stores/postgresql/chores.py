"""What some server has to do now and then: sweep, expire, and drop what a crash left half done.

Every server does a little of it, in small transactions that pass over what another one has locked,
so none waits for it.

Creating makes the mailbox and then publishes the account; deleting withdraws the account and then
drops the mailbox. So a crash in between leaves a mailbox that no account has. It must not be taken
from a creation that is under way on another server: so it goes when this server had the store
alone after it was made, or when it is an hour old. After a restart of the database the first
server back sees no other, and these may still be in the middle of one: of what is from before
that, the hour counts.
"""

import logging
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.store import MailboxPolicy
from twinline.core.waiting import Waiter
from twinline.stores.postgresql.batch import Drop
from twinline.stores.postgresql.database import Pool, start_thread
from twinline.stores.postgresql.lane import SENDS, Lane
from twinline.stores.postgresql.link import Call, EngineError
from twinline.stores.rules import send_ids_count

log = logging.getLogger(__name__)

_SECONDS: Final = 1.0  # between two rounds, when nothing is left to be done
_PIECE: Final = 1_000  # rows that one transaction removes, or looks at
_ORPHANS_SECONDS: Final = 3600.0
_CLOSE_SECONDS: Final = 5.0

_DROPPED: Final = "SELECT box FROM dropped ORDER BY box LIMIT 1 FOR UPDATE SKIP LOCKED"
_SWEEP: Final = """
    DELETE FROM messages WHERE box = $1::bigint AND seq IN (
        SELECT seq FROM messages WHERE box = $1::bigint ORDER BY seq LIMIT $2::bigint)
    RETURNING 1"""
_SWEEP_COPIES: Final = _SWEEP.replace("messages", "copies")
_SWEEP_SENDS: Final = """
    DELETE FROM send_ids WHERE (box, sender_id, send_id) IN (
        SELECT box, sender_id, send_id FROM send_ids WHERE box = $1::bigint LIMIT $2::bigint)
    RETURNING 1"""
_SWEEP_REST: Final = tuple(
    f"DELETE FROM {table} WHERE box = $1::bigint"  # noqa: S608 - of constants alone
    for table in ("acks", "receipts", "blocked", "dropped")
)
_EXPIRE: Final = """
    DELETE FROM send_ids WHERE (box, sender_id, send_id) IN (
        SELECT box, sender_id, send_id FROM send_ids WHERE sent_at <= $1::bigint
        LIMIT $2::bigint FOR UPDATE SKIP LOCKED)
    RETURNING 1"""
_ORPHANS: Final = """
    SELECT box, account_id, NOT EXISTS (SELECT FROM names WHERE names.account_id =
        mailboxes.account_id) AND (made_at < now() - interval '1 hour' OR
        (made_at <= to_timestamp($3::double precision) AND made_at > pg_postmaster_start_time()))
    FROM mailboxes WHERE box > $1::bigint AND EXISTS (SELECT FROM names)
    ORDER BY box LIMIT $2::bigint"""


class Chores:
    """The thread that does them."""

    def __init__(
        self, pool: Pool, lane: Lane, policy: MailboxPolicy, alone_at: float | None
    ) -> None:
        """Prepare.

        Args:
            pool: connections that write.
            lane: drops mailboxes.
            policy: says how long a send_id counts.
            alone_at: when this server had the store alone, by the database's clock, or None.
        """
        self._pool = pool
        self._lane = lane
        self._policy = policy
        self._alone_at = alone_at
        self._looked = 0  # for orphans, up to this mailbox
        self._orphans_at = Deadline.after(0)
        self._work = Waiter()
        self._closed = False

    def start(self) -> None:
        """Start the thread."""
        self._thread = start_thread(self._run, "postgresql chores")

    def close(self) -> None:
        """End the thread, if it was started."""
        self._closed = True
        self._work.wake()
        if hasattr(self, "_thread"):
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._closed:
            more = False
            try:
                for chore in (self._drop_orphans, self._sweep, self._expire):
                    more = chore() or more
            except (StoreUnavailable, EngineError):
                more = False  # it was logged, and is tried again
            except Exception:
                log.exception("a chore failed; the thread goes on")
            self._work.wait(Deadline.after(0.01 if more else _SECONDS))

    def _sweep(self) -> bool:
        """Remove some of what a dropped mailbox left; return whether there may be more."""
        with self._pool.lend() as link, link.transaction():
            rows = link.execute(_DROPPED)
            if not rows:
                return False
            ((box,),) = rows
            if len(link.execute(_SWEEP, box, _PIECE)) == _PIECE:
                return True
            if len(link.execute(_SWEEP_COPIES, box, _PIECE)) == _PIECE:
                return True
            if len(link.execute(_SWEEP_SENDS, box, _PIECE)) == _PIECE:
                return True
            link.run(*(Call(each, box) for each in _SWEEP_REST))
        return True

    def _expire(self) -> bool:
        """Remove send_ids that count no more, by the lowest time of this server's last sends.

        Of many, so that a clock that was wrong for a few of them removes nothing; a server that
        sends less leaves it to the others. And only what is too old: another server may have sent
        long after this one did, so what is later than its last send by any time may be of now.
        """
        sent = tuple(self._lane.sent)
        if len(sent) < SENDS:
            return False
        begin, _ = send_ids_count(self._policy, min(sent))
        (rows,) = self._pool.run(Call(_EXPIRE, begin, _PIECE))
        return len(rows) == _PIECE

    def _drop_orphans(self) -> bool:
        """Look at some mailboxes, and drop those that no account has."""
        if not self._orphans_at.passed:
            return False
        (rows,) = self._pool.run(Call(_ORPHANS, self._looked, _PIECE, str(self._alone_at or 0)))
        dropped = [account_id for _, account_id, orphan in rows if orphan]
        for account_id in dropped:
            self._lane.do(Drop(account_id))
        if dropped:
            log.info("%d mailboxes of no account were dropped", len(dropped))
        if len(rows) == _PIECE:
            self._looked = rows[-1][0]
            return True
        self._looked = 0
        self._orphans_at = Deadline.after(_ORPHANS_SECONDS)
        return False
