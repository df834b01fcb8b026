"""Accounts, sessions and messages to put into a store, complete with what no test asks for."""

import itertools
from pathlib import Path

from twinline.core.store import (
    Account,
    Blocked,
    Depths,
    Draft,
    Invitation,
    Mailboxes,
    MailboxPolicy,
    PeerReceipt,
    SessionKey,
    SessionRecord,
    Store,
)
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.mailboxes import MemoryMailboxes
from twinline.stores.sqlite import SqliteStore, Synchronous

ALL = 10**9
"""More than any page has."""
HOUR = 60 * 60 * 1000
DAY = 24 * HOUR
VERSION_1 = Path(__file__).with_name("version_1.db")
"""A file that the last program with version 1 of the SQLite store's tables wrote.

It has four accounts, one of them withdrawn and its mailbox still to be swept, two sessions, mail
and send_ids; and what that version's interruptions could leave: two mailboxes of no account, and
an account without one.
"""
VERSION_2 = Path(__file__).with_name("version_2.db")
"""The same of version 2: ann and bob with a session and an address each, mail, history, acks and
send_ids; and a name that is reserved.
"""
VERSION_3 = Path(__file__).with_name("version_3.db")
"""What the last program with version 3 made of that: carl beside them, who is disabled and has
sent to bob; bob's quota; an invitation; and one more message of ann's to bob.
"""
THREE_DEEP = MailboxPolicy(mailbox_messages=3)
"""By which `fill_to_three_depths` fills mailboxes."""
_ids = itertools.count(1)


def account(username: str, account_id: str | None = None) -> Account:
    """Return an account; its id is ``id-`` and its name unless one is given."""
    return Account(account_id or f"id-{username}", username, "$argon2id$old", created_at=1)


def session(token: str, username: str = "ann") -> SessionRecord:
    """Return a session of an account that `account` made."""
    return SessionRecord(token.encode(), f"id-{username}", username, opened_at=1, used_at=1)


def key(token: str, username: str = "ann") -> SessionKey:
    """Return what a session that `session` made is found by."""
    return session(token, username).key


def draft(
    body: str = "hello",
    *,
    sender: str = "ann",
    sent_at: int = 1,
    send_id: str | None = None,
) -> Draft:
    """Return a message that nobody sent yet."""
    return Draft(f"{next(_ids):024x}", f"id-{sender}", sender, body, sent_at, send_id)


def boxes_with(**policy: float) -> MemoryMailboxes:
    """Return empty mailboxes of ann and bob under a policy."""
    boxes = MemoryStore(MailboxPolicy.model_validate(policy)).mailboxes
    for account_id in ("ann", "bob"):
        boxes.create(account_id)
    return boxes


def fill(boxes: Mailboxes, count: int, account_id: str = "bob") -> None:
    """Append so many messages: m1, m2, ..."""
    for number in range(count):
        boxes.append(account_id, draft(f"m{number + 1}"))


def read(boxes: Mailboxes, after: int = 0, limit: int = ALL) -> list[int]:
    """Return the seqs that bob reads."""
    return [message.seq for message in boxes.read("bob", after, limit, ALL).messages]


def history(
    boxes: Mailboxes, before: int | None = None, limit: int = ALL, now: int = 1
) -> list[int]:
    """Return the seqs in the history of bob."""
    return [message.seq for message in boxes.history("bob", before, limit, ALL, now).messages]


def operated(store: Store) -> None:
    """Do what an operator does, to the accounts of `filled`."""
    store.accounts.change_password(
        "id-bob", "$argon2id$once", instead_of=None, keep=None, must_change=True
    )
    store.accounts.enable("id-carl", enabled=False)
    store.mailboxes.set_quota("id-ann", 300)
    store.mailboxes.set_quota("id-carl", 1)
    for number in range(300):  # more than a page
        token_hash = number.to_bytes(32)
        store.accounts.add_invitation(Invitation(token_hash, number, 2**50, f"for {number}"))


def filled(path: Path, policy: MailboxPolicy) -> Path:
    """Return a file with accounts, mail, history, gaps, acks and send_ids of every kind."""
    with SqliteStore(path, policy, synchronous=Synchronous.NORMAL) as store:
        for name in ("ann", "bob", "carl"):
            store.mailboxes.create(f"id-{name}")
            store.accounts.create(account(name))
            store.accounts.note_address(f"id-{name}", "::1", 5, most=3)
            store.accounts.open_session(session(f"token-{name}", name))
        boxes = store.mailboxes
        for number in range(320):  # more than a page
            boxes.append("id-ann", draft(f"m{number}", send_id=f"s{number}"))
        boxes.ack("id-ann", 20, HOUR)
        boxes.ack("id-ann", 40, 2 * HOUR)
        boxes.delete("id-ann", [3, 30, 100, 320])
        boxes.append("id-bob", draft("half a pair \ud800 and \0", send_id="\udfff"))
        store.mailboxes.create("id-old")
        store.accounts.create(account("old"))
        for number in range(300):  # more than a page
            copied = draft(f"{number} \ud800", sender="bob", sent_at=number + 1)
            boxes.append("id-old", copied._replace(copy_to="old"))
        for number in range(2):
            boxes.put_receipt("id-bob", PeerReceipt(f"id-{number}", f"{number}", 7, HOUR))
            boxes.block("id-bob", Blocked(f"id-{number}", f"{number}"))
        boxes.set_receipts("id-carl", receipts=False)
        store.accounts.withdraw("id-old", keep_name=True)
    return path


def fill_to_three_depths(store: Store) -> None:
    """See that an empty store tells how full its mailboxes become."""
    boxes = store.mailboxes
    assert boxes.depths() == Depths(0, 0, 0)
    for name, count in (("empty", 0), ("two", 2), ("full", 3)):
        boxes.create(name)
        fill(boxes, count, name)
    assert boxes.depths() == Depths(3, 3, 1)
    boxes.set_quota("two", 2)
    assert boxes.depths() == Depths(3, 3, 2)
    boxes.set_quota("full", 9)
    assert boxes.depths() == Depths(3, 3, 1)
    boxes.ack("full", 3, 2)
    assert boxes.depths() == Depths(3, 2, 1)
    boxes.drop("two")
    assert boxes.depths() == Depths(2, 0, 0)


def note_commits(store: Store) -> None:
    """See that a store tells of its commits with their writes."""
    told: list[tuple[int, float]] = []
    store.on_commit(lambda writes, seconds: told.append((writes, seconds)))
    store.mailboxes.create("box")
    fill(store.mailboxes, 2, "box")
    store.close()  # what is told is told by then
    assert sum(writes for writes, _ in told) >= 2
    assert all(writes >= 1 and 0 < seconds < 60 for writes, seconds in told)
