"""What `twinline serve` sets for its process: that hashes give way, and frames harm nobody else."""

import json
import os
import platform
import resource
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from argon2.exceptions import VerifyMismatchError
from descriptors import descriptors
from listening import Peer
from services import make_service
from waiting import Call, join, wait_until

from twinline.cli.server.hashing import BackgroundHasher
from twinline.cli.server.process import STACK_BYTES, Descriptors
from twinline.core.passwords import default_hasher
from twinline.core.protocol import Kinds
from twinline.core.store import Unsubscribe
from twinline.core.waiting import Wake
from twinline.transports import wakeup
from twinline.transports.client import Client
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Listener, LoopListener, ThreadedListener
from twinline.transports.registry import transport

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it, or tells")
_SERVE = """
import json, os, resource, signal, sys, threading
from twinline.cli.server.serve import run_server
from twinline.cli.settings.model import Settings

def tell(listener, settings, durability):
    print(json.dumps({
        "stack": threading.stack_size(),
        "interval": round(sys.getswitchinterval(), 6),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        "wakeup": signal.set_wakeup_fd(-1) != -1,
        "handled": all(
            callable(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        ),
    }))
    os.kill(os.getpid(), signal.SIGTERM)

run_server(Settings(listen=("tcp://127.0.0.1:0",), **json.loads(sys.argv[1])), tell)
"""


def served(soft: int, hard: int, **settings: object) -> tuple[dict[str, object], str]:
    """Run a server under limits of descriptors; return what it is like, and its log."""
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(("listener", "interval"), [("threads", 0.05), ("loop", 0.005)])
def test_the_process_of_a_server(listener: str, interval: float) -> None:
    """A worker that computes holds an event loop up for no longer than Python's own interval."""
    found, log = served(1024, 2048, connections=1300, listener=listener)
    assert found == {
        "stack": STACK_BYTES,
        "interval": interval,
        "descriptors": [2048, 2048],
        "wakeup": True,
        "handled": True,
    }
    assert "the limit of descriptors is raised from 1,024 to 2,048" in log
    assert "descriptors, allows" not in log
    assert log.count("WARNING") == 1  # that the store is memory


@pytest.mark.parametrize(
    ("listener", "told", "needed"),
    [
        ("threads", "300, half of which wait for mail: ", 364 + 150 * wakeup.DESCRIPTORS),
        ("loop", "300: ", 364),
    ],
)
def test_too_few_descriptors_are_told(listener: str, told: str, needed: int) -> None:
    found, log = served(300, 300, connections=300, listener=listener)
    assert found["descriptors"] == [300, 300]
    assert log.count("WARNING") == 2
    assert f"300, allows fewer connections than the setting, {told}" in log
    assert f"raise it to {needed} (" in log


def test_descriptors_that_are_just_enough_for_a_loop_are_no_warning() -> None:
    """A watch on the loop takes none beside its socket."""
    _, log = served(364, 364, connections=300, listener="loop")
    assert "descriptors, allows" not in log
    assert log.count("WARNING") == 1  # that the store is memory


