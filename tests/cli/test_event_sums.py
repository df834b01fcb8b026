"""What the log tells by numbers: who guesses is named, and fills no disk."""

import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from listening import serving
from services import PASSWORD, FakeClock, cheap_hasher
from waiting import wait_until

from twinline.cli.server import event_sums
from twinline.cli.server.event_sums import (
    FIRST_FEW,
    FREE_SECONDS,
    INTERVALS,
    OWN_LINES,
    QUIET_SECONDS,
    EventSums,
)
from twinline.cli.server.log import JsonFormatter, QueuedLog, TextFormatter
from twinline.core import events
from twinline.core.errors import RequestError
from twinline.core.events import emit
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.stores.memory import MemoryStore

EVENTS = logging.getLogger("twinline.events")


class Seconds:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log:
    """A log whose lines are kept, and that ends when it is asked for them."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.seconds = Seconds()
        self.text = b""
        self.handler = QueuedLog(self._write, 4096, sums=EventSums(clock=clock or self.seconds))

    def _write(self, data: bytes) -> None:
        self.text += data

    def written(self) -> list[str]:
        """Return what was written so far, without the time."""
        return [line.partition(" ")[2] for line in self.text.decode().splitlines()]

    def lines(self) -> list[str]:
        """End the log, and return all that it has told."""
        self.handler.stop(20)
        return self.written()


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Iterator[Log]:
    log = Log(getattr(request, "param", None))
    level = EVENTS.level
    EVENTS.addHandler(log.handler)
    EVENTS.setLevel(logging.INFO)
    yield log
    EVENTS.setLevel(level)
    EVENTS.removeHandler(log.handler)
    log.handler.stop(20)


class FreeHasher(PasswordHasher):
    """Costs nothing, and lets in who knows the text of the hash."""

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        return super().hash(b"", salt=salt or bytes(16))

    def verify(self, hash: str | bytes, password: str | bytes) -> bool:
        if password != PASSWORD.encode():
            raise VerifyMismatchError
        return True


def failed(address: str, username: str | None = "ann") -> None:
    emit(events.LOGIN_FAILED, username=username, address=address, why="wrong_password")


ATTACKERS = [f"198.51.100.{number}" for number in range(100)]


@pytest.mark.parametrize("allowed", [5, 1_000_000], ids=["slowed", "all tried"])
def test_guessing_is_a_log_of_few_lines_that_names_each_address(log: Log, allowed: int) -> None:
    """10,000 wrong passwords from 100 addresses, in three minutes."""
    hasher = FreeHasher(time_cost=1, memory_cost=8, parallelism=1)
    settings = ServiceSettings(
        failures_per_account=allowed, failures_per_address=allowed, guesses_per_minute=allowed
    )
    service = ChatService(
        MemoryStore(), settings, clock=FakeClock(), monotonic=log.seconds, hasher=hasher
    )
    for number in range(40):
        service.add_account(f"user{number}", PASSWORD)
    service.login(service.session("192.0.2.1"), "user7", PASSWORD)  # from now on it is known there
    for number in range(10_000):
        log.seconds.now += 0.018
        session = service.session(ATTACKERS[number % 100])
        with pytest.raises(RequestError):
            service.login(session, f"user{number % 53}", "a guess at it")
    service.login(service.session("192.0.2.1"), "user7", PASSWORD)
    guesses = [line for line in log.lines() if "account_added" not in line]
    assert len(guesses) < 300
    names_each_address(guesses)
    assert sum(map(_counted, guesses)) == 10_000
    assert guesses.count("INFO login: user7 logged in from 192.0.2.1 by password") == 2


def names_each_address(lines: list[str], attackers: Sequence[str] = ATTACKERS) -> None:
    """See that each attacker is named at once, and in the lines that tell of the rest."""
    for address in attackers:
        place = re.escape(address)
        assert any(re.search(rf"login_\w+: logins? as .* from {place} ", line) for line in lines)
        assert any(
            re.search(rf" repeated: (address {place}: |.* {place} \()", line) for line in lines
        )


@pytest.mark.parametrize("log", [time.monotonic], indirect=True, ids=["real time"])
@pytest.mark.parametrize("each_listener", ["threads", "loop"], indirect=True)
@pytest.mark.parametrize("guesses", [1_000, 10_000])
@pytest.mark.usefixtures("each_listener")
def test_guessing_over_connections_is_a_log_of_few_lines(log: Log, guesses: int) -> None:
    """From a hundred of this machine's addresses, each of which comes back for ten more guesses."""
    attackers = [f"127.0.1.{number}" for number in range(1, 101)]
    service = ChatService(MemoryStore(), ServiceSettings(), hasher=cheap_hasher())
    for number in range(40):
        service.add_account(f"user{number}", PASSWORD)
    # A slow machine is not to end a connection whose guesses take long.
    with serving(service=service, login_seconds=100) as server:
        place = server.endpoints[0].host, server.endpoints[0].port

        def guess(address: str) -> None:
            for begun in range(0, guesses // len(attackers), 10):
                with (
                    socket.create_connection(place, 60, (address, 0)) as peer,
                    peer.makefile("rb") as replies,
                ):
                    for number in range(begun, begun + 10):
                        name = f"user{(number * 7 + int(address.rpartition('.')[2])) % 53}"
                        asked = {
                            "op": "login",
                            "id": 1,
                            "username": name,
                            "password": "a guess at it",
                        }
                        peer.sendall(json.dumps(asked).encode() + b"\n")
                        code = json.loads(replies.readline())["error"]["code"]
                        assert code in ("bad_credentials", "rate_limited")

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(guess, attackers))
    told = [line for line in log.lines() if "account_added" not in line]
    assert len(told) < 300
    names_each_address(told, attackers)
    assert sum(map(_counted, told)) == guesses


