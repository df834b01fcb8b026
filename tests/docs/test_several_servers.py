"""docs/how-to/several-servers.md: all that it configures, with two servers and PostgreSQLs here."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import postgres_engine
import pytest
from behind_proxies import (
    PROGRAMS,
    Server,
    Talker,
    haproxy,
    proxying,
    serving,
    short_folder,
    swapped,
)
from certificates import Certificates
from docs_blocks import ROOT, Block, blocks_of
from docs_page import free_port
from postgres_engine import PostgresEngine
from waiting import wait_until

from twinline.transports.client import StateKind
from twinline.transports.endpoints import Endpoint

PAGE = ROOT / "docs" / "how-to" / "several-servers.md"
ALPHA, BETA, FRONT = "10.0.0.11", "10.0.0.12", "10.0.0.10"
HERE = "127.0.0.1"
DATABASE_PASSWORD, COPY_PASSWORD = "a-long-one", "another-long-one"


def section(heading: str) -> list[Block]:
    """Return the blocks below a heading, up to the next."""
    parts = re.split(r"^#{2,} (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return blocks_of(parts[parts.index(heading) + 1])


def only(heading: str, language: str, number: int = 0) -> str:
    return [each.text for each in section(heading) if each.language == language][number]


def statements(heading: str) -> list[str]:
    return [each for each in only(heading, "sql").split(";\n") if each.strip()]


# -- the databases ------------------------------------------------------------------------------


def engine_settings() -> dict[str, str]:
    """Return what the page sets, but for the addresses; every one has a comment or a value."""
    text = only("PostgreSQL on alpha", "ini")
    found = dict(re.findall(r"^(\w+) = '(.*)'$", text, re.MULTILINE))
    assert found.pop("listen_addresses") == f"localhost, {ALPHA}"
    assert found
    return found


def allow_as_the_page(engine: PostgresEngine) -> None:
    """Put the page's lines before those that let everybody in."""
    lines = swapped(only("PostgreSQL on alpha", "text"), {"10.0.0.0/24": "127.0.0.0/8"})
    file = engine.data / "pg_hba.conf"
    file.write_text(lines + file.read_text())
    engine.set()


def copied(heading: str, primary: PostgresEngine) -> PostgresEngine:
    """Start a standby whose data are copied as the page does it."""
    text = only(heading, "sh", -1).replace("\\\n", " ")
    (arguments,) = re.findall(r"pg_basebackup -D /var/lib/postgresql/15/main (.*)", text)
    flags, source = re.fullmatch(r"(.*\S) +-d '(.*)'", arguments).groups()  # type: ignore[union-attr]
    source = re.sub(r"host=10\.0\.0\.1\d", f"host={HERE} port={primary.port}", source)

    def copy(data: Path) -> None:
        postgres_engine._give_away(data.parent)
        postgres_engine._run(
            *("pg_basebackup", "-D", str(data), *flags.split()),
            *("-d", f"{source} password={COPY_PASSWORD}"),
        )

    made = object.__new__(PostgresEngine)
    made._begin(engine_settings(), copy)
    return made


def is_waited_for(primary: PostgresEngine, name: str) -> bool:
    """Tell whether the page's query shows what the page shows, of that standby."""
    (query,) = statements("Have the primary wait for it")
    shown = only("Have the primary wait for it", "text").splitlines()[2].split("|")
    name_there, *rest = (each.strip() for each in shown)
    assert name_there == "beta"
    return primary.sql(query) == [(name, *rest)]


# -- the servers --------------------------------------------------------------------------------


class Site:
    """Two servers, each on a port of its own, as the page has them.

    Attributes:
        front: where HAProxy listens.
        ports: of each server, by its name.
        running: by the name.
        proxy_log: what HAProxy says.
    """

    proxy_log: Path

    def __init__(
        self, folder: Path, certificates: Certificates, engines: list[PostgresEngine]
    ) -> None:
        self.front = free_port()
        self.ports = {"alpha": free_port(), "beta": free_port()}
        self.running: dict[str, Server] = {}
        self._folder = folder
        self._hosts = ",".join(f"{HERE}:{engine.port}" for engine in engines)
        self._issued = certificates.server
        self._stacks: dict[str, ExitStack] = {}

    def start(self, name: str) -> None:
        text = swapped(
            only("The servers", "toml"),
            {
                f"{ALPHA},{BETA}": self._hosts,
                f"{ALPHA}:7768": f"{HERE}:{self.ports[name]}",
                f'"{FRONT}"': f'"{HERE}"',
                "chat.example.org:7767": f"{HERE}:{self.front}",
                "/etc/twinline/tls/fullchain.pem": str(self._issued.certificate),
                "/etc/twinline/tls/privkey.pem": str(self._issued.key),
                'node = "alpha"': f'node = "{name}"',
                "drain_spread_seconds = 10": "drain_spread_seconds = 0.5",
            },
        )
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        (variable,) = re.findall(r"^(PGPASSWORD)=(.*)$", only("The servers", "ini"), re.MULTILINE)
        stack = self._stacks[name] = ExitStack()
        server = stack.enter_context(serving(text, folder, **dict([variable])))
        self.running[name] = server

    def end(self, name: str, number: int) -> None:
        server = self.running.pop(name)
        server.process.send_signal(number)
        server.process.wait(20)
        self._stacks.pop(name).close()

    def wait_seen(self, name: str, state: str) -> None:
        """Wait until HAProxy has seen that a server is gone, DOWN, or is there again, UP."""
        told = f"Server twinline/{name} is {state}"
        wait_until(lambda: told in self.proxy_log.read_text(), told)

    def close(self) -> None:
        for stack in self._stacks.values():
            stack.close()

    def proxy(self) -> str:
        block = next(
            each.text for each in section("HAProxy on front") if each.text.startswith("listen")
        )
        return swapped(
            block,
            {
                "bind :::7767 v4v6": f"bind {HERE}:{self.front}",
                f"{ALPHA}:7768": f"{HERE}:{self.ports['alpha']}",
                f"{BETA}:7768": f"{HERE}:{self.ports['beta']}",
                "inter 2s": "inter 500ms",
            },
        )


