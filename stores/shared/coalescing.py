"""Look-ups that wait at the same time become one.

The thread that asks first asks the engine; those that come while it waits gather, and one of them
asks for all of these when the answer is there. So thousands of clients that come back at once cost
a few statements, and one alone waits for nobody. No thread is kept for it.

What the main thread asks it asks by itself: a signal's handler may raise there, and nobody else is
to wait for it (`twinline.core.interrupts`).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

from twinline.core.errors import StoreUnavailable
from twinline.core.interrupts import may_be_interrupted
from twinline.core.locks import may_block, new_lock

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_WAIT_SECONDS: Final = 10.0
"""How long a look-up may wait for the one before it and its own; each of them has a deadline."""


class _Asked(Generic[Key, Value]):
    """A look-up that waits."""

    __slots__ = ("answer", "key", "leads")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.leads = False  # guarded by the lock of those that wait
        # Its answers, or what was raised; None: it is to ask, for itself and those that wait.
        self.answer: SimpleQueue[Mapping[Key, Value] | BaseException | None] = SimpleQueue()


class Coalescing(Generic[Key, Value]):
    """Look-ups of one kind."""

    def __init__(
        self, name: str, read: Callable[[Sequence[Key]], Mapping[Key, Value]], *, most: int
    ) -> None:
        """Prepare.

        Args:
            name: what is looked up, for the lock's name.
            read: asks the engine for several keys, each once; what is not in its answer is not
                there.
            most: the most keys that it is asked for at once.
        """
        self._read = read
        self._most = most
        self._lock = new_lock(name)
        # Both guarded by _lock: who waits, the first to come first; and whether one asks. While
        # none does, none waits.
        self._waiting: list[_Asked[Key, Value]] = []
        self._asking = False

    def get(self, key: Key) -> Value | None:
        """Return what the engine has under a key, as it was at some time since this was called.

        Raises:
            StoreUnavailable: the engine does not answer.
        """
        if may_be_interrupted():
            return self._read([key]).get(key)
        mine: _Asked[Key, Value] = _Asked(key)
        with self._lock:
            self._waiting.append(mine)
            mine.leads = not self._asking
            self._asking = True
        if not mine.leads:
            answer = self._answer(mine)
            if isinstance(answer, StoreUnavailable):
                raise StoreUnavailable(answer.message) from answer
            if isinstance(answer, BaseException):
                raise answer
            if answer is not None:
                return answer.get(key)
        return self._ask().get(key)

    def _answer(self, mine: _Asked[Key, Value]) -> Mapping[Key, Value] | BaseException | None:
        may_block("waiting for a look-up")
        try:
            return mine.answer.get(timeout=_WAIT_SECONDS)
        except Empty:
            with self._lock:
                if mine in self._waiting and not mine.leads:
                    self._waiting.remove(mine)
                    raise StoreUnavailable from None
        # It was given the lead, or is being asked for, at this very moment.
        try:
            return mine.answer.get(timeout=_WAIT_SECONDS)
        except Empty:
            raise StoreUnavailable from None

    def _ask(self) -> Mapping[Key, Value]:
        """Ask for all that wait, and hand the lead to one that has come meanwhile."""
        with self._lock:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        outcome: Mapping[Key, Value] | BaseException
        try:
            outcome = self._read(list(dict.fromkeys(asked.key for asked in batch)))
        except BaseException as error:
            outcome = error
            raise
        finally:
            with self._lock:
                heir = self._waiting[0] if self._waiting else None
                self._asking = heir is not None
                if heir is not None:
                    heir.leads = True
            if heir is not None:
                heir.answer.put(None)
            for asked in batch[1:]:  # the first is this thread's own
                asked.answer.put(outcome)
        return outcome
