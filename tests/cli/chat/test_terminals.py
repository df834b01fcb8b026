"""`twinline chat` on terminals of every kind, and how a talk starts."""

from collections import Counter
from pathlib import Path

import pytest
from admin_server import administered
from cli_server import CommandLine, running_server
from services import PASSWORD
from terminal import Terminal, chat, colours, terminal
from waiting import wait_until

from twinline.transports.client import Client

pytestmark = pytest.mark.terminal


def test_the_terminal_changes_its_size(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        shown.type("half a line")
        shown.wait_line("to bob> half a line")
        for columns, lines in ((50, 15), (120, 40)):
            shown.resize(columns, lines)
            ann.run("send", "ann", f"at {columns}", "--user", "bob")
            shown.wait_text(f"at {columns}")
            shown.wait_line("to bob> half a line")
        shown.enter(" and the rest")
        shown.wait_text("→ bob: half a line and the rest")


def test_no_color(ann: CommandLine) -> None:
    for variables, coloured in (({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)):
        with chat(ann, "bob", variables=variables) as shown:
            shown.wait_line("to bob>")
            shown.enter("from me")
            ann.run("send", "ann", "to me", "--user", "bob")
            shown.wait_text("→ bob: from me")
            shown.wait_text("← bob: to me")
            assert bool(colours(shown.output)) is coloured


def test_arrows_where_the_terminal_has_none(ann: CommandLine) -> None:
    with chat(ann, "bob", variables={"PYTHONIOENCODING": "ascii"}) as shown:
        shown.wait_line("to bob>")
        shown.enter("from me")
        shown.wait_text("-> bob: from me")
        ann.run("send", "ann", "to me", "--user", "bob")
        shown.wait_text("<- bob: to me")


@pytest.mark.parametrize(
    ("arguments", "variables"), [((), {"TERM": "dumb"}), (("--plain",), {"TERM": "xterm"})]
)
def test_a_terminal_that_can_do_nothing(
    ann: CommandLine, arguments: tuple[str, ...], variables: dict[str, str]
) -> None:
    with chat(ann, *arguments, "bob", variables=variables) as shown:
        shown.wait_text("/help tells what to type")
        shown.type("hello\n")
        wait_until(lambda: ann.bodies("bob") == ["hello"], "the message")
        ann.run("send", "ann", "hi \x1b[2J", "--user", "bob")
        shown.wait_text("bob: hi ␛[2J")
        shown.type("/nothing\n")
        shown.wait_text("twinline: there is no /nothing")
        shown.type("\x04")
        assert shown.exit_code() == 0
        assert b"\x1b" not in shown.output


class Answering:
    """Answers what a terminal asks; each question when it is asked once more than before."""

    def __init__(self, shown: Terminal) -> None:
        self._shown = shown
        self._asked: Counter[str] = Counter()

    def __call__(self, question: str, text: str) -> None:
        self._asked[question] += 1
        times = self._asked[question]
        encoded = question.encode()
        self._shown.wait(
            lambda: self._shown.output.count(encoded) == times, f"{question!r} to be asked"
        )
        self._shown.enter(text)


def test_no_mistake_is_made_for_ever(tmp_path: Path) -> None:
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        with chat(twinline, variables={"TWINLINE_PASSWORD": ""}) as shown:
            shown.wait_text("quit (q)?")
            shown.enter()
            answer = Answering(shown)
            for _ in range(4):
                answer("Name:", "no name")
            answer("Name:", "zoe")
            for _ in range(5):
                answer("New password for zoe", "short")
            assert shown.exit_code() == 3
            assert "twinline: too many attempts" in shown.lines


def test_the_first_start_makes_an_account(tmp_path: Path) -> None:
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        twinline.register("taken")
        twinline.session_file.unlink()
        with chat(twinline, variables={"TWINLINE_PASSWORD": ""}) as shown:
            shown.wait_text(f"nobody is logged in at {endpoint}")
            shown.wait_text("quit (q)?")
            shown.enter()
            # Each mistake is told at once, and what was right is not asked again.
            answer = Answering(shown)
            answer("Name:", "Zoë")
            answer("Name:", "taken")
            question = f"New password for taken at {endpoint}:"
            answer(question, "short")
            shown.wait_text("twinline: a password has 8 to 128 characters")
            answer(question, PASSWORD)
            answer("The same again:", "something else")
            shown.wait_text("twinline: the two passwords differ")
            answer(question, PASSWORD)
            answer("The same again:", PASSWORD)
            shown.wait_text("twinline: this username is taken")
            answer("Name:", "zoe")
            shown.wait_toolbar("online")
            shown.enter("taken: it works")
            shown.wait_text("→ taken: it works")
        # The session is kept, and the next start asks for nothing.
        with chat(twinline, variables={"TWINLINE_PASSWORD": ""}) as shown:
            shown.wait_toolbar("online")
            assert "zoe at" in shown.toolbar


def test_a_start_after_the_session_has_ended(ann: CommandLine) -> None:
    with Client(ann.place) as elsewhere:
        elsewhere.login("ann", PASSWORD)
        elsewhere.change_password(PASSWORD, "another horse")
    with chat(ann, variables={"TWINLINE_PASSWORD": ""}) as shown:
        shown.wait_text(f"the session of ann at {ann.place} has ended")
        answer = Answering(shown)
        for password in (PASSWORD, "another horse"):
            answer(f"Password for ann at {ann.place}: ", password)
        shown.wait_toolbar("online")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_start_at_a_server_that_has_forgotten_the_account(
    tmp_path: Path, *, is_there: bool
) -> None:
    place = f"unix:{tmp_path}/socket"
    twinline = CommandLine(tmp_path, place)
    with running_server(place):
        twinline.register("ann")
    with running_server(place):
        if is_there:
            with Client(place) as elsewhere:
                elsewhere.create_account("ann", PASSWORD)
        with chat(twinline) as shown:
            Answering(shown)("Create ann again? [Y/n]:", "")
            assert f"ann at {place} is gone: this server keeps" in "".join(shown.lines)
            shown.wait_toolbar("online")
            assert any("is taken" in line for line in shown.lines) is is_there


def test_the_start_asks_for_an_invitation(tmp_path: Path) -> None:
    with administered(registration="invitation") as served:
        token = served.ask("invite")["token"]
        twinline = CommandLine(tmp_path, served.endpoint)
        with chat(twinline) as shown:
            shown.wait_text("quit (q)?")
            shown.enter()
            answer = Answering(shown)
            answer("Name:", "zoe")
            for invitation in ("none", token):
                answer("Invitation: ", invitation)
            shown.wait_toolbar("online")


@pytest.mark.parametrize("command", ["login", "chat"])
def test_a_one_time_password_is_changed_at_a_terminal(tmp_path: Path, command: str) -> None:
    with administered() as served:
        served.server.service.add_account("ann", PASSWORD)
        once = served.ask("reset_password", username="ann")["password"]
        twinline = CommandLine(tmp_path, served.endpoint)
        twinline.environment["TWINLINE_PASSWORD"] = once
        words = ("login", "ann") if command == "login" else ("chat", "--user", "ann")
        with terminal(*words, environment=twinline.environment) as shown:
            if command == "chat":
                shown.wait_text("quit (q)?")
                shown.enter("l")
                shown.wait(lambda: shown.foot[-1] == "Name [ann]:", "to be asked for the name")
                shown.enter()
            shown.wait_text("this is a one-time password")
            shown.wait(lambda: "New password for ann" in shown.foot[-1], "to be asked for another")
            shown.enter("another horse")
            shown.wait(lambda: shown.foot[-1] == "The same again:", "to be asked again")
            shown.enter("another horse")
            if command == "chat":
                shown.wait_toolbar("online")
            else:
                assert shown.exit_code() == 0
            assert b"another horse" not in shown.output
        with Client(served.endpoint) as client:
            client.login("ann", "another horse")


def test_whoever_wants_no_account_leaves(tmp_path: Path) -> None:
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        with chat(twinline) as shown:
            shown.wait_text("quit (q)?")
            shown.enter("q")
            assert shown.exit_code() == 3
            assert "twinline: nobody is logged in" in shown.lines
    with chat(twinline) as shown:
        assert shown.exit_code() == 4  # the server is gone
