"""`twinline verify`: what it prints and leaves behind, and that it convicts stores that cheat."""

import json
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import pytest
from cli_server import CommandLine, ended, running_server
from click.testing import CliRunner
from fault_proxy import FaultProxy
from history_samples import (
    SENDS,
    AcksBeforeCommit,
    Changes,
    Cheat,
    Cuts,
    Drops,
    ForgetsSendIds,
    Swaps,
    TakesSeqsEarly,
)
from servers import Site
from talking_cheats import (
    AddressesACopyAnew,
    CompletesNoCopy,
    CopiesWhatItRefuses,
    CutsACopy,
    DoublesACopy,
    LosesACopy,
    NamesACopyAnew,
    NumbersACopyAnew,
    StopsTelling,
    TellsBackwards,
    TellsBeforeItComes,
)
from waiting import wait_until

from twinline.cli.main import main
from twinline.cli.server import private
from twinline.cli.server.listeners import LISTENERS
from twinline.cli.verify import accounts, command
from twinline.cli.verify.messages import body_of, id_of, outcome_of
from twinline.cli.verify.workload import Workload, WorkloadSettings
from twinline.core.errors import (
    Busy,
    InternalError,
    MailboxFull,
    NoSuchUser,
    NotLoggedIn,
    RateLimited,
    SessionExpired,
    ShuttingDown,
    StoreUnavailable,
    TwinlineError,
)
from twinline.core.protocol import Message
from twinline.core.settings import ServiceSettings
from twinline.core.store import Accepted, Draft, SessionRecord
from twinline.stores.conformance.history.checker import Checker
from twinline.stores.conformance.history.recorder import (
    Event,
    Outcome,
    Recorder,
    read_history,
    write_history,
)
from twinline.stores.conformance.history.verdict import Anomaly, Judgement, Verdict
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.accounts import MemoryAccounts
from twinline.stores.memory.mailboxes import MemoryMailboxes
from twinline.transports.client import Client, ConnectionLost, NotConnected, TimedOut
from twinline.transports.listener import Listener

SETTINGS = WorkloadSettings(senders=4, mailboxes=2, rate=0, settle_seconds=15)


# -- stores that cheat ------------------------------------------------------------------


def cheating(mailboxes: MemoryMailboxes) -> MemoryStore:
    store = MemoryStore()
    store.mailboxes = mailboxes
    return store


def judged(store: MemoryStore, sends: int, *, copies: bool, seconds: float = 15) -> Judgement:
    """Run the workload over a store until so many sends were acknowledged.

    Args:
        store: what is judged.
        sends: how many.
        copies: whether they are sent with copies.
        seconds: for what is to come at the end.
    """
    checker = Checker()
    enough = threading.Event()

    class Count:
        done = 0

        def feed(self, event: object) -> None:
            self.done += getattr(event, "outcome", None) is Outcome.OK
            # An acknowledgement and a delivery each, and perhaps a copy.
            if self.done >= (2 + copies) * sends:
                enough.set()

    with Site(store=store) as site:
        recorder = Recorder([checker, Count()])
        workload = Workload(site.endpoint, recorder, replace(SETTINGS, copies=copies))
        try:
            workload.open()
            workload.start()
            assert enough.wait(30)
            workload._settings = replace(workload._settings, settle_seconds=seconds)
            workload.finish()
        finally:
            workload.close()
    return checker.judge()


