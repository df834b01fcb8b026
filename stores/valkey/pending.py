"""Accounts that are made or deleted just now, and what is done about those that were not finished.

To make an account takes three steps in up to three parts of a cluster: its mailbox, its hash (both
have the account's id), and its name. To delete one takes as many. No engine makes them one step, so
they are done in an order in which nobody sees half of one:

making
    the mailbox; the account, which no name leads to yet; the name, which publishes it. In between
    an invitation is claimed for it, if it needs one (`invitations`).
deleting
    the account is marked as gone, with whether its name stays reserved: that is the moment. Then
    the name is freed or reserved, which nobody could take meanwhile; then the mailbox.

Before the first of them the id is noted here, and after the last it is forgotten. So whatever a
crash leaves is found by looking at these notes, when the store is opened and now and then: a note
that is older than all that can be under way is followed up.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twinline.stores.valkey.account_scripts import AccountScripts
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.keys import PENDING, Keys
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.wire import packed, to_bytes, to_text

log = logging.getLogger(__name__)

GRACE_SECONDS: Final = 60.0
"""How long a creation or a deletion may be under way: all its calls have a deadline before that."""
_AT_ONCE: Final = 200


class Pending:
    """The notes, and what follows them up."""

    def __init__(
        self, engine: Engine, keys: Keys, scripts: AccountScripts, grace_seconds: float
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._scripts = scripts
        self._grace_ms = round(grace_seconds * 1000)
        self._unfinished: deque[str] = deque()  # its steps are single ones of Python's

    def begin(self, account_id: str) -> None:
        """Note an account.

        Raises:
            StoreUnavailable: it is not noted, so nothing must be begun.
        """
        key = self._keys.pending(account_id)
        self._engine.do(self._script(self._scripts.note, key, to_bytes(account_id)))

    def end(self, account_id: str) -> None:
        """Forget an account; if that fails, it is found to be finished later."""
        self._engine.post(self.forget(account_id))

    def retry_soon(self, account_id: str) -> None:
        """Have the second half of a deletion done as soon as it can be."""
        self._unfinished.append(account_id)

    def retry(self) -> None:
        """Do what was to be done soon.

        Raises:
            StoreUnavailable: not all of it could be done yet.
        """
        for _ in range(len(self._unfinished)):
            account_id = self._unfinished[0]
            record = self._keys.of(account_id, "p")
            username, gone = self._engine.do(plain(record, b"HMGET", record, b"u", b"g"))
            if gone is not None:
                self.finish(account_id, username, keep_name=gone == b"1")
            self._unfinished.popleft()

    def forget(self, account_id: str) -> Call:
        """Return the call that forgets an account."""
        key = self._keys.pending(account_id)
        return plain(key, b"ZREM", key, to_bytes(account_id), writes=True)

    def follow_up(self, drop: Callable[[str], object], until: int) -> bool:
        """Finish what was left; return whether that was all, or whether some is too young yet.

        Args:
            drop: drops a mailbox, and forgets the account.
            until: only what was noted before, in ms of the engine's clock: what came later is
                under way, or its server's next start finds it.

        Raises:
            StoreUnavailable: not all of it was done.
        """
        store = self._keys.store
        if self._engine.do(plain(store, b"HGET", store, b"accounts")) is None:
            return True  # with no account that ever was, accounts are kept somewhere else
        dropped, done = 0, True
        for number in range(PENDING):
            key = self._keys.pending_part(number)
            numbers = (b"%d" % each for each in (self._grace_ms, until, _AT_ONCE))
            due, others = self._engine.do(self._script(self._scripts.due, key, *numbers))
            done = done and not others
            for each in due:
                dropped += self._follow(to_text(each), drop)
        if dropped:
            log.info("%d mailboxes of no account were dropped", dropped)
        return done

    def _follow(self, account_id: str, drop: Callable[[str], object]) -> bool:
        record = self._keys.of(account_id, "p")
        username, gone = self._engine.do(plain(record, b"HMGET", record, b"u", b"g"))
        if username is not None:
            if gone is not None:
                self.finish(account_id, username, keep_name=gone == b"1")
            elif owner_of(self._engine, self._keys, username) == to_bytes(account_id):
                self._engine.do(self.forget(account_id))
                return False
            elif not self.unmake(account_id):
                return False
        drop(account_id)
        return True

    def finish(self, account_id: str, username: bytes, *, keep_name: bool) -> None:
        """Do the second half of a deletion: the name, and then the mark.

        Raises:
            StoreUnavailable: it is not done, or not all of it.
        """
        bucket = self._keys.bucket_of(to_text(username))
        names, sorted_names = (self._keys.names(bucket, kind) for kind in "nz")
        own = to_bytes(account_id)
        self._engine.do(
            script_call(
                self._scripts.release,
                (names, sorted_names),
                (username, own, b"1" if keep_name else b""),
            )
        )
        record = self._keys.of(account_id, "p")
        self._engine.do(plain(record, b"UNLINK", record, writes=True))

    def unmake(self, account_id: str) -> bool:
        """Take an account away that no name leads to, and never will; return whether it is gone.

        Raises:
            StoreUnavailable: that is not known.
        """
        claims = self._keys.claims
        self._engine.do(self._script(self._scripts.release_claims, claims, to_bytes(account_id)))
        keys = tuple(self._keys.of(account_id, kind) for kind in "pkd")
        return bool(self._engine.do(script_call(self._scripts.unmake, keys, ())))

    def _script(self, script: Any, key: bytes, *arguments: bytes) -> Call:
        return script_call(script, (key,), arguments)


def owner_of(engine: Engine, keys: Keys, username: bytes) -> bytes | None:
    """Return the id of the account that a name leads to; nothing for a reserved one.

    Raises:
        StoreUnavailable: it cannot be asked.
    """
    names = keys.names(keys.bucket_of(to_text(username)), "n")
    owner: bytes | None = engine.do(plain(names, b"HGET", names, username))
    return owner


def script_call(
    script: Any,
    keys: tuple[bytes, ...],
    arguments: tuple[bytes, ...],
    *,
    writes: bool = True,
    bulk: bool = False,
) -> Call:
    """Return the call of a script on some keys of one part."""
    return Call(
        keys[0],
        script.name + packed(b"%d" % len(keys), *keys, *arguments),
        3 + len(keys) + len(arguments),
        writes=writes,
        bulk=bulk,
    )
