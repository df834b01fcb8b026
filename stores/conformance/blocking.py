"""Rules 69 and 79 of the store kit: what says that it does not block does not.

What a call does is seen in three ways, in the thread that makes it: what Python announces to audit
hooks (files, sockets, processes, directories), how often the thread read or wrote a descriptor, and
how often it gave the processor away, as whoever waits for anything does. The last two are counted
by the system, where it is Linux; and since a thread may be kept waiting by others of its process,
for the interpreter, they are evidence only where every one of several calls did so.

A page of usernames is let off: a loop leaves listings to a worker, whatever the store, and one that
looks at a million names had better let other threads go on meanwhile.
"""

import os
import resource
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from twinline.core.conformance import Checks, rule, shown
from twinline.core.protocol import EVERY_KIND
from twinline.core.store import Blocked, Invitation, Peer, PeerReceipt, Store, Unsubscribe
from twinline.stores.conformance.bench import ALL, HOUR, NOW, StoreBench, password_hash

_ROUNDS: Final = 5
_ANNOUNCED: Final = ("open", "os.", "shutil.", "socket.", "sqlite3.", "subprocess.", "time.sleep")
_COUNTS: Final = Path("/proc/thread-self/io")
_COUNTS_BYTES: Final = 4096  # more than they are
_COUNTED: Final = (b"syscr", b"syscw")


@rule(69, "A store that says that it does not block waits for nothing where it is called.")
def a_store_that_does_not_block_waits_for_nothing(checks: Checks, bench: StoreBench) -> None:
    """Call every method but `Accounts.page` a few times, and see what its thread did."""
    store = bench.one_node()
    checks.that(isinstance(store.blocks, bool), f"blocks should be a bool, is {store.blocks!r}")
    if store.blocks:
        return
    _wait_for_nothing(checks, lambda: calls(bench, store))


@rule(79, "Unsubscribing waits for nothing and raises nothing, whatever has become of the other.")
def unsubscribing_waits_for_nothing(checks: Checks, bench: StoreBench) -> None:
    """Unsubscribe while it is there, twice, when it is gone, and from within a wake."""
    store = bench.one_node()
    _wait_for_nothing(checks, lambda: _unsubscribes(bench, store))
    bob = bench.mailbox(store)
    done = bench.bell()
    raised: list[BaseException] = []
    subscriptions: list[Unsubscribe] = []

    def wake() -> None:
        try:
            for unsubscribe in subscriptions:
                unsubscribe()
        except BaseException as error:  # noqa: BLE001 - the store would log it
            raised.append(error)
        done.ring()

    subscriptions += [store.mailboxes.on_mail(bob, wake) for _ in range(3)]
    store.mailboxes.append(bob, bench.draft())
    checks.that(done.rang(), "a wake that unsubscribes does not come to its end")
    checks.that(not raised, f"unsubscribing in a wake raises {shown(raised)}")


