"""How a command that looks after a store asks its engine, alone or beside the servers.

A server says every few seconds that it uses the store, and one that was not heard of for
`ALIVE_MS` does not. Who wants the store to itself sees that no server does, and leaves a key that
no server begins beside; it ends by itself unless it is renewed, so a command that was killed keeps
servers away for `HOLD_SECONDS` at most.
"""

import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

from twinline.core.errors import StoreUnavailable
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.upkeep import UpkeepError
from twinline.stores.valkey.account_scripts import AccountScripts
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.examine_scripts import ExamineScripts
from twinline.stores.valkey.keys import ALIVE_MS, FORMAT, Keys, format_text
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.pending import script_call
from twinline.stores.valkey.tracing import TraceScripts, Tracing
from twinline.stores.valkey.url import Target
from twinline.stores.valkey.wire import to_text

HOLD_SECONDS: Final = 60.0
"""How long servers are kept away after the last renewal."""
_RENEW_SECONDS: Final = 5.0
_SECONDS: Final = 60.0  # for a whole pipeline
_SCANNED: Final = b"1000"  # keys in one step of a scan


def name_of(target: Target) -> str:
    """Return what a store is called in messages: no secret is in it."""
    scheme = "redis+cluster" if target.cluster else "rediss" if target.tls else "redis"
    database = f"/{target.database}" if target.database else ""
    prefix = "" if target.prefix == "twinline:" else f"?prefix={target.prefix}"
    return f"{scheme}://{target.place}{database}{prefix}"


class Session:
    """An engine whose errors are `UpkeepError`, with the store's name.

    Attributes:
        name: the store's.
        keys: the names of what it keeps.
        engine: whom to ask.
        accounts: scripts.
        examine: scripts.
        tracing: measures mailboxes.
    """

    def __init__(self, target: Target) -> None:
        """Connect.

        Raises:
            StoreNotOpened: the engine does not answer, or cannot be used.
        """
        self.name = name_of(target)
        self.keys = Keys(target.prefix)
        self.accounts = AccountScripts()
        self.examine = ExamineScripts()
        traces = TraceScripts()
        scripts = (*self.accounts.all, *self.examine.all, *traces.all)
        self.engine = Engine(target, scripts)
        self.tracing = Tracing(self.engine, self.keys, traces)
        self._token = secrets.token_hex(8).encode()
        self._held_at: float | None = None
        try:
            self.engine.open()
        except BaseException:
            self.engine.close()
            raise

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store and of the engine."""
        if self._held_at is not None:
            with suppress(StoreUnavailable):
                held = (self.keys.held,)
                self.engine.do(script_call(self.accounts.release_hold, held, (self._token,)))
        self.engine.close()

    @contextmanager
    def named(self) -> Iterator[None]:
        """Have what the engine does not do be an `UpkeepError`."""
        try:
            yield
        except StoreUnavailable as error:
            raise UpkeepError(f"{self.name}: {error}") from error

    def ask(self, call: Call) -> Any:
        """Make a call and return its answer.

        Raises:
            UpkeepError: there is none.
        """
        self._renew()
        with self.named():
            return self.engine.do(call, _SECONDS)

    def ask_all(self, calls: Sequence[Call]) -> list[Any]:
        """Make calls in one go, those of one part of a cluster in their order.

        Raises:
            UpkeepError: one has no answer.
        """
        self._renew()
        with self.named():
            answers = self.engine.do_many(calls, _SECONDS)
            for answer in answers:
                if isinstance(answer, StoreUnavailable):
                    raise answer
        return answers

    def scan(self) -> Iterator[list[tuple[str, str]]]:
        """Yield all keys of accounts, some at a time: the account's id, and the kind.

        A key that is there all the time comes at least once: twice where a table of the engine
        grows or shrinks meanwhile, or a cluster moves its keys.
        """
        for peer in self.engine.peers():
            cursor = b"0"
            while True:
                step = plain(b"", b"SCAN", cursor, b"MATCH", self.keys.pattern, b"COUNT", _SCANNED)
                self._renew()
                with self.named():
                    ((cursor, keys),) = self.engine.ask_peer(peer, [step], _SECONDS)
                found = map(self.keys.account_of, keys)
                yield [each for each in found if each is not None]
                if cursor == b"0":
                    break

    def buckets(self, first: bytes = b"") -> list[bytes]:
        """Return the beginnings of names that there are, from one on, sorted."""
        key = self.keys.buckets
        found: list[bytes] = self.ask(plain(key, b"ZRANGEBYLEX", key, b"[" + first, b"+"))
        return found

    def names_in(self, bucket: bytes) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yield the names of a bucket, some at a time, each with the account's id or nothing."""
        key = self.keys.names(bucket, "n")
        cursor = b"0"
        while True:
            cursor, flat = self.ask(plain(key, b"HSCAN", key, cursor, b"COUNT", _SCANNED))
            yield list(zip(flat[::2], flat[1::2], strict=True))
            if cursor == b"0":
                return

    # -- what it is, and whose

    def require_store(self) -> str:
        """See that there is a store of this format.

        Returns:
            Of which store's move it is the unfinished target, or "".

        Raises:
            StoreNotOpened: there is none.
            SchemaTooNew: a later version of this program made it.
        """
        found, filled_from = self._described()
        if found is None:
            raise StoreNotOpened(f"{self.name} holds no store yet")
        if int(found) != FORMAT:
            kind = SchemaTooNew if int(found) > FORMAT else StoreNotOpened
            raise kind(format_text(self.name, int(found)))
        return filled_from

    @property
    def is_there(self) -> bool:
        """Whether there is a store at all."""
        return self._described()[0] is not None

    def _described(self) -> tuple[bytes | None, str]:
        key = self.keys.store
        found, filled_from = self.ask(plain(key, b"HMGET", key, b"format", b"filled_from"))
        return found, to_text(filled_from or b"")

    def take_alone(self) -> None:
        """See that no server uses the store, and that none begins to while this is open.

        Raises:
            UpkeepError: one does, or another command does.
        """
        outcome = self._hold(b"0")
        if outcome > 0:
            raise UpkeepError(
                f"{outcome} servers use {self.name}, or were killed less than "
                f"{ALIVE_MS // 1000} seconds ago; stop them first"
            )
        if outcome < 0:
            raise UpkeepError(
                f"another command has {self.name}, or was killed less than "
                f"{HOLD_SECONDS:.0f} seconds ago"
            )
        self._held_at = time.monotonic()

    def require_alone(self) -> None:
        """See that it is still so.

        Raises:
            UpkeepError: it is not: this process was stopped for too long.
        """
        if self._hold(b"1") != 0:
            raise UpkeepError(f"{self.name} was let go of meanwhile; say it again")
        self._held_at = time.monotonic()

    def _renew(self) -> None:
        if self._held_at is not None and time.monotonic() - self._held_at > _RENEW_SECONDS:
            self.require_alone()

    def _hold(self, again: bytes) -> int:
        numbers = b"%d" % ALIVE_MS, b"%d" % (HOLD_SECONDS * 1000)
        with self.named():
            outcome: int = self.engine.do(
                script_call(
                    self.accounts.hold,
                    (self.keys.nodes, self.keys.held),
                    (self._token, *numbers, again),
                )
            )
        return outcome
