"""The plainest model of what a store's contract says, and random steps on it beside a store."""

from dataclasses import dataclass, field, replace
from functools import partial
from operator import itemgetter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_samples import ALL, DAY, HOUR, account, draft, session

from twinline.core.errors import (
    CursorInvalid,
    MailboxFull,
    NoSuchUser,
    Refused,
    RequestError,
    SendIdConflict,
    UsernameTaken,
)
from twinline.core.names import NamePattern
from twinline.core.protocol import (
    EVERY_KIND,
    MAIL_ALONE,
    TALK,
    Conversation,
    Kind,
    Kinds,
    Message,
    Receipt,
    entries_of,
)
from twinline.core.store import (
    Accepted,
    Blocked,
    MailboxPolicy,
    Peer,
    PeerReceipt,
    SessionKey,
    Standing,
)
from twinline.stores import rules
from twinline.stores.memory import log
from twinline.stores.memory.accounts import MemoryAccounts
from twinline.stores.memory.mailboxes import MemoryMailboxes

Model = Message | Receipt
NAMES = [first + second for first in "abc" for second in ("", "a", "ab", "b", "c", "cc", "d")]


@dataclass
class Mail:
    """A message, or the copy of one: then the peer is its recipient, and else its sender."""

    seq: int
    message_id: str
    peer_id: str
    peer: str
    body: str
    sent_at: int
    n: int
    acked_at: int | None = None


@dataclass
class Told:
    """A receipt."""

    seq: int
    peer_id: str
    peer: str
    n: int
    acked_at: int


@dataclass
class Box:
    """A mailbox as lists that are searched from end to end for everything."""

    owner: str
    policy: MailboxPolicy
    mail: list[Mail] = field(default_factory=list)
    copies: list[Mail] = field(default_factory=list)
    receipts: list[Told] = field(default_factory=list)
    blocked: dict[str, str] = field(default_factory=dict)
    gives: bool = True
    position: int = 0
    last: int = 0
    newest: int = 0

    @property
    def unread(self) -> int:
        return sum(mail.acked_at is None for mail in self.mail)

    @property
    def keep_ms(self) -> float:
        return self.policy.history_days * DAY

    @property
    def keeps_some(self) -> bool:
        return self.policy.history_messages > 0 and self.policy.history_days > 0

    def next_seq(self) -> int:
        self.last += 1
        return self.last

    def trim(self, now: int) -> None:
        kept = [
            mail
            for mail in self.mail
            if mail.acked_at is None or now - mail.acked_at < self.keep_ms
        ]
        acked = [mail for mail in kept if mail.acked_at is not None]
        surplus = acked[: max(0, len(acked) - self.policy.history_messages)]
        self.mail = [mail for mail in kept if mail not in surplus]

    def copy(self, mail: Mail, now: int) -> bool:
        """Put in a copy, unless there is one, and return whether it was."""
        if not self.keeps_some or mail.message_id in [each.message_id for each in self.copies]:
            return False
        while self.copies and (
            len(self.copies) >= self.policy.history_messages
            or now - self.copies[0].sent_at >= self.keep_ms
        ):
            del self.copies[0]
        self.copies.append(replace(mail, seq=self.next_seq()))
        return True

    def tell(self, told: Told) -> bool:
        """Put in a receipt, and return whether it was."""
        mine = [each for each in self.receipts if each.peer_id == told.peer_id]
        if (
            not (self.keeps_some and self.gives)
            or told.peer_id in self.blocked
            or (mine and mine[0].n >= told.n)
        ):
            return False
        others = [each for each in self.receipts if each.peer_id != told.peer_id]
        while others and (
            len(others) >= self.policy.history_messages
            or told.acked_at - others[0].acked_at >= self.keep_ms
        ):
            del others[0]
        told.seq = self.next_seq()
        self.receipts = [*others, told]
        return True

    def delete(self, seqs: list[int]) -> int:
        """Delete entries of all kinds, and return how many there were."""
        before = len(self.mail) + len(self.copies) + len(self.receipts)
        self.mail = [each for each in self.mail if each.seq not in seqs]
        self.copies = [each for each in self.copies if each.seq not in seqs]
        self.receipts = [each for each in self.receipts if each.seq not in seqs]
        return before - len(self.mail) - len(self.copies) - len(self.receipts)

    def entries(self, kinds: Kinds, now: int | None = None) -> list[Model]:
        """Return the entries of some kinds, by rising seq; without the aged ones at a time."""
        found: list[tuple[int, Model]] = []
        if Kind.MAIL in kinds:
            found += [(each.seq, self.message(each)) for each in self.mail]
        if Kind.SENT in kinds:
            found += [
                (each.seq, self.message(each, copy=True))
                for each in self.copies
                if now is None or now - each.sent_at < self.keep_ms
            ]
        if Kind.RECEIPT in kinds:
            found += [
                (
                    each.seq,
                    Receipt(seq=each.seq, username=each.peer, n=each.n, acked_at=each.acked_at),
                )
                for each in self.receipts
                if now is None or now - each.acked_at < self.keep_ms
            ]
        return [entry for _, entry in sorted(found, key=itemgetter(0))]

    def message(self, mail: Mail, *, copy: bool = False) -> Message:
        """Return mail or a copy as it is read."""
        return Message(
            seq=mail.seq,
            message_id=mail.message_id,
            sender=self.owner if copy else mail.peer,
            body=mail.body,
            sent_at=mail.sent_at,
            to=mail.peer if copy else None,
            n=mail.n if copy else None,
        )

    def of(self, peer: Peer) -> set[int]:
        """Return the seqs of what is with one account."""
        return {
            each.seq
            for each in (*self.mail, *self.copies, *self.receipts)
            if (
                each.peer == peer.username
                if peer.account_id is None
                else each.peer_id == peer.account_id
            )
        }

    def talks(self, now: int) -> list[Conversation]:
        """Return the conversations, the one with the newest message first."""
        last: dict[str, tuple[Mail, bool]] = {}
        copies = [each for each in self.copies if now - each.sent_at < self.keep_ms]
        both = [*((each, False) for each in self.mail), *((each, True) for each in copies)]
        for mail, is_copy in sorted(both, key=lambda each: each[0].seq):
            last[mail.peer_id] = (mail, is_copy)
        return [
            Conversation(
                username=mail.peer,
                last=self.message(mail, copy=is_copy),
                unread=sum(
                    each.peer_id == mail.peer_id and each.acked_at is None for each in self.mail
                ),
                account=mail.peer_id,
            )
            for mail, is_copy in sorted(last.values(), key=lambda each: -each[0].seq)
        ]


