"""What runs the configurations of the pages: a server, a proxy in front, and a client behind."""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from certificates import Certificates
from cli_server import ended
from click.testing import CliRunner
from waiting import wait_until

from twinline.cli.main import main
from twinline.transports.client import Client, StateKind
from twinline.transports.endpoints import Endpoint
from twinline.transports.tls import client_context

PASSWORD = "correct horse"
PROGRAMS = f"{os.environ['PATH']}:/usr/sbin"
"""Where servers are, which not every user's path has."""


def swapped(text: str, swaps: dict[str, str]) -> str:
    """Put what is here in the place of what the page has."""
    for old, new in swaps.items():
        assert old in text, f"{old} is not in {text}"
        text = text.replace(old, new)
    return text


class Server:
    """`twinline serve` as a process of its own, with the settings of the page.

    Attributes:
        log: what it has said on stderr, with one line for each client that says hello.
    """

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")


@contextmanager
def serving(settings: str, folder: Path, **environment: str) -> Iterator[Server]:
    """Serve while the body runs, with the settings of a page and more variables."""
    config, log = folder / "twinline.toml", folder / "log"
    config.write_text(f'log_level = "debug"\n{settings}', encoding="utf-8")
    checked = CliRunner().invoke(main, ["config", "check", str(config)])
    assert (checked.exit_code, checked.output) == (0, f"{config} is fine\n")
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "twinline.cli", "serve", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | environment,
        )
    with ended(process):
        assert process.stdout is not None
        for _ in range(settings.partition("\n")[0].count("://") or 1):
            line = process.stdout.readline()
            assert line.startswith("listening on "), log.read_text(encoding="utf-8")
        yield Server(process, log)


class Talker:
    """A client that has logged in, and writes to itself.

    Attributes:
        seen: the states that it has come to.
    """

    def __init__(
        self, endpoint: Endpoint, certificates: Certificates, *, steady: bool = True
    ) -> None:
        """Prepare; `steady` is whether the first connections must hold."""
        self._steady = steady
        self.seen: list[StateKind] = []
        self._client = Client(
            endpoint,
            tls=client_context(ca_file=str(certificates.ca.file)),
            on_state=lambda state: self.seen.append(state.kind),
        )
        self._mail = self._client.messages(timeout=20)

    def __enter__(self) -> Self:
        self._client.create_account("ann", PASSWORD)
        self.hear("at first")
        assert not self._steady or StateKind.RECONNECTING not in self.seen
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.close()

    def hear(self, body: str) -> None:
        """Send a message, and get it."""
        self._client.send("ann", body)
        assert next(self._mail).body == body


def haproxy(block: str, folder: Path) -> list[str]:
    """Write a configuration with Debian's defaults before a block, and return the command."""
    file = folder / "haproxy.cfg"
    file.write_text(
        "global\n    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets\n"
        "defaults\n    mode http\n    option dontlognull\n    timeout connect 5000\n"
        f"    timeout client 50000\n    timeout server 50000\n{block}"
    )
    return ["haproxy", "-db", "-f", str(file)]


@contextmanager
def short_folder() -> Iterator[Path]:
    """Make a folder whose path leaves room for that of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="twinline-") as folder:
        yield Path(folder)


@contextmanager
def proxying(command: list[str], port: int, folder: Path) -> Iterator[Path]:
    """Run a proxy while the body runs, and yield the file with what it says."""
    log = folder / "proxy.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ
            | {"PATH": PROGRAMS, "HOME": str(folder), "XDG_DATA_HOME": str(folder / "data")},
        )

    def listens() -> bool:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    with ended(process):
        wait_until(listens, "the proxy listens")
        yield log
