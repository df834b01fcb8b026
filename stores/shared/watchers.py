"""Who is woken when a mailbox gets an entry: by account id, and by the kinds of entries.

For stores whose state is not in this process.
"""

from itertools import chain

from twinline.core.protocol import Kind, Kinds
from twinline.core.store import Unsubscribe
from twinline.core.waiting import Wake
from twinline.stores.shared.subscriptions import Subscriptions


class Watchers:
    """Wakes of this process; the caller calls them, with no lock held."""

    def __init__(self) -> None:
        self._by_kind: dict[Kind, Subscriptions[str]] = {
            kind: Subscriptions(f"watches of {kind}") for kind in Kind
        }

    def add(self, account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
        """Have ``wake`` called whenever a mailbox is woken for one of the kinds."""
        ends = [self._by_kind[kind].add(account_id, wake) for kind in kinds]
        if len(ends) == 1:
            return ends[0]

        def unsubscribe() -> None:
            for end in ends:
                end()

        return unsubscribe

    def wakes(self, account_id: str, *kinds: Kind) -> tuple[Wake, ...]:
        """Return the wakes of a mailbox for entries of some kinds.

        One for several kinds is there as often.
        """
        found = [self._by_kind[kind].wakes(account_id) for kind in kinds]
        return found[0] if len(found) == 1 else tuple(chain.from_iterable(found))

    def watched(self, kind: Kind) -> list[str]:
        """Return the mailboxes that are watched for a kind at this moment."""
        return self._by_kind[kind].keys()

    def end(self, account_id: str) -> list[Wake]:
        """Drop the wakes of a mailbox, and return them: to be called for the last time.

        One for several kinds is there as often.
        """
        return [wake for wakes in self._by_kind.values() for wake in wakes.end(account_id)]

    def discard(self, account_id: str) -> None:
        """Drop the wakes of a mailbox: what they were to wait for was gone when they came."""
        for wakes in self._by_kind.values():
            wakes.discard(account_id)
