"""Passwords: the rule for new ones, argon2id, and what stands in for the hash of nobody."""

import base64
import hmac
import os
import secrets
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import HashingError, InvalidHashError, VerificationError
from argon2.low_level import error_to_str

from twinline.core.errors import Busy, InvalidPassword
from twinline.core.hash_queue import HashQueue, Urgency
from twinline.core.metrics import Metrics
from twinline.core.protocol import PASSWORD_CHARACTERS

_RETRY_AFTER_MS: Final = 1_000
_LEGIBLE: Final = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike
# ARGON2_MEMORY_ALLOCATION_ERROR in <argon2.h>; the exceptions of argon2-cffi have texts alone.
_NO_MEMORY: Final = error_to_str(-22)


def default_hasher() -> PasswordHasher:
    """Return argon2id with m = 19 MiB, t = 2, p = 1.

    Source: OWASP Password Storage Cheat Sheet, "Argon2id". One lane, because the unit of
    parallelism here is a login: as many run as there are cores.
    """
    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def one_time_password() -> str:
    """Return a new password to be told to somebody: 15 letters and digits, which are 74 bits."""
    groups = ("".join(secrets.choice(_LEGIBLE) for _ in range(5)) for _ in range(3))
    return "-".join(groups)


def fits(password: str) -> bool:
    """Return whether a password has the length that every password has.

    A longer one is refused before it is hashed.
    """
    return len(password) in PASSWORD_CHARACTERS


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
        metrics: Metrics | None = None,
    ) -> None:
        """Prepare to hash.

        Args:
            hasher: None for `default_hasher`.
            wait_seconds: how long a hash may wait for a slot.
            slots: hashes at once; None for the number of cores.
            metrics: where they are counted, or None.
        """
        self._hasher = hasher or default_hasher()
        self.wait_seconds = wait_seconds
        self._queue = HashQueue(slots or os.cpu_count() or 1, metrics)
        self._stand_ins = _StandIns(self._hasher)

    def hash(self, password: str, urgency: Urgency, whose: Hashable = None) -> str:
        """Return the hash of a new password, with its parameters and a fresh salt.

        The last two arguments are those of `HashQueue.slot`.

        Raises:
            InvalidPassword: the length is wrong.
            Busy: no core was free in time, or no memory.
        """
        if not fits(password):
            raise InvalidPassword
        encoded = _encode(password)
        with self._queue.slot(urgency, self.wait_seconds, whose), _busy_without_memory():
            return self._hasher.hash(encoded)

    def verify(
        self,
        password_hash: str,
        password: str,
        urgency: Urgency,
        begin: Callable[[], None],
        *,
        whose: Hashable = None,
    ) -> bool:
        """Return whether the password is the one that was hashed.

        Args:
            password_hash: of an account, or of `stand_in`.
            password: what was given. One of a wrong length is False without a hash.
            urgency: how soon it gets a slot.
            begin: called once there is a slot; raises to refuse. It refuses attempts that
                queued up while others failed.
            whose: as for `HashQueue.slot`.

        Raises:
            Busy: no core was free in time, or no memory.
        """
        if not fits(password):
            return False
        try:
            encoded = _encode(password)
        except InvalidPassword:
            return False
        with self._queue.slot(urgency, self.wait_seconds, whose):
            begin()
            try:
                return self._opens(password_hash, encoded)
            except InvalidHashError:
                # No password opens it; that must not be told from the time it takes.
                self._opens(self._stand_ins.usual, encoded)
                return False

    def _opens(self, password_hash: str, encoded: bytes) -> bool:
        with _busy_without_memory():
            try:
                return self._hasher.verify(password_hash, encoded)
            except VerificationError as error:
                # "No memory" is this error too, and is no wrong password.
                if str(error) == _NO_MEMORY:
                    raise
                return False

    def stand_in(self, username: str, profiles: Mapping[str, int]) -> str:
        """Return what is verified where there is no such user, so that both take the same time.

        Args:
            username: who it stands in for; it gets a hash of the same profile every time.
            profiles: how many accounts there are of each `profile_of` a hash.
        """
        return self._stand_ins.choose(username, profiles)

    def is_outdated(self, password_hash: str) -> bool:
        """Return whether a hash was made with other parameters than those of today."""
        return self._hasher.check_needs_rehash(password_hash)


class _StandIns:
    """Hashes that no password opens, of every profile that the accounts' hashes have.

    While accounts have hashes of several parameters, as after a change of them, a login takes as
    long as its account's do. A name that nobody has gets one of these profiles for itself, in
    proportion to their numbers, by a keyed hash: who does not know the key cannot tell it from an
    account of that profile.
    """

    def __init__(self, hasher: PasswordHasher) -> None:
        self._key = secrets.token_bytes(32)
        kind = f"argon2{hasher.type.name.lower()}"
        costs = f"m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}"
        self._profile = f"${kind}$v=19${costs}"
        # A salt and a digest of the usual length that belong to no password.
        salt, digest = (base64.b64encode(secrets.token_bytes(n)).decode() for n in (16, 32))
        self._rest = f"${salt.rstrip('=')}${digest.rstrip('=')}"
        self.usual = self._profile + self._rest

    def choose(self, username: str, profiles: Mapping[str, int]) -> str:
        known = sorted((profile, number) for profile, number in profiles.items() if number > 0)
        place = self._place(username) * sum(number for _, number in known)
        for profile, number in known:
            place -= number
            if place < 0:
                return profile + self._rest
        return self.usual

    def _place(self, username: str) -> float:
        digest = hmac.digest(self._key, username.encode(), "sha256")
        return int.from_bytes(digest[:6]) / 2**48


def profile_of(password_hash: str) -> str:
    """Return the part of a hash that says how long it takes: algorithm, version and costs.

    That is everything before the salt: ``$argon2id$v=19$m=19456,t=2,p=1``.
    """
    return password_hash.rsplit("$", 2)[0]


@contextmanager
def _busy_without_memory() -> Iterator[None]:
    try:
        yield
    except (HashingError, VerificationError, MemoryError) as error:
        if isinstance(error, MemoryError) or str(error) == _NO_MEMORY:
            raise Busy(
                "there is no memory for a hash now; try again", retry_after_ms=_RETRY_AFTER_MS
            ) from None
        raise


def _encode(password: str) -> bytes:
    try:
        return password.encode()
    except UnicodeEncodeError:
        raise InvalidPassword("a password cannot hold half a surrogate pair") from None
