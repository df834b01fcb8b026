"""How many users `scale.py` can have connected and idle, and how fast they are gone.

`python benchmarks/scale_connections.py ENDPOINT FIRST COUNT` holds users, so that a process has
the descriptors for them that the measuring one has not: each has a silent connection and one with
an open stream. It prints `ready` when all are connected, answers each line of its input with the
number of messages that have come for them, and ends with its input.
"""

# A script, too: it prints.
# ruff: noqa: T201

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

import scale_store
from scale_site import WIRE, Row, Site, in_ms

from twinline.cli.bench.accounts import Member
from twinline.cli.bench.idle import CONNECTIONS_A_USER, Crowd, room_for_users
from twinline.cli.bench.load import Caller, LoadError, one_at_a_time
from twinline.cli.bench.sockets import receive
from twinline.cli.bench.target import running
from twinline.core.deadline import Deadline
from twinline.transports.endpoints import Endpoint

THREADED_USERS: Final = 4_000
"""With a thread a connection: where memory is not the limit yet."""
BROKEN: Final = 9_000
"""Connections that break at once."""
_OTHERS: Final = 64
"""Descriptors of a process that are not for users."""
_ASKED: Final = 200
"""So many of the idle users are sent a message each, to see that they are there."""
_WITHIN_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.01


def users_at_the_most(listener: str) -> int:
    """Return how many users one server can have here, in two processes that hold them."""
    if listener == "threads":
        return THREADED_USERS
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = scale_store.SESSIONS * CONNECTIONS_A_USER
    if most != resource.RLIM_INFINITY:
        descriptors = min(descriptors, most - _OTHERS)
    return descriptors // CONNECTIONS_A_USER


@dataclass(frozen=True, slots=True)
class Held:
    """Users that other processes hold connected."""

    holders: list[subprocess.Popen[str]]

    def received(self) -> int:
        """Return how many messages have come for all of them."""
        return sum(int(_asked(holder, "\n")) for holder in self.holders)

    def break_off(self) -> None:
        """End all of their connections at once: their processes are killed."""
        for holder in self.holders:
            holder.kill()


@contextmanager
def held(site: Site, users: int, *, reset: bool = False) -> Iterator[Held]:
    """Hold so many users connected and idle while the block runs.

    Args:
        site: where; it has sessions for them.
        users: how many.
        reset: whether their connections are reset when they break, and not ended.
    """
    command = [sys.executable, __file__, str(site.target.endpoint)]
    half = users // 2
    with ExitStack() as stack:
        holders = []
        for first, count in ((0, half), (half, users - half)):
            arguments = [*command, str(first), str(count), *(["--reset"] if reset else [])]
            pipe = subprocess.PIPE
            start = partial(running, stdin=pipe, stdout=pipe, text=True, bufsize=1)
            holders.append(stack.enter_context(start(arguments)))
        for holder in holders:
            if _asked(holder, "") != "ready":
                raise LoadError("the users could not be connected")
        yield Held(holders)


def _asked(holder: subprocess.Popen[str], line: str) -> str:
    if holder.stdin is None or holder.stdout is None:
        raise AssertionError("it has pipes")
    holder.stdin.write(line)
    return holder.stdout.readline().strip()


def measure_connections(
    site: Site, users: int, broken: int, seconds: float, say: Callable[[str], None]
) -> list[Row]:
    """Hold as many users as there can be, and let many connections break at once."""
    lone = site.lone()
    asked = range(0, users, max(1, users // _ASKED))
    (sender,) = site.callers_to(asked, connections=1)
    one_at_a_time([lone], min(seconds, 0.2))
    site.target.settle()
    before, descriptors = site.target.resident_bytes(), site.target.descriptors()
    if before is None or descriptors is None:
        raise LoadError("this system does not tell what another process uses")
    connections = users * CONNECTIONS_A_USER
    say(f"  connections: {users:,} users")
    began = time.monotonic()
    with held(site, users) as crowd:
        took = time.monotonic() - began
        site.target.settle()
        grown = (site.target.resident_bytes() or 0) - before
        open_ = (site.target.descriptors() or 0) - descriptors
        if open_ < connections:
            raise LoadError(f"the server has only {open_:,} descriptors more")
        pings = in_ms(one_at_a_time([lone], seconds).latencies)
        reached = _reach(sender, crowd, len(asked))
        began = time.monotonic()
        crowd.break_off()
        gone = _wait_gone(site, descriptors, began)
    rows = [
        Row(
            "connections held, of idle users with two each; descriptors for them",
            f"{connections:,}; {open_:,}",
            "",
            {"connections": connections, "descriptors": open_},
        ),
        Row("until all were there", f"{took:.1f} s", "", {"seconds": took}),
        Row(
            "memory of an idle user, two connections",
            f"{grown / users / 1024:.1f} KiB",
            "<= 20 KiB on the loop, 64 on threads",
            {"bytes": grown / users},
        ),
        Row("a lone ping beside them: p50, p99, longest", pings.text, "", pings.figures),
        Row(
            f"until {len(asked)} of them had a message each",
            f"{1e3 * reached:.0f} ms",
            "",
            {"seconds": reached},
        ),
        Row(f"until all {connections:,} were gone", f"{gone:.2f} s", "", {"seconds": gone}),
    ]
    for words, reset in (("reset", True), ("ended", False)):
        say(f"  connections: {broken:,} are {words} at once")
        with held(site, broken // CONNECTIONS_A_USER, reset=reset) as crowd:
            site.target.settle()
            began = time.monotonic()
            crowd.break_off()
            gone = _wait_gone(site, descriptors, began)
        rows.append(
            Row(
                f"until {broken:,} that are {words} at once were gone",
                f"{gone:.2f} s",
                "<= 1 s",
                {"seconds": gone},
            )
        )
    return rows


def _reach(sender: Caller, crowd: Held, wanted: int) -> float:
    """Send to so many who are connected; return the seconds until all had their message."""
    began = time.monotonic()
    deadline = Deadline.after(_WITHIN_SECONDS)
    sender.socket.settimeout(_WITHIN_SECONDS)
    for frame in islice(sender.frames, wanted):
        sender.socket.sendall(frame)
    missing = wanted * sender.reply_bytes
    while missing:
        missing -= len(receive(sender.socket))
    while crowd.received() < wanted:
        if deadline.passed:
            raise LoadError("not every idle user had its message")
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - began


def _wait_gone(site: Site, descriptors: int, began: float) -> float:
    """Return the seconds until the server has no more descriptors than it had."""
    deadline = Deadline.after(_WITHIN_SECONDS)
    while (site.target.descriptors() or 0) > descriptors:
        if deadline.passed:
            raise LoadError("the server keeps connections that have broken")
        time.sleep(_POLL_SECONDS)
    return time.monotonic() - began


def main() -> None:
    """Hold users until the input ends."""
    endpoint, first, count = Endpoint.parse(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    if room_for_users(count, _OTHERS) < count:
        sys.exit(f"{Path(__file__).name}: there are no descriptors for {count:,} users")
    numbers = range(first, first + count)
    with Crowd(endpoint, WIRE) as crowd:
        crowd.join([Member(scale_store.username(n), scale_store.token(n)) for n in numbers])
        if "--reset" in sys.argv:
            crowd.reset_at_the_end()
        print("ready", flush=True)
        for _ in sys.stdin:
            crowd.check()
            print(crowd.received, flush=True)


if __name__ == "__main__":
    main()