@pytest.mark.parametrize(
    ("kind", "sends", "rules"),
    [
        (Drops, 1050, {Anomaly.LOST}),
        (AcksBeforeCommit, SENDS, {Anomaly.LOST}),
        (Swaps, SENDS, {Anomaly.REORDERED}),
        (TakesSeqsEarly, SENDS, {Anomaly.LOST, Anomaly.SKIPPED}),
        (Changes, SENDS, {Anomaly.LOST, Anomaly.UNEXPECTED}),
        (Cuts, SENDS, {Anomaly.LOST, Anomaly.UNEXPECTED}),
        (ForgetsSendIds, SENDS, {Anomaly.DUPLICATES, Anomaly.MISMATCHED}),
    ],
)
def test_a_store_that_cheats_is_convicted(
    kind: type[Cheat], sends: int, rules: set[Anomaly]
) -> None:
    judgement = judged(cheating(kind()), sends, copies=False)
    assert judgement.violations.keys() == rules, judgement
    assert judgement.verdict is Verdict.VIOLATED
    assert (judgement.copies, judgement.receipts) == (0, 0)


@pytest.mark.parametrize(
    ("kind", "rules"),
    [
        (LosesACopy, {Anomaly.UNCOPIED}),
        (CompletesNoCopy, {Anomaly.UNCOPIED}),
        (DoublesACopy, {Anomaly.DUPLICATES}),
        (CopiesWhatItRefuses, {Anomaly.ABORTED}),
        (NumbersACopyAnew, {Anomaly.MISMATCHED}),
        (NamesACopyAnew, {Anomaly.MISMATCHED}),
        (AddressesACopyAnew, {Anomaly.MISMATCHED}),
        (CutsACopy, {Anomaly.UNEXPECTED, Anomaly.UNCOPIED}),
        (TellsBeforeItComes, {Anomaly.PREMATURE}),
        (TellsBackwards, {Anomaly.REGRESSED}),
        (StopsTelling, {Anomaly.UNTOLD}),
    ],
)
def test_a_store_that_cheats_with_copies_or_receipts_is_convicted(
    kind: type[Cheat], rules: set[Anomaly]
) -> None:
    # The last is waited for as long as that takes, with one more message after three seconds.
    seconds = 5.0 if kind is StopsTelling else 15.0
    judgement = judged(cheating(kind()), SENDS, copies=True, seconds=seconds)
    assert judgement.violations.keys() == rules, judgement
    assert judgement.verdict is Verdict.VIOLATED


@pytest.mark.parametrize("copies", [True, False])
def test_a_store_that_does_not_is_not(copies: bool) -> None:
    judgement = judged(cheating(Cheat()), SENDS, copies=copies)
    assert judgement.violations == {}
    assert judgement.verdict is Verdict.OK
    assert judgement.delivered == judgement.acknowledged == judgement.attempted >= SENDS
    assert judgement.copies == (judgement.delivered if copies else 0)
    assert (judgement.receipts > 0) is copies


# -- the workload -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (MailboxFull(), Outcome.FAIL),
        (NoSuchUser(), Outcome.INFO),
        (NotConnected("nobody there"), Outcome.FAIL),
        (ConnectionLost("cut"), Outcome.INFO),
        (TimedOut("no reply"), Outcome.INFO),
        (StoreUnavailable(), Outcome.INFO),
        (InternalError(), Outcome.INFO),
        (RateLimited(), Outcome.INFO),
        (NotLoggedIn(), Outcome.INFO),
        (SessionExpired(), Outcome.INFO),
        (Busy(), Outcome.INFO),
        (ShuttingDown(), Outcome.INFO),
    ],
)
def test_what_nobody_knows_is_info_and_never_fail(error: TwinlineError, outcome: Outcome) -> None:
    assert outcome_of(error) is outcome


def test_a_message_that_was_changed_is_nobodys() -> None:
    message = Message(seq=1, message_id="0" * 24, sender="s0", body=body_of("s0-7", 64), sent_at=1)
    assert id_of(message, 64) == "s0-7"
    bodies = [message.body + "!", message.body + "7", message.body[:-1], "s0-7 ", "hello", ""]
    for change in ({"sender": "s1"}, *({"body": body} for body in bodies)):
        assert id_of(message.model_copy(update=change), 64).startswith("changed: ")


