"""Rules 38 to 41, 60 to 63 and 65 of the store kit: calls about accounts at once, or cut short."""

import time
from collections import Counter
from collections.abc import Callable
from functools import partial

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import NoSuchUser, StoreUnavailable, UsernameTaken
from twinline.core.store import Account, Accounts, SessionKey, SessionRecord
from twinline.stores.conformance.bench import (
    HOUR,
    NOW,
    StoreBench,
    outcomes,
    password_hash,
)


@rule(38, "Of those who create one name at once exactly one gets it, the rest UsernameTaken.")
def one_creates_a_name(checks: Checks, bench: StoreBench) -> None:
    """Create each name four times at once."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        candidates = [bench.account(f"ann{number}") for _ in range(4)]
        results = bench.race(checks, *(partial(accounts.create, one) for one in candidates))
        outcomes(checks, results, [UsernameTaken], "creating")
        winners = [one for one, result in zip(candidates, results, strict=True) if result is None]
        checks.equal(len(winners), 1, "how many create one name")
        found = accounts.find(f"ann{number}")
        checks.that(found in winners, f"the account is {shown(found)}, which is not the winner's")
        for one in candidates:
            there = accounts.withdraw(one.account_id, keep_name=False)
            checks.equal(there, one in winners, "whether a candidate's account is there")


@rule(39, "Of those who withdraw an account or replace its hash at once exactly one is told True.")
def one_is_told_true(checks: Checks, bench: StoreBench) -> None:
    """Replace a hash four times at once, then withdraw the account four times at once."""
    accounts = bench.store().accounts
    for _ in bench.tries(checks):
        ann = bench.account("ann")
        accounts.create(ann)
        hashes = [password_hash(f"{number}") for number in range(4)]
        replace = partial(accounts.set_password_hash, ann.account_id, instead_of=ann.password_hash)
        results = bench.race(checks, *(partial(replace, each) for each in hashes))
        checks.equal(Counter(map(shown, results)), {"True": 1, "False": 3}, "who replaces a hash")
        found = accounts.find("ann")
        winner = hashes[results.index(True)] if True in results else None
        checks.equal(found and found.password_hash, winner, "the hash that was stored")
        withdraw = partial(accounts.withdraw, ann.account_id, keep_name=False)
        results = bench.race(checks, *[withdraw] * 4)
        checks.equal(Counter(map(shown, results)), {"True": 1, "False": 3}, "who withdraws")


@rule(40, "No session outlives an account that is withdrawn while it opens.")
def no_session_outlives_its_account(checks: Checks, bench: StoreBench) -> None:
    """Withdraw an account, open sessions and create a new one of its name, at once."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        ann, next_one = bench.account(f"ann{number}"), bench.account(f"ann{number}")
        accounts.create(ann)
        before, *opening = (bench.session(ann) for _ in range(3))
        accounts.open_session(before)
        bell = bench.bell()
        accounts.on_session_end(before.key, bell.ring)
        withdrawn, created, *opened = bench.race(
            checks,
            partial(accounts.withdraw, ann.account_id, keep_name=False),
            partial(accounts.create, next_one),
            *(partial(accounts.open_session, session) for session in opening),
        )
        checks.equal(withdrawn, expected=True, what="the withdrawal")
        outcomes(checks, [created], [UsernameTaken], "creating meanwhile")
        outcomes(checks, opened, [NoSuchUser], "opening a session meanwhile")
        for session in (before, *opening):
            look = partial(accounts.find_session, session.key)
            checks.equal(
                bench.settled(look, None), None, "a session of an account that was withdrawn"
            )
        checks.that(bell.rang(), "who waits on a session is not woken by the withdrawal")


@rule(41, "Sessions that open at once never leave more than the most of them.")
def the_most_sessions_hold(checks: Checks, bench: StoreBench) -> None:
    """Open six at once where three are the most."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        ann = bench.account(f"ann{number}")
        accounts.create(ann)
        opening = [bench.session(ann, NOW + at) for at in range(6)]
        results = bench.race(
            checks, *(partial(accounts.open_session, session, most=3) for session in opening)
        )
        outcomes(checks, results, [], "opening a session")

        def count(opening=opening) -> int:  # type: ignore[no-untyped-def]
            found = [accounts.find_session(session.key) for session in opening]
            return sum(session is not None for session in found)

        checks.equal(
            bench.settled(count, 3), 3, "how many of six sessions are open where 3 are the most"
        )


@rule(60, "Nobody sees a new password hash beside a session that the change revokes.")
def a_new_password_ends_sessions_at_once(checks: Checks, bench: StoreBench) -> None:
    """Change a password, open a session with the old hash, and look at both, at once."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        ann = bench.account(f"ann{number}")
        accounts.create(ann)
        keep, other, late = (bench.session(ann) for _ in range(3))
        for session in (keep, other):
            accounts.open_session(session)
        new = password_hash("second")

        def look(username: str = ann.username, key: SessionKey = other.key) -> object:
            until = time.monotonic() + bench.wake_seconds
            while time.monotonic() < until:
                found = accounts.find(username)
                if found is not None and found.password_hash == new:  # noqa: B023 - called at once
                    return bench.seen(partial(accounts.find_session, key), None)
            return "not the new hash"

        changed, opened, *seen = bench.race(
            checks,
            partial(
                accounts.change_password,
                ann.account_id,
                new,
                instead_of=ann.password_hash,
                keep=keep.token_hash,
            ),
            partial(accounts.open_session, late, verified=ann.password_hash),
            look,
            look,
        )
        checks.equal(changed, expected=True, what="the change")
        outcomes(checks, [opened], [NoSuchUser], "opening a session with the old hash meanwhile")
        for each in seen:
            checks.equal(each, None, "what is seen meanwhile")
        gone = bench.settled(partial(accounts.find_session, late.key), None)
        checks.equal(gone, None, "a session that was opened with the old hash meanwhile")
        kept = accounts.find_session(keep.key)
        checks.equal(kept, keep, "the session that is kept")


