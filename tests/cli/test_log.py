"""The log of `twinline serve`: nobody waits for its reader, and what is lost is told."""

import contextlib
import json
import logging
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
from waiting import join, wait_event

from twinline.cli.server.log import JsonFormatter, QueuedLog, TextFormatter, server_log

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
    assert len(log.handler._others) == CAPACITY
    assert log.handler._wakes.qsize() <= 2


def test_a_line_that_cannot_be_formatted_is_told_by_the_log_and_not_on_stderr(
    log: Log, capfd: pytest.CaptureFixture[str]
) -> None:
    log.logger.info("%d", "no number")
    assert re.search(r"a line of test:\d+ cannot be formatted: '%d'", log.lines()[1])
    assert capfd.readouterr().err == ""


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
