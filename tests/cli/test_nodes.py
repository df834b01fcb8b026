"""`twinline serve --nodes N`: processes on one port, and the parent that looks after them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from cli_server import CommandLine, ended
from listening import Peer
from pretended_store import PretendedSite
from waiting import halt, wait_until

from twinline.cli.server import nodes as parents
from twinline.cli.server.channel import Channel, ChannelError
from twinline.cli.server.nodes import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, Node
from twinline.cli.server.place import Place, machine_name
from twinline.cli.settings.model import Settings
from twinline.core.deadline import Deadline
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Waker

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").exists() or not hasattr(socket, "SO_REUSEPORT"),
    reason="only Linux tells of a process's children",
)
SECONDS = 30


class Served:
    """Nodes that run, and what they have said."""

    def __init__(self, parent: "subprocess.Popen[str]", log: Path) -> None:
        assert parent.stdout is not None
        line = parent.stdout.readline()
        self.parent = parent
        self._log = log
        assert line, self.log
        self.ready = json.loads(line)
        self.endpoint = Endpoint.parse(self.ready["endpoint"])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def nodes(self) -> list[int]:
        """Return the numbers of the processes, by their age."""
        pid = self.parent.pid
        return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def name(self) -> str:
        """Connect, and return the name of the node that answers."""
        with Peer(self.endpoint) as peer:
            return str(peer.ask("hello")["node"])

    def wait_named(self, *names: str) -> None:
        """Wait until all of these have answered."""
        seen: set[str] = set()

        def answered() -> bool:
            try:
                seen.add(self.name())
            except (OSError, AssertionError):
                return False  # it was in the queue of one that has ended
            return seen >= set(names)

        wait_until(answered, f"{names} to answer", SECONDS)


def send_until_stuck(peer: socket.socket) -> None:
    while True:
        peer.send(b'{"op":"ping","id":1}\n' * 100)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # One whose parent was killed may have nobody here to take note of its end.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def site(tmp_path: Path) -> PretendedSite:
    return PretendedSite(tmp_path)


@contextmanager
def nodes(
    site: PretendedSite, tmp_path: Path, *flags: str, count: int = 2, script: str = ""
) -> Iterator[Served]:
    """Run nodes while the block runs; none may be left afterwards.

    Args:
        site: has the store.
        tmp_path: a folder.
        flags: of the command.
        count: how many nodes.
        script: what the parent does before anything else.
    """
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    twinline.environment |= site.environment
    log = tmp_path / "log"
    serve = ("serve", "--json", "--nodes", str(count), "--node", "web", "--store", site.url)
    with log.open("w") as stderr:
        listen = () if "--listen" in flags else ("--listen", "tcp://127.0.0.1:0")
        script = f"{script}\nimport sys; from twinline.cli.main import main; main(sys.argv[1:])"
        parent = twinline.python(script, *serve, *listen, *flags, stderr=stderr)
    with ended(parent):
        served = Served(parent, log)
        pids = served.nodes()
        try:
            yield served
        finally:
            pids += served.nodes() if parent.poll() is None else []
            for pid in pids:
                if not gone(pid) and parent.poll() is not None:
                    wait_until(lambda pid=pid: gone(pid), "a node to end with its parent", SECONDS)


def test_nodes_share_a_port_and_are_looked_after(site: PretendedSite, tmp_path: Path) -> None:
    with nodes(site, tmp_path, "--listener", "loop") as served, ExitStack() as stack:
        assert served.ready["durability"] == "process"
        served.wait_named("web-1", "web-2")
        before = served.nodes()
        assert len(before) == 2
        # Each is kept on a processor of its own.
        kept = [os.sched_getaffinity(pid) for pid in before]
        if len(os.sched_getaffinity(0)) > 1:
            assert kept[0] != kept[1]
            assert {len(each) for each in kept} == {1}
        served.parent.send_signal(signal.SIGHUP)
        told = "there is nothing to read again"
        wait_until(lambda: served.log.count(told) == 2, "both to have read again", SECONDS)
        # One that dies is started again; meanwhile the others serve.
        os.kill(before[0], signal.SIGKILL)
        wait_until(
            lambda: len(served.nodes()) == 2 and before[0] not in served.nodes(), "another", SECONDS
        )
        killed = "node web-1 was ended by SIGKILL; it is started again in "
        wait_until(lambda: killed in served.log, "that is told", SECONDS)
        served.wait_named("web-1", "web-2")
        # And so is one that was told to end, by which it is renewed alone.
        os.kill(before[1], signal.SIGTERM)
        wait_until(lambda: "node web-2 ended with exit code 0" in served.log, "it", SECONDS)
        served.wait_named("web-1", "web-2")
        assert site.opened == 4
        watching = stack.enter_context(Peer(served.endpoint)).enter("ann")
        watching.send_line(op="watch", id=2, after=0, wait=60)
        last = served.nodes()
        # As systemd does, to each process of the service.
        for pid in (*last, served.parent.pid):
            os.kill(pid, signal.SIGTERM)
        assert served.parent.wait(SECONDS) == 0, served.log
        assert watching.read_line()["error"]["code"] == "shutting_down"
        assert all(map(gone, last))
        assert served.parent.stdout is not None
        assert served.parent.stdout.read() == ""
    named = re.compile(r"\S+Z [A-Z]+ node=web(-[12])? [a-z_.]+: ")
    assert [line for line in served.log.splitlines() if not named.match(line)] == []


def test_nodes_drain_when_their_parent_is_killed(site: PretendedSite, tmp_path: Path) -> None:
    with nodes(site, tmp_path, "--log-format", "json") as served, Peer(served.endpoint) as peer:
        peer.enter("ann").send_line(op="watch", id=2, after=0, wait=60)
        pids = served.nodes()
        served.parent.kill()
        assert peer.read_line()["error"]["code"] == "shutting_down"
        for pid in pids:
            wait_until(lambda pid=pid: gone(pid), "a node to end", SECONDS)
    said = [json.loads(line) for line in served.log.splitlines()]
    assert {each["node"] for each in said} <= {"web", "web-1", "web-2"}
    assert any(each.get("event") == "account_created" for each in said)


def test_a_second_signal_ends_all_at_once(site: PretendedSite, tmp_path: Path) -> None:
    patience = ("--drain-seconds", "60", "--write-seconds", "60", "--login-seconds", "60")
    with nodes(site, tmp_path, *patience) as served, closing(socket.socket()) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.settimeout(1.5)
        stuck.connect((served.endpoint.host, served.endpoint.port))
        with pytest.raises(TimeoutError):
            send_until_stuck(stuck)
        pids = served.nodes()
        served.parent.send_signal(signal.SIGTERM)
        wait_until(lambda: any(map(gone, pids)), "the other to have drained", SECONDS)
        assert served.parent.poll() is None
        served.parent.send_signal(signal.SIGTERM)
        assert served.parent.wait(5) == 128 + signal.SIGTERM
        wait_until(lambda: all(map(gone, pids)), "no node to be left", 5)


def test_a_node_that_no_signal_reaches_is_killed_when_its_time_is_up(
    site: PretendedSite, tmp_path: Path
) -> None:
    soon = "from twinline.cli.server import nodes; nodes._LATE_SECONDS = 4.0"
    with nodes(site, tmp_path, "--drain-seconds", "0.2", script=soon) as served:
        halt(served.nodes()[1])
        served.parent.terminate()
        assert served.parent.wait(SECONDS) == 1
    assert "nodes that have not ended in time are killed" in served.log
    assert '"message": "node web-2 was ended by SIGKILL while it drained"' in served.log


def test_a_node_that_cannot_start_again_ends_nothing(site: PretendedSite, tmp_path: Path) -> None:
    with nodes(site, tmp_path) as served:
        site.say(refused="the database is away")
        first, second = served.nodes()
        os.kill(first, signal.SIGKILL)
        failed = "node web-1 failed: the database is away; it is started again in "
        wait_until(lambda: served.log.count(failed) >= 2, "it to fail twice", SECONDS)
        assert served.name() == "web-2"
        site.say()
        served.wait_named("web-1")
        assert second in served.nodes()
        served.parent.terminate()
        assert served.parent.wait(SECONDS) == 0


def test_a_store_that_is_refused_ends_all_and_is_told_once(
    site: PretendedSite, tmp_path: Path
) -> None:
    site.say(refused="the store's policy is another one")
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    twinline.environment |= site.environment
    serve = ("serve", "--nodes", "3", "--store", site.url, "--listen", "tcp://127.0.0.1:0")
    with ended(twinline.start(*serve)) as parent:
        out, err = parent.communicate(timeout=SECONDS)
    assert (parent.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "twinline: the store's policy is another one"
    assert err.count("policy") == 1
    assert site.opened == 1  # the others were not even started


def test_a_signal_while_the_first_node_starts_ends_all(site: PretendedSite, tmp_path: Path) -> None:
    site.say(slow=60)
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    twinline.environment |= site.environment
    serve = ("serve", "--nodes", "2", "--store", site.url, "--listen", "tcp://127.0.0.1:0")
    with ended(twinline.start(*serve)) as parent:
        wait_until(lambda: site.opened == 1, "the store to be about to open", SECONDS)
        parent.terminate()
        assert parent.wait(SECONDS) == 0


@pytest.mark.parametrize(
    ("listen", "store", "said"),
    [
        ("tcp://127.0.0.1:0", "memory:", "a store memory: is one server's alone"),
        ("tcp://127.0.0.1:0", "sqlite:x.db", "a store sqlite: is one server's alone"),
        ("unix:/tmp/s", "pretended:x", "unix:/tmp/s is a Unix socket, and belongs to one process"),
    ],
)
def test_what_nodes_cannot_share_is_refused_before_any_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, listen: str, store: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    PretendedSite(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("twinline.toml").write_text(f'listen = "{listen}"\nstore = "{store}"\nnodes = 2\n')
    for command in (("serve",), ("config", "check", "twinline.toml")):
        assert said in twinline.run(*command, code=2).stderr
    assert not Path("x.db").exists()


def test_a_port_that_another_server_has_is_not_shared_with_it(
    monkeypatch: pytest.MonkeyPatch, site: PretendedSite, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    with closing(socket.socket()) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        place = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        told = twinline.run(
            "serve", "--nodes", "2", "--store", site.url, "--listen", place, code=1
        ).stderr
    assert told == f"twinline: cannot listen on {place}: Address already in use\n"
    assert site.opened == 0


def test_the_pauses_before_a_node_is_started_again() -> None:
    node = Node(Settings(), Place("web-1"))
    pauses = [node.wait() for _ in range(12)]
    for number, seconds in enumerate(pauses):
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**number)
        assert longest / 2 <= seconds <= longest
    # One that has served for a while begins anew.
    node._steady = Deadline.after(0)
    assert node.wait() <= FIRST_PAUSE_SECONDS


def test_a_node_that_takes_nothing_in_does_not_hold_up_its_parent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parents, "_SEND_SECONDS", 0.05)
    # What runs reads nothing of what it is told.
    monkeypatch.setattr(parents, "_COMMAND", (sys.executable, "-c", "import time; time.sleep(60)"))
    node = Node(Settings(), Place("web-1"))
    with Waker() as waker:
        parent = parents.Nodes([node], waker, 1)
        node.start()
        try:
            for _ in range(1_000):
                parent.reload(Settings(), None)
            parent._pass_on()
            wait_until(lambda: node.ended() == "was ended by SIGKILL", "the node to be killed")
        finally:
            node.kill()


def test_a_channel_reads_whole_lines_and_sees_the_end() -> None:
    ours, theirs = (Channel(end) for end in socket.socketpair())
    assert ours.send(stop=True)
    assert theirs.receive() == [{"stop": True}]
    theirs._socket.sendall(b'{"ready"')
    assert ours.receive() == []
    theirs._socket.sendall(b': 1}\n{"x": 2}\nno')
    assert ours.receive() == [{"ready": 1}, {"x": 2}]
    theirs._socket.sendall(b"thing\n")
    with pytest.raises(ChannelError):
        ours.receive()
    theirs.close()
    assert ours.receive() is None
    assert not ours.send(stop=True)
    ours.close()


def test_a_machine_of_any_name_gives_one_to_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, name in (
        ("web1.example.org", "web1.example.org"),
        ("Büro 1", "B-ro-1"),
        ("", "node"),
    ):
        monkeypatch.setattr(socket, "gethostname", lambda found=found: found)
        assert machine_name() == name
    monkeypatch.setattr(socket, "gethostname", lambda: "x" * 99)
    assert Settings(node=machine_name()).node == "x" * 48


def test_each_of_many_nodes_hashes_on_its_share_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [Place("web", 0, count).threads_to_hash for count in (1, 3, 8, 99)] == [8, 2, 1, 1]


# -- their operator ---------------------------------------------------------------------


def test_each_node_has_an_admin_socket_and_one_order_drains_all(
    site: PretendedSite, tmp_path: Path
) -> None:
    path = tmp_path / "admin"
    operator = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    operator.environment["TWINLINE_ADMIN_LISTEN"] = f"unix:{path}"
    with nodes(site, tmp_path, "--admin-listen", f"unix:{path}") as served:
        served.wait_named("web-1", "web-2")
        assert not path.exists()
        assert path.with_name("admin.0").is_socket()
        assert path.with_name("admin.1").is_socket()
        with Peer(served.endpoint), Peer(served.endpoint):
            (shown,) = operator.json("top", "--once", "--interval", "0.2")
        assert [each["node"] for each in shown["servers"]] == ["web-1", "web-2"]
        assert len(shown["connections"]) == 2
        levels = operator.json("admin", "log-level", "warning")
        assert levels == [{"node": name, "level": "warning"} for name in ("web-1", "web-2")]
        # One that is not there is left out.
        killed = served.nodes()[0]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in served.nodes(), "the node to be gone", SECONDS)
        assert operator.json("admin", "accounts") == []
        served.wait_named("web-1")
        wait_until(
            lambda: len(operator.json("admin", "log-level")) == 2, "both to be back", SECONDS
        )
        drained = operator.json("admin", "drain")
        assert {each["node"] for each in drained} <= {"web-1", "web-2"}
        assert served.parent.wait(SECONDS) == 0
        assert list(tmp_path.glob("admin*")) == []