class Stumbles(MemoryAccounts):
    """Makes an account and cannot open a session for it, three times."""

    refusals = 3

    def open_session(
        self, session: SessionRecord, *, verified: str | None = None, most: int | None = None
    ) -> bool:
        if self.refusals:
            self.refusals -= 1
            raise StoreUnavailable
        return super().open_session(session, verified=verified, most=most)


def test_an_account_that_was_half_made_is_used() -> None:
    store = MemoryStore()
    store.accounts = Stumbles()
    with Site(store=store) as site:
        workload = Workload(site.endpoint, Recorder(), SETTINGS)
        try:
            workload.open()
        finally:
            workload.close()
        assert store.accounts.refusals == 0
        with Client(site.endpoint) as client:
            client.create_account("ann", "correct horse")
            assert list(client.accounts()) == ["ann"]


def test_it_survives_a_server_that_is_restarted() -> None:
    checker = Checker()
    with Site() as site:
        workload = Workload(site.endpoint, Recorder([checker]), replace(SETTINGS, rate=200))
        try:
            workload.open()
            workload.start()
            for _ in range(3):
                goal = workload.acknowledged + 20
                wait_acknowledged(workload, goal)
                site.stop()
                site.start()
            workload.finish()
        finally:
            workload.close()
    judgement = checker.judge()
    assert judgement.violations == {}
    assert judgement.verdict is Verdict.OK


def test_a_server_that_forgets_everything_is_not_acquitted() -> None:
    checker = Checker()
    with Site() as site:
        workload = Workload(site.endpoint, Recorder([checker]), replace(SETTINGS, rate=500))
        try:
            workload.open()
            workload.start()
            wait_acknowledged(workload, 50)
            wait_until(lambda: workload.received, "one to be received")
            site.stop(lose_store=True)
            site.start()
            workload.finish()
        finally:
            workload.close()
    judgement = checker.judge()
    # What was acknowledged and not received by then is lost, a message or its copy; where all
    # was, nobody can tell.
    lost = judgement.violations
    assert lost.keys() <= {Anomaly.LOST, Anomaly.UNCOPIED}
    assert judgement.verdict is (Verdict.VIOLATED if lost else Verdict.UNKNOWN)
    assert judgement.unread == SETTINGS.mailboxes + SETTINGS.senders


def test_a_server_that_does_not_come_back_is_not_acquitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasty = accounts.PATIENCE.model_copy(update={"wait_seconds": 0.1, "command_seconds": 2})
    monkeypatch.setattr(accounts, "PATIENCE", hasty)
    recorder = Recorder([checker := Checker()])
    with Site() as site:
        workload = Workload(site.endpoint, recorder, replace(SETTINGS, rate=500))
        try:
            workload.open()
            workload.start()
            wait_acknowledged(workload, 50)
            # Not for making the accounts, which takes as long as it does.
            workload._settings = replace(workload._settings, settle_seconds=1)
            site.stop()
            workload._stop.set()  # as it does first
            stopped = time.monotonic()
            workload.finish()
        finally:
            left = workload.close()
    assert left == SETTINGS.senders + SETTINGS.mailboxes
    assert checker.judge().verdict is Verdict.UNKNOWN
    # Nobody goes on knocking while the mailboxes are read: each ends the attempt that it makes.
    refused = [event for event in recorder.take() if event.note == "NotConnected"]
    late = Counter(event.worker for event in refused if event.at > stopped)
    assert set(late.values()) <= {1}


def test_a_limited_rate_is_told_once_and_kept_to(capsys: pytest.CaptureFixture[str]) -> None:
    recorder = Recorder([checker := Checker()])
    with Site(settings=ServiceSettings(sends_per_second=1)) as site:
        workload = Workload(site.endpoint, recorder, replace(SETTINGS, rate=0))
        try:
            workload.open()
            workload.start()
            wait_until(lambda: "limits the rate" in capsys.readouterr().err, "it is said")
            workload.finish()
        finally:
            workload.close()
    events = recorder.take()
    assert checker.judge().verdict is Verdict.OK
    assert len([event for event in events if event.note == "RateLimited"]) <= 3 * SETTINGS.senders
    assert "limits the rate" not in capsys.readouterr().err


