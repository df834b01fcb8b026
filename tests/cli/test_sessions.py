"""The file of kept sessions: only its owner's, never torn, nothing lost."""

import stat
import threading
from pathlib import Path

import pytest
from waiting import join

from twinline.cli.client.sessions import KeptSession, SessionFile
from twinline.cli.console.errors import CommandError
from twinline.transports.endpoints import Endpoint

HERE = (Endpoint.parse("tcp://127.0.0.1:7767"),)
THERE = (Endpoint.parse("unix:/tmp/there.sock"),)
ANN = KeptSession(username="ann", token="a secret")
BOB = KeptSession(username="bob", token="another")


@pytest.fixture
def kept(tmp_path: Path) -> SessionFile:
    return SessionFile(tmp_path / "deep" / "twinline" / "sessions.json")


def test_sessions_are_kept_by_endpoint_and_username(kept: SessionFile) -> None:
    kept.keep(HERE, ANN)
    kept.keep(HERE, BOB)
    kept.keep(THERE, ANN)
    assert kept.find(HERE) == BOB
    assert kept.find(HERE, "ann") == ANN
    assert kept.find(HERE, "Ann") == ANN
    assert kept.find(THERE) == ANN
    with pytest.raises(CommandError, match="bob is not logged in at unix:/tmp/there"):
        kept.find(THERE, "bob")


def test_the_transport_makes_no_difference(kept: SessionFile) -> None:
    kept.keep([Endpoint.parse("tcp://127.0.0.1:7767?transport=binary")], ANN)
    assert kept.find(HERE) == ANN


def test_a_session_of_several_servers_is_good_at_each(kept: SessionFile) -> None:
    kept.keep((*HERE, *THERE), ANN)
    assert kept.find(HERE) == kept.find(THERE) == kept.find((*THERE, *HERE)) == ANN
    kept.keep(THERE, BOB)
    assert kept.find((*HERE, *THERE)) == ANN  # the first that has one
    assert kept.find((*HERE, *THERE), "bob") == BOB
    assert kept.usernames((*HERE, *THERE)) == ["ann", "bob"]
    kept.forget((*HERE, *THERE), ANN)
    assert kept.endpoints() == [str(THERE[0])]
    with pytest.raises(CommandError, match=r"ann is not logged in at tcp:.* or unix:"):
        kept.find((*HERE, *THERE), "ann")


def test_a_forgotten_session_leaves_the_others(kept: SessionFile) -> None:
    kept.keep(HERE, BOB)
    kept.keep(HERE, ANN)
    kept.forget(HERE, ANN)
    with pytest.raises(CommandError, match="nobody is logged in"):
        kept.find(HERE)
    assert kept.find(HERE, "bob") == BOB
    kept.forget(HERE, BOB)
    kept.forget(HERE, BOB)


def test_a_session_that_took_its_place_is_not_forgotten(kept: SessionFile) -> None:
    kept.keep(HERE, ANN)
    newer = KeptSession(username="ann", token="newer")
    kept.keep(HERE, newer)
    kept.forget(HERE, ANN)
    assert kept.find(HERE) == newer


def test_only_the_owner_can_read_it(kept: SessionFile) -> None:
    kept.path.parent.mkdir(parents=True, mode=0o755)
    kept.path.write_text("{}")
    kept.path.chmod(0o644)
    kept.keep(HERE, ANN)
    for path in (kept.path, *kept.path.parent.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700


def test_a_token_is_in_no_repr() -> None:
    assert "secret" not in repr(ANN)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1, "endpoints": {"x": 1}}'])
def test_a_damaged_file_says_what_to_do(kept: SessionFile, text: str) -> None:
    kept.path.parent.mkdir(parents=True)
    kept.path.write_text(text)
    with pytest.raises(CommandError, match="is damaged; remove it and log in again"):
        kept.find(HERE)
    with pytest.raises(CommandError, match="is damaged"):
        kept.keep(HERE, ANN)
    assert kept.path.read_text() == text


def test_a_file_of_another_version_is_left_alone(kept: SessionFile) -> None:
    kept.path.parent.mkdir(parents=True)
    kept.path.write_text('{"version": 2}')
    with pytest.raises(CommandError, match="another version"):
        kept.find(HERE)


def test_a_write_that_fails_leaves_the_old_file(
    kept: SessionFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.keep(HERE, ANN)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        kept.keep(HERE, BOB)
    assert kept.find(HERE) == ANN
    assert sorted(path.name for path in kept.path.parent.iterdir()) == [
        "sessions.json",
        "sessions.json.lock",
    ]


def test_changes_at_the_same_time_are_all_kept(kept: SessionFile) -> None:
    def keep(number: int) -> None:
        kept.keep(HERE, KeptSession(username=f"user{number}", token="t"))

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        join(thread)
    for number in range(16):
        assert kept.find(HERE, f"user{number}").token == "t"