def failure(username: str | None, address: str) -> logging.LogRecord:
    return events.record_of(
        events.LOGIN_FAILED,
        {"username": username, "address": address, "why": "wrong_password"},
        level=logging.INFO,
        message=f"login as {username} from {address} failed: wrong_password",
    )


class Told:
    """What is told of failed logins, each taken as soon as it is due."""

    def __init__(self) -> None:
        self.seconds = Seconds()
        self.sums = EventSums(clock=self.seconds)
        self.lines: list[str] = []

    def fail(self, address: str, username: str | None = "ann") -> None:
        record = failure(username, address)
        if not self.sums.takes(record):
            self._tell(record)
        self.look()

    def look(self, *, everything: bool = False) -> None:
        for each in self.sums.take(everything=everything):
            self._tell(each)

    def _tell(self, record: logging.LogRecord) -> None:
        self.lines.append(TextFormatter(with_time=False).format(record))


@pytest.mark.parametrize(
    ("minutes", "order"),
    [
        *((minutes, "in turns") for minutes in (0, 3, 10, 60, 600)),
        *((minutes, "one after the other") for minutes in (0, 3, 10, 60)),
    ],
)
def test_it_is_so_whatever_time_it_takes(minutes: int, order: str) -> None:
    told = Told()
    for number in range(10_000):
        told.seconds.now += minutes * 60 / 10_000
        told.fail(ATTACKERS[number % 100 if order == "in turns" else number // 100])
    told.look(everything=True)
    assert len(told.lines) < 300
    names_each_address(told.lines)
    assert sum(map(_counted, told.lines)) == 10_000
    assert told.sums.patience is None


def _counted(line: str) -> int:
    """Return how many failed logins a line tells of."""
    if " repeated: " in line:
        return sum(
            int(count.replace(",", ""))
            for count in re.findall(r"([\d,]+)(?: more)? (?:failed|locked-out) logins", line)
        )
    return int(bool(re.search(r" (login_failed|login_slowed): ", line)))


def test_the_first_few_are_told_and_then_a_line_after_a_minute_and_rarer_ones() -> None:
    told = Told()
    sums = []
    for interval in (*INTERVALS, INTERVALS[-1]):
        told.seconds.now = round(told.seconds.now / interval) * interval
        for _ in range(10):
            told.fail("192.0.2.1")
        told.seconds.now += interval - 0.1
        told.fail("192.0.2.1", "bob")
        assert len(told.lines) == FIRST_FEW + len(sums)
        assert told.sums.patience == pytest.approx(0.1)
        told.seconds.now += 0.1
        told.look()
        count = 11 if sums else 11 - FIRST_FEW
        sums.append(
            f"INFO repeated: address 192.0.2.1: {count} more failed logins, to 2 accounts, "
            f"in {interval:.0f} s"
        )
        assert told.lines[FIRST_FEW:] == sums
        assert told.sums.patience is None
    # It was quiet for so long: it is told one by one again.
    told.seconds.now += QUIET_SECONDS
    told.fail("192.0.2.1")
    assert told.lines[-1].startswith("INFO login_failed: login as ann from 192.0.2.1")


def test_what_is_due_is_told_though_nothing_else_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sums, "INTERVALS", (0.05,))
    text: list[bytes] = []
    handler = QueuedLog(text.append, 10, sums=EventSums())
    try:
        for _ in range(FIRST_FEW + 1):
            handler.handle(failure(None, "192.0.2.1"))
        wait_until(lambda: b" repeated: " in b"".join(text), "it is told")
    finally:
        handler.stop(20)


def test_who_has_been_quiet_for_a_while_gives_its_place_to_another_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(event_sums, "MOST_ADDRESSES", 2)
    told = Told()
    for address in ("192.0.2.1", "192.0.2.2"):
        for _ in range(FIRST_FEW + 1):
            told.fail(address)
    for seconds, places in (
        (FREE_SECONDS - 1, ["192.0.2.1", "192.0.2.2", ""]),
        (1, ["192.0.2.2", "", "192.0.2.3"]),
    ):
        told.seconds.now += seconds
        for _ in range(FIRST_FEW):
            told.fail("192.0.2.3")
        assert [key[1] for key in told.sums._addresses.sums] == places
    text = "\n".join(told.lines)
    assert "address 192.0.2.1: 1 more failed logins" in text
    assert text.count("login as ann from 192.0.2.3 failed") == 2 * FIRST_FEW


def test_who_has_something_to_be_told_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_sums, "MOST_ADDRESSES", 1)
    monkeypatch.setattr(event_sums, "INTERVALS", (2 * QUIET_SECONDS,))
    told = Told()
    for _ in range(FIRST_FEW + 1):
        told.fail("192.0.2.1")
    told.seconds.now += QUIET_SECONDS
    told.fail("192.0.2.2")
    told.look(everything=True)
    assert any("address 192.0.2.1: 1 more failed logins" in line for line in told.lines)


