"""What archives over a network do without an engine: their names, and pages behind beginnings."""

from collections.abc import Sequence

import pytest

from twinline.core.store import Blocked
from twinline.stores.archive import (
    AckRow,
    CopyRow,
    MailboxRow,
    MessageRow,
    ReceiptRow,
    SendIdRow,
)
from twinline.stores.registry import upkeep_of
from twinline.stores.shared.paged import FIRST, Beginnings, PagedArchive

ID = "id-ann"
BLOCKED = Blocked("c", "carl")


class Listed(PagedArchive):
    """A mailbox with so many rows of each kind, and how often it was asked."""

    def __init__(self, count: int) -> None:
        self.rows = [MessageRow(seq, "m", "bob", "x", 1) for seq in range(1, count + 1)]
        self.passed = [AckRow(row.seq, 9) for row in self.rows]
        self.known = [SendIdRow(row.seq, "b", "s", b"", "m", 1) for row in self.rows]
        self.sent = [CopyRow(row.seq, "m", "ann", "b", "bob", "x", 1, 1) for row in self.rows]
        self.told = [ReceiptRow(row.seq, "b", "bob", 1, 9) for row in self.rows]
        self.asked = 0

    def _beginnings(self, account_id: str) -> Beginnings | None:
        self.asked += 1
        if account_id != ID:
            return None
        return Beginnings(
            MailboxRow(ID, 0, 9),
            self.rows[:FIRST],
            self.passed[:FIRST],
            self.known[:FIRST],
            self.sent[:FIRST],
            self.told[:FIRST],
            [BLOCKED],
        )

    def _messages(self, _account_id: str, after: int, limit: int) -> Sequence[MessageRow]:
        self.asked += 1
        return self.rows[after : after + limit]

    def _acks(self, _account_id: str, after: int, limit: int) -> Sequence[AckRow]:
        self.asked += 1
        return self.passed[after : after + limit]

    def _send_ids(self, _account_id: str, after: int, limit: int) -> Sequence[SendIdRow]:
        self.asked += 1
        return self.known[after : after + limit]

    def _copies(self, _account_id: str, after: int, limit: int) -> Sequence[CopyRow]:
        self.asked += 1
        return self.sent[after : after + limit]

    def _receipts(self, _account_id: str, after: int, limit: int) -> Sequence[ReceiptRow]:
        self.asked += 1
        return self.told[after : after + limit]


Listed.__abstractmethods__ = frozenset()  # what is not tried here is not asked


@pytest.mark.parametrize("count", [0, 3, FIRST - 1, FIRST, FIRST + 1, 3 * FIRST])
@pytest.mark.parametrize("limit", [100, FIRST, 2 * FIRST])
def test_pages_have_every_row_once(count: int, limit: int) -> None:
    archive = Listed(count)  # type: ignore[abstract]
    for read, rows in (
        (archive.messages, archive.rows),
        (archive.acks, archive.passed),
        (archive.send_ids, archive.known),
        (archive.copies, archive.sent),
        (archive.receipts, archive.told),
    ):
        found: list[object] = []
        after = 0
        while page := read(ID, after, limit):  # type: ignore[operator]
            found += page
            after = page[-1][0]
        assert found == rows
    assert archive.blocked(ID) == [BLOCKED]
    if count < FIRST:
        assert archive.asked == 1
    assert archive.mailbox("another") is None
    assert archive.messages("another", 0, 9) == ()
    assert archive.copies("another", 0, 9) == archive.receipts("another", 0, 9) == ()
    assert archive.blocked("another") == ()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:secret@db/chat", "postgresql://db/chat"),
        (
            "postgresql://me:secret@one:1,two:2/chat?schema=s&sslpassword=secret",
            "postgresql://one:1,two:2/chat?schema=s",
        ),
        (
            "postgresql:///chat?host=/run/secretless&password=secret",
            "postgresql:///run/secretless/chat",
        ),
        ("redis://me:secret@db", "redis://db:6379"),
        ("rediss://:secret@db:1/3?prefix=p:", "rediss://db:1/3?prefix=p:"),
        ("redis+cluster://me:secret@a:1,b:2", "redis+cluster://a:1,b:2"),
    ],
)
def test_a_store_is_named_without_its_secrets(url: str, name: str) -> None:
    pytest.importorskip("psycopg" if url.startswith("postgresql") else "redis")
    assert upkeep_of(url).name == name
