"""Checking, repairing, measuring and backing up a Valkey or Redis store, from outside its servers.

All of it walks over the keys (SCAN), some at a time, and counts; so it needs no more memory for a
large store than for a small one, and the engine answers others in between. There is no snapshot of
an engine that a client could read: what is checked is each account at a moment of its own, and a
backup needs the store to itself.
"""

from collections import Counter
from pathlib import Path
from typing import Any, Final

from twinline.core.store import MailboxUsage
from twinline.stores.archive import Archive
from twinline.stores.backup import write_backup
from twinline.stores.upkeep import (
    Findings,
    MailboxSize,
    Migration,
    Stats,
    Step,
    Upkeep,
    UpkeepError,
    no_step,
    require_finished,
)
from twinline.stores.valkey.archive import ValkeyArchive, count_profiles
from twinline.stores.valkey.examine_scripts import (
    ADDRESSES,
    COUNTS,
    FAULTS,
    LAST,
    LOST,
    NO_ACCOUNT,
    NO_MAILBOX,
    NUMBERS,
    ORPHAN,
    SESSIONS,
    UNREAD,
)
from twinline.stores.valkey.invitations import Invitations
from twinline.stores.valkey.keys import BOX, FORMAT, PENDING
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.pending import GRACE_SECONDS, Pending, script_call
from twinline.stores.valkey.rebuild import Rebuild, look_through
from twinline.stores.valkey.session import Session, name_of
from twinline.stores.valkey.url import parse_url
from twinline.stores.valkey.wire import Script, to_bytes, to_text

_LOST_NAMES: Final = "names of accounts that are not there"
_UNLISTED: Final = "names that are in use and not listed"
_UNNAMED: Final = "accounts that no name leads to"
_GONE: Final = "mailboxes whose account is gone"
_UNFINISHED: Final = "creations or deletions of accounts that a server will finish"
_CLAIMED: Final = "invitations that a server will spend or release"
_SWEPT: Final = "what was left of mailboxes that are gone was removed"
_UNREADABLE: Final = (
    "messages, copies or receipts were removed that could not be read or were double"
)
_MADE_AGAIN: Final = frozenset({LAST, COUNTS, LOST, NUMBERS, UNREAD})


class ValkeyUpkeep(Upkeep):
    """All of it, for the store of a URL."""

    # ruff: noqa: D102 - the contract tells what the methods do

    def __init__(self, url: str) -> None:
        """Read the URL; nothing is connected yet.

        Raises:
            StoreNotOpened: the URL is wrong.
        """
        self._target = parse_url(url)
        self.name = name_of(self._target)

    def check(self, step: Step = no_step) -> Findings:
        with Session(self._target) as session:
            self._require_whole(session)
            examined = _Examined(session)
            step(0, 2, "accounts and mailboxes")
            examined.look_at_keys()
            step(1, 2, "names")
            examined.look_at_names()
            examined.look_at_invitations()
            step(2, 2, "done")
        return examined.findings()

    def repair(self) -> list[str]:
        with Session(self._target) as session:
            self._require_whole(session)
            session.take_alone()
            return _Repair(session).mend()

    def stats(self, largest: int = 0) -> Stats:
        accounts = sessions = mailboxes = messages = unread = size = mail = 0
        sizes: dict[str, MailboxUsage] = {}
        with Session(self._target) as session:
            self._require_whole(session)
            for bucket in session.buckets():
                names = session.keys.names(bucket, "z")
                accounts += session.ask(plain(names, b"ZCARD", names))
            for keys in session.scan():
                calls: list[Call] = []
                for account_id, kind in keys:
                    key = session.keys.of(account_id, kind)
                    calls.append(plain(key, b"MEMORY", b"USAGE", key))
                    if kind == "b":
                        calls.append(plain(key, b"HMGET", key, b"n", b"k"))
                    elif kind == "k":
                        calls.append(plain(key, b"HLEN", key))
                answers = iter(session.ask_all(calls))
                for _, kind in keys:
                    size += next(answers) or 0  # none of what is gone by now
                    if kind == "b":
                        beyond, acked = next(answers)
                        if beyond is not None:
                            mailboxes += 1
                            unread += int(beyond)
                            messages += int(beyond) + int(acked)
                    elif kind == "k":
                        sessions += next(answers)
                with session.named():
                    found = session.tracing.usages([own for own, kind in keys if kind == "b"])
                mail += sum(usage.size for usage in found.values())
                sizes = _largest(sizes | found, largest)
            told = [_mailbox_size(session, *each) for each in sizes.items()]
            durability = session.engine.durability
        return Stats(
            accounts,
            sessions,
            mailboxes,
            messages,
            unread,
            size,
            FORMAT,
            durability,
            mail,
            tuple(told),
        )

    def backup(self, target: Path, step: Step = no_step) -> None:
        try:
            source = ValkeyArchive.open_source(self._target)
        except UpkeepError as error:
            raise UpkeepError(
                f"{error}; this engine has no snapshot that a client can read: for a backup while "
                "servers run start a second engine from its own (valkey-cli --rdb), and back that "
                "one up"
            ) from error
        with source:
            write_backup(source, target, step)

    def migrate(self, step: Step = no_step) -> Migration:
        step(0, 1, "")
        with Session(self._target) as session:
            self._require_whole(session)
            session.take_alone()
        step(1, 1, "")
        return Migration(FORMAT, FORMAT, None)  # there was none before this one

    def source(self) -> Archive:
        return ValkeyArchive.open_source(self._target)

    def target(self) -> Archive:
        return ValkeyArchive.open_target(self._target)

    def _require_whole(self, session: Session) -> None:
        require_finished(self.name, session.require_store())


