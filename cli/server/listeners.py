"""The listeners that a server can have, by the names that settings and flags give them."""

from collections.abc import Mapping
from typing import Final

from twinline.transports.listener import LoopListener, ThreadedListener

LISTENERS: Final[Mapping[str, type[ThreadedListener] | type[LoopListener]]] = {
    "threads": ThreadedListener,
    "loop": LoopListener,
}
