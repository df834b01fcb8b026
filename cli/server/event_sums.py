"""Counts events that repeat, so that a log stays one that a person reads, whatever strangers do.

The first few events of an address are told one by one. What follows is counted, and told by one
line a minute for as long as it goes on::

    address 192.0.2.1: 112 more failed logins, 80 more locked-out logins, to 37 accounts, in 60 s

An address is what limits count as one: of IPv6 it is a network. What one account does from one
address, logins mostly, is counted apart from the rest, and under the account's name.

All of it is bounded: so many addresses have a place of their own, and what comes from others is
counted for all of them together; so many lines a minute are told one by one, whatever the number of
addresses.
"""

import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final

from twinline.core.addresses import limit_key
from twinline.core.events import EVENTS, REPEATED, Event, record_of

WINDOW_SECONDS: Final = 60.0
"""How long events are counted before they are told."""
FIRST_FEW: Final = 3
"""So many of an address, or of an account at one, are told one by one."""
ONE_BY_ONE: Final = 50
"""So many of all addresses are told one by one within a minute; those of accounts always are."""
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

    __slots__ = ("accounts", "counts", "level", "since", "told")

    def __init__(self, now: float, told: int = 0) -> None:
        self.since = now
        self.told = told  # one by one, as far as that matters
        self.counts: Counter[str] = Counter()  # by the names of events, since then
        self.accounts: set[str] = set()
        self.level = logging.DEBUG  # the highest of those that are counted


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
        # Whose window ends first comes first.
        self._addresses: OrderedDict[_Key, _Sum] = OrderedDict()
        self._accounts: OrderedDict[_Key, _Sum] = OrderedDict()
        self._one_by_one = 0  # told since
        self._since = clock()

    def takes(self, record: logging.LogRecord) -> bool:
        """Count an event, and return whether it need not be told for itself."""
        event: Event = EVENTS[record.event]  # type: ignore[attr-defined]
        if not event.by:
            return False
        now = self._clock()
        known = self._sum(event, record.fields, now)  # type: ignore[attr-defined]
        if known is None:
            return False  # of an account that has no place any more: each is worth a line
        if known.told < FIRST_FEW and self._may_tell(event, now):
            known.told += 1
            return False
        self._count(known, event, record)
        return True

    def count(self, record: logging.LogRecord) -> None:
        """Count an event that cannot be told for itself, whatever it is."""
        event: Event = EVENTS[record.event]  # type: ignore[attr-defined]
        now = self._clock()
        known = self._sum(event, record.fields, now)  # type: ignore[attr-defined]
        self._count(known or self._others(now), event, record)

    @property
    def patience(self) -> float | None:
        """How many seconds from now there may be something to tell; None for nothing."""
        first = [_first(sums).since for sums in self._all() if sums]
        return max(0.0, min(first) + WINDOW_SECONDS - self._clock()) if first else None

    def take(self, *, everything: bool = False) -> list[logging.LogRecord]:
        """Return what is to be told now, and begin to count anew.

        Args:
            everything: also what could wait for the end of its minute.
        """
        now = self._clock()
        records = []
        for sums in self._all():
            # This is asked for every line: mostly there is nothing to tell.
            if not sums or not (everything or now - _first(sums).since >= WINDOW_SECONDS):
                continue
            for key, known in list(sums.items()):
                over = now - known.since >= WINDOW_SECONDS
                if not (over or everything):
                    break
                if known.counts:
                    records.append(_told(key, known, now))
                    # As long as it goes on it is told by such lines alone.
                    sums[key] = _Sum(now, FIRST_FEW)
                    sums.move_to_end(key)
                elif over:
                    del sums[key]
        return records

    def _all(self) -> tuple[OrderedDict[_Key, _Sum], OrderedDict[_Key, _Sum]]:
        return self._addresses, self._accounts

    def _sum(self, event: Event, fields: dict[str, Any], now: float) -> _Sum | None:
        """Return where an event is counted; None where an account has no place for it."""
        address = fields.get("address") or ""
        if address:
            address = limit_key(address, self.ipv6_prefix)
        if "username" in event.by:
            return _found(self._accounts, (fields["username"] or "", address), now, MOST_ACCOUNTS)
        found = _found(self._addresses, ("", address), now, MOST_ADDRESSES)
        return found or self._others(now)

    def _others(self, now: float) -> _Sum:
        found = _found(self._addresses, _OTHERS, now, MOST_ADDRESSES + 1)
        assert found is not None  # noqa: S101 - there is a place for it
        return found

    def _may_tell(self, event: Event, now: float) -> bool:
        if "username" in event.by:
            return True
        if now - self._since >= WINDOW_SECONDS:
            self._since, self._one_by_one = now, 0
        self._one_by_one += 1
        return self._one_by_one <= ONE_BY_ONE

    @staticmethod
    def _count(known: _Sum, event: Event, record: logging.LogRecord) -> None:
        known.counts[event.name] += 1
        known.level = max(known.level, event.level)
        username = record.fields.get("username")  # type: ignore[attr-defined]
        if username and len(known.accounts) < MOST_NAMES:
            known.accounts.add(username)


def _first(sums: OrderedDict[_Key, _Sum]) -> _Sum:
    return next(iter(sums.values()))


def _found(sums: OrderedDict[_Key, _Sum], key: _Key, now: float, most: int) -> _Sum | None:
    found = sums.get(key)
    if found is None and len(sums) < most:
        found = sums[key] = _Sum(now)
    return found


def _told(key: _Key, known: _Sum, now: float) -> logging.LogRecord:
    """Return the line that tells of what was counted."""
    username, address = key
    seconds = round(now - known.since)
    more = " more" if known.told else ""
    counts = [
        f"{count:,}{more} {EVENTS[name].many or name}" for name, count in known.counts.items()
    ]
    accounts = len(known.accounts)
    if not username and accounts:
        at_least = "at least " if accounts == MOST_NAMES else ""
        counts.append(f"to {at_least}{accounts} account{'s' if accounts > 1 else ''}")
    who = f"address {address}" if address else "all others"
    if username:
        who = f"{username} from {address}" if address else username
    return record_of(
        REPEATED,
        {
            "address": address or None,
            "username": username or None,
            "counts": dict(known.counts),
            "accounts": accounts,
            "seconds": seconds,
        },
        level=known.level,
        message=f"{who}: {', '.join(counts)}, in {seconds} s",
    )
