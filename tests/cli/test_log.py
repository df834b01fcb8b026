"""The log of `twinline serve`: nobody waits for its reader, and what is lost is told."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_server import CommandLine, ended
from listening import Hold
from waiting import Call, join, wait_event, wait_until

from twinline.cli.server.log import JsonFormatter, QueuedLog, TextFormatter, log_of, server_log
from twinline.cli.settings.model import Settings
from twinline.core import events
from twinline.core.events import Event, record_of

CAPACITY = 16


class StuckReader:
    """Takes lines of a log once it is let go."""

    def __init__(self) -> None:
        self.text = ""
        self.began, self.go_on = threading.Event(), threading.Event()

    def write(self, data: bytes) -> None:
        self.began.set()
        wait_event(self.go_on, "the reader to go on")
        self.text += data.decode()


class Log:
    """A logger of its own, and the reader of its log."""

    def __init__(self) -> None:
        self.reader = StuckReader()
        self.handler = QueuedLog(self.reader.write, CAPACITY)
        self.logger = logging.Logger("test", logging.DEBUG)  # noqa: LOG001 - of this test alone
        self.logger.addHandler(self.handler)
        self.logger.info("first")
        wait_event(self.reader.began, "the first line")  # from now on lines wait

    def lines(self) -> list[str]:
        """Let the reader go on, and return the messages of all that was written."""
        self.reader.go_on.set()
        self.handler.stop(20)
        return [line.partition(" test: ")[2] or line for line in self.reader.text.splitlines()]


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.reader.go_on.set()
    log.handler.stop(20)


def test_the_end_waits_for_a_thread_that_does_not_run_and_not_for_a_reader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine the last lines, which say why it ends, are written all the same."""
    reader, hold, take = StuckReader(), Hold(), QueuedLog._take
    monkeypatch.setattr(QueuedLog, "_take", lambda handler: (hold(), take(handler))[1])
    handler = QueuedLog(reader.write, CAPACITY)
    hold.wait_reached()
    logger = logging.Logger("test", logging.DEBUG)  # noqa: LOG001 - of this test alone
    logger.addHandler(handler)
    logger.info("the last")
    stopping = Call(lambda: handler.stop(0.01))
    with pytest.raises(pytest.fail.Exception, match="has not ended"):
        stopping.outcome(0.2)  # it would have been over by now
    hold.release()
    wait_event(reader.began, "the last line")
    stopping.outcome(4)  # although nobody reads it
    reader.go_on.set()
    handler.stop(20)
    assert "the last" in reader.text


def test_lines_that_wait_are_written_in_order(log: Log) -> None:
    for number in range(5):
        log.logger.info("line %d", number)
    assert log.lines() == ["first", *(f"line {number}" for number in range(5))]


def test_debug_lines_are_lost_first_and_warnings_have_a_reserve(log: Log) -> None:
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        for number in range(CAPACITY):
            log.logger.log(level, "%d-%d", level, number)
    first, told, *rest = log.lines()
    assert first == "first"
    assert told.endswith(
        "48 lines of the log are lost, for it was not read in time: "
        "8 debug, 12 info, 12 warning, 16 error"
    )
    assert " WARNING " in told
    kept = [10] * 8 + [20] * 4 + [30] * 4
    assert [int(line.partition("-")[0]) for line in rest] == kept


def test_what_is_lost_is_told_by_the_very_next_line_and_once(log: Log) -> None:
    for _ in range(CAPACITY):
        log.logger.debug("x")
    log.logger.warning("after")
    lines = log.lines()
    assert "8 lines of the log are lost" in lines[1]
    assert lines[2:] == ["x"] * 8 + ["after"]