def wait_acknowledged(workload: Workload, goal: int) -> None:
    wait_until(lambda: workload.acknowledged >= goal, f"{goal} sends", 20)


# -- the command ------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["memory:", "sqlite:{folder}/chat.db"])
@pytest.mark.parametrize("listener", LISTENERS)
def test_the_verdict_on_a_private_server(
    listener: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    kind = LISTENERS[listener]

    def noted(*arguments: Any) -> Listener:
        made.append(listener)
        return kind(*arguments)

    monkeypatch.setattr(private, "LISTENERS", {listener: noted})
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")  # where nobody listens
    workload = ("--duration", "0.3", "--senders", "2", "--mailboxes", "1")
    url = store.format(folder=tmp_path)
    result = user.run("verify", *workload, "--listener", listener, "--store", url)
    assert made == [listener]
    assert f"listener {listener}\n" in result.stderr
    assert result.stdout.splitlines()[-1] == "verdict: ok"
    assert "lost              0" in result.stdout
    assert "with 95 % confidence" in result.stdout


def test_the_verdict_on_a_named_server_and_what_is_kept_of_it(tmp_path: Path) -> None:
    history = tmp_path / "history"
    with running_server() as endpoint:
        user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
        (verdict,) = user.json(
            *("verify", "--duration", "0.3", "--connect", str(endpoint)),
            *("--senders", "2", "--mailboxes", "1", "--history", str(history)),
        )
        with Client(endpoint) as client:
            client.create_account("ann", "correct horse")
            assert list(client.accounts()) == ["ann"]  # its own are gone
    assert verdict["verdict"] == "ok"
    assert verdict["acknowledged"] == verdict["delivered"] > 0
    lost = verdict["findings"]["lost"]
    assert (lost["count"], lost["cases"]) == (0, verdict["acknowledged"])
    assert lost["below_95"] == pytest.approx(3 / verdict["acknowledged"])
    with history.open(encoding="utf-8") as lines:
        again = Checker.over(read_history(lines)).judge()
    assert again.delivered == verdict["delivered"]
    assert again.verdict is Verdict.OK


def test_senders_at_one_server_and_watchers_at_another(tmp_path: Path) -> None:
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    workload = ("--duration", "0.3", "--senders", "2", "--mailboxes", "2")
    with running_server() as endpoint, FaultProxy(endpoint) as one, FaultProxy(endpoint) as other:
        one.keeps = other.keeps = True
        places = ("--connect", str(one.endpoint), "--watch-at", str(other.endpoint))
        (verdict,) = user.json("verify", *workload, *places)
        said = [b"".join(bytes(each.up.seen or b"") for each in it.routes) for it in (one, other)]
    assert verdict["verdict"] == "ok"
    assert [(b'"send"' in each, b'"watch"' in each) for each in said] == [
        (True, False),
        (False, True),
    ]
    user.run("verify", "--watch-at", str(other.endpoint), code=2)


class Refuses(Cheat):
    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        self.number()
        raise MailboxFull


class DropsAll(Cheat):
    def append(self, account_id: str | None, draft: Draft) -> Accepted:
        if self.number() == 1:
            return super().append(account_id, draft)
        return Accepted(draft.message_id, draft.sent_at, draft.sent_at)


@pytest.mark.parametrize(
    ("kind", "code", "verdict"), [(DropsAll, 1, "violated"), (Refuses, 5, "unknown")]
)
def test_the_exit_code_tells_the_verdict(
    kind: type[Cheat], code: int, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailboxes = kind()
    monkeypatch.setattr(command, "open_store", lambda _url: cheating(mailboxes))

    def show(*_: object) -> None:
        if mailboxes._count >= 10:
            raise KeyboardInterrupt  # as soon as there is enough

    monkeypatch.setattr(command.Progress, "show", show)
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    arguments = ("--duration", "60", "--senders", "1", "--mailboxes", "1", "--no-copies")
    result = CliRunner().invoke(main, ["verify", *arguments], env=user.environment)
    assert result.exit_code == code, result.output
    assert result.stdout.splitlines()[-1] == f"verdict: {verdict}"
    if code == 1:
        assert json.dumps(result.stdout).count("-s0-") == 5  # some of them are named


def test_a_history_that_cannot_be_written_is_told_before_there_is_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_server(*_: object) -> None:
        pytest.fail("a server was started")

    monkeypatch.setattr("twinline.cli.verify.command.private_server", no_server)
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    file = str(tmp_path / "nowhere" / "h")
    result = user.run("verify", "--history", file, code=2)
    assert result.stderr == f"twinline: --history: No such file or directory: {file}\n"


def test_a_server_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    history = tmp_path / "history"
    history.write_text("of another run\n", encoding="utf-8")
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    user.run("verify", "--connect", "tcp://127.0.0.1:1", "--history", str(history), code=4)
    assert history.read_text(encoding="utf-8") == "of another run\n"


class KeepsAccounts(MemoryAccounts):
    def withdraw(self, account_id: str, *, keep_name: bool) -> bool:
        raise StoreUnavailable


def test_accounts_that_are_left_behind_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    store.accounts = KeepsAccounts()
    monkeypatch.setattr(command, "open_store", lambda _url: store)
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    arguments = ("--duration", "0.3", "--senders", "2", "--mailboxes", "1")
    said = user.run("verify", *arguments).stderr
    assert "3 accounts could not be deleted; their names begin verify-" in said


def test_a_ctrl_c_while_the_history_is_written_leaves_nothing_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hits = 0

    def interrupted(file: IO[str], events: list[Event]) -> None:
        nonlocal hits
        for number, event in enumerate(events):
            if number == 1 and not hits:
                hits += 1
                signal.raise_signal(signal.SIGINT)
            write_history(file, [event])

    monkeypatch.setattr(command, "write_history", interrupted)
    history = tmp_path / "history"
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    arguments = ("--duration", "60", "--senders", "2", "--mailboxes", "1")
    (told,) = user.json("verify", *arguments, "--history", str(history))
    assert hits == 1
    with history.open(encoding="utf-8") as lines:
        again = Checker.over(read_history(lines)).judge()
    assert again.verdict is Verdict.OK
    assert (again.attempted, again.handed) == (told["attempted"], told["handed"])


def test_a_store_that_is_none_is_told(tmp_path: Path) -> None:
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    assert "there is no store" in user.run("verify", "--store", "nothing:", code=2).stderr


@pytest.mark.parametrize(("flag", "value"), [("--store", "memory:"), ("--listener", "loop")])
def test_what_is_of_a_private_server_does_not_go_with_connect(
    flag: str, value: str, tmp_path: Path
) -> None:
    user = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    result = user.run("verify", "--connect", "tcp://127.0.0.1:1", flag, value, code=2)
    assert f"give --connect or {flag}, not both" in result.stderr


def test_ctrl_c_ends_the_sending_and_the_verdict_follows(tmp_path: Path) -> None:
    history = tmp_path / "run.jsonl"
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    few = ("--senders", "2", "--mailboxes", "1")  # each costs the hash of a password
    verify = ("verify", "--duration", "600", *few, "--history", str(history))
    with ended(twinline.start(*verify)) as run:
        acknowledged = '"op":"send","outcome":"ok"'
        wait_until(
            lambda: history.exists() and acknowledged in history.read_text(encoding="utf-8"),
            "something is acknowledged",
        )
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=40)
    assert run.returncode == 0, err
    assert "no more is sent" in err
    assert out.splitlines()[-1] == "verdict: ok"
    assert "Traceback" not in err
