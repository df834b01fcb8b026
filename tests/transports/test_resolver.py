"""Names are looked up in a thread that nobody waits for longer than the time there is."""

import os
import socket
import threading
from collections.abc import Callable

import pytest
from named import NAME, StuckLookup, naming
from waiting import Call, wait_until

from twinline.core.deadline import Deadline
from twinline.transports import resolver as resolver_module
from twinline.transports.connecting import connect
from twinline.transports.endpoints import Endpoint
from twinline.transports.race import Address
from twinline.transports.resolver import Lookup, Resolver

ENDPOINT = Endpoint.parse(f"tcp://{NAME}:7")
HERE = [Address(socket.AF_INET, 6, ("127.0.0.1", 7))]


def done(lookup: Lookup) -> Lookup:
    wait_until(lambda: lookup.is_done, "the end of a lookup")
    return lookup


def never(*_: object, **__: object) -> list[tuple[object, ...]]:
    pytest.fail("there is no name to look up")


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_address_needs_no_thread(host: str) -> None:
    lookup = Resolver(never).begin(Endpoint.parse(f"tcp://{host}:7"))
    assert lookup.is_done
    assert [address.place[:2] for address in lookup.take()] == [(host.strip("[]"), 7)]


def test_a_path_needs_no_thread() -> None:
    lookup = Resolver(never).begin(Endpoint.parse("unix:/run/x"))
    assert lookup.take() == [Address(socket.AF_UNIX, 0, "/run/x")]


def test_a_lookup_that_does_not_end_is_abandoned_and_joined_by_the_next() -> None:
    stuck = StuckLookup(naming("127.0.0.1"))
    resolver = Resolver(stuck)
    try:
        for _ in range(3):
            with pytest.raises(TimeoutError, match="looking the name up"):
                connect(ENDPOINT, Deadline.after(0.02), resolver)
        assert stuck.calls == 1
        lookup = resolver.begin(ENDPOINT)
        assert not lookup._wakes  # of those that have given up
        waiting = Call(lambda: connect(ENDPOINT, Deadline.after(20), resolver))
        wait_until(lambda: lookup._wakes, "somebody who waits")
    finally:
        stuck.go_on.set()
    with pytest.raises(ConnectionRefusedError):
        waiting.outcome()
    assert stuck.calls == 1
    # Its answer is used up; whoever comes now asks anew.
    assert done(resolver.begin(ENDPOINT)) is not lookup
    assert stuck.calls == 2


def test_an_answer_that_came_too_late_serves_the_next_attempt_while_it_is_fresh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = StuckLookup(naming("127.0.0.1"))
    for seconds, calls in ((60.0, 1), (0.0, 2)):
        monkeypatch.setattr(resolver_module, "FRESH_SECONDS", seconds)
        stuck.calls = 0
        stuck.go_on.clear()
        resolver = Resolver(stuck)
        late = resolver.begin(ENDPOINT)
        with pytest.raises(TimeoutError):
            late.take()
        stuck.go_on.set()
        done(late)
        assert done(resolver.begin(ENDPOINT)).take() == HERE
        assert stuck.calls == calls


def fail(error: Exception) -> Callable[..., list[tuple[object, ...]]]:
    def look_up(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise error

    return look_up


@pytest.mark.parametrize(
    ("look_up", "reason"),
    [
        (fail(socket.gaierror(socket.EAI_NONAME, "unknown")), "unknown"),
        (fail(UnicodeError("not a name")), "cannot be looked up: not a name"),
        (fail(MemoryError()), "cannot be looked up"),
        (lambda *_, **__: [], "has no address"),
    ],
)
def test_whatever_a_lookup_ends_with_is_an_error_of_the_system(look_up, reason: str) -> None:
    resolver = Resolver(look_up)
    lookup = done(resolver.begin(ENDPOINT))
    with pytest.raises(OSError, match=reason):
        lookup.take()
    assert resolver.begin(ENDPOINT) is not lookup


def test_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail(RuntimeError("can't start new thread")))
        resolver = Resolver(naming("127.0.0.1"))
        with pytest.raises(OSError, match="can't start new thread"):
            resolver.begin(ENDPOINT).take()
    assert done(resolver.begin(ENDPOINT)).take() == HERE


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stuck = StuckLookup(naming("127.0.0.1"))
    resolver = Resolver(stuck)
    inherited = resolver.begin(ENDPOINT)
    try:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert resolver.begin(ENDPOINT) is not inherited
    finally:
        stuck.go_on.set()


def test_an_address_that_was_of_no_use_is_tried_last() -> None:
    first, second, third = (
        Address(family, 6, (host, 7))
        for family, host in (
            (socket.AF_INET6, "::1"),
            (socket.AF_INET, "127.0.0.1"),
            (socket.AF_INET6, "::2"),
        )
    )
    resolver = Resolver(never)
    known = [first, third, second]
    assert resolver.order(known) == [first, second, third]
    resolver.demote(first)
    assert resolver.order(known) == [third, second, first]
    resolver.demote(third)
    resolver.demote(second)
    resolver.demote(first)
    assert resolver.order(known) == [third, second, first]
    assert resolver.order([first]) == [first]
    for number in range(200):
        resolver.demote(Address(socket.AF_INET, 6, ("192.0.2.1", number)))
    assert len(resolver._demoted) == 64
