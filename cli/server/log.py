"""The log of `twinline serve`: it goes through a bounded queue, and no thread waits for its reader.

A thread that logs leaves a line in the queue; one thread writes what is in it. So a stderr that
nobody reads holds up that thread alone. When the queue fills, lines are lost, the least important
first, and the next line that is written says how many. Events (`twinline.core.events`) are not
among them: when there is room for nothing else, they are counted, and the counts are told.
"""

import json
import logging
import os
import select
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final, Literal, NamedTuple

from twinline.cli.console.text import visible
from twinline.cli.server.event_sums import EventSums
from twinline.cli.settings.model import Settings
from twinline.core import events
from twinline.core.deadline import Deadline

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]
LogTime = Literal["utc", "none"]
_FLUSH_SECONDS: Final = 0.5
"""How long the end of the server waits for the reader of its log, for each line."""
_STOP_SECONDS: Final = 5.0
"""How long it waits for all lines."""
_DEBUG_SHARE: Final = 0.5
_INFO_SHARE: Final = 0.75
"""How full the queue may be for lines of a level; the rest is the reserve of warnings."""
_READ_SHARE: Final = 0.5
"""How full the queue may be when the events are told that were counted for want of room."""
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.DEBUG, 7),
)
"""The least level for each priority of syslog (RFC 5424 section 6.2.1), the highest first."""


class TextFormatter(logging.Formatter):
    """Lines for people: ``time LEVEL name: message``.

    The name is an event's, or else the logger's. Where there are several nodes, each line tells
    which one it is of.
    """

    def __init__(self, node: str | None = None, *, with_time: bool = True) -> None:
        """Prepare.

        Args:
            node: the name of the node; None where there are no others.
            with_time: whether a line begins with its time, in UTC.
        """
        super().__init__()
        self._with_time = with_time
        self._node = "" if node is None else f"node={node} "
        self._continued = None if node is None else f"\nnode={node} | "

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, which has several lines where it has a traceback."""
        text = super().format(record)
        return text if self._continued is None else text.replace("\n", self._continued)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return a record without its traceback."""
        name, message = record.name, record.message
        event = _event_of(record)
        if event is not None:
            # In one line: a field may be what somebody else has said.
            name, message = event, visible(message)
        when = f"{_utc(record)} " if self._with_time else ""
        return f"{when}{record.levelname} {self._node}{name}: {message}"


def _event_of(record: logging.LogRecord) -> str | None:
    """Return the name of an event; a record of somebody else's may have such an attribute too."""
    return getattr(record, "event", None) if record.name == events.log.name else None


