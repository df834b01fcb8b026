"""A server in threads of this process, on a free port of this machine, for `demo` and `verify`."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from twinline.core.service import ChatService
from twinline.core.store import Store
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import ThreadedListener
from twinline.transports.registry import AUTO, transport


@contextmanager
def private_server(opened: Store) -> Iterator[Endpoint]:
    """Serve a store on every transport while the block runs, and close it then.

    Yields:
        Where it listens.
    """
    with opened as store:
        service = ChatService(store)
        wanted = Endpoint.parse("tcp://127.0.0.1:0")
        listener = ThreadedListener(service, [(wanted, transport(AUTO))])
        thread = threading.Thread(target=listener.serve_forever, name="private server", daemon=True)
        thread.start()
        try:
            yield listener.endpoints[0]
        finally:
            listener.stop()
            thread.join()
            service.stop()
