"""Measures what receipts add to a delivery, beside accounts that give none, in one run.

    python benchmarks/receipts.py                # about five minutes
    python benchmarks/receipts.py --quick        # a look
    python benchmarks/receipts.py --listener loop

The server is ``twinline serve`` with default settings and the store in memory. Half of its accounts
have said ``set_receipts`` false. Both halves do the same in turns, and a ratio is the median of
those within a round. A server's µs are the processor time of its process, all of it, for one
message that is sent, delivered and acknowledged: by streams, and by one blocked watch after
another.

- away: a sender who is not there to be told, with 16 recipients, one message under way to each.
- 32 under way: a sender who watches for receipts, with one recipient.
"""

# ruff: noqa: T201 - a script prints

import argparse
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Final

from scale_site import WIRE, Row, plugged_in, print_tables
from scale_store import token, username

from twinline.cli.bench.accounts import Accounts, Member
from twinline.cli.bench.load import Sample, deliveries, flow
from twinline.cli.bench.sockets import LoadError
from twinline.cli.bench.subjects import ServerSubject
from twinline.cli.bench.target import ServerProcess, server_process
from twinline.core.protocol import Done, Kind, SetReceipts
from twinline.transports.client import Client

LISTENERS: Final = ("threads", "loop")
WANTED: Final = 1.10
"""What receipts may multiply the cost of a delivery by."""
_RECIPIENTS: Final = 16
_UNDER_WAY: Final = 32
_WARM_UP_SECONDS: Final = 0.3


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


class Half:
    """A sender and recipients, of whom all give receipts or none does.

    Attributes:
        receipts: whether they do.
        subject: their connections.
    """

    def __init__(self, target: ServerProcess, first: int, *, receipts: bool) -> None:
        """Take accounts that are there.

        Args:
            target: the server.
            first: the number of the sender's account; those of the recipients follow.
            receipts: whether they give receipts.
        """
        self.receipts = receipts
        self._target = target
        self._sender, *recipients = [
            Member(username(number), token(number))
            for number in range(first, first + 1 + _RECIPIENTS)
        ]
        self.subject = ServerSubject(target, WIRE, Accounts(target.endpoint, WIRE))
        self.subject.take_accounts(self._sender, recipients, recipients)
        if not receipts:
            for member in (self._sender, *recipients):
                self.subject.logged_in(member).ask(SetReceipts(receipts=False), Done)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have the sender watch for receipts meanwhile."""
        with Client(self._target.endpoint, kinds=tuple(Kind), on_message=lambda _: None) as client:
            client.resume(self._sender.token)
            yield

    def count(self) -> int:
        """Return how many recipients the sender has a receipt of.

        Raises:
            LoadError: it has one though none is given.
        """
        with Client(self._target.endpoint) as client:
            client.resume(self._sender.token)
            found = len(client.history(kinds=[Kind.RECEIPT]).receipts)
        if found and not self.receipts:
            raise LoadError("there are receipts of those who give none")
        return found

    def cost(self, *, away: bool, streams: bool, seconds: float) -> float:
        """Deliver for so long, and return what one delivery cost the server, in µs."""
        self.subject.watch(streams=streams)
        before = self._used()
        sample = self._deliver(away=away, seconds=seconds)
        cost = 1e6 * (self._used() - before) / sample.operations
        self.subject.settle()
        return cost

    def _deliver(self, *, away: bool, seconds: float) -> Sample:
        if away:
            return deliveries(self.subject.pairs, seconds)
        return flow(self.subject.pairs[0], _UNDER_WAY, seconds)

    def _used(self) -> float:
        seconds = self._target.processor_seconds()
        if seconds is None:
            raise LoadError("this system does not tell what another process uses")
        return seconds


def measure(listener: str, rounds: int, seconds: float) -> list[Row]:
    """What a delivery costs the server with receipts, over one without."""
    rows: list[Row] = []
    store = f"filled:accounts={2 * (1 + _RECIPIENTS)},queued=0"
    with ExitStack() as stack:
        stack.enter_context(plugged_in())
        target = stack.enter_context(server_process(store, listener=listener))
        halves = [
            Half(target, number * (1 + _RECIPIENTS), receipts=number == 0) for number in range(2)
        ]
        for half in halves:
            half.subject.open(0, _RECIPIENTS)
            stack.callback(half.subject.close)
        for away in (True, False):
            with ExitStack() as watches:
                if not away:
                    for half in halves:
                        watches.enter_context(half.watched())
                rows += [
                    _compared(halves, rounds, seconds, away=away, streams=streams)
                    for streams in (True, False)
                ]
        counts = [half.count() for half in halves]
        if counts != [_RECIPIENTS, 0]:
            raise LoadError(f"{counts[0]} of {_RECIPIENTS} recipients gave a receipt")
    return rows


def _compared(halves: list[Half], rounds: int, seconds: float, *, away: bool, streams: bool) -> Row:
    what = "away" if away else f"{_UNDER_WAY} under way"
    what = f"{'streams' if streams else 'blocked watches'}, {what}"
    costs: dict[bool, list[float]] = {half.receipts: [] for half in halves}
    for half in halves:
        half.cost(away=away, streams=streams, seconds=min(seconds, _WARM_UP_SECONDS))
    for round_ in range(rounds):
        say(f"  {what}, round {round_ + 1} of {rounds}")
        # Each comes first in its turn, so that none always has the machine at its best.
        for half in halves[:: -1 if round_ % 2 else 1]:
            cost = half.cost(away=away, streams=streams, seconds=seconds)
            costs[half.receipts].append(cost)
    ratio = median(own / other for own, other in zip(costs[True], costs[False], strict=True))
    return Row(
        f"a delivery by {what}: server µs with receipts, without, ratio",
        f"{median(costs[True]):.1f}, {median(costs[False]):.1f} µs, {ratio:.3f}",
        f"<= {WANTED:.2f}",
        {
            "streams": streams,
            "away": away,
            "with": costs[True],
            "without": costs[False],
            "ratio": ratio,
        },
    )


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument(
        "--listener", choices=LISTENERS, action="append", help="repeatable  [default: both]"
    )
    parser.add_argument("--rounds", type=int, help="of each measurement  [default: 11]")
    parser.add_argument("--json", action="store_true", help="print every figure as JSON")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 11)
    # A pair has at most one receipt a second: a round is longer, or it had none to pay for.
    seconds = 0.3 if options.quick else 1.2
    tables: dict[str, list[Row]] = {}
    for listener in options.listener or LISTENERS:
        say(listener)
        tables[listener] = measure(listener, rounds, seconds)
    print_tables(tables, as_json=options.json)


if __name__ == "__main__":
    main()
