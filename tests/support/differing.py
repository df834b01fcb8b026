"""The same calls of several stores, one after the other: where do their answers differ?

A store that answers as the store in memory does keeps what `store_steps` has a model of, and what
no model has: each error, each page, each receipt. The calls are data, drawn at random from few
names, bodies and seqs, so that they meet; those that make a difference are made fewer. They keep to
what the contract leaves no choice in: times of use are hours apart and never the same, of a mailbox
whose history ages only what has not aged is read, and an invitation or a send_id that counts no
more is as good as forgotten.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from random import Random
from typing import Any, Final, TypeVar

from twinline.core.names import NamePattern
from twinline.core.protocol import EVERY_KIND, MAIL_ALONE, Kinds
from twinline.core.store import (
    Account,
    Blocked,
    Draft,
    Invitation,
    MailboxLook,
    MailboxPolicy,
    MailboxUsage,
    MailPage,
    MessageTrace,
    Peer,
    PeerReceipt,
    SessionKey,
    SessionRecord,
    Standing,
    Store,
)
from twinline.stores.conformance.conversing import KINDS

HOUR: Final = 3_600_000
BEGAN: Final = 1_767_225_600_000
_APART: Final = 40 * 24 * HOUR  # longer than any sequence takes

POLICIES: Final = {
    "small": MailboxPolicy(mailbox_messages=4, history_messages=2, send_id_hours=3),
    "few send_ids": MailboxPolicy(send_ids_per_mailbox=3, history_messages=0),
    "few of a sender": MailboxPolicy(send_ids_per_sender=2, mailbox_messages=3),
    "ageing": MailboxPolicy(history_days=0.5, mailbox_messages=5),
}
"""Each bounds one thing, for where two bounds meet a store may choose."""

Call = tuple[str, tuple[Any, ...]]
"""The name of a method of `Calls`, and its arguments."""
_Draw = Callable[[Random], Any]
Outcome = TypeVar("Outcome", Standing, MailPage)
_Kind = tuple[str, tuple[_Draw, ...]]


def _of(*options: Any) -> _Draw:
    return lambda random: random.choice(options)


def _some(draw: _Draw, most: int) -> _Draw:
    return lambda random: tuple(draw(random) for _ in range(random.randint(0, most)))


def _each(*draws: _Draw) -> _Draw:
    return lambda random: tuple(draw(random) for draw in draws)


_NOBODY: Final = 9
_WHO = _of(*[0] * 6, *[1] * 3, 2, _NOBODY)  # of the accounts so far, counted from the last
_NAME = _of("ann", "anna", "bob")
_SEQ = _of(0, 0, 1, 2, 3, 9, -1)  # counted from the last seq; -1 is beyond it
_LIMIT = _of(1, 2, 9)
_BYTES = _of(999, 999, 0, 4)
_BODY = _of("", "éé", "\0xyz")
_SEND_ID = _of(None, None, "x", "x", "y", "\0", "z")
_SENDER = _of("ann", "ann", "bob")
_TOKEN = _of(0, 0, 1, 2)  # of the tokens so far, counted from the last
_HASH = _of("first", "first", "second")
_KINDS = _of(*KINDS)
_LOOK = (_WHO, _SEQ, _of(0, 1, 2, 9), _BYTES, _of(None, 0, 1, 2, -1), _of(MAIL_ALONE, *KINDS))


def _kind(name: str, *draws: _Draw) -> _Kind:
    return name, draws


_WAIT = _kind("wait", _of(1, 2, 5, 13))
_MAIL = (
    *[_kind("append", _WHO, _SENDER, _BODY, _SEND_ID)] * 6,
    *[_kind("ack", _WHO, _SEQ)] * 2,
    *[_kind("look", *_LOOK)] * 2,
    _kind("look_many", _some(_each(*_LOOK), 3)),
    _kind("read", _WHO, _SEQ, _LIMIT, _BYTES),
    _kind("history", _WHO, _of(None, 0, 2), _LIMIT, _BYTES),
    _kind("delete", _WHO, _some(_SEQ, 3)),
    _kind("create_mailbox", _WHO),
    _WAIT,
)
_PEOPLE = (
    *[_kind("create", _NAME)] * 2,
    _kind("create_twice", _WHO, _NAME),
    _kind("find", _NAME),
    *[_kind("page", _of("*", "an*", "a?n", "a_n", "bob"), _of("", "ann", "anna"), _LIMIT)] * 2,
    _kind("set_hash", _WHO, _HASH, _HASH),
    _kind("change_password", _WHO, _HASH, _HASH, _TOKEN),
    _kind("withdraw", _WHO, _of(False, False, True), _of(None, "first")),
    *[_kind("open_session", _WHO, _of(None, None, "first"), _of(None, 1, 2))] * 4,
    _kind("open_session_again", _TOKEN),
    _kind("find_session", _TOKEN, _WHO),
    *[_kind("touch", _TOKEN)] * 3,
    _kind("close_session", _TOKEN),
    _kind("note_address", _WHO, _of("192.0.2.1", "::1", "unix")),
    _kind("drop", _WHO),
    _WAIT,
)
_TALK = (
    *[_kind("send", _WHO, _WHO, _BODY, _of("x", "x", "y", "z"), _of(True, True, False))] * 6,
    *[_kind("put_receipt", _WHO, _WHO, _of(0, 0, 1, -1))] * 2,
    _kind("read_kinds", _WHO, _SEQ, _LIMIT, _BYTES, _KINDS),
    _kind("talk", _WHO, _of(None, 0, 1, 2, _NOBODY), _of(None, 0, 2), _LIMIT, _BYTES, _KINDS),
    _kind("conversations", _WHO, _of(None, 0, 2), _LIMIT, _BYTES),
    _kind("block", _WHO, _WHO),
    _kind("unblock", _WHO, _WHO),
    _kind("set_receipts", _WHO, _of(True, True, False)),
)
# What an operator does, beside all that.
_OPERATED_MAIL = (
    _kind("set_quota", _WHO, _of(None, 1, 2, 3, 9)),
    _kind("usage", _WHO),
    *[_kind("trace", _of(0, 0, 1, 2, 5), _of(None, None, *[0] * 6, 1, _NOBODY))] * 2,
)
_OPERATED_PEOPLE = (
    _kind("enable", _WHO, _of(True, True, False)),
    _kind("reset_password", _WHO, _HASH, _of(True, True, False)),
    _kind("sessions", _WHO),
    _kind("close_sessions", _WHO),
    *[_kind("invite", _of(2, 5, 40))] * 2,
    _kind("invite_again", _TOKEN),
    *[_kind("create_invited", _NAME, _TOKEN)] * 2,
    _kind("drop_invitation", _TOKEN),
)


def drawn(seed: int, *, operated: bool = True) -> list[Call]:
    """Return some calls: about mail, about conversations, about accounts, or about all.

    Args:
        seed: of the draw.
        operated: whether an operator makes some of them.
    """
    random = Random(seed)
    mail = (*_MAIL, *_OPERATED_MAIL) if operated else _MAIL
    people = (*_PEOPLE, *_OPERATED_PEOPLE) if operated else _PEOPLE
    talk = (*mail, *_TALK)
    kinds = random.choice((mail, talk, people, (*mail, *talk, *people)))
    some = (random.choice(kinds) for _ in range(random.randint(20, 60)))
    return [(name, tuple(draw(random) for draw in draws)) for name, draws in some]


@dataclass
class Calls:
    """Makes calls of stores, and compares the outcomes with those of the first one.

    Attributes:
        stores: by name, each with nothing of this prefix in it.
        policy: theirs.
        prefix: of names and ids, so that one state serves many sequences.
        behind_seconds: how old what a store knows of sessions and recipients may be.
        operated: whether what an operator sees is looked at in the end.
    """

    stores: Mapping[str, Store]
    policy: MailboxPolicy
    prefix: str
    behind_seconds: float = 0.0
    operated: bool = True
    now: int = BEGAN
    ids: list[str] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    tokens: list[SessionRecord] = field(default_factory=list)
    invitations: list[Invitation] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    lasts: dict[str, int] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)

    def make(self, calls: Sequence[Call]) -> None:
        """Make calls, and then look at all there is."""
        self.create("ann")
        self.create("bob")
        for name, arguments in calls:
            getattr(self, name)(*arguments)
        self.look_around()

    def ask(self, what: str, call: Callable[[Store], Any], *, may_be_old: bool = False) -> Any:
        """Ask all stores the same, and return the answer.

        Raises:
            AssertionError: they do not agree.
        """
        self.log.append(what)
        expected, answers = None, {}
        for number, (name, store) in enumerate(self.stores.items()):
            answer = _outcome(call, store)
            until = time.monotonic() + self.behind_seconds
            while number and may_be_old and answer != expected and time.monotonic() < until:
                time.sleep(0.02)
                answer = _outcome(call, store)
            expected = expected if number else answer
            answers[name] = answer
        differ = [name for name, answer in answers.items() if answer != expected]
        assert not differ, "\n".join([*self.log, *(f"{k}: {v!r}" for k, v in answers.items())])
        return expected

    # -- what the arguments stand for ----------------------------------------------------

    def _id(self, who: int) -> str:
        return "0" * 32 if who == _NOBODY else self.ids[-1 - who % len(self.ids)]

    def _token(self, which: int) -> SessionRecord:
        tokens = [self._session(self._id(0), "never"), *self.tokens]
        return tokens[-1 - which % len(tokens)]

    def _session(self, account_id: str, of: str) -> SessionRecord:
        token = bytes.fromhex(self._hex(f"token {of}"))
        name = self.names.get(account_id, "nobody")
        return SessionRecord(token, account_id, name, self.now, self.now)

    def _hex(self, of: str) -> str:
        return sha256(f"{self.prefix}/{of}".encode()).hexdigest()

    def _seq(self, account_id: str, back: int) -> int:
        return max(0, self.lasts.get(account_id, 0) - back)

    # -- accounts ------------------------------------------------------------------------

    def create(self, name: str, invitation: bytes | None = None) -> None:
        """Make a mailbox, and then the account."""
        account_id, username = self._hex(f"{len(self.ids)}")[:32], f"{self.prefix}{name}"
        self.ids.append(account_id)
        self.names[account_id] = username
        account = Account(account_id, username, "first", self.now)
        self.ask(f"mailbox of {account_id}", lambda store: store.mailboxes.create(account_id))
        self.ask(
            f"create {account}",
            lambda store: store.accounts.create(account, invitation=invitation),
        )

    def create_twice(self, who: int, name: str) -> None:
        """Use an id again, for an account that may be there or gone."""
        account = Account(self._id(who), f"{self.prefix}{name}", "first", self.now)
        found = self.ask("free?", lambda store: store.accounts.is_free(account.username))
        if self._has(account.account_id) or not found:
            self.ask(f"again {account}", lambda store: store.accounts.create(account))

    def _has(self, account_id: str) -> bool:
        username = self.names.get(account_id, "nobody")
        found = self.ask(f"find {username}", lambda store: store.accounts.find(username))
        return found is not None and found.account_id == account_id

    def find(self, name: str) -> None:
        """Look for a name in every way."""
        username = f"{self.prefix}{name}"
        self.ask(f"find {username}", lambda store: store.accounts.find(username))
        self.ask(f"is {username} free", lambda store: store.accounts.is_free(username))
        self.ask(
            f"recipient {username}",
            lambda store: store.accounts.recipient(username),
            may_be_old=True,
        )

    def page(self, text: str, after: str, limit: int) -> None:
        """List names."""
        pattern, beyond = NamePattern(f"{self.prefix}{text}"), f"{self.prefix}{after}"
        self.ask(
            f"page {text} {after} {limit}",
            lambda store: store.accounts.page(pattern, beyond, limit),
        )

    def set_hash(self, who: int, new: str, old: str) -> None:
        """Replace a hash."""
        account_id = self._id(who)
        self.ask(
            f"hash of {account_id}: {old} to {new}",
            lambda store: store.accounts.set_password_hash(account_id, new, instead_of=old),
        )

    def change_password(self, who: int, new: str, old: str, keep: int) -> None:
        """Replace a hash, and end sessions."""
        account_id, kept = self._id(who), self._token(keep).token_hash
        self.ask(
            f"password of {account_id}: {old} to {new}, keeping {keep}",
            lambda store: store.accounts.change_password(
                account_id, new, instead_of=old, keep=kept
            ),
        )

    def withdraw(self, who: int, keep: bool, verified: str | None) -> None:
        """Take an account away."""
        account_id = self._id(who)
        self.ask(
            f"withdraw {account_id}, {keep}, {verified}",
            lambda store: store.accounts.withdraw(account_id, keep_name=keep, verified=verified),
        )

    def open_session(self, who: int, verified: str | None, most: int | None) -> None:
        """Open a session, which was used later than all others."""
        self.now += 2 * HOUR
        session = self._session(self._id(who), f"{len(self.tokens)}")
        self.tokens.append(session)
        self._open(session, verified, most)

    def open_session_again(self, which: int) -> None:
        """Use a token again that is in use."""
        session = self._token(which)
        found = self.ask(
            "in use?", lambda store: store.accounts.find_session(session.key), may_be_old=True
        )
        if found is not None:
            self._open(session, None, None)

    def _open(self, session: SessionRecord, verified: str | None, most: int | None) -> None:
        self.ask(
            f"open {session.key}, {verified}, {most}",
            lambda store: store.accounts.open_session(session, verified=verified, most=most),
        )

    def find_session(self, which: int, who: int) -> None:
        """Look for a session, under its account and under another."""
        session = self._token(which)
        for key in (session.key, SessionKey(self._id(who), session.token_hash)):
            self.ask(
                f"session {key}",
                lambda store: _but_for_its_use(store.accounts.find_session(key)),  # noqa: B023 - called at once
                may_be_old=True,
            )

    def touch(self, which: int) -> None:
        """Use a session later than all others."""
        self.now += 2 * HOUR
        key, now = self._token(which).key, self.now
        self.ask(f"touch {key}", lambda store: store.accounts.touch_session(key, now))

    def close_session(self, which: int) -> None:
        """End a session."""
        key = self._token(which).key
        self.ask(f"close {key}", lambda store: store.accounts.close_session(key))

    def note_address(self, who: int, address: str) -> None:
        """Note an address, and ask for all."""
        self.now += HOUR
        account_id, now = self._id(who), self.now
        self.ask(
            f"note {address} of {account_id}",
            lambda store: store.accounts.note_address(account_id, address, now, most=2),
        )
        self.ask(
            "when it was noted", lambda store: store.accounts.address_noted_at(account_id, address)
        )

    # -- accounts, by an operator --------------------------------------------------------

    def enable(self, who: int, enabled: bool) -> None:
        """Disable an account, or enable it."""
        account_id = self._id(who)
        self.ask(
            f"enable {account_id}: {enabled}",
            lambda store: store.accounts.enable(account_id, enabled=enabled),
        )

    def reset_password(self, who: int, new: str, must_change: bool) -> None:
        """Replace a hash, whichever it is, and end all sessions."""
        account_id = self._id(who)
        self.ask(
            f"reset {account_id} to {new}, {must_change}",
            lambda store: store.accounts.change_password(
                account_id, new, instead_of=None, keep=None, must_change=must_change
            ),
        )

    def sessions(self, who: int) -> None:
        """List an account's sessions and addresses."""
        account_id = self._id(who)
        self.ask(
            f"sessions of {account_id}",
            lambda store: list(map(_but_for_its_use, store.accounts.sessions(account_id))),
            may_be_old=True,
        )
        self.ask(
            f"addresses of {account_id}", lambda store: dict(store.accounts.addresses(account_id))
        )

    def close_sessions(self, who: int) -> None:
        """End all of an account's sessions."""
        account_id = self._id(who)
        self.ask(
            f"close all of {account_id}", lambda store: store.accounts.close_sessions(account_id)
        )

    def invite(self, hours: int) -> None:
        """Make an invitation, an hour after all others."""
        self.now += HOUR
        token_hash = bytes.fromhex(self._hex(f"invitation {len(self.invitations)}"))
        invitation = Invitation(token_hash, self.now, self.now + hours * HOUR, f"for {hours} hours")
        self.invitations.append(invitation)
        self._add_invitation(invitation)

    def _add_invitation(self, invitation: Invitation) -> None:
        self.ask(f"add {invitation}", lambda store: store.accounts.add_invitation(invitation))
        self.list_invitations()

    def _invitation(self, which: int) -> tuple[Invitation, bool]:
        """Return an invitation, which may never have been made, and whether it counts."""
        never = Invitation(bytes.fromhex(self._hex("never")), BEGAN, self.now + 1)
        made = [never, *self.invitations]
        invitation = made[-1 - which % len(made)]
        return invitation, invitation is not never and invitation.expires_at > self.now

    def invite_again(self, which: int) -> None:
        """Use the token of an invitation again that is not spent."""
        invitation, counts = self._invitation(which)
        if not counts:
            return
        found = self.ask(
            "is it spent?", lambda store: store.accounts.find_invitation(invitation.token_hash)
        )
        if found is not None:
            self._add_invitation(invitation)

    def create_invited(self, name: str, which: int) -> None:
        """Create an account by an invitation, where no more than one of the two is refused."""
        invitation, counts = self._invitation(which)
        username = f"{self.prefix}{name}"
        is_free = self.ask("free?", lambda store: store.accounts.is_free(username))
        open_ones = self.list_invitations()
        if is_free or (counts and invitation in open_ones):
            self.create(name, invitation.token_hash)
            self.list_invitations()

    def drop_invitation(self, which: int) -> None:
        """Withdraw an invitation that counts, is spent, or never was."""
        invitation, _ = self._invitation(which)
        if invitation.expires_at > self.now:
            self.ask(
                f"withdraw {invitation}",
                lambda store: store.accounts.drop_invitation(invitation.token_hash),
            )

    def list_invitations(self) -> list[Invitation]:
        """List the invitations that count."""
        found: list[Invitation] = self.ask(
            "invitations",
            lambda store: [
                each for each in store.accounts.invitations() if each.expires_at > self.now
            ],
        )
        return found

    # -- mailboxes -----------------------------------------------------------------------

    def append(self, who: int, sender: str, body: str, send_id: str | None) -> None:
        """Send a message."""
        account_id = self._id(who)
        message_id, sender_id = self._hex(f"message {len(self.log)}")[:24], self._hex(sender)[:32]
        draft = Draft(message_id, sender_id, sender, body, self.now, send_id)
        self._append(account_id, draft)

    def _append(self, account_id: str, draft: Draft) -> None:
        self.sent.append(draft.message_id)
        self.ask(
            f"append {account_id} {draft}", lambda store: store.mailboxes.append(account_id, draft)
        )
        self._note_last(account_id)

    def _note_last(self, account_id: str) -> None:
        page = self.ask(
            "the last",
            lambda store: store.mailboxes.history(
                account_id, None, 1, 999, self.now, kinds=EVERY_KIND
            ),
        )
        if not isinstance(page, str):
            self.lasts[account_id] = max({self.lasts.get(account_id, 0), *_seqs(page)})

    def read(self, who: int, back: int, limit: int, max_bytes: int) -> None:
        """Read from somewhere."""
        account_id = self._id(who)
        after = self._after(account_id, back)
        self.ask(
            f"read {account_id} {after} {limit} {max_bytes}",
            lambda store: store.mailboxes.read(account_id, after, limit, max_bytes),
        )

    def _after(self, account_id: str, back: int) -> int:
        """Return a seq; behind the position where what is acked may have aged, but not gone."""
        after = self._seq(account_id, back)
        if self.policy.history_days < 1:
            standing = self.ask("where?", lambda store: store.mailboxes.standing(account_id))
            return after if isinstance(standing, str) else max(after, standing.position)
        return after

    def history(self, who: int, back: int | None, limit: int, max_bytes: int) -> None:
        """Read backward from somewhere."""
        account_id = self._id(who)
        before = None if back is None else self._seq(account_id, back)
        self.ask(
            f"history {account_id} {before} {limit} {max_bytes}",
            lambda store: store.mailboxes.history(account_id, before, limit, max_bytes, self.now),
        )

    def ack(self, who: int, back: int) -> None:
        """Ack up to somewhere."""
        account_id = self._id(who)
        up_to = self._seq(account_id, back)
        self.ask(
            f"ack {account_id} {up_to}",
            lambda store: _in_order(store.mailboxes.ack(account_id, up_to, self.now)),
        )

    def delete(self, who: int, backs: tuple[int, ...]) -> None:
        """Delete some entries, where none can have aged and be there all the same."""
        account_id = self._id(who)
        seqs = {self._seq(account_id, back) for back in backs}
        if self.policy.history_days < 1:
            page = self.ask(
                "what has not aged",
                lambda store: store.mailboxes.history(
                    account_id, None, 999, 10**6, self.now, kinds=EVERY_KIND
                ),
            )
            seqs &= set() if isinstance(page, str) else _seqs(page)
        self.ask(
            f"delete {account_id} {seqs}", lambda store: store.mailboxes.delete(account_id, seqs)
        )

    def look(self, *fields: Any) -> None:
        """Look once."""
        look = self._look(*fields)
        self.ask(f"{look}", lambda store: _in_order(store.mailboxes.look(look)))

    def look_many(self, many: tuple[tuple[Any, ...], ...]) -> None:
        """Look at several mailboxes, once each: of two acks of one a store may make both first."""
        by_id = {look.account_id: look for look in (self._look(*each) for each in many)}
        looks = list(by_id.values())
        self.ask(
            f"{looks}",
            lambda store: [
                type(each).__name__ if isinstance(each, Exception) else _in_order(each)
                for each in store.mailboxes.look_many(looks)
            ],
        )

    def _look(  # noqa: PLR0917 - one for each draw
        self, who: int, back: int, limit: int, max_bytes: int, ack: int | None, kinds: Kinds
    ) -> MailboxLook:
        account_id = self._id(who)
        up_to = None if ack is None else self._seq(account_id, ack)
        after = self._after(account_id, back)
        last = self.lasts.get(account_id, 0)
        # Where an ack is good and the place to read from is not, a store may ack or not.
        after = after if up_to is None else min(after, last)
        if self.policy.history_days < 1 and up_to is not None:
            after = min(last, max(after, up_to))
        return MailboxLook(account_id, after, limit, max_bytes, up_to, self.now, self._kept(kinds))

    def _kept(self, kinds: Kinds) -> Kinds:
        """Return which kinds to read: what has aged of the others may be there or not."""
        return MAIL_ALONE if self.policy.history_days < 1 else kinds

    # -- conversations -------------------------------------------------------------------

    def send(self, who: int, to: int, body: str, send_id: str, copy: bool) -> None:
        """Send from one of the accounts to another."""
        sender_id, account_id = self._id(who), self._id(to)
        message_id = self._hex(f"message {len(self.log)}")[:24]
        sender, peer = (self.names.get(each, "nobody") for each in (sender_id, account_id))
        if copy and self.policy.history_days < 1:
            send_id = message_id  # a repeat may put in again what has aged, or find it there
        copy_to = peer if copy else None
        draft = Draft(message_id, sender_id, sender, body, self.now, send_id, copy_to)
        self._append(account_id, draft)
        self._note_last(sender_id)

    def put_receipt(self, who: int, of: int, later: int) -> None:
        """Put in a receipt."""
        account_id, peer_id = self._id(who), self._id(of)
        receipt = PeerReceipt(
            peer_id, self.names.get(peer_id, "nobody"), self.now + later, self.now
        )
        self.ask(
            f"put {receipt} into {account_id}",
            lambda store: store.mailboxes.put_receipt(account_id, receipt),
        )
        self._note_last(account_id)

    def read_kinds(self, who: int, back: int, limit: int, max_bytes: int, kinds: Kinds) -> None:
        """Read some kinds from somewhere."""
        account_id, kinds = self._id(who), self._kept(kinds)
        after = self._after(account_id, back)
        self.ask(
            f"read {account_id} {after} {limit} {max_bytes} {sorted(kinds)}",
            lambda store: store.mailboxes.read(account_id, after, limit, max_bytes, kinds),
        )

    def talk(  # noqa: PLR0917 - one for each draw
        self, who: int, of: int | None, back: int | None, limit: int, max_bytes: int, kinds: Kinds
    ) -> None:
        """Read some kinds backward; of one account, of one that is gone, or of all."""
        account_id = self._id(who)
        before = None if back is None else self._seq(account_id, back)
        peer = None if of is None else Peer(self._id(of), self.names.get(self._id(of), "nobody"))
        if of == _NOBODY:
            peer = Peer(None, self.names[self.ids[0]])
        elif peer is not None and limit % 2:
            peer = Peer(peer.account_id, "")
        self.ask(
            f"history {account_id} {before} {limit} {max_bytes} {sorted(kinds)} {peer}",
            lambda store: store.mailboxes.history(
                account_id, before, limit, max_bytes, self.now, kinds=kinds, peer=peer
            ),
        )

    def conversations(self, who: int, back: int | None, limit: int, max_bytes: int) -> None:
        """List conversations."""
        account_id = self._id(who)
        before = None if back is None else self._seq(account_id, back)
        self.ask(
            f"conversations {account_id} {before} {limit} {max_bytes}",
            lambda store: store.mailboxes.conversations(
                account_id, before, limit, max_bytes, self.now
            ),
        )

    def block(self, who: int, whom: int) -> None:
        """Refuse somebody's mail."""
        account_id, peer_id = self._id(who), self._id(whom)
        peer = Blocked(peer_id, self.names.get(peer_id, "nobody"))
        self.ask(
            f"{account_id} blocks {peer}", lambda store: store.mailboxes.block(account_id, peer)
        )

    def unblock(self, who: int, whom: int) -> None:
        """Take it again."""
        account_id, peer_id = self._id(who), self._id(whom)
        self.ask(
            f"{account_id} unblocks {peer_id}",
            lambda store: store.mailboxes.unblock(account_id, peer_id),
        )

    def set_receipts(self, who: int, receipts: bool) -> None:
        """Let a mailbox give receipts, or not."""
        account_id = self._id(who)
        self.ask(
            f"receipts of {account_id}: {receipts}",
            lambda store: store.mailboxes.set_receipts(account_id, receipts=receipts),
        )

    def drop(self, who: int) -> None:
        """Take a mailbox away; its account, if there is one, gets no mail any more."""
        account_id = self._id(who)
        self.ask(f"drop {account_id}", lambda store: store.mailboxes.drop(account_id))

    def create_mailbox(self, who: int) -> None:
        """Make a mailbox that is there already."""
        account_id = self._id(who)
        standing = self.ask("is it?", lambda store: store.mailboxes.standing(account_id))
        if not isinstance(standing, str):
            self.ask("make it", lambda store: store.mailboxes.create(account_id))

    def set_quota(self, who: int, messages: int | None) -> None:
        """Set a mailbox's own quota."""
        account_id = self._id(who)
        self.ask(
            f"quota of {account_id}: {messages}",
            lambda store: store.mailboxes.set_quota(account_id, messages),
        )

    def usage(self, who: int) -> None:
        """Measure a mailbox; what has aged may be in it."""
        account_id = self._id(who)

        def measured(store: Store) -> MailboxUsage:
            usage = store.mailboxes.usage(account_id)
            aged = {"messages": 0, "copies": 0, "size": 0}
            return usage._replace(**aged) if self.policy.history_days < 1 else usage

        self.ask(f"usage of {account_id}", measured)

    def trace(self, which: int, who: int | None) -> None:
        """Look for a message, in one mailbox or in all."""
        message_id = self.sent[-1 - which % len(self.sent)] if self.sent else "0" * 24
        account_id = None if who is None else self._id(who)
        self.ask(
            f"trace {message_id} in {account_id}",
            lambda store: self._certain(
                store.mailboxes.trace(message_id, account_id, now=self.now)
            ),
        )

    def _certain(self, trace: MessageTrace | None) -> MessageTrace | None:
        """Return a trace without what a store may have forgotten."""
        if trace is None:
            return None
        if trace.seq is None:
            # Known by its send_id: one that counts no more may be there yet.
            counts = self.now - trace.sent_at < self.policy.send_id_hours * HOUR
            return trace if counts and self.policy.history_days >= 1 else None
        if trace.acked and self.policy.history_days < 1:
            return None
        return trace._replace(sender_id=None)

    def wait(self, hours: int) -> None:
        """Let time pass."""
        self.now += hours * HOUR
        self.log.append(f"{hours} hours pass")

    # -- in the end ----------------------------------------------------------------------

    def look_around(self) -> None:
        """Compare all that can be seen."""
        for name in ("ann", "anna", "bob"):
            self.find(name)
        self.page("*", "", 99)
        for which in range(len(self.tokens)):
            self.find_session(which, 0)
        for who in range(len(self.ids)):
            account_id = self._id(who)
            self.ask(
                f"standing of {account_id}",
                lambda store: store.mailboxes.standing(account_id),  # noqa: B023 - called at once
            )
            self.history(who, None, 99, 10**6)
            self.read_kinds(who, 99, 99, 10**6, EVERY_KIND)
            self.conversations(who, None, 99, 10**6)
            for of in range(len(self.ids)):
                self.talk(who, of, None, 99, 10**6, EVERY_KIND)
            self.ask(
                f"whom {account_id} blocks",
                lambda store: list(store.mailboxes.blocked(account_id)),  # noqa: B023 - called at once
            )
            if self.operated:
                self.usage(who)
                self.sessions(who)
        if self.operated:
            self.list_invitations()
            for which in range(len(self.sent)):
                self.trace(which, None)


