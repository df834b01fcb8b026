"""Whether a call of a client has come in the midst of another one, in the same thread.

A signal's handler, and a finaliser that the garbage collector runs, begin between two steps of
whatever their thread is doing. If that was a step of a client, the thread may hold one of its
locks, and would wait for itself for ever.
"""

from types import FrameType
from typing import Final

_PACKAGE: Final = __name__.rpartition(".")[0]
CALLBACKS: Final = frozenset(
    {"StateReport.deliver", "TaskStateReport.deliver", "ThreadWorker.call", "TaskWorker.call"}
)
"""What calls the user's callbacks, with no lock held."""


def is_interrupted(caller: FrameType | None) -> bool:
    """Return whether a call from this frame has interrupted a client.

    It has not if the client has called it, as a callback.
    """
    while caller is not None:
        name = caller.f_globals.get("__name__", "")
        if name == _PACKAGE or name.startswith(f"{_PACKAGE}."):
            return caller.f_code.co_qualname not in CALLBACKS
        caller = caller.f_back
    return False
