"""The store in a PostgreSQL database, which any number of servers share."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Self

import psycopg

from twinline.core.errors import StoreUnavailable
from twinline.core.forks import refuse_calls, watch_forks
from twinline.core.store import Durability, Health, MailboxPolicy, OnCommit, Store
from twinline.stores.postgresql.accounts import PostgresqlAccounts
from twinline.stores.postgresql.chores import Chores
from twinline.stores.postgresql.condition import Condition, wall_clock
from twinline.stores.postgresql.database import Database, Pool, transaction
from twinline.stores.postgresql.lane import Lane
from twinline.stores.postgresql.link import EngineError, Link, LinkLost
from twinline.stores.postgresql.mailboxes import PostgresqlMailboxes
from twinline.stores.postgresql.reads import Reads
from twinline.stores.postgresql.rereads import REREAD_SECONDS, Rereads
from twinline.stores.postgresql.schema import LOCK_SPACE, prepare
from twinline.stores.postgresql.states import PostgresqlStates
from twinline.stores.postgresql.tracing import Tracing
from twinline.stores.postgresql.url import Target, parse_url
from twinline.stores.postgresql.wakes import Wakes
from twinline.stores.shared.opening import StoreNotOpened

log = logging.getLogger(__name__)

_DEFAULT_POLICY: Final = MailboxPolicy()
_ALONE_SECONDS: Final = 0.05  # in which connections that were closed just now are gone
_LOOK_SECONDS: Final = 0.01
_LOCK_NOT_AVAILABLE: Final = "55P03"  # that of `session`: servers wait for no other that long
_ALONE: Final = f"SELECT pg_try_advisory_lock({LOCK_SPACE + 1}, hashtext($1))"
_ALONE_NO_MORE: Final = f"""
    SELECT pg_advisory_unlock({LOCK_SPACE + 1}, hashtext($1)),
        extract(epoch FROM clock_timestamp())::text"""  # noqa: S608 - of constants alone


class PostgresqlStore(Store):
    """Everything in one database.

    Attributes:
        durability: what the database promises at the time, by its settings.
        target: where the database is.
    """

    def __init__(
        self,
        target: Target,
        policy: MailboxPolicy = _DEFAULT_POLICY,
        *,
        reread_seconds: float = REREAD_SECONDS,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        """Connect, and make the tables if there are none.

        Args:
            target: where the database is.
            policy: how much its mailboxes keep; the same on all servers.
            reread_seconds: how late mail is told whose notice was lost.
            clock: this machine's, in seconds since 1970.

        Raises:
            SchemaTooNew: a later version of this program made the tables.
            StoreNotOpened: it cannot be reached, or is no store, or other servers have it open
                under another policy.
        """
        self.target = target
        self._closed = False
        database = self._database = Database(target)
        condition = self._condition = Condition(target.schema, policy, target.durability, clock)
        condition.on_durability.append(self._note_durability)
        alone_at = self._prepare(target, condition)
        database.checks.append(condition.check)
        self._wakes = Wakes(database)
        self._reading = Pool(database, target.readers, writes=False)
        self._working = Pool(database, target.account_connections, writes=True)
        self._tracing = Tracing(database, self._reading, policy)
        self._lane = Lane(database, condition, self._wakes, policy)
        self._rereads = Rereads(self._reading, self._wakes, reread_seconds)
        self._chores = Chores(self._working, self._lane, policy, alone_at)
        self.accounts: PostgresqlAccounts = PostgresqlAccounts(
            self._working, self._wakes, condition.permit
        )
        self.mailboxes: PostgresqlMailboxes = PostgresqlMailboxes(
            self._lane,
            Reads(self._reading, policy),
            self._wakes,
            self._tracing,
            partial(transaction, self._working, condition.permit),
        )
        self.states: PostgresqlStates = PostgresqlStates(self._working)
        try:
            self._wakes.start()
            self._lane.start(self)
            self.accounts.start()
            self._rereads.start()
            self._chores.start()
            watch_forks(self)
        except StoreUnavailable as error:
            self.close()
            raise StoreNotOpened(f"{target.place} cannot be reached") from error
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, url: str, policy: MailboxPolicy = _DEFAULT_POLICY) -> Self:
        """Open the store that a URL names.

        Raises:
            StoreNotOpened: the URL is wrong, or the database cannot be used.
        """
        return cls(parse_url(url), policy)

    def health(self) -> Health:
        """Ask the database how it is; see `Store.health`."""
        with self._reading.lend() as link:
            self._condition.check(link)
        if self._condition.refusal is not None:
            raise StoreUnavailable(f"the store refuses writes: {self._condition.refusal}")
        return Health(
            self._condition.durability,
            str(self._condition.epoch),
            self._condition.clock_offset_ms,
            self._wakes.lag_seconds,
        )

    def on_commit(self, call: OnCommit) -> None:
        """Have ``call`` called after each transaction of mail; see `Store.on_commit`."""
        self._lane.on_commit = call

    def close(self) -> None:
        """Make the writes that wait, tell of them, and let go of the database."""
        if self._closed:
            return
        self._closed = True
        self._chores.close()
        self._rereads.close()
        self.accounts.close()
        if not self._lane.close():
            log.error("%s does not answer, and is left as it is", self.target.place)
        self._wakes.close()
        self._tracing.close()
        self._working.close()
        self._reading.close()
        self._database.close()

    def forked(self) -> None:
        """Refuse every call in a forked child, and leave the connections to the parent."""
        self._closed = True
        for half in (self.accounts, self.mailboxes, self.states):
            refuse_calls(half)

    def _note_durability(self, durability: Durability) -> None:
        self.durability = durability

    def _prepare(self, target: Target, condition: Condition) -> float | None:
        """See that the database is a store; return when this server had it alone, if it had."""
        try:
            link = self._database.open()
            try:
                prepare(link, target.schema)
                alone = self._alone(link, target.schema)
                condition.settle_policy(link, alone=alone)
                condition.check(link)
                if not alone:
                    return None
                ((_, alone_at),) = link.execute(_ALONE_NO_MORE, target.schema)
                return float(alone_at)
            finally:
                link.close()
        except (psycopg.Error, EngineError, LinkLost) as error:
            reason = str(error).strip().partition("\n")[0]
            if isinstance(error, EngineError) and error.sqlstate == _LOCK_NOT_AVAILABLE:
                reason = "a command of 'twinline store' has it to itself; wait until that ends"
            raise StoreNotOpened(f"{target.place} cannot be opened as a store: {reason}") from error

    def _alone(self, link: Link, schema: str) -> bool:
        """Return whether no other server has the store open; until `_ALONE_NO_MORE` none can."""
        until = time.monotonic() + _ALONE_SECONDS
        while True:
            ((alone,),) = link.execute(_ALONE, schema)
            if alone or time.monotonic() >= until:
                return bool(alone)
            time.sleep(_LOOK_SECONDS)
