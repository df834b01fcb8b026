"""The comparison with other servers: its frames, its router, its table, and a short run of it."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import peer_brokers
import peer_grpc
import peer_rounds
import peer_twinline
import peer_uvloop
import peer_websockets
import peers
import pytest
from peer_contract import Peer, Server, ask, forget
from peer_router import Router
from peer_table import THREADED, Figures, table, verdicts

from twinline.cli.bench.load import LoadError, Pair, Sample
from twinline.cli.bench.target import ServerProcess
from twinline.cli.bench.watchers import Watcher
from twinline.cli.bench.wire import BODY
from twinline.transports.endpoints import Endpoint

pytestmark = pytest.mark.timeout(300)

SECONDS = 0.05


@pytest.fixture(autouse=True)
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a round be that of 8 connections: each account is a password's hash."""
    monkeypatch.setattr(peer_rounds, "CONNECTIONS", 8)
    monkeypatch.setattr(peer_twinline, "_WATCHED", 8)
    monkeypatch.setattr(peer_twinline, "_UNWATCHED", 4)


SCRIPT = Path(peers.__file__)


def figures(**known: float | None) -> Figures:
    of = dict.fromkeys(Figures.__slots__, 1.0)
    return Figures(**{**of, **known})


# --- frames, against bytes that others have published


def test_a_text_is_framed_as_rfc_6455_shows_it() -> None:
    # Section 5.7: "Hello" unmasked, and masked with 37 fa 21 3d.
    assert peer_websockets.text_frame("Hello") == bytes.fromhex("810548656c6c6f")
    masked = peer_websockets.text_frame("Hello", bytes.fromhex("37fa213d"))
    assert masked == bytes.fromhex("818537fa213d7f9f4d5158")


def test_a_longer_text_has_its_length_in_two_bytes() -> None:
    frame = peer_websockets.text_frame("x" * 126)
    assert frame == bytes.fromhex("817e007e") + b"x" * 126


def test_a_command_is_encoded_as_redis_documents_it() -> None:
    assert peer_brokers.resp("LLEN", "mylist") == b"*2\r\n$4\r\nLLEN\r\n$6\r\nmylist\r\n"


LENGTHS = [(0, "00"), (127, "7f"), (128, "8001"), (16_383, "ff7f"), (16_384, "808001")]


@pytest.mark.parametrize(("length", "digits"), LENGTHS)
def test_a_packet_s_length_is_that_of_mqtt_3_1_1(length: int, digits: str) -> None:
    # Table 2.4 of the standard.
    packet = peer_brokers.mqtt_packet(0x30, b"x" * length)
    assert packet == b"\x30" + bytes.fromhex(digits) + b"x" * length


def test_a_message_that_is_to_be_acknowledged_carries_its_number() -> None:
    # Figure 3.11 of the standard: topic a/b, packet identifier 10.
    assert peer_brokers.mqtt_publish("a/b", "hi", 10) == bytes.fromhex("32090003612f62000a6869")


def test_a_frame_of_http_2_has_nine_bytes_before_its_payload() -> None:
    # RFC 9113, section 4.1: length, type, flags, stream; here PING's acknowledgement.
    ping = peer_grpc.frame(6, 1, 0, b"12345678")
    assert ping == bytes.fromhex("000008060100000000") + b"12345678"
    assert peer_grpc.message(b"hi") == b"\0\0\0\0\x02hi"


# --- the router that the Python peers share


def test_the_router_keeps_what_nobody_watches_and_delivers_the_rest() -> None:
    router: Router[str] = Router()
    first: list[str] = []
    second: list[str] = []
    router.send("ann", "one")
    router.watch("ann", first.append)
    router.send("ann", "two")
    router.send("bob", "other")
    router.watch("ann", second.append)
    router.unwatch("ann", first.append)  # late: somebody else watches by now
    router.send("ann", "three")
    router.unwatch("ann", second.append)
    router.send("ann", "four")
    assert (first, second) == (["one", "two"], ["three"])
    router.watch("ann", second.append)
    assert second == ["three", "four"]


# --- what is kept until it is acknowledged


