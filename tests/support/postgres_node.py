"""A node on PostgreSQL whose accounts alone are in the database, for what is asked of that half."""

from typing import Any, Self

from twinline.core.store import Durability, Mailboxes, MailboxPolicy, SharedStates, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.postgresql.accounts import PostgresqlAccounts
from twinline.stores.postgresql.database import Database, Pool
from twinline.stores.postgresql.link import Call, Rows
from twinline.stores.postgresql.schema import prepare
from twinline.stores.postgresql.states import PostgresqlStates
from twinline.stores.postgresql.url import parse_url
from twinline.stores.postgresql.wakes import Wakes

NO_POLICY = MailboxPolicy()


class CountingPool(Pool):
    """A pool that counts what is run on it.

    Attributes:
        runs: how often `run` was called.
    """

    runs = 0

    def run(self, *calls: Call) -> list[Rows]:
        self.runs += 1
        return super().run(*calls)


class AccountsNode(Store):
    """A server's accounts and states; its mailboxes are in memory.

    Attributes:
        url: of the database.
        pool: its connections for accounts.
        wakes: tells and hears.
    """

    def __init__(
        self,
        url: str,
        policy: MailboxPolicy = NO_POLICY,
        mailboxes: Mailboxes | None = None,
    ) -> None:
        self.url = url
        self.durability = Durability.NONE
        target = parse_url(url)
        self._database = Database(target)
        link = self._database.open()
        prepare(link, target.schema)
        link.close()
        self.pool = CountingPool(self._database, 2, writes=True)
        self.wakes = Wakes(self._database)
        self.accounts: Any = PostgresqlAccounts(self.pool, self.wakes, lambda _link: None)
        self.states: SharedStates = PostgresqlStates(self.pool)
        self.mailboxes = mailboxes or MemoryStore(policy).mailboxes
        self.wakes.start()
        self.accounts.start()

    def __enter__(self) -> Self:
        return self

    @property
    def listener(self) -> int:
        """The process that this node's notices come from."""
        link = self.wakes._listening.link
        assert link is not None
        return link.backend

    def close(self) -> None:
        self.accounts.close()
        self.wakes.close()
        self.pool.close()
        self._database.close()
