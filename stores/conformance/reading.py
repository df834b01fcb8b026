"""Rules 22 to 26 of the store kit: pages, positions, and what is deleted."""

from collections.abc import Sequence
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.errors import CursorInvalid
from twinline.core.protocol import Message
from twinline.core.store import MailPage, Standing, Store
from twinline.stores.conformance.bench import ALL, NOW, StoreBench, everything, seqs

_LIMITS: Final = (1, 2, 3, 5, ALL)
_BUDGETS: Final = (0, 1, 2, 3, 4, 7, 8, 9, 20, ALL)


def _first(messages: Sequence[Message], limit: int, max_bytes: int) -> list[Message]:
    """Return the first messages within the limits, in the plainest way."""
    page: list[Message] = []
    for message in messages[:limit]:
        if page and sum(len(one.body.encode()) for one in [*page, message]) > max_bytes:
            break
        page.append(message)
    return page


def _a_mailbox(bench: StoreBench) -> tuple[Store, str, list[Message]]:
    """Return a mailbox with bodies of several lengths, some acked, some gone."""
    store = bench.store()
    boxes = store.mailboxes
    bob = bench.mailbox(store)
    for body in ("a", "é", "xxxx", "", "👋", "yy", "zzzzzzzz", "b", "ü", "c"):
        boxes.append(bob, bench.draft(body))
    boxes.delete(bob, [4, 9])
    boxes.ack(bob, 5, NOW)
    everyone = boxes.read(bob, 0, ALL, ALL).messages
    return store, bob, list(everyone)


@rule(22, "read() gives the first messages beyond a seq, within both limits, and tells `more`.")
def reading_goes_forward(checks: Checks, bench: StoreBench) -> None:
    """Ask for pages from every seq with many limits, and for one beyond the last."""
    store, bob, mail = _a_mailbox(bench)
    boxes = store.mailboxes
    checks.equal([one.seq for one in mail], [1, 2, 3, 5, 6, 7, 8, 10], "acked or not, what is read")
    for after in range(11):
        beyond = [one for one in mail if one.seq > after]
        for limit in _LIMITS:
            for budget in _BUDGETS:
                page = boxes.read(bob, after, limit, budget)
                expected = _first(beyond, limit, budget)
                more = len(expected) < len(beyond)
                what = f"read(after={after}, limit={limit}, max_bytes={budget})"
                seen = expected[-1].seq if more else 10
                checks.equal(page, MailPage(tuple(expected), 5, more, seen), what)
    for beyond_last in (11, 2**53 - 1):
        checks.raises(
            CursorInvalid,
            lambda: boxes.read(bob, beyond_last, 1, ALL),  # noqa: B023 - called at once
            f"reading after {beyond_last} when the last seq is 10",
        )
    boxes.delete(bob, [10])
    checks.equal(seqs(boxes.read(bob, 10, 9, ALL)), [], "after the last seq, which was deleted,")


@rule(23, "history() gives the last messages below a seq, within both limits, and tells `more`.")
def history_goes_backward(checks: Checks, bench: StoreBench) -> None:
    """Ask for pages before every seq with many limits."""
    store, bob, mail = _a_mailbox(bench)
    boxes = store.mailboxes
    for before in (None, *range(12), 2**53 - 1):
        below = [one for one in reversed(mail) if before is None or one.seq < before]
        for limit in _LIMITS:
            for budget in _BUDGETS:
                page = boxes.history(bob, before, limit, budget, NOW)
                expected = _first(below, limit, budget)
                more = len(expected) < len(below)
                what = f"history(before={before}, limit={limit}, max_bytes={budget})"
                seen = expected[-1].seq if more else 0
                checks.equal(page, MailPage(tuple(reversed(expected)), 5, more, seen), what)


