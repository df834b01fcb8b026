"""What the Valkey store decides without an engine: its URL, and where a key is in a cluster."""

import pytest

from twinline.core.store import Durability
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.valkey import Target, parse_url
from twinline.stores.valkey.wire import command, slot_of


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://db", Target((("db", 6379),))),
        ("redis://db:7000/2", Target((("db", 7000),), database=2)),
        ("redis://[::1]:7000", Target((("::1", 7000),))),
        ("redis://[::1]", Target((("::1", 6379),))),
        ("rediss://db?cafile=/ca.pem", Target((("db", 6379),), tls=True, cafile="/ca.pem")),
        (
            "redis+cluster://a:1,b?tls=yes",
            Target((("a", 1), ("b", 6379)), cluster=True, tls=True),
        ),
        (
            "redis://ann:p%40ss@db?prefix=chat:&durability=disk",
            Target(
                (("db", 6379),),
                username="ann",
                password="p@ss",
                prefix="chat:",
                durability=Durability.DISK,
            ),
        ),
        ("redis://:only@db", Target((("db", 6379),), password="only")),
    ],
)
def test_a_url_says_where_a_store_is(url: str, target: Target) -> None:
    assert parse_url(url) == target
    assert target.password is None or target.password not in repr(target)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis:hunter2", "is written redis://"),
        ("redis://", "needs HOST"),
        ("redis://ann:hunter2@", "needs HOST"),
        ("redis://ann:hunter2@db:port", "needs HOST"),
        ("redis://ann:hunter2@db:70000", "needs HOST"),
        ("redis://ann:hunter2@[::1", "cannot be read"),
        ("redis://ann:hunter2@a,b", "only redis\\+cluster"),
        ("redis://ann:hunter2@db/chat", "number of a database"),
        ("redis+cluster://ann:hunter2@db/1", "a cluster has none"),
        ("redis://ann:hunter2@db?hunter2=1", "no option"),
        ("redis://ann:hunter2@db?durability=replicated", "process or disk"),
        ("redis://ann:hunter2@db?prefix={hunter2}", "prefix"),
        ("redis://ann:hunter2@db?tls=yes", "rediss://"),
        ("rediss://ann:hunter2@db?tls=no", "rediss://"),
    ],
)
def test_a_url_that_is_wrong_says_why_and_no_password(url: str, says: str) -> None:
    with pytest.raises(StoreNotOpened, match=says) as caught:
        parse_url(url)
    assert "hunter2" not in str(caught.value).replace("'hunter2'", "")


@pytest.mark.parametrize(
    ("key", "slot"),
    # From https://valkey.io/topics/cluster-spec/ and of CLUSTER KEYSLOT.
    [(b"123456789", 12739), (b"foo", 12182), (b"{foo}:b", 12182), (b"t:{foo}{x}", 12182)],
)
def test_a_key_is_where_the_cluster_looks_for_it(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


def test_an_empty_tag_is_none() -> None:
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")
    assert slot_of(b"{}x") != slot_of(b"")


def test_a_command_is_written_with_its_lengths() -> None:
    assert command(b"GET", b"a\r\n\0") == b"*2\r\n$3\r\nGET\r\n$4\r\na\r\n\0\r\n"
