"""The SQLite store against the models that the in-memory store is held to, by random steps."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant
from store_steps import NAMES, AccountSteps, MailboxSteps

from twinline.core.store import SessionKey
from twinline.stores.sqlite import SqliteStore, Synchronous
from twinline.stores.sqlite import mailboxes as sqlite_mailboxes
from twinline.stores.sqlite import send_ids as sqlite_send_ids
from twinline.stores.sqlite.upkeep import check


class SqliteMailboxSteps(MailboxSteps):
    """The same steps, with sweeps and expiry in small pieces."""

    @initialize(
        mailbox_messages=st.integers(1, 6),
        history_messages=st.integers(0, 4),
        history_days=st.sampled_from([0, 0.5, 2, 100]),
        send_id_hours=st.sampled_from([0, 3, 1000]),
        send_ids_per_mailbox=st.sampled_from([1, 2, 100]),
        piece=st.sampled_from([1, 2]),
    )
    def start(self, piece: int, **policy: float) -> None:
        super().start(dead=1, **policy)
        self.patch.setattr(sqlite_mailboxes, "_SWEEP", piece)
        self.patch.setattr(sqlite_send_ids, "_EXPIRE", piece)
        # Long enough for every trim, as the model trims at once.
        self.patch.setattr(sqlite_mailboxes, "_TRIM_SECONDS", 30)
        self.folder = tempfile.TemporaryDirectory()
        self.store = SqliteStore(
            Path(self.folder.name) / "s", self.policy, synchronous=Synchronous.NORMAL
        )
        self.boxes = self.store.mailboxes
        self.begin()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            with SqliteStore(self.store.path, self.policy) as again:
                self.boxes = again.mailboxes
                self.stands()
            findings = check(self.store.path)
            assert not findings.faults
            self.folder.cleanup()
        super().teardown()


class SqliteAccountSteps(AccountSteps):
    """The same steps."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.store = SqliteStore(Path(self.folder.name) / "s", synchronous=Synchronous.NORMAL)
        self.accounts = self.store.accounts

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()
        super().teardown()

    @invariant()
    def agrees(self) -> None:
        for name in NAMES:
            found = self.accounts.find(name)
            assert (found.account_id if found else None) == self.ids.get(name)
        for token, owner in self.sessions.items():
            record = self.accounts.find_session(SessionKey(owner, token))
            assert record is not None
            assert record.account_id == owner


few = settings(max_examples=12, stateful_step_count=25, deadline=None)

TestSqliteMailboxes = SqliteMailboxSteps.TestCase
TestSqliteMailboxes.settings = few
TestSqliteAccounts = SqliteAccountSteps.TestCase
TestSqliteAccounts.settings = few
