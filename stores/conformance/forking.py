"""Rule 68 of the store kit: what becomes of a store in a forked child."""

import os
import signal
import time
import warnings
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.store import Draft, Store
from twinline.stores.conformance.bench import ALL, StoreBench

_STORED: Final = 0
_REFUSED: Final = 1
_LOOK_SECONDS: Final = 0.005


@rule(68, "A forked child is refused, or stores what it says; the parent's store goes on.")
def a_child_harms_nobody(checks: Checks, bench: StoreBench) -> None:
    """Send from a child and from its parent at once, more than once; count what is there."""
    if not hasattr(os, "fork"):
        return
    store = bench.one_node()  # the others would not be where the child is
    bob = bench.mailbox(store, 1)
    expected = ["m1"]
    for number in range(3):
        from_child, from_parent = (f"{who} {number}" for who in ("child", "parent"))
        child = _forked(store, bob, bench.draft(from_child))
        store.mailboxes.append(bob, bench.draft(from_parent))
        expected.append(from_parent)
        status = _status(child, bench.wake_seconds)
        if status is None:
            checks.wrong(f"the child's send took more than {bench.wake_seconds:g} s")
        elif status == _STORED:
            expected.append(from_child)
        else:
            checks.equal(status, _REFUSED, "the exit code of a child that only sent a message")
    store.mailboxes.append(bob, bench.draft("last"))
    messages = store.mailboxes.read(bob, 0, ALL, ALL).messages
    bodies = sorted(message.body for message in messages)
    checks.equal(bodies, sorted([*expected, "last"]), "what was stored, by parent and children")
    checks.equal(
        [message.seq for message in messages], list(range(1, len(messages) + 1)), "the seqs then"
    )


def _forked(store: Store, account_id: str, draft: Draft) -> int:
    """Return the process id of a child that sends a message and ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
        child = os.fork()
    if child:
        return child
    status = _REFUSED
    try:
        store.mailboxes.append(account_id, draft)
        status = _STORED
    finally:
        os._exit(status)  # whatever was raised: nothing of the parent's is ended here


def _status(child: int, seconds: float) -> int | None:
    """Return a child's exit code, below 0 for a signal; None if it had to be killed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(_LOOK_SECONDS)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None