def test_an_acknowledgement_is_of_all_up_to_its_number() -> None:
    unacked = {2: "two", 3: "three", 5: "five"}
    forget(unacked, 1)
    assert list(unacked) == [2, 3, 5]
    forget(unacked, 3)
    assert list(unacked) == [5]
    forget(unacked, 9)
    assert unacked == {}


@pytest.mark.parametrize(("acked", "again"), [(False, []), (True, [BODY, "two"])])
def test_the_event_loop_keeps_what_is_not_acknowledged_if_it_is_to(
    acked: bool, again: list[str]
) -> None:
    pytest.importorskip("uvloop")
    with peer_uvloop.serve(*(["--acked"] if acked else [])) as server:

        def send(*bodies: str) -> None:
            sender = server.connect(socket.socket)
            for body in bodies:
                ask(sender, peer_uvloop.line(op="send", to="ann", body=body), b"\n")

        def watched(wanted: int) -> tuple[socket.socket, list[str]]:
            watcher = server.connect(socket.socket)
            data = ask(watcher, peer_uvloop.line(op="watch", name="ann"), b"\n")
            while data.count(b"\n") <= wanted:
                data += watcher.recv(1 << 16)
            return watcher, [json.loads(line)["body"] for line in data.splitlines()[1:]]

        send("one", BODY)
        first, bodies = watched(2)
        assert bodies == ["one", BODY]
        first.sendall(peer_uvloop.line(op="ack", seq=1))
        send("two")
        assert json.loads(first.recv(1 << 16))["body"] == "two"
        second, bodies = watched(len(again))
        assert bodies == again
        # It is the second that gets what comes now.
        send("three")
        assert json.loads(second.recv(1 << 16))["body"] == "three"
        server.disconnect()


# --- what is printed


def test_ratios_are_medians_of_those_within_a_round() -> None:
    found = {
        "floor": [figures(p50=10), figures(p50=100), figures(p50=1000)],
        "other": [figures(p50=40), figures(p50=200), figures(p50=3000)],
    }
    printed = table(found, {"floor": "nothing", "other": "a lot"}, "twinline", "floor")
    medians, more, ratios, promises = printed.split("\n\n")
    assert medians.splitlines()[2].split()[:2] == ["other", "200"]
    assert (
        more.splitlines()[2].split()
        == ["other"] + ["1"] * 2 + ["1.0", "1.0", "1", "1", "1.0"] + ["1"] * 3
    )
    assert ratios.splitlines()[2].split()[:2] == ["other", "3.00"]
    assert promises.splitlines()[2].split() == ["other", "a", "lot"]


def test_a_figure_that_nobody_knows_is_a_dash() -> None:
    found = {"floor": [Figures(p50=1, p99=2, deliveries=3, sends=4, single_cost=5)]}
    medians, ratios, _ = table(found, {"floor": "nothing"}, "twinline", "floor").split("\n\n")
    expected = ["floor", "1", "2", "3", "4", "-", "5.0", "-", "0.00"]
    assert medians.splitlines()[1].split() == expected
    assert ratios.splitlines()[1].split() == ["floor", *["1.00"] * 4, "-", "1.00", "-"]


def test_the_verdict_is_against_the_peer_that_is_best_at_each() -> None:
    found = {
        "twinline-jsonl": [figures(p50=50, deliveries=6000)],
        "quick": [figures(p50=100, deliveries=1000)],
        "busy": [figures(p50=400, deliveries=3000)],
    }
    said = verdicts(found, "twinline-jsonl", ["busy", "quick", "no"], THREADED)
    latency, rate, _ = (" ".join(line.split()) for line in said)
    assert latency == "delivery p50 over quick's 0.50 (wanted: <= 1)"
    assert rate == "deliveries/s over busy's 2.00 (wanted: >= 1)"
    assert verdicts(found, "twinline-binary", ["busy"], THREADED) == []
    assert verdicts(found, "twinline-jsonl", ["no"], THREADED) == []


