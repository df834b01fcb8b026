"""The store that several servers share with one fault each, for the store kit to find.

Most of these faults are seen from another node alone: a node by itself keeps all the rules.
"""

import itertools
import time
from collections import defaultdict
from typing import Any

from seeded_faults_mailboxes import a_moment
from shared_memory import SharedAccounts, SharedMailboxes, SharedNode, States, passed_on

from twinline.core.errors import Refused
from twinline.core.protocol import Kind
from twinline.core.store import Durability, Health


def with_accounts(kind: type[SharedAccounts]) -> type[SharedNode]:
    """Return nodes with other accounts."""
    return type(kind.__name__, (SharedNode,), {"accounts_type": kind})


def with_mailboxes(kind: type[SharedMailboxes]) -> type[SharedNode]:
    """Return nodes with other mailboxes."""
    return type(kind.__name__, (SharedNode,), {"mailboxes_type": kind})


def with_states(kind: type[States]) -> type[SharedNode]:
    """Return nodes with other states."""
    return type(kind.__name__, (SharedNode,), {"states_type": kind})


# -- nodes that do not hear each other -----------------------------------------------------


class SwallowsNotices(SharedNode):
    """A node that tells nobody else what it did: deaf nodes."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        for half in (self.accounts, self.mailboxes):
            vars(half)["tell"] = half.hear


class HasTheIdOfAll(SharedNode):
    """A node that takes the notices of others for its own."""

    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        self.id = 1


class ClosesForAll(SharedNode):
    def close(self) -> None:
        super().close()
        self.engine.notices.put(None)


class DropsInSilence(SharedMailboxes):
    def drop(self, account_id):
        self.shared.drop(account_id)
        self.hear(account_id)


class TellsBeforeItStores(SharedMailboxes):
    def append(self, account_id, draft):
        self.tell(account_id)
        a_moment()
        return self.shared.append(account_id, draft)


class WithdrawsInSilence(SharedAccounts):
    def withdraw(self, account_id, **options):
        withdrawn = self.shared.withdraw(account_id, **options)
        self.hear(account_id)
        return withdrawn


class MakesRoomInSilence(SharedAccounts):
    open_session = passed_on("open_session")


# -- nodes that know better ----------------------------------------------------------------


class CachesSessions(SharedAccounts):
    """Sessions that were found once are found for a time, here; for ever is a fault."""

    seconds = float("inf")

    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.found: dict[Any, tuple[Any, float]] = {}

    def find_session(self, key):
        session, until = self.found.get(key, (None, 0.0))
        if time.monotonic() >= until:
            session = super().find_session(key)
            if session is not None:
                self.found[key] = session, time.monotonic() + self.seconds
        return session

    def tell(self, account_id: str, kind: Kind | None = None) -> None:
        for key in [each for each in list(self.found) if each.account_id == account_id]:
            self.found.pop(key, None)
        super().tell(account_id, kind)


class CachesSessionsForAMoment(CachesSessions):
    """No fault: a session that ended elsewhere may be found for a second."""

    seconds = 0.02


class RemembersRecipients(SharedAccounts):
    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.known: dict[str, str] = {}

    def recipient(self, username):
        if username not in self.known:
            account = self.find(username)
            if account is None:
                return None
            self.known[username] = account.account_id
        return self.known[username]

    def withdraw(self, account_id, **options):
        self.known = {
            name: known for name, known in list(self.known.items()) if known != account_id
        }
        return super().withdraw(account_id, **options)


class RemembersAccounts(SharedAccounts):
    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.known: dict[str, Any] = {}

    def find(self, username):
        if self.known.get(username) is None:
            self.known[username] = self.shared.find(username)
        return self.known[username]

    def set_password_hash(self, *arguments, **options):
        self.known.clear()
        return self.shared.set_password_hash(*arguments, **options)


class NotesAddressesItself(SharedAccounts):
    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.noted: dict[tuple[str, str], int] = {}

    def note_address(self, account_id, address, at, *, most):
        self.noted[account_id, address] = at

    def address_noted_at(self, account_id, address):
        return self.noted.get((account_id, address))


class RemembersStandings(SharedMailboxes):
    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.known: dict[str, Any] = {}

    def standing(self, account_id):
        if account_id not in self.known:
            self.known[account_id] = self.shared.standing(account_id)
        return self.known[account_id]

    def hear(self, account_id, kind=None):
        self.known.pop(account_id, None)
        super().hear(account_id, kind)

    def ack(self, account_id, up_to, now):
        self.known.pop(account_id, None)
        return self.shared.ack(account_id, up_to, now)


class CopiesInSilence(SharedMailboxes):
    """Tell the other nodes of the message alone."""

    def append(self, account_id, draft):
        with self.telling((account_id, Kind.MAIL)):
            accepted = self.shared.append(account_id, draft)
        self.hear(draft.sender_id, Kind.SENT)
        return accepted


class BlocksForItself(SharedMailboxes):
    """Refuse what this node has blocked, and forget it when it has unblocked."""

    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.refused: set[tuple[str, str]] = set()

    def block(self, account_id, peer):
        self.refused.add((account_id, peer.account_id))
        self.shared.block(account_id, peer)
        self.shared.unblock(account_id, peer.account_id)

    def unblock(self, account_id, peer_id):
        known = (account_id, peer_id) in self.refused
        self.refused.discard((account_id, peer_id))
        return known

    def append(self, account_id, draft):
        if (account_id, draft.sender_id) in self.refused:
            raise Refused
        return super().append(account_id, draft)


class RemembersWhoGivesReceipts(SharedMailboxes):
    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.known: dict[str, bool] = {}

    def standing(self, account_id):
        standing = self.shared.standing(account_id)
        known = self.known.setdefault(account_id, standing.gives_receipts)
        return standing._replace(gives_receipts=known)


class CountsSeqsItself(SharedMailboxes):
    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.counts: dict[str, Any] = defaultdict(lambda: itertools.count(0))

    def append(self, account_id, draft):
        box = self.shared._boxes.get(account_id)
        if box is not None:
            box.last = next(self.counts[account_id])
        return super().append(account_id, draft)


class KnowsItsOwnSendIds(SharedMailboxes):
    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.receipts: dict[Any, Any] = {}

    def append(self, account_id, draft):
        key = account_id, draft.sender_id, draft.send_id, draft.body
        if draft.send_id is None or key not in self.receipts:
            self.receipts[key] = super().append(account_id, draft._replace(send_id=None))
        return self.receipts[key]


class JumpsOnEachNode(SharedMailboxes):
    """Let a mailbox's seqs jump when this node sends to it first, of a state that was put back."""

    def __init__(self, node: SharedNode) -> None:
        super().__init__(node)
        self.jumped: set[str] = set()

    def append(self, account_id, draft):
        box = self.shared._boxes.get(account_id)
        if box is not None and self.node.engine.epoch > 1 and account_id not in self.jumped:
            self.jumped.add(account_id)
            box.last += 2**32
        return super().append(account_id, draft)


