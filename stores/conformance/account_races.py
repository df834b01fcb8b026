"""Rules 38 to 41 of the store kit: calls at once about accounts and their sessions."""

from collections import Counter
from functools import partial

from twinline.core.conformance import Checks, rule, shown
from twinline.core.errors import NoSuchUser, UsernameTaken
from twinline.stores.conformance.bench import (
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
        winners = [one for one, told in zip(candidates, results, strict=True) if told is None]
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
        accounts.on_session_end(before.token_hash, bell.ring)
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
            look = partial(accounts.find_session, session.token_hash)
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
            found = [accounts.find_session(session.token_hash) for session in opening]
            return sum(session is not None for session in found)

        checks.equal(
            bench.settled(count, 3), 3, "how many of six sessions are open where 3 are the most"
        )