@linux
@pytest.mark.parametrize(
    ("kind", "each"), [(ThreadedListener, 1 + wakeup.DESCRIPTORS), (LoopListener, 1)]
)
def test_what_a_connection_takes_that_waits_for_mail(kind: type[Listener], each: int) -> None:
    """So many descriptors, and its peer one more."""
    service = make_service()
    boxes = service.store.mailboxes
    on_mail, subscribed = boxes.on_mail, []

    def noted(account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
        subscribed.append(account_id)
        return on_mail(account_id, wake, kinds)

    boxes.on_mail = noted  # type: ignore[method-assign]
    listener = kind(service, [(Endpoint.parse("tcp://127.0.0.1:0"), transport("jsonl"))])
    serving = Call(listener.serve_forever)
    with ExitStack() as stack:
        stack.callback(serving.outcome)
        stack.callback(listener.close)
        peers = [stack.enter_context(Peer(listener.endpoints[0])) for _ in range(4)]
        for number, peer in enumerate(peers):
            peer.enter(f"user{number}")
        before = len(descriptors())
        for peer in peers[1:]:
            peer.send_line(op="watch", id=2, after=0, wait=30)
        wait_until(lambda: len(subscribed) == 3, "three wait for mail")
        assert len(descriptors()) - before == 3 * (each - 1)


@pytest.mark.parametrize(("to_wake", "needed"), [(0, 1_064), (1, 1_564), (2, 2_064)])
def test_a_connection_that_watches_may_take_more_descriptors(
    caplog: pytest.LogCaptureFixture, to_wake: int, needed: int
) -> None:
    """The two of a user take three, four where a pipe has to wake, and two on an event loop."""
    for few in (needed, needed - 1):
        assert not caplog.records
        Descriptors(few, few).log_for(1_000, to_wake=to_wake)
    assert f"raise it to {needed:,} (" in caplog.text


def test_hashes_are_those_of_the_default_hasher() -> None:
    background, usual = BackgroundHasher(), default_hasher()
    password_hash = background.hash(b"correct horse")
    assert usual.verify(password_hash, b"correct horse")
    assert not usual.check_needs_rehash(password_hash)
    assert background.verify(usual.hash(b"correct horse"), b"correct horse")
    assert not background.check_needs_rehash(usual.hash(b"correct horse"))
    with pytest.raises(VerifyMismatchError):
        background.verify(password_hash, b"another horse")


def test_no_thread_has_to_start_for_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be no memory for one by then."""
    background = BackgroundHasher()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert background.verify(background.hash(b"correct horse"), b"correct horse")


def test_threads_that_cannot_start_at_the_start_hold_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start, started = threading.Thread.start, []

    def start_one(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(threading.Thread, "start", start_one)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        BackgroundHasher()
    join(started[0])


@linux
def test_hashes_give_way_and_their_callers_do_not() -> None:
    def priority() -> tuple[int, int]:
        mine = threading.get_native_id()
        return mine, os.getpriority(os.PRIO_PROCESS, mine)

    me, before = priority()
    hasher = BackgroundHasher()
    other, lowered = hasher._run(priority)
    assert other != me
    assert lowered == min(19, before + 10)
    assert priority() == (me, before)


@linux
def test_hashes_give_way_to_a_server_that_is_nice_itself() -> None:
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def in_a_nice_server() -> tuple[int, int]:
        mine = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, mine, min(19, priority() + 3))
        return priority(), BackgroundHasher()._run(priority)

    server, hashes = cast("tuple[int, int]", Call(in_a_nice_server).outcome())
    assert hashes == min(19, server + 10)


_HASH_IN_THREADS = """
import sys, threading
from pathlib import Path
from twinline.cli.server.process import limit_malloc_arenas
from twinline.core.passwords import default_hasher
from twinline.transports import wakeup

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "small":
    limit_malloc_arenas()
hasher = default_hasher()
before = resident()
for _ in range(2):
    threads = [threading.Thread(target=hasher.hash, args=("correct horse",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(resident() - before)
"""


@linux
def test_the_memory_of_hashes_is_given_back() -> None:
    def grown(how: str) -> int:
        command = [sys.executable, "-c", _HASH_IN_THREADS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
        return int(done.stdout)

    assert grown("small") < 10 * 2**20
    if platform.libc_ver()[0] == "glibc":
        assert grown("as it is") > 19 * 2**20  # else the setting does nothing, and can go


_NESTED_FRAMES = """
import gc, sys
from contextlib import nullcontext
from twinline.cli.server.process import server_process
from twinline.transports.jsonl import JsonlTransport

threshold, frozen = gc.get_threshold(), gc.get_freeze_count()  # 3.12 begins with some
serving = server_process(one_processor=False, many_threads=True)
with serving if sys.argv[1] == "serve" else nullcontext():
    before = [generation["collections"] for generation in gc.get_stats()]
    flat = b",".join([b"[]"] * 1_300)
    deep = b",".join([b"[" * 60 + b"]" * 60] * 30)
    for limit, times in ((4 * 1024, 1), (64 * 1024, 16)):
        codecs = [JsonlTransport().server_codec(limit) for _ in range(4)]
        for lists in (flat, deep):
            frame = b'{"op":"ping","id":1,"x":[%b]}\\n' % b",".join([lists] * times)
            for _ in range(160 // times):
                for codec in codecs:
                    codec.receive_data(frame)
                    assert codec.next_event().id == 1
    print(sum(generation["collections"] for generation in gc.get_stats()) - sum(before))
print(gc.get_threshold() == threshold and gc.get_freeze_count() <= frozen)
"""


def test_nested_lists_in_a_field_that_nobody_reads_set_off_no_collection() -> None:
    def collections(where: str) -> int:
        command = [sys.executable, "-c", _NESTED_FRAMES, where]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
        count, as_it_was = done.stdout.splitlines()
        assert as_it_was == "True"
        return int(count)

    assert collections("serve") == 0
    assert collections("elsewhere") > 50


_SERVE_ON_A_THIRD_OF_THE_STACK = """
import json, sys
from twinline.cli.main import main
from twinline.cli.server import process
from twinline.transports import jsonl

def parse(line):
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None

process.STACK_BYTES = process.STACK_BYTES // 3 // 4096 * 4096
if sys.argv[1] == "json":
    jsonl._parse = parse
main(["serve", *sys.argv[2:]])
"""


@pytest.mark.parametrize("reader", ["ours", "json"])
def test_the_deepest_frames_use_a_third_of_the_stack(reader: str, tmp_path: Path) -> None:
    """As read by both codecs, and by a transport of somebody else's over Python's own json."""
    place = f"unix:{tmp_path}/s"
    command = [sys.executable, "-c", _SERVE_ON_A_THIRD_OF_THE_STACK, reader, "--listen", place]
    with subprocess.Popen(
        [*command, "--store", f"sqlite:{tmp_path}/s.db"], stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline()
            with socket.socket(socket.AF_UNIX) as peer:
                peer.settimeout(20)
                peer.connect(f"{tmp_path}/s")
                with peer.makefile("rb") as replies:

                    def asked(line: bytes) -> bytes:
                        peer.sendall(line + b"\n")
                        return replies.readline()

                    def nest(size: int) -> None:
                        for opening in (b"[", b'{"a":', b'{"op":"ping","id":1,"x":' + b"["):
                            last = opening[-1:] if opening.startswith(b'{"op') else opening
                            count = (size - len(opening)) // len(last)
                            assert b"bad_request" in asked(opening + last * count)

                    nest(4_000)
                    login = b'{"op":"%b","id":1,"username":"ann","password":"correct horse"}'
                    assert b'"ok":true' in asked(login % b"create_account")
                    nest(65_000)
                    assert b'"ok":true' in asked(b'{"op":"send","id":1,"to":"ann","body":"x"}')
                    assert b'"ok":true' in asked(b'{"op":"watch","id":1,"after":0,"wait":1}')
            for transport in ("jsonl", "binary"):
                with Client(place, transport=transport) as client:
                    client.login("ann", "correct horse")
                    client.send("ann", "x" * 16_000)
                    assert client.history().messages[-1].sender == "ann"
        finally:
            server.terminate()
        assert server.wait(20) == 0


@linux
def test_a_server_wants_no_huge_pages() -> None:
    script = """
import ctypes
from twinline.cli.server.process import server_process
prctl = ctypes.CDLL(None).prctl
before = prctl(42, 0, 0, 0, 0)
with server_process(one_processor=False, many_threads=True):
    print(before, prctl(42, 0, 0, 0, 0))
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.split() in (["0", "1"], ["1", "1"])
