"""The embedding examples as processes of their own, and callers that speak HTTP to them."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services import PASSWORD

FOLDER = Path(__file__).parents[2] / "examples" / "embed"
# As its user runs it, and under the check of the lock rule.
START = """
import runpy, sys
from twinline.core.locks import check_locks
check_locks(True)
sys.argv = sys.argv[1:]
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Caller:
    """One connection of HTTP.

    Attributes:
        token: of its session, once it has one.
    """

    def __init__(self, port: int, token: str = "") -> None:
        self.http = HTTPConnection("127.0.0.1", port, timeout=20)
        self.token = token

    def begin(self, method: str, target: str, body: bytes | None = None, **headers: str) -> None:
        """Send a request."""
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        self.http.request(
            method, target, body, {name.replace("_", "-"): value for name, value in headers.items()}
        )

    def finish(self) -> tuple[int, Any]:
        """Read the reply."""
        response = self.http.getresponse()
        return response.status, json.loads(response.read())

    def ask(self, method: str, target: str, **fields: object) -> tuple[int, Any]:
        """Send a request with these fields, and return its reply's status and content."""
        self.begin(method, target, json.dumps(fields).encode() if fields else None)
        return self.finish()

    def enter(self, username: str) -> "Caller":
        """Create an account."""
        status, reply = self.ask("POST", "/accounts", username=username, password=PASSWORD)
        assert status == 200, reply
        self.token = reply["session"]
        return self

    def send(self, to: str, body: str) -> None:
        """Send a message."""
        status, reply = self.ask("POST", "/messages", to=to, body=body)
        assert status == 200, reply

    def close(self) -> None:
        """Hang up."""
        self.http.close()


class Stream:
    """A browser's EventSource: what the server has for it, line by line."""

    def __init__(self, caller: Caller, target: str, **headers: str) -> None:
        self.caller = caller
        caller.begin("GET", target, **headers)
        self.response: HTTPResponse = caller.http.getresponse()
        assert self.response.status == 200, self.response.read()
        assert self.response.headers["Content-Type"].startswith("text/event-stream")
        assert self.response.readline() == b": here is your mail\n"

    def event(self) -> tuple[str, Any]:
        """Return the next event's id, or its name, and its content."""
        name = ""
        while True:
            line = self.response.readline().decode().rstrip("\n")
            field, _, value = line.partition(": ")
            if field in ("id", "event"):
                name = value
            elif field == "data":
                return name, json.loads(value)

    def close(self) -> None:
        """Leave."""
        self.response.close()
        self.caller.close()


class Example:
    """A running example.

    Attributes:
        port: where it listens.
        process: its process.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("listening on http://127.0.0.1:"), line
        self.port = urlsplit(line.split()[-1]).port or 0
        self.process = process
        self._open = ExitStack()

    def caller(self, token: str = "") -> Caller:
        """Return a caller, who hangs up at the end at the latest."""
        caller = Caller(self.port, token)
        self._open.callback(caller.close)
        return caller

    def stream(self, token: str = "", target: str = "/events", **headers: str) -> Stream:
        """Return a browser's stream, which is left at the end at the latest."""
        stream = Stream(self.caller(token), target, **headers)
        self._open.callback(stream.close)
        return stream

    def close(self) -> None:
        """Close what is open at this end."""
        self._open.close()

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def stop(self) -> str:
        """Interrupt it, as Ctrl-C does; return what it said on standard error."""
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(15) == 0
        assert self.process.stderr is not None
        return self.process.stderr.read()


@contextmanager
def example(name: str) -> Iterator[Example]:
    """Run an example while the body does."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, str(FOLDER / name), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            running = Example(process)
            try:
                yield running
            finally:
                running.close()
        finally:
            if process.poll() is None:
                process.kill()
