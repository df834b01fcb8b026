"""`twinline bench` as its user has it: what it prints and draws, and that it leaves nothing."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cli_server import CommandLine, ended
from click.testing import CliRunner
from listening import Server, serving
from services import PASSWORD, make_service
from waiting import wait_until

from twinline.cli.bench import plan
from twinline.cli.bench.figures import (
    FIGURES,
    FLOOR,
    LATENCY_P50,
    SEND_LOADS,
    Book,
    Machine,
    Report,
    Result,
    Who,
)
from twinline.cli.bench.plot import draw
from twinline.cli.bench.report import table, warnings_of
from twinline.cli.main import main

pytestmark = pytest.mark.timeout(300)

DOCS = Path(__file__).parents[3] / "docs"
QUICK = ["--rounds", "1", "--seconds", "0.03"]
NO_TIME = {name for name in (figure.name for figure in FIGURES) if name.startswith("server_us")}
NO_FLOOR = (
    *("polled", "bytes_", "idle_", "send_p99", "8x32", "1x32"),
    *("plain", "blocked", "client", "hogs"),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have a run keep its temporary files here, where they can be seen."""
    kept = tmp_path / "temporary"
    kept.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    monkeypatch.setattr(plan, "_POLL_SECONDS", 0.1)
    monkeypatch.setattr(plan, "PAIRS", 8)  # a password hash each
    monkeypatch.setattr(plan, "_UNWATCHED", 2)
    monkeypatch.setattr(plan, "_UNWATCHED_BY_IDLE", 1)
    yield kept
    assert list(kept.iterdir()) == []


def children() -> list[int]:
    """Return the processes that this one has started and that have not been waited for."""
    found = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [int(pid) for path in found for pid in path.read_text().split()]


def bench(tmp_path: Path, *arguments: str, code: int = 0) -> Report:
    """Run the command with --json and return what it printed."""
    result = CommandLine(tmp_path, "tcp://127.0.0.1:1").run(
        "bench", *QUICK, "--json", *arguments, code=code
    )
    assert result.stdout.count("\n") == 1
    return Report.model_validate_json(result.stdout)


def by_figure(report: Report, transport: str, listener: str = "") -> dict[str, Result]:
    which = (transport, listener)
    return {
        each.figure: each for each in report.results if (each.transport, each.listener) == which
    }


# -- private servers ----------------------------------------------------------------------


def test_everything_is_measured_at_private_servers(tmp_path: Path, folder: Path) -> None:
    plot = tmp_path / "plot.png"
    before = children()
    report = bench(tmp_path, "--store", "memory:", "--idle-users", "8", "--plot", str(plot))
    assert children() == before
    assert plot.read_bytes().startswith(b"\x89PNG\r\n")
    assert (report.rounds, report.seconds, report.idle_users) == (1, 0.03, 8)
    assert report.machine.processors >= 1
    assert {(each.place, each.transport, each.listener) for each in report.results} == {
        *(("memory:", name, kind) for name in ("jsonl", "binary") for kind in ("threads", "loop")),
        ("floor", "direct", ""),
    }
    relayed = by_figure(report, "direct")
    assert {"deliveries_per_second", "delivery_p50_us"} < relayed.keys()
    assert not [name for name in relayed if "send" in name or "ping" in name]
    assert all(result.floor is not None for result in relayed.values())
    for name, kind in itertools.product(("jsonl", "binary"), ("threads", "loop")):
        found = by_figure(report, name, kind)
        assert found.keys() == {figure.name for figure in FIGURES}
        for figure, result in found.items():
            assert result.rounds == (result.median,)
            assert (result.floor is None) == any(word in figure for word in NO_FLOOR), figure
            if result.floor is not None:
                assert result.ratio == pytest.approx(result.median / result.floor)
        rate, cost = found["sends_per_second_64"], found["server_us_per_send_64"]
        assert 50 < rate.median < 1_000_000
        assert 1 < cost.median < 10_000
        # Nobody gets more than two processors' time out of threads that share one lock.
        assert rate.median * cost.median < 2_000_000
        assert 20 < found["delivery_p50_us"].median <= found["delivery_p99_us"].median
        assert 0 < found["polled_p50_ms"].median <= found["polled_p99_ms"].median
        assert 0 < found["load_share_sends_64"].median < 1.5
        assert found["bytes_watch_reply"].median > found["bytes_watch_request"].median
    jsonl, binary = (by_figure(report, name, "loop") for name in ("jsonl", "binary"))
    assert jsonl["bytes_send_reply"].median == 101
    assert binary["bytes_send_request"].median < jsonl["bytes_send_request"].median


