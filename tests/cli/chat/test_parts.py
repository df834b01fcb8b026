"""The parts of the chat prompt that need no terminal: toolbar, look, completion, kept history."""

import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from cli_server import CommandLine
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.utils import get_cwidth
from services import PASSWORD

from twinline.cli.chat.completion import Names, TalkCompleter
from twinline.cli.chat.conversation import COMMANDS, Talk, needs_server, needs_server_now
from twinline.cli.chat.history import MAX_BYTES, kept_history
from twinline.cli.chat.lines import LineScreen
from twinline.cli.chat.live import LiveTalk
from twinline.cli.chat.prompt import candidates
from twinline.cli.chat.rows import MOST_ROWS, Entry, broken
from twinline.cli.chat.theme import (
    NICK_COLOURS,
    came_in,
    clock_time,
    conversation,
    day_of,
    elsewhere,
    nick_style,
    waits,
    went_out,
)
from twinline.cli.chat.toolbar import Toolbar, connection
from twinline.cli.client.sessions import KeptSession
from twinline.cli.client.target import Target, acked
from twinline.cli.console.text import local_time
from twinline.core.clock import wall_clock_ms
from twinline.core.errors import Busy, CursorInvalid
from twinline.core.protocol import Conversation, Message
from twinline.transports.client import Client, NotConnected, State, StateKind
from twinline.transports.endpoints import Endpoint

RECONNECTING = State(StateKind.RECONNECTING, "Connection refused", retry_in=4.0, retry_at=104.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# -- the toolbar ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "shown"),
    [
        (100.0, "reconnecting in 4 s (Connection refused)"),
        (100.5, "reconnecting in 4 s (Connection refused)"),
        (101.5, "reconnecting in 3 s (Connection refused)"),
        (103.9, "reconnecting in 1 s (Connection refused)"),
        (104.0, "reconnecting ... (Connection refused)"),
    ],
)
def test_a_countdown(now: float, shown: str) -> None:
    assert connection(RECONNECTING, now) == shown


def test_what_the_toolbar_says() -> None:
    clock = Clock()
    toolbar = Toolbar("ann at here", clock)
    assert str(toolbar) == "online | 0 unread | ann at here"
    toolbar.under_way(is_so=True)
    clock.now += 0.4
    assert "waiting for the server" not in str(toolbar)
    clock.now += 0.2
    assert str(toolbar) == "online | waiting for the server ... | 0 unread | ann at here"
    toolbar.under_way(is_so=False)
    toolbar.held_back = True
    toolbar.take_in(RECONNECTING)
    assert str(toolbar).startswith("this needs the server: Enter again when online | reconnecting")
    toolbar.take_in(State(StateKind.ONLINE))
    toolbar.take_in(RECONNECTING)
    assert "this needs the server" not in str(toolbar)
    assert " | 2 to be sent | 0 unread | " in str(Toolbar("ann", clock, waiting=lambda: 2))