def _utc(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


class JsonFormatter(logging.Formatter):
    """A JSON object a record, in one line: ``time`` (ms), ``level``, ``logger``, ``message``.

    And where there are any: ``node``; ``event`` and beside it the event's fields; and
    ``traceback``, a text of several lines.
    """

    def __init__(self, node: str | None = None) -> None:
        """Prepare; as for `TextFormatter`."""
        super().__init__()
        self._node = {} if node is None else {"node": node}

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as JSON."""
        said: dict[str, object] = {
            "time": int(record.created * 1000),
            "level": record.levelname.lower(),
            **self._node,
            "logger": record.name,
            "message": record.getMessage(),
        }
        event = _event_of(record)
        if event is not None:
            said["event"] = event
            said.update(record.fields)  # type: ignore[attr-defined]
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said, default=str)


class JournalFormatter(logging.Formatter):
    """Lines as another formatter makes them, each with its priority (sd-daemon(3))."""

    def __init__(self, lines: logging.Formatter) -> None:
        """Prepare.

        Args:
            lines: makes the lines.
        """
        super().__init__()
        self._lines = lines

    def format(self, record: logging.LogRecord) -> str:
        """Return a record's lines, each with its priority."""
        priority = next((each for least, each in _PRIORITIES if record.levelno >= least), 7)
        text = self._lines.format(record)
        return f"<{priority}>" + text.replace("\n", f"\n<{priority}>")


def is_journal(environment: Mapping[str, str], descriptor: int) -> bool:
    """Return whether a descriptor leads to systemd's journal.

    The variable ``JOURNAL_STREAM`` has the device and the inode of what does (systemd.exec(5)): it
    is inherited by processes whose output goes elsewhere.
    """
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Line(NamedTuple):
    """A line that waits to be written."""

    number: int
    level: str
    text: str


def _first_number(queue: deque[_Line]) -> int:
    return queue[0].number


class QueuedLog(logging.Handler):
    """A handler that never blocks: its lines are written by a thread of its own."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        capacity: int,
        formatter: logging.Formatter | None = None,
        *,
        sums: EventSums | None = None,
    ) -> None:
        """Start the thread.

        Args:
            write: writes some lines, for as long as it takes.
            capacity: how many lines may wait to be written.
            formatter: makes the lines; None for text.
            sums: counts the events that repeat; None for those with the defaults.
        """
        super().__init__()
        self.setFormatter(formatter or TextFormatter())
        self._write = write
        self._capacity = capacity
        # All of these are guarded by the handler's lock. The numbers of their lines make the queues
        # one; the first of them makes room first.
        self._debug: deque[_Line] = deque()
        self._info: deque[_Line] = deque()
        self._warnings: deque[_Line] = deque()  # and errors
        self._events: deque[_Line] = deque()
        self._number = 0
        self._lost: Counter[str] = Counter()  # by level
        self._sums = sums or EventSums()
        self._counted = False  # whether events were counted for want of room
        self._ending = False
        self._ended = False  # whether all is told
        self._woken = False  # whether the thread is to look once more before it waits
        self._writing: bytes | None = None  # while its thread writes that
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a line in the queue, or count it; called under the handler's lock."""
        is_event = _event_of(record) is not None
        if is_event:
            if len(self._events) >= self._capacity:
                self._sums.count(record)
                self._counted = True
                return
            if self._sums.takes(record):
                self._wake()  # to know when that is to be told
                return
            self._make_room()
        elif self._waiting >= self._room(record.levelno):
            self._lost[record.levelname.lower()] += 1
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a handler raises nothing, and this one prints nothing
            line = f"a line of {record.name}:{record.lineno} cannot be formatted: {record.msg!r}"
        self._number += 1
        queue = self._events if is_event else self._queue(record.levelno)
        queue.append(_Line(self._number, record.levelname.lower(), line))
        self._wake()

    def change(self, capacity: int, formatter: logging.Formatter, ipv6_prefix: int) -> None:
        """Have so many lines wait, make them otherwise, and count by other networks, from now on.

        Lines that wait already stay as they are.
        """
        with self.lock:  # type: ignore[union-attr]
            self._capacity = capacity
            self._sums.ipv6_prefix = ipv6_prefix
            self.setFormatter(formatter)

    def stop(self, seconds: float) -> None:
        """Write what is left; what comes later is not written.

        Args:
            seconds: how long its reader may take for a line. What a busy machine takes to run the
                thread that writes is not the reader's delay; it gets up to `_STOP_SECONDS`.
        """
        with self.lock:  # type: ignore[union-attr]  # every handler that was made has one
            self._ending = True
            self._wake()
        most = Deadline.after(max(seconds, _STOP_SECONDS))
        while self._thread.is_alive() and not most.passed:
            writing = self._writing
            self._thread.join(seconds)
            if writing is not None and self._writing is writing:
                return  # nobody reads it

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self._wakes.put(None)

    def _room(self, level: int) -> float:
        if level < logging.INFO:
            return self._capacity * _DEBUG_SHARE
        if level < logging.WARNING:
            return self._capacity * _INFO_SHARE
        return self._capacity

    def _make_room(self) -> None:
        """Let an event wait in the place of another line, if need be."""
        if self._waiting >= self._capacity:
            least = next(each for each in (self._debug, self._info, self._warnings) if each)
            self._lost[least.popleft().level] += 1

    @property
    def _waiting(self) -> int:
        return len(self._debug) + len(self._info) + len(self._warnings) + len(self._events)

    def _queue(self, level: int) -> "deque[_Line]":
        if level < logging.INFO:
            return self._debug
        return self._info if level < logging.WARNING else self._warnings

    def _run(self) -> None:
        while True:
            for line in self._take():
                self._writing = data = f"{line}\n".encode(errors="backslashreplace")
                self._write(data)
                self._writing = None
            with self.lock:  # type: ignore[union-attr]
                if self._waiting:
                    continue
                if self._ended:
                    return
                self._woken = self._ending
                patience = 0.0 if self._ending else self._sums.patience
            with suppress(Empty):
                self._wakes.get(timeout=patience)

    def _take(self) -> list[str]:
        """Return what is to be written next."""
        with self.lock:  # type: ignore[union-attr]
            queues = [
                each for each in (self._debug, self._info, self._warnings, self._events) if each
            ]
            line = min(queues, key=_first_number).popleft().text if queues else None
            left = self._waiting
            # What was counted for want of room is told once the log is read again.
            counted = self._counted and left <= self._capacity * _READ_SHARE
            self._ended = self._ending and not left
            told = self._sums.take(everything=counted or self._ended)
            self._counted = self._counted and not counted
            lost, self._lost = self._lost, Counter()
        # Nothing is lost unless lines wait, so this line comes soon after the first that was.
        lines = [self._tell_lost(lost)] if lost else []
        if line is not None:
            lines.append(line)
        return lines + [self.format(each) for each in told]

    def _tell_lost(self, lost: Counter[str]) -> str:
        counts = ", ".join(f"{count:,} {level}" for level, count in lost.items())
        record = logging.makeLogRecord(
            {
                "name": log.name,
                "levelno": logging.WARNING,
                "levelname": "WARNING",
                "msg": "%s lines of the log are lost, for it was not read in time: %s",
                "args": (f"{lost.total():,}", counts),
            }
        )
        return self.format(record)


class LogInForce:
    """The log of a server that runs, which can be changed meanwhile."""

    def __init__(self, root: logging.Logger, handler: QueuedLog, node: str | None) -> None:
        self._root = root
        self._handler = handler
        self._node = node
        self._level = root.level  # as the settings have it; an operator may have set another one

    def follow(self, settings: Settings) -> None:
        """Log from now on as `log_of` would with other settings; from any thread.

        The level stays what somebody has set it to meanwhile, unless the setting changes.
        """
        formatter = _formatter(self._node, settings.log_format, settings.log_time)
        self._handler.change(settings.log_queue, formatter, settings.ipv6_prefix)
        level = logging.getLevelNamesMapping()[settings.log_level.upper()]
        if level != self._level:
            self._level = level
            self._root.setLevel(level)


@contextmanager
def server_log(
    level: str,
    capacity: int,
    *,
    node: str | None = None,
    form: LogFormat = "text",
    times: LogTime = "utc",
    ipv6_prefix: int = 64,
) -> Iterator["LogInForce"]:
    """Log to stderr while the block runs, what ends a thread as well.

    Args:
        level: the lowest that is logged.
        capacity: how many lines may wait to be written.
        node: the name of this server among several; None where it is alone.
        form: what a line is.
        times: whether lines of text have a time; where stderr is systemd's journal, which notes it,
            none has.
        ipv6_prefix: the setting of that name.
    """
    root = logging.getLogger()
    formatter = _formatter(node, form, times)
    handler = QueuedLog(_write_to_stderr, capacity, formatter, sums=EventSums(ipv6_prefix))
    before, hook = root.level, threading.excepthook
    root.addHandler(handler)
    root.setLevel(level.upper())
    threading.excepthook = _log_end_of_thread
    try:
        yield LogInForce(root, handler, node)
    finally:
        threading.excepthook = hook
        root.setLevel(before)
        root.removeHandler(handler)
        handler.stop(_FLUSH_SECONDS)


def log_of(settings: Settings, node: str | None) -> AbstractContextManager["LogInForce"]:
    """Return the log that settings ask for; see `server_log`.

    Args:
        settings: all of them.
        node: the name of this server among several; None where it is alone.
    """
    return server_log(
        settings.log_level,
        settings.log_queue,
        node=node,
        form=settings.log_format,
        times=settings.log_time,
        ipv6_prefix=settings.ipv6_prefix,
    )


def _formatter(node: str | None, form: LogFormat, times: LogTime) -> logging.Formatter:
    journal = False
    with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
        journal = is_journal(os.environ, sys.stderr.fileno())
    if form == "json":
        lines: logging.Formatter = JsonFormatter(node)
    else:
        lines = TextFormatter(node, with_time=times == "utc" and not journal)
    return JournalFormatter(lines) if journal else lines


def _log_end_of_thread(end: threading.ExceptHookArgs) -> None:
    # Python's own hook prints, and so would wait for a stderr that nobody reads.
    if end.exc_type is not SystemExit:
        name = end.thread.name if end.thread else "nobody knows"
        log.error("the thread %s failed", name, exc_info=end.exc_value)


def _write_to_stderr(data: bytes) -> None:
    # Not through sys.stderr: at its exit the interpreter wants that one's lock, which a write that
    # does not end would hold.
    with suppress(OSError, ValueError, AttributeError):  # closed, or there is none
        number = sys.stderr.fileno()
        while data:
            try:
                data = data[os.write(number, data) :]
            except BlockingIOError:  # whoever shares it made it so
                select.select([], [number], [])