def test_a_store_of_the_user_s_own_is_left_without_accounts(tmp_path: Path, folder: Path) -> None:
    store = f"sqlite:{tmp_path / 'mine.db'}"
    report = bench(tmp_path, "--store", store, "--only", "bytes", "--transport", "binary")
    found = {(each.place, each.transport, each.listener) for each in report.results}
    assert found == {(store, "binary", "threads")}
    assert report.idle_users == 0
    stats = CommandLine(tmp_path, "").json("store", "stats", str(tmp_path / "mine.db"))[0]
    assert stats["accounts"] == 0


# -- a deployment -------------------------------------------------------------------------


def usernames(server: Server) -> list[str]:
    with server.peer() as peer:
        peer.enter("looker")
        names: list[str] = peer.ask("list_accounts")["usernames"]
        assert peer.ask("delete_account", password=PASSWORD)["ok"]
    return [name for name in names if name != "looker"]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(service=make_service(free_deleted_names=True)) as running:
        yield running


def test_a_deployment_is_measured_and_left_as_it_was(
    tmp_path: Path, folder: Path, server: Server
) -> None:
    place = str(server.endpoints[0])
    report = bench(tmp_path, "--connect", place, "--transport", "jsonl", "--idle-users", "3")
    found = by_figure(report, "jsonl")
    unknown = NO_TIME | {"idle_user_bytes"}
    assert found.keys() == {figure.name for figure in FIGURES} - unknown
    assert {each.place for each in report.results} == {place, "floor"}
    assert usernames(server) == []
    server.wait_connections(0)


def test_a_deployment_whose_process_is_known(tmp_path: Path, folder: Path, server: Server) -> None:
    report = bench(
        tmp_path,
        *("--connect", str(server.endpoints[0]), "--pid", str(os.getpid())),
        *("--only", "sends, idle", "--transport", "binary", "--idle-users", "2"),
    )
    found = by_figure(report, "binary")
    assert found["server_us_per_send_16"].median > 0
    assert "idle_user_bytes" in found
    assert not {"delivery_p50_us", "bytes_send_request", "polled_p50_ms"} & found.keys()


def test_an_endpoint_says_what_it_speaks(tmp_path: Path, folder: Path) -> None:
    with serving([("tcp://127.0.0.1:0?transport=binary", "auto")]) as server:
        report = bench(tmp_path, "--connect", str(server.endpoints[0]), "--only", "bytes")
    assert {each.transport for each in report.results} == {"binary"}


def test_a_server_that_limits_sends_is_told_from_a_slow_one(tmp_path: Path, folder: Path) -> None:
    service = make_service(sends_per_second=30, free_deleted_names=True)
    with serving(service=service) as server:
        result = CommandLine(tmp_path, server.endpoints[0]).run(
            *("bench", *QUICK, "--only", "sends", "--connect", str(server.endpoints[0])), code=3
        )
        assert usernames(server) == []
    assert result.stdout == ""
    assert "the server refused the load: " in result.stderr
    assert "sends_per_second" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_server_that_is_not_there(tmp_path: Path, folder: Path) -> None:
    command = CommandLine(tmp_path, "")
    result = command.run("bench", "--connect", "tcp://127.0.0.1:1", code=4)
    assert "cannot reach" in result.stderr


