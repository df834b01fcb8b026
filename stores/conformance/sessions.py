"""Rules 8 to 14 and 70 of the store kit: sessions, how they end, and who learns of it."""

from dataclasses import replace

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import NoSuchUser
from twinline.core.store import Account, Accounts, SessionKey, SessionRecord
from twinline.stores.conformance.bench import (
    HOUR,
    NOW,
    Bell,
    StoreBench,
    password_hash,
)


def _is_open(
    checks: Checks, bench: StoreBench, accounts: Accounts, session: SessionRecord, when: str
) -> None:
    seen = bench.settled(lambda: accounts.find_session(session.key), session)
    checks.equal(seen, session, f"the session {when}")


def _is_gone(
    checks: Checks, bench: StoreBench, accounts: Accounts, session: SessionRecord, when: str
) -> None:
    seen = bench.settled(lambda: accounts.find_session(session.key), None)
    checks.equal(seen, None, f"the session {when}")


def _opened(
    accounts: Accounts, bench: StoreBench, account: Account, used_at: int = NOW
) -> tuple[SessionRecord, Bell]:
    """Open a session and subscribe to its end."""
    session, bell = bench.session(account, used_at), bench.bell()
    accounts.open_session(session)
    accounts.on_session_end(session.key, bell.ring)
    return session, bell


def _two_accounts(bench: StoreBench) -> tuple[Accounts, Account, Account]:
    accounts = bench.store().accounts
    ann, bob = bench.account("ann"), bench.account("bob")
    accounts.create(ann)
    accounts.create(bob)
    return accounts, ann, bob


@rule(8, "A session is found by its token's hash, every field as it was; no other hash finds one.")
def sessions_are_found(checks: Checks, bench: StoreBench) -> None:
    """Open sessions of two accounts; then use a hash again, and an account that is not there."""
    accounts, ann, bob = _two_accounts(bench)
    opened = [bench.session(ann), bench.session(ann, NOW + 5), bench.session(bob)]
    for session in opened:
        accounts.open_session(session)
    for session in opened:
        _is_open(checks, bench, accounts, session, "that was opened")
    for other in (b"", b"\0" * 32, opened[0].token_hash[:-1], opened[0].token_hash + b"\0"):
        found = accounts.find_session(SessionKey(ann.account_id, other))
        checks.equal(found, None, "the session of another hash")
    again = replace(bench.session(ann), token_hash=opened[0].token_hash)
    checks.raises(ValueError, lambda: accounts.open_session(again), "a token hash that is in use")
    _is_open(checks, bench, accounts, opened[0], "whose hash was used again")
    stray = bench.session(bench.account("nobody"))
    checks.raises(NoSuchUser, lambda: accounts.open_session(stray), "a session of no account")
    _is_gone(checks, bench, accounts, stray, "of no account")


@rule(9, "A session that needs a verified hash opens only while that is the account's hash.")
def sessions_need_the_verified_hash(checks: Checks, bench: StoreBench) -> None:
    """Open one with the old hash, when it is replaced, and one with the new."""
    accounts, ann, _ = _two_accounts(bench)
    old, new = ann.password_hash, password_hash("second")
    early, late, right = (bench.session(ann) for _ in range(3))
    accounts.open_session(early, verified=old)
    _is_open(checks, bench, accounts, early, "opened with the hash that it was")
    accounts.set_password_hash(ann.account_id, new, instead_of=old)
    checks.raises(
        NoSuchUser, lambda: accounts.open_session(late, verified=old), "a hash that is old"
    )
    _is_gone(checks, bench, accounts, late, "opened with an old hash")
    accounts.open_session(right, verified=new)
    _is_open(checks, bench, accounts, right, "opened with the new hash")