def test_the_address_of_a_line_about_several_is_a_field_of_json(log: Log) -> None:
    log.handler.setFormatter(JsonFormatter())
    for address in ATTACKERS[: OWN_LINES + 1]:
        for _ in range(FIRST_FEW + 2):
            failed(address)
    log.handler.stop(20)
    last = json.loads(log.text.splitlines()[-1])
    assert last["address"] is None
    assert last["addresses"] == dict.fromkeys(ATTACKERS[: OWN_LINES + 1], 2)
    assert last["counts"] == {"login_failed": 2 * (OWN_LINES + 1)}


def test_an_address_is_what_limits_count_as_one(log: Log) -> None:
    for number in range(10):
        failed(f"2001:db8::{number}")
    assert log.lines()[FIRST_FEW:] == [
        "INFO repeated: address 2001:db8::/64: 7 more failed logins, to 1 account, in 0 s"
    ]


def test_logins_are_counted_by_account_and_do_not_hide_failures(log: Log) -> None:
    for _ in range(10):
        emit(events.LOGIN, username="ann", address="192.0.2.1", by="password")
    emit(events.LOGIN, username="bob", address="192.0.2.1", by="password")
    failed("192.0.2.1")
    *told, numbers = log.lines()
    assert [line.partition(":")[2] for line in told] == [
        *[" ann logged in from 192.0.2.1 by password"] * FIRST_FEW,
        " bob logged in from 192.0.2.1 by password",
        " login as ann from 192.0.2.1 failed: wrong_password",
    ]
    assert numbers == "INFO repeated: ann from 192.0.2.1: 7 more logins, in 0 s"


def test_the_level_is_the_highest_of_what_is_counted(log: Log) -> None:
    for _ in range(5):
        failed("192.0.2.1")
    emit(events.LOGIN_SLOWED, username="ann", address="192.0.2.1", seconds=1.0)
    assert log.lines()[-1].startswith("WARNING repeated: address 192.0.2.1: 2 more failed logins, ")


def test_strangers_make_it_keep_so_much_and_no_more(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_sums, "MOST_ADDRESSES", 20)
    monkeypatch.setattr(event_sums, "MOST_ACCOUNTS", 10)
    monkeypatch.setattr(event_sums, "MOST_NAMES", 5)
    sums = log.handler._sums
    for number in range(2_000):
        failed(f"10.0.{number // 256}.{number % 256}", f"user{number % 50}")
        emit(events.LOGIN, username=f"user{number}", address="192.0.2.1", by="password")
    assert len(sums._addresses.sums) == 21
    assert len(sums._accounts.sums) == 10
    assert all(len(each.accounts) <= 5 for each in sums._addresses.sums.values())
    lines = log.lines()
    others = [line for line in lines if "all others: " in line]
    assert len(others) == 1
    assert others[0].endswith("failed logins, to at least 5 accounts, in 0 s")
    # Nobody who has logged in goes without a name.
    assert sum(" login: user" in line for line in lines) == 2_000
    assert sum(map(_counted, lines)) == 2_000


def test_who_repeats_it_in_json_is_a_field(log: Log) -> None:
    log.handler.setFormatter(JsonFormatter())
    for _ in range(5):
        failed("192.0.2.1")
    log.handler.stop(20)
    assert (
        b'"event": "repeated", "address": "192.0.2.1", "addresses": {}, "username": null, '
        b'"counts": {"login_failed": 2}, "accounts": 1, "seconds": 0' in log.text
    )


def test_many_threads_lose_no_count(log: Log) -> None:
    threads = [
        threading.Thread(target=lambda: [failed("192.0.2.1") for _ in range(500)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sum(map(_counted, log.lines())) == 2_000