# -- the command line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--pid", "1"], "--connect"),
        (["--connect", "tcp://127.0.0.1:1", "--store", "memory:"], "not both"),
        (["--connect", "tcp://127.0.0.1:1", "--listener", "loop"], "not both"),
        (["--only", "sends,speed"], "'speed'"),
        (["--only", "idle", "--connect", "tcp://127.0.0.1:1"], "--idle-users"),
        (["--transport", "auto"], "auto"),
        (["--transport", "jsno"], "jsonl"),
        (["--store", "memroy:"], "memory:"),
        (["--seconds", "0"], "0"),
        (["--plot", "plot.gif"], ".png"),
        (["--plot", "nowhere/plot.png"], "nowhere"),
        (["--plot", "plot.png", "--only", "bytes"], "--only"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    tmp_path: Path, arguments: list[str], word: str
) -> None:
    result = CommandLine(tmp_path, "").run("bench", *arguments, code=2)
    assert word in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_process_that_is_not_there(tmp_path: Path, server: Server) -> None:
    place = str(server.endpoints[0])
    result = CommandLine(tmp_path, place).run(
        *("bench", "--connect", place, "--pid", str(2**22 + 1)), code=2
    )
    assert "no process" in result.stderr


def test_without_matplotlib_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinline.cli.bench.plot.find_spec", lambda name: find_spec(f"no_{name}"))
    file = str(tmp_path / "plot.png")
    result = CommandLine(tmp_path, "").run("bench", "--plot", file, code=1)
    assert "pip install 'twinline[plot]'" in result.stderr
    assert result.stderr.count("\n") == 1


