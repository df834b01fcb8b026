"""Stores are opened by URL: the built-in one, and those that other packages register."""

import sys
from importlib.metadata import EntryPoint, EntryPoints

import pytest
from store_samples import draft

from twinline.cli.settings.model import Settings
from twinline.core.errors import MailboxFull, TwinlineError
from twinline.core.store import MailboxPolicy, Store
from twinline.stores import registry
from twinline.stores.memory import MemoryStore
from twinline.stores.registry import UnknownStore, is_shared, open_store, store_schemes
from twinline.stores.sqlite import SqliteStore

OPENED: list[tuple[str, MailboxPolicy]] = []
NOT_CALLABLE = "not callable"


def open_other(url: str, policy: MailboxPolicy) -> Store:
    """What a third party registers."""
    OPENED.append((url, policy))
    return MemoryStore(policy)


def open_nothing(url: str, policy: MailboxPolicy) -> object:
    return object()


def open_broken(url: str, policy: MailboxPolicy) -> Store:
    raise ConnectionError("no server there")


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entry points as other packages have them."""
    here = __name__
    values = {
        "other": f"{here}:open_other",
        "memory": f"{here}:open_other",
        "nothing": f"{here}:open_nothing",
        "broken": f"{here}:open_broken",
        "missing": "there.is.no.such.module:open_it",
        "uncallable": f"{here}:NOT_CALLABLE",
    }
    points = EntryPoints(
        EntryPoint(name, value, "twinline.stores") for name, value in values.items()
    )
    monkeypatch.setattr(registry, "entry_points", points.select)
    OPENED.clear()


def test_the_store_in_memory() -> None:
    store = open_store("memory:", MailboxPolicy(mailbox_messages=1))
    assert isinstance(store, MemoryStore)
    store.mailboxes.create("bob")
    store.mailboxes.append("bob", draft())
    with pytest.raises(MailboxFull):
        store.mailboxes.append("bob", draft())
    assert isinstance(open_store("memory:"), MemoryStore)
    assert "memory" in store_schemes()


def test_a_store_sees_no_more_of_a_servers_settings_than_the_policy(others: None) -> None:
    open_store("other:", Settings(store="other:secret", mailbox_messages=7))
    (opened,) = OPENED
    assert opened == ("other:", MailboxPolicy(mailbox_messages=7))
    assert type(opened[1]) is MailboxPolicy


def test_two_stores_in_memory_share_nothing() -> None:
    first, second = open_store("memory:"), open_store("memory:")
    first.mailboxes.create("ann")
    second.mailboxes.create("ann")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory", "written as a URL, like memory:"),
        ("", "written as a URL, like memory:"),
        ("memory:here", "nothing after it"),
        ("memory://", "nothing after it"),
        ("memroy:", r"did you mean memory:\? \(known: memory:, postgresql:, redis:, redis\+clust"),
        ("postgres://db/chat", r"did you mean postgresql:\?"),
        ("dbm:/var/chat.db", r"there is no store 'dbm' \(known: memory:, .*, redis:, .*sqlite:\)"),
        (":", "there is no store ''"),
    ],
)
def test_what_cannot_be_opened_says_why(url: str, says: str) -> None:
    with pytest.raises(UnknownStore, match=says) as caught:
        open_store(url)
    assert isinstance(caught.value, TwinlineError)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hunter2@127.0.0.1:1/chat",
        "postgresql://ann:hunter2%zz@db",
        "memory:hunter2",
    ],
)
def test_no_error_repeats_what_may_be_a_password(url: str) -> None:
    with pytest.raises(TwinlineError) as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)


def test_a_long_scheme_is_cut() -> None:
    with pytest.raises(UnknownStore) as caught:
        open_store("x" * 10_000 + ":")
    assert len(str(caught.value)) < 200


@pytest.mark.usefixtures("others")
def test_other_packages_add_stores() -> None:
    policy = MailboxPolicy(history_days=1)
    assert isinstance(open_store("other://somewhere?x=1", policy), Store)
    assert [("other://somewhere?x=1", policy)] == OPENED
    assert store_schemes() == [
        "broken",
        "memory",
        "missing",
        "nothing",
        "other",
        "postgresql",
        "redis",
        "redis+cluster",
        "rediss",
        "sqlite",
        "uncallable",
    ]


@pytest.mark.usefixtures("others")
def test_a_built_in_scheme_cannot_be_replaced() -> None:
    open_store("memory:")
    assert OPENED == []


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("scheme", "says"),
    [
        ("nothing", "does not return a Store"),
        ("missing", "cannot be loaded from there.is.no.such.module:open_it"),
        ("uncallable", "cannot be called"),
    ],
)
def test_what_is_registered_wrongly_says_so(scheme: str, says: str) -> None:
    with pytest.raises(UnknownStore, match=says):
        open_store(f"{scheme}:hunter2")


@pytest.mark.usefixtures("others")
def test_a_store_that_cannot_be_opened_says_so_itself() -> None:
    with pytest.raises(ConnectionError, match="no server there"):
        open_store("broken:")


class SharedStore(MemoryStore):
    shared = True

    @classmethod
    def open(cls, url: str, policy: MailboxPolicy) -> Store:
        raise AssertionError("nothing is to be opened")


@pytest.mark.usefixtures("others")
def test_whether_servers_can_share_a_store_is_told_without_opening_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert [is_shared(url) for url in ("memory:", "sqlite:x", "other:", "no-such:")] == [False] * 4
    assert not OPENED
    monkeypatch.setattr(registry, "_plugged_in", lambda *_: SharedStore.open)
    assert is_shared("other:")
    monkeypatch.setattr(open_other, "shared", True, raising=False)
    monkeypatch.setattr(registry, "_plugged_in", lambda *_: open_other)
    assert is_shared("other:")


@pytest.mark.parametrize("scheme", registry._BUILT_IN)
def test_a_built_in_store_that_is_shared_says_so_itself_too(scheme: str) -> None:
    kinds = {"memory": MemoryStore, "sqlite": SqliteStore}
    if scheme in kinds:
        assert is_shared(f"{scheme}:") == kinds[scheme].shared
    else:
        assert is_shared(f"{scheme}:")


@pytest.mark.parametrize(("scheme", "extra"), [("redis", "redis"), ("redis+cluster", "redis")])
def test_a_missing_extra_is_named(scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    for name in [name for name in sys.modules if name.startswith("twinline.stores.valkey")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UnknownStore, match=rf"needs redis: pip install 'twinline\[{extra}\]'"):
        open_store(f"{scheme}://ann:hunter2@db")
