"""What a chat counts as unread, and keeps from one run to the next."""

import json
import stat
from functools import partial
from pathlib import Path

import pytest
from waiting import Call

from twinline.cli.chat.unread import MOST, Counts, KeptCounts, Unopened, Unread
from twinline.core.protocol import Message


def message(seq: int, sender: str, to: str | None = None) -> Message:
    return Message(seq=seq, message_id=f"{seq:024x}", sender=sender, body="", sent_at=1, to=to)


def mail(*senders: str, first: int = 1) -> list[Message]:
    return [message(seq, sender) for seq, sender in enumerate(senders, first)]


def test_what_the_toolbar_says() -> None:
    unread = Unread()
    assert str(unread) == "0 unread"
    unread.take_in(mail("bob", "eve", "bob", "carl", "dora"), None)
    assert str(unread) == "5 unread (bob 2, eve 1, carl 1, ...)"
    assert list(unread.names) == ["bob", "eve", "carl", "dora"]
    unread.open("bob")
    unread.take_in(mail("bob", "eve\x1b", first=6), "bob")
    assert str(unread) == "4 unread (eve 1, carl 1, dora 1, ...)"
    for name in ("carl", "dora"):
        unread.open(name)
    assert str(unread) == "2 unread (eve 1, eve␛ 1)"


def test_who_has_answered_from_another_device_has_read_what_was_there() -> None:
    counts = Counts()
    came = [*mail("bob", "carl"), message(3, "ann", to="bob"), message(4, "bob")]
    counts.take_in(came, None)
    assert counts.names == {"carl": Unopened(1, 2), "bob": Unopened(1, 4)}
    # All of it comes again, for the chat was killed before it was acknowledged.
    counts.take_in(came, None)
    assert counts.names == {"carl": Unopened(1, 2), "bob": Unopened(1, 4)}


def test_so_many_are_counted_and_no_more() -> None:
    counts = Counts()
    counts.take_in(mail(*map(str, range(MOST + 2))), None)
    assert len(counts.names) == MOST
    assert next(iter(counts.names)) == "2"


def test_it_is_kept_and_each_account_has_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "unread"
    unread = Unread(KeptCounts(folder, "ann here"))
    unread.take_in(mail("bob", "bob", "carl"), None)
    unread.open("carl")
    again = Unread(KeptCounts(folder, "ann here"))
    assert again.names == {"bob": Unopened(2, 1)}
    assert again.seen == 3
    assert not Unread(KeptCounts(folder, "ann there")).names
    files = [each for each in folder.iterdir() if each.name != "lock"]
    assert len(files) == 1
    assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    again.begin_anew()
    again.take_in(mail("bob"), None)
    assert Unread(KeptCounts(folder, "ann here")).names == {"bob": Unopened(1, 1)}


def test_two_chats_of_one_account_share_what_is_kept(tmp_path: Path) -> None:
    desk, phone = (Unread(KeptCounts(tmp_path, "ann")) for _ in range(2))
    came = mail("bob", "carl")
    desk.take_in(came, None)
    phone.take_in(came, "carl")
    assert Unread(KeptCounts(tmp_path, "ann")).names == {"bob": Unopened(1, 1)}
    assert list(desk.names) == ["bob", "carl"]  # on its own screen it was not opened
    desk.take_in(mail("dora", first=3), None)
    phone.open("bob")
    assert Unread(KeptCounts(tmp_path, "ann")).names == {"dora": Unopened(1, 3)}


def test_changes_of_many_at_once_are_all_kept(tmp_path: Path) -> None:
    count = 20

    def work(name: str) -> None:
        kept = KeptCounts(tmp_path, "ann")
        for _ in range(count):
            kept.change(lambda counts: counts.names.update(_one_more(counts, name)))

    calls = [Call(partial(work, name)) for name in ("a", "b", "c")]
    for call in calls:
        call.outcome()
    names = KeptCounts(tmp_path, "ann").read().names
    assert {name: each.count for name, each in names.items()} == dict.fromkeys("abc", count)


def _one_more(counts: Counts, name: str) -> dict[str, Unopened]:
    return {name: Unopened(counts.names.get(name, Unopened(0, 1)).count + 1, 1)}


def test_what_cannot_be_so_any_more_is_dropped(tmp_path: Path) -> None:
    unread = Unread(KeptCounts(tmp_path, "ann"))
    unread.take_in(mail("bob", "carl", "dora"), None)
    unread.settle(2, ["bob", "dora"])
    assert list(unread.names) == ["bob", "dora"]
    assert unread.seen == 2
    unread.settle(7, None)
    assert list(unread.names) == ["bob", "dora"]
    assert unread.seen == 2
    unread.take_in(mail("eve", first=3), None)  # of a mailbox that begins again
    assert "eve" in Unread(KeptCounts(tmp_path, "ann")).names


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"seen": 1}',
        '{"seen": 1, "unread": {"bob": 1}}',
        '{"seen": 1, "unread": []}',
    ],
)
def test_a_file_that_cannot_be_read_counts_nothing(tmp_path: Path, text: str) -> None:
    kept = KeptCounts(tmp_path, "ann")
    kept.change(lambda counts: counts.take_in(mail("bob"), None))
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text())["account"] == "ann"
    path.write_text(text)
    assert kept.read() == Counts()
    kept.change(lambda counts: counts.take_in(mail("bob"), None))
    assert kept.read().names == {"bob": Unopened(1, 1)}


def test_where_nothing_can_be_kept_it_is_counted_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    unread = Unread(KeptCounts(tmp_path / "file" / "below", "ann"))
    unread.take_in(mail("bob"), None)
    assert str(unread) == "1 unread (bob 1)"
