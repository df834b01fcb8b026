"""Wakes a thread that waits in ``poll`` for the bytes of its socket: a descriptor any thread rings.

Where the system has ``eventfd`` it is one descriptor, elsewhere the two of a pipe.
"""

import os
import sys
from typing import Final

_EVENTFD: Final = hasattr(os, "eventfd")
DESCRIPTORS: Final = 1 if _EVENTFD else 2
"""How many descriptors of the process one takes."""
_ONE: Final = (1).to_bytes(8, sys.byteorder)  # what an eventfd takes; a pipe takes anything
_READ_BYTES: Final = 4096  # more than the wakes that can race to be the first


class WakeDescriptor:
    """A descriptor that is readable from a wake on, until it is cleared; it does not block.

    Before `open` and after `close` it takes no descriptor, and wakes do nothing: one that waits
    only now and then is opened when it first does, by a name that others may have by then.

    Its owner is the thread that waits on it. The owner clears it when it is readable and looks
    after that at whatever others may have changed; they change it first and wake then. So a wake
    is a hint that is never lost, and many before one look count as one.

    `wake` takes no lock, so it may be called with one held, and from a signal's handler. It may
    race with `close`: the descriptor is closed by whichever of them is through with it last, so
    no wake is written into another file that has been given the number.
    """

    __slots__ = ("_ends", "_woken")

    def __init__(self) -> None:
        self._woken = False  # whether a wake was written that the owner has not cleared
        self._ends: _Ends | None = None  # while it is open

    def open(self) -> None:
        """Open it; only the owner may, and once.

        Raises:
            OSError: there are no descriptors left.
        """
        self._ends = _Ends.open()

    def fileno(self) -> int:
        """Return the number to poll for input, or -1 while it is not open."""
        return -1 if self._ends is None else self._ends.reading

    def wake(self) -> None:
        """Make it readable; from any thread."""
        if self._woken:
            return
        ends = self._ends  # kept open by this name for as long as it is written to
        if ends is None:
            return
        try:
            # Between the two no signal's handler runs, which may raise: a flag with nothing written
            # would lose every wake from then on.
            self._woken = True
            os.write(ends.writing, _ONE)
        except BlockingIOError:
            return  # it is full, so it is readable

    def clear(self) -> None:
        """Drop the wakes of before; by the owner, which then looks at what they were about."""
        ends = self._ends
        if ends is None:
            return
        # Read before it is unset, or a wake could be taken away that is never written again. A
        # wake that comes in between is not written: the owner is about to look.
        try:
            os.read(ends.reading, _READ_BYTES)
        except BlockingIOError:
            return  # there was none
        finally:
            self._woken = False

    def close(self) -> None:
        """Close it; only the owner may, and it may twice."""
        self._ends = None


class _Ends:
    """What is open; it is closed when nobody refers to it any more.

    Attributes:
        reading: the descriptor to read from.
        writing: the descriptor to write to; the same one where it is an eventfd.
    """

    __slots__ = ("reading", "writing")

    def __init__(self, reading: int, writing: int) -> None:
        self.reading = reading
        self.writing = writing

    @classmethod
    def open(cls) -> "_Ends":
        # Non-blocking, so that wakes that nobody clears cannot hold up another.
        if _EVENTFD:
            descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            return cls(descriptor, descriptor)
        ends = cls(*os.pipe())
        os.set_blocking(ends.reading, False)
        os.set_blocking(ends.writing, False)
        return ends

    def __del__(self) -> None:
        os.close(self.reading)
        if self.writing != self.reading:
            os.close(self.writing)
