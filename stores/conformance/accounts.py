"""Rules 1 to 7 and 71 of the store kit: accounts and their names."""

from functools import partial
from typing import Final

from twinline.core.conformance import Checks, rule
from twinline.core.errors import NoSuchUser, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.store import UsernamePage
from twinline.stores.conformance.bench import ALL, StoreBench, password_hash

_NAMES: Final = (
    *("0", "9-9", "a", "a-", "a.", "a0", "a_", "aa", "ab", "abc", "ann", "anna", "b", "ba"),
    *(f"bob{number}" for number in range(12)),
    *("c.d_e-1", "z", "zz", "z" * 32),
)
_PATTERNS: Final = (
    *("*", "", "a*", "*a", "a?", "?", "??", "a?*", "*b*", "ann", "ANN", "nobody", "bob1*", "zzz*"),
    *(r"a\*", "a_", "a%", "%", "_", "[ab]*", "a.", "*.*", "*-", "a*b*c", "b?b*1", "é*"),
)


@rule(1, "An account is found by its name, every field as it was; under any other name is none.")
def accounts_are_found(checks: Checks, bench: StoreBench) -> None:
    """Create some, and look for them and for names near theirs."""
    accounts = bench.store().accounts
    checks.equal(accounts.find("ann"), None, "what a new store has under a name")
    created = [bench.account(name) for name in ("ann", "bob", "a.b_c-9", "z" * 32)]
    for account in created:
        accounts.create(account)
    for account in created:
        checks.equal(accounts.find(account.username), account, "the account that was created")
    for name in ("an", "anna", "ANN", "an%", "an_", "a", "", "carl"):
        checks.equal(accounts.find(name), None, f"what is found under {name!r}")


@rule(2, "A name that is in use is UsernameTaken, and nothing changes.")
def names_are_taken_once(checks: Checks, bench: StoreBench) -> None:
    """Create a second account of a name."""
    accounts = bench.store().accounts
    first, second = bench.account("ann"), bench.account("ann")
    accounts.create(first)
    checks.raises(UsernameTaken, lambda: accounts.create(second), "creating a name that is taken")
    checks.equal(accounts.find("ann"), first, "the account of that name, after that,")
    withdrawn = accounts.withdraw(second.account_id, keep_name=False)
    checks.equal(withdrawn, expected=False, what="whether the refused account can be withdrawn")
    checks.equal(accounts.find("ann"), first, "the account of that name, in the end,")


@rule(3, "An account id that is in use is ValueError, and nothing changes.")
def account_ids_are_used_once(checks: Checks, bench: StoreBench) -> None:
    """Create a second account under an id."""
    accounts = bench.store().accounts
    first = bench.account("ann")
    accounts.create(first)
    second = bench.account("bob", first.account_id)
    checks.raises(ValueError, lambda: accounts.create(second), "creating under an id in use")
    checks.equal(accounts.find("ann"), first, "the first account, after that,")
    checks.equal(accounts.find("bob"), None, "the second account")
    checks.equal(accounts.is_free("bob"), expected=True, what="whether the second name is free")


@rule(4, "A name is free when it is neither in use nor reserved; a reserved one stays taken.")
def reserved_names_stay_taken(checks: Checks, bench: StoreBench) -> None:
    """Withdraw accounts, with and without keeping the name."""
    accounts = bench.store().accounts
    checks.equal(
        accounts.is_free("ann"), expected=True, what="whether a name is free that was never used"
    )
    for keep in (False, True):
        account = bench.account("ann")
        accounts.create(account)
        checks.equal(
            accounts.is_free("ann"), expected=False, what="whether a name is free that is in use"
        )
        accounts.withdraw(account.account_id, keep_name=keep)
        checks.equal(accounts.is_free("ann"), not keep, f"whether it is free with keep_name {keep}")
    again = bench.account("ann")
    checks.raises(UsernameTaken, lambda: accounts.create(again), "creating a reserved name")
    checks.equal(accounts.find("ann"), None, "the account of a reserved name")
    page = accounts.page(NamePattern("*"), None, 10)
    checks.equal(page, UsernamePage((), more=False), "the list of names when one is reserved")


