"""What an operator asks of a PostgreSQL store: an older one brought up, and messages looked for."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from postgres_stores import run
from store_samples import (
    THREE_DEEP,
    account,
    draft,
    fill_to_three_depths,
    note_commits,
    session,
)

from twinline.core.errors import StoreUnavailable
from twinline.core.protocol import TALK
from twinline.core.store import MailboxUsage, Peer
from twinline.stores.postgresql import PostgresqlStore, tracing
from twinline.stores.postgresql.schema import VERSION
from twinline.stores.postgresql.upkeep import PostgresqlUpkeep
from twinline.stores.upkeep import Migration

MANY = 50_000
# What each version has and the one before had not.
VERSION_2 = (
    "ALTER TABLE mailboxes DROP COLUMN newest, DROP COLUMN gives_receipts",
    "ALTER TABLE mailboxes DROP COLUMN copies, DROP COLUMN receipts, DROP COLUMN blocked",
    "ALTER TABLE messages DROP COLUMN sender_id, DROP COLUMN n",
    "ALTER TABLE send_ids DROP COLUMN n",
    "DROP TABLE copies, receipts, blocked",
    "UPDATE store SET version = 2",
)
VERSION_1 = (
    *VERSION_2,
    "ALTER TABLE names DROP COLUMN enabled, DROP COLUMN must_change",
    "ALTER TABLE mailboxes DROP COLUMN quota",
    "DROP TABLE invitations",
    "UPDATE store SET version = 1",
)


@pytest.mark.parametrize("by", ["a server", "a command"])
@pytest.mark.parametrize("version", [1, 2])
def test_tables_of_a_version_of_before_are_brought_up(
    store_url: str, version: int, by: str
) -> None:
    ann, record = account("ann"), session("token")
    with PostgresqlStore.open(store_url) as store:
        store.mailboxes.create(ann.account_id)
        store.accounts.create(ann)
        store.accounts.open_session(record)
        store.mailboxes.append(ann.account_id, draft("kept", sender="bob", send_id="x"))
    run(store_url, *(VERSION_1 if version == 1 else VERSION_2))
    upkeep = PostgresqlUpkeep(store_url)
    if by == "a command":
        assert upkeep.migrate() == Migration(version, VERSION, None)
    with PostgresqlStore.open(store_url) as store:
        assert store.accounts.find("ann") == ann
        assert store.accounts.find_session(record.key) == record
        assert store.mailboxes.usage(ann.account_id) == MailboxUsage(1, 1, 4, None)
        store.mailboxes.set_quota(ann.account_id, 5)
        store.accounts.enable(ann.account_id, enabled=False)
        again = draft("kept", sender="bob", send_id="x")
        assert store.mailboxes.append(ann.account_id, again).n == 0, "there was none yet"
        talk = store.mailboxes.history(
            ann.account_id, None, 9, 99, 1, kinds=TALK, peer=Peer("id-bob", "bob")
        )
        assert [each.body for each in talk.messages] == ["kept"]
        new = draft("new", sent_at=7)._replace(copy_to="ann", sender_id=ann.account_id)
        assert store.mailboxes.append(ann.account_id, new).n == 7
    findings = upkeep.check()
    assert (findings.faults, findings.notes) == ([], [])


def test_looking_through_all_mail_ends_in_time_and_keeps_no_connection(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresqlStore.open(store_url) as store:
        boxes = store.mailboxes
        boxes.create("bob")
        boxes.create("carl")
        message = draft("hello")
        boxes.append("bob", message)
        run(
            store_url,
            "INSERT INTO messages (box, seq, message_id, sender, body, sent_at) "
            "SELECT box, number, number, 'ann', '', 1 FROM mailboxes, "
            f"generate_series(2, {MANY}) AS number WHERE account_id = 'carl'",
            f"UPDATE mailboxes SET last = {MANY}, unread = {MANY} - 1 WHERE account_id = 'carl'",
        )

        assert boxes.trace("nowhere", "bob", now=2) is None
        found = boxes.trace(message.message_id, now=2)
        assert found is not None
        assert (found.account_id, found.seq) == ("bob", 1)
        assert boxes.trace(str(MANY), now=2) is not None
        # What is asked for may be anything; what cannot be an id is none.
        assert boxes.trace("1\0", now=2) is boxes.trace("\ud800", now=2) is None
        with monkeypatch.context() as patched:
            patched.setattr(tracing, "_SET", tracing._SET.replace("'30000'", "'1'"))
            with pytest.raises(StoreUnavailable, match="say whose mailbox"):
                boxes.trace("nowhere", now=2)
        with ThreadPoolExecutor(1) as beside:  # the main thread has a connection of its own
            assert beside.submit(boxes.trace, "nowhere", now=2).result() is None
        assert store._tracing._alone._free.get_nowait() is None


def test_it_tells_how_full_its_mailboxes_are_and_of_its_commits(store_url: str) -> None:
    with PostgresqlStore.open(store_url, THREE_DEEP) as store:
        fill_to_three_depths(store)
        note_commits(store)