@rule(24, "An ack moves the position forward, never back, and not beyond the last seq.")
def positions_move_forward(checks: Checks, bench: StoreBench) -> None:
    """Ack up and down, and beyond the end."""
    store = bench.store()
    boxes = store.mailboxes
    bob, other = bench.mailbox(store, messages=6), bench.mailbox(store, messages=6)
    steps = ((0, 0, 6), (2, 2, 4), (1, 2, 4), (2, 2, 4), (0, 2, 4), (5, 5, 1), (3, 5, 1), (6, 6, 0))
    for up_to, position, unread in steps:
        for beyond in (7, 2**53 - 1):
            checks.raises(
                CursorInvalid,
                lambda: boxes.ack(bob, beyond, NOW),  # noqa: B023 - called at once
                f"an ack of {beyond} when the last seq is 6",
            )
        expected = Standing(position, unread)
        checks.equal(boxes.ack(bob, up_to, NOW)[:2], expected[:2], f"ack({up_to})")
        checks.equal(boxes.standing(bob), expected, f"the standing after ack({up_to})")
        checks.equal(
            boxes.read(bob, 0, 1, ALL).position, position, "the position that read() tells"
        )
        seen = boxes.history(bob, None, 1, ALL, NOW).position
        checks.equal(seen, position, "the position that history() tells")
    checks.equal(boxes.standing(other), Standing(0, 6), "the standing of another mailbox")
    boxes.append(bob, bench.draft())
    checks.equal(boxes.standing(bob), Standing(6, 1), "the standing when there is mail again")


@rule(25, "Deleting tells how many there were, and takes those from every view, and no others.")
def deleting_takes_what_is_named(checks: Checks, bench: StoreBench) -> None:
    """Delete acked, unacked, missing and repeated seqs."""
    store = bench.store()
    boxes = store.mailboxes
    bob, other = bench.mailbox(store, messages=8), bench.mailbox(store, messages=8)
    boxes.ack(bob, 3, NOW)
    before = everything(boxes, other)
    steps: tuple[tuple[list[int], int, list[int], int], ...] = (
        ([], 0, [1, 2, 3, 4, 5, 6, 7, 8], 5),
        ([2], 1, [1, 3, 4, 5, 6, 7, 8], 5),
        ([2], 0, [1, 3, 4, 5, 6, 7, 8], 5),
        ([5, 5, 1], 2, [3, 4, 6, 7, 8], 4),
        ([0, 9, 2**53 - 1], 0, [3, 4, 6, 7, 8], 4),
        ([8, 3, 4, 99], 3, [6, 7], 2),
        ([6, 7], 2, [], 0),
    )
    for named, deleted, left, unread in steps:
        checks.equal(boxes.delete(bob, named), deleted, f"delete({named})")
        checks.equal(seqs(boxes.read(bob, 0, ALL, ALL)), left, f"what is left after {named}")
        history = boxes.history(bob, None, ALL, ALL, NOW)
        checks.equal(seqs(history), left, f"the history after {named}")
        checks.equal(boxes.standing(bob), Standing(3, unread), f"the standing after {named}")
    many = boxes.delete(other, set(range(1_000, 2_000)))
    checks.equal(many, 0, "deleting a thousand seqs that are not there")
    checks.equal(everything(boxes, other), before, "another mailbox")


@rule(26, "A call that is refused changes nothing.")
def refused_calls_change_nothing(checks: Checks, bench: StoreBench) -> None:
    """Have every kind of call on a mailbox refused, and look at all there is."""
    store = bench.store(mailbox_messages=3)
    boxes = store.mailboxes
    bob = bench.mailbox(store, messages=2)
    boxes.ack(bob, 1, NOW)
    boxes.append(bob, bench.draft("first", send_id="x"))
    boxes.append(bob, bench.draft("last"))
    before = everything(boxes, bob)
    calls = {
        "an append to a full mailbox": lambda: boxes.append(bob, bench.draft()),
        "a send_id that stands for something else": lambda: boxes.append(
            bob, bench.draft("second", send_id="x")
        ),
        "an ack beyond the end": lambda: boxes.ack(bob, 9, NOW),
        "a read beyond the end": lambda: boxes.read(bob, 9, 1, ALL),
        "a second mailbox": lambda: boxes.create(bob),
    }
    for what, call in calls.items():
        checks.raises(Exception, call, what)
        checks.equal(everything(boxes, bob), before, f"the mailbox after {what}")