@rule(10, "Beyond the most sessions of an account, the one that was used longest ago ends.")
def the_oldest_session_makes_room(checks: Checks, bench: StoreBench) -> None:
    """Open one session too many, when the first one was used last; then with a lower limit."""
    accounts, ann, bob = _two_accounts(bench)
    other, other_bell = _opened(accounts, bench, bob, NOW - 9 * HOUR)
    first, first_bell = _opened(accounts, bench, ann, NOW)
    second, second_bell = _opened(accounts, bench, ann, NOW + 3 * HOUR)
    accounts.touch_session(first.key, NOW + 6 * HOUR)
    third = bench.session(ann, NOW + 6 * HOUR)
    ended = accounts.open_session(third, most=2)
    checks.that(ended, "that a session made room is not told")
    _is_gone(checks, bench, accounts, second, "that was used longest ago")
    checks.that(second_bell.rang(), "nobody who waits on the session that made room is woken")
    checks.that(first_bell.quiet(), "who waits on a session that was used later is woken")
    checks.that(accounts.find_session(first.key), "a session that was used later ends")
    _is_open(checks, bench, accounts, third, "that was opened last")
    fourth = bench.session(ann, NOW + 7 * HOUR)
    ended = accounts.open_session(fourth, most=9)
    checks.that(not ended, "a session is told to have made room, though there was room")
    checks.that(accounts.find_session(first.key), "a session ends though there is room")
    _is_open(checks, bench, accounts, other, "of another account")
    checks.that(other_bell.quiet(), "who waits on another account's session is woken")


@rule(11, "Touching a session notes its use to within an hour, and opens none that is gone.")
def touching_notes_the_use(checks: Checks, bench: StoreBench) -> None:
    """Touch a session some hours later, and one that ended."""
    accounts, ann, _ = _two_accounts(bench)
    session, bell = _opened(accounts, bench, ann)
    used = NOW + 5 * HOUR
    accounts.touch_session(session.key, used)
    seen = accounts.find_session(session.key)
    late = bench.settled(
        lambda: (
            (found := accounts.find_session(session.key)) is not None
            and abs(found.used_at - used) <= HOUR
        ),
        expected=True,
    )
    checks.that(late, f"touched at {used}, a session is {seen}")
    if seen is not None:
        checks.equal(replace(seen, used_at=NOW), session, "the rest of a session that was touched")
    accounts.close_session(session.key)
    accounts.touch_session(session.key, used)
    _is_gone(checks, bench, accounts, session, "that was touched when it was gone")
    accounts.touch_session(SessionKey(ann.account_id, b"\1" * 32), used)
    checks.that(bell.rang(), "the end of a session that was touched wakes nobody")


@rule(12, "Closing a session ends it and wakes all who wait on it, and nobody else.")
def closing_wakes_those_who_wait(checks: Checks, bench: StoreBench) -> None:
    """Close one of two sessions, twice, with two subscriptions and one that was ended."""
    accounts, ann, _ = _two_accounts(bench)
    session, bell = _opened(accounts, bench, ann)
    other, other_bell = _opened(accounts, bench, ann)
    again, ended = bench.bell(), bench.bell()
    accounts.on_session_end(session.key, again.ring)
    unsubscribe = accounts.on_session_end(session.key, ended.ring)
    unsubscribe()
    unsubscribe()
    accounts.close_session(session.key)
    _is_gone(checks, bench, accounts, session, "that was closed")
    checks.that(bell.rang() and again.rang(), "closing does not wake all who wait on the session")
    checks.that(ended.quiet(), "closing wakes who has unsubscribed")
    checks.that(other_bell.quiet(), "closing wakes who waits on another session")
    _is_open(checks, bench, accounts, other, "beside the one that was closed")
    accounts.close_session(SessionKey(ann.account_id, b"\1" * 32))
    late = bench.bell()
    if bench.alone:  # another node may learn of it later than who subscribes there
        accounts.on_session_end(session.key, late.ring)()
        accounts.on_session_end(session.key, late.ring)
        accounts.close_session(session.key)
        checks.that(late.quiet(), "a subscription to a session that is gone is called")