def _unsubscribes(bench: StoreBench, store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield what ends a subscription, each to be called before the next one is asked for."""
    boxes, accounts = store.mailboxes, store.accounts
    ann = bench.account(f"u{bench.id()}")
    accounts.create(ann)
    sessions = bench.session(ann), bench.session(ann)
    for session in sessions:
        accounts.open_session(session)
    kept, dropped = bench.mailbox(store), bench.mailbox(store)
    bells = [bench.bell() for _ in range(2)]
    mail = [boxes.on_mail(each, bells[0].ring) for each in (kept, dropped, bench.id())]
    ends = [accounts.on_session_end(each.key, bells[1].ring) for each in sessions]
    boxes.drop(dropped)
    accounts.close_session(sessions[1].key)
    for bell in bells:
        bell.rang()  # so that nothing more is done in the background for what has ended
    for when in ("", " again"):
        yield f"unsubscribing from mail{when}", mail[0]
        yield f"unsubscribing{when} from a mailbox that was dropped", mail[1]
        yield f"unsubscribing{when} from a mailbox that never was", mail[2]
        yield f"unsubscribing from a session's end{when}", ends[0]
        yield f"unsubscribing{when} from the end of a session that has ended", ends[1]


def _wait_for_nothing(
    checks: Checks, make_calls: Callable[[], Iterator[tuple[str, Callable[[], object]]]]
) -> None:
    """Make calls a few times, and see what this thread did in each."""
    announced: dict[str, list[str]] = {}
    waited: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    with ExitStack() as stack:
        counts = _Counts(stack)
        for _ in range(_ROUNDS):
            for name, call in make_calls():
                with _announced() as events:
                    waits, moves = counts.around(call)
                announced.setdefault(name, []).extend(events)
                waited[name] += waits
                moved[name] += moves
    often = f"in each of {_ROUNDS} calls"
    for name, events in announced.items():
        if not checks.that(not events, f"{name} may block: {', '.join(dict.fromkeys(events))}"):
            continue
        if checks.that(moved[name] < _ROUNDS, f"{name} read or wrote a descriptor {often}"):
            checks.that(waited[name] < _ROUNDS, f"{name} waited for something {often}")


def calls(bench: StoreBench, store: Store) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield a call of every method but one, each to be made before the next one is asked for."""
    accounts, boxes = store.accounts, store.mailboxes
    account = bench.account(f"u{bench.id()}")
    session, mine, name = bench.session(account), account.account_id, account.username
    key, first, second = session.key, account.password_hash, password_hash("second")
    unsubscribes: list[Callable[[], None]] = []
    draft = bench.draft(send_id="once")
    invitation = Invitation(session.token_hash, NOW, NOW + HOUR)

    def wake() -> None:
        pass

    yield "mailboxes.create", lambda: boxes.create(mine)
    yield "accounts.is_free", lambda: accounts.is_free(name)
    yield "accounts.create", lambda: accounts.create(account)
    yield "accounts.find", lambda: accounts.find(name)
    yield "accounts.hash_profiles", accounts.hash_profiles
    yield "accounts.note_address", lambda: accounts.note_address(mine, "::1", NOW, most=3)
    yield "accounts.address_noted_at", lambda: accounts.address_noted_at(mine, "::1")
    yield "accounts.open_session", lambda: accounts.open_session(session, verified=first, most=3)
    yield "accounts.find_session", lambda: accounts.find_session(key)
    yield "accounts.touch_session", lambda: accounts.touch_session(key, NOW + 2 * HOUR)
    yield (
        "accounts.on_session_end",
        lambda: unsubscribes.append(accounts.on_session_end(key, wake)),
    )
    yield "unsubscribing from a session's end", unsubscribes.pop()
    yield (
        "accounts.set_password_hash",
        lambda: accounts.set_password_hash(mine, second, instead_of=first),
    )
    yield (
        "accounts.change_password",
        lambda: accounts.change_password(mine, first, instead_of=second, keep=key.token_hash),
    )
    yield "accounts.sessions", lambda: accounts.sessions(mine)
    yield "accounts.close_session", lambda: accounts.close_session(key)
    yield "accounts.close_sessions", lambda: accounts.close_sessions(mine)
    yield "accounts.addresses", lambda: accounts.addresses(mine)
    yield "accounts.enable", lambda: accounts.enable(mine, enabled=False)
    yield "accounts.add_invitation", lambda: accounts.add_invitation(invitation)
    yield "accounts.find_invitation", lambda: accounts.find_invitation(invitation.token_hash)
    yield "accounts.invitations", accounts.invitations
    yield "accounts.drop_invitation", lambda: accounts.drop_invitation(invitation.token_hash)
    yield "mailboxes.on_mail", lambda: unsubscribes.append(boxes.on_mail(mine, wake))
    yield "mailboxes.append", lambda: boxes.append(mine, draft)
    yield "mailboxes.append of a repeat", lambda: boxes.append(mine, draft)
    yield "unsubscribing from mail", unsubscribes.pop()
    yield "mailboxes.set_quota", lambda: boxes.set_quota(mine, 9)
    yield "mailboxes.usage", lambda: boxes.usage(mine)
    yield "mailboxes.trace", lambda: boxes.trace(draft.message_id, mine, now=NOW)
    yield "mailboxes.read", lambda: boxes.read(mine, 0, ALL, ALL)
    yield "mailboxes.ack", lambda: boxes.ack(mine, 1, NOW)
    yield "mailboxes.standing", lambda: boxes.standing(mine)
    yield "mailboxes.history", lambda: boxes.history(mine, None, ALL, ALL, NOW)
    yield from _conversing(bench, store, mine)
    yield "mailboxes.delete", lambda: boxes.delete(mine, [1])
    yield "accounts.withdraw", lambda: accounts.withdraw(mine, keep_name=True)
    yield "mailboxes.drop", lambda: boxes.drop(mine)


def _conversing(
    bench: StoreBench, store: Store, mine: str
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the calls that are about a conversation with the owner of a mailbox."""
    boxes, writer = store.mailboxes, bench.mailbox(store)
    copied = bench.draft(send_id="twice")._replace(sender_id=writer, copy_to="bob")
    receipt, blocked = PeerReceipt(mine, "bob", NOW, NOW), Blocked(writer, "ann")
    peer = Peer(mine, "bob")
    yield "mailboxes.append with a copy", lambda: boxes.append(mine, copied)
    yield "mailboxes.put_receipt", lambda: boxes.put_receipt(writer, receipt)
    yield "mailboxes.read of every kind", lambda: boxes.read(writer, 0, ALL, ALL, EVERY_KIND)
    yield (
        "mailboxes.history with a peer",
        lambda: boxes.history(writer, None, ALL, ALL, NOW, kinds=EVERY_KIND, peer=peer),
    )
    yield "mailboxes.conversations", lambda: boxes.conversations(writer, None, ALL, ALL, NOW)
    yield "mailboxes.set_receipts", lambda: boxes.set_receipts(mine, receipts=False)
    yield "mailboxes.block", lambda: boxes.block(mine, blocked)
    yield "mailboxes.blocked", lambda: boxes.blocked(mine)
    yield "mailboxes.unblock", lambda: boxes.unblock(mine, writer)


class _Counts:
    """What the system counts of the thread that makes this, and that alone uses it."""

    def __init__(self, stack: ExitStack) -> None:
        self._descriptor = -1
        try:
            self._descriptor = os.open(_COUNTS, os.O_RDONLY)
        except OSError:
            return  # this system does not count, or does not tell
        stack.callback(os.close, self._descriptor)

    def around(self, call: Callable[[], object]) -> tuple[bool, bool]:
        """Make a call; return whether it gave the processor away, and whether it read or wrote."""
        # In this order: to read the second count may make the thread wait for the interpreter.
        moves = self._moves()
        waits = _waits()
        call()
        waits = _waits() - waits
        moves = self._moves() - moves
        return waits > 0, moves > 1  # to read the count is one

    def _moves(self) -> int:
        if self._descriptor < 0:
            return 0
        lines = os.pread(self._descriptor, _COUNTS_BYTES, 0).splitlines()
        counted = dict(line.split(b": ") for line in lines)
        return sum(int(counted[key]) for key in _COUNTED)


def _waits() -> int:
    if not hasattr(resource, "RUSAGE_THREAD"):
        return 0
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class _Heard(threading.local):
    events: list[str] | None = None  # that were announced in this thread, while it listens


class _hook:  # noqa: N801 - a namespace, and never called
    installed = False


_heard = _Heard()


@contextmanager
def _announced() -> Iterator[list[str]]:
    """Note what Python announces in this thread while the block runs."""
    if not _hook.installed:
        _hook.installed = True  # for the life of the process: a hook cannot be taken away
        sys.addaudithook(_note)
    events: list[str] = []
    _heard.events = events
    try:
        yield events
    finally:
        _heard.events = None


# Python does not trace audit hooks, so no coverage tool sees this one run.
def _note(event: str, arguments: tuple[Any, ...]) -> None:  # pragma: no cover
    events = _heard.events
    if events is not None and event.startswith(_ANNOUNCED):
        events.append(f"{event} {shown(arguments[0])}" if arguments else event)
