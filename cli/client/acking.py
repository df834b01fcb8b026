"""Acknowledges what has been dealt with, by a server that may be away or busy."""

import threading

from twinline.core.errors import RequestError
from twinline.transports.client import Client, ConnectionLost, NotConnected, TimedOut


def acked(client: Client, seq: int) -> bool:
    """Ack every message up to a seq, and return whether that could be done now.

    It takes its time where it could not, so whoever must have it done asks again at once.

    Raises:
        RequestError: the server refuses it for good.
        ClientClosed: the client was closed meanwhile.
    """
    try:
        client.ack(seq)
    except (NotConnected, ConnectionLost, TimedOut):
        return False  # each has taken its time, so that there is no need for a pause
    except RequestError as error:
        if not error.retryable:
            raise
        threading.Event().wait((error.retry_after_ms or 1000) / 1000)
        return False
    return True
