"""Measures conversations in a mailbox of a million messages, with any store.

What the URL names has to be empty; what is put there stays. Mail and copies of
a thousand peers take turns in one mailbox, all of it acknowledged, under a retention that keeps it.
Then pages of 50 are read of one peer after the other, the newest and those from the middle, by the
peer's account (wanted: 5 ms at most); and by the name of one that is gone, and the first 50
conversations, which both look at every peer once.

    python benchmarks/conversations.py sqlite:/tmp/million.db
    python benchmarks/conversations.py memory: --messages 100000
"""

# A script: it prints, and asserts what it relies on.
# ruff: noqa: T201, S101

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Final

from twinline.core.clock import wall_clock_ms
from twinline.core.protocol import TALK
from twinline.core.store import Account, Draft, Mailboxes, MailboxPolicy, Peer
from twinline.stores.archive import AccountRow, AckRow, Archive, CopyRow, MailboxRow, MessageRow
from twinline.stores.registry import open_store, upkeep_of

OWNER: Final = "id-owner"
BODY: Final = "See you at the station at half past seven, platform 4."
PAGE: Final = 50
_PIECE: Final = 1_000  # messages that are put at once
_READS: Final = 200


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def peer(number: int) -> Peer:
    """Return who is at the other side of a conversation."""
    return Peer(f"id-peer-{number}", f"peer{number}")


def fill_through(archive: Archive, messages: int, peers: int, now: int) -> None:
    """Put all of it into a store that no server has open."""
    archive.begin("a benchmark")
    archive.put_accounts([AccountRow(Account(OWNER, "owner", "$argon2id$none", now), ())])
    archive.begin_mailbox(OWNER)
    for start in range(1, messages + 1, _PIECE):
        seqs = range(start, min(start + _PIECE, messages + 1))
        mail, copies = [], []
        for seq in seqs:
            other = peer(seq // 2 % peers)
            account_id, name, message_id = other.account_id or "", other.username, f"{seq:024x}"
            if seq % 2:
                mail.append(MessageRow(seq, message_id, name, BODY, now, account_id, now + seq))
            else:
                copies.append(
                    CopyRow(seq, message_id, "owner", account_id, name, BODY, now, now + seq)
                )
        archive.put_messages(OWNER, mail)
        archive.put_copies(OWNER, copies)
        if start % 100_000 == 1:
            say(f"  {start - 1:,} of {messages:,}")
    archive.put_acks(OWNER, [AckRow(messages, now)])
    archive.end_mailbox(MailboxRow(OWNER, messages, messages, newest=now + messages))
    archive.end()


def fill(boxes: Mailboxes, messages: int, peers: int, now: int) -> None:
    """Send all of it, where there is no archive."""
    boxes.create(OWNER)
    for number in range(peers):
        boxes.create(peer(number).account_id or "")
    for seq in range(1, messages + 1):
        account_id, name = peer(seq // 2 % peers)
        if seq % 2:
            boxes.append(OWNER, Draft(f"{seq:024x}", account_id or "", name, BODY, now))
        else:
            draft = Draft(f"{seq:024x}", OWNER, "owner", BODY, now, f"{seq}", name)
            boxes.append(account_id or "", draft)
    boxes.ack(OWNER, messages, now)


def reads(boxes: Mailboxes, peers: int, now: int) -> Iterator[tuple[str, Callable[[int], object]]]:
    """Yield what is read, and how, by a number."""

    def page(other: Peer, before: int | None) -> None:
        found = boxes.history(OWNER, before, PAGE, 1 << 20, now, kinds=TALK, peer=other)
        assert len(found.messages) == PAGE
        assert {each.to or each.sender for each in found.messages} == {other.username}

    def gone(number: int) -> Peer:
        return Peer(None, peer(number % peers).username)

    def talks() -> None:
        assert len(boxes.conversations(OWNER, None, PAGE, 1 << 20, now).conversations) == PAGE

    middle = boxes.standing(OWNER).position // 2
    yield "the newest page of a peer", lambda number: page(peer(number * 7 % peers), None)
    yield "one from the middle", lambda number: page(peer(number * 7 % peers), middle)
    yield "the newest page of a name, its account gone", lambda number: page(gone(number * 7), None)
    yield "the first conversations", lambda _: talks()


def main() -> None:
    """Fill a store, measure it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", help="of the store")
    parser.add_argument("--messages", type=int, default=1_000_000, help="[default: 1,000,000]")
    parser.add_argument("--peers", type=int, default=1_000, help="[default: 1,000]")
    options = parser.parse_args()
    messages, peers = options.messages, options.peers
    if messages < 4 * PAGE * peers:
        parser.error(f"of {peers} peers the middle of {messages} messages has no page of {PAGE}")
    # With room for what is unread until all of it is acknowledged.
    policy = MailboxPolicy(
        mailbox_messages=messages + 1, history_messages=messages, history_days=36_500
    )
    now = wall_clock_ms()
    say(f"filling {messages:,} messages of {peers:,} peers")
    in_memory = options.url.startswith("memory:")
    if not in_memory:
        with upkeep_of(options.url).target() as archive:
            fill_through(archive, messages, peers, now)
    with open_store(options.url, policy) as store:
        if in_memory:
            fill(store.mailboxes, messages, peers, now)
        for what, read in reads(store.mailboxes, peers, now):
            times = []
            for number in range(_READS):
                began = time.perf_counter()
                read(number)
                times.append(1e3 * (time.perf_counter() - began))
            times.sort()
            figures = (median(times), times[len(times) * 99 // 100], times[-1])
            shown = ", ".join(f"{each:.2f}" for each in figures)
            print(f"{what:44} {shown} ms (median, 99 %, longest)")


if __name__ == "__main__":
    main()
