"""One scenario over every way to be connected; each must give the same transcript.

The ways: JSON-lines and binary, by themselves and over WebSocket, a TCP and a Unix socket, in plain
and in TLS, a server that speaks that transport or recognises it (auto), a client that is sent a
stream, blocks for mail or polls, on threads or under asyncio; and over every store, a listener on
threads or on an event loop; and over several servers with one state. `scenario` has the story.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_kit import MODES
from listening import TCP, WS, serving, socket_path
from scenario import TRANSCRIPT, transcript
from services import cheap_hasher
from shared_memory import open_first, open_more

from twinline.core.service import ChatService
from twinline.core.store import MailboxPolicy
from twinline.stores.registry import open_store
from twinline.transports.client import WatchMode
from twinline.transports.tls import client_context


@pytest.fixture
def path() -> Iterator[str]:
    with socket_path() as path:
        yield path


@pytest.mark.usefixtures("both_clients")
@MODES
@pytest.mark.parametrize("server_transport", ["own", "auto"])
@pytest.mark.parametrize("wire", ["tcp", "unix"])
@pytest.mark.parametrize("transport", ["jsonl", "binary"])
def test_the_same_transcript_over_every_wire(
    transport: str, wire: str, server_transport: str, watch: WatchMode, path: str
) -> None:
    url = TCP if wire == "tcp" else f"unix:{path}"
    spoken = transport if server_transport == "own" else "auto"
    with serving([(url, spoken)]) as server:
        assert transcript(server, transport, watch) == TRANSCRIPT


@pytest.mark.usefixtures("both_clients", "each_listener")
@pytest.mark.parametrize("transport", ["jsonl", "binary"])
def test_the_same_transcript_over_websocket(transport: str) -> None:
    with serving([(WS, "auto")]) as server:
        assert transcript(server, transport, WatchMode.STREAMING) == TRANSCRIPT


@pytest.mark.usefixtures("both_clients", "each_listener")
@pytest.mark.parametrize(
    ("scheme", "transport"), [("tls", "jsonl"), ("tls", "binary"), ("wss", "jsonl")]
)
def test_the_same_transcript_over_tls(scheme: str, transport: str, certificates: Any) -> None:
    shown, tls = certificates.server, client_context(ca_file=str(certificates.ca.file))
    files = {"tls_certificate": str(shown.certificate), "tls_key": str(shown.key)}
    with serving([(f"{scheme}://127.0.0.1:0", "auto")], **files) as server:
        assert transcript(server, transport, WatchMode.STREAMING, tls) == TRANSCRIPT


@pytest.mark.parametrize(("served", "watch"), [("auto", "streaming"), ("websocket", "polling")])
def test_the_same_transcript_over_a_websocket_on_a_unix_socket(
    served: str, watch: str, path: str
) -> None:
    with serving([(f"unix:{path}", served)]) as server:
        assert transcript(server, "websocket", WatchMode(watch)) == TRANSCRIPT


@pytest.mark.usefixtures("each_listener")
@pytest.mark.parametrize("store", ["memory:", "sqlite:{}/scenario.db"])
@pytest.mark.parametrize("transport", ["jsonl", "binary"])
def test_the_same_transcript_over_every_store_and_listener(
    transport: str, store: str, tmp_path: Path
) -> None:
    with contextlib.closing(open_store(store.format(tmp_path))) as opened:
        service = ChatService(opened, hasher=cheap_hasher())
        with serving(service=service) as server:
            assert transcript(server, transport, WatchMode.STREAMING) == TRANSCRIPT


@pytest.mark.usefixtures("each_listener")
@pytest.mark.parametrize("transport", ["jsonl", "binary"])
def test_the_same_transcript_over_several_servers(transport: str) -> None:
    with contextlib.ExitStack() as opened:
        first = opened.enter_context(open_first(MailboxPolicy()))
        others = open_more(first, MailboxPolicy(), 2)
        nodes = [first, *(opened.enter_context(other) for other in others)]
        services = [ChatService(node, hasher=cheap_hasher()) for node in nodes]
        servers = [opened.enter_context(serving(service=each)) for each in services]
        assert transcript(servers, transport, WatchMode.STREAMING) == TRANSCRIPT