def test_logging_returns_while_nobody_reads(log: Log) -> None:
    threads = [
        threading.Thread(target=lambda: [log.logger.error("x") for _ in range(1_000)], daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    assert log.handler._waiting == CAPACITY
    assert log.handler._wakes.qsize() <= 2


def test_a_line_that_cannot_be_formatted_is_told_by_the_log_and_not_on_stderr(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    log.logger.info("%d", "no number")
    assert re.search(r"a line of test:\d+ cannot be formatted: '%d'", log.lines()[1])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_an_event_of_somebody_else_is_an_ordinary_line(
    log: Log, formatter: logging.Formatter
) -> None:
    log.handler.setFormatter(formatter)
    for _ in range(2 * CAPACITY):
        log.logger.info("theirs", extra={"event": "theirs", "fields": 1})
    assert sum("theirs" in line for line in log.lines()) == CAPACITY * 3 // 4


def test_a_level_that_an_operator_has_set_stays_until_the_setting_changes() -> None:
    root = logging.getLogger()
    before = root.level
    with log_of(Settings(log_level="info"), None) as in_force:
        root.setLevel(logging.DEBUG)
        in_force.follow(Settings(log_level="info", log_queue=99))
        assert root.level == logging.DEBUG
        in_force.follow(Settings(log_level="warning"))
        assert root.level == logging.WARNING
        in_force.follow(Settings(log_level="info"))
        assert root.level == logging.INFO
    assert root.level == before


def test_what_ends_a_thread_is_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    def fails() -> None:
        raise ZeroDivisionError("in a thread")

    before = threading.excepthook, logging.getLogger().level, logging.getLogger().handlers[:]
    with server_log("info", CAPACITY):
        thread = threading.Thread(target=fails, name="the failing one")
        thread.start()
        join(thread)
        logging.getLogger("test").debug("too low")
    assert (
        threading.excepthook,
        logging.getLogger().level,
        logging.getLogger().handlers[:],
    ) == before
    text = capfd.readouterr().err
    assert "ERROR twinline.cli.server.log: the thread the failing one failed" in text
    assert "ZeroDivisionError: in a thread" in text
    assert "too low" not in text


def test_a_process_whose_log_is_stuck_ends_all_the_same() -> None:
    """Its interpreter wants the lock of sys.stderr when it ends."""
    script = """
import logging, sys
from twinline.cli.server.log import server_log
with server_log("info", 1000):
    for _ in range(1000): logging.info("x" * 1000)
sys.exit(7)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            assert process.wait(30) == 7
        finally:
            process.kill()


def test_a_server_whose_stderr_nobody_reads_serves_and_drains(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    server = twinline.start(
        "serve", "--listen", f"unix:{tmp_path}/s", "--log-level", "debug", "--log-queue", "50"
    )
    with ended(server), contextlib.ExitStack() as sockets:
        assert server.stdout is not None
        assert server.stdout.readline()

        def connected() -> socket.socket:
            peer = sockets.enter_context(socket.socket(socket.AF_UNIX))
            peer.settimeout(20)
            peer.connect(f"{tmp_path}/s")
            return peer

        # Each is a line of the log: far more than a pipe of 64 KiB holds.
        hello = b'{"op":"hello","id":1,"client":"%s"}\n' % (b"x" * 80)
        peers = [connected() for _ in range(4)]
        for peer in peers:
            answers = sockets.enter_context(peer.makefile("rb"))
            for _ in range(10):
                peer.sendall(hello * 40)
                for _ in range(40):
                    assert b'"ok":true' in answers.readline()
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def failed(formatter: logging.Formatter) -> str:
    try:
        raise ZeroDivisionError("nothing\nmore")  # noqa: TRY301 - the formatter needs a traceback
    except ZeroDivisionError:
        record = logging.Logger("test").makeRecord(  # noqa: LOG001
            "test", logging.ERROR, "file", 1, "it %s", ("broke",), sys.exc_info()
        )
    return formatter.format(record)


def test_each_line_of_a_node_is_told_apart_a_tracebacks_too() -> None:
    first, *rest = failed(TextFormatter("web-1")).splitlines()
    assert first.endswith(" ERROR node=web-1 test: it broke")
    assert rest[0] == "node=web-1 | Traceback (most recent call last):"
    assert rest[-1] == "node=web-1 | more"
    assert all(line.startswith("node=web-1 | ") for line in rest)
    assert " ERROR test: it broke\nTraceback" in failed(TextFormatter())


def test_a_line_of_json_is_one_line() -> None:
    (line,) = failed(JsonFormatter("web-1")).splitlines()
    said = json.loads(line)
    assert said.pop("time") > 1_700_000_000_000
    assert "ZeroDivisionError: nothing\nmore" in said.pop("traceback")
    assert said == {"level": "error", "node": "web-1", "logger": "test", "message": "it broke"}
    assert "node" not in json.loads(failed(JsonFormatter()))


# -- events ---------------------------------------------------------------------------------


def record_of_event(event: Event, **fields: object) -> logging.LogRecord:
    return record_of(
        event, fields, level=event.level, message=event.sentence % {**fields, "seconds": 1}
    )


def added(number: int) -> logging.LogRecord:
    return record_of_event(events.ACCOUNT_ADDED, username=f"user{number}")


def test_an_event_is_never_the_one_that_is_lost(log: Log) -> None:
    for number in range(2 * CAPACITY):
        log.logger.error("%d", number)
        log.logger.handle(added(number))
    # All others have made room, and the events beyond are counted.
    assert log.handler._waiting == len(log.handler._events) == CAPACITY
    for _ in range(5):
        failed = record_of_event(
            events.LOGIN_FAILED, username="ann", address="192.0.2.1", why="wrong_password"
        )
        log.logger.handle(failed)
    told = log.lines()
    names = [line.rpartition("account ")[2] for line in told if " account_added: " in line]
    assert names == [f"user{number} was added" for number in range(CAPACITY)]
    assert any(f"{2 * CAPACITY} lines of the log are lost" in line for line in told)
    assert any(f"all others: {CAPACITY} account_added, to {CAPACITY} accounts" in t for t in told)
    assert any("address 192.0.2.1: 5 failed logins, to 1 account" in line for line in told)


def test_what_makes_room_for_an_event_is_the_least(log: Log) -> None:
    for level in (logging.ERROR, logging.INFO, logging.DEBUG):
        for number in range(CAPACITY // 4):
            log.logger.log(level, "%d-%d", level, number)
    for number in range(CAPACITY // 2):
        log.logger.handle(added(number))
    lines = log.lines()
    assert "4 lines of the log are lost, for it was not read in time: 4 debug" in lines[1]
    kept = [line for line in lines if re.fullmatch(r"\d+-\d", line)]
    assert kept == [f"40-{number}" for number in range(4)] + [f"20-{number}" for number in range(4)]


def test_what_was_counted_is_told_as_soon_as_the_log_is_read_again(log: Log) -> None:
    for number in range(CAPACITY + 3):
        log.logger.handle(added(number))
    log.reader.go_on.set()
    wait_until(lambda: "all others: 3 account_added" in log.reader.text, "the counts are told")
    assert log.reader.text.count("repeated") == 1


def test_an_event_in_text_is_one_line_with_its_name_and_utc() -> None:
    record = record_of_event(events.TLS_FAILED, address="192.0.2.1", why="no\nline of mine\x1b[2J")
    record.created, record.msecs = 1_795_762_588.114, 114.0
    text = TextFormatter().format(record)
    assert text == (
        "2026-11-27T06:56:28.114Z INFO tls_failed: connection from 192.0.2.1: no␊line of mine␛[2J"
    )
    assert (
        TextFormatter("web-1", with_time=False)
        .format(record)
        .startswith("INFO node=web-1 tls_failed: connection")
    )


def test_an_event_in_json_has_its_fields_beside_its_name() -> None:
    said = json.loads(JsonFormatter().format(added(1)))
    assert said["event"] == "account_added"
    assert said["username"] == "user1"
    assert said["logger"] == "twinline.events"


def test_under_systemd_each_line_has_its_priority_and_no_time(tmp_path: Path) -> None:
    """Standard error is a file that JOURNAL_STREAM names, as the journal's socket is."""
    script = """
import logging
from twinline.cli.server.log import server_log
with server_log("debug", 100):
    for level in (10, 20, 30, 40, 50):
        logging.getLogger("test").log(level, "a line")
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("test").exception("failed")
"""
    outcomes = []
    for own in (True, False):
        path = tmp_path / f"log-{own}"
        with path.open("wb") as stderr:
            found = os.fstat(stderr.fileno())
            stream = f"{found.st_dev}:{found.st_ino if own else found.st_ino + 1}"
            subprocess.run(
                [sys.executable, "-c", script],
                stderr=stderr,
                env={**os.environ, "JOURNAL_STREAM": stream},
                timeout=60,
                check=True,
            )
        outcomes.append(path.read_text().splitlines())
    journal, other = outcomes
    assert journal[:5] == [
        "<7>DEBUG test: a line",
        "<6>INFO test: a line",
        "<4>WARNING test: a line",
        "<3>ERROR test: a line",
        "<2>CRITICAL test: a line",
    ]
    assert len(journal) > 6
    assert all(line.startswith("<3>") for line in journal[5:])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z DEBUG test: a line", other[0])
