"""What becomes, in a forked child, of what it has inherited.

`os.fork` copies the thread that calls it and no other, and every object: a connection of the
parent's would carry the child's requests too, a counter would give both the same numbers. So what
cannot be used by two processes says what it does in the child: it begins anew, with connections,
threads and numbers of its own, or refuses. It never shuts down, unlocks or closes for both what it
shares with the parent.
"""

import os
from abc import ABC
from typing import Any, NoReturn, Protocol
from weakref import WeakSet

from twinline.core.errors import TwinlineError


class ForkedStore(TwinlineError):
    """A store was opened before a fork, and is used in the child."""


class Inherited(Protocol):
    """What a child of a fork inherits, and must not use as it is."""

    def forked(self) -> None:
        """Be of use to the child, or refuse; called in it, before anything else is.

        It takes no lock: a thread that is not here may hold it.
        """


_inherited: WeakSet[Any] = WeakSet()


def watch_forks(inherited: Inherited) -> None:
    """Call ``forked`` in every child that this process forks, while the object is there."""
    _inherited.add(inherited)


def refuse_calls(half: ABC) -> None:
    """Have every method of its contract raise `ForkedStore` from now on.

    Also those that the contract writes out: a store may have its own, which ask its engine.
    """
    for contract in type(half).__mro__:
        if getattr(contract, "__abstractmethods__", None):
            for name, member in vars(contract).items():
                if not name.startswith("_") and callable(member):
                    setattr(half, name, _refuse)


def _refuse(*_arguments: object, **_options: object) -> NoReturn:
    raise ForkedStore(
        f"process {os.getpid()} has inherited this store by a fork and cannot use it: open a store "
        "in the process that uses it"
    )


def _in_child() -> None:
    for inherited in tuple(_inherited):
        inherited.forked()


if hasattr(os, "register_at_fork"):  # where there is no fork, nothing is inherited
    os.register_at_fork(after_in_child=_in_child)
