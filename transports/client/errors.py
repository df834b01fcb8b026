"""What can go wrong for a user of the client engine, as one tree.

::

    TransportError
    └── ClientError
        ├── NotConnected      the server was not reachable in time; nothing was sent
        ├── ConnectionLost    the connection broke with a request in flight: outcome unknown
        ├── TimedOut          no reply came in time: outcome unknown
        ├── ClientClosed      close() was called
        └── ClientBusy        this cannot be asked for here and now, by this caller

What the server itself refuses is raised as a leaf of `twinline.core.errors.RequestError`.
"""

from twinline.transports.contract import TransportError


class ClientError(TransportError):
    """The base of what the client engine raises.

    Attributes:
        send_id: of a send whose outcome is unknown; sending again under this id, in this or a
            later session of the account, gives one message and never two. None otherwise.
    """

    def __init__(self, message: str, *, send_id: str | None = None) -> None:
        self.send_id = send_id
        super().__init__(message)


class NotConnected(ClientError):
    """The server was not reachable in time; nothing was sent."""


class ConnectionLost(ClientError):
    """The connection broke with the request in flight: it may or may not have been done."""


class TimedOut(ClientError):
    """No reply came in time: the request may or may not have been done."""


class ClientClosed(ClientError):
    """The client was closed, before the call or during it."""


class ClientBusy(ClientError):
    """There is a consumer of messages already, or the call came from where it may not come from.

    That is from within ``on_state``, or, for an `AsyncClient`, from another event loop.
    """
