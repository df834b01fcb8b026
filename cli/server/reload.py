"""The one door for what is read again while a server runs: by SIGHUP, and when a file changes.

A `Part` is what can be read again, with the files that it is made of. One thread looks at them:
when SIGHUP comes, which does no more than wake it; and every few seconds, by the identity of each
file, so that a new one in its place is noticed as well as new content. What it notices it reads
once the files have stopped changing. Two files that belong together, as a certificate and its key,
are hardly ever changed at once: a part that cannot be read is tried again for a moment, before it
is said that the server goes on with what it had.
"""

import errno
import logging
import math
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from twinline.core.deadline import Deadline
from twinline.core.events import NEEDS_RESTART, RELOAD_FAILED, RELOADED, emit
from twinline.transports.listener import Waker

log = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 2.0
"""How long files that do not fit together may be about to be changed."""
_RETRY_SECONDS: Final = 0.2
_END_SECONDS: Final = 5.0  # for what is being read when the server ends
REPLY_SECONDS: Final = 30.0
"""How long to wait for what comes of a reload."""
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_GOING_SECONDS: Final = 0.2  # for a terminal that hangs up to be gone
REMIND_SECONDS: Final = 86_400.0
"""How often it is said again what the operator should know."""
Identity = tuple[int, int, int, int] | None
"""Of a file: device, inode, time of its last change in ns, size; None: it is not there."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of reading something again.

    Attributes:
        what: it is, for a person.
        told: what is in force now, for a person.
        kept: why that is what it was; None: it was read.
        waits: the settings that have changed and need a restart.
        final: whether to try it again, if it was not read, would be in vain.
    """

    what: str
    told: str = ""
    kept: str | None = None
    waits: tuple[str, ...] = ()
    final: bool = False


class Part(Protocol):
    """What can be read again while the server runs; all of it is called by one thread."""

    def files(self) -> Iterable[str]:
        """Return the files that it is made of."""

    def reload(self) -> Sequence[Outcome]:
        """Read them, and have what they say in force; what cannot be read stays as it was."""

    def warnings(self) -> Iterable[str]:
        """Return what the operator should know of what is in force."""


class _Ask:
    """A wish to have everything read again, and to know what came of it."""

    def __init__(self) -> None:
        self.met = threading.Event()
        self.outcomes: Sequence[Outcome] = ()


