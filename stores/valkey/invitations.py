"""Invitations, and how one is spent though an account is made in several parts of a cluster.

All invitations are in one part, and an account's name, which publishes it, may be in another, so no
engine can take the one and add the other as one step. Instead an invitation is *claimed* for an
account before its name is published, and spent or released afterwards:

1. A claim is one step, and there is one claim of an invitation at most: so of two accounts one is
   made. While it is claimed it is as good as spent: nobody finds it, and it cannot be withdrawn.
2. What a crash leaves is a claim. One that is older than a creation can be under way is looked
   after by whichever server comes first: if the name leads to the account, or it was deleted since,
   the invitation is spent; if the account has no name, and can get none any more, it is released.
3. An account that never got its name is taken away only when its claims are released (`Pending`):
   so of an account that is not there any more it is known that it had one.
"""

from typing import Any, Final

from twinline.core.store import Invitation
from twinline.stores.valkey.account_scripts import AccountScripts
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.keys import Keys
from twinline.stores.valkey.lane import plain
from twinline.stores.valkey.pending import owner_of, script_call
from twinline.stores.valkey.wire import Script, answered, to_bytes, to_text

_TWICE: Final = -2


class Invitations:
    """Those that are in the engine."""

    def __init__(
        self, engine: Engine, keys: Keys, scripts: AccountScripts, grace_seconds: float
    ) -> None:
        """Prepare.

        Args:
            engine: whom to ask.
            keys: where they are.
            scripts: what is done to them.
            grace_seconds: how long the creation of an account may be under way.
        """
        self._engine = engine
        self._keys = keys
        self._scripts = scripts
        self._grace_ms = round(grace_seconds * 1000)

    def add(self, invitation: Invitation) -> bool:
        """Keep one, and forget those that have expired; return whether its token is a new one."""
        created_at = b"%d" % invitation.created_at
        return bool(
            self._run(self._scripts.invite, invitation.token_hash, kept(invitation), created_at)
            != _TWICE
        )

    def find(self, token_hash: bytes) -> Invitation | None:
        """Return one that is neither spent nor claimed."""
        claims, invitations = self._keys.claims, self._keys.invitations
        # In this order: what is not claimed when that is looked at, and is there afterwards, was
        # there then.
        claimed, found = answered(
            self._engine.do_many(
                [
                    plain(claims, b"HEXISTS", claims, token_hash),
                    plain(invitations, b"HGET", invitations, token_hash),
                ]
            )
        )
        return None if claimed or found is None else _invitation(token_hash, found)

    def all(self) -> list[Invitation]:
        """Return all that are neither spent nor claimed, the oldest first."""
        claims, invitations = self._keys.claims, self._keys.invitations
        claimed, flat = answered(
            self._engine.do_many(
                [plain(claims, b"HKEYS", claims), plain(invitations, b"HGETALL", invitations)]
            )
        )
        taken = set(claimed)
        found = [
            _invitation(token_hash, each)
            for token_hash, each in zip(flat[::2], flat[1::2], strict=True)
            if token_hash not in taken
        ]
        return sorted(found, key=lambda each: (each.created_at, each.token_hash))

    def unspent(self) -> list[Invitation]:
        """Return all that are not spent, where no account is being made by any."""
        invitations = self._keys.invitations
        flat = self._engine.do(plain(invitations, b"HGETALL", invitations))
        spent = {token for token, account_id in self.claimed(0) if self.is_spent_by(account_id)}
        return [
            _invitation(token_hash, each)
            for token_hash, each in zip(flat[::2], flat[1::2], strict=True)
            if token_hash not in spent
        ]

    def drop(self, token_hash: bytes) -> bool:
        """Withdraw one, unless it is claimed; return whether there was one."""
        return bool(self._run(self._scripts.uninvite, token_hash))

    def claim(self, token_hash: bytes, account_id: str, created_at: int) -> bool:
        """Claim one for an account that is made at that time; return whether there is one."""
        own, at = to_bytes(account_id), b"%d" % created_at
        return bool(self._run(self._scripts.claim, token_hash, own, at))

    def spend(self, token_hash: bytes, account_id: str) -> None:
        """Spend one that is claimed for an account; harmless when repeated."""
        self._run(self._scripts.settle, token_hash, to_bytes(account_id), b"1")

    def settle(self) -> int:
        """Spend or release those that were claimed long ago, and return how many there were.

        Raises:
            StoreUnavailable: not all of it was done.
        """
        old = self.claimed(self._grace_ms)
        for token_hash, account_id in old:
            spent = b"1" if self.is_spent_by(account_id) else b""
            self._run(self._scripts.settle, token_hash, to_bytes(account_id), spent)
        return len(old)

    def claimed(self, grace_ms: int) -> list[tuple[bytes, str]]:
        """Return the token hashes that were claimed so long ago, and for which accounts."""
        flat: list[bytes] = self._run(self._scripts.old_claims, b"%d" % grace_ms)
        return [
            (token_hash, to_text(own))
            for token_hash, own in zip(flat[::2], flat[1::2], strict=True)
        ]

    def is_spent_by(self, account_id: str) -> bool:
        """Return whether an account got its name that can get none any more."""
        record = self._keys.of(account_id, "p")
        name = self._engine.do(plain(record, b"HGET", record, b"u"))
        # In this order: an account that lost its name before the first look is marked as gone by
        # the second.
        if name is None or owner_of(self._engine, self._keys, name) == to_bytes(account_id):
            return True
        there, gone = self._engine.do(plain(record, b"HMGET", record, b"u", b"g"))
        return there is None or gone is not None

    def _run(self, script: Script, *arguments: bytes) -> Any:
        keys = self._keys.invitations, self._keys.claims
        return self._engine.do(script_call(script, keys, arguments))


def kept(invitation: Invitation) -> bytes:
    """Return an invitation as it is kept."""
    times = b"%d:%d:" % (invitation.created_at, invitation.expires_at)
    return times + to_bytes(invitation.note)


def _invitation(token_hash: bytes, found: bytes) -> Invitation:
    created_at, expires_at, note = found.split(b":", 2)
    return Invitation(token_hash, int(created_at), int(expires_at), to_text(note))