def test_matplotlib_is_imported_only_for_a_plot(tmp_path: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from twinline.cli.main import main\n"
        "assert CliRunner().invoke(main, ['bench', '--help']).exit_code == 0\n"
        "import twinline.cli.bench.plot\n"
        "print('matplotlib' in sys.modules)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)
    assert ran.stdout == b"False\n"


def test_the_help_fits_a_screen() -> None:
    lines = CliRunner().invoke(main, ["bench", "--help"], terminal_width=100).stdout.splitlines()
    assert len(lines) <= 42
    assert max(map(len, lines)) <= 100


# -- ending early -------------------------------------------------------------------------


def mentioning(text: str) -> list[int]:
    """Return the processes in whose environment a text stands."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if text.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_no_process_and_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    kept = tmp_path / "temporary"
    kept.mkdir()
    monkeypatch.setenv("TMPDIR", str(kept))
    command = CommandLine(tmp_path, "")
    arguments = ("bench", "--store", "sqlite:", "--transport", "jsonl", "--only", "latency")
    running = command.start(*arguments, "--rounds", "100", start_new_session=True)
    with ended(running):
        # The run, the floor, and the server, whose file it is.
        wait_until(lambda: list(kept.glob("*/*.db")), "the server's file", 30)
        assert len(mentioning(str(kept))) == 3
        if number is signal.SIGINT:
            os.killpg(running.pid, number)  # a terminal sends it to all that were started there
        else:
            running.send_signal(number)
        stdout, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert stdout == ""
    assert stderr.strip() == "ended before its time, so there are no figures"
    assert list(kept.iterdir()) == []
    assert mentioning(str(kept)) == []


def test_ctrl_c_leaves_no_account(tmp_path: Path, server: Server) -> None:
    place = str(server.endpoints[0])
    arguments = ("bench", "--connect", place, "--only", "sends", "--rounds", "100")
    with ended(CommandLine(tmp_path, place).start(*arguments)) as running:
        server.wait_connections(2 * 64, 30)
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=30)
    assert running.returncode == 130
    assert stderr.strip() == "ended before its time, so there are no figures"
    assert usernames(server) == []


# -- the report ---------------------------------------------------------------------------


def made_up() -> tuple[Book, list[Who]]:
    """Return a book of two rounds in which everybody is slower in the second."""
    book = Book()
    everybody = [
        *(Who("memory:", name, "threads") for name in ("jsonl", "binary")),
        Who("memory:", "jsonl", "loop"),
        Who("sqlite:", "jsonl", "threads"),
    ]
    for at, who in enumerate([FLOOR, *everybody], 1):
        for slowness in (1, 2):
            for load in SEND_LOADS:
                book.add(who, load.rate, 10_000 * load.connections / at / slowness)
                book.add(who, load.server_time, 10.0 * at * slowness)
                book.add(who, load.load_time, 12.0 * slowness)
                book.add(who, load.load_share, 0.5)
            book.add(who, LATENCY_P50, 100.0 * at * slowness)
        book.latencies[who] = [1e-4 * at * (1 + number / 100) for number in range(100)]
    return book, everybody


def report_of(book: Book, everybody: list[Who], **fields: Any) -> Report:
    return Report(
        twinline="1.2.3",
        started_at=1_700_000_000_000,
        machine=Machine(system="Linux", processors=2, python="3.11.0"),
        rounds=2,
        seconds=1,
        idle_users=4000,
        results=book.results(everybody),
        warnings=tuple(warnings_of(book, everybody)),
        **fields,
    )


def test_a_figure_is_compared_with_the_floor_of_its_own_round() -> None:
    book, everybody = made_up()
    (result,) = [
        each
        for each in book.results(everybody)
        if each.figure == "server_us_per_send_64" and each.place == "sqlite:"
    ]
    assert result.rounds == (50, 100)
    assert (result.median, result.floor, result.ratio) == (75, 15, 5)


def test_what_one_side_was_not_asked_for_has_no_ratio() -> None:
    book, everybody = made_up()
    book.add(FLOOR, LATENCY_P50, 1.0)
    ratios = {each.ratio for each in book.results(everybody) if each.figure == LATENCY_P50.name}
    assert ratios == {None}


def columns(label: str, *cells: str) -> str:
    widths = (12, 12, 7, 12, 7)
    return f"{label:42}" + "".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))


def test_the_table() -> None:
    book, everybody = made_up()
    lines = list(table(report_of(book, everybody)))
    assert max(map(len, lines)) <= 100
    assert [line.rstrip() for line in lines[2:6]] == [
        "",
        columns("memory:", "floor", "jsonl", "ratio", "jsonl loop", "ratio"),
        columns("sends/s, 1 connection", "7,500", "3,750", "0.50", "1,875", "0.25"),
        columns("sends/s, 16 connections", "120,000", "60,000", "0.50", "30,000", "0.25"),
    ]
    assert "sqlite:" in "".join(lines)
    assert not any("load µs" in line for line in lines)


def test_one_round_is_one_round() -> None:
    book, everybody = made_up()
    once = report_of(book, everybody).model_copy(update={"rounds": 1})
    assert any(line.startswith("medians of 1 round of") for line in table(once))


def test_a_load_that_costs_more_than_the_server_is_warned_of() -> None:
    book, everybody = made_up()
    # 18 µs of the load: more than the floor's 15, less than anybody else's.
    assert len(list(warnings_of(book, everybody))) == len(SEND_LOADS) - 1  # with one there is none
    assert all("the floor" in warning for warning in warnings_of(book, everybody))
    book.rounds[everybody[0], SEND_LOADS[2].load_share.name] = [0.99]
    (warning,) = [each for each in warnings_of(book, everybody) if "memory: jsonl," in each]
    assert "64 connections" in warning
    assert "99%" in warning


@pytest.mark.parametrize(
    ("ending", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".PDF", b"%PDF")]
)
def test_the_plot_is_of_the_kind_that_the_ending_says(
    tmp_path: Path, ending: str, start: bytes
) -> None:
    book, everybody = made_up()
    path = tmp_path / f"plot{ending}"
    draw(book, everybody, path)
    assert path.read_bytes().startswith(start)
    assert path.stat().st_size > 5_000


def test_the_documentation_has_every_field_and_figure() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    for model in (Report, Result, Machine):
        for name, field in model.model_fields.items():
            assert f"| `{name}` | {field.description} |" in text
    for figure in FIGURES:
        assert f"`{figure.name}`" in text
