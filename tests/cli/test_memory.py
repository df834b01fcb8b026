"""`twinline serve` when memory is used up: it says so, and serves again once there is some."""

import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_server import ended
from listening import Peer
from waiting import wait_until

from twinline.cli.server.process import STACK_BYTES
from twinline.transports.endpoints import Endpoint

pytestmark = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="this system limits no other process's memory"
)
_SERVE = [sys.executable, "-m", "twinline.cli", "serve", "--listen", "tcp://127.0.0.1:0"]
_NO_LIMIT = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def limit(process: subprocess.Popen[str], room: int) -> None:
    """Let a process have so many bytes more than it has."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + room
    resource.prlimit(process.pid, resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def answer(endpoint: Endpoint) -> str:
    """Return what a peer is told: "ok", "busy", or "nothing"."""
    with contextlib.suppress(OSError), Peer(endpoint) as peer:
        peer.socket.settimeout(5)
        peer.send(b'{"op":"ping","id":1}\n')
        received = peer.socket.recv(1000)
        if received:
            return "busy" if (reply := json.loads(received)).get("error") else str(reply["ok"])
    return "nothing"


def test_a_server_without_memory_is_busy_and_serves_again_when_there_is_some() -> None:
    with (
        subprocess.Popen(
            _SERVE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as server,
        ended(server),
    ):
        assert server.stdout is not None
        endpoint = Endpoint.parse(server.stdout.readline().split()[2])
        assert answer(endpoint) == "True"
        # From none at all to some more than a stack, where a thread starts and cannot run.
        for room in (0, STACK_BYTES // 2, STACK_BYTES + 4096, STACK_BYTES + 16384):
            with contextlib.ExitStack() as silent:
                limit(server, room)
                for _ in range(6):
                    silent.enter_context(contextlib.suppress(OSError))
                    silent.enter_context(Peer(endpoint))
                if not room:
                    # Whether there is room for so much as a connection's objects, and so for the
                    # answer, depends on what the interpreter has left over; a thread that has ended
                    # may even have left its stack.
                    assert answer(endpoint) in {"busy", "nothing", "True"}
                elif room < STACK_BYTES:
                    assert answer(endpoint) == "busy"
                started = time.monotonic()
                resource.prlimit(server.pid, resource.RLIMIT_AS, _NO_LIMIT)
                wait_until(lambda: answer(endpoint) == "True", "it serves again", 10)
                # A second on a machine that does nothing else; tests share theirs.
                assert time.monotonic() - started < 5
            assert server.poll() is None
