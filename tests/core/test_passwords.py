"""Passwords: lengths before hashing, one answer for every failure, a bounded number at once."""

import threading
from collections import Counter
from typing import Literal

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import HashingError, VerificationError
from argon2.low_level import error_to_str
from services import cheap_hasher
from waiting import join, wait_event, wait_until

from twinline.core.errors import Busy, InvalidPassword, RateLimited
from twinline.core.hash_queue import Urgency
from twinline.core.passwords import Passwords, default_hasher, profile_of


class GatedHasher(PasswordHasher):
    """Counts what is under way, and lets it finish when the test says so."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.open = threading.Event()
        self.open.set()
        self.calls = 0
        self.under_way = threading.Semaphore(0)
        self.now = 0
        self.most = 0
        self._lock = threading.Lock()

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        with self._lock:
            self.calls += 1
            self.now += 1
            self.most = max(self.most, self.now)
        self.under_way.release()
        wait_event(self.open, "the test opens the gate")
        try:
            return super().hash(password, salt=salt)
        finally:
            with self._lock:
                self.now -= 1


def allowed() -> None:
    """Allow an attempt."""


def opens(passwords: Passwords, password: str, password_hash: str | None = None) -> bool:
    """Return whether a password opens a hash, or nobody's."""
    known = password_hash or passwords.stand_in("nobody", {})
    return passwords.verify(known, password, Urgency.LOGIN, allowed)


def test_hash_and_verify() -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    password_hash = passwords.hash("correct horse", Urgency.REGISTRATION)
    assert password_hash.startswith("$argon2id$")
    assert opens(passwords, "correct horse", password_hash)
    assert not opens(passwords, "correct house", password_hash)


@pytest.mark.parametrize(
    "failure",
    [HashingError(error_to_str(-22)), VerificationError(error_to_str(-22)), MemoryError()],
)
def test_without_memory_it_is_busy_and_no_password_is_wrong(failure: Exception) -> None:
    class Starved(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            raise failure

        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
            raise failure

    passwords = Passwords(Starved(), wait_seconds=1)
    known = Passwords(cheap_hasher(), wait_seconds=1).hash("correct horse", Urgency.REGISTRATION)
    with pytest.raises(Busy, match="no memory"):
        passwords.hash("correct horse", Urgency.REGISTRATION)
    for password_hash in (known, "no hash of argon2", None):
        with pytest.raises(Busy, match="no memory"):
            opens(passwords, "correct horse", password_hash)


@pytest.mark.parametrize("password", ["short67", "x" * 129, "x" * 1_000_000])
def test_a_wrong_length_is_refused_before_hashing(password: str) -> None:
    hasher = GatedHasher()
    passwords = Passwords(hasher, wait_seconds=1)
    before = hasher.calls
    with pytest.raises(InvalidPassword):
        passwords.hash(password, Urgency.REGISTRATION)
    assert not opens(passwords, password)
    assert hasher.calls == before


@pytest.mark.parametrize("password", ["12345678", "x" * 128, "пароль-пароль", "🐴" * 8])
def test_length_is_counted_in_characters(password: str) -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    assert opens(passwords, password, passwords.hash(password, Urgency.REGISTRATION))


def test_half_a_surrogate_pair_is_no_password() -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    with pytest.raises(InvalidPassword):
        passwords.hash("\ud800" * 8, Urgency.REGISTRATION)
    assert not opens(passwords, "\ud800" * 8)


OLD, TODAY, STRONG = "m=8,t=1,p=1", "m=8,t=2,p=1", "m=16,t=9,p=1"
PROFILES = {f"$argon2id$v=19${costs}": n for costs, n in ((OLD, 600), (TODAY, 300), (STRONG, 100))}


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the profiles of the hashes that are verified, as they are."""
    seen: list[str] = []
    verify = PasswordHasher.verify

    def noting(self: PasswordHasher, known: str, password: str | bytes) -> bool:
        seen.append(profile_of(known))
        return verify(self, known, password)

    monkeypatch.setattr(PasswordHasher, "verify", noting)
    return seen


def test_no_such_user_costs_what_a_user_does(verified: list[str]) -> None:
    hasher = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    passwords = Passwords(hasher, wait_seconds=1)
    names = [f"user{number}" for number in range(2_000)]
    stand_ins = {name: passwords.stand_in(name, PROFILES) for name in names}
    assert stand_ins == {name: passwords.stand_in(name, PROFILES) for name in names}
    counts = Counter(map(profile_of, stand_ins.values()))
    assert counts.keys() == PROFILES.keys()
    # The key is random: of 1,200 the standard deviation is 22.
    assert all(abs(counts[each] - 2 * n) < 150 for each, n in PROFILES.items())
    for stand_in in stand_ins.values():
        profile = profile_of(stand_in)
        if profile not in verified:
            assert not passwords.verify(stand_in, "correct horse", Urgency.LOGIN, allowed)
            assert verified[-1] == profile
    # Of a password's work nothing is left out: argon2 reads the stand-in as it reads any hash.
    assert set(verified) == PROFILES.keys()


def test_another_server_chooses_other_stand_ins() -> None:
    here, there = (Passwords(cheap_hasher(), wait_seconds=1) for _ in range(2))
    names = [f"user{number}" for number in range(100)]
    assert [profile_of(here.stand_in(name, PROFILES)) for name in names] != [
        profile_of(there.stand_in(name, PROFILES)) for name in names
    ]


def test_where_there_are_no_accounts_a_stand_in_is_like_a_new_hash() -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    new = passwords.hash("correct horse", Urgency.REGISTRATION)
    for profiles in ({}, {"$argon2id$v=19$m=9,t=9,p=9": 0}):
        assert profile_of(passwords.stand_in("nobody", profiles)) == profile_of(new)


def test_a_hash_that_cannot_be_read_costs_a_hash_too(verified: list[str]) -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    assert not opens(passwords, "correct horse", "not a hash")
    assert verified == ["not a hash", profile_of(passwords.stand_in("nobody", {}))]


def test_at_most_as_many_hashes_at_once_as_slots_then_busy() -> None:
    hasher = GatedHasher()
    passwords = Passwords(hasher, wait_seconds=0.05, slots=2)
    hasher.open.clear()
    threads = [
        threading.Thread(target=passwords.hash, args=("correct horse", Urgency.LOGIN))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: hasher.now == 2, "two hashes are under way")
    with pytest.raises(Busy) as busy:
        passwords.hash("correct horse", Urgency.OWNER)
    assert busy.value.retry_after_ms is not None
    assert busy.value.retryable
    hasher.open.set()
    for thread in threads:
        join(thread)
    assert hasher.most == 2
    assert passwords.hash("correct horse", Urgency.LOGIN)  # the slots are given back


def test_an_attempt_that_queued_up_is_asked_again_when_its_turn_comes() -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1, slots=1)

    def no_longer() -> None:
        raise RateLimited(retry_after_ms=1)

    with pytest.raises(RateLimited):
        passwords.verify("$argon2id$", "correct horse", Urgency.LOGIN, no_longer)
    assert not opens(passwords, "correct horse")  # the slot was given back


def test_the_default_is_argon2id_with_the_parameters_it_states() -> None:
    hasher = default_hasher()
    assert (hasher.memory_cost, hasher.time_cost, hasher.parallelism) == (19 * 1024, 2, 1)
    assert hasher.type.name == "ID"
