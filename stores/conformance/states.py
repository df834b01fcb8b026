"""Rules 76 to 78 of the store kit: the states that limits are counted in."""

import time
from functools import partial
from typing import Final

from twinline.core.conformance import Checks, NotChecked, rule
from twinline.core.store import SharedStates
from twinline.stores.conformance.bench import StoreBench, outcomes

_KEEP_MS: Final = 60_000
_SHORT_MS: Final = 300
_LARGEST: Final = 8 * 1024


def _states(bench: StoreBench) -> SharedStates:
    states = bench.store().states
    if states is None:
        raise NotChecked("the store has no states: each server counts by itself")
    return states


def _counted(value: bytes | None) -> bytes:
    return b"%d" % (int(value or b"0") + 1)


@rule(76, "Of those who change one state at once none loses what it changed.")
def states_lose_no_change(checks: Checks, bench: StoreBench) -> None:
    """Count in four threads at once, in a state of their own and in one of all."""
    states = _states(bench)
    each = 10 if bench.rounds < 100 else 200

    def count(own: str) -> None:
        for _ in range(each):
            states.change("all", _counted, keep_ms=_KEEP_MS)
            states.change(own, _counted, keep_ms=_KEEP_MS)

    results = bench.race(checks, *(partial(count, f"{number}") for number in range(4)))
    outcomes(checks, results, [], "counting")
    checks.equal(states.read("all"), b"%d" % (4 * each), f"a count of four times {each}")
    for number in range(4):
        checks.equal(states.read(f"{number}"), b"%d" % each, f"another count of {each}")


@rule(77, "A state is what the last step made of it; a step that raises leaves it as it was.")
def states_are_what_steps_make(checks: Checks, bench: StoreBench) -> None:
    """Set, look at, refuse, empty and take away states under keys of every kind."""
    states = _states(bench)
    keys = ("", "logins/192.0.2.1", "2001:db8::1/64", "Grüße 👋\0\n{x}*", "k" * 300)
    values = (b"\0\xff\n", b"", bytes(range(256)) * (_LARGEST // 256))
    seen: list[bytes | None] = []

    def become(value: bytes | None, old: bytes | None) -> bytes | None:
        seen.append(old)
        return value

    class Refusal(Exception):
        pass

    def refuse(_old: bytes | None) -> bytes | None:
        raise Refusal

    for number, key in enumerate(keys):
        checks.equal(states.read(key), None, "a state that was never changed")
        last: bytes | None = None
        # Each key has other values, so that no two are taken for one.
        for value in (b"%d" % number, *values, None, b"again %d" % number):
            states.change(key, partial(become, value), keep_ms=_KEEP_MS)
            checks.equal(seen[-1], last, "what a step is given")
            checks.equal(states.read(key), value, "a state that a step has made")
            checks.raises(
                Refusal,
                partial(states.change, key, refuse, keep_ms=_KEEP_MS),
                "a change whose step raises",
            )
            checks.equal(states.read(key), value, "a state after a step that raised")
            last = value
    left = [states.read(key) for key in keys]
    wanted = [b"again %d" % number for number in range(len(keys))]
    checks.equal(left, wanted, "the states under all keys in the end")


@rule(78, "A state is forgotten when nothing has changed it for its time, and no sooner.")
def states_are_forgotten_in_time(checks: Checks, bench: StoreBench) -> None:
    """Keep states for a moment and for a minute, one after the other and the other way."""
    states = _states(bench)

    def keep(key: str, milliseconds: int) -> None:
        states.change(key, _counted, keep_ms=milliseconds)

    begun = time.monotonic()
    keep("short", _SHORT_MS)
    first = states.read("short")
    if time.monotonic() - begun < _SHORT_MS / 2000:  # else this machine was too busy to see it
        checks.equal(first, b"1", "a state within its time")
    for milliseconds in (_SHORT_MS, _KEEP_MS):
        keep("longer", milliseconds)
    for milliseconds in (_KEEP_MS, _SHORT_MS):
        keep("shorter", milliseconds)
    for key in ("short", "shorter"):
        gone = bench.comes_true(lambda: states.read(key) is None)  # noqa: B023 - called at once
        checks.that(gone, f"a state that is kept for {_SHORT_MS} ms is still there")
        keep(key, _KEEP_MS)
        checks.equal(states.read(key), b"1", "a state that begins anew when it was forgotten")
    checks.equal(states.read("longer"), b"2", "a state whose last step keeps it for longer")