class TakesAnyPolicy(SharedNode):
    def __init__(self, engine: Any) -> None:
        super().__init__(engine)
        # What no policy differs from.
        engine.policy = type("AnyPolicy", (), {"__ne__": lambda *_: False, "__hash__": None})()


class HasItsOwnEpoch(SharedNode):
    def health(self) -> Health:
        return Health(Durability.PROCESS, f"{self.id}")


class KeepsItsEpoch(SharedNode):
    def health(self) -> Health:
        return Health(Durability.PROCESS, "1")


# -- states ----------------------------------------------------------------------------------


class ReadsThenChanges(States):
    def change(self, key, step, *, keep_ms):
        new = step(self.read(key))
        a_moment()
        super().change(key, lambda _old: new, keep_ms=keep_ms)


class StoresItself(States):
    def __init__(self, engine: Any) -> None:
        super().__init__(type("Own", (), {"lock": engine.lock, "states": {}})())


class KeepsForEver(States):
    def change(self, key, step, *, keep_ms):
        super().change(key, step, keep_ms=10**9)


class KeepsAsAtFirst(States):
    def change(self, key, step, *, keep_ms):
        with self.engine.lock:
            _, until = self.engine.states.get(key, (None, 0.0))
            left = round(1000 * (until - time.monotonic()))
        super().change(key, step, keep_ms=left if left > 0 else keep_ms)


class ForgetsWhatRaises(States):
    def change(self, key, step, *, keep_ms):
        try:
            super().change(key, step, keep_ms=keep_ms)
        except Exception:
            super().change(key, lambda _old: None, keep_ms=keep_ms)
            raise


class TakesEmptyForNone(States):
    def _value(self, key):
        return super()._value(key) or None


ALONE: tuple[tuple[type[SharedNode], str], ...] = (
    (with_states(ReadsThenChanges), "states_lose_no_change"),
    (with_states(ForgetsWhatRaises), "states_are_what_steps_make"),
    (with_states(TakesEmptyForNone), "states_are_what_steps_make"),
    (with_states(KeepsForEver), "states_are_forgotten_in_time"),
    (with_states(KeepsAsAtFirst), "states_are_forgotten_in_time"),
    (KeepsItsEpoch, "epochs_are_new"),
)
"""Nodes with a fault, and the rule that must say so of one of them alone."""

TOGETHER: tuple[tuple[type[SharedNode], str], ...] = (
    (SwallowsNotices, "mail_wakes_on_every_node"),
    (SwallowsNotices, "mail_wakes_its_watchers"),
    (SwallowsNotices, "sessions_end_on_every_node"),
    (HasTheIdOfAll, "mail_wakes_on_every_node"),
    (ClosesForAll, "nodes_close_alone"),
    (with_mailboxes(DropsInSilence), "mail_wakes_on_every_node"),
    (with_mailboxes(TellsBeforeItStores), "no_wake_is_lost"),
    (with_accounts(WithdrawsInSilence), "sessions_end_on_every_node"),
    (with_accounts(MakesRoomInSilence), "sessions_end_on_every_node"),
    (with_accounts(CachesSessions), "sessions_end_on_every_node"),
    (with_accounts(RemembersRecipients), "recipients_are_found"),
    (with_accounts(RemembersAccounts), "nodes_agree_at_once"),
    (with_mailboxes(RemembersStandings), "nodes_agree_at_once"),
    (with_accounts(NotesAddressesItself), "later_nodes_know_the_accounts"),
    (with_mailboxes(CopiesInSilence), "notes_wake_on_every_node"),
    (SwallowsNotices, "notes_wake_on_every_node"),
    (with_mailboxes(BlocksForItself), "nodes_refuse_alike"),
    (with_mailboxes(RemembersWhoGivesReceipts), "nodes_refuse_alike"),
    (with_mailboxes(CountsSeqsItself), "seqs_have_no_gaps"),
    (with_mailboxes(KnowsItsOwnSendIds), "repeats_get_the_first_receipt"),
    (with_mailboxes(JumpsOnEachNode), "seqs_jump"),
    (TakesAnyPolicy, "nodes_have_one_policy"),
    (HasItsOwnEpoch, "health_is_told"),
    (with_states(StoresItself), "states_lose_no_change"),
)
"""Nodes with a fault, and the rule that must say so of two of them."""
