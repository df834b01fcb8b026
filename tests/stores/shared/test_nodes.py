"""Nodes that `serve --nodes` starts, killed one after the other while mail goes through them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from listening import Peer
from waiting import wait_until

from twinline.core.deadline import Deadline
from twinline.transports.endpoints import Endpoint

SECONDS = 30
KILLS = 2
PASSWORD = "correct horse"


class Site:
    """Nodes that run over an engine."""

    def __init__(self, parent: "subprocess.Popen[str]", log: Path) -> None:
        assert parent.stdout is not None
        said = parent.stdout.readline()
        assert said, log.read_text()
        self.parent = parent
        self.place = json.loads(said)["endpoint"]
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_serving(self, times: int) -> None:
        """Wait until nodes have begun to serve so many times."""
        wait_until(lambda: self.log.count(" serves, as process ") == times, "it serves", SECONDS)

    def nodes(self) -> list[int]:
        pid = self.parent.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextmanager
def site(url: str, tmp_path: Path, *flags: str) -> Iterator[Site]:
    """Run two nodes while the block runs, and see that they drain."""
    log = tmp_path / "log"
    serve = ("serve", "--json", "--nodes", "2", "--node", "web", "--store", url, *flags)
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "twinline.cli", *serve, "--listen", "tcp://127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as parent,
    ):
        try:
            found = Site(parent, log)
            yield found
            parent.terminate()
            assert parent.wait(SECONDS) == 0, found.log
            assert "Traceback" not in found.log
        finally:
            parent.kill()


@pytest.fixture(params=["valkey", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Return the store of an engine, with nothing in it."""
    if request.param == "valkey":
        return str(request.getfixturevalue("valkey").url())
    return str(request.getfixturevalue("store_url"))


def one_at_each(place: str) -> tuple[Peer, Peer]:
    """Return connections to two nodes."""
    peers: dict[str, Peer] = {}
    deadline = Deadline.after(SECONDS)
    while len(peers) < 2:
        assert not deadline.passed
        peer = Peer(Endpoint.parse(place))
        if peers.setdefault(peer.ask("hello")["node"], peer) is not peer:
            peer.close()
    return peers["web-1"], peers["web-2"]


def test_mail_and_the_end_of_a_session_reach_the_other_node(url: str, tmp_path: Path) -> None:
    with site(url, tmp_path) as served:
        first, second = one_at_each(served.place)
        with first, second:
            session = first.ask("create_account", username="ann", password=PASSWORD)["session"]
            assert second.ask("resume", session=session)["ok"]
            # A stream, for it is there still when its first message has come.
            second.send_line(op="watch", id=7, after=0, wait=30, window=8)
            assert first.ask("send", to="ann", body="across")["ok"]
            assert second.read_line()["messages"][0]["body"] == "across"
            assert first.ask("logout")["ok"]
            assert second.read_line()["error"]["code"] == "session_expired"
            assert second.rest() == b""


def test_no_mail_is_lost_while_nodes_are_killed(url: str, tmp_path: Path) -> None:
    with site(url, tmp_path, "--listener", "loop") as served:
        verify = ("verify", "--json", "--connect", served.place, "--duration", "4", "--rate", "200")
        with subprocess.Popen(
            [sys.executable, "-m", "twinline.cli", *verify], stdout=subprocess.PIPE, text=True
        ) as verifying:
            for killed in range(KILLS):
                time.sleep(0.3)
                os.kill(random.choice(served.nodes()), signal.SIGKILL)
                served.wait_serving(2 + killed + 1)
            out, _ = verifying.communicate(timeout=50)
        verdict = json.loads(out.splitlines()[-1])
        assert verifying.returncode == 0, verdict
        assert served.log.count("was ended by SIGKILL") == KILLS
        for peer in one_at_each(served.place):
            peer.close()
