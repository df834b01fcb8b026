"""`twinline top`: what the listener shows of its connections, and the table made of it."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from admin_server import Administered, administered
from cli_server import CommandLine
from listening import Peer
from services import PASSWORD
from terminal import terminal
from waiting import wait_until

from twinline.cli.admin.table import ORDERS, Look, lasting, lines, number, rates
from twinline.cli.console.shapes import ConnectionRate, ServerState
from twinline.cli.server.admin.replies import OpenConnection
from twinline.transports.client import Client, WatchMode

DAY_MS = 86_400_000


@pytest.fixture
def served() -> Iterator[Administered]:
    with administered() as served:
        for name in ("ann", "bob"):
            served.server.service.add_account(name, PASSWORD)
        yield served


@pytest.fixture
def twinline(served: Administered, tmp_path: Path) -> CommandLine:
    twinline = CommandLine(tmp_path, served.endpoint)
    twinline.environment["TWINLINE_ADMIN_LISTEN"] = served.place
    return twinline


@pytest.mark.usefixtures("each_listener")
def test_a_listener_shows_its_connections() -> None:
    with administered() as served, ExitStack() as stack:
        for name in ("ann", "bob"):
            served.server.service.add_account(name, PASSWORD)
        silent = stack.enter_context(Peer(served.endpoint))
        ann = stack.enter_context(Peer(served.endpoint)).login("ann")
        bob = stack.enter_context(Client(f"{served.endpoint}?transport=binary"))
        bob.login("bob", PASSWORD)
        before = time.time() * 1000

        def seen() -> list[OpenConnection]:
            asked = served.ask("connections")
            return [OpenConnection(**each) for each in asked["connections"]]

        # A line is known by what it speaks before it is logged in.
        wait_until(lambda: [each.username for each in seen()].count("bob") == 2, "bob's two")
        first, second, *both = seen()
        assert (first.username, first.transport, first.requests) == (None, "", 0)
        assert (second.username, second.transport, second.requests) == ("ann", "jsonl", 1)
        assert {each.transport for each in both} == {"binary"}
        assert {each.address for each in (first, second, *both)} == {"127.0.0.1"}
        assert {each.endpoint for each in both} == {served.endpoint.place}
        assert all(before - 60_000 < each.since <= before + 60_000 for each in both)
        sent = b'{"op":"send","id":7,"to":"bob","body":"' + b"x" * 1_000 + b'"}\n'
        ann.send(sent)
        assert ann.read_line()["ok"]
        wait_until(lambda: sum(each.messages for each in seen()) == 1, "bob is sent it")
        after = seen()
        assert after[1].requests == 2
        assert after[1].received == second.received + len(sent)
        assert max(each.sent for each in after[2:]) > 1_000
        silent.close()
        wait_until(lambda: len(seen()) == 3, "one has gone")
        assert [each.number for each in seen()] == [each.number for each in after[1:]]
        page = served.ask("connections", after=after[1].number, limit=1)
        assert [each["number"] for each in page["connections"]] == [after[2].number]
        assert page["more"]
        assert page["server"]["connections"] == 3


def test_a_table_has_what_a_script_gets(served: Administered, twinline: CommandLine) -> None:
    with ExitStack() as stack:
        for name in ("ann", "bob"):
            client = stack.enter_context(Client(served.endpoint, watch=WatchMode.OFF))
            client.login(name, PASSWORD)
        client.send("ann", "to read")
        once = ("top", "--once", "--interval", "0.2")
        (shown,) = twinline.json(*once, "--sort", "name")
        assert [each["username"] for each in shown["connections"]] == ["ann", "bob"]
        assert [each["unread"] for each in shown["connections"]] == [1, 0]
        assert [each["connections"] for each in shown["servers"]] == [2]
        total, titles, *rows = twinline.run(*once, "--sort", "unread").stdout.splitlines()
        assert total.startswith("2 connections of 2 accounts, ")
        assert titles.split()[:3] == ["ACCOUNT", "FROM", "SPEAKS"]
        assert [row.split()[:3] for row in rows] == [
            ["ann", "127.0.0.1", "jsonl"],
            ["bob", "127.0.0.1", "jsonl"],
        ]
        assert rows[0].split()[-1] == "1"
        assert len(twinline.run(*once, "--limit", "1").stdout.splitlines()) == 3
        (shown,) = twinline.json(*once, "--limit", "1")
        assert len(shown["connections"]) == 1


def test_all_pages_are_looked_at(
    served: Administered, twinline: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = served.server.listener.connections
    monkeypatch.setattr(
        served.server.listener,
        "connections",
        lambda *, after, limit: listed(after=after, limit=min(limit, 2)),
    )
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(Peer(served.endpoint))
        served.server.wait_connections(5)
        assert len(served.ask("connections")["connections"]) == 2
        (shown,) = twinline.json("top", "--once", "--interval", "0.2")
        assert len(shown["connections"]) == 5


def test_at_a_terminal_the_table_is_refreshed_until_ctrl_c(
    served: Administered, twinline: CommandLine
) -> None:
    top = terminal("top", "--interval", "0.2", environment=twinline.environment)
    with top as screen, Peer(served.endpoint):

        def shows(words: str) -> None:
            screen.wait(lambda: any(line.startswith(words) for line in screen.lines), words)

        shows("1 connections of 0 accounts")
        with Peer(served.endpoint).login("ann"):
            shows("2 connections of 1 accounts")
        shows("1 connections of 0 accounts")
        screen.type("\x03")
        assert screen.exit_code() == 130


def test_the_table_goes_on_without_a_node_that_does_not_answer(
    served: Administered, twinline: CommandLine, tmp_path: Path
) -> None:
    (tmp_path / "admin.0").symlink_to(served.path)
    twinline.environment["TWINLINE_ADMIN_LISTEN"] = f"unix:{tmp_path}/admin"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/admin.1")
    why = f"no answer: nobody listens on {tmp_path}/admin.1"
    top = terminal("top", "--interval", "0.2", environment=twinline.environment)
    with top as screen:

        def shows(words: str) -> None:
            screen.wait(lambda: any(line.startswith(words) for line in screen.lines), words)

        shows(why[:60])
        with Peer(served.endpoint):
            shows("1 connections of 0 accounts")
            shows(why[:60])
        (tmp_path / "admin.1").unlink()
        screen.wait(
            lambda: (
                any(line.startswith("0 connections") for line in screen.lines)
                and not any("no answer" in line for line in screen.lines)
            ),
            "nobody is missed",
        )
        screen.type("\x03")
        assert screen.exit_code() == 130


# -- the table --------------------------------------------------------------------------


def connection(**fields: object) -> OpenConnection:
    return OpenConnection.model_validate(
        {
            "number": 1,
            "username": "ann",
            "address": "192.0.2.1",
            "endpoint": "tcp://127.0.0.1:7767",
            "transport": "jsonl",
            "since": 1_000,
            "requests": 0,
            "messages": 0,
            "received": 0,
            "sent": 0,
            **fields,
        }
    )


def look(*connections: OpenConnection, now: int, node: str | None = None, pid: int = 1) -> Look:
    server = ServerState(node=node, version="1", pid=pid, now=now, connections=len(connections))
    return Look(server, connections)


def test_rates_are_of_the_time_between_two_looks() -> None:
    before = [look(connection(requests=10, sent=1_000), now=2_000)]
    now = [
        look(
            connection(requests=30, sent=5_000),
            connection(number=2, since=3_000, messages=5),
            now=4_000,
        )
    ]
    old, new = rates(before, now)
    assert (old.requests_per_second, old.sent_per_second) == (10, 2_000)
    assert new.messages_per_second == 5
    # Another process under the same name has other connections.
    (other,) = rates(before, [look(connection(requests=30), now=4_000, pid=2)])
    assert other.requests_per_second == 10


def row(**fields: object) -> ConnectionRate:
    (made,) = rates([], [look(connection(), now=2_000)])
    return made.model_copy(update=fields)


@pytest.mark.parametrize("node", [None, "a-node-with-a-long-name-1"])
def test_it_fits_a_terminal_whatever_is_in_it(node: str | None) -> None:
    wild = row(
        node=node,
        username="x" * 32,
        address="2001:db8:1234:5678:9abc:def0:1234:5678",
        transport="a-long-transport\x1b[2J",
        requests_per_second=123_456_789.0,
        messages_per_second=0.25,
        received_per_second=9.9e14,
        sent_per_second=999.6,
        unread=10**12,
    )
    servers = [look(now=500 * DAY_MS, node=node).server] * (1 if node is None else 2)
    shown = lines(servers, [wild] * 100, 21, 80)
    assert len(shown) == 23
    assert max(map(len, shown)) <= 80
    assert "\x1b" not in "".join(shown)
    assert ("NODE" in shown[1]) == (node is not None)
    wide = lines(servers, [wild], 21, 150)
    assert "ENDPOINT" in wide[1]
    assert "SPEAKS" in wide[1]
    assert ("NODE" in wide[1]) == (node is not None)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.2"),
        (12.34, "12.3"),
        (999, "999"),
        (999.96, "1000"),
        (1_000, "1.0k"),
        (12_345, "12.3k"),
        (99_949, "99.9k"),
        (99_960, "100k"),
        (999_600, "1.0M"),
        (5e9, "5.0G"),
        (9.99e14, "999T"),
    ],
)
def test_a_number_has_six_characters_at_most(value: float, text: str) -> None:
    assert number(value) == text
    assert len(text) <= 6


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0s"), (59.9, "59s"), (60, "1m"), (7_199, "1h"), (86_400 * 9, "9d"), (1e9, "31y")],
)
def test_how_long_a_connection_lasts_is_short(seconds: float, text: str) -> None:
    assert lasting(seconds) == text


@pytest.mark.parametrize(
    ("order", "first"),
    [("rate", "busy"), ("bytes", "large"), ("unread", "full"), ("since", "old"), ("name", "aaa")],
)
def test_it_is_sorted(order: str, first: str) -> None:
    rows = [
        row(username="mmm"),
        row(username=None),
        row(username="busy", requests_per_second=3.0),
        row(username="large", sent_per_second=9.0),
        row(username="full", unread=5),
        row(username="old", since=1),
        row(username="aaa"),
    ]
    assert min(rows, key=ORDERS[order]).username == first
