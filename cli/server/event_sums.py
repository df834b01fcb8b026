"""Counts events that repeat, so that a log stays one that a person reads, whatever strangers do.

The first events of an address are told one by one. What follows is counted, and told by one line
about a minute later, then after 5 minutes, 15, and every hour for as long as it goes on::

    address 192.0.2.1: 112 more failed logins, 80 more locked-out logins, to 37 accounts, in 60 s

Where several addresses go on at the same time, up to ten of them are told by one line, and only the
first event of each is told for itself: so a guess at passwords from a hundred addresses is some two
hundred lines, whether it takes a second or half a day.

An address is what limits count as one: of IPv6 it is a network. What one account does from one
address, logins mostly, is counted apart from the rest, under the account's name, and told by a line
a minute.

All of it is bounded: so many addresses have a place of their own, and what comes from others is
counted for all of them together.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from twinline.core.addresses import limit_key
from twinline.core.events import EVENTS, REPEATED, Event, record_of

INTERVALS: Final = (60.0, 300.0, 900.0, 3600.0)
"""For how long, about, an address's events are counted before each of its lines, in seconds; the
last of them counts for all further lines."""
ACCOUNT_INTERVALS: Final = (60.0,)
"""The same for an account at an address."""
QUIET_SECONDS: Final = 900.0
"""An address with nothing to tell is told one by one again after so long without an event."""
FREE_SECONDS: Final = 300.0
"""After so long without an event it gives its place to another one, if there is no other place."""
ACCOUNT_QUIET_SECONDS: Final = 60.0
"""What `QUIET_SECONDS` and `FREE_SECONDS` are for an account at an address."""
FIRST_FEW: Final = 3
"""So many of an address, or of an account at one, are told one by one."""
FEW_ADDRESSES: Final = 16
"""With more addresses than that, only the first event of each is told for itself."""
OWN_LINES: Final = 4
"""If so many addresses are to be told of at the same time, each has a line of its own."""
LINE_ADDRESSES: Final = 10
"""If there are more, each line is about so many."""
MOST_ADDRESSES: Final = 256
"""The most addresses that are counted for themselves."""
MOST_ACCOUNTS: Final = 1_000
"""The most accounts, each at one address, whose repetitions are counted."""
MOST_NAMES: Final = 64
"""The most accounts that are told apart in the events of one address."""
_Key = tuple[str, str]  # a username, or "" for all; what an address is counted by, or ""
_OTHERS: Final[_Key] = ("", "")


class _Sum:
    """What is counted of one address, or of one account at one."""

    __slots__ = ("accounts", "counts", "due", "last", "level", "lines", "since", "told")

    def __init__(self, now: float) -> None:
        self.last = now  # when there was an event
        self.told = 0  # one by one
        self.lines = 0  # that have told of counts
        self.begin()

    def begin(self) -> None:
        """Begin to count anew."""
        self.since = self.due = 0.0  # the first event that is counted sets both
        self.counts: Counter[str] = Counter()  # by the names of events, since then
        self.accounts: set[str] = set()
        self.level = logging.DEBUG  # the highest of those that are counted


class _Table:
    """Sums by their keys, the one whose last event is longest ago first."""

    def __init__(self, intervals: Sequence[float], quiet: float, free: float) -> None:
        self.sums: OrderedDict[_Key, _Sum] = OrderedDict()
        self._intervals = intervals
        self._quiet = quiet
        self._free = free

    def find(self, key: _Key, now: float, most: int) -> _Sum | None:
        """Return the sum for an event that happens now; None where it has no place."""
        self._forget(now)
        found = self.sums.get(key)
        if found is None or (not found.counts and now - found.last >= self._quiet):
            if found is None and len(self.sums) >= most and not self._make_place(now):
                return None
            found = self.sums[key] = _Sum(now)
        found.last = now
        self.sums.move_to_end(key)
        return found

    def _forget(self, now: float) -> None:
        while self.sums:
            key, oldest = next(iter(self.sums.items()))
            if oldest.counts or now - oldest.last < self._quiet:
                return
            del self.sums[key]

    def _make_place(self, now: float) -> bool:
        for key, each in self.sums.items():
            if now - each.last < self._free:
                break
            if not each.counts:
                del self.sums[key]
                return True
        return False

    def due(self, known: _Sum, now: float) -> float:
        """Return when to tell of what is counted from now on.

        It is an interval from now, give or take a half: so sums of several addresses are told at
        the same time, and can share lines.
        """
        interval = self._intervals[min(known.lines, len(self._intervals) - 1)]
        return round((now + interval) / interval) * interval

    def take(self, now: float, *, everything: bool) -> list[tuple[_Key, _Sum]]:
        """Return what is to be told, as it is now."""
        return [
            (key, each)
            for key, each in self.sums.items()
            if each.counts and (everything or now >= each.due)
        ]


class EventSums:
    """The counts; its methods are called under one lock, the log's.

    Attributes:
        ipv6_prefix: the setting of that name; what is counted already stays under what it was.
    """

    def __init__(
        self, ipv6_prefix: int = 64, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nothing counted.

        Args:
            ipv6_prefix: the setting of that name.
            clock: seconds that never leap.
        """
        self.ipv6_prefix = ipv6_prefix
        self._clock = clock
        self._addresses = _Table(INTERVALS, QUIET_SECONDS, FREE_SECONDS)
        self._accounts = _Table(ACCOUNT_INTERVALS, ACCOUNT_QUIET_SECONDS, ACCOUNT_QUIET_SECONDS)
        self._due: float | None = None  # when there is something to tell next

    def takes(self, record: logging.LogRecord) -> bool:
        """Count an event, and return whether it need not be told for itself."""
        event: Event = EVENTS[record.event]  # type: ignore[attr-defined]
        if not event.by:
            return False
        now = self._clock()
        table, known = self._find(event, record.fields, now)  # type: ignore[attr-defined]
        if known is None:
            return False  # of an account that has no place any more: each is worth a line
        if not known.lines and known.told < self._first_few(table):
            known.told += 1
            return False
        self._count(table, known, event, record, now)
        return True

    def count(self, record: logging.LogRecord) -> None:
        """Count an event that cannot be told for itself, whatever it is."""
        event: Event = EVENTS[record.event]  # type: ignore[attr-defined]
        now = self._clock()
        table, known = self._find(event, record.fields, now)  # type: ignore[attr-defined]
        if known is None:
            table, known = self._addresses, self._others(now)
        self._count(table, known, event, record, now)

    @property
    def patience(self) -> float | None:
        """How many seconds from now there may be something to tell; None for nothing."""
        return None if self._due is None else max(0.0, self._due - self._clock())

    def take(self, *, everything: bool = False) -> list[logging.LogRecord]:
        """Return what is to be told now, and begin to count anew.

        Args:
            everything: also what could wait for its time.
        """
        # This is asked for every line: mostly there is nothing to tell.
        if self._due is None or not (everything or self._clock() >= self._due):
            return []
        now = self._clock()
        groups: list[Sequence[tuple[_Key, _Sum]]] = []
        addresses = self._addresses.take(now, everything=everything)
        alike = [each for each in addresses if each[0] != _OTHERS]
        size = 1 if len(alike) <= OWN_LINES else LINE_ADDRESSES
        groups += (alike[at : at + size] for at in range(0, len(alike), size))
        groups += ([each] for each in addresses if each[0] == _OTHERS)
        groups += ([each] for each in self._accounts.take(now, everything=everything))
        records = [_told(group, now) for group in groups]
        for group in groups:
            for _, known in group:
                known.lines += 1
                known.begin()
        left = [
            each.due
            for table in (self._addresses, self._accounts)
            for each in table.sums.values()
            if each.counts
        ]
        self._due = min(left, default=None)
        return records

    def _find(self, event: Event, fields: dict[str, Any], now: float) -> tuple[_Table, _Sum | None]:
        """Return where an event is counted; no sum where an account has no place for it."""
        address = fields.get("address") or ""
        if address:
            address = limit_key(address, self.ipv6_prefix)
        if "username" in event.by:
            key = fields["username"] or "", address
            return self._accounts, self._accounts.find(key, now, MOST_ACCOUNTS)
        found = self._addresses.find(("", address), now, MOST_ADDRESSES)
        return self._addresses, found or self._others(now)

    def _others(self, now: float) -> _Sum:
        found = self._addresses.find(_OTHERS, now, MOST_ADDRESSES + 1)
        assert found is not None  # noqa: S101 - there is a place for it
        return found

    def _first_few(self, table: _Table) -> int:
        if table is self._addresses and len(table.sums) > FEW_ADDRESSES:
            return 1
        return FIRST_FEW

    def _count(
        self, table: _Table, known: _Sum, event: Event, record: logging.LogRecord, now: float
    ) -> None:
        if not known.counts:
            known.since, known.due = now, table.due(known, now)
            self._due = known.due if self._due is None else min(self._due, known.due)
        known.counts[event.name] += 1
        known.level = max(known.level, event.level)
        username = record.fields.get("username")  # type: ignore[attr-defined]
        if username and len(known.accounts) < MOST_NAMES:
            known.accounts.add(username)