class Reloader:
    """Reads parts again when they have changed, or when it is woken.

    A part is also read again when one before it has changed.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        seconds: float,
        *,
        since: Mapping[str, Identity] | None = None,
        hung_up: Callable[[], bool] = lambda: False,
        ask: Callable[[Callable[[], None]], None] = lambda wake: wake(),
        on_begin: Callable[[], None] = lambda: None,
        on_done: Callable[[Sequence[Outcome]], None] = lambda _: None,
        patience: float = PATIENCE_SECONDS,
        remind: float = REMIND_SECONDS,
    ) -> None:
        """Prepare; the files are looked at when it is entered, and from then on.

        Args:
            parts: what can be read again.
            seconds: between two looks at the files; 0: only when it is woken.
            since: what the files were like before the parts were made; None: as they are now.
            hung_up: asked when it is woken; if so, that was no wish to have anything read.
            ask: called by `reload` with `wake`, to call it once all is there to be read.
            on_begin: called each time before parts are read.
            on_done: called with the outcomes each time after that, also where it has failed.
            patience: how long a part that cannot be read is tried again.
            remind: seconds between two reminders.
        """
        self._parts = parts
        self._seconds = seconds or math.inf
        self._hung_up = hung_up
        self._ask = ask
        self._on_begin = on_begin
        self._on_done = on_done
        # Appended by any thread, taken by its own.
        self._asks: deque[_Ask] = deque()
        self._patience = patience
        self._remind = remind
        self._waker = Waker()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)
        self._seen = dict(self._identities() if since is None else since)

    def wake(self) -> None:
        """Have everything read again, soon; from any thread or a signal handler."""
        self._waker.wake()

    def look_every(self, seconds: float) -> None:
        """Look at the files so often from now on; 0: only when it is woken."""
        self._seconds = seconds or math.inf

    def reload(self, seconds: float = REPLY_SECONDS) -> Sequence[Outcome]:
        """Have everything read again, and return what came of each thing; from any thread.

        Args:
            seconds: how long that may take; what is tried again for a moment, since it cannot be
                read, takes some.

        Raises:
            TimeoutError: it is not known in time.
        """
        ask = _Ask()
        self._asks.append(ask)
        self._ask(self.wake)
        if not ask.met.wait(seconds):
            raise TimeoutError("nothing is known yet of what was to be read again")
        return ask.outcomes

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closed.set()
        self._waker.wake()
        # It may be reading from a file system that does not answer: the server ends all the same.
        self._thread.join(_END_SECONDS)
        if not self._thread.is_alive():
            self._waker.close()
        _answer(self._take_asks(), [Outcome("the server", kept="it is about to end")])

    def _run(self) -> None:
        reminder = Deadline.after(self._remind)
        asked = False
        looks = True  # also for what has changed since the parts were made
        while not self._closed.is_set():
            try:
                if asked or (looks and self._has_changed()):
                    if not asked:
                        self._await_quiet()
                    self._reload(everything=asked)
                    reminder = Deadline.after(0)
                if reminder.passed:
                    reminder = Deadline.after(self._remind)
                    self._warn()
            except Exception:  # the next change is to be read all the same
                log.exception("what has changed cannot be read again")
            asked = self._wait(reminder.sooner(self._seconds))
            looks = self._seconds < math.inf
            if asked and not self._asks and not self._closed.is_set():
                asked = not self._hung_up()

    def _has_changed(self) -> bool:
        return any(map(self._is_other, self._parts))

    def _await_quiet(self) -> None:
        """Wait for a moment in which the files do not change, for one may be half written.

        A settings file that has been emptied, and not filled yet, reads as one with the defaults.
        Whoever asks for a reload does not wait.
        """
        patience = Deadline.after(self._patience)
        found, before = self._identities(), None
        while found != before and not (patience.passed or self._closed.is_set()):
            if self._wait(patience.sooner(_RETRY_SECONDS)):
                self._waker.wake()  # it is met after this
                return
            found, before = self._identities(), found

    def _is_other(self, part: Part) -> bool:
        return any(identity(path) != self._seen.get(path) for path in part.files())

    def _wait(self, deadline: Deadline) -> bool:
        """Return whether it was woken."""
        remaining = deadline.remaining()
        poll = select.poll()
        poll.register(self._waker.woken, select.POLLIN)
        woken = bool(poll.poll(None if remaining is None else math.ceil(remaining * 1000)))
        if woken:
            self._waker.clear()
        return woken

    def _reload(self, *, everything: bool) -> None:
        """Read all parts, or those that have changed and what depends on them, and tell of it."""
        asks = self._take_asks()
        found: Sequence[Outcome] = [
            Outcome("the server", kept="the reload has failed; its log says how")
        ]
        self._on_begin()
        try:
            found = self._read_patiently(everything=everything)
            self._tell(found)
        finally:
            try:
                self._on_done(found)
            finally:
                _answer(asks, found)

    def _read_patiently(self, *, everything: bool) -> Sequence[Outcome]:
        patience = Deadline.after(self._patience)
        outcomes: dict[int, Sequence[Outcome]] = {}
        left = list(enumerate(self._parts))
        woken = False
        while True:
            for place, part in left:
                everything = everything or self._is_other(part)
                if everything:
                    # Before they are read: what changes meanwhile is seen at the next look.
                    self._seen |= identities(part.files())
                    outcomes[place] = part.reload()
            left = [
                (place, part)
                for place, part in left
                if any(each.kept and not each.final for each in outcomes.get(place, ()))
            ]
            if not left or patience.passed or self._closed.is_set():
                break
            everything = True
            woken = self._wait(patience.sooner(_RETRY_SECONDS)) or woken
        if woken:
            self._waker.wake()  # for those that had been read by then
        return [outcome for place in sorted(outcomes) for outcome in outcomes[place]]

    def _take_asks(self) -> list[_Ask]:
        return [self._asks.popleft() for _ in range(len(self._asks))]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.kept is None:
                emit(RELOADED, what=outcome.what, told=outcome.told)
            else:
                emit(RELOAD_FAILED, what=outcome.what, why=outcome.kept)
            if outcome.waits:
                emit(NEEDS_RESTART, settings=outcome.waits)
        if self._parts and not outcomes:
            log.info("there is nothing to read again: no settings file, and no endpoint with TLS")

    def _warn(self) -> None:
        for part in self._parts:
            for warning in part.warnings():
                log.warning("%s", warning)

    def _identities(self) -> dict[str, Identity]:
        return identities(path for part in self._parts for path in part.files())


def _answer(asks: Iterable[_Ask], outcomes: Sequence[Outcome]) -> None:
    for ask in asks:
        ask.outcomes = outcomes
        ask.met.set()


class Terminal:
    """The terminal that a server was started in: its end is a SIGHUP too, and ends the server.

    Unless SIGHUP was ignored then, as nohup(1) has it.
    """

    def __init__(self) -> None:
        """Note whether there is one, before SIGHUP is handled."""
        self._ends = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _is_there()

    def is_gone(self) -> bool:
        """Return whether it was there, and is not now."""
        return self._ends and not _is_there()

    def has_hung_up(self) -> bool:
        """Return whether it was there, and has gone away; it may take a moment to tell.

        The system sends the signal first, and takes the terminal away then.
        """
        if not self._ends:
            return False
        until = time.monotonic() + _GOING_SECONDS
        while _is_there():
            if time.monotonic() >= until:
                return False
            time.sleep(_GOING_SECONDS / 20)
        return True


def identities(paths: Iterable[str]) -> dict[str, Identity]:
    """Return by what each file is known."""
    return {path: identity(path) for path in paths}


def identity(path: str) -> Identity:
    """Return by what another file, or other content, is known; links are followed."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError as error:
        # Without a descriptor or memory it cannot be told, and to take it for gone ends the server.
        return error.errno in _EXHAUSTED
    return True
