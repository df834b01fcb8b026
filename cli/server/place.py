"""Which of several nodes a server is: its name, and its share of the machine."""

import os
import re
import socket
from dataclasses import dataclass
from typing import Final

_NAME_CHARACTERS: Final = 48
"""Of the machine's name; the rest of a node's name tells it from the others there."""


@dataclass(frozen=True, slots=True)
class Place:
    """A server among those that one parent has started on this machine.

    Attributes:
        name: in the log, and in the reply to `hello`; None for a server that is alone.
        index: its number, from 0.
        nodes: how many there are.
    """

    name: str | None = None
    index: int = 0
    nodes: int = 1

    @property
    def threads_to_hash(self) -> int:
        """How many hashes it may make at once: its share of the processors."""
        return max(1, (os.cpu_count() or 1) // self.nodes)


def machine_name() -> str:
    """Return what this machine is called, in the characters of a node's name."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname())[:_NAME_CHARACTERS]
    return name or "node"


def own_name() -> str:
    """Return the name of a node that nobody has named: its machine and its process."""
    return f"{machine_name()}-{os.getpid()}"