@rule(61, "A session that is touched while it ends stays ended.")
def touching_revives_nothing(checks: Checks, bench: StoreBench) -> None:
    """Touch sessions while one is closed, one makes room and one goes with its account."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        ann, bob = bench.account(f"ann{number}"), bench.account(f"bob{number}")
        accounts.create(ann)
        accounts.create(bob)
        closed, room, owned = bench.session(ann, NOW + HOUR), bench.session(ann), bench.session(bob)
        for session in (closed, room, owned):
            accounts.open_session(session)

        def touch(keys: tuple[SessionKey, ...]) -> None:
            for key in keys * 3:
                accounts.touch_session(key, NOW + 2 * HOUR)

        results = bench.race(
            checks,
            partial(touch, (closed.key, owned.key)),
            partial(accounts.close_session, closed.key),
            partial(accounts.withdraw, bob.account_id, keep_name=False),
            partial(accounts.open_session, bench.session(ann), most=1),
        )
        outcomes(checks, results, [], "a call")
        for session in (closed, owned):
            look = partial(accounts.find_session, session.key)
            checks.equal(bench.settled(look, None), None, "a session that ended while touched")


@rule(62, "A name that is to stay reserved is never free, not for a moment.")
def reserved_names_have_no_gap(checks: Checks, bench: StoreBench) -> None:
    """Withdraw an account, keeping its name, while others try to get the name."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        ann = bench.account(f"ann{number}")
        accounts.create(ann)

        def get(name: str = ann.username) -> object:
            for _ in range(20):
                if accounts.is_free(name):
                    return "it is free"
                try:
                    accounts.create(bench.account(name))
                except UsernameTaken:
                    continue
                return "it can be had"
            return None

        withdrawn, *seen = bench.race(
            checks, partial(accounts.withdraw, ann.account_id, keep_name=True), get, get
        )
        checks.equal(withdrawn, expected=True, what="the withdrawal")
        for each in seen:
            checks.equal(each, None, "what is seen of the name meanwhile")


@rule(63, "An account is not deleted with a password that is changed meanwhile.")
def old_passwords_delete_nothing(checks: Checks, bench: StoreBench) -> None:
    """Change a password, and withdraw the account with the old one, at once."""
    accounts = bench.store().accounts
    for number in bench.tries(checks):
        ann = bench.account(f"ann{number}")
        accounts.create(ann)
        changed, withdrawn = bench.race(
            checks,
            partial(
                accounts.change_password,
                ann.account_id,
                password_hash("second"),
                instead_of=ann.password_hash,
                keep=b"",
            ),
            partial(
                accounts.withdraw,
                ann.account_id,
                keep_name=False,
                verified=ann.password_hash,
            ),
        )
        outcomes(checks, [changed], [NoSuchUser], "changing the password")
        both = (changed is True, withdrawn)
        checks.that(both in ((True, False), (False, True)), f"both at once come to {shown(both)}")


@rule(65, "Of a write that fails nothing is done, or all.")
def failed_writes_are_whole(checks: Checks, bench: StoreBench) -> None:
    """Have each call fail on one node that changes more than one thing, and look at all of them."""
    store = bench.one_node()
    accounts = store.accounts
    new = password_hash("second")
    # What to call, and what an account and its three sessions are when all of it is done.
    calls: dict[str, tuple[Callable[..., object], tuple[object, ...]]] = {
        "another password": (
            lambda account, keep, _opened: accounts.change_password(
                account.account_id, new, instead_of=account.password_hash, keep=keep.token_hash
            ),
            (new, False, False, True, False),
        ),
        "a withdrawal": (
            lambda account, _keep, _opened: accounts.withdraw(account.account_id, keep_name=True),
            (None, False, False, False, False),
        ),
        "a session that makes room": (
            lambda _account, _keep, opened: accounts.open_session(opened, most=2),
            (password_hash("first"), False, False, True, True),
        ),
    }
    for number, (what, (call, done)) in enumerate(calls.items()):
        ann = bench.account(f"ann{number}")
        accounts.create(ann)
        other, keep, opened = (bench.session(ann, NOW + at) for at in range(3))
        for session in (other, keep):
            accounts.open_session(session)
        whole = [_state(accounts, ann, other, keep, opened), done]
        with bench.failing(store):
            checks.raises(StoreUnavailable, partial(call, ann, keep, opened), f"{what} that fails")
        look = partial(_state, accounts, ann, other, keep, opened)
        bench.settled(lambda: look() in whole, expected=True)  # noqa: B023 - called at once
        left = look()
        checks.that(left in whole, f"{what} that fails leaves {shown(left)}")
        again = bench.comes_true(partial(_is_done, partial(call, ann, keep, opened)))
        checks.that(again, f"{what} fails for good")


def _state(accounts: Accounts, account: Account, *sessions: SessionRecord) -> tuple[object, ...]:
    """Return an account's hash, whether its name is free, and which sessions are open."""
    found = accounts.find(account.username)
    return (
        None if found is None else found.password_hash,
        accounts.is_free(account.username),
        *(accounts.find_session(session.key) is not None for session in sessions),
    )


def _is_done(call: Callable[[], object]) -> bool:
    try:
        call()
    except StoreUnavailable:
        return False
    except (NoSuchUser, ValueError):
        return True  # the call that failed has done it
    return True
