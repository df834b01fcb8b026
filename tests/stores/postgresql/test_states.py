"""What limits count in PostgreSQL: one after the other, and forgotten a few at a time."""

import threading
from functools import partial

from postgres_engine import PostgresEngine
from postgres_node import AccountsNode
from waiting import Call, wait_event

KEEP_MS = 60_000


def become(value: bytes) -> partial[bytes]:
    return partial(lambda new, _old: new, value)


def test_a_change_waits_for_that_of_another_server_and_for_no_other(database: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(old: bytes | None) -> bytes:
        begun.set()
        wait_event(go_on, "the step goes on")
        return (old or b"") + b"a"

    with AccountsNode(database) as here, AccountsNode(database) as there:
        first = Call(lambda: here.states.change("one", slowly, keep_ms=KEEP_MS))
        wait_event(begun, "the first step")
        second = Call(
            lambda: there.states.change("one", lambda old: (old or b"") + b"b", keep_ms=KEEP_MS)
        )
        there.states.change("another", become(b"c"), keep_ms=KEEP_MS)
        assert there.states.read("one") is None
        go_on.set()
        first.outcome()
        second.outcome()
        assert here.states.read("one") == b"ab"
        assert here.states.read("another") == b"c"


def test_what_has_expired_goes_a_few_at_a_time(database: str, postgres: PostgresEngine) -> None:
    name = database.rpartition("/")[2]

    def rows() -> int:
        ((count,),) = postgres.sql("SELECT count(*) FROM twinline.states", database=name)
        return int(count)

    with AccountsNode(database) as node:
        for number in range(20):
            node.states.change(f"{number}", become(b"1"), keep_ms=KEEP_MS)
        assert rows() == 20
        postgres.sql("UPDATE twinline.states SET expires_at = now()", database=name)
        before = rows()
        node.states.change("kept", become(b"1"), keep_ms=KEEP_MS)
        assert before - 5 <= rows() < before
        for _ in range(5):
            node.states.change("kept", become(b"2"), keep_ms=KEEP_MS)
        assert rows() == 1
        assert node.states.read("kept") == b"2"
        node.states.change("kept", lambda _old: None, keep_ms=KEEP_MS)
        assert rows() == 0
