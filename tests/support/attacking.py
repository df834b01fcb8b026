"""A hostile peer beside a client who must not notice: what every attack on a listener promises."""

import gc
import logging
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from listening import TCP, Peer, Server, serving

MIB = 1024 * 1024


@contextmanager
def attack(
    caplog: pytest.LogCaptureFixture, url: str = TCP, transport: str = "auto", **settings: float
) -> Iterator[tuple[Server, Peer]]:
    """Yield a server and a hostile peer, with a bystander who is logged in and must not notice."""
    with serving([(url, transport), (TCP, "jsonl")], None, **settings) as server:
        bystander = server.peer(1).enter("bystander")
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        caplog.set_level(logging.DEBUG, logger="twinline.transports")
        caplog.clear()
        try:
            with server.peer(0) as peer:
                yield server, peer
                assert bystander.ask("ping")["ok"], "another client noticed"
            server.wait_connections(1)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            assert grown < MIB, f"memory grew by {grown} bytes"
            assert len(caplog.records) <= 1, caplog.text
            assert "Traceback" not in caplog.text
        finally:
            tracemalloc.stop()
            bystander.close()
