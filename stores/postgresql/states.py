"""Small values that all servers change one after the other: what limits count.

A value is changed under an advisory lock of its transaction, which also holds where there is no
row yet. What has expired goes a few at a time, with the changes of others: those rows that nobody
else has locked, so that no change waits for another's key. What an engine loses of them when it
fails does not matter, so no disk is waited for.
"""

# ruff: noqa: D102 - the contract tells what the methods do

from typing import Final

from twinline.core.store import SharedStates, Step
from twinline.stores.postgresql.database import Pool
from twinline.stores.postgresql.link import Call

_SWEPT: Final = 4  # more than one change can add

# A hash that two keys share makes one wait for the other, and nothing else.
_LOCK: Final = """
    SELECT pg_advisory_xact_lock(hashtextextended(encode($1, 'hex'), hashtext(current_schema))),
        set_config('synchronous_commit', 'off', true)"""
_READ: Final = "SELECT value FROM states WHERE key = $1 AND expires_at > clock_timestamp()"
_KEEP: Final = """
    INSERT INTO states (key, value, expires_at)
    VALUES ($1, $2, clock_timestamp() + $3::bigint * interval '1 millisecond')
    ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"""
_DROP: Final = "DELETE FROM states WHERE key = $1"
_SWEEP: Final = f"""
    DELETE FROM states WHERE key IN (
        SELECT key FROM states WHERE expires_at <= clock_timestamp()
        ORDER BY expires_at LIMIT {_SWEPT} FOR UPDATE SKIP LOCKED)"""  # noqa: S608 - a number


class PostgresqlStates(SharedStates):
    """Values in a table."""

    def __init__(self, pool: Pool) -> None:
        """Prepare.

        Args:
            pool: the connections for accounts.
        """
        self._pool = pool

    def change(self, key: str, step: Step, *, keep_ms: int) -> None:
        name = key.encode(errors="surrogatepass")
        with self._pool.lend() as link, link.transaction():
            _, rows = link.run(Call(_LOCK, name), Call(_READ, name))
            before = rows[0][0] if rows else None
            after = step(before)
            if after is not None:
                link.run(Call(_KEEP, name, after, keep_ms), Call(_SWEEP))
            elif before is not None:
                link.run(Call(_DROP, name), Call(_SWEEP))

    def read(self, key: str) -> bytes | None:
        (rows,) = self._pool.run(Call(_READ, key.encode(errors="surrogatepass")))
        return rows[0][0] if rows else None
