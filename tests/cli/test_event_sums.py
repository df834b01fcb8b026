"""What the log tells by numbers: who guesses is named, and fills no disk."""

import logging
import re
import threading
from collections.abc import Iterator

import pytest
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError
from services import PASSWORD, FakeClock
from waiting import wait_until

from twinline.cli.server import event_sums
from twinline.cli.server.event_sums import FIRST_FEW, ONE_BY_ONE, WINDOW_SECONDS, EventSums
from twinline.cli.server.log import JsonFormatter, QueuedLog
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

    def __init__(self, capacity: int = 4096, formatter: logging.Formatter | None = None) -> None:
        self.seconds = Seconds()
        self.text = b""
        self.handler = QueuedLog(
            self._write, capacity, formatter, sums=EventSums(clock=self.seconds)
        )

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
def log() -> Iterator[Log]:
    log = Log()
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
    addresses = [f"198.51.100.{number}" for number in range(100)]
    for number in range(10_000):
        log.seconds.now += 0.018
        session = service.session(addresses[number % 100])
        with pytest.raises(RequestError):
            service.login(session, f"user{number % 53}", "a guess at it")
    service.login(service.session("192.0.2.1"), "user7", PASSWORD)
    lines = log.lines()
    guesses = [line for line in lines if "account_added" not in line]
    # A line a minute for each of 100 addresses, the first few of each minute, and the owner's two.
    assert len(guesses) <= 3 * (100 + ONE_BY_ONE) + 2
    text = "\n".join(guesses)
    for address in addresses:
        assert re.search(rf"address {re.escape(address)}: [^\n]* logins, to \d+ accounts,", text)
    assert sum(map(_counted, guesses)) == 10_000
    assert guesses.count("INFO login: user7 logged in from 192.0.2.1 by password") == 2


def test_the_whole_of_it_at_once_is_less_than_300_lines(log: Log) -> None:
    addresses = [f"198.51.100.{number}" for number in range(100)]
    for number in range(10_000):
        failed(addresses[number % 100])
    lines = log.lines()
    assert len(lines) < 300
    for address in addresses:
        assert any(address in line for line in lines)
    assert sum(map(_counted, lines)) == 10_000


def _counted(line: str) -> int:
    """Return how many failed logins a line tells of."""
    if " repeated: " in line:
        return sum(
            int(count.replace(",", ""))
            for count in re.findall(r"([\d,]+)(?: more)? (?:failed|locked-out) logins", line)
        )
    return int(bool(re.search(r" (login_failed|login_slowed): ", line)))


def test_the_first_few_are_told_and_then_a_line_a_minute(log: Log) -> None:
    for _ in range(FIRST_FEW + 7):
        failed("192.0.2.1")
    wait_until(lambda: len(log.written()) == FIRST_FEW, "the first few")
    log.seconds.now += WINDOW_SECONDS
    failed("192.0.2.1", "bob")  # it goes on, and is told by numbers alone
    wait_until(lambda: len(log.written()) == FIRST_FEW + 1, "the first minute")
    assert log.written()[-1] == (
        "INFO repeated: address 192.0.2.1: 8 more failed logins, to 2 accounts, in 60 s"
    )
    log.seconds.now += WINDOW_SECONDS - 1
    failed("192.0.2.1", None)
    log.seconds.now += 1
    EVENTS.handle(_other_line())
    wait_until(lambda: "1 more failed logins" in log.text.decode(), "the second minute")
    # It was quiet for a minute: it is told one by one again.
    log.seconds.now += 2 * WINDOW_SECONDS
    EVENTS.handle(_other_line())
    wait_until(lambda: log.handler._sums.patience is None, "it is forgotten")
    failed("192.0.2.1")
    assert log.lines()[-1].startswith("INFO login_failed: login as ann from 192.0.2.1")


def _other_line() -> logging.LogRecord:
    return logging.makeLogRecord({"name": "test", "levelno": logging.INFO, "msg": "a line"})


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
    assert len(sums._addresses) == 21
    assert len(sums._accounts) == 10
    assert all(len(each.accounts) <= 5 for each in sums._addresses.values())
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
        b'"event": "repeated", "address": "192.0.2.1", "username": null, '
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