class _Examined:
    """What was found in a walk over all keys."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys = session.keys
        self._found: Counter[int] = Counter()
        self._words: Counter[str] = Counter()

    def findings(self) -> Findings:
        """Return it in words."""
        faults = [f"{self._found[number]} {what}" for number, what in FAULTS.items()]
        faults += [f"{self._words[what]} {what}" for what in (_LOST_NAMES, _UNLISTED)]
        notes = [f"{self._found[NO_ACCOUNT]} {_GONE}"]
        notes += [f"{self._words[what]} {what}" for what in (_UNNAMED, _UNFINISHED, _CLAIMED)]
        return Findings(*([each for each in some if each[0] != "0"] for some in (faults, notes)))

    def look_at_keys(self) -> None:
        """Look at each account and each mailbox, and at what is left of either."""
        for keys in self._session.scan():
            calls = [self._call(account_id, kind) for account_id, kind in keys]
            live: dict[str, bytes] = {}
            boxes: dict[str, set[int]] = {}
            answers = self._session.ask_all(calls)
            for (account_id, kind), answer in zip(keys, answers, strict=True):
                if kind == "b":
                    boxes[account_id] = {number for number in answer if number != ORPHAN}
                elif kind in BOX:
                    self._found.update(number for number in answer if number == ORPHAN)
                else:
                    self._take(account_id, kind, answer, live)
            for account_id, found in boxes.items():
                self._found.update(found | look_through(self._session, account_id))
            self._look_whose(live)

    def _call(self, account_id: str, kind: str) -> Call:
        box = kind in BOX
        script = self._session.examine.box if box else self._session.examine.account
        return _script(self._session, script, account_id, f"{BOX}p" if box else "pbkd")

    def _take(self, account_id: str, kind: str, answer: Any, live: dict[str, bytes]) -> None:
        name, is_live, *found = answer
        if kind == "p":
            self._found.update(set(found))
            if is_live:
                live[account_id] = name
        elif not name:  # what is of an account that is there was counted with it
            self._found.update({SESSIONS if kind == "k" else ADDRESSES} & set(found))

    def _look_whose(self, live: dict[str, bytes]) -> None:
        """See that the names of accounts lead to them; one that is made just now has none yet."""
        owners = self._session.ask_all([_owner(self._session, name) for name in live.values()])
        for account_id, owner in zip(live, owners, strict=True):
            self._words[_UNNAMED] += owner != to_bytes(account_id)

    def look_at_names(self) -> None:
        """See that there is an account for each name in use, and that it is listed."""
        for bucket in self._session.buckets():
            for page in self._session.names_in(bucket):
                lost, unlisted = _wrong_names(self._session, bucket, page)
                if lost or unlisted:  # they may have come or gone meanwhile
                    again = [(name, own) for name, own in page if name in {*lost, *unlisted}]
                    lost, unlisted = _wrong_names(
                        self._session, bucket, _still(self._session, again)
                    )
                self._words[_LOST_NAMES] += len(lost)
                self._words[_UNLISTED] += len(unlisted)
        for number in range(PENDING):
            key = self._keys.pending_part(number)
            seconds, _ = self._session.ask(plain(key, b"TIME"))
            old = b"%d" % (int(seconds) * 1000 - round(GRACE_SECONDS * 1000))
            self._words[_UNFINISHED] += self._session.ask(plain(key, b"ZCOUNT", key, b"-inf", old))

    def look_at_invitations(self) -> None:
        """See whether any is claimed for longer than an account is made."""
        with self._session.named():
            claimed = _invitations(self._session).claimed(round(GRACE_SECONDS * 1000))
        self._words[_CLAIMED] += len(claimed)


class _Repair:
    """What is mended in a store that no server uses."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._keys = session.keys
        self._done: Counter[str] = Counter()

    def mend(self) -> list[str]:
        """Mend what can be, and return it in words."""
        with self._session.named():
            settled = _invitations(self._session).settle()
        self._done["claimed invitations were spent or released"] += settled
        self._follow_up()
        for keys in self._session.scan():
            for account_id, kind in keys:
                if kind in "pkd":
                    self._mend_account(account_id)
                else:
                    self._mend_box(account_id)
        self._mend_names()
        self._count_profiles()
        return [f"{count} {what}" for what, count in self._done.items() if count]

    def _follow_up(self) -> None:
        session = self._session
        parts = [self._keys.pending_part(number) for number in range(PENDING)]
        notes = sum(session.ask(plain(key, b"ZCARD", key)) for key in parts)
        pending = Pending(session.engine, self._keys, session.accounts, 0.0)

        def drop(account_id: str) -> None:
            self._unlink_box(account_id)
            session.ask(pending.forget(account_id))

        with session.named():
            while notes and not pending.follow_up(drop, 1 << 52):
                continue
        left = sum(session.ask(plain(key, b"ZCARD", key)) for key in parts)
        self._done["creations or deletions of accounts were finished"] += notes - left

    def _mend_account(self, account_id: str) -> None:
        session = self._session
        name, live, *found = session.ask(
            _script(session, session.examine.account, account_id, "pbkd")
        )
        if live and session.ask(_owner(session, name)) != to_bytes(account_id):
            with session.named():
                pending = Pending(session.engine, self._keys, session.accounts, 0.0)
                self._done["accounts that no name led to were taken away"] += pending.unmake(
                    account_id
                )
            self._unlink_box(account_id)
            return
        if {SESSIONS, ADDRESSES} & set(found):
            mended = session.ask(_script(session, session.examine.mend, account_id, "pkd"))
            self._done["sessions of no account were ended"] += mended[0]
            self._done["accounts that are gone had addresses, which were forgotten"] += mended[1]
        if NO_MAILBOX in found:
            made = session.ask(_script(session, session.examine.make, account_id, BOX))
            self._done["accounts had no mailbox, and have an empty one now"] += made

    def _mend_box(self, account_id: str) -> None:
        session = self._session
        found = session.ask(_script(session, session.examine.box, account_id, f"{BOX}p"))
        if ORPHAN in found:
            self._unlink_box(account_id)
            self._done[f"times {_SWEPT}"] += 1
        elif NO_ACCOUNT in found and self._has_accounts():
            # With no account at all, and none that ever was, they are kept somewhere else.
            self._unlink_box(account_id)
            self._done["mailboxes whose account is gone were dropped"] += 1
        elif _MADE_AGAIN & ({*found} | look_through(session, account_id)):
            self._done[_UNREADABLE] += Rebuild(session, account_id).make()
            self._done["mailboxes were counted and indexed anew"] += 1

    def _unlink_box(self, account_id: str) -> None:
        keys = self._keys.all_of_box(account_id)
        self._session.ask(plain(keys[0], b"UNLINK", *keys, writes=True))

    def _has_accounts(self) -> bool:
        store = self._keys.store
        return self._session.ask(plain(store, b"HGET", store, b"accounts")) is not None

    def _mend_names(self) -> None:
        session = self._session
        for bucket in session.buckets():
            names, listed = (self._keys.names(bucket, kind) for kind in "nz")
            for page in session.names_in(bucket):
                lost, unlisted = _wrong_names(session, bucket, page)
                for name in lost:
                    session.ask(plain(names, b"HDEL", names, name, writes=True))
                    session.ask(plain(listed, b"ZREM", listed, name, writes=True))
                for name in unlisted:
                    session.ask(plain(listed, b"ZADD", listed, b"0", name, writes=True))
                    self._done["names in use are listed again"] += 1
                self._done["names of accounts that are not there were freed"] += len(lost)

    def _count_profiles(self) -> None:
        session, key = self._session, self._keys.profiles
        flat = session.ask(plain(key, b"HGETALL", key))
        noted = {to_text(each): int(to) for each, to in zip(flat[::2], flat[1::2], strict=True)}
        counted = count_profiles(ValkeyArchive(session, ""))
        wrong = [each for each in {*noted, *counted} if noted.get(each, 0) != counted[each]]
        for profile in wrong:
            count = to_bytes(profile), b"%d" % counted[profile]
            session.ask(plain(key, b"HSET", key, *count, writes=True))
        self._done["counts of accounts by their passwords' hashes were set right"] += len(wrong)


