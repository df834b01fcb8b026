"""A real server in this process, and the command line as its user has it, for tests."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import log_watch
import pytest
from click.testing import CliRunner, Result
from listening import serving
from services import PASSWORD, cheap_hasher

from twinline.cli.main import main
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.stores.memory import MemoryStore
from twinline.transports.endpoints import Endpoint


@contextmanager
def running_server(place: str = "tcp://127.0.0.1:0", **settings: Any) -> Iterator[Endpoint]:
    """Serve on one endpoint while the body runs."""
    service = ChatService(
        MemoryStore(),
        ServiceSettings(**settings),
        hasher=cheap_hasher(),
    )
    with serving([(place, "auto")], service) as server:
        yield server.endpoints[0]


class CommandLine:
    """Runs `twinline` as one user of a machine: with a state directory of their own."""

    def __init__(self, home: Path, endpoint: object) -> None:
        self.state = home / "state"
        self.place = str(endpoint)
        self.environment = {
            "XDG_STATE_HOME": str(self.state),
            "XDG_CONFIG_HOME": str(home / "config"),
            "TWINLINE_CONNECT": self.place,
            "TWINLINE_PASSWORD": PASSWORD,
            "TWINLINE_CONFIG": "",
            "TWINLINE_USER": "",
        }

    @property
    def session_file(self) -> Path:
        return self.state / "twinline" / "sessions.json"

    def run(self, *arguments: str, input: str | bytes | None = None, code: int = 0) -> Result:
        """Run a command in this process, and see to it that it ends with that code."""
        result = CliRunner().invoke(main, arguments, input=input, env=self.environment)
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr)
        assert "Traceback" not in result.output
        log_watch.look(result.stderr)
        if code not in (0, 130):
            last = result.stderr.splitlines()[-1]
            if "--json" in arguments and "--" not in arguments:
                assert json.loads(last)["exit_code"] == code
            else:
                assert last.startswith("twinline: ")
        return result

    def json(self, *arguments: str, input: str | bytes | None = None) -> list[dict[str, Any]]:
        """Run a command with --json and return the objects that it printed."""
        result = self.run(*arguments, "--json", input=input)
        return [json.loads(line) for line in result.stdout.splitlines()]

    def register(self, *usernames: str) -> None:
        for username in usernames:
            self.run("register", username)

    def bodies(self, user: str) -> list[str]:
        """Return the texts in a user's mailbox, the oldest first."""
        return [message["body"] for message in self.json("history", "--user", user)]

    def unread(self, user: str) -> int:
        """Return how many messages a user has not acknowledged."""
        count: int = self.json("status", "--user", user)[0]["unread"]
        return count

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        return self._popen("-m", "twinline.cli", *arguments, **options)

    def python(self, script: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a script, such as one that runs a command otherwise than it is."""
        return self._popen("-c", script, *arguments, **options)

    def _popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            text=True,
            env={**os.environ, **self.environment, "TWINLINE_CHECK_LOCKS": "1"},
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """Leave no process behind, whatever happens in the body."""
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            log_watch.look(_rest(process.stderr))


def _rest(stream: IO[str] | None) -> str:
    """Return what nobody has read yet of what a process wrote, without waiting for more."""
    if stream is None or stream.closed:
        return ""
    rest = b""
    while select.select([stream], [], [], 0)[0]:
        piece = os.read(stream.fileno(), 65536)
        if not piece:
            break
        rest += piece
    return rest.decode(errors="replace")


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[CommandLine]:
    """Ann and bob have accounts; ann is the one who acts."""
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        twinline.register("bob", "ann")
        yield twinline
