"""What the database promises now, and which one it is: read from each new connection.

Its settings say what an acknowledged write survives. They may change while a server runs, and
after a failover another machine has other ones: a standby that was promoted often has no standby
of its own, and ``replicated`` has become ``disk`` without a word. So they are read back by every
new connection, and by the lane about once a second; below what the URL asks for, writes are
refused.

A failover may lose the tail of what was written, and a backup that is put back more of it. Then
the *origin* of the tables is another: the cluster, its timeline (which a promotion and a recovery
to a point in time change), the database and its tables (which ``pg_restore`` makes anew), and,
where a crash may lose what was acknowledged, the start of the database. Whichever server sees it
first renews the store's epoch, and with it all seqs jump (`twinline.stores.sql.epochs`). The
timeline is that of the log that is being written: ``pg_control_checkpoint()`` tells the old one
until the first checkpoint, for seconds.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from twinline.core.errors import StoreUnavailable
from twinline.core.locks import new_lock
from twinline.core.store import (
    CLOCK_REFUSE_MS,
    CLOCK_WARN_MS,
    Durability,
    MailboxPolicy,
)
from twinline.stores.postgresql.link import Call, Link
from twinline.stores.postgresql.schema import LOCK_SPACE, VERSION
from twinline.stores.shared.complaints import Complaints
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.sql.epochs import next_epoch

log = logging.getLogger(__name__)

SETTINGS: Final = Call(
    "SELECT current_setting('fsync'), current_setting('synchronous_commit'), "
    "current_setting('synchronous_standby_names')"
)
"""What `durability_of` needs."""
_ORIGIN: Final = """
    SELECT system_identifier::text, CASE WHEN pg_is_in_recovery() THEN '' ELSE
        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END,
        (SELECT oid::text FROM pg_database WHERE datname = current_database()),
        'mailboxes'::regclass::oid::text, extract(epoch FROM pg_postmaster_start_time())::text,
        pg_is_in_recovery(), (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM pg_control_system()"""
_STORE: Final = "SELECT version, epoch, origin, policy FROM store"
_LOCK: Final = f"SELECT pg_advisory_xact_lock({LOCK_SPACE + 2}, hashtext($1))"
_LEVELS: Final = (Durability.NONE, Durability.PROCESS, Durability.DISK, Durability.REPLICATED)

PROMISE_SECONDS: Final = 1.0
"""How old may be what the database promises."""


class Condition:
    """What was last seen of the database.

    Attributes:
        durability: what an acknowledged write survives.
        epoch: the store's.
        clock_offset_ms: how far this machine's clock is ahead of the database's.
        refusal: why writes are refused, or None.
        on_durability: called when the durability is another than before.
    """

    def __init__(
        self,
        schema: str,
        policy: MailboxPolicy,
        least: Durability | None,
        clock: Callable[[], float],
    ) -> None:
        """Know nothing yet.

        Args:
            schema: where the tables are.
            policy: this server's.
            least: what the durability must be at least, or None for any.
            clock: this machine's, in seconds since 1970.
        """
        self.durability = Durability.NONE
        self.epoch = 0
        self.clock_offset_ms = 0
        self.refusal: str | None = None
        self.on_durability: list[Callable[[Durability], object]] = []
        self._schema = schema
        self._policy = written(policy)
        self._least = least
        self._clock = clock
        self._complaints = Complaints(log)
        self._lock = new_lock("condition")
        # By what was looked at, by any thread; guarded by _lock, as is the writing of refusal.
        self._reasons: dict[str, str | None] = {}
        self._look_at = 0.0

    def check(self, link: Link) -> None:
        """Look at a new connection, and renew the epoch if the tables come from elsewhere.

        Raises:
            StoreNotOpened: a later version of this program has changed the tables.
            EngineError, LinkLost: it could not be asked.
        """
        ((fsync, commit, standbys),), ((version, epoch, origin, policy),) = link.run(
            SETTINGS, Call(_STORE)
        )
        if version > VERSION:
            raise SchemaTooNew(
                f"the schema {self._schema} has version {version} by now, and this program knows "
                f"versions up to {VERSION}"
            )
        self.note(fsync, commit, standbys)
        mine = self._origin(link)
        if mine is not None and self._is_another(origin, mine):
            epoch = self._renew(link, mine)
        self.epoch = epoch
        self._refuse(
            "policy",
            "its servers keep another policy than this one; give all of them the same settings"
            if policy not in ("", self._policy)
            else None,
        )

    def note(self, fsync: str, synchronous_commit: str, standby_names: str) -> None:
        """Take the settings that say what a commit survives."""
        durability = durability_of(fsync, synchronous_commit, standby_names)
        if durability is not self.durability:
            if _LEVELS.index(durability) < _LEVELS.index(self.durability):
                log.warning("the database promises '%s' now, and no more", durability)
            self.durability = durability
            for call in self.on_durability:
                call(durability)
        least = self._least
        self._refuse(
            "durability",
            f"the database promises '{durability}' (fsync {fsync}, synchronous_commit "
            f"{synchronous_commit}, synchronous_standby_names '{standby_names}'), and '{least}' is "
            "asked for"
            if least is not None and _LEVELS.index(durability) < _LEVELS.index(least)
            else None,
        )

    def permit(self, link: Link) -> None:
        """Return if writes are taken, by what the database promised within the last second.

        Raises:
            StoreUnavailable: they are refused, with why.
            EngineError, LinkLost: it could not be asked.
        """
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + PROMISE_SECONDS
            (((fsync, commit, standbys),),) = link.run(SETTINGS)
            self.note(fsync, commit, standbys)
        if self.refusal is not None:
            raise StoreUnavailable(f"the store refuses writes: {self.refusal}")

    def _refuse(self, what: str, reason: str | None) -> None:
        with self._lock:
            before = self.refusal
            self._reasons[what] = reason
            reasons = self._reasons.values()
            self.refusal = refusal = next((each for each in reasons if each is not None), None)
        if refusal is not None and refusal != before:
            self._complaints.error("the store refuses writes: %s", refusal)
        elif refusal is None and before is not None:
            log.warning("the store takes writes again")

    def _origin(self, link: Link) -> str | None:
        """Return where the tables come from; None where a standby is asked."""
        before = self._clock()
        ((cluster, timeline, database, tables, started, standby, theirs),) = link.execute(_ORIGIN)
        after = self._clock()
        if after - before < 1:
            self._note_clock(round((before + after) * 500) - theirs)
        self._refuse("standby", "it is a standby, which takes no writes" if standby else None)
        if standby:
            return None
        return "/".join([cluster, timeline, database, tables, started])

    def _is_another(self, noted: str, mine: str) -> bool:
        """Return whether the tables come from elsewhere than was noted.

        The start of the database is always noted and asked about only where it matters. So servers
        that are promised different things, by a role's settings for instance, note the same.
        """
        if self.durability is Durability.PROCESS:
            return noted != mine
        return noted.rpartition("/")[0] != mine.rpartition("/")[0]

    def _note_clock(self, offset_ms: int) -> None:
        self.clock_offset_ms = offset_ms
        if abs(offset_ms) >= CLOCK_WARN_MS:
            log.warning("this machine's clock is %d ms ahead of the database's", offset_ms)
        self._refuse(
            "clock",
            f"this machine's clock is {offset_ms} ms ahead of the database's"
            if abs(offset_ms) >= CLOCK_REFUSE_MS
            else None,
        )

    def _renew(self, link: Link, origin: str) -> int:
        """Renew the epoch, unless another server was faster; return it."""
        with link.transaction():
            link.execute(_LOCK, self._schema)
            ((_, epoch, noted, _),) = link.execute(_STORE)
            if self._is_another(noted, origin):
                first = not noted
                epoch = next_epoch(epoch)
                link.execute("UPDATE store SET epoch = $1::bigint, origin = $2", epoch, origin)
                if not first:
                    log.warning(
                        "the database was put back or has failed over: the seqs of all mailboxes "
                        "jump (epoch %d)",
                        epoch,
                    )
        return int(epoch)

    def settle_policy(self, link: Link, *, alone: bool) -> None:
        """Have this server's policy be the store's, if it is the first or no other has it open.

        Raises:
            StoreNotOpened: other servers have it open under another policy.
            EngineError, LinkLost: it could not be asked.
        """
        with link.transaction():
            link.execute(_LOCK, self._schema)
            ((_, _, _, policy),) = link.execute(_STORE)
            if policy == self._policy:
                return
            if policy and not alone:
                raise StoreNotOpened(
                    "other servers use this store under another policy, and all must have the same "
                    f"settings: theirs is {policy}; this server's is {self._policy}"
                )
            link.execute("UPDATE store SET policy = $1", self._policy)
        self._refuse("policy", None)


def durability_of(fsync: str, synchronous_commit: str, standby_names: str) -> Durability:
    """Return what a commit survives under these settings.

    ``remote_write`` and ``local`` do not wait until a standby has it on its disk.
    """
    if fsync != "on" or synchronous_commit == "off":
        return Durability.PROCESS
    if standby_names.strip() and synchronous_commit in ("on", "remote_apply"):
        return Durability.REPLICATED
    return Durability.DISK


def written(policy: MailboxPolicy) -> str:
    """Return a policy as the store keeps it."""
    return policy.model_dump_json()


def wall_clock() -> float:
    """Return this machine's time in seconds since 1970."""
    return time.time()
