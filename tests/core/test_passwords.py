"""Passwords: lengths before hashing, one answer for every failure, a bounded number at once."""

import threading

import pytest
from argon2 import PasswordHasher
from services import cheap_hasher
from waiting import join, wait_event, wait_until

from twinline.core.errors import Busy, InvalidPassword, RateLimited
from twinline.core.passwords import Passwords, default_hasher


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


def test_hash_and_verify() -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    password_hash = passwords.hash("correct horse")
    assert password_hash.startswith("$argon2id$")
    assert passwords.verify(password_hash, "correct horse", allowed)
    assert not passwords.verify(password_hash, "correct house", allowed)
    assert not passwords.verify("not a hash", "correct horse", allowed)


@pytest.mark.parametrize("password", ["short67", "x" * 129, "x" * 1_000_000])
def test_a_wrong_length_is_refused_before_hashing(password: str) -> None:
    hasher = GatedHasher()
    passwords = Passwords(hasher, wait_seconds=1)
    before = hasher.calls
    with pytest.raises(InvalidPassword):
        passwords.hash(password)
    assert not passwords.verify(None, password, allowed)
    assert hasher.calls == before


@pytest.mark.parametrize("password", ["12345678", "x" * 128, "пароль-пароль", "🐴" * 8])
def test_length_is_counted_in_characters(password: str) -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    assert passwords.verify(passwords.hash(password), password, allowed)


def test_half_a_surrogate_pair_is_no_password() -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1)
    with pytest.raises(InvalidPassword):
        passwords.hash("\ud800" * 8)
    assert not passwords.verify(None, "\ud800" * 8, allowed)


def test_no_such_user_costs_a_hash_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hasher = cheap_hasher()
    verified: list[str | bytes] = []
    verify = PasswordHasher.verify

    def counting(self: PasswordHasher, known: str | bytes, password: str | bytes) -> bool:
        verified.append(known)
        return verify(self, known, password)

    monkeypatch.setattr(PasswordHasher, "verify", counting)
    passwords = Passwords(hasher, wait_seconds=1)
    assert not passwords.verify(None, "correct horse", allowed)
    # The text behind the stand-in does not open it either.
    assert not passwords.verify(None, "no account has this password", allowed)
    assert len(verified) == 2


def test_at_most_as_many_hashes_at_once_as_slots_then_busy() -> None:
    hasher = GatedHasher()
    passwords = Passwords(hasher, wait_seconds=0.05, slots=2)
    hasher.under_way = threading.Semaphore(0)
    hasher.open.clear()
    threads = [threading.Thread(target=passwords.hash, args=("correct horse",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: hasher.now == 2, "two hashes are under way")
    with pytest.raises(Busy) as busy:
        passwords.hash("correct horse")
    assert busy.value.retry_after_ms is not None
    assert busy.value.retryable
    hasher.open.set()
    for thread in threads:
        join(thread)
    assert hasher.most == 2
    assert passwords.hash("correct horse")  # the slots are given back


def test_an_attempt_that_queued_up_is_asked_again_when_its_turn_comes() -> None:
    passwords = Passwords(cheap_hasher(), wait_seconds=1, slots=1)

    def no_longer() -> None:
        raise RateLimited(retry_after_ms=1)

    with pytest.raises(RateLimited):
        passwords.verify(None, "correct horse", no_longer)
    assert not passwords.verify(None, "correct horse", allowed)  # the slot was given back


def test_the_default_is_argon2id_with_the_parameters_it_states() -> None:
    hasher = default_hasher()
    assert (hasher.memory_cost, hasher.time_cost, hasher.parallelism) == (19 * 1024, 2, 1)
    assert hasher.type.name == "ID"
