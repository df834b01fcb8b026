"""The threaded listener: any transports, any endpoints, one service.

::

    listener       accepts, limits, and drains; owns the connections' threads
    binding        the sockets that listen, and the file of a Unix socket
    conversation   what is said on one connection, and when it ends: no socket, no thread
    connection     one connection: moves the bytes of its conversation, in a thread
    poller         what the accepting thread waits on: arrivals, a wake-up
    threads        starts a thread without waiting for it
    settings       deadlines and limits, as a typed model
"""

from twinline.transports.listener.listener import Listener
from twinline.transports.listener.poller import Waker
from twinline.transports.listener.settings import ListenerSettings

__all__ = ["Listener", "ListenerSettings", "Waker"]
