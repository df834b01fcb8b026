"""How a server looks after its store: the clock, the durability, and whether it answers."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_server import CommandLine, ended
from pretended_store import PretendedSite
from waiting import wait_until

from twinline.cli.console.errors import CommandError
from twinline.cli.server.health import ClockRefused, Watchman
from twinline.core.errors import StoreUnavailable
from twinline.core.store import CLOCK_REFUSE_MS, CLOCK_WARN_MS, Durability, Health
from twinline.stores.memory import MemoryStore


class TellingStore(MemoryStore):
    """A store that is as the test says."""

    durability = Durability.REPLICATED

    def __init__(self) -> None:
        super().__init__()
        self.now: Health | Exception = Health(self.durability)

    def health(self) -> Health:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now


Told = Callable[..., list[tuple[str, str]]]


@pytest.fixture
def store() -> TellingStore:
    return TellingStore()


@pytest.fixture
def told(store: TellingStore, caplog: pytest.LogCaptureFixture) -> Told:
    """Return what is told when the store is so at the next look; an error is one that it raises."""
    stopped: list[bool] = []
    watchman = Watchman(store, lambda: stopped.append(True))

    def look(now: Health | Exception) -> list[tuple[str, str]]:
        caplog.clear()
        store.now = now
        watchman.look()
        assert bool(stopped) is (watchman.failure is not None)
        return [(each.levelname, each.getMessage()) for each in caplog.records]

    return look


def replicated(**more: float) -> Health:
    return Health(Durability.REPLICATED, **more)  # type: ignore[arg-type]


def test_what_changes_is_told_once(told: Told) -> None:
    ((level, words),) = told(Health(Durability.DISK))
    assert (level, words) == (
        "ERROR",
        "what is acknowledged from now on has durability disk; it was replicated",
    )
    assert told(Health(Durability.DISK)) == []
    ((level, words),) = told(replicated())
    assert level == "WARNING"
    ((level, words),) = told(replicated(lag_seconds=2.5))
    assert "for 2.5 s" in words
    assert told(replicated(lag_seconds=9)) == []
    assert len(told(replicated())) == 1
    assert told(replicated()) == []


def test_a_clock_that_is_off_is_told_and_one_that_is_far_off_ends_the_server(told: Told) -> None:
    assert told(replicated(clock_offset_ms=CLOCK_WARN_MS - 1)) == []
    for offset, which in ((CLOCK_WARN_MS, " is 2 s"), (-CLOCK_REFUSE_MS + 1, " is -30 s")):
        ((level, words),) = told(replicated(clock_offset_ms=offset))
        assert level == "WARNING"
        assert which in words
        assert "agrees" in told(replicated())[0][1]
    ((level, words),) = told(replicated(clock_offset_ms=-CLOCK_REFUSE_MS))
    assert level == "ERROR"
    assert words.startswith("this machine's clock is 30 s behind the store's: set it right")
    assert told(replicated(clock_offset_ms=-CLOCK_REFUSE_MS)) == []


def test_a_store_that_does_not_answer_is_told_once_and_ends_nothing(told: Told) -> None:
    silent = StoreUnavailable("the database does not answer")
    assert told(silent) == [("ERROR", "the store cannot be used: the database does not answer")]
    for _ in range(20):
        assert told(silent) == []
    ((level, words),) = told(replicated())
    assert level == "WARNING"
    assert re.fullmatch(r"the store can be used again, after [\d.e-]+ s", words)


def test_what_becomes_of_the_store_are_events(
    store: TellingStore, caplog: pytest.LogCaptureFixture
) -> None:
    watchman = Watchman(store, lambda: None)
    for now in (
        StoreUnavailable(),
        Health(Durability.DISK),
        replicated(),
        replicated(lag_seconds=3.0),
        replicated(clock_offset_ms=-CLOCK_WARN_MS),
        replicated(),
        replicated(clock_offset_ms=CLOCK_REFUSE_MS),
    ):
        store.now = now
        watchman.look()
    assert [each.event for each in caplog.records] == [  # type: ignore[attr-defined]
        "store_unavailable",
        "store_available",
        "durability_lowered",
        "durability_raised",
        "servers_silent",
        "clock_off",
        "servers_heard",
        "clock_agrees",
        "clock_refused",
    ]


def test_a_server_does_not_begin_where_it_must_not(store: TellingStore) -> None:
    store.now = replicated(clock_offset_ms=CLOCK_REFUSE_MS)
    with pytest.raises(ClockRefused, match="30 s ahead of"):
        Watchman(store, lambda: None)
    store.now = StoreUnavailable()
    with pytest.raises(CommandError, match="the store cannot be used: the store is not available"):
        Watchman(store, lambda: None)


def test_it_looks_now_and_then_whatever_a_look_comes_to(
    store: TellingStore, caplog: pytest.LogCaptureFixture
) -> None:
    with Watchman(store, lambda: None, seconds=0.01):
        store.now = ZeroDivisionError()
        wait_until(lambda: caplog.text.count("cannot be asked") >= 2, "two looks")
        store.now = Health(Durability.NONE)
        wait_until(lambda: "durability none" in caplog.text, "another look")


_SERVE_LOOKING_OFTEN = """
import sys
from twinline.cli.main import main
from twinline.cli.server import health
health.LOOK_SECONDS = 0.05
health.Watchman.__init__.__kwdefaults__["seconds"] = 0.05
main(["serve", *sys.argv[1:]])
"""


def test_a_server_outlives_its_stores_silence_and_ends_by_its_clock(tmp_path: Path) -> None:
    site = PretendedSite(tmp_path)
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    twinline.environment |= site.environment
    log = tmp_path / "log"
    with log.open("w") as stderr:
        server = twinline.python(
            _SERVE_LOOKING_OFTEN,
            "--listen",
            "tcp://127.0.0.1:0",
            "--store",
            site.url,
            stderr=stderr,
        )
    with ended(server):
        assert server.stdout is not None
        place = server.stdout.readline().split()[2]
        site.say(silent=True)
        wait_until(lambda: "the store cannot be used" in log.read_text(), "it is told", 20)
        site.say()
        wait_until(lambda: "the store can be used again" in log.read_text(), "it is told", 20)
        twinline.run("ping", "--count", "1", "--connect", place)
        site.say(offset=40_000)
        assert server.wait(20) == 1
        assert server.stdout.read() == ""
    last = log.read_text().splitlines()[-1]
    assert last.startswith("twinline: this machine's clock is 40 s ahead of the store's")
