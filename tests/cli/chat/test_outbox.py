"""The outbox of the chat: what it sends, in which order, and what it keeps."""

import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_event, wait_until

from twinline.cli.chat import outbox
from twinline.cli.chat.outbox import TOO_OLD_MS, Outbox, Waiting, _OutboxFile
from twinline.cli.console.errors import CommandError
from twinline.core.clock import wall_clock_ms
from twinline.core.errors import Busy, MailboxFull, NoSuchUser
from twinline.core.protocol import SentReply
from twinline.transports.client import ClientClosed, NotConnected, TimedOut


class Server:
    """Stores what is sent, unless it is to answer something else first.

    Attributes:
        answers: what the next sends raise; None: it is stored.
        stored: (to, body, send_id) of what was stored.
        asked: send_ids, of each attempt.
    """

    def __init__(self) -> None:
        self.answers: list[Exception | None] = []
        self.stored: list[tuple[str, str, str]] = []
        self.asked: list[str] = []
        self.opened = threading.Event()
        self.opened.set()
        self.closed = False

    def send(self, to: str, body: str, send_id: str) -> SentReply:
        self.asked.append(send_id)
        wait_event(self.opened, "the server to answer")
        if self.closed:
            raise ClientClosed("closed")
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.stored.append((to, body, send_id))
        return SentReply(message_id="0" * 24, sent_at=1, n=1)


class Sender:
    """An outbox, and what it has told."""

    def __init__(self, server: Server, folder: Path | None, account: str = "ann") -> None:
        self.server = server
        self.told: list[tuple[str, Exception | None]] = []
        self.outbox = Outbox(
            server.send,
            folder=folder,
            account=account,
            on_sent=lambda entry, _: self.told.append((entry.body, None)),
            on_refused=lambda entry, error: self.told.append((entry.body, error)),
            on_change=lambda: None,
            on_fault=lambda error: self.told.append(("", error)),
        )

    @property
    def bodies(self) -> list[str]:
        return [each.body for each in self.outbox.waiting]

    def wait(self, count: int) -> list[tuple[str, Exception | None]]:
        def is_so() -> bool:
            self.outbox.hurry()
            return len(self.told) >= count

        wait_until(is_so, f"{count} to be told")
        return self.told

    def close(self) -> None:
        self.server.closed = True
        self.server.opened.set()
        self.outbox.close()


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    made = Sender(Server(), tmp_path)
    made.outbox.start()
    yield made
    made.close()


def test_it_is_sent_in_order_and_a_refusal_holds_nobody_up(sender: Sender) -> None:
    refusal, full = NoSuchUser(), MailboxFull()
    sender.server.answers = [None, refusal, full, None]
    for number, to in enumerate(("bob", "nobody", "carol", "bob")):
        sender.outbox.put(to, str(number))
    assert sender.wait(4) == [("0", None), ("1", refusal), ("2", full), ("3", None)]
    assert [(to, body) for to, body, _ in sender.server.stored] == [("bob", "0"), ("bob", "3")]
    assert sender.bodies == []


def test_an_attempt_that_can_be_made_again_is_under_the_same_send_id(sender: Sender) -> None:
    lost = TimedOut("no reply")
    lost.send_id = "x"
    sender.server.answers = [NotConnected("away"), lost, Busy(retry_after_ms=60_000)]
    sender.outbox.put("bob", "first")
    sender.outbox.put("bob", "second")
    assert sender.wait(2) == [("first", None), ("second", None)]
    ids = [send_id for _, _, send_id in sender.server.stored]
    assert sender.server.asked == [ids[0]] * 4 + [ids[1]]
    assert ids[0] != ids[1]


def test_what_waits_is_taken_over_and_only_once(tmp_path: Path) -> None:
    left = Sender(Server(), tmp_path)
    for body in ("ä", "b\n"):
        left.outbox.put("bob", body)
    running = Sender(Server(), tmp_path)
    assert running.bodies == []  # its chat runs
    left.close()
    other = Sender(Server(), tmp_path, account="bob")
    assert other.bodies == []
    taken = Sender(Server(), tmp_path)
    assert taken.outbox.waiting == left.outbox.waiting
    again = Sender(Server(), tmp_path)
    assert again.bodies == []
    taken.outbox.start()
    assert taken.wait(2) == [("ä", None), ("b\n", None)]
    for each in (running, other, taken, again):
        each.close()
    assert [each.name for each in tmp_path.iterdir()] == ["lock"]


def test_a_file_that_a_crash_has_cut_or_not_cut(tmp_path: Path) -> None:
    written = Sender(Server(), tmp_path)
    for number in range(5):
        written.outbox.put("bob", f"message {number}")
    (path,) = [each for each in tmp_path.iterdir() if each.name != "lock"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    whole = path.read_text()
    waiting = written.outbox.waiting
    with written.outbox._lock:
        written.outbox._keep(waiting[2:])
    shorter = path.read_text()
    written.close()
    path.unlink()
    for text, left in (
        (shorter + whole[len(shorter) :], waiting[2:]),  # killed before it was cut
        (whole[:-10], waiting[:-1]),
    ):
        path.write_text(text)
        taken = Sender(Server(), tmp_path)
        assert taken.outbox.waiting == left
        with taken.outbox._lock:
            taken.outbox._keep(())
        taken.close()


def test_what_may_have_arrived_is_not_sent_for_ever(tmp_path: Path) -> None:
    old = wall_clock_ms() - TOO_OLD_MS - 1
    file = _OutboxFile.open(tmp_path, "ann")
    assert file is not None
    file.write(
        (
            Waiting("bob", "in doubt", "1", old, in_doubt=True),
            Waiting("bob", "never sent", "2", old),
        )
    )
    file.close(keep=True)
    sender = Sender(Server(), tmp_path)
    sender.outbox.start()
    (_, why), sent = sender.wait(2)
    assert "not known whether this arrived" in str(why)
    assert sent == ("never sent", None)
    assert len(sender.server.asked) == 1
    sender.close()


def test_so_many_wait_and_no_more(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MOST", 3)
    sender.server.opened.clear()
    for number in range(3):
        sender.outbox.put("bob", str(number))
    with pytest.raises(CommandError, match="3 messages wait already"):
        sender.outbox.put("bob", "one more")
    assert sender.bodies == ["0", "1", "2"]


def test_where_nothing_can_be_kept_it_waits_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    sender = Sender(Server(), tmp_path / "file" / "below")
    assert "what waits to be sent is not kept: Not a directory" in capsys.readouterr().err
    sender.outbox.start()
    sender.outbox.put("bob", "hello")
    assert sender.wait(1) == [("hello", None)]
    sender.close()
