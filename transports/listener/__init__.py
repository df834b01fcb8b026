"""The listeners: any transports, any endpoints, one service; on threads, or on an event loop.

::

    base              what both do: binds, accepts, limits, drains
    binding           the sockets that listen, and the file of a Unix socket
    waker             ends the wait for connections, from a thread or a signal
    conversation      what is said on one connection, and when it ends: no socket, no thread
    introduction      where a peer comes from that proxies stand before
    proxy             reads the header of the PROXY protocol
    settings          deadlines and limits, as a typed model
    tls               what TLS an endpoint is served with

    threaded          gives each connection a thread
    connection        one connection: moves the bytes of its conversation, in a thread
    poller            what the accepting thread waits on: arrivals, a wake-up
    threads           starts a thread without waiting for it

    loop              drives all connections by one event loop
    loop_connection   one connection: moves the bytes of its conversation, in callbacks
    turns             what the connections of a loop share: who goes on next, deadlines
    workers           threads for what may block
    holds             finds what holds the loop all the same
"""

from twinline.transports.listener.base import ConnectionView, Listener, TlsReload, check_proxies
from twinline.transports.listener.binding import listen_private, reserve
from twinline.transports.listener.loop import LoopListener
from twinline.transports.listener.settings import ListenerSettings
from twinline.transports.listener.threaded import ThreadedListener
from twinline.transports.listener.tls import server_tls, tls_files
from twinline.transports.listener.waker import Waker

__all__ = [
    "ConnectionView",
    "Listener",
    "ListenerSettings",
    "LoopListener",
    "ThreadedListener",
    "TlsReload",
    "Waker",
    "check_proxies",
    "listen_private",
    "reserve",
    "server_tls",
    "tls_files",
]
