"""One mailbox in memory: its mail by seq, what is acked, and what is kept as history.

Beside that are the copies of what its account has sent, receipts, and whom it has blocked.

Nothing here takes a lock or wakes a watcher: its owner's lock guards it. A signal's handler may
raise after any call (see `twinline.core.interrupts`), so what belongs together is computed first
and then assigned without a call between; what is removed goes out of the list of seqs first.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import nlargest
from operator import itemgetter
from typing import Final, NamedTuple

from twinline.core.errors import BlockListFull, CursorInvalid, MailboxFull, Refused
from twinline.core.protocol import Kind, Kinds
from twinline.core.store import (
    MOST_BLOCKED,
    Accepted,
    Blocked,
    Delivery,
    Draft,
    Peer,
    PeerReceipt,
    Standing,
)
from twinline.stores.memory.limits import Limits
from twinline.stores.memory.log import Entry, Kept, Log
from twinline.stores.memory.send_ids import SendIds
from twinline.stores.memory.subscribers import Subscription

KeptReceipt = tuple[int, str, int, int]
"""A receipt: its seq, the name of who has acknowledged, the ``n``, and when."""

_SPARE: Final = 64  # more copies than this, beyond those that are kept, go together
_SENDER_AND_N: Final[Callable[[Kept], tuple[str, int]]] = itemgetter(1, 5)


class Found(NamedTuple):
    """Entries of a mailbox, each kind in one order."""

    mail: Sequence[Entry] = ()
    copies: Sequence[Entry] = ()
    receipts: Sequence[KeptReceipt] = ()


class Talk(NamedTuple):
    """A conversation: its last message, whether that is mail or a copy, and how many wait."""

    last: Entry
    kind: Kind
    unread: int


class Copies(Log):
    """Copies of what the account has sent; the accounts at the other side are the recipients.

    Attributes:
        owner: the account's username.
    """

    __slots__ = ("_by_id", "owner")

    def __init__(self, owner: str) -> None:
        super().__init__()
        self.owner = owner
        self._by_id: dict[str, int] = {}  # the seq, by message id

    def has(self, message_id: str) -> bool:
        """Return whether there is a copy of a message."""
        kept = self._messages.get(self._by_id.get(message_id, 0))
        return kept is not None and kept[0] == message_id

    def put(self, seq: int, kept: Kept) -> None:
        """Add a copy under a seq that was never used before."""
        self._by_id[kept[0]] = seq  # first: with an id alone `has` finds nothing
        self._messages[seq] = kept
        self._peers[kept[1]] += [seq]
        self._seqs.append(seq)

    def trim(self, most: int, aged: int, spare: int = 0) -> None:
        """Remove the oldest, until so many are left and the first was sent later than that.

        Args:
            most: so many are left.
            aged: when one was sent that is too old, in ms.
            spare: so many beyond ``most`` may stay, and then go with one more.
        """
        seqs, messages, first = self._seqs, self._messages, self._head
        surplus = len(seqs) - first - most
        # Of one that is there the list has the seq.
        if surplus <= spare and (first == len(seqs) or messages[seqs[first]][4] > aged):
            return
        head = max(first, first + surplus)
        while head < len(seqs) and messages[seqs[head]][4] <= aged:
            head += 1
        gone = [messages[seq][0] for seq in seqs[first:head]]
        self.cut(head)
        for message_id in gone:  # at last: with an id alone `has` finds nothing
            self._by_id.pop(message_id, None)

    def delete(self, seqs: set[int]) -> int:
        """Delete copies, and return how many of them there were."""
        gone = seqs & self._messages.keys()
        if gone:
            start, end, left, peers = self.without(gone)
            self._peers = peers
            self._seqs[start:end] = left
            for seq in gone:
                message_id = self._messages[seq][0]
                del self._messages[seq]
                self._by_id.pop(message_id, None)
        return len(gone)


_NO_COPIES: Final = Copies("")


class Mailbox(Log):
    """An ordered log of messages with a position; the accounts at the other side are the senders.

    Attributes:
        position: the last acked seq.
        last: the last seq that was given out; never lower, whatever is deleted.
        newest: the highest ``n`` that was given out.
        unread: how many messages lie beyond the position.
        quota: how many messages may lie beyond the position; None: as many as the policy says.
        send_ids: what the send_ids of its senders stand for.
        watchers: whom to wake when mail arrives; None until somebody has asked.
        others: those whom mail does not wake, but copies or receipts do; None as well.
        copies: of what the account has sent; None until there was one.
        receipts: by the account id of who has acknowledged, by rising seq; None as well.
        gives_receipts: whether it gives and takes them.
        blocked: names of the accounts whose mail it refuses, by id; None: there is none.
    """

    __slots__ = (
        "_acks",
        "_limits",
        "blocked",
        "copies",
        "gives_receipts",
        "last",
        "newest",
        "others",
        "position",
        "quota",
        "receipts",
        "send_ids",
        "unread",
        "watchers",
    )

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.position = 0
        self.last = 0
        self.newest = 0
        self.unread = 0
        self.quota: int | None = None
        self.send_ids = SendIds(limits)
        self.watchers: list[Subscription] | None = None
        self.others: list[Subscription] | None = None
        self.copies: Copies | None = None
        self.receipts: dict[str, KeptReceipt] | None = None
        self.gives_receipts = True
        self.blocked: dict[str, str] | None = None
        self._limits = limits
        # (position, when it was acked): history ages from its ack, not from its sending. None
        # until there is one: an empty deque has room for 64.
        self._acks: deque[tuple[int, int]] | None = None

    @property
    def owner(self) -> str:
        """The account's username, if there was a copy."""
        return "" if self.copies is None else self.copies.owner

    def watchers_of(self, kinds: Kinds) -> list[Subscription]:
        """Return the list that a subscription to some kinds joins."""
        if Kind.MAIL in kinds:
            if self.watchers is None:
                self.watchers = []
            return self.watchers
        if self.others is None:
            self.others = []
        return self.others

    @property
    def standing(self) -> Standing:
        """Where it stands."""
        return Standing(self.position, self.unread, self.gives_receipts)

    def append(self, account_id: str, draft: Draft, content: int | None) -> Accepted:
        """Add a message under the next seq, and remove what has aged by the time it was sent.

        Args:
            account_id: whose mailbox this is.
            draft: the message.
            content: what its send_id stands for from now on: the hash of the body, or None if
                that is not to be kept.

        Raises:
            Refused: its sender is blocked.
            MailboxFull: too many are not acked.
        """
        message_id, sender_id, sender, body, sent_at, send_id, _ = draft
        if self.blocked and sender_id in self.blocked and sender_id != account_id:
            raise Refused
        # An ack removes at once what is too much; the rest is removed when its time has come.
        if self._acks and self._acks[0][1] <= sent_at - self._limits.history_ms:
            self.trim(sent_at)
        if self.unread >= (self.quota or self._limits.mailbox_messages):
            raise MailboxFull
        n = sent_at if sent_at > self.newest else self.newest + 1
        seq = self.last + 1
        accepted = Accepted(message_id, sent_at, n)
        if content is not None:
            send_ids = self.send_ids
            mine, first = send_ids.make_room(draft, content, seq, n)
            # No call from here on but the last: the message is stored with its send_id or not.
            mine[send_id] = first
            send_ids.count += 1
        self.unread += 1
        self.newest = n
        self.last = seq
        self._messages[seq] = (message_id, sender_id, sender, body, sent_at, n)
        self._peers[sender_id] += [seq]
        self._seqs.append(seq)
        return accepted

    def after(self, seq: int, count: int) -> list[Entry]:
        """Return the first messages above a seq, at most ``count``.

        Raises:
            CursorInvalid: the seq is beyond the last one.
        """
        last = self.last
        if seq >= last:
            if seq > last:
                raise CursorInvalid
            return []
        if seq == last - 1 and count > 0:  # as for a watch that mail has woken
            kept = self._messages.get(last)
            return [] if kept is None else [(last, kept)]
        return super().after(seq, count)

    def found_after(self, seq: int, count: int, kinds: Kinds) -> Found:
        """Return the first entries of some kinds above a seq, of each kind at most ``count``.

        Raises:
            CursorInvalid: the seq is beyond the last one.
        """
        mail = self.after(seq, count)
        receipts: list[KeptReceipt] = []
        if Kind.RECEIPT in kinds:
            for receipt in self._receipts_of(None):
                if receipt[0] <= seq:
                    break
                receipts.append(receipt)
        return Found(
            mail if Kind.MAIL in kinds else (),
            self.copies_of(None).after(seq, count) if Kind.SENT in kinds else (),
            receipts[: -count - 1 : -1],
        )

    def found_before(
        self, seq: int | None, count: int, kinds: Kinds, peer: Peer | None, now: int
    ) -> Found:
        """Return the last entries of some kinds below a seq, of each kind at most ``count``.

        The newest is the first. Of copies and receipts what has aged at ``now`` is left out.

        Args:
            seq: None: beyond the last one.
            count: how many.
            kinds: which.
            peer: whose alone; None: everybody's.
            now: in ms.
        """
        aged = now - self._limits.history_ms
        mail: list[Entry] = []
        copies: list[Entry] = []
        receipts: list[KeptReceipt] = []
        if Kind.MAIL in kinds:
            mail = _of(self, peer, seq, count, None)
        if Kind.SENT in kinds:
            copies = _of(self.copies_of(now), peer, seq, count, aged)
        if Kind.RECEIPT in kinds:
            for receipt in self._receipts_of(peer):
                if (seq is None or receipt[0] < seq) and receipt[3] > aged:
                    receipts.append(receipt)
                    if len(receipts) == count:
                        break
        return Found(mail, copies, receipts)

    def _receipts_of(self, peer: Peer | None) -> Iterable[KeptReceipt]:
        """Return the receipts of one account or of all, the newest first."""
        receipts = self.receipts
        if not receipts:
            return ()
        if peer is None:
            return reversed(receipts.values())
        if peer.account_id is not None:
            return (receipts[peer.account_id],) if peer.account_id in receipts else ()
        return [each for each in reversed(receipts.values()) if each[1] == peer.username]

    def talks(self, before: int | None, count: int, now: int) -> list[Talk]:
        """Return conversations, the one with the newest message first, at most ``count``.

        Args:
            before: only those whose last message has a seq below this; None: all.
            count: how many.
            now: in ms; what has aged by then is not there.
        """
        last = dict(self.peers())
        copied: dict[str, Entry] = {}
        copies, aged = self.copies_of(now), now - self._limits.history_ms
        for peer_id, seq in copies.peers():
            if seq > last.get(peer_id, 0):
                newest = copies.of_peer(peer_id, None, 1, aged)
                if newest and newest[0][0] > last.get(peer_id, 0):
                    copied[peer_id] = newest[0]
                    last[peer_id] = newest[0][0]
        chosen = ((seq, each) for each, seq in last.items() if before is None or seq < before)
        talks: list[Talk] = []
        for seq, peer_id in nlargest(count, chosen):
            copy = copied.get(peer_id)
            unread = self.count_of_peer(peer_id, self.position)
            if copy is None:
                talks.append(Talk((seq, self._messages[seq]), Kind.MAIL, unread))
            else:
                talks.append(Talk(copy, Kind.SENT, unread))
        return talks

    def put_copy(self, peer_id: str, draft: Draft, first: Accepted, *, repeated: bool) -> bool:
        """Add a copy of what the account has sent, if there is none and the policy keeps any.

        What has aged by the time of the draft goes, and what is too much.

        Args:
            peer_id: the account id of the recipient.
            draft: the message, or its repeat.
            first: the result of the message.
            repeated: whether there may be a copy of it.

        Returns:
            Whether it was added.
        """
        message_id, sent_at, n = first
        most, span = self._limits.history_messages, self._limits.history_ms
        if draft.copy_to is None or not most or not span:
            return False
        copies = self.copies
        if copies is None:
            copies = self.copies = Copies(draft.sender)
        elif repeated and copies.has(message_id):
            return False
        # Here a few too many may stay, for they go together: `copies_of` leaves none.
        copies.trim(most - 1, draft.sent_at - span, _SPARE)
        self.last = seq = self.last + 1
        copies.put(seq, (message_id, peer_id, draft.copy_to, draft.body, sent_at, n))
        return True

    def copies_of(self, now: int | None) -> Copies:
        """Return the copies that the policy keeps at a time, in ms, or by number alone."""
        copies, limits = self.copies, self._limits
        if copies is None:
            return _NO_COPIES
        copies.trim(limits.history_messages, -1 if now is None else now - limits.history_ms)
        return copies

    def put_receipt(self, receipt: PeerReceipt) -> bool:
        """Put in a receipt instead of the one of the same account; return whether it was.

        What has aged by then goes, and what is too much.
        """
        account_id, username, n, acked_at = receipt
        most, span = self._limits.history_messages, self._limits.history_ms
        if not self.gives_receipts or (self.blocked and account_id in self.blocked):
            return False
        if self.receipts is None:
            self.receipts = {}
        receipts = self.receipts
        mine = receipts.get(account_id)
        if not most or not span or (mine is not None and mine[2] >= n):
            return False
        surplus = len(receipts) + (mine is None) - most
        gone: list[str] = []
        for each, kept in receipts.items():
            if each != account_id:
                if len(gone) >= surplus and kept[3] > acked_at - span:
                    break
                gone.append(each)
        for each in gone:
            del receipts[each]
        # No call from here on.
        if mine is not None:
            del receipts[account_id]
        self.last = seq = self.last + 1
        receipts[account_id] = (seq, username, n, acked_at)
        return True

    def block(self, peer: Blocked) -> None:
        """Refuse the mail of an account from now on.

        Raises:
            BlockListFull: too many others are blocked.
        """
        blocked = self.blocked
        if blocked is None:
            blocked = self.blocked = {}
        if peer.account_id not in blocked:
            if len(blocked) >= MOST_BLOCKED:
                raise BlockListFull
            blocked[peer.account_id] = peer.username

    def unblock(self, peer_id: str) -> bool:
        """Take the mail of an account again, and return whether it was blocked."""
        was = self.blocked is not None and self.blocked.pop(peer_id, None) is not None
        if not self.blocked:
            self.blocked = None
        return was

    def acked_at(self, seq: int) -> int | None:
        """Return when the position passed a seq, in ms, if it did and that is still known."""
        return next((at for position, at in self._acks or () if position >= seq), None)

    def ack(self, account_id: str, up_to: int, now: int) -> tuple[Delivery, ...]:
        """Move the position forward; a lower seq changes nothing.

        Args:
            account_id: whose mailbox this is.
            up_to: to which seq.
            now: in ms.

        Returns:
            Whose mail it has passed, for receipts.

        Raises:
            CursorInvalid: ``up_to`` is beyond the last seq.
        """
        if up_to > self.last:
            raise CursorInvalid
        if up_to <= self.position:
            return ()
        unacked = bisect_right(self._seqs, up_to, self._head)
        unread = len(self._seqs) - unacked
        deliveries: tuple[Delivery, ...] = ()
        if self.gives_receipts and self.unread > unread:
            deliveries = self._deliveries(account_id, unacked - self.unread + unread, unacked)
        self.position = up_to
        self.unread = unread
        acks = self._acks
        if acks is None:
            acks = self._acks = deque()
        elif acks and acks[-1][1] == now:
            acks.pop()
        acks.append((up_to, now))
        return deliveries

    def _deliveries(self, account_id: str, start: int, end: int) -> tuple[Delivery, ...]:
        """Return whose messages are between two indices, and the last ``n`` of each."""
        seqs, blocked = self._seqs, self.blocked or ()
        newest, count = seqs[end - 1], end - start
        _, sender_id, _, _, _, n = self._messages[newest]
        if count > 1:
            theirs = self._peers[sender_id]
            count = bisect_right(theirs, newest) - bisect_left(theirs, seqs[start])
        if count == end - start:  # all are of one sender, as nearly always
            if not sender_id or sender_id == account_id or sender_id in blocked:
                return ()
            return (Delivery(sender_id, n),)
        # One call, and no loop here: an ack may pass ten thousand.
        last = dict(map(_SENDER_AND_N, map(self._messages.__getitem__, seqs[start:end])))
        for each in ("", account_id, *blocked):
            last.pop(each, None)
        return tuple(map(Delivery._make, last.items()))

    def delete(self, seqs: Collection[int]) -> int:
        """Delete entries of any kind, and return how many of them there were."""
        asked = set(seqs)
        gone = asked & self._messages.keys()
        if gone:
            start, end, left, peers = self.without(gone)
            unread = sum(seq > self.position for seq in gone)
            self._peers = peers
            self._seqs[start:end] = left
            self.unread -= unread
            for seq in gone:
                del self._messages[seq]
        deleted = len(gone)
        if self.copies is not None:
            deleted += self.copies.delete(asked)
        if self.receipts:
            theirs = [each for each, receipt in self.receipts.items() if receipt[0] in asked]
            for each in theirs:
                del self.receipts[each]
            deleted += len(theirs)
        return deleted

    def _is_old(self, now: int) -> bool:
        """Return whether the oldest ack has aged, or its messages are all gone."""
        if not self._acks:
            return False
        up_to, acked_at = self._acks[0]
        if acked_at <= now - self._limits.history_ms:
            return True
        return self._head == len(self._seqs) or up_to < self._seqs[self._head]

    def trim(self, now: int) -> None:
        """Remove acked messages beyond the history that the policy keeps at ``now``.

        Each message and each ack is removed once, so the cost is constant for each of them.
        """
        acked = len(self._seqs) - self.unread
        most = self._limits.history_messages
        if acked - self._head <= most and not self._is_old(now):
            return
        aged, ends, acks = 0, now - self._limits.history_ms, self._acks
        while acks and acks[0][1] <= ends:
            aged = acks.popleft()[0]
        keep = bisect_right(self._seqs, aged, self._head)
        keep = max(keep, acked - most)
        self.cut(keep)
        # An ack whose messages are all gone has nothing left to age.
        oldest = self._seqs[self._head] if self._head < len(self._seqs) else self.last + 1
        while acks and acks[0][0] < oldest:
            acks.popleft()
        if not acks:
            self._acks = None


def _of(log: Log, peer: Peer | None, seq: int | None, count: int, aged: int | None) -> list[Entry]:
    """Return the last messages of a log below a seq, of one peer or of all, the newest first."""
    if peer is None:
        return log.before(seq, count, aged)
    if peer.account_id is not None:
        return log.of_peer(peer.account_id, seq, count, aged)
    named = log.named(peer.username)
    found = [entry for each in named for entry in log.of_peer(each, seq, count, aged)]
    return sorted(found, reverse=True)[:count]
