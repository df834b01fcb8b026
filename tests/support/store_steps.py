"""The plainest model of what a store's contract says, and random steps on it beside a store."""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_samples import DAY, HOUR, account, draft, session

from twinline.core.errors import (
    CursorInvalid,
    MailboxFull,
    NoSuchUser,
    RequestError,
    SendIdConflict,
    UsernameTaken,
)
from twinline.core.names import NamePattern
from twinline.core.store import Accepted, MailboxPolicy, SessionKey, Standing
from twinline.stores import rules
from twinline.stores.memory import log
from twinline.stores.memory.accounts import MemoryAccounts
from twinline.stores.memory.mailboxes import MemoryMailboxes

NAMES = [first + second for first in "abc" for second in ("", "a", "ab", "b", "c", "cc", "d")]


@dataclass
class Mail:
    seq: int
    body: str
    acked_at: int | None = None


@dataclass
class Box:
    """A mailbox as a list that is searched from end to end for everything."""

    policy: MailboxPolicy
    mail: list[Mail] = field(default_factory=list)
    position: int = 0
    last: int = 0

    @property
    def unread(self) -> int:
        return sum(mail.acked_at is None for mail in self.mail)

    def trim(self, now: int) -> None:
        keep_ms = self.policy.history_days * DAY
        kept = [
            mail for mail in self.mail if mail.acked_at is None or now - mail.acked_at < keep_ms
        ]
        acked = [mail for mail in kept if mail.acked_at is not None]
        surplus = acked[: max(0, len(acked) - self.policy.history_messages)]
        self.mail = [mail for mail in kept if mail not in surplus]


def within(mail: list[Mail], limit: int, max_bytes: int) -> list[Mail]:
    page: list[Mail] = []
    for each in mail[:limit]:
        if page and sum(len(m.body.encode()) for m in [*page, each]) > max_bytes:
            break
        page.append(each)
    return page