@rule(
    13,
    "Another password ends all sessions of its account but the one that is named, and wakes them.",
)
def another_password_ends_others(checks: Checks, bench: StoreBench) -> None:
    """Change a password with three sessions open, beside another account, and with an old hash."""
    accounts, ann, bob = _two_accounts(bench)
    kept, first, second = (_opened(accounts, bench, ann) for _ in range(3))
    other = _opened(accounts, bench, bob)
    new = password_hash("second")

    def change(account: Account, old: str, keep: bytes) -> bool:
        return accounts.change_password(account.account_id, new, instead_of=old, keep=keep)

    refused = change(ann, new, kept[0].token_hash)
    checks.equal(refused, expected=False, what="changing what is not the account's hash")
    for session, bell in (kept, first, second):
        _is_open(checks, bench, accounts, session, "beside a change that was refused")
        checks.that(bell.quiet(), "a change that is refused wakes who waits on a session")
    changed = change(ann, ann.password_hash, kept[0].token_hash)
    checks.equal(changed, expected=True, what="changing the hash that it is")
    found = accounts.find("ann")
    checks.equal(found and found.password_hash, new, "the hash after that")
    for session, bell in (first, second):
        _is_gone(checks, bench, accounts, session, "that is one of the others")
        checks.that(bell.rang(), "another password does not wake who waits on one of the others")
    for session, bell in (kept, other):
        _is_open(checks, bench, accounts, session, "that is none of the others")
        checks.that(bell.quiet(), "another password wakes who waits on none of the others")
    change(bob, bob.password_hash, b"\1" * 32)
    _is_gone(checks, bench, accounts, other[0], "of one who keeps none")
    checks.that(other[1].rang(), "another password does not wake who waits on the last session")
    accounts.withdraw(ann.account_id, keep_name=False)
    checks.raises(
        NoSuchUser,
        lambda: change(ann, new, kept[0].token_hash),
        "another password for an account that is gone",
    )


@rule(
    14, "Withdrawing an account ends all its sessions, wakes who waits on them, and lets none open."
)
def withdrawing_ends_sessions(checks: Checks, bench: StoreBench) -> None:
    """Withdraw an account with sessions, beside another; then give its name to a new one."""
    accounts, ann, bob = _two_accounts(bench)
    gone = [_opened(accounts, bench, ann) for _ in range(3)]
    other, other_bell = _opened(accounts, bench, bob)
    accounts.withdraw(ann.account_id, keep_name=False)
    for session, bell in gone:
        _is_gone(checks, bench, accounts, session, "of an account that was withdrawn")
        checks.that(bell.rang(), "withdrawing does not wake who waits on a session")
    _is_open(checks, bench, accounts, other, "of another account")
    checks.that(other_bell.quiet(), "withdrawing wakes who waits on another account's session")
    late = bench.session(ann)
    for verified in (None, ann.password_hash):
        checks.raises(
            NoSuchUser,
            lambda: accounts.open_session(late, verified=verified),  # noqa: B023 - called at once
            "a session of an account that was withdrawn",
        )
    accounts.create(bench.account("ann"))
    for session, _ in gone:
        _is_gone(
            checks, bench, accounts, session, "of the old account, when its name is used again"
        )
    checks.raises(NoSuchUser, lambda: accounts.open_session(late), "a session of the old account")


@rule(70, "A session is found, touched and closed under its own account, or by its hash.")
def sessions_have_one_owner(checks: Checks, bench: StoreBench) -> None:
    """Ask for a session under another account, and as a token of before asks for it."""
    accounts, ann, bob = _two_accounts(bench)
    session, bell = _opened(accounts, bench, ann)
    for stranger in (bob.account_id, bench.id(), ""):
        other = SessionKey(stranger, session.token_hash)
        checks.equal(accounts.find_session(other), None, "a session, under another account,")
        accounts.touch_session(other, NOW + 5 * HOUR)
        accounts.close_session(other)
        _is_open(checks, bench, accounts, session, "that was used under another account")
    checks.that(bell.quiet(), "closing a session under another account wakes who waits on it")
    of_before = SessionKey(None, session.token_hash)
    found = accounts.find_session(of_before)
    checks.that(found in (None, session), f"the session found by its hash alone is {shown(found)}")
    checks.equal(
        accounts.find_session(SessionKey(None, b"\1" * 32)), None, "the session of another hash"
    )
    old_bell = bench.bell()
    accounts.on_session_end(of_before, old_bell.ring)
    accounts.touch_session(of_before, NOW)
    accounts.close_session(of_before)
    if found is None:  # such a store knows no sessions of before
        _is_open(checks, bench, accounts, session, "that was closed by its hash alone")
        checks.that(bell.quiet(), "closing what is not found wakes who waits on a session")
        accounts.close_session(session.key)
    else:
        checks.that(old_bell.rang(), "who waits on a session by its hash alone is not woken")
    _is_gone(checks, bench, accounts, session, "that was closed at last")
    checks.that(bell.rang(), "closing wakes nobody who waits on the session")
