"""What an exception from a signal's handler may hit, and what it must not.

Python runs the handlers of signals in the main thread alone, between two of its steps: at the
entry of a function, after a call, at a jump backwards, and within a call that blocks. A handler
that raises (Ctrl-C does, and so does a time limit made of `signal.alarm`) raises there. So code
that the main thread of an embedding program, or of a client's user, may run keeps these rules:

1. What others wait for is released by a ``with`` on an object that is written in C, such as a lock:
   between the end of its body and the release there is no such step. A ``finally`` that calls a
   function of Python's may be interrupted at that function's entry.
2. Where that cannot be, the main thread takes nothing that others wait for: it is no link in a
   chain of wakes, and has a connection of its own.
3. What is released by Python code is released by code that may run twice, and does if it is
   interrupted: see `again`.
"""

import threading


def may_be_interrupted() -> bool:
    """Return whether a signal's handler may raise in the calling thread."""
    return threading.get_ident() == threading.main_thread().ident
