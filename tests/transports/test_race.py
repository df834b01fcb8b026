"""The race between the addresses of an endpoint, with real sockets and a clock that is moved."""

import errno
import socket
from collections.abc import Iterator

import pytest
from listening import socket_path
from named import swallowing
from still_clock import StillClock
from waiting import wait_until

from twinline.core import deadline as deadline_module
from twinline.core.deadline import Deadline
from twinline.transports import race as race_module
from twinline.transports.connecting import connect
from twinline.transports.endpoints import Endpoint
from twinline.transports.race import ATTEMPT_DELAY, Address, Connected, Race, interleaved
from twinline.transports.resolver import Resolver

V4, V6 = socket.AF_INET, socket.AF_INET6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StillClock:
    clock = StillClock()
    monkeypatch.setattr(deadline_module, "time", clock)
    return clock


@pytest.fixture
def answering() -> Iterator[Address]:
    """An address on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield Address(V4, 0, listening.getsockname())


@pytest.fixture
def silent() -> Iterator[Address]:
    """An address that swallows what is sent to it."""
    with swallowing() as port:
        yield Address(V4, 0, ("127.0.0.2", port))


@pytest.fixture
def refusing() -> Address:
    """An address on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return Address(V4, 0, listening.getsockname())


def finish(race: Race) -> Connected:
    """Step until there is a winner; the clock stands still, so no other attempt begins."""
    found: list[Connected] = []

    def step() -> bool:
        connected = race.step()
        if connected is not None:
            found.append(connected)
        return bool(found)

    wait_until(step, "a winner")
    return found[0]


def test_families_take_turns_and_each_address_comes_once() -> None:
    six = [Address(V6, 6, (f"2001:db8::{number}", 1, 0, 0)) for number in range(3)]
    four = [Address(V4, 6, (f"192.0.2.{number}", 1)) for number in range(2)]
    assert interleaved([*six, *four, six[0]]) == [six[0], four[0], six[1], four[1], six[2]]
    assert interleaved([*four, *six]) == [four[0], six[0], four[1], six[1], six[2]]
    assert interleaved([]) == []


def test_a_silent_address_gets_a_quarter_of_a_second(
    clock: StillClock, silent: Address, answering: Address
) -> None:
    with Race([silent, answering], Deadline.after(5)) as race:
        assert race.step() is None
        assert race.step() is None
        assert len(race.sockets) == 1
        assert race.until.remaining() == ATTEMPT_DELAY
        clock.now += ATTEMPT_DELAY
        connected = finish(race)
        loser, *others = race.sockets
        assert not others
    assert connected.address == answering
    assert connected.socket.getpeername() == answering.place
    assert connected.socket.getblocking() is False
    connected.socket.close()
    assert loser.fileno() == -1


@pytest.mark.parametrize(
    ("seconds", "addresses", "delay"),
    [(None, 9, 0.25), (5, 9, 0.25), (0.2, 2, 0.1), (5, 50, 0.1), (0.1, 50, 0.01), (0, 2, 0.01)],
)
def test_little_time_is_shared_by_all_addresses(
    clock: StillClock, silent: Address, seconds: float | None, addresses: int, delay: float
) -> None:
    assert Race([silent] * addresses, Deadline.after(seconds))._delay == pytest.approx(delay)


def test_no_attempt_begins_that_is_not_needed(
    clock: StillClock, silent: Address, answering: Address
) -> None:
    with Race([answering, silent], Deadline.after(5)) as race:
        connected = finish(race)
        assert not race.sockets
    assert connected.address == answering
    connected.socket.close()


def test_a_refusal_lets_the_next_attempt_begin_at_once(
    clock: StillClock, refusing: Address, silent: Address, answering: Address
) -> None:
    with Race([refusing, refusing, silent], Deadline.after(5)) as race:
        wait_until(lambda: race.step() is None and not race._left, "the last attempt")
        assert race.until.remaining() == 5  # for there is no other attempt to begin
    with Race([refusing, answering], Deadline.after(5)) as race:
        finish(race).socket.close()


@pytest.mark.parametrize("others", [0, 1, 3])
def test_the_deadline_is_for_all_attempts(clock: StillClock, silent: Address, others: int) -> None:
    with Race([silent] * (1 + others), Deadline.after(0.6)) as race:
        for _ in range(3):
            assert race.step() is None
            clock.now += 0.25
        sockets = list(race.sockets)
        assert len(sockets) == min(3, 1 + others)
        with pytest.raises(TimeoutError):
            race.step()
    assert {each.fileno() for each in sockets} == {-1}


def test_why_every_attempt_has_failed(refusing: Address) -> None:
    def race(*addresses: Address) -> OSError:
        with (
            Race(addresses, Deadline.after(5)) as race,
            pytest.raises(OSError) as failed,  # noqa: PT011 - the callers look at it
        ):
            finish(race)
        assert not race.sockets
        return failed.value

    assert race(refusing, refusing).errno == errno.ECONNREFUSED
    with socket_path() as path:
        nothing = Address(socket.AF_UNIX, 0, path)
        assert isinstance(race(nothing), FileNotFoundError)
        both = str(race(refusing, nothing))
    assert both == f"127.0.0.1: Connection refused; {path}: No such file or directory"
    unknown = Address(12345, 0, ("127.0.0.1", 1))
    assert "not supported" in str(race(unknown))


def test_a_unix_socket_whose_queue_is_full_fails_at_once() -> None:
    with socket_path() as path, socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(0)
        address = Address(socket.AF_UNIX, 0, path)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(path)
            with (
                Race([address], Deadline.after(5)) as race,
                pytest.raises(BlockingIOError),
            ):
                finish(race)


def test_a_socket_that_cannot_be_tuned_is_closed(
    monkeypatch: pytest.MonkeyPatch, answering: Address
) -> None:
    """The peer may be gone between connecting and the first option: macOS then says EINVAL."""
    made: list[socket.socket] = []

    def gone(connected: socket.socket) -> None:
        made.append(connected)
        raise OSError(errno.EINVAL, "gone")

    monkeypatch.setattr(race_module, "tune", gone)
    with Race([answering], Deadline.after(5)) as race, pytest.raises(OSError, match="gone"):
        finish(race)
    assert [each.fileno() for each in made] == [-1]


def test_a_thread_connects_past_a_silent_address(silent: Address) -> None:
    port = silent.place[1]
    endpoint = Endpoint.parse(f"tcp://chat.example:{port}")
    found = [(V4, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
    with socket.create_server(("127.0.0.1", port)):
        connected = connect(endpoint, Deadline.after(10), Resolver(lambda *_, **__: found))
        assert connected.address.place == ("127.0.0.1", port)
        connected.socket.close()
    with pytest.raises(TimeoutError):
        connect(Endpoint.parse(f"tcp://127.0.0.2:{port}"), Deadline.after(0.05))
