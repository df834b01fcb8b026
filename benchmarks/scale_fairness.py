"""What a lone ping waits for at a server that is busy with others, for `scale.py`."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from scale_logins import LOGINS, Storm, sent_beside
from scale_site import Row, Site, in_ms

from twinline.cli.bench.figures import HOGS, PAIRS
from twinline.cli.bench.load import Caller, beside, one_at_a_time
from twinline.cli.bench.wire import Wire
from twinline.core.protocol import AccountsReply, ListAccounts

_LISTING_SECONDS: Final = 120.0  # that one listing may take before the run is given up
_WANTED: Final = "p99 <= 10 ms"


def measure_fairness(
    small: Site, large: Site, rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Row]:
    """Time a lone ping beside what keeps a server busy.

    Args:
        small: a server for senders and logins.
        large: one with many accounts, whose names are listed.
        rounds: how often.
        seconds: of each load in a round.
        say: tells how far it is.
    """
    lone, other = small.lone(), large.lone()
    lister = large.wire()
    senders, hogs = small.callers(PAIRS), small.callers(HOGS.connections)
    listings: list[float] = []
    loads: dict[str, Callable[[], list[float]]] = {
        "nothing else": lambda: one_at_a_time([lone], seconds).latencies,
        f"beside {PAIRS} senders": lambda: beside(senders, lone, seconds).latencies,
        f"beside {HOGS.words}": lambda: beside(hogs, lone, seconds, HOGS.window).latencies,
        f"beside a listing of {large.accounts:,} names": (
            lambda: _beside_listing(lister, listings, other, seconds)
        ),
        f"beside {LOGINS} logins": lambda: _beside_logins(small, lone),
    }
    taken: dict[str, list[float]] = {words: [] for words in loads}
    for round_ in range(rounds):
        for words, load in loads.items():
            say(f"  fairness, round {round_ + 1} of {rounds}: {words}")
            taken[words] += load()
    rows = []
    for words, latencies in taken.items():
        spread = in_ms(latencies)
        wanted = "" if words == "nothing else" else _WANTED
        what = f"a lone ping, {words}: p50, p99, longest"
        rows.append(Row(what, spread.text, wanted, spread.figures))
    return rows


def _beside_listing(
    lister: Wire, listings: list[float], lone: Caller, seconds: float
) -> list[float]:
    with listing(lister, listings):
        return one_at_a_time([lone], seconds).latencies


def _beside_logins(site: Site, lone: Caller) -> list[float]:
    storm = Storm(site)
    try:
        return sent_beside(storm, [lone])
    finally:
        storm.close()


@contextmanager
def listing(lister: Wire, taken: list[float]) -> Iterator[None]:
    """Read all names again and again while the block runs, and once at least."""
    enough = threading.Event()
    errors: list[Exception] = []
    found: list[str] = []
    lister.socket.settimeout(_LISTING_SECONDS)

    def read() -> None:
        try:
            while not enough.is_set():
                began = time.perf_counter()
                page = lister.ask(ListAccounts(pattern="*x*"), AccountsReply)
                taken.append(time.perf_counter() - began)
                found.extend(page.usernames)
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
    if errors:
        raise errors[0]
    if found:
        raise AssertionError("a name has an x")