def test_the_toolbar_tells_which_server_one_is_at() -> None:
    target = Target.of({"connect": ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"]})
    live = LiveTalk(target, KeptSession(username="ann", token="a secret"))
    moved = State(StateKind.ONLINE, endpoint=Endpoint.parse("tcp://127.0.0.1:2?transport=jsonl"))
    live.on_state(moved)
    assert str(live._toolbar) == "online | 0 unread | ann at tcp://127.0.0.1:2"
    live.on_state(replace(moved, node="east\x1b"))
    assert str(live._toolbar) == "online at east␛ | 0 unread | ann at tcp://127.0.0.1:2"


def test_a_talk_that_is_kept_open_tells_when_another_day_begins() -> None:
    before, day = wall_clock_ms(), 86_400_000
    live = LiveTalk(
        Target.of({"connect": ["tcp://127.0.0.1:1"]}), KeptSession(username="ann", token="a secret")
    )
    assert live._new_day(before) == []  # today's mark is where a conversation opens
    for later in (2 * day, 3 * day):
        (mark,) = live._new_day(before + later)
        assert str(mark) == f"── {day_of(before + later)} ──"
        assert live._new_day(before + later) == []
    assert live._new_day(before + 2 * day) == []


# -- how lines look ---------------------------------------------------------------------


def test_lines_of_others_and_own_ones_differ_without_colour() -> None:
    now = wall_clock_ms()
    message = Message(seq=7, message_id="0" * 24, sender="bob", body="a\x1b[0mb\nc", sent_at=now)
    assert str(came_in(message)).endswith(" ← bob: a␛[0mb␊c")
    assert str(came_in(message, numbered=True)).startswith("     7  ")
    assert str(went_out("bob", "a\nb", now)).endswith(" → bob: a␊b")


def rows(entry: Entry, columns: int) -> list[str]:
    return ["".join(text for _, text in row) for row in entry.rows(columns)]


def test_a_message_is_broken_at_words_under_its_own_text() -> None:
    entry = Entry([("", "14:03:05 "), ("", "← bob: ")], "shall we\n\ngo to the sea\x1b[2J?")
    assert rows(entry, 80) == [
        "14:03:05 ← bob: shall we",
        " " * 16,
        " " * 16 + "go to the sea␛[2J?",
    ]
    assert rows(entry, 40)[2:] == [" " * 16 + "go to the sea␛[2J?"]
    assert rows(entry, 24) == [
        "14:03:05 ← bob: shall we",
        "  ",
        "  go to the sea␛[2J?",
    ]
    assert rows(entry, 12)[3:] == ["  go to the", "  sea␛[2J?"]


def test_what_has_no_space_is_broken_anywhere_and_wide_characters_count_twice() -> None:
    assert rows(Entry([("", "> ")], "abcdefgh"), 6) == ["> abcd", " efgh"]
    assert rows(Entry([("", "> ")], "漢字漢字"), 6) == ["> 漢字", " 漢字"]


@given(
    text=st.text(alphabet="ab 漢é\u0301 ", max_size=60),
    first=st.integers(0, 12),
    others=st.integers(2, 12),
)
def test_nothing_is_lost_and_every_row_fits(text: str, first: int, others: int) -> None:
    parts = list(broken(text, first, others))
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")
    for part, room in zip(parts, [first, *[others] * len(parts)], strict=False):
        assert get_cwidth(part.rstrip(" ")) <= room


def test_a_message_without_end_takes_no_more_than_its_rows() -> None:
    shown = rows(Entry([("", "< ")], "\n" * 60_000), 80)
    assert len(shown) == MOST_ROWS + 1
    assert shown[-1] == f"  ... {60_001 - MOST_ROWS} more lines"


def test_what_has_one_row_is_cut_at_the_edge() -> None:
    now = wall_clock_ms()
    message = Message(seq=7, message_id="0" * 24, sender="bob", body="a 漢字 b\n c", sent_at=now)
    notice = elsewhere(message)
    assert [row[9:] for row in rows(notice, 80)] == ["← [bob] a 漢字 b ..."]
    assert [row[9:] for row in rows(notice, 26)] == ["← [bob] a 漢 ..."]
    assert get_cwidth(rows(notice, 26)[0]) <= 26
    whole = conversation(Conversation(username="bob", last=message, unread=2))
    assert [get_cwidth(row) <= 40 for row in rows(whole, 40)] == [True]
    assert rows(waits("x" * 50, "bob"), 20) == ["○ bob: xxxxxxxxx ..."]
    assert rows(waits("x", "bob"), 20) == ["○ bob: x"]
    assert rows(waits("x"), 20) == ["○ x"]


def test_names_have_colours_of_their_own() -> None:
    styles = {nick_style(f"user{number}") for number in range(100)}
    assert styles == {f"class:nick{number}" for number in range(len(NICK_COLOURS))}
    assert nick_style("bob") == nick_style("bob")


def test_the_date_is_shown_when_it_is_another() -> None:
    now = wall_clock_ms()
    assert clock_time(now) == local_time(now).split()[1]
    before = now - 40 * 86_400_000
    assert clock_time(before) == local_time(before)


# -- completion -------------------------------------------------------------------------


def offered(text: str, completer: TalkCompleter) -> list[str]:
    document = Document(text, len(text))
    found = completer.get_completions(document, CompleteEvent(completion_requested=True))
    return [text[: len(text) + each.start_position] + each.text for each in found]


class Server:
    """Answers with some names, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.is_online = True
        self.is_gone = False

    def ask(self, pattern: str) -> Iterable[str]:
        self.asked.append(pattern)
        if self.is_gone:
            raise NotConnected("gone")
        return [name for name in ("ann", "anton", "bob") if name.startswith(pattern[:-1])]


def test_what_is_offered() -> None:
    server = Server()
    to: list[str | None] = [None]
    completer = TalkCompleter(
        Names(server.ask, lambda: server.is_online), lambda: ["eve", "bob"], lambda: to[0]
    )
    assert offered("/de", completer) == ["/delete ", "/delete-account"]
    assert offered("/", completer) == [
        f"{name} " if command.takes else name for name, command in COMMANDS.items()
    ]
    assert offered("/to an", completer) == ["/to ann", "/to anton"]
    assert offered("AN", completer) == ["ann: ", "anton: "]
    assert offered("", completer) == ["eve: ", "bob: "]
    assert offered("hello an", completer) == []
    assert offered("/history an", completer) == []
    assert offered("é", completer) == []
    to[0] = "carol"  # where 'ann: text' would go to nobody
    assert offered("", completer) == ["/to eve", "/to bob"]
    assert offered("AN", completer) == ["ann ", "anton "]
    assert server.asked == ["an*"]  # the second time it was known


def test_nothing_is_offered_while_the_server_is_away() -> None:
    server = Server()
    completer = TalkCompleter(Names(server.ask, lambda: server.is_online), list, lambda: None)
    server.is_online = False
    assert offered("a", completer) == []
    assert server.asked == []
    server.is_online, server.is_gone = True, True
    assert offered("a", completer) == []
    server.is_gone = False
    assert offered("a", completer) == ["ann: ", "anton: "]


def test_which_lines_need_the_server() -> None:
    lines = ("hello", "/accounts", "/unknown", "bob: hello", "", "  ", "/help", "/quit")
    assert [needs_server(line) for line in lines] == [True] * 4 + [False] * 4
    assert needs_server("bob:")
    assert [needs_server_now(line) for line in lines] == [False, True] + [False] * 6
    assert needs_server_now("bob:")


# -- what was typed ---------------------------------------------------------------------


def test_a_history_that_has_grown_loses_its_older_half(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    history = kept_history(folder)
    path = folder / "chat-history"
    path.chmod(0o644)
    for number in range(4000):
        history.append_string(f"line {number} {'x' * 60}")
    assert path.stat().st_size > MAX_BYTES
    again = kept_history(folder)
    assert path.stat().st_size <= MAX_BYTES
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in folder.iterdir()] == ["chat-history"]
    lines = list(again.load_history_strings())  # the newest first
    assert lines[0].startswith("line 3999 ")
    assert len(lines) > 1000
    assert all(line.startswith("line ") and line.endswith("x" * 60) for line in lines)


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    history = kept_history(tmp_path / "file" / "below")
    history.append_string("remembered for now")
    assert "what you type is not kept: Not a directory" in capsys.readouterr().err


# -- opening ----------------------------------------------------------------------------


class Readers:
    """Takes down to whom a talk turns, and what opens, with something that happens in between."""

    def __init__(self, meanwhile: Callable[[], object]) -> None:
        self._meanwhile = meanwhile
        self.turned: list[str | None] = []
        self.bodies: list[str] = []

    def unopened(self, name: str) -> None:
        pass

    def turn_to(self, name: str | None) -> None:
        self.turned.append(name)
        if name is not None:
            self._meanwhile()

    def opened(self, name: str, messages: Sequence[Message]) -> None:
        assert name == "bob"
        self.bodies += [each.body for each in messages]


def test_what_comes_while_a_conversation_opens_is_shown_as_it_is(ann: CommandLine) -> None:
    ann.run("send", "ann", "before", "--user", "bob")
    with Client(ann.place) as client:
        client.login("ann", PASSWORD)

        def talk_with(reader: Readers) -> Talk:
            screen = LineScreen(as_json=False)
            return Talk(client, screen, place=ann.place, forget=lambda: None, reader=reader)

        # Who shows mail knows of the conversation before the server is asked for it.
        reader = Readers(lambda: ann.run("send", "ann", "meanwhile", "--user", "bob"))
        talk = talk_with(reader)
        talk.turn_to("bob")
        assert (talk.to, reader.turned) == ("bob", ["bob"])
        assert reader.bodies == ["before", "meanwhile"]

        def refuse(*_: object, **__: object) -> NoReturn:
            raise Busy

        client.history = refuse  # type: ignore[method-assign]
        reader = Readers(lambda: None)
        talk = talk_with(reader)
        with pytest.raises(Busy):
            talk.turn_to("bob")
        assert (talk.to, reader.turned) == (None, ["bob", None])


# -- acknowledging ----------------------------------------------------------------------


class Refusing:
    """A client whose server answers every ack with the same error, or takes it."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def ack(self, seq: int) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("error", "done"),
    [(None, True), (NotConnected("gone"), False), (Busy(retry_after_ms=1), False)],
)
def test_an_ack_that_can_be_tried_again_is_no_failure(error: Exception | None, done: bool) -> None:
    assert acked(Refusing(error), 1) is done


def test_an_ack_that_is_refused_for_good_is_one() -> None:
    with pytest.raises(CursorInvalid):
        acked(Refusing(CursorInvalid()), 1)


# -- what Tab offers ----------------------------------------------------------------------


def offers(chosen: int | None, columns: int, *offered: tuple[str, str]) -> str:
    row = candidates(offered, chosen, columns)
    assert sum(get_cwidth(each[1]) for each in row) <= columns
    assert [each[1] for each in row if each[0] == "class:chosen"] == (
        [] if chosen is None else [offered[chosen][0]]
    )
    return "".join(each[1] for each in row)


def test_what_is_offered_is_one_row_with_the_chosen_one_in_it() -> None:
    names = [(f"name{number}", "") for number in range(10)]
    assert offers(None, 31, *names) == " name0  name1  name2  name3  > "
    assert offers(4, 31, *names) == "<name4  name5  name6  name7  > "
    assert offers(9, 31, *names) == "<name8  name9   "
    help_ = ("/help", "show this")
    assert offers(None, 40, help_) == " /help   | show this "
    assert offers(1, 60, help_, ("/history", "show the last")).endswith(" | show the last ")
