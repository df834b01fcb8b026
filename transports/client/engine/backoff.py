"""How long to wait between attempts: exponential, capped, with jitter."""

import random
from collections.abc import Callable
from typing import Self

from twinline.transports.client.settings import ClientSettings


class Backoff:
    """The waits between attempts: ``first``, twice that, ... ``maximum``, each with jitter.

    The jitter keeps the clients of a server that comes back from arriving all at once: by default
    it is "equal", half of a wait being left to chance, which also keeps them from coming too soon
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). Not safe for
    several threads at once; its owner guards it.
    """

    def __init__(
        self,
        first: float = 1.0,
        maximum: float = 30.0,
        jitter: float = 0.5,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        """Begin before the first wait.

        Args:
            first: seconds of the first wait, at most.
            maximum: seconds of the longest wait.
            jitter: the part of a wait that is left to chance, 0 to 1: it may be shorter by that.
            uniform: returns numbers that are evenly spread over 0 to 1.
        """
        self._first = first
        self._maximum = maximum
        self._jitter = jitter
        self._uniform = uniform
        self._next = first

    @classmethod
    def of(cls, settings: ClientSettings) -> Self:
        """Return a backoff as the settings say."""
        return cls(settings.backoff_first, settings.backoff_max, settings.backoff_jitter)

    def next(self) -> float:
        """Return the seconds to wait now, and make the next wait twice as long."""
        seconds = min(self._next, self._maximum)
        self._next = seconds * 2
        return seconds * (1 - self._jitter * self._uniform())

    def asked(self, seconds: float) -> float:
        """Return how long to wait where a server asks for so many seconds: never less than that.

        It may have asked many clients for the same. One that has not is not kept waiting for long.
        """
        return seconds + min(seconds, self._first) * self._jitter * self._uniform()

    def reset(self) -> None:
        """Begin again with the first wait: something has succeeded."""
        self._next = self._first