@contextmanager
def site(certificates: Certificates, engines: list[PostgresEngine]) -> Iterator[Site]:
    with short_folder() as folder, ExitStack() as stack:
        made = Site(folder, certificates, engines)
        stack.callback(made.close)
        made.start("alpha")
        made.start("beta")
        command = haproxy(made.proxy(), folder)
        made.proxy_log = stack.enter_context(proxying(command, made.front, folder))
        yield made


def test_two_servers_outlive_each_other_and_a_database(certificates: Certificates) -> None:
    if reason := postgres_engine.missing():
        pytest.skip(reason)
    if shutil.which("haproxy", path=PROGRAMS) is None:
        pytest.skip("haproxy is not here")
    with ExitStack() as stack:
        alpha = PostgresEngine(**engine_settings())
        stack.callback(alpha.close)
        allow_as_the_page(alpha)
        for statement in statements("PostgreSQL on alpha"):
            alpha.sql(statement)
        beta = copied("The standby on beta", alpha)
        stack.callback(beta.close)
        names = re.fullmatch(
            r"synchronous_standby_names = '(.*)'\n", only("Have the primary wait for it", "ini")
        )
        assert names is not None
        for engine in (alpha, beta):
            engine.set(synchronous_standby_names=names[1])
        wait_until(lambda: is_waited_for(alpha, "beta"), "the standby is waited for")

        with site(certificates, [alpha, beta]) as servers:
            front = Endpoint.parse(f"tls://{HERE}:{servers.front}")
            with Talker(front, certificates, steady=False) as ann:
                ann.seen.clear()
                # Her two connections are at two servers, for each time it is the one with fewer.
                for name, number in (("alpha", signal.SIGTERM), ("beta", signal.SIGKILL)):
                    servers.end(name, number)
                    ann.hear(f"when the server of {name} is gone")
                    servers.wait_seen(name, "DOWN")  # one that is back sooner never comes UP
                    servers.start(name)
                    servers.wait_seen(name, "UP")
                assert StateKind.LOGGED_OUT not in ann.seen
                look(alpha, "beta")
                alpha.kill()
                beta.sql(promotion())
                again = copied("When alpha fails", beta)
                stack.callback(again.close)
                wait_until(lambda: is_waited_for(beta, "alpha"), "the old one is waited for")
                ann.hear("when alpha has come back")
                look(beta, "alpha")
            for server in servers.running.values():
                assert server.process.poll() is None, server.log


def promotion() -> str:
    """Return the statement that promotes."""
    (found,) = re.findall(r"psql -c '(.*)'", only("When alpha fails", "sh"))
    return str(found)


def counted(engine: PostgresEngine) -> int:
    """Return how many connections the servers have."""
    (number,) = engine.sql(statements("What to watch")[-1])[0]
    return int(number)


def look(engine: PostgresEngine, standby: str) -> None:
    """Look at what is to be watched: all is well, as the page says it."""
    standbys, slots, notices, connections = statements("What to watch")
    assert [row[:3] for row in engine.sql(standbys)] == [(standby, "streaming", "sync")]
    assert [row[:3] for row in engine.sql(slots)] == [(standby, True, "reserved")]
    assert engine.sql(notices)[0][0] < 0.01
    assert 0 < engine.sql(connections)[0][0] <= 20


def test_the_hook_hands_the_certificate_to_each_server(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("ssh", "scp"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>"{tmp_path}/said"\n')
    (programs / "hook").write_text(only("The servers", "sh"))
    for each in programs.iterdir():
        each.chmod(0o755)
    subprocess.run(
        [programs / "hook"],
        env={"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "RENEWED_LINEAGE": "/new"},
        check=True,
        timeout=20,
    )
    said = (tmp_path / "said").read_text().splitlines()
    for address in (ALPHA, BETA):
        mine = [line for line in said if f"root@{address}" in line]
        assert [line.split()[0] for line in mine] == ["ssh", "scp", "ssh"]
        assert "/new/fullchain.pem /new/privkey.pem" in mine[1]
        assert mine[2].endswith("/usr/local/sbin/twinline-certificate")