def within(entries: list[Model], limit: int, max_bytes: int) -> list[Model]:
    page: list[Model] = []
    size = 0
    for each in entries[:limit]:
        size += len(each.body.encode()) if isinstance(each, Message) else 0
        if page and size > max_bytes:
            break
        page.append(each)
    return page


class MailboxSteps(RuleBasedStateMachine):
    """Two mailboxes and a sender without one, few seqs and few send_ids, so that steps meet."""

    @initialize(
        mailbox_messages=st.integers(1, 6),
        history_messages=st.integers(0, 4),
        history_days=st.sampled_from([0, 0.5, 2, 100]),
        send_id_hours=st.sampled_from([0, 3, 1000]),
        send_ids_per_mailbox=st.sampled_from([1, 2, 100]),
        dead=st.sampled_from([1, 3]),
    )
    def start(self, dead: int, **policy: float) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(log, "_DEAD_SEQS", dead)
        self.policy = MailboxPolicy.model_validate(policy)
        self.boxes = MemoryMailboxes(self.policy)
        self.begin()

    def begin(self) -> None:
        self.model: dict[str, Box] = {}
        # By account id, then by sender and send_id, the first to come first.
        self.sent: dict[str, dict[tuple[str, str], tuple[str, Accepted]]] = {}
        self.woken: list[tuple[str, Kind]] = []
        self.now = 0
        self.generation = 0
        self.ids = {"carl": "id-carl"}  # who has no mailbox
        for name in ("ann", "bob"):
            self.ids[name] = self.make(name)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    def make(self, name: str) -> str:
        self.generation += 1
        account_id = f"{name}-{self.generation}"
        self.boxes.create(account_id)
        for kind in Kind:
            self.boxes.on_mail(account_id, partial(self.wake, account_id, kind), frozenset({kind}))
        self.model[account_id] = Box(name, self.policy)
        return account_id

    def wake(self, account_id: str, kind: Kind) -> None:
        self.woken.append((account_id, kind))

    def box(self, name: str) -> Box | None:
        return self.model.get(self.ids[name])

    names = st.sampled_from(["ann", "bob"])
    others = st.sampled_from(["ann", "bob", "carl"])
    kinds = st.sampled_from([MAIL_ALONE, TALK, EVERY_KIND, *(frozenset({kind}) for kind in Kind)])

    @rule(hours=st.sampled_from([1, 2, 12, 24, 72]))
    def time_passes(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule(
        name=names,
        sender=others,
        body=st.sampled_from(["a", "éé", "xxxxx"]),
        send_id=st.sampled_from([None, None, "x", "y"]),
        copy=st.booleans(),
        times=st.integers(1, 3),
    )
    def append(  # noqa: PLR0917 - they are drawn by name
        self, name: str, sender: str, body: str, send_id: str | None, copy: bool, times: int
    ) -> None:
        for _ in range(times):
            self.append_once(name, sender, body, send_id, copy=copy)

    @rule(
        name=names,
        body=st.sampled_from(["a", "éé"]),
        send_id=st.sampled_from(["x", "y", None]),
        hours=st.sampled_from([0, 0, 1, 12]),
    )
    def talk(self, name: str, body: str, send_id: str | None, hours: int) -> None:
        """Send from one to the other with a copy, repeat that, and have it acked and told."""
        sender = "ann" if name == "bob" else "bob"
        self.append_once(name, sender, body, send_id, copy=True)
        self.now += hours * HOUR
        self.append_once(name, sender, body, send_id, copy=True)
        box = self.box(name)
        if box is not None:
            self.ack(name, 0)
            for n in (box.newest, box.newest, box.newest - 1):
                self.tell(sender, name, n)

    def append_once(
        self, name: str, sender: str, body: str, send_id: str | None, *, copy: bool
    ) -> None:
        account_id, sender_id = self.ids[name], self.ids[sender]
        sending = draft(body, sender=sender, send_id=send_id, sent_at=self.now)._replace(
            sender_id=sender_id, copy_to=name if copy else None
        )
        box = self.model.get(account_id)
        n = max(self.now, box.newest + 1 if box else 0)
        expected: Accepted | type[RequestError] = Accepted(sending.message_id, self.now, n)
        sent = self.sent.setdefault(account_id, {})
        known = sent.get((sender_id, send_id or ""))
        fresh = False
        if box is None:
            expected = NoSuchUser
        elif known and self.now - known[1].sent_at < self.policy.send_id_hours * HOUR:
            expected = known[1] if known[0] == body else SendIdConflict
        elif sender_id in box.blocked:
            expected = Refused
        elif box.unread >= self.policy.mailbox_messages:
            box.trim(self.now)
            expected = MailboxFull
        else:
            fresh = True
        self.woken.clear()
        if isinstance(expected, type):
            with pytest.raises(expected):
                self.boxes.append(account_id, sending)
            assert self.woken == []
            return
        assert self.boxes.append(account_id, sending) == expected
        assert box is not None
        mail = Mail(0, expected.message_id, sender_id, sender, body, *expected[1:])
        woken = []
        if fresh:
            box.newest = n
            box.trim(self.now)
            box.mail.append(replace(mail, seq=box.next_seq()))
            woken.append((account_id, Kind.MAIL))
            if send_id is not None:
                sent.pop((sender_id, send_id), None)
                sent[sender_id, send_id] = (body, expected)
                if len(sent) > self.policy.send_ids_per_mailbox:
                    del sent[next(iter(sent))]
        mine = self.model.get(sender_id)
        if copy and mine is not None and mine is not box:
            to = replace(mail, peer_id=account_id, peer=name)
            if mine.copy(to, self.now):
                woken.append((sender_id, Kind.SENT))
        assert self.woken == woken

    @rule(name=names, back=st.integers(-1, 4))
    def ack(self, name: str, back: int) -> None:
        box = self.box(name)
        if box is None:
            return
        up_to = max(0, box.last - back)
        if up_to > box.last:
            with pytest.raises(CursorInvalid):
                self.boxes.ack(self.ids[name], up_to, self.now)
            return
        due: dict[str, int] = {}
        for mail in box.mail:
            if box.position < mail.seq <= up_to:
                mail.acked_at = self.now
                if box.gives and mail.peer_id not in (self.ids[name], *box.blocked):
                    due[mail.peer_id] = mail.n
        box.position = max(box.position, up_to)
        box.trim(self.now)
        acked = self.boxes.ack(self.ids[name], up_to, self.now)
        assert acked[:2] == (box.position, box.unread)
        assert sorted(acked.deliveries) == sorted(due.items())

    @rule(name=names, peer=others, n=st.integers(1, 5))
    def tell(self, name: str, peer: str, n: int) -> None:
        self.woken.clear()
        receipt = PeerReceipt(self.ids[peer], peer, n, self.now)
        self.boxes.put_receipt(self.ids[name], receipt)
        box = self.box(name)
        put = (
            box is not None
            and peer != name
            and box.tell(Told(0, self.ids[peer], peer, n, self.now))
        )
        assert self.woken == [(self.ids[name], Kind.RECEIPT)] * put

    @rule(name=names, gives=st.booleans())
    def set_receipts(self, name: str, gives: bool) -> None:
        box = self.box(name)
        if box is not None:
            self.boxes.set_receipts(self.ids[name], receipts=gives)
            box.gives = gives

    @rule(name=names, peer=others)
    def block(self, name: str, peer: str) -> None:
        box = self.box(name)
        if box is not None and peer != name:
            self.boxes.block(self.ids[name], Blocked(self.ids[peer], peer))
            box.blocked[self.ids[peer]] = peer

    @rule(name=names, peer=others)
    def unblock(self, name: str, peer: str) -> None:
        box = self.box(name)
        if box is not None:
            was = box.blocked.pop(self.ids[peer], None) is not None
            assert self.boxes.unblock(self.ids[name], self.ids[peer]) is was

    @rule(name=names, backs=st.lists(st.integers(0, 8), max_size=4))
    def delete(self, name: str, backs: list[int]) -> None:
        box = self.box(name)
        if box is None:
            return
        seqs = [box.last - back for back in backs]
        assert self.boxes.delete(self.ids[name], seqs) == box.delete(seqs)

    @rule(
        name=names,
        back=st.integers(0, 9),
        limit=st.integers(1, 5),
        max_bytes=st.sampled_from([0, 1, 4, 5, 9, 100]),
        kinds=kinds,
    )
    def read(self, name: str, back: int, limit: int, max_bytes: int, kinds: Kinds) -> None:
        if (box := self.box(name)) is not None:
            self.check_read(self.ids[name], box, max(0, box.last - back), limit, max_bytes, kinds)
            with pytest.raises(CursorInvalid):
                self.boxes.read(self.ids[name], box.last + 1, limit, max_bytes, kinds)

    def check_read(  # noqa: PLR0917 - as above
        self, account_id: str, box: Box, after: int, limit: int, max_bytes: int, kinds: Kinds
    ) -> None:
        page = self.boxes.read(account_id, after, limit, max_bytes, kinds)
        beyond = [entry for entry in box.entries(kinds) if entry.seq > after]
        expected = within(beyond, limit, max_bytes)
        assert entries_of(page.messages, page.receipts) == tuple(expected)
        assert (page.position, page.more) == (box.position, len(beyond) > len(expected))
        # As far as there is nothing that the page has not.
        lowest = expected[-1].seq if expected else after
        highest = beyond[len(expected)].seq - 1 if page.more else box.last
        assert lowest <= page.seen <= highest
        assert page.more or page.seen == box.last

    @rule(
        name=names,
        peer=st.none() | others,
        is_gone=st.booleans(),
        back=st.none() | st.integers(-1, 9),
        limit=st.integers(1, 5),
        max_bytes=st.sampled_from([0, 1, 4, 5, 9, 100]),
        kinds=kinds,
    )
    def history(  # noqa: PLR0917 - as above
        self,
        name: str,
        peer: str | None,
        is_gone: bool,
        back: int | None,
        limit: int,
        max_bytes: int,
        kinds: Kinds,
    ) -> None:
        if (box := self.box(name)) is not None:
            before = None if back is None else max(0, box.last - back)
            whom = None if peer is None else Peer(None if is_gone else self.ids[peer], peer)
            self.check_history(self.ids[name], box, before, limit, max_bytes, kinds, whom)

    def check_history(  # noqa: PLR0917 - as above
        self,
        account_id: str,
        box: Box,
        before: int | None,
        limit: int,
        max_bytes: int,
        kinds: Kinds,
        whom: Peer | None,
    ) -> None:
        page = self.boxes.history(
            account_id, before, limit, max_bytes, self.now, kinds=kinds, peer=whom
        )
        box.trim(self.now)
        mine = None if whom is None else box.of(whom)
        below = [
            entry
            for entry in reversed(box.entries(kinds, self.now))
            if (before is None or entry.seq < before) and (mine is None or entry.seq in mine)
        ]
        expected = within(below, limit, max_bytes)[::-1]
        assert entries_of(page.messages, page.receipts) == tuple(expected)
        assert (page.position, page.more) == (box.position, len(below) > len(expected))
        assert page.seen == (expected[0].seq if page.more else 0)

    @rule(
        name=names,
        back=st.none() | st.integers(-1, 9),
        limit=st.integers(1, 3),
        max_bytes=st.sampled_from([0, 4, 100]),
    )
    def conversations(self, name: str, back: int | None, limit: int, max_bytes: int) -> None:
        if (box := self.box(name)) is not None:
            before = None if back is None else max(0, box.last - back)
            self.check_conversations(self.ids[name], box, before, limit, max_bytes)

    def check_conversations(
        self, account_id: str, box: Box, before: int | None, limit: int, max_bytes: int
    ) -> None:
        page = self.boxes.conversations(account_id, before, limit, max_bytes, self.now)
        box.trim(self.now)
        below = [talk for talk in box.talks(self.now) if before is None or talk.last.seq < before]
        count = len(within([talk.last for talk in below], limit, max_bytes))
        assert page.conversations == tuple(below[:count])
        assert page.more is (len(below) > count)

    @rule(name=names)
    def drop(self, name: str) -> None:
        existed = self.model.pop(self.ids[name], None) is not None
        self.woken.clear()
        self.boxes.drop(self.ids[name])
        assert sorted(self.woken) == sorted((self.ids[name], kind) for kind in Kind) * existed

    @rule(name=names)
    def create_again(self, name: str) -> None:
        if self.ids[name] not in self.model:
            self.ids[name] = self.make(name)

    @invariant()
    def stands(self) -> None:
        for account_id in getattr(self, "ids", {}).values():
            box = self.model.get(account_id)
            if box is None:
                with pytest.raises(NoSuchUser):
                    self.boxes.standing(account_id)
            else:
                standing = Standing(box.position, box.unread, box.gives)
                assert self.boxes.standing(account_id) == standing
                self.forget_aged(account_id, box)
                self.check_read(account_id, box, 0, ALL, ALL, EVERY_KIND)
                blocked = sorted((peer, peer_id) for peer_id, peer in box.blocked.items())
                assert [each[::-1] for each in self.boxes.blocked(account_id)] == blocked
                usage = self.boxes.usage(account_id)
                assert (usage.messages, usage.copies) == (len(box.mail), len(box.copies))
                for kind in Kind:
                    self.check_read(
                        account_id, box, max(0, box.last - 4), 2, ALL, frozenset({kind})
                    )

    def forget_aged(self, account_id: str, box: Box) -> None:
        """Forget what has aged and is not there any more: it may go with any look or later."""
        kept = self.boxes.read(account_id, 0, ALL, ALL, EVERY_KIND - MAIL_ALONE)
        there = {entry.seq for entry in (*kept.messages, *kept.receipts)}
        box.copies = [
            each
            for each in box.copies
            if each.seq in there or self.now - each.sent_at < box.keep_ms
        ]
        box.receipts = [
            each
            for each in box.receipts
            if each.seq in there or self.now - each.acked_at < box.keep_ms
        ]

    @rule(name=names)
    def look_around(self, name: str) -> None:
        """Look at what most may have changed."""
        if (box := self.box(name)) is not None:
            self.check_conversations(self.ids[name], box, None, ALL, ALL)
            for peer, peer_id in self.ids.items():
                for whom in (Peer(peer_id, peer), Peer(peer_id, ""), Peer(None, peer)):
                    self.check_history(self.ids[name], box, None, 3, ALL, EVERY_KIND, whom)


class AccountSteps(RuleBasedStateMachine):
    """Few names, listed in chunks of four."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(rules, "CHUNK_NAMES", 4)
        self.accounts = MemoryAccounts()
        self.ids: dict[str, str] = {}
        self.reserved: set[str] = set()
        self.sessions: dict[bytes, str] = {}
        self.ended: list[bytes] = []
        self.generation = 0

    def teardown(self) -> None:
        self.patch.undo()

    some = st.sampled_from(NAMES)

    @rule(names=st.lists(some, max_size=8))
    def create(self, names: list[str]) -> None:
        for name in names:
            self.generation += 1
            made = account(name, f"{name}-{self.generation}")
            assert self.accounts.is_free(name) is (name not in self.ids.keys() | self.reserved)
            if name in self.ids or name in self.reserved:
                with pytest.raises(UsernameTaken):
                    self.accounts.create(made)
            else:
                self.accounts.create(made)
                self.ids[name] = made.account_id

    @rule(names=st.lists(some, max_size=6), keep=st.booleans())
    def withdraw(self, names: list[str], keep: bool) -> None:
        for name in names:
            self.ended.clear()
            gone = self.ids.pop(name, "never was")
            withdrawn = self.accounts.withdraw(gone, keep_name=keep)
            assert withdrawn is (gone != "never was")
            if withdrawn and keep:
                self.reserved.add(name)
            tokens = [token for token, owner in self.sessions.items() if owner == gone]
            assert sorted(self.ended) == sorted(tokens)
            for token in tokens:
                del self.sessions[token]

    @precondition(lambda self: self.ids)
    @rule(chosen=st.randoms(use_true_random=False))
    def open_session(self, chosen) -> None:
        name = chosen.choice(sorted(self.ids))
        self.generation += 1
        token = f"{self.generation}".encode()
        record = session(token.decode(), name)
        with pytest.raises(NoSuchUser):
            self.accounts.open_session(record)  # under an id that no account has
        opened = type(record)(token, self.ids[name], name, opened_at=1, used_at=1)
        self.accounts.open_session(opened)
        self.accounts.on_session_end(opened.key, lambda: self.ended.append(token))
        self.sessions[token] = self.ids[name]

    @precondition(lambda self: self.sessions)
    @rule(chosen=st.randoms(use_true_random=False), others=st.booleans())
    def close(self, chosen, others: bool) -> None:
        token = chosen.choice(sorted(self.sessions))
        self.ended.clear()
        if others:
            owner = self.sessions[token]
            self.generation += 1
            found = next(
                self.accounts.find(name)
                for name, account_id in self.ids.items()
                if account_id == owner
            )
            assert found is not None
            assert self.accounts.change_password(
                owner, f"{self.generation}", instead_of=found.password_hash, keep=token
            )
            gone = [t for t, other in self.sessions.items() if other == owner and t != token]
        else:
            self.accounts.close_session(SessionKey(self.sessions[token], token))
            gone = [token]
        assert sorted(self.ended) == sorted(gone)
        for each in gone:
            del self.sessions[each]

    @rule(
        pattern=st.sampled_from(
            ["*", "a*", "b*", "*b", "*a*", "?", "a?", "a?*", "ab", "c*c", "", "z*", "bb*", "aab"]
        ),
        after=st.none() | some | st.sampled_from(["", "a0", "bz", "z"]),
        limit=st.integers(1, 12),
    )
    def page(self, pattern: str, after: str | None, limit: int) -> None:
        parsed = NamePattern(pattern)
        wanted = [
            name
            for name in sorted(self.ids)
            if parsed.matches(name) and (after is None or name > after)
        ]
        page = self.accounts.page(parsed, after, limit)
        assert list(page.usernames) == wanted[:limit]
        assert page.more is (len(wanted) > limit)

    @invariant()
    def agrees(self) -> None:
        for name in NAMES:
            found = self.accounts.find(name)
            assert (found.account_id if found else None) == self.ids.get(name)
        for token, owner in self.sessions.items():
            record = self.accounts.find_session(SessionKey(owner, token))
            assert record is not None
            assert record.account_id == owner
        assert len(self.accounts._sessions) == len(self.sessions)
