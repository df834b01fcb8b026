"""The server is killed, at random and at every sync and write, and stopped; nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from crash_server import FULL, CrashServer, by_form, needs_strace, report, strace
from crash_workload import figures, require_intact, require_ok, wait_sends, workload_at
from services import PASSWORD
from waiting import wait_until

from twinline.cli.verify.workload import WorkloadSettings
from twinline.stores.conformance.history import Checker, Judgement, Op, Outcome, Recorder
from twinline.transports.client import Client

pytestmark = pytest.mark.timeout(3600 if FULL else 180)
KILLS = by_form(25, 500)
# The quick form has one at which the file is made, and one among the sends.
SYNCS = range(1, 61) if FULL else (4, 14)
WRITES = range(1, 121) if FULL else (17, 60)


def test_kill_at_random(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    pauses = random.Random(seed)
    history = tmp_path / "history"
    with (
        CrashServer(tmp_path) as server,
        workload_at(server.endpoint, history, WorkloadSettings(8, 4, 400)) as (workload, checker),
    ):
        # The full form starts each one as its user does; the quick one has no time for that.
        start = server.start if FULL else server.start_warm
        start()
        workload.open()
        workload.start()
        for _ in range(KILLS):
            wait_sends(workload, 1)
            time.sleep(pauses.uniform(0, 0.15))
            server.kill()
            start()
        workload.finish()
        judgement = checker.judge()
        server.kill()
        require_intact(server.path)
    report(f"{KILLS} kills at random (seed {seed})", figures(judgement))
    require_ok(judgement, history)
    assert judgement.acknowledged >= KILLS


@pytest.mark.parametrize(
    ("call", "numbers"), [("fdatasync", SYNCS), ("pwrite64", WRITES)], ids=["sync", "write"]
)
def test_kill_at_each(call: str, numbers: range, tmp_path: Path) -> None:
    needs_strace()
    reached = acknowledged = 0
    for number in numbers:
        folder = tmp_path / str(number)
        folder.mkdir()
        died, judgement = killed_at(call, number, folder)
        reached += died
        acknowledged += judgement.acknowledged
        require_ok(judgement, folder)
    report(
        f"kill at {call} {', '.join(map(str, numbers)) if not FULL else f'1 to {numbers[-1]}'}",
        f"{reached} of {len(numbers)} reached, {acknowledged:,} acknowledged, every history ok",
    )
    assert reached == len(numbers)


def killed_at(call: str, number: int, folder: Path) -> tuple[bool, Judgement]:
    """Run a workload over a server that dies at a system call of one of its threads."""
    trace = folder / "trace"
    with (
        CrashServer(folder) as server,
        workload_at(server.endpoint, folder / "history", WorkloadSettings(4, 2, 200)) as (
            workload,
            checker,
        ),
    ):
        injected = strace(trace, f"-etrace={call}", f"-einject={call}:signal=KILL:when={number}")
        server.start(injected, wait=False)
        opened = threading.Event()

        def work() -> None:
            workload.open()
            workload.start()
            opened.set()

        working = threading.Thread(target=work)
        working.start()
        try:
            wait_until(lambda: server.ended, f"{call} {number} of a thread", 20)
        finally:
            server.kill()
            server.start()
            working.join(40)
        assert opened.is_set()
        # The tracer had ended with the server: only what it wrote says of what the server died.
        died = trace.exists() and "killed by SIGKILL" in trace.read_text(encoding="ascii")
        wait_sends(workload, 10)
        workload.finish()
        server.kill()
        require_intact(server.path)
        return died, checker.judge()


def test_a_server_that_is_stopped_and_continued_loses_nothing(tmp_path: Path) -> None:
    seconds = 5
    history = tmp_path / "history"
    with (
        CrashServer(tmp_path) as server,
        workload_at(server.endpoint, history, WorkloadSettings(8, 4, 200)) as (workload, checker),
    ):
        server.start()
        workload.open()
        workload.start()
        for _ in range(by_form(1, 3)):
            wait_sends(workload, 20)
            os.kill(server.pid, signal.SIGSTOP)
            try:
                time.sleep(seconds)
            finally:
                os.kill(server.pid, signal.SIGCONT)
        wait_sends(workload, 100)
        workload.finish()
        judgement = checker.judge()
    report(f"SIGSTOP for {seconds} s", figures(judgement))
    require_ok(judgement, history)


READER = """
import sys
from twinline.transports.client import Client
with Client(sys.argv[1]) as client:
    client.login("bob", sys.argv[2])
    for message in client.messages(ack=False):
        print(message.seq, message.body, flush=True)
"""


def test_what_a_client_had_and_did_not_ack_comes_again_when_it_is_killed(tmp_path: Path) -> None:
    count = by_form(40, 400)
    checker = Checker()
    record = Recorder([checker]).record
    with CrashServer(tmp_path) as server:
        server.start_warm()
        with Client(server.endpoint) as ann, Client(server.endpoint) as bob:
            ann.create_account("ann", PASSWORD)
            bob.create_account("bob", PASSWORD)
            bob.logout()
            for number in range(count):
                record("ann", Op.SEND, Outcome.INVOKE, "bob", message=f"m{number}")
                ann.send("bob", f"m{number}")
                record("ann", Op.SEND, Outcome.OK, "bob", message=f"m{number}")
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, server.endpoint, PASSWORD], stdout=subprocess.PIPE
        )
        try:
            assert reader.stdout is not None
            had = [reader.stdout.readline().decode().split() for _ in range(count)]
        finally:
            reader.kill()
            reader.communicate()
        for seq, body in had:
            record("bob.0", Op.RECEIVE, Outcome.OK, "bob", message=body, seq=int(seq))
        with Client(server.endpoint) as again:
            again.login("bob", PASSWORD)
            for _, message in zip(range(count), again.messages(timeout=10), strict=False):
                record(
                    "bob.1", Op.RECEIVE, Outcome.OK, "bob", message=message.body, seq=message.seq
                )
            record("bob.1", Op.DRAIN, Outcome.OK, "bob")
    judgement = checker.judge()
    report(
        "client killed between receiving and acking",
        f"{judgement.redelivered} of {len(had)} came again; {figures(judgement)}",
    )
    require_ok(judgement, tmp_path)
    assert judgement.redelivered == judgement.delivered == len(had) == count