def test_how_twinline_stands_is_said_of_all_that_was_measured() -> None:
    known = {"ping_p99": 900, "flow": 31_000, "client": 19_000, "async_client": None}
    found = {
        "twinline-jsonl": [figures(p50=50, deliveries=9000, delivery_cost=50, **known)],
        "twinline-jsonl-sqlite": [figures(deliveries=6300, sends=2)],
        "twinline-jsonl-loop": [
            figures(p50=52, deliveries=9600, sends=0.5, delivery_cost=1.25, pipelined_cost=9.5)
        ],
        "twinline-jsonl-loop-sqlite": [figures(sends=3)],
        "against-jsonl": [figures(p50=100, delivery_cost=100, ping_p99=1000)],
        "rpyc-pinned": [figures(p50=60, deliveries=6000)],
        "uvloop": [figures(p50=25, deliveries=18_000)],
        "uvloop-acked": [figures(p50=40, deliveries=12_000)],
    }
    said = [" ".join(line.split()) for line in peers.standing(found)]
    heads = [line for line in said if line.endswith(":")]
    assert heads == [
        "twinline-jsonl against the best Python peer with threads:",
        "twinline-jsonl against an event loop on uvloop:",
        "twinline-jsonl against one that promises the same:",
        "twinline-jsonl against the other installation:",
        "twinline-jsonl:",
        "twinline-jsonl-loop against one on uvloop that promises the same:",
        "twinline-jsonl-loop against the best Python peer with threads:",
        "twinline-jsonl-loop:",
        "The event loop on SQLite:",
        "On SQLite:",
    ]
    for line in (
        "delivery p50 over rpyc-pinned's 0.83 (wanted: <= 1)",
        "deliveries/s over uvloop's 0.50 (wanted: >= 1)",
        "deliveries/s over uvloop-acked's 0.75 (wanted: >= 1)",
        "delivery p50 over against-jsonl's 0.50 (wanted: <= 0.75)",
        "server µs a delivery over against-jsonl's 0.50 (wanted: <= 0.65)",
        "p99 of a lone ping over against-jsonl's 0.90 (wanted: <= 1)",
        "messages/s, one pair, 32 under way 31,000 (wanted: >= 30,000)",
        "messages/s, a Client 19,000 (wanted: >= 20,000)",
        "deliveries/s over twinline-jsonl's 0.70 (wanted: >= 0.6)",
        "delivery p50 over uvloop-acked's 1.30 (wanted: <= 1.4)",
        "server µs a delivery over uvloop-acked's 1.25 (wanted: <= 1.5)",
        "deliveries/s over uvloop-acked's 0.80 (wanted: >= 0.65)",
        "sends/s over uvloop-acked's 0.50 (wanted: >= 0.6)",
        "deliveries/s over rpyc-pinned's 1.60 (wanted: >= 1.5)",
        "sends/s over twinline-jsonl-sqlite's 1.50 (wanted: >= 1)",
    ):
        assert line in said
    assert not [line for line in said if "AsyncClient" in line]


def test_another_installation_takes_part_where_it_is_named() -> None:
    assert [peer.name for peer in peers.taking_part(["floor", "rpyc"], None)] == ["floor", "rpyc"]
    names = [peer.name for peer in peers.taking_part(None, sys.executable)]
    at = names.index("twinline-binary")
    assert names[at + 1 : at + 3] == ["against-jsonl", "against-binary"]
    first = peers.taking_part(["floor"], sys.executable)[0]
    with first.serve() as server:
        assert first.name == "against-jsonl"
        found = peer_rounds.one_round(server, SECONDS)
    assert None not in (found.flow, found.ping_p99, found.plain_sends)
    # It may know no streams, and so is watched by blocked watches, and not by a client.
    assert (found.blocked_p50, found.client, found.async_client) == (None, None, None)


def test_the_memory_of_an_idle_user_is_told_of_each_store() -> None:
    lines = [" ".join(line.split()) for line in peers.idle_users(4, None)]
    assert [line.partition(" memory of an idle user")[0] for line in lines] == [
        f"{store} {kind}," for kind in ("threads", "loop") for store in ("memory:", "sqlite:")
    ]
    assert [line.rpartition("(")[2] for line in lines] == 2 * ["wanted: <= 64)"] + 2 * [
        "wanted: <= 20)"
    ]


