"""A server in threads of this process, on a free port of this machine, for `demo` and `verify`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from twinline.cli.server.listeners import LISTENERS
from twinline.core.service import ChatService
from twinline.core.store import Store
from twinline.transports.endpoints import Endpoint
from twinline.transports.registry import AUTO, transport


@contextmanager
def private_server(opened: Store, listener: str = "threads") -> Iterator[Endpoint]:
    """Serve a store on every transport while the block runs, and close it then.

    Args:
        opened: the store.
        listener: what drives the connections, as the setting of that name says.

    Yields:
        Where it listens.
    """
    with opened as store:
        service = ChatService(store)
        wanted = Endpoint.parse("tcp://127.0.0.1:0")
        serving = LISTENERS[listener](service, [(wanted, transport(AUTO))])
        thread = threading.Thread(target=serving.serve_forever, name="private server", daemon=True)
        thread.start()
        try:
            yield serving.endpoints[0]
        finally:
            serving.stop()
            thread.join()
            service.stop()
