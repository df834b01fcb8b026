"""Finds what holds an event loop: while one connection's turn takes long, all others wait."""

import logging
from time import monotonic
from typing import Any, Final, Protocol

from twinline.core.looks import Look
from twinline.core.protocol import Reply, Request
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import MailPage

log = logging.getLogger(__name__)

_MS: Final = 1000


class Turned(Protocol):
    """A connection whose turns are timed.

    Attributes:
        address: where it comes from.
        codec: reads its requests.
    """

    address: str

    @property
    def codec(self) -> object:
        """What reads its requests."""

    def take_turn(self) -> None:
        """Take a turn."""


class HoldDetector:
    """Times what is carried out on the loop, and logs what takes too long, by its name.

    What a busy machine takes from the process in the middle of a turn counts as well.
    """

    def __init__(self, service: ChatService, seconds: float) -> None:
        """Watch for turns and requests that take longer than so many seconds."""
        self._service = service
        self._seconds = seconds
        self._named = False  # whether a request of the present turn was logged

    def handle(self, session: Session, job: Request | Look) -> Any:
        """Carry out a job, as `ChatService.handle` does, and log it if it takes too long."""
        began = monotonic()
        outcome: Reply | MailPage = self._service.handle(session, job)
        seconds = monotonic() - began
        if seconds > self._seconds:
            self._named = True
            store = type(self._service.store)
            log.warning(
                "%r held the event loop for %d ms; the store, %s.%s, says that it does not block",
                job.op,
                seconds * _MS,
                store.__module__,
                store.__qualname__,
            )
        return outcome

    def turn(self, connection: Turned) -> None:
        """Have a connection take a turn, and log it if it takes too long and no request did."""
        self._named = False
        began = monotonic()
        try:
            connection.take_turn()
        finally:
            seconds = monotonic() - began
            if seconds > self._seconds and not self._named:
                codec = type(connection.codec)
                log.warning(
                    "a turn of the connection from %s held the event loop for %d ms; its codec is "
                    "%s.%s",
                    connection.address,
                    seconds * _MS,
                    codec.__module__,
                    codec.__qualname__,
                )
