"""Looks now and then at what takes long: how full the mailboxes are, when certificates end."""

import logging
import ssl
import threading
import time
from typing import Final, Self

from twinline.core.errors import StoreUnavailable
from twinline.core.store import Depths, Store
from twinline.transports.listener import Listener
from twinline.transports.tls import certificate_end

log = logging.getLogger(__name__)

SURVEY_SECONDS: Final = 60.0


class Survey:
    """Looks in a thread of its own, while it is entered.

    Attributes:
        depths: of the mailboxes at the last look, or None.
        depths_at: when that was, by `time.monotonic`.
        certificates: by endpoint, when its certificate ends, in seconds since 1970 UTC.
    """

    def __init__(
        self, store: Store, listener: Listener, *, seconds: float = SURVEY_SECONDS
    ) -> None:
        """Look once every so many seconds."""
        self.depths: Depths | None = None
        self.depths_at = 0.0
        self.certificates: dict[str, float] = {}
        self._known: dict[str, ssl.SSLContext] = {}  # what these ends are of
        self._store = store
        self._listener = listener
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="survey", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # Not waited for: it may be waiting for an engine that does not answer.
        self._ended.set()

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except StoreUnavailable:
                pass  # what looks after the store tells of that; the age of what is known rises
            except Exception:
                if not self._ended.is_set():
                    log.exception("the mailboxes cannot be looked at")
            if self._ended.wait(self._seconds):
                return

    def _look(self) -> None:
        for endpoint, context in self._listener.tls_contexts:
            place = endpoint.place
            if self._known.get(place) is not context:
                end = certificate_end(context)
                self._known[place] = context
                # One dictionary is replaced by another, for it is read by other threads.
                others = {name: at for name, at in self.certificates.items() if name != place}
                self.certificates = others if end is None else {**others, place: end}
        depths = self._store.mailboxes.depths()
        if depths is not None:
            self.depths, self.depths_at = depths, time.monotonic()
