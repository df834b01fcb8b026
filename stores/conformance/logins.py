"""Rules 56 to 58 of the store kit: what a login asks of an account beside its password.

Other nodes may answer from memory that is a minute old, so these are about one node; rule 84 is
about the others.
"""

from collections import Counter
from dataclasses import replace

from twinline.core.conformance import Checks, rule
from twinline.core.passwords import profile_of
from twinline.core.store import Accounts
from twinline.stores.conformance.bench import HOUR, NOW, StoreBench, password_hash

_WEAK = password_hash("weak").replace("m=65536", "m=8")
_MOST = 3


def _profiles(checks: Checks, accounts: Accounts, expected: dict[str, int], when: str) -> None:
    # No account of a profile is the same as no such profile.
    seen = +Counter(accounts.hash_profiles())
    checks.equal(dict(seen), expected, f"the number of accounts of each profile {when}")


@rule(56, "The accounts are counted by the profile of their password hash.")
def profiles_are_counted(checks: Checks, bench: StoreBench) -> None:
    """Create accounts with hashes of two profiles, replace a hash, and withdraw one."""
    accounts = bench.one_node().accounts
    usual, weak = profile_of(password_hash("first")), profile_of(_WEAK)
    _profiles(checks, accounts, {}, "with no account")
    made = [bench.account(f"ann{number}") for number in range(5)]
    made[:2] = [replace(account, password_hash=_WEAK) for account in made[:2]]
    for account in made:
        accounts.create(account)
    _profiles(checks, accounts, {weak: 2, usual: 3}, "after five were created")
    accounts.set_password_hash(made[0].account_id, password_hash("next"), instead_of=_WEAK)
    accounts.set_password_hash(made[1].account_id, password_hash("next"), instead_of="another")
    _profiles(checks, accounts, {weak: 1, usual: 4}, "after one hash was replaced")
    accounts.withdraw(made[1].account_id, keep_name=True)
    accounts.withdraw(made[2].account_id, keep_name=False)
    _profiles(checks, accounts, {usual: 3}, "after two were withdrawn")


@rule(57, "An address is noted for one account, with its time; the last of them are kept.")
def addresses_are_noted(checks: Checks, bench: StoreBench) -> None:
    """Note too many addresses of one account, one of them again, and one of an account gone."""
    accounts = bench.one_node().accounts
    ann, bob = bench.account("ann"), bench.account("bob")
    for account in (ann, bob):
        accounts.create(account)

    def note(number: int, hours: int) -> None:
        accounts.note_address(ann.account_id, f"192.0.2.{number}", NOW + hours * HOUR, most=_MOST)

    def noted(account_id: str) -> list[int | None]:
        return [accounts.address_noted_at(account_id, f"192.0.2.{n}") for n in range(5)]

    checks.equal(noted(ann.account_id), [None] * 5, "when addresses were noted, of none")
    for number in range(_MOST):
        note(number, number)
    note(0, 7)
    expected: list[int | None] = [NOW + 7 * HOUR, NOW + HOUR, NOW + 2 * HOUR, None, None]
    checks.equal(noted(ann.account_id), expected, "when addresses were noted, of three")
    note(3, 8)
    note(4, 9)
    expected = [NOW + hours * HOUR if hours else None for hours in (7, 0, 0, 8, 9)]
    checks.equal(noted(ann.account_id), expected, "when addresses were noted, of five")
    checks.equal(noted(bob.account_id), [None] * 5, "when they were noted for another account")
    accounts.withdraw(ann.account_id, keep_name=False)
    note(4, 9)
    checks.equal(noted(ann.account_id), [None] * 5, "when they were noted for an account gone")
    again = bench.account("ann")
    accounts.create(again)
    checks.equal(noted(again.account_id), [None] * 5, "when they were noted for a new account")


@rule(58, "Profiles and addresses survive a reopening.")
def logins_survive(checks: Checks, bench: StoreBench) -> None:
    """Reopen with two accounts and an address of one."""
    store = bench.one_node()
    ann, bob = bench.account("ann"), bench.account("bob")
    for account in (ann, bob):
        store.accounts.create(account)
    store.accounts.note_address(ann.account_id, "192.0.2.1", NOW, most=_MOST)
    accounts = bench.reopened(store).accounts
    _profiles(checks, accounts, {profile_of(ann.password_hash): 2}, "after a reopening")
    noted = [accounts.address_noted_at(each.account_id, "192.0.2.1") for each in (ann, bob)]
    checks.equal(noted, [NOW, None], "when an address was noted, after a reopening")
    accounts.withdraw(bob.account_id, keep_name=False)
    _profiles(checks, accounts, {profile_of(ann.password_hash): 1}, "after one was withdrawn then")