def _told(group: Sequence[tuple[_Key, _Sum]], now: float) -> logging.LogRecord:
    """Return the line that tells of what was counted, of one address or of several."""
    username, address = group[0][0]
    several = len(group) > 1
    sums = [known for _, known in group]
    seconds = round(now - min(known.since for known in sums))
    more = " more" if any(known.told or known.lines for known in sums) else ""
    total: Counter[str] = sum((known.counts for known in sums), Counter())
    counts = [f"{count:,}{more} {EVENTS[name].many or name}" for name, count in total.items()]
    accounts = len(set().union(*(known.accounts for known in sums)))
    if not username and accounts:
        at_least = "at least " if any(len(k.accounts) == MOST_NAMES for k in sums) else ""
        counts.append(f"to {at_least}{accounts} account{'s' if accounts > 1 else ''}")
    each_has = {key[1]: known.counts.total() for key, known in group} if several else {}
    if several:
        who, address = f"{len(group)} addresses", ""
    elif username:
        who = f"{username} from {address}" if address else username
    else:
        who = f"address {address}" if address else "all others"
    message = f"{who}: {', '.join(counts)}, in {seconds} s"
    if several:
        message += ": " + ", ".join(f"{place} ({count:,})" for place, count in each_has.items())
    return record_of(
        REPEATED,
        {
            "address": address or None,
            "addresses": each_has,
            "username": username or None,
            "counts": dict(total),
            "accounts": accounts,
            "seconds": seconds,
        },
        level=max(known.level for known in sums),
        message=message,
    )
