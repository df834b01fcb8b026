"""PostgreSQL fails over to a standby: what was acknowledged as replicated is there, and no reader
is misled where the standby had not got everything.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
from crash_nodes import Times, nodes_at
from crash_server import FULL, CrashServer, by_form, report
from crash_workload import figures, require_ok, wait_sends, workload_at
from postgres_engine import PostgresEngine, StartEngine
from services import PASSWORD
from waiting import join, wait_until

from twinline.cli.verify.workload import WorkloadSettings
from twinline.core.errors import StoreUnavailable, TwinlineError
from twinline.stores.conformance.history import Anomaly, Checker, Judgement, Op, Outcome, Recorder
from twinline.transports.client import Client, ClientClosed, WatchMode

pytestmark = pytest.mark.timeout(3600 if FULL else 180)
FAILOVERS = by_form(1, 10)
CONTROLS = by_form(1, 3)
TAIL = 60
"""Messages that only the primary has when it fails."""
WORK = WorkloadSettings(by_form(4, 8), by_form(2, 4), 200)
FIRST_ACK_SECONDS = 10.0
NOWHERE = "host=127.0.0.1 port=1"


@contextmanager
def two_hosts(
    start: StartEngine, *, synchronous: bool
) -> Iterator[tuple[PostgresEngine, PostgresEngine, str]]:
    """Start a primary and its standby, and return the URL of a store on whichever takes writes."""
    primary = start()
    try:
        with closing(primary.standby(synchronous=synchronous)) as standby:
            yield primary, standby, primary.url(primary.new_database(), standby)
    finally:
        primary.close()


def fail_over(primary: PostgresEngine, standby: PostgresEngine) -> tuple[float, float]:
    """Kill the primary and promote its standby; return when it was killed, and when dead."""
    killed_at = time.monotonic()
    primary.kill()
    dead_at = time.monotonic()
    standby.promote()
    return killed_at, dead_at


def test_what_was_acknowledged_as_replicated_survives_a_failover(
    start_postgres: StartEngine, tmp_path: Path
) -> None:
    slowest = 0.0
    counts = [0, 0]
    for number in range(FAILOVERS):
        folder = tmp_path / str(number)
        folder.mkdir()
        seconds, judgement = failed_over(start_postgres, folder)
        slowest = max(slowest, seconds)
        counts[0] += judgement.acknowledged
        counts[1] += judgement.redelivered
        report("failover to a synchronous standby", f"{seconds:.2f} s; {figures(judgement)}")
        require_ok(judgement, folder)
    report(
        f"{FAILOVERS} failovers to a synchronous standby",
        f"first acknowledgement at most {slowest:.2f} s after the kill; {counts[0]:,} "
        f"acknowledged, 0 lost or otherwise wrong; lost below {3 / counts[0]:.1g} (95 %)",
    )
    assert slowest < FIRST_ACK_SECONDS


def failed_over(start: StartEngine, folder: Path) -> tuple[float, Judgement]:
    """Fail over under load; return the seconds from the kill to an ack, and the judgement."""
    times = Times()
    with two_hosts(start, synchronous=True) as (primary, standby, url):
        strict = f"{url}&durability=replicated"
        with (
            nodes_at(folder, url, url, strict, log_level="warning") as (here, there, demanding),
            workload_at(
                here.endpoint, folder / "history", WORK, watching=there.endpoint, sinks=[times]
            ) as (workload, checker),
            Client(demanding.endpoint) as ann,
        ):
            ann.create_account("ann", PASSWORD)
            ann.send("ann", "replicated")
            workload.open()
            workload.start()
            wait_sends(workload, 100)
            killed_at, dead_at = fail_over(primary, standby)
            wait_sends(workload, 100)
            require_told(here, demanding, ann)
            if FULL:
                # A standby of its own makes it good again.
                with closing(standby.standby(synchronous=True)):
                    wait_until(lambda: is_taken(ann), "it takes writes again")
                    wait_until(lambda: "takes writes again" in demanding.log, "that is said")
                    wait_sends(workload, 50)
                    workload.finish()
            else:
                workload.finish()
            kept = [message.body for message in ann.history().messages]
        assert "replicated" in kept
        assert "not replicated" not in kept
        return times.first_after(dead_at) - killed_at, checker.judge()


def require_told(here: CrashServer, demanding: CrashServer, ann: Client) -> None:
    """See that servers read back what the new primary promises: it has no standby."""
    wait_until(lambda: "promises 'disk' now, and no more" in here.log, "it is said", 10)
    wait_until(lambda: "'replicated' is asked for" in demanding.log, "it is refused", 10)
    with pytest.raises(StoreUnavailable):
        ann.send("ann", "not replicated")
    assert [message.body for message in ann.history().messages] == ["replicated"], "reads go on"


def is_taken(client: Client) -> bool:
    """Return whether a message to oneself is taken."""
    try:
        client.send("ann", "replicated again")
    except StoreUnavailable:
        return False
    return True


# -- a standby that had not got everything --------------------------------------------------------


def test_a_standby_that_is_not_waited_for_loses_the_tail_and_that_is_found_out(
    start_postgres: StartEngine, tmp_path: Path
) -> None:
    lost = acknowledged = 0
    for number in range(CONTROLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        judgement = stalled(start_postgres, folder)
        lost += judgement.count(Anomaly.LOST)
        acknowledged += judgement.acknowledged
        assert judgement.count(Anomaly.LOST) >= TAIL / 2
    report(
        f"the control: {CONTROLS} failovers to a standby that was not waited for",
        f"{lost} of {acknowledged} acknowledged messages lost",
    )


def stalled(start: StartEngine, folder: Path) -> Judgement:
    """Fail over to a standby whose link had stalled, while nobody reads."""
    with (
        two_hosts(start, synchronous=False) as (primary, standby, url),
        nodes_at(folder, url, url) as (here, there),
        workload_at(here.endpoint, folder / "history", WORK, watching=there.endpoint) as (
            workload,
            checker,
        ),
    ):
        workload.open()
        caught_up(primary, standby)
        workload.start()
        wait_sends(workload, 20)
        there.kill()
        standby.set(primary_conninfo=NOWHERE)
        wait_sends(workload, TAIL)
        fail_over(primary, standby)
        there.start_warm()
        wait_sends(workload, 20)
        workload.finish()
        return checker.judge()


@pytest.mark.parametrize("fault", ["", "never_jump"], ids=["jumping", "the control"])
def test_a_reader_who_is_awake_misses_nothing_and_gets_nothing_twice(
    fault: str, start_postgres: StartEngine, tmp_path: Path
) -> None:
    """Seqs 6 to 10 were seen, and are lost; the mail that comes then must not be taken for them."""
    for number in range(CONTROLS):
        folder = tmp_path / str(number)
        folder.mkdir()
        judgement, came = reread(start_postgres, folder, fault)
        report(
            f"a reader awake through a failover that loses the tail{', the control' * bool(fault)}",
            f"{came} of 7 came; {figures(judgement)}",
        )
        if fault:
            assert judgement.violations or came < 7
        else:
            require_ok(judgement, folder)
            assert came == 7
            assert judgement.delivered == 17


def caught_up(primary: PostgresEngine, standby: PostgresEngine) -> None:
    """Wait until a standby has all that its primary had."""
    ((written,),) = primary.sql("SELECT pg_current_wal_lsn()::text")
    has = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
    wait_until(lambda: standby.sql(has, written) == [(True,)], "the standby has it")


def reread(start: StartEngine, folder: Path, fault: str) -> tuple[Judgement, int]:
    """Have a reader go on over a failover; return the judgement, and how many new ones came."""
    checker = Checker()
    record = Recorder([checker]).record
    seen: dict[str, int] = {}

    def send(ann: Client, number: int) -> None:
        body = f"m{number}"
        until = time.monotonic() + 20
        while True:
            record("ann", Op.SEND, Outcome.INVOKE, "bob", message=body)
            try:
                ann.send("bob", body, send_id=body)
            except TwinlineError:
                record("ann", Op.SEND, Outcome.INFO, "bob", message=body)
                assert time.monotonic() < until
                time.sleep(0.02)
            else:
                record("ann", Op.SEND, Outcome.OK, "bob", message=body)
                return

    def read(bob: Client) -> None:
        with suppress(ClientClosed):
            for message in bob.messages():
                body, seq = message.body, message.seq
                record("bob.0", Op.RECEIVE, Outcome.OK, "bob", message=body, seq=seq)
                seen.setdefault(body, seq)

    with (
        two_hosts(start, synchronous=False) as (primary, standby, url),
        nodes_at(folder, url, url, fault=fault) as (here, there),
        Client(here.endpoint) as ann,
        Client(there.endpoint, watch=WatchMode.STREAMING) as bob,
    ):
        ann.create_account("ann", PASSWORD)
        bob.create_account("bob", PASSWORD)
        reading = Thread(target=read, args=(bob,), daemon=True)
        reading.start()
        for number in range(1, 6):
            send(ann, number)
        caught_up(primary, standby)
        standby.set(primary_conninfo=NOWHERE)
        for number in range(6, 11):
            send(ann, number)
        wait_until(lambda: len(seen) == 10, "all have been read")
        fail_over(primary, standby)
        for number in range(11, 18):
            send(ann, number)
        wait = 1.0 if fault else 20.0
        until = time.monotonic() + wait
        while len(seen) < 17 and time.monotonic() < until:
            time.sleep(0.02)
        record("bob.0", Op.DRAIN, Outcome.OK, "bob")
        bob.close()
        join(reading)
    return checker.judge(), len(seen) - 10
