"""Measures how twinline grows: a million accounts, full mailboxes, 200 logins, 20,000 connections.

The server is `twinline serve` with its default settings and the store in memory, which is filled
before it listens, once with each listener; the load comes from this process and those that it
starts, over TCP, in JSON-lines. Beside it stands what a send costs without any wire. What is
compared comes from the same run, in turns; medians are printed.

    python benchmarks/scale.py                 # about ten minutes, and 3 GB of memory
    python benchmarks/scale.py --quick         # a look, at a tenth of the size
    python benchmarks/scale.py --only growth --listener loop
"""

# ruff: noqa: T201 - a script prints

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from statistics import median
from typing import Final

import scale_store
from check_workloads import BODY
from check_workloads import Site as WithoutWire
from scale_connections import BROKEN, measure_connections, users_at_the_most
from scale_fairness import listing, measure_fairness
from scale_logins import measure_logins
from scale_site import CONNECTIONS, Cost, Row, Site, Sites, in_ms, print_tables

from twinline.cli.bench.load import one_at_a_time, percentile
from twinline.core.protocol import AccountsReply, ListAccounts

_SENDS_A_SLICE: Final = 1_000
_PAGES: Final = 300
_TURNS: Final = 20
"""So many turns of the growth are in one round of the others: a machine that others use changes
its pace within a second, and with short turns each of those compared meets the same."""
_QUIET: Final = 20  # percent of them count as quiet


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


# --- without a wire


def measure_send(rounds: int, seconds: float) -> list[Row]:
    """`ChatService.send` in one thread, without a wire; first with send_ids, as clients send."""
    rows = []
    for words, send_ids in ((" with a send_id", True), (", no send_id", False)):
        site = WithoutWire()
        numbers = count()
        rates, costs = [], []
        for round_ in range(rounds):
            say(f"  send{words}, round {round_ + 1} of {rounds}")
            wall = processor = 0.0
            sends = 0
            while wall < seconds:
                # Made beforehand: a client makes them, not the server.
                ids = [
                    f"bench-id{next(numbers):x}" if send_ids else None
                    for _ in range(_SENDS_A_SLICE)
                ]
                began, used = time.perf_counter(), time.thread_time()
                for send_id in ids:
                    site.service.send(site.ann, "bob", BODY, send_id)
                wall += time.perf_counter() - began
                processor += time.thread_time() - used
                sends += _SENDS_A_SLICE
                site.empty_bob()
            rates.append(sends / wall)
            costs.append(1e6 * processor / sends)
        rows += [
            Row(
                f"ChatService.send{words}, calls a second: median, best round",
                f"{median(rates):,.0f}, {max(rates):,.0f}",
                "" if send_ids else ">= 200,000",
                {"rates": rates},
            ),
            Row(
                "its processor time: median, best round",
                f"{median(costs):.2f}, {min(costs):.2f} µs",
                "" if send_ids else "<= 5 µs",
                {"microseconds": costs},
            ),
        ]
    return rows


# --- many accounts


def measure_accounts(site: Site, rounds: int, seconds: float) -> list[Row]:
    """Pages of a list of many names, and what reading all of them costs others."""
    size = site.target.resident_bytes() or 0
    lister = site.wire()
    pages = []
    for _ in range(_PAGES):
        began = time.perf_counter()
        page = lister.ask(ListAccounts(pattern="abc*", limit=100), AccountsReply)
        pages.append(time.perf_counter() - began)
        if not all(name.startswith("abc") for name in page.usernames) or not page.usernames:
            raise AssertionError("this is another page than was asked for")
    callers = site.callers()
    quiet: list[float] = []
    beside: list[float] = []
    listings: list[float] = []
    for round_ in range(rounds):
        say(f"  accounts, round {round_ + 1} of {rounds}")
        quiet += one_at_a_time(callers, seconds).latencies
        with listing(lister, listings):
            beside += one_at_a_time(callers, seconds).latencies
    page_ms, without, with_it = in_ms(pages), in_ms(quiet), in_ms(beside)
    what = f"sends from {CONNECTIONS} connections"
    return [
        Row(
            f"resident memory with {site.accounts:,} accounts",
            f"{size / 1e6:,.0f} MB, {size / site.accounts:,.0f} bytes each",
            "",
            {"bytes": size},
        ),
        Row(
            f"a page of {len(page.usernames)} names, abc*, over the wire: p50, p99, longest",
            page_ms.text,
            "<= 5 ms",
            page_ms.figures,
        ),
        Row(
            "a listing of *x*, which nothing matches, beside the sends: median, longest",
            f"{median(listings):.2f}, {max(listings):.2f} s",
            "",
            {"seconds": listings},
        ),
        Row(f"{what}: p50, p99, longest", without.text, "", without.figures),
        Row(f"{what}, beside such listings: the same", with_it.text, "", with_it.figures),
        Row(
            "by so much the listings delay the p99",
            f"{with_it.p99 - without.p99:.1f} ms",
            "<= 20 ms",
            {"ms": with_it.p99 - without.p99},
        ),
    ]


# --- growth


