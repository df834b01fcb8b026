"""Ends what the main thread waits in, from another thread.

A wait for input or for a lock cannot be woken from outside, except by a signal. So the thread
that has a reason raises SIGINT in the main thread, and the reason takes the place of the
`KeyboardInterrupt`.
"""

import os
import select
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self, TextIO

from twinline.cli.console.output import OutputClosed


class Interruption:
    """A context whose body another thread can end with an error of its choice.

    In another thread than the main one, or where SIGINT is ignored, nothing is interrupted.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._error: Exception | None = None
        self._active = False

    def __enter__(self) -> Self:
        self._active = threading.current_thread() is threading.main_thread()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._active = False
        if isinstance(error, KeyboardInterrupt) and self._error is not None:
            raise self._error from None

    def end(self, error: Exception) -> None:
        """Have the body end with this error, from any thread."""
        if self._active and self._error is None:
            self._error = error
            signal.pthread_kill(self._thread, signal.SIGINT)


@contextmanager
def defer_interrupt() -> Iterator[None]:
    """Let the body finish before a Ctrl-C counts; a second Ctrl-C does not wait for it.

    What is written and what is noted as written then never differ. A SIGTERM counts as a Ctrl-C
    within `ended_by_sigterm`.

    Raises:
        KeyboardInterrupt: there was one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    hits = 0

    def defer(_number: int, _frame: FrameType | None) -> None:
        nonlocal hits
        hits += 1
        if hits > 1:
            raise KeyboardInterrupt

    # One that is ignored, or kills at once, stays what it is.
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number))
    }
    for number in before:
        signal.signal(number, defer)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if hits:
        raise KeyboardInterrupt


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the body as Ctrl-C does, so that it can finish what it is at."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def exit_on_closed_pipe(stream: TextIO) -> Iterator[None]:
    """End the body once the reader of a pipe is gone, though nothing is being written.

    ``twinline watch | head -1`` should end when ``head`` does, not with the next message, which
    may come tomorrow. Does nothing where the stream is no pipe.

    Raises:
        OutputClosed: the reader is gone.
    """
    descriptor = _pipe(stream)
    if descriptor is None:
        yield
        return
    done, notify_done = os.pipe()
    with Interruption() as interruption:

        def look() -> None:
            poll = select.poll()
            poll.register(descriptor, 0)  # asks for nothing; errors are reported all the same
            poll.register(done, select.POLLIN)
            if all(ready != done for ready, _ in poll.poll()):
                interruption.end(OutputClosed())

        looking = threading.Thread(target=look, name="reader of stdout", daemon=True)
        looking.start()
        try:
            yield
        finally:
            os.close(notify_done)
            looking.join()
            os.close(done)


def _pipe(stream: TextIO) -> int | None:
    try:
        descriptor = stream.fileno()
        return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
    except OSError:
        return None
