"""The log of `twinline serve`: it goes through a bounded queue, and no thread waits for its reader.

A thread that logs leaves a line in the queue; one thread writes what is in it. So a stderr that
nobody reads holds up that thread alone. When the queue fills, it drops the least important lines
first, and the next line that is written says how many were lost.
"""

import json
import logging
import os
import select
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Final, Literal

log = logging.getLogger(__name__)

LogFormat = Literal["text", "json"]
_TEXT: Final = "%(asctime)s %(levelname)s {node}%(name)s: %(message)s"
_FLUSH_SECONDS: Final = 0.5
"""How long the end of the server waits for the reader of its log."""
_DEBUG_SHARE: Final = 0.5
_INFO_SHARE: Final = 0.75
"""How full the queue may be for lines of a level; the rest is the reserve of warnings."""


class TextFormatter(logging.Formatter):
    """Lines for people; where there are several nodes, each line tells which one it is of."""

    def __init__(self, node: str | None = None) -> None:
        """Prepare.

        Args:
            node: the name of the node; None where there are no others.
        """
        super().__init__(_TEXT.format(node="" if node is None else f"node={node} "))
        self._continued = None if node is None else f"\nnode={node} | "

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text, which has several lines where it has a traceback."""
        text = super().format(record)
        return text if self._continued is None else text.replace("\n", self._continued)


class JsonFormatter(logging.Formatter):
    """A JSON object a record, in one line: ``time`` (ms), ``level``, ``logger``, ``message``.

    And where there are any: ``node``, and ``traceback``, a text of several lines.
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
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(said)


_FORMATTERS: Final = {"text": TextFormatter, "json": JsonFormatter}


class QueuedLog(logging.Handler):
    """A handler that never blocks: its lines are written by a thread of its own."""

    def __init__(
        self,
        write: Callable[[bytes], object],
        capacity: int,
        formatter: logging.Formatter | None = None,
    ) -> None:
        """Start the thread.

        Args:
            write: writes some lines, for as long as it takes.
            capacity: how many lines may wait to be written.
            formatter: makes the lines; None for text.
        """
        super().__init__()
        self.setFormatter(formatter or TextFormatter())
        self._write = write
        self._capacity = capacity
        self._lines: SimpleQueue[str | None] = SimpleQueue()  # None: the last line
        self._lost: Counter[str] = Counter()  # by level; guarded by the handler's lock
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a line in the queue, or count it as lost; called under the handler's lock."""
        if self._lines.qsize() >= self._room(record.levelno):
            self._lost[record.levelname.lower()] += 1
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - a handler raises nothing, and this one prints nothing
            line = f"a line of {record.name}:{record.lineno} cannot be formatted: {record.msg!r}"
        self._lines.put(line)

    def stop(self, seconds: float) -> None:
        """Write what is left, for as long as this; what comes later is not written."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _room(self, level: int) -> float:
        if level < logging.INFO:
            return self._capacity * _DEBUG_SHARE
        if level < logging.WARNING:
            return self._capacity * _INFO_SHARE
        return self._capacity

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            # Nothing is lost unless lines wait, so this one comes soon after the first that was.
            lost = self._take_lost()
            if lost:
                line = f"{lost}\n{line}"
            self._write(f"{line}\n".encode(errors="backslashreplace"))

    def _take_lost(self) -> str:
        with self.lock:  # type: ignore[union-attr]  # every handler that was made has one
            lost, self._lost = self._lost, Counter()
        if not lost:
            return ""
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


@contextmanager
def server_log(
    level: str, capacity: int, *, node: str | None = None, form: LogFormat = "text"
) -> Iterator[None]:
    """Log to stderr while the block runs, what ends a thread as well.

    Args:
        level: the lowest that is logged.
        capacity: how many lines may wait to be written.
        node: the name of this server among several; None where it is alone.
        form: what a line is.
    """
    root = logging.getLogger()
    handler = QueuedLog(_write_to_stderr, capacity, _FORMATTERS[form](node))
    before, hook = root.level, threading.excepthook
    root.addHandler(handler)
    root.setLevel(level.upper())
    threading.excepthook = _log_end_of_thread
    try:
        yield
    finally:
        threading.excepthook = hook
        root.setLevel(before)
        root.removeHandler(handler)
        handler.stop(_FLUSH_SECONDS)


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