def measure_growth(
    sites: Sites, sizes: list[int], queued: int, rounds: int, seconds: float
) -> list[Row]:
    """What a send costs by the number of accounts, and by the messages in the mailbox."""
    by_size = {f"{size:,} accounts": (sites.site(size), None) for size in sizes}
    full = sites.site(1_000, queued)
    empty = range(scale_store.QUEUES + 1, 2 * scale_store.QUEUES + 1)
    by_queue = {
        "0 messages queued": (full, empty),
        f"{queued:,} messages queued": (full, range(1, scale_store.QUEUES + 1)),
    }
    rows = []
    for configurations in (by_size, by_queue):
        callers = {
            name: site.callers() if numbers is None else site.callers_to(numbers)
            for name, (site, numbers) in configurations.items()
        }
        costs: dict[str, list[Cost]] = {name: [] for name in configurations}
        names = list(configurations)
        for turn in range(rounds * _TURNS):
            if turn % _TURNS == 0:
                say(f"  growth, round {turn // _TURNS + 1} of {rounds}: {', '.join(names)}")
                full.empty(empty)
            # Each comes first in its turn, so that none always has the machine at its best.
            turned = names[turn % len(names) :] + names[: turn % len(names)]
            for name in turned:
                site = configurations[name][0]
                costs[name].append(site.cost(callers[name], seconds / _TURNS))
        rows += _growth_rows(costs)
    return rows


def _growth_rows(costs: dict[str, list[Cost]]) -> list[Row]:
    """Compare each with the first.

    The rates by the median of the ratios of each turn. The costs by their quiet turns: noise
    only ever adds to them, and takes not the same share of each (see `check_figures`).
    """
    base = next(iter(costs.values()))
    rows = []
    for name, of_it in costs.items():
        cost = _quiet(of_it) / _quiet(base)
        pairs = zip(of_it, base, strict=True)
        rate = median(each.rate / other.rate for each, other in pairs)
        rows.append(
            Row(
                f"a send with {name}: server µs, sends a second, ratio of each",
                f"{_quiet(of_it):.1f} µs, {median(each.rate for each in of_it):,.0f}, "
                f"{cost:.2f}, {rate:.2f}",
                "" if of_it is base else "0.90 to 1.10",
                {"turns": [asdict(each) for each in of_it], "cost": cost, "rate": rate},
            )
        )
    return rows


def _quiet(costs: list[Cost]) -> float:
    return percentile(sorted(each.microseconds for each in costs), _QUIET)


LISTENERS: Final = ("threads", "loop")


def _measured(listener: str, options: argparse.Namespace, sizes: "Sizes") -> list[Row]:
    """Measure what was asked for at servers with one listener."""
    rounds, seconds, most = sizes.rounds, sizes.seconds, sizes.accounts
    rows: list[Row] = []
    with Sites(listener, say) as sites:
        growing = sorted({*(size for size in (10, 1_000, 100_000) if size < most), most})
        parts: dict[str, Callable[[], list[Row]]] = {
            "connections": lambda: measure_connections(
                sites.site(scale_store.SESSIONS),
                options.users or min(sizes.users, users_at_the_most(listener)),
                sizes.broken,
                seconds,
                say,
            ),
            "accounts": lambda: measure_accounts(sites.site(most), rounds, seconds),
            "logins": lambda: measure_logins(sites.site(1_000), rounds, seconds, say),
            "fairness": lambda: measure_fairness(
                sites.site(1_000), sites.site(most), rounds, seconds, say
            ),
            "growth": lambda: measure_growth(sites, growing, sizes.queued, rounds, seconds),
        }
        for part, measure in parts.items():
            if not options.only or part in options.only:
                say(f"{part}, {listener}")
                rows += measure()
    return rows


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: of each measurement.
        seconds: of each round.
        accounts: at the most.
        queued: messages in a full mailbox.
        users: who are connected and idle, at the most.
        broken: connections that break at once.
    """

    rounds: int
    seconds: float
    accounts: int
    queued: int
    users: int
    broken: int


_FULL: Final = Sizes(5, 2, 1_000_000, 10_000, scale_store.SESSIONS, BROKEN)
_QUICK: Final = Sizes(1, 0.5, 100_000, 1_000, 200, 200)


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round, a tenth of the size")
    parser.add_argument(
        "--only",
        choices=["send", "connections", "accounts", "logins", "fairness", "growth"],
        action="append",
        help="repeatable",
    )
    parser.add_argument(
        "--listener", choices=LISTENERS, action="append", help="repeatable  [default: both]"
    )
    parser.add_argument("--accounts", type=int, help="at the most  [default: 1,000,000]")
    parser.add_argument("--users", type=int, help="idle  [default: as many as there can be]")
    parser.add_argument("--rounds", type=int, help="of each measurement  [default: 5]")
    parser.add_argument("--seconds", type=float, help="of each round  [default: 2]")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    options = parser.parse_args()
    given = {
        name: value
        for name in ("accounts", "rounds", "seconds")
        if (value := getattr(options, name)) is not None
    }
    sizes = replace(_QUICK if options.quick else _FULL, **given)
    tables: dict[str, list[Row]] = {}
    if not options.only or "send" in options.only:
        say("send")
        tables["no listener"] = measure_send(sizes.rounds, sizes.seconds)
    if not options.only or set(options.only) - {"send"}:
        for listener in options.listener or LISTENERS:
            tables[listener] = _measured(listener, options, sizes)
    print_tables(tables, as_json=options.json)


if __name__ == "__main__":
    main()
