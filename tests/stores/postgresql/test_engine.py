"""The engine that the other tests stand on: it fails and comes back as they ask it to."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from postgres_engine import PostgresEngine, StartEngine
from waiting import Call, wait_until

SUPPORT = Path(__file__).parents[2] / "support"
SSL_REQUEST = b"\0\0\0\x08\x04\xd2\x16\x2f"
RUN = """
import sys, signal
sys.path.insert(0, {support!r})
import orphans
orphans.watch_over_this_process()
from postgres_engine import PostgresEngine
engine = PostgresEngine()
engine.pause()
print(engine.data, flush=True)
signal.pause()
"""


def numbers(engine: PostgresEngine, database: str) -> list[int]:
    rows = engine.sql("SELECT number FROM numbers ORDER BY number", database=database)
    return [number for (number,) in rows]


def add(engine: PostgresEngine, database: str, number: int) -> None:
    engine.sql("INSERT INTO numbers VALUES (%s)", number, database=database)


def test_an_engine_keeps_what_it_has_said_and_its_port(start_postgres: StartEngine) -> None:
    engine = start_postgres()
    database = engine.new_database()
    engine.sql("CREATE TABLE numbers (number integer)", database=database)
    add(engine, database, 1)
    url = engine.url(database)
    engine.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    engine.start()
    assert numbers(engine, database) == [1]
    engine.restart()
    assert engine.url(database) == url
    copy = engine.new_database(database)
    assert numbers(engine, copy) == [1]
    assert engine.sql("SHOW fsync") == engine.sql("SHOW full_page_writes") == [("on",)]


def test_a_paused_engine_answers_when_it_goes_on(start_postgres: StartEngine) -> None:
    engine = start_postgres()
    with psycopg.connect(engine.url(), autocommit=True) as connection:
        with engine.paused(f"pid = {connection.info.backend_pid}"):
            asked = Call(lambda: connection.execute("SELECT 1").fetchall())
            assert engine.sql("SELECT 2") == [(2,)], "the others go on"
            assert asked.result is None
        assert asked.outcome() == [(1,)]
        engine.pause()
        asked = Call(lambda: engine.sql("SELECT 3"))
        with socket.create_connection(("127.0.0.1", engine.port)) as peer:
            peer.settimeout(0.2)
            peer.sendall(SSL_REQUEST)
            with pytest.raises(TimeoutError):
                peer.recv(1)
        engine.go_on()
        assert asked.outcome() == [(3,)]


def test_a_standby_has_what_was_waited_for(start_postgres: StartEngine) -> None:
    primary = start_postgres()
    database = primary.new_database()
    primary.sql("CREATE TABLE numbers (number integer)", database=database)
    standby = primary.standby(synchronous=True)
    try:
        add(primary, database, 1)
        either = primary.url(database, standby)
        primary.kill()
        standby.promote()
        with psycopg.connect(either) as connection:
            assert connection.info.port == standby.port
        assert numbers(standby, database) == [1]
        add(standby, database, 2)
    finally:
        standby.close()


def test_settings_are_read_at_once(start_postgres: StartEngine) -> None:
    engine = start_postgres(synchronous_commit="off")
    assert engine.sql("SHOW synchronous_commit") == [("off",)]
    engine.set(synchronous_commit=None, application_name="it's")
    assert engine.sql("SHOW synchronous_commit") == [("on",)]


def test_nothing_is_left_of_a_run_that_is_killed(start_postgres: StartEngine) -> None:
    del start_postgres  # only where engines can be started
    run = subprocess.Popen(
        [sys.executable, "-c", RUN.format(support=str(SUPPORT))], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    with run, run.stdout:
        data = run.stdout.readline().strip()
        assert any(works_in(pid, data) for pid in pids())
        run.send_signal(signal.SIGKILL)
    wait_until(lambda: not Path(data).parent.exists(), "the folder is removed")
    assert not Path(data).parent.exists()
    assert not [pid for pid in pids() if works_in(pid, data)]


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def works_in(pid: int, folder: str) -> bool:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink()) == folder
    except OSError:
        return False