@rule(
    5, "Pages of usernames are by code point, beyond `after`, of `limit` at most, and tell `more`."
)
def pages_of_names_are_right(checks: Checks, bench: StoreBench) -> None:
    """Ask for many pages, and compare them with the plainest way to make them."""
    accounts = bench.store().accounts
    for name in sorted(_NAMES, key=lambda name: name[::-1]):
        accounts.create(bench.account(name))
    gone = bench.account("bob00")
    accounts.create(gone)
    accounts.withdraw(gone.account_id, keep_name=False)
    for text in _PATTERNS:
        pattern = NamePattern(text)
        matching = [name for name in sorted(_NAMES) if pattern.matches(name)]
        for after in (None, "", "a", "a-", "ann", "bob1", "bob5x", "zz", "zzz"):
            beyond = [name for name in matching if after is None or name > after]
            for limit in {1, 2, 5, max(1, len(beyond)), ALL}:
                page = accounts.page(pattern, after, limit)
                expected = UsernamePage(tuple(beyond[:limit]), more=len(beyond) > limit)
                checks.equal(page, expected, f"page({text!r}, {after!r}, {limit})")


@rule(6, "A password hash is replaced only instead of the one that is named; else it stays.")
def password_hashes_are_compared(checks: Checks, bench: StoreBench) -> None:
    """Replace a hash, then try it again with what is old by now."""
    accounts = bench.store().accounts
    ann, bob = bench.account("ann"), bench.account("bob")
    accounts.create(ann)
    accounts.create(bob)
    first, second, third = (password_hash(word) for word in ("first", "second", "third"))

    def replace(new: str, old: str) -> bool:
        return accounts.set_password_hash(ann.account_id, new, instead_of=old)

    def stored() -> str | None:
        found = accounts.find("ann")
        return None if found is None else found.password_hash

    checks.equal(replace(second, first), expected=True, what="replacing the hash that it is")
    checks.equal(stored(), second, "the hash after that")
    checks.equal(replace(third, first), expected=False, what="replacing a hash that it is no more")
    checks.equal(stored(), second, "the hash after a change that was refused")
    checks.equal(accounts.find("bob"), bob, "another account")
    accounts.withdraw(ann.account_id, keep_name=False)
    checks.raises(NoSuchUser, lambda: replace(third, second), "a new hash for an account gone")


@rule(7, "Of all who withdraw an account one is told True; it is gone, and no other is.")
def accounts_are_withdrawn_once(checks: Checks, bench: StoreBench) -> None:
    """Withdraw twice, what never was, and with a hash that is old by now."""
    accounts = bench.store().accounts
    ann, bob = bench.account("ann"), bench.account("bob")
    accounts.create(ann)
    accounts.create(bob)
    never = accounts.withdraw(bench.id(), keep_name=True)
    checks.equal(never, expected=False, what="withdrawing an account that never was")
    other = accounts.withdraw(ann.account_id, keep_name=True, verified=password_hash("second"))
    checks.equal(other, expected=False, what="withdrawing when the password is another by now")
    checks.equal(accounts.find("ann"), ann, "the account after that")
    verified = accounts.withdraw(ann.account_id, keep_name=False, verified=ann.password_hash)
    checks.equal(verified, expected=True, what="withdrawing with the hash that it is")
    ann = bench.account("ann")
    accounts.create(ann)
    for expected in (True, False):
        withdrawn = accounts.withdraw(ann.account_id, keep_name=False)
        checks.equal(withdrawn, expected, "withdrawing" if expected else "withdrawing again")
    checks.equal(accounts.find("ann"), None, "the account that was withdrawn")
    checks.equal(accounts.find("bob"), bob, "another account")
    checks.equal(accounts.page(NamePattern("*"), None, 9).usernames, ("bob",), "the list of names")
    again = bench.account("ann")
    accounts.create(again)
    checks.equal(accounts.find("ann"), again, "a new account of the old name")


@rule(71, "A recipient is the id of the account that has the name, or had it a second ago.")
def recipients_are_found(checks: Checks, bench: StoreBench) -> None:
    """Look for one before it is there, when it is, when it is gone, and when another has its name.

    Each time more than once, for any node may answer, and from memory.
    """
    accounts = bench.store().accounts

    def recipient(expected: str | None, when: str) -> None:
        for _ in range(4):
            seen = bench.settled(partial(accounts.recipient, "ann"), expected)
            checks.equal(seen, expected, f"the recipient {when}")

    def named(account_id: str, expected: str | None, when: str) -> None:
        seen = bench.settled(partial(accounts.username_of, account_id), expected)
        checks.equal(seen, expected, f"the name of an account {when}")

    recipient(None, "that was never created")
    for keep_name in (False, True):
        ann = bench.account("ann")
        accounts.create(ann)
        recipient(ann.account_id, "that was created")
        named(ann.account_id, "ann", "that was created")
        for name in ("ANN", "an", "anna", ""):
            checks.equal(accounts.recipient(name), None, f"the recipient {name!r}")
        accounts.withdraw(ann.account_id, keep_name=keep_name)
        recipient(None, "that was withdrawn")
        named(ann.account_id, None, "that was withdrawn")
