"""Passwords: the rule for new ones, and argon2id with a bounded number of hashes at once."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from twinline.core.errors import Busy, InvalidPassword
from twinline.core.locks import may_block

MIN_CHARACTERS: Final = 8
"""The shortest password that may be set."""
MAX_CHARACTERS: Final = 128
"""The longest one; a longer one is refused before it is hashed."""
_RETRY_AFTER_MS: Final = 1_000


def default_hasher() -> PasswordHasher:
    """Return argon2id with m = 19 MiB, t = 2, p = 1.

    Source: OWASP Password Storage Cheat Sheet, "Argon2id". One lane, because the unit of
    parallelism here is a login: as many run as there are cores.
    """
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def fits(password: str) -> bool:
    """Return whether a password has the length that every password has."""
    return MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS


class Passwords:
    """Hashes and verifies; at most one hash a core at a time, the rest wait a bounded time.

    So a storm of logins costs at most cores times the memory of a hash, and leaves the machine
    answering everything else.
    """

    def __init__(
        self,
        hasher: PasswordHasher | None = None,
        *,
        wait_seconds: float,
        slots: int | None = None,
    ) -> None:
        """Prepare to hash.

        Args:
            hasher: None for `default_hasher`.
            wait_seconds: how long a hash may wait for the semaphore.
            slots: hashes at once; None for the number of cores.
        """
        self._hasher = hasher or default_hasher()
        self._wait_seconds = wait_seconds
        # No lock of the rule: it guards no state, and threads are meant to block on it.
        self._semaphore = threading.BoundedSemaphore(slots or os.cpu_count() or 1)
        # Verified when there is no such user, so that both answers take the same time.
        self._dummy_hash = self._hasher.hash("no account has this password")

    @contextmanager
    def _hashing(self) -> Iterator[None]:
        may_block("hashing a password")
        if not self._semaphore.acquire(timeout=self._wait_seconds):
            raise Busy("too many logins at once; try again", retry_after_ms=_RETRY_AFTER_MS)
        try:
            yield
        finally:
            self._semaphore.release()

    def hash(self, password: str) -> str:
        """Return the hash of a new password, with its parameters and a fresh salt.

        Raises:
            InvalidPassword: the length is wrong.
            Busy: no core was free in time.
        """
        if not fits(password):
            raise InvalidPassword
        encoded = _encode(password)
        with self._hashing():
            return self._hasher.hash(encoded)

    def verify(
        self, password_hash: str | None, password: str, still_allowed: Callable[[], None]
    ) -> bool:
        """Return whether the password is the one that was hashed.

        Args:
            password_hash: None when there is no such user: this takes as long and is False.
            password: what was given. One of a wrong length is False without a hash.
            still_allowed: called once the semaphore is acquired; raises to refuse. It refuses
                attempts that queued up while others failed.

        Raises:
            Busy: no core was free in time.
        """
        if not fits(password):
            return False
        try:
            encoded = _encode(password)
        except InvalidPassword:
            return False
        with self._hashing():
            still_allowed()
            try:
                self._hasher.verify(password_hash or self._dummy_hash, encoded)
            except (VerificationError, InvalidHashError):
                return False
        return password_hash is not None

    def is_outdated(self, password_hash: str) -> bool:
        """Return whether a hash was made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(password_hash)


def _encode(password: str) -> bytes:
    try:
        return password.encode()
    except UnicodeEncodeError:
        raise InvalidPassword("a password cannot hold half a surrogate pair") from None
