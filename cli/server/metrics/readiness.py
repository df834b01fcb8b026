"""Whether a server lives, and whether it should be given work: `/healthz` and `/readyz`.

A server lives while the thread that takes its connections comes round: one that does not is to be
started anew. It is ready while it can do what it is for; one that is not may become so by itself,
and whatever spreads work over several servers leaves it out until then.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from twinline.cli.server.health import LAG_SECONDS, comes_round
from twinline.cli.server.metrics.shared import SharedLook
from twinline.core.errors import StoreUnavailable
from twinline.core.store import CLOCK_REFUSE_MS, Health, Store
from twinline.transports.listener import Listener

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 2.0
"""How long a store may take to answer."""
ROUND_SECONDS: Final = 5.0
"""How long the thread that takes connections may be at something else."""
LOOK_SECONDS: Final = 1.0
"""How often the store is asked at the most, however many ask for it."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a server besides what it counts.

    Attributes:
        version: of twinline.
        listener: its kind.
        store: its kind.
        ready: whether it is ready.
        health: of its store, or why that is not known.
    """

    version: str
    listener: str
    store: str
    ready: bool
    health: Health | str


class Readiness:
    """Asks a listener and its store; all but the looks is done in the event loop's thread."""

    def __init__(self, listener: Listener, store: Store, free_bytes: int) -> None:
        """Ask nothing yet.

        Args:
            listener: that is to live.
            store: that is to answer.
            free_bytes: with less room for its store a server is not ready.
        """
        self._listener = listener
        self._free_bytes = free_bytes
        self._store = SharedLook("readiness", store.health, LOOK_SECONDS)
        self._round = SharedLook("liveness", self._comes_round, LOOK_SECONDS)

    async def health(self) -> Health | str:
        """Return how the store is, or why that is not known."""
        try:
            return await self._store.get(ANSWER_SECONDS)
        except TimeoutError:
            return f"the store has not answered within {ANSWER_SECONDS:g} s"
        except StoreUnavailable as error:
            return f"the store cannot be used: {error.message}"
        except Exception:
            log.exception("the store cannot be asked how it is")
            return "the store cannot be asked; see the log"

    def reasons(self, health: Health | str) -> list[str]:
        """Return why the server is not ready, a sentence each; none if it is.

        Args:
            health: as `health` has returned it.
        """
        return list(self._reasons(health))

    def _reasons(self, health: Health | str) -> Iterator[str]:
        if self._listener.draining:
            yield "the server drains"
        if isinstance(health, str):
            yield health
            return
        if health.lag_seconds >= LAG_SECONDS:
            yield f"nothing has been heard of the other servers for {health.lag_seconds:.3g} s"
        if abs(health.clock_offset_ms) >= CLOCK_REFUSE_MS:
            seconds = health.clock_offset_ms / 1000
            yield f"this machine's clock is {seconds:+,.3g} s off the store's"
        if health.free_bytes is not None and health.free_bytes < self._free_bytes:
            yield (
                f"the disk of the store is low: {health.free_bytes:,} bytes are free, and "
                f"ready_free_bytes is {self._free_bytes:,}"
            )

    async def lives(self) -> bool:
        """Return whether the thread that takes connections comes round."""
        try:
            return await self._round.get(ROUND_SECONDS + 1)
        except TimeoutError:
            return False

    def _comes_round(self) -> bool:
        return comes_round(self._listener, ROUND_SECONDS)