def _seqs(page: MailPage) -> set[int]:
    return {each.seq for each in (*page.messages, *page.receipts)}


def _outcome(call: Callable[[Store], Any], store: Store) -> Any:
    """Return what a call returns, or the name of what it raises."""
    try:
        return call(store)
    except Exception as error:
        return type(error).__name__


def _in_order(outcome: Outcome) -> Outcome:
    """Return a standing or a page with its deliveries in one order."""
    return outcome._replace(deliveries=tuple(sorted(outcome.deliveries)))


def _but_for_its_use(session: SessionRecord | None) -> SessionRecord | None:
    """Return a session without the time of its use, which may be off by an hour."""
    return None if session is None else replace(session, used_at=0)


_sequences = itertools.count(1)


def compare(
    stores: Mapping[str, Store],
    policy: MailboxPolicy,
    seeds: Iterable[int],
    behind_seconds: float = 0.0,
    *,
    operated: bool = True,
) -> None:
    """Make the same calls of all stores, each sequence in a part of their states that is new.

    Args:
        stores: by name; the answers of the first are what is expected.
        policy: theirs.
        seeds: of the sequences.
        behind_seconds: how old what a store knows of sessions and recipients may be.
        operated: whether an operator makes some of the calls.

    Raises:
        AssertionError: their outcomes differ; the text has as few calls as show it, and the last
            outcomes.
    """

    def difference(calls: Sequence[Call]) -> str | None:
        # The time goes on from one to the next: servers may forget by the time of any send.
        number = next(_sequences)
        now = BEGAN + number * _APART
        try:
            Calls(stores, policy, f"s{number}.", behind_seconds, operated, now).make(calls)
        except AssertionError as error:
            return str(error)
        return None

    for seed in seeds:
        calls = drawn(seed, operated=operated)
        found = difference(calls)
        if found is None:
            continue
        for at in reversed(range(len(calls))):
            fewer = calls[:at] + calls[at + 1 :]
            smaller = difference(fewer)
            if smaller is not None:
                calls, found = fewer, smaller
        raise AssertionError(f"by the calls of seed {seed}:\n{found}")
