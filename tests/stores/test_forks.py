"""A store that a forked child inherits refuses the child, and the parent's stays whole."""

import gc
import os
import sqlite3
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forking import Child
from services import cheap_hasher
from store_samples import account, draft, key, session
from waiting import Call, wait_event

from twinline.core.forks import ForkedStore
from twinline.core.service import ChatService
from twinline.core.store import MailboxLook, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore, StoreLocked

ALL = 10**6
CALLS: dict[str, Callable[[Store], object]] = {
    "append": lambda store: store.mailboxes.append("bob", draft()),
    "read": lambda store: store.mailboxes.read("bob", 0, 9, ALL),
    "on_mail": lambda store: store.mailboxes.on_mail("bob", lambda: None),
    "find": lambda store: store.accounts.find("ann"),
    "recipient": lambda store: store.accounts.recipient("ann"),
    "look": lambda store: store.mailboxes.look(MailboxLook("bob", 0, 9, ALL, None, 1)),
    "look_many": lambda store: store.mailboxes.look_many([]),
    "find_session": lambda store: store.accounts.find_session(key("ann")),
    "open_session": lambda store: store.accounts.open_session(session("ann")),
    "page": lambda store: store.accounts.withdraw("ann", keep_name=False),
}


def filled(store: Store) -> Store:
    store.mailboxes.create("bob")
    store.accounts.create(account("ann"))
    store.accounts.open_session(session("ann"))
    store.mailboxes.append("bob", draft())
    assert store.accounts.find("ann")  # cached from now on, perhaps
    assert store.accounts.find_session(key("ann"))
    return store


def test_every_call_is_refused_and_the_parent_goes_on(open_store: Callable[[], Store]) -> None:
    store = filled(open_store())

    def look() -> None:
        for call in CALLS.values():
            with pytest.raises(ForkedStore, match="has inherited this store by a fork"):
                call(store)
        store.close()

    before = store.mailboxes.standing("bob").unread
    children = [Child(look) for _ in range(3)]
    store.mailboxes.append("bob", draft())
    for child in children:
        child.end()
    store.mailboxes.append("bob", draft())
    assert store.mailboxes.standing("bob").unread == before + 2


def test_a_thread_that_holds_a_lock_at_the_fork_does_not_hold_up_the_child(
    open_store: Callable[[], Store],
) -> None:
    store = filled(open_store())
    lock = store.mailboxes._lock if isinstance(store, MemoryStore) else store._writer._lock
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(20)

    def look() -> None:
        for call in CALLS.values():
            with pytest.raises(ForkedStore):
                call(store)

    holder = Call(hold)
    wait_event(held, "the lock is held by a thread that the child does not have")
    child = Child(look)
    over.set()
    holder.outcome()
    child.end()


def test_a_child_has_ids_of_its_own(open_store: Callable[[], Store]) -> None:
    service = ChatService(open_store(), hasher=cheap_hasher())
    service._messages._draw_ids()

    def look() -> None:
        assert service._messages._ids == []

    Child(look).end()


def test_the_right_to_serve_a_file_ends_with_the_parent_though_a_child_lives_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.db"
    reading, writing = os.pipe()
    store = SqliteStore(path)

    def look() -> None:
        with pytest.raises(StoreLocked):
            SqliteStore(path)
        os.read(reading, 1)
        with pytest.raises(StoreLocked):
            SqliteStore(path)

    child = Child(look)
    store.close()
    with SqliteStore(path) as again:
        again.mailboxes.create("bob")
    os.write(writing, b"x")
    child.end()
    os.close(reading)
    os.close(writing)


def test_a_child_never_finalises_a_connection(tmp_path: Path) -> None:
    connections: list[weakref.ref[sqlite3.Connection]] = []

    class Connection(sqlite3.Connection):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            connections.append(weakref.ref(self))

    store: Any = filled(SqliteStore(tmp_path / "s.db", factory=Connection))
    Call(lambda: store.mailboxes.standing("bob")).outcome()
    open_now = sum(each() is not None for each in connections)
    assert open_now == 4, "the writer's, the anchor, the main thread's and another reader's"

    def look() -> None:
        nonlocal store
        del store
        gc.collect()
        assert sum(each() is not None for each in connections) == open_now

    Child(look).end()
    assert store.mailboxes.standing("bob").unread == 1
    store.close()


SCRIPT = """
import os, sys
from twinline.stores.sqlite import SqliteStore
path, ready, go = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
store = SqliteStore(path)
store.mailboxes.create("bob")
if os.fork():
    store.close()
    os.write(ready, b"x")
    os._exit(0)
os.read(go, 1)
# The child ends as a program does: what it has is finalised.
"""


def test_a_child_that_ends_takes_nothing_from_the_next_server(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    (ready, say_ready), (go, say_go) = os.pipe(), os.pipe()
    parent = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(path), str(say_ready), str(go)],
        pass_fds=(say_ready, go),
    )
    assert os.read(ready, 1)
    assert parent.wait(20) == 0
    os.close(say_ready)
    with SqliteStore(path) as store:
        store.mailboxes.append("bob", draft("kept"))
        os.write(say_go, b"x")
        assert os.read(ready, 1) == b"", "the child has ended, and what it had open"
        store.mailboxes.append("bob", draft("as well"))
    for descriptor in (ready, go, say_go):
        os.close(descriptor)
    with SqliteStore(path) as store:
        bodies = [message.body for message in store.mailboxes.read("bob", 0, 9, ALL).messages]
    assert bodies == ["kept", "as well"]
