"""The comparison with other servers: its frames, its router, its table, and a short run of it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import peer_brokers
import peer_grpc
import peer_twinline
import peer_websockets
import peers
import pytest
from peer_contract import Peer, Server
from peer_router import Router
from peer_table import Figures, table, verdicts

from twinline.cli.bench.load import LoadError, Pair, Sample
from twinline.cli.bench.target import ServerProcess
from twinline.cli.bench.wire import BODY
from twinline.transports.endpoints import Endpoint

pytestmark = pytest.mark.timeout(300)

SECONDS = 0.05
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


# --- what is printed


def test_ratios_are_medians_of_those_within_a_round() -> None:
    found = {
        "floor": [figures(p50=10), figures(p50=100), figures(p50=1000)],
        "other": [figures(p50=40), figures(p50=200), figures(p50=3000)],
    }
    printed = table(found, {"floor": "nothing", "other": "a lot"}, "twinline", "floor")
    medians, ratios, promises = printed.split("\n\n")
    assert medians.splitlines()[2].split()[:2] == ["other", "200"]
    assert ratios.splitlines()[2].split()[:2] == ["other", "3.00"]
    assert promises.splitlines()[2].split() == ["other", "a", "lot"]


def test_a_figure_that_nobody_knows_is_a_dash() -> None:
    found = {"floor": [figures(send_cost=None)]}
    printed = table(found, {"floor": "nothing"}, "twinline", "floor")
    assert printed.splitlines()[1].split() == ["floor", "1", "1", "1", "1", "1.0", "-", "1.00"]


def test_the_verdict_is_against_the_peer_that_is_best_at_each() -> None:
    found = {
        "twinline-jsonl": [figures(p50=50, deliveries=6000)],
        "quick": [figures(p50=100, deliveries=1000)],
        "busy": [figures(p50=400, deliveries=3000)],
    }
    latency, rate = verdicts(found, ["twinline-jsonl", "twinline-binary"], ["busy", "quick", "no"])
    assert "over quick's: 0.50" in latency
    assert "over busy's: 2.00" in rate


def test_a_run_takes_a_round_and_some_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert peers.options([]).rounds == 5
    assert peers.options(["--quick"]).rounds == 1
    chosen = peers.options(["--only", "floor", "--only", "redis"])
    assert chosen.only == ["floor", "redis"]
    for wrong in (["--rounds", "0"], ["--seconds", "0"], ["--only", "nobody"]):
        with pytest.raises(SystemExit):
            peers.options(wrong)
    assert "nobody" in capsys.readouterr().err


# --- runs


def test_a_delivery_that_did_not_come_is_seen() -> None:
    server = Server(ServerProcess(Endpoint.parse("tcp://127.0.0.1:1")))
    pair = Pair(None, None, None, received=[BODY.encode(), b"something else"])
    with pytest.raises(LoadError, match="1 messages came in 2 deliveries"):
        server.check(pair)


def test_one_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_pairs: object, _seconds: float) -> Sample:
        raise LoadError("it does not answer")

    absent = Peer("absent", "", peer_twinline.serve_floor, missing=lambda: "not installed")
    floor = Peer("floor", "", peer_twinline.serve_floor)
    found, left_out = peers.run([absent, floor], 1, SECONDS)
    assert list(found) == ["floor"]
    assert left_out == {"absent": "not installed"}
    monkeypatch.setattr(peers, "deliveries", fail)
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
            found = peers.one_round(server, SECONDS)
    assert 0 < found.p50 <= found.p99
    assert found.deliveries > 0
    assert found.sends > 0


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


@pytest.mark.parametrize("name", ["websockets", "rpyc", "grpc"])
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