class MailboxSteps(RuleBasedStateMachine):
    """Two mailboxes, few seqs and few send_ids, so that steps meet."""

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
        self.model: dict[str, Box] = {}
        # By account id and send_id, the first to come first.
        self.sent: dict[str, dict[str, tuple[str, Accepted]]] = {}
        self.newest: dict[str, int] = {}
        self.woken: list[str] = []
        self.now = 0
        self.generation = 0
        self.ids = {name: self.make(name) for name in ("ann", "bob")}

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    def make(self, name: str) -> str:
        self.generation += 1
        account_id = f"{name}-{self.generation}"
        self.boxes.create(account_id)
        self.boxes.on_mail(account_id, lambda: self.woken.append(account_id))
        self.model[account_id] = Box(self.policy)
        return account_id

    names = st.sampled_from(["ann", "bob"])

    @rule(hours=st.sampled_from([1, 2, 12, 24, 72]))
    def time_passes(self, hours: int) -> None:
        self.now += hours * HOUR

    @rule(
        name=names,
        body=st.sampled_from(["a", "éé", "xxxxx"]),
        send_id=st.sampled_from([None, None, "x", "y"]),
        times=st.integers(1, 3),
    )
    def append(self, name: str, body: str, send_id: str | None, times: int) -> None:
        for _ in range(times):
            self.append_once(name, body, send_id)

    def append_once(self, name: str, body: str, send_id: str | None) -> None:
        sending = draft(body, send_id=send_id, sent_at=self.now)
        box = self.model.get(self.ids[name])
        n = max(self.now, self.newest.get(self.ids[name], 0) + 1)
        expected: Accepted | type[RequestError] = Accepted(sending.message_id, self.now, n)
        sent = self.sent.setdefault(self.ids[name], {})
        known = sent.get(send_id or "")
        fresh = False
        if box is None:
            expected = NoSuchUser
        elif known and self.now - known[1].sent_at < self.policy.send_id_hours * HOUR:
            expected = known[1] if known[0] == body else SendIdConflict
        elif box.unread >= self.policy.mailbox_messages:
            box.trim(self.now)
            expected = MailboxFull
        else:
            fresh = True
        self.woken.clear()
        if isinstance(expected, type):
            with pytest.raises(expected):
                self.boxes.append(self.ids[name], sending)
        else:
            assert self.boxes.append(self.ids[name], sending) == expected
        if fresh:
            assert box is not None
            assert isinstance(expected, Accepted)
            self.newest[self.ids[name]] = n
            box.trim(self.now)
            box.last += 1
            box.mail.append(Mail(box.last, body))
            if send_id is not None:
                sent.pop(send_id, None)
                sent[send_id] = (body, expected)
                if len(sent) > self.policy.send_ids_per_mailbox:
                    del sent[next(iter(sent))]
        assert self.woken == ([self.ids[name]] if fresh else [])

    @rule(name=names, back=st.integers(-1, 4))
    def ack(self, name: str, back: int) -> None:
        box = self.model.get(self.ids[name])
        if box is None:
            return
        up_to = max(0, box.last - back)
        if up_to > box.last:
            with pytest.raises(CursorInvalid):
                self.boxes.ack(self.ids[name], up_to, self.now)
            return
        for mail in box.mail:
            if box.position < mail.seq <= up_to:
                mail.acked_at = self.now
        box.position = max(box.position, up_to)
        box.trim(self.now)
        standing = self.boxes.ack(self.ids[name], up_to, self.now)
        assert standing[:2] == (box.position, box.unread)

    @rule(name=names, backs=st.lists(st.integers(0, 8), max_size=4))
    def delete(self, name: str, backs: list[int]) -> None:
        box = self.model.get(self.ids[name])
        if box is None:
            return
        seqs = [box.last - back for back in backs]
        kept = [mail for mail in box.mail if mail.seq not in seqs]
        assert self.boxes.delete(self.ids[name], seqs) == len(box.mail) - len(kept)
        box.mail = kept

    @rule(
        name=names,
        back=st.integers(0, 9),
        limit=st.integers(1, 5),
        max_bytes=st.sampled_from([0, 1, 4, 5, 9, 100]),
    )
    def read(self, name: str, back: int, limit: int, max_bytes: int) -> None:
        box = self.model.get(self.ids[name])
        if box is None:
            return
        after = max(0, box.last - back)
        page = self.boxes.read(self.ids[name], after, limit, max_bytes)
        beyond = [mail for mail in box.mail if mail.seq > after]
        expected = within(beyond, limit, max_bytes)
        assert [(m.seq, m.body) for m in page.messages] == [(m.seq, m.body) for m in expected]
        assert (page.position, page.more) == (box.position, len(beyond) > len(expected))
        with pytest.raises(CursorInvalid):
            self.boxes.read(self.ids[name], box.last + 1, limit, max_bytes)

    @rule(
        name=names,
        back=st.none() | st.integers(-1, 9),
        limit=st.integers(1, 5),
        max_bytes=st.sampled_from([0, 1, 4, 5, 9, 100]),
    )
    def history(self, name: str, back: int | None, limit: int, max_bytes: int) -> None:
        box = self.model.get(self.ids[name])
        if box is None:
            return
        before = None if back is None else max(0, box.last - back)
        page = self.boxes.history(self.ids[name], before, limit, max_bytes, self.now)
        box.trim(self.now)
        below = [mail for mail in reversed(box.mail) if before is None or mail.seq < before]
        expected = within(below, limit, max_bytes)[::-1]
        assert [(m.seq, m.body) for m in page.messages] == [(m.seq, m.body) for m in expected]
        assert (page.position, page.more) == (box.position, len(below) > len(expected))

    @rule(name=names)
    def drop(self, name: str) -> None:
        existed = self.model.pop(self.ids[name], None) is not None
        self.woken.clear()
        self.boxes.drop(self.ids[name])
        assert self.woken == [self.ids[name]] * existed

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
                assert self.boxes.standing(account_id) == Standing(box.position, box.unread)
                assert len(self.boxes._boxes[account_id]) == len(box.mail)


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