def test_a_run_takes_a_round_and_some_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.options([]).rounds == 5
    assert peers.options(["--quick"]).rounds == 1
    chosen = peers.options(["--only", "floor", "--only", "redis"])
    assert chosen.only == ["floor", "redis"]
    for wrong in (
        ["--rounds", "0"],
        ["--seconds", "0"],
        ["--only", "nobody"],
        ["--idle-users", "-1"],
    ):
        with pytest.raises(SystemExit):
            peers.options(wrong)
    assert "nobody" in capsys.readouterr().err


# --- runs


def test_a_delivery_that_did_not_come_is_seen() -> None:
    server = Server(ServerProcess(Endpoint.parse("tcp://127.0.0.1:1")))
    near, far = socket.socketpair()
    with near, far:
        watcher = Watcher(near)
        far.sendall(2 * BODY.encode())
        assert watcher.take() == 2
        server.check(Pair(None, watcher))
        far.sendall(BODY.encode())
        assert watcher.take() == 1
        watcher.received[0] = b"something else"
        with pytest.raises(LoadError, match="0 messages came in 1 deliveries"):
            server.check(Pair(None, watcher))


def test_one_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_pairs: object, _seconds: float) -> Sample:
        raise LoadError("it does not answer")

    absent = Peer("absent", "", peer_twinline.serve_floor, missing=lambda: "not installed")
    floor = Peer("floor", "", peer_twinline.serve_floor)
    found, left_out = peers.run([absent, floor], 1, SECONDS)
    assert list(found) == ["floor"]
    assert left_out == {"absent": "not installed"}
    monkeypatch.setattr(peer_rounds, "deliveries", fail)
    found, left_out = peers.run([floor], 1, SECONDS)
    assert not found
    assert left_out["floor"].endswith("it does not answer")


@pytest.mark.parametrize("name", [peer.name for peer in peers.PEERS if "pinned" not in peer.name])
def test_each_delivers_and_acknowledges(name: str) -> None:
    peer = next(peer for peer in peers.PEERS if peer.name == name)
    if (why := peer.missing()) is not None:
        pytest.skip(why)
    with peer.serve() as server:
        for _ in range(2):  # the second finds what the first left behind
            found = peer_rounds.one_round(server, SECONDS)
    assert 0 < found.p50 <= found.p99
    assert found.deliveries > 0
    assert found.sends > 0
    more = [found.flow, found.plain_sends, found.blocked_p50, found.blocked_deliveries]
    more += [found.client, found.async_client]
    assert all(value is not None and value > 0 for value in more) == ("twinline" in name)
    assert (found.ping_p99 is not None) == ("twinline" in name or name == "floor")


def test_the_script_says_all_in_json() -> None:
    command = [sys.executable, str(SCRIPT), "--only", "floor", "--seconds", str(SECONDS), "--json"]
    ran = subprocess.run([*command, "--rounds", "2"], capture_output=True, text=True, check=True)
    said = json.loads(ran.stdout)
    assert [len(said["rounds"]["floor"]), said["left_out"]] == [2, {}]
    assert "round 2 of 2: floor" in ran.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_ends_what_it_started(number: signal.Signals, code: int) -> None:
    names = ["floor", "twinline-jsonl"]
    names += [name for name in ("websockets", "redis") if not left_out(name)]
    command = [sys.executable, str(SCRIPT), "--seconds", "30"]
    for name in names:
        command += ["--only", name]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while "round 1" not in running.stderr.readline():
            assert running.poll() is None
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        running.send_signal(number)
        said = running.stderr.read()
        assert running.wait(20) == code, said
    assert len(children) == len(names)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ["websockets", "rpyc", "grpc", "uvloop"])
def test_a_peer_s_server_ends_with_the_script_that_started_it(name: str) -> None:
    pytest.importorskip(name)
    command = [sys.executable, str(SCRIPT.with_name(f"peer_{name}.py"))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as running:
        try:
            assert running.stdin is not None
            assert running.stdout is not None
            assert running.stdout.readline().strip().isdigit()
            running.send_signal(signal.SIGINT)  # a terminal's Ctrl-C reaches it, and is not for it
            running.stdin.close()
            assert running.wait(10) == 0
        finally:
            running.kill()


def left_out(name: str) -> str | None:
    return next(peer for peer in peers.PEERS if peer.name == name).missing()