def _invitations(session: Session) -> Invitations:
    return Invitations(session.engine, session.keys, session.accounts, 0.0)


def _largest(sizes: dict[str, MailboxUsage], count: int) -> dict[str, MailboxUsage]:
    return dict(sorted(sizes.items(), key=lambda each: (-each[1].size, each[0]))[:count])


def _mailbox_size(session: Session, account_id: str, usage: MailboxUsage) -> MailboxSize:
    record = session.keys.of(account_id, "p")
    name, gone = session.ask(plain(record, b"HMGET", record, b"u", b"g"))
    username = to_text(name) if name is not None and gone is None else None
    return MailboxSize(username, usage.messages, usage.unread, usage.quota, usage.size)


def _script(session: Session, script: Script, account_id: str, kinds: str) -> Call:
    keys = tuple(session.keys.of(account_id, kind) for kind in kinds)
    return script_call(script, keys, (), writes=False)


def _owner(session: Session, name: bytes) -> Call:
    names = session.keys.names(session.keys.bucket_of(to_text(name)), "n")
    return plain(names, b"HGET", names, name)


def _wrong_names(
    session: Session, bucket: bytes, page: list[tuple[bytes, bytes]]
) -> tuple[list[bytes], list[bytes]]:
    """Return which names lead to no account, and which of the others are not listed."""
    used = [(name, own) for name, own in page if own]
    records = [session.keys.of(to_text(own), "p") for _, own in used]
    there = session.ask_all([plain(record, b"EXISTS", record) for record in records])
    listed = session.keys.names(bucket, "z")
    scores = session.ask_all([plain(listed, b"ZSCORE", listed, name) for name, _ in used])
    lost, unlisted = [], []
    for (name, _), exists, score in zip(used, there, scores, strict=True):
        if not exists:
            lost.append(name)
        elif score is None:
            unlisted.append(name)
    return lost, unlisted


def _still(session: Session, page: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return those of these names that lead to the same account as before."""
    owners = session.ask_all([_owner(session, name) for name, _ in page])
    return [each for each, owner in zip(page, owners, strict=True) if each[1] == owner]
