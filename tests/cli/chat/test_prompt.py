"""`twinline chat` at a terminal: a pseudo-terminal, a real server, and the screen of its user."""

import itertools
import os
import re
import signal
import stat
from pathlib import Path

import pytest
from admin_server import administered
from cli_server import CommandLine
from services import PASSWORD
from terminal import Terminal, chat, serving
from waiting import halt, wait_until

from twinline.cli.chat.conversation import MOST_OPENED
from twinline.transports.client import Client

pytestmark = pytest.mark.terminal

WHICH = "to which? a number or a name:"


def without_times(lines: list[str]) -> list[str]:
    """Return lines without what differs: times, and how far is acknowledged."""
    without = [re.sub(r"\d\d:\d\d:\d\d", "TIME", line) for line in lines]
    return [re.sub(r"(acknowledged up to) \d+", r"\1 N", line) for line in without]


def ends_with(shown: Terminal, *lines: str) -> None:
    """Wait until these are the last lines above the prompt, but for what names a day."""

    def does() -> bool:
        above = [line for line in without_times(shown.above) if "── 2" not in line]
        return above[-len(lines) :] == list(lines)

    shown.wait(does, f"{lines} above the prompt")


def test_a_conversation_has_both_sides_on_every_device(ann: CommandLine) -> None:
    ann.register("carol")
    with (
        chat(ann, "bob", "--user", "ann") as desk,
        chat(ann, "bob", "--user", "ann") as phone,
        chat(ann, "ann", "--user", "bob") as bob,
    ):
        for each, prompt in ((desk, "to bob>"), (phone, "to bob>"), (bob, "to ann>")):
            each.wait_line(prompt)
        desk.enter("hello")
        for each, line in (
            (bob, "TIME ← ann: hello"),
            (desk, "TIME → bob: hello"),
            (phone, "TIME → bob: hello"),
        ):
            each.wait(lambda e=each, x=line: without_times(e.lines).count(x) == 1, line)
        for each in (desk, phone):
            each.wait_toolbar("✓✓ bob")
        bob.enter("hi")
        desk.wait_text("← bob: hi")
        # Word of others, and the bell; what they said is there when one turns to them.
        assert b"\x07" not in desk.output
        ann.run("send", "ann", "is always late\nreally", "--user", "carol")
        desk.wait_text("← [carol] is always late ...")
        desk.wait_toolbar("1 unread (carol 1)")
        desk.wait(lambda: b"\x07" in desk.output, "the bell")
        desk.type("\x1bOQ")  # F2
        desk.wait_line(WHICH)
        desk.enter("1")
        ends_with(
            desk,
            "── you and carol ──",
            "── 1 unread ──",
            "TIME ← carol: is always late",
            f"{' ' * 18}really",
        )
        desk.wait_toolbar("0 unread")
        desk.enter("/to bob")
        ends_with(desk, "TIME →✓✓ bob: hello", "TIME ← bob: hi")
        desk.enter("/block carol")
        desk.wait_text("carol is blocked; '/unblock carol' takes it back")
        assert "takes no messages" in ann.run("send", "ann", "x", "--user", "carol", code=3).stderr
        desk.enter("/blocked")
        desk.wait_line("carol")
        desk.enter("/unblock carol")
        desk.wait_text("carol is not blocked")
        desk.enter("/search LATE")
        desk.wait_text("no message has LATE in it")  # between ann and bob
    # All of it is there the next time.
    with chat(ann, "bob", "--user", "ann") as again:
        ends_with(again, "TIME →✓✓ bob: hello", "TIME ← bob: hi")


def test_a_list_of_conversations_is_chosen_from(ann: CommandLine) -> None:
    ann.register("carol", "dave")
    for sender in ("carol", "bob"):
        ann.run("send", "ann", f"from {sender}", "--user", sender)
    with chat(ann, "bob", "--user", "ann") as shown:
        shown.wait_toolbar("1 unread (carol 1)")

        def choose(answer: str) -> None:
            shown.type("\x1bOQ")  # F2
            shown.wait_line(WHICH)
            shown.type(answer)

        shown.type("meant for bob")
        choose("")
        rows = [line for line in shown.lines if line.startswith(("1 ", "2 "))]
        assert [row.split()[:2] for row in rows] == [["1", "carol"], ["2", "bob"]]
        shown.enter("1")
        shown.wait_line("to carol>")
        ends_with(shown, "── you and carol ──", "── 1 unread ──", "TIME ← carol: from carol")
        shown.type("meant for carol")
        # Enter alone and Ctrl-C stay, and so does nobody's name; what was typed is there again.
        for answer, said in (
            ("\r", "2 carol "),
            ("\x03", "nothing was changed"),
            ("3\r", "! there is no 3"),
            ("²\r", "! a username "),
            ("nobody\r", "! there is no nobody"),
        ):
            choose(answer)
            shown.wait_line("to carol> meant for carol")
            assert any(row.startswith(said) for row in shown.above[-2:])  # one is of two rows
        choose("BOB\r")
        shown.wait_line("to bob> meant for bob")
        choose("dave\r")  # with whom nothing was said yet
        shown.wait_line("to dave>")
        choose("2\r")  # the newest first, of those that are read
        shown.wait_line("to carol> meant for carol")


def test_what_was_not_opened_is_unread_in_the_next_chat_too(ann: CommandLine) -> None:
    ann.register("carol", "dave")
    with Client(ann.place) as carol:
        carol.login("carol", PASSWORD)
        for number in range(13):
            carol.send("ann", f"message {number}")
        with chat(ann, "bob", "--user", "ann") as shown:
            shown.wait_toolbar("13 unread (carol 13)")
            ann.run("send", "ann", "a notice alone", "--user", "dave")
            shown.wait_toolbar("14 unread (carol 13, dave 1)")
            wait_until(lambda: ann.unread("ann") == 0, "all of it to be acknowledged")
            shown.process.kill()
            shown.process.wait(10)
        carol.send("ann", "message 13")
        with chat(ann, "--user", "ann") as shown:
            shown.wait_toolbar("15 unread (carol 14, dave 1)")
            shown.type("\x1bOQ")  # F2
            shown.wait_line(WHICH)
            assert [line.split()[:4] for line in shown.lines if "unread  " in line] == [
                ["1", "carol", "14", "unread"],
                ["2", "dave", "1", "unread"],
            ]
            shown.enter("1")
            shown.wait_toolbar("1 unread (dave 1)")
            ends_with(
                shown,
                "── you and carol ──",
                "── 14 unread ──",
                *(f"TIME ← carol: message {number}" for number in range(14)),
            )
            shown.type("\x04")
            assert shown.exit_code() == 0
    ann.run("send", "dave", "answered elsewhere", "--user", "ann")
    with chat(ann, "--user", "ann") as shown:
        shown.wait_toolbar("| 0 unread")


@pytest.mark.parametrize("count", [30, 230])
def test_a_conversation_opens_with_all_that_is_unread(ann: CommandLine, count: int) -> None:
    lines = "".join(f"message {number}\n" for number in range(count))
    ann.run("send", "ann", "read before", "--user", "bob")
    with Client(ann.place) as elsewhere:
        elsewhere.login("ann", PASSWORD)
        elsewhere.ack(1)
    ann.run("send", "ann", "--lines", "--user", "bob", input=lines)
    shown_at_most = min(count, MOST_OPENED)
    with chat(ann, "bob", "--user", "ann") as shown:
        shown.wait_text(f"message {count - 1}")
        shown.wait(
            lambda: (
                [line for line in without_times(shown.lines) if "← bob: message" in line]
                == [
                    f"TIME ← bob: message {number}"
                    for number in range(count - shown_at_most, count)
                ]
            ),
            "all of it, once",
        )
        wait_until(lambda: ann.unread("ann") == 0, "all of it to be acknowledged")
        assert f"── {shown_at_most} unread ──" in shown.lines
        is_cut = "── older ones are unread too: /history N shows N ──" in shown.lines
        assert is_cut is (count > MOST_OPENED)
        shown.wait_toolbar("| 0 unread")


@pytest.mark.parametrize(
    ("by", "tmux", "told"),
    [
        ("", "", b""),
        ("9", "", b"\x1b]9;carol: late ...;\xe2\x90\x87\xe2\x90\x9b]0;owned\x1b\\"),
        ("777", "", b"\x1b]777;notify;twinline;carol: late ...;"),
        ("9", "/tmp/tmux,1,0", b"\x1bPtmux;\x1b\x1b]9;carol: late ...;"),
    ],
)
def test_a_notification_where_it_is_asked_for(
    ann: CommandLine, by: str, tmux: str, told: bytes
) -> None:
    ann.register("carol")
    option = ("--notify", by) if by else ()
    with chat(ann, "bob", "--user", "ann", *option, variables={"TMUX": tmux}) as shown:
        shown.wait_line("to bob>")
        ann.run("send", "ann", "here", "--user", "bob")
        shown.wait_text("← bob: here")
        assert b"\x1b]" not in shown.output
        assert b"\x07" not in shown.output
        ann.run("send", "ann", "late ...;\x07\x1b]0;owned", "--user", "carol")
        shown.wait(lambda: b"\x07" in shown.output, "the bell")
        shown.wait_toolbar("1 unread (carol 1)")
        assert told in shown.output
        assert (b"\x1b]" in shown.output) is bool(by)
        assert b"\x1b]0;" not in shown.output


def test_keys_lead_from_one_conversation_to_the_next_and_leave_what_is_typed_behind(
    ann: CommandLine,
) -> None:
    ann.register("carol", "dave", "eve")
    for name in ("dave", "bob", "eve", "carol"):
        ann.run("send", name, f"to {name}", "--user", "ann")
    for name in ("bob", "dave"):
        ann.run("send", "ann", f"from {name}", "--user", name)
    with chat(ann, "carol", "--user", "ann") as shown:
        shown.wait_line("to carol>")
        shown.wait_toolbar("2 unread")
        shown.type("for carol alone")
        shown.wait_line("to carol> for carol alone")
        for name in ("dave", "bob", "eve", "carol"):  # what is unread, and then the newest
            shown.type("\x1bn")
            shown.wait_text(f"you and {name}")
            if name != "carol":
                shown.wait_line(f"to {name}>")
        shown.wait_line("to carol> for carol alone")
        shown.wait_toolbar("0 unread")
        shown.type("\x1bp")
        shown.wait_line("to eve>")
        shown.enter("for eve")
        shown.wait_text("→ eve: for eve")
        shown.type("\x1bn")  # where one is comes first again, and then the newest
        shown.wait_line("to dave>")
        shown.enter("/to carol")
        shown.wait_line("to carol> for carol alone")
        shown.enter()
        shown.wait_text("→ carol: for carol alone")
    assert ann.bodies("carol") == ["to carol", "for carol alone"]


def test_a_talk_as_it_looks(ann: CommandLine) -> None:
    with chat(ann) as shown:
        shown.wait_toolbar("online")
        assert shown.line == ">"
        shown.enter("bob: hello")
        shown.wait_text("→ bob: hello")
        ann.run("send", "ann", "hi there", "--user", "bob")
        shown.wait_text("hi there")
        shown.enter("how are you?")
        shown.wait_text("→ bob: how are you?")
        shown.wait_toolbar("✓ bob")
        shown.enter("/status")
        shown.wait_text("0 unread, acknowledged up to")
        shown.enter("/history 2")
        shown.wait_text("2  ")
        shown.enter("/quit")
        assert shown.exit_code() == 0
        assert shown.is_as_before
        place = ann.place
        assert without_times([line for line in shown.lines if line]) == [
            f"you are ann at {place}; /help tells what to type",
            "── you and bob ──",
            "TIME → bob: hello",
            "TIME ← bob: hi there",
            "TIME → bob: how are you?",
            f"ann at {place}: 0 unread, acknowledged up to N",
            "there are older ones: /history with a larger number",
            "     2  TIME ← bob: hi there",
            "     3  TIME → bob: how are you?",
        ]
    assert ann.bodies("bob") == ["hello", "how are you?"]


def test_mail_appears_above_the_line_that_is_being_typed(ann: CommandLine) -> None:
    hostile = "\x1b[2J\x1b]0;owned\x07 \u202eabc\u202c \x9b31m and\nmore"
    typed = "a line that is typed slowly and never garbled"
    with chat(ann, "bob") as shown:
        shown.wait_line("to bob>")
        with Client(ann.place) as bob:
            bob.login("bob", PASSWORD)
            bob.send("ann", hostile)
            shown.wait_text("more")
            for number, character in enumerate(typed):
                shown.type(character)
                bob.send("ann", f"number {number}")
        last = len(typed) - 1
        shown.wait_text(f"number {last}")
        shown.wait_line(f"to bob> {typed}")
        assert without_times(shown.above)[2:] == [
            "TIME ← bob: ␛[2J␛]0;owned␇ <U+202E>abc<U+202C> <U+009B>31m and",
            f"{' ' * 16}more",
            *(f"TIME ← bob: number {number}" for number in range(last + 1)),
        ]
        assert b"owned\x07" not in shown.output
        shown.enter()
        shown.wait_text(f"→ bob: {typed}")
    assert ann.bodies("bob") == [typed]


def test_what_is_pasted_is_one_message(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        shown.wait_line("to bob>")
        shown.type("\x1b[200~first line\r\nsecond line\n\x1b[201~")
        shown.wait_text("second line")
        assert ann.bodies("bob") == []
        shown.enter()
        shown.wait_line(f"{' ' * 16}second line")
    assert ann.bodies("bob") == ["first line\nsecond line"]


def test_a_text_that_is_too_long_leaves_in_sight_that_it_was_refused(ann: CommandLine) -> None:
    with chat(ann, "bob", lines=12) as shown:
        shown.wait_line("to bob>")
        shown.type(f"\x1b[200~{'long ' * 4_000}\x1b[201~")
        shown.wait_text("long long")
        shown.enter()
        shown.wait_text("! not sent to bob: ")
        shown.wait(
            lambda: (
                sum("long" in line for line in shown.lines[-12:]) == 6
                and any("! not sent to bob: " in line for line in shown.lines[-12:])
            ),
            "half of the screen to have the text, which is given back, and the other half why",
        )


def test_alt_enter_begins_another_line_of_the_message(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        shown.wait_line("to bob>")
        shown.type("first line\x1b\rsecond line")
        shown.wait_line("second line")
        assert ann.bodies("bob") == []
        shown.enter()
        shown.wait_line(f"{' ' * 16}second line")
    assert ann.bodies("bob") == ["first line\nsecond line"]


def test_much_mail_at_once_comes_whole_and_in_order(ann: CommandLine) -> None:
    count = 400
    ann.run(
        "send",
        "ann",
        "--lines",
        "--user",
        "bob",
        input="".join(f"{number}\n" for number in range(count)),
    )
    with chat(ann) as shown:
        shown.wait_text(f"bob: {count - 1}")
        shown.wait_toolbar(f"{count} unread (bob {count})")
        seen = [line.rpartition("bob: ")[2] for line in shown.above if "bob: " in line]
        assert seen == [str(number) for number in range(count)]
        wait_until(lambda: ann.unread("ann") == 0, "all of it to be acknowledged")
        shown.enter("/to bob")
        shown.wait_toolbar("0 unread")


def test_the_server_goes_and_comes_back(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, f"unix:{tmp_path}/socket")
    store = ("--store", f"sqlite:{tmp_path}/chat.db")
    with serving(twinline, *store, columns=200) as server:
        twinline.register("bob", "ann")
        with chat(twinline, "bob", columns=120) as shown:
            shown.wait_line("to bob>")
            shown.type("typed before")
            server.close()
            shown.wait(lambda: re.search(r"reconnecting in \d s", shown.toolbar), "a countdown")
            shown.enter()
            shown.wait_line("○ bob: typed before")
            shown.wait_toolbar("1 to be sent")
            shown.enter("and this")
            shown.wait_line("○ bob: and this")
            shown.enter("/status")
            shown.wait_toolbar("this needs the server")
            shown.wait_line("to bob> /status")
            shown.type("\x03half of a third")
            seconds: list[str] = []

            def counts_down() -> bool:
                seconds.extend(re.findall(r"reconnecting in (\d+) s", shown.toolbar)[:1])
                told = [int(key) for key, _ in itertools.groupby(seconds)]
                return any(b == a - 1 for a, b in itertools.pairwise(told))

            shown.wait(counts_down, "a countdown that counts down")
            assert shown.line == "to bob> half of a third"
            with serving(twinline, *store):
                shown.type("\x03")
                shown.wait_line("to bob>")
                shown.enter()  # an empty line: now, and not in half a minute
                shown.wait_text("→ bob: and this")
                shown.wait(lambda: shown.toolbar.startswith(" online"), "to be online")
                assert not [line for line in shown.lines if line.startswith("○")]
                assert "to be sent" not in shown.toolbar
                assert without_times(shown.above)[-2:] == [
                    "TIME → bob: typed before",
                    "TIME → bob: and this",
                ]
                assert twinline.bodies("bob") == ["typed before", "and this"]


def test_what_waits_outlives_the_chat(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, f"unix:{tmp_path}/socket")
    store = ("--store", f"sqlite:{tmp_path}/chat.db")
    with serving(twinline, *store) as server:
        twinline.register("bob", "carol", "ann")
        with chat(twinline, "bob") as shown:
            shown.wait_line("to bob>")
            server.close()
            shown.wait(lambda: "reconnecting" in shown.toolbar, "the server to be missed")
            shown.enter("one")
            shown.wait_line("○ bob: one")
            shown.enter("/msg carol two")
            shown.wait_line("○ carol: two")
            shown.type("\x04")
            assert shown.exit_code() == 0
            assert "2 messages wait to be sent: the next chat of ann sends them" in shown.lines
    with serving(twinline, *store) as server:
        with chat(twinline) as killed:
            killed.wait_text("→ carol: two")
            halt(server.process.pid)
            killed.enter("/msg bob three")
            killed.wait_line("○ bob: three")
            killed.process.kill()  # whether it has arrived nobody knows
            killed.process.wait(10)
            server.process.send_signal(signal.SIGCONT)
        with chat(twinline) as shown:
            shown.wait_text("→ bob: three")
            shown.enter("/quit")
            assert shown.exit_code() == 0
        assert twinline.bodies("bob") == ["one", "three"]
        assert twinline.bodies("carol") == ["two"]
        outbox = twinline.session_file.parent / "outbox"
        assert [each.name for each in outbox.iterdir()] == ["lock"]


def test_a_line_whose_reply_never_came_is_sent_again_and_arrives_once(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, f"unix:{tmp_path}/socket")
    with serving(twinline) as server:
        twinline.register("bob", "ann")
        with chat(twinline, "bob", "--timeout", "2") as shown:
            shown.wait_line("to bob>")
            halt(server.process.pid)
            shown.enter("once only")
            shown.wait_line("○ bob: once only")
            shown.wait_toolbar("1 to be sent")
            # The first attempt has ended without an answer, and others begin.
            shown.wait(lambda: "reconnecting" in shown.toolbar, "the first attempt to have failed")
            server.process.send_signal(signal.SIGCONT)
            shown.wait_text("→ bob: once only")
            assert twinline.bodies("bob") == ["once only"]


def test_what_is_entered_while_a_command_is_under_way_is_shown_until_it_is_its_turn(
    tmp_path: Path,
) -> None:
    twinline = CommandLine(tmp_path, f"unix:{tmp_path}/socket")
    with serving(twinline) as server:
        twinline.register("bob", "ann")
        with chat(twinline, "bob", "--timeout", "60") as shown:
            shown.wait_line("to bob>")
            halt(server.process.pid)
            shown.enter("/status")
            shown.wait_toolbar("waiting for the server ...")
            shown.enter("behind it")
            shown.wait_line("○ behind it")
            assert "to be sent" not in shown.toolbar
            server.process.send_signal(signal.SIGCONT)
            shown.wait_text("→ bob: behind it")
            shown.wait(lambda: "○ behind it" not in shown.lines, "it to wait no more")


@pytest.mark.parametrize("number", [None, signal.SIGHUP])
def test_what_was_entered_behind_a_command_outlives_the_chat(
    tmp_path: Path, number: signal.Signals | None
) -> None:
    twinline = CommandLine(tmp_path, f"unix:{tmp_path}/socket")
    with serving(twinline) as server:
        twinline.register("bob", "ann")
        with chat(twinline, "bob", "--timeout", "60") as shown:
            shown.wait_line("to bob>")
            halt(server.process.pid)
            for line in ("/status", "", "one", "bob: two", "/to ann", "for ann?"):
                shown.enter(line)
            shown.wait_line("○ for ann?")
            if number is None:
                shown.type("\x04\x04")
                assert shown.exit_code() == 0
            else:
                shown.process.send_signal(number)
                assert shown.exit_code() == 128 + number
            assert [line for line in shown.lines if line][-4:] == [
                "! not done: /status",
                "! not done: /to ann",
                "! not done: for ann?",
                "2 messages wait to be sent: the next chat of ann sends them",
            ]
            server.process.send_signal(signal.SIGCONT)
        with chat(twinline, "bob") as shown:
            shown.wait_text("→ bob: two")
        assert twinline.bodies("bob") == ["one", "two"]


def test_a_session_that_ends_elsewhere_is_opened_again(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        shown.type("half of it")
        shown.wait_line("to bob> half of it")
        with Client(ann.place) as elsewhere:
            elsewhere.login("ann", PASSWORD)
            elsewhere.change_password(PASSWORD, "another horse")
        shown.wait_text(f"the session of ann at {ann.place} has ended")
        shown.wait_line("Password for ann:")
        shown.enter(PASSWORD)
        shown.wait_text("! the username or the password is wrong")
        shown.wait_line("Password for ann:")
        shown.enter("another horse")
        shown.wait_line("to bob> half of it")
        shown.wait_toolbar(" online")
        ann.run("send", "ann", "still there?", "--user", "bob")
        shown.wait_text("← bob: still there?")
        shown.enter(", and the rest")
        shown.wait_text("→ bob: half of it, and the rest")
        shown.enter("/status")
        shown.wait_text("0 unread, acknowledged up to")
        shown.enter("/quit")
        assert shown.exit_code() == 0
        assert b"another horse" not in shown.output
    # The new session is the one that is kept.
    with chat(ann, "bob", variables={"TWINLINE_PASSWORD": ""}) as shown:
        shown.wait_toolbar("online")


@pytest.mark.parametrize("leave", ["\x03", "\x04"])
def test_who_opens_no_other_session_leaves(ann: CommandLine, leave: str) -> None:
    with chat(ann) as shown:
        shown.wait_toolbar("online")
        ann.run("logout")
        shown.wait_line("Password for ann:")
        shown.type(leave)
        assert shown.exit_code() == 3
        assert shown.is_as_before
        assert any(line.startswith("twinline: the session of ann") for line in shown.lines)


def test_whoever_is_kicked_is_not_told_that_the_account_is_gone(tmp_path: Path) -> None:
    with administered() as served:
        twinline = CommandLine(tmp_path, served.endpoint)
        twinline.register("ann")
        with chat(twinline) as shown:
            shown.wait_toolbar("online")
            served.ask("kick", username="ann")
            shown.wait_text(f"the session of ann at {twinline.place} has ended")
            shown.wait_line("Password for ann:")
            shown.enter(PASSWORD)
            shown.wait_toolbar(" online")
            assert not any("is gone" in line for line in shown.lines)


def test_what_waits_outlives_the_end_of_the_session(tmp_path: Path) -> None:
    place, other = f"unix:{tmp_path}/socket", f"unix:{tmp_path}/other"
    twinline = CommandLine(tmp_path, place)
    store = ("--store", f"sqlite:{tmp_path}/chat.db")

    with serving(twinline, *store) as server:
        twinline.register("bob", "ann")
        with chat(twinline, "bob") as shown:
            shown.wait_line("to bob>")
            server.close()
            shown.wait(lambda: "reconnecting" in shown.toolbar, "the server to be missed")
            shown.enter("not lost")
            shown.wait_line("○ bob: not lost")
            with serving(twinline, *store, at=other), Client(other) as elsewhere:
                elsewhere.login("ann", PASSWORD)
                elsewhere.change_password(PASSWORD, "another horse")
            with serving(twinline, *store):
                shown.enter()  # now
                shown.wait_line("Password for ann:")
                shown.wait_line("○ bob: not lost")
                shown.enter("another horse")
                shown.wait_text("→ bob: not lost")
                assert twinline.bodies("bob") == ["not lost"]


def test_an_account_that_was_in_memory_alone_is_gone(tmp_path: Path) -> None:
    place = f"unix:{tmp_path}/socket"
    twinline = CommandLine(tmp_path, place)

    with serving(twinline) as server:
        twinline.register("bob", "ann")
        for _ in range(3):
            twinline.run("send", "ann", "of before", "--user", "bob")
        with chat(twinline, "bob", "--user", "ann", columns=200) as shown:
            shown.wait_text("3 unread")
            server.close()
            shown.wait(lambda: "reconnecting" in shown.toolbar, "the server to be missed")
            shown.enter("into the void")
            shown.wait_line("○ bob: into the void")
            with serving(twinline) as again:
                shown.enter()  # now
                shown.wait_text(f"ann at {place} is gone: this server keeps")
                shown.wait_line("Create ann again? [y/N]:")
                shown.enter("y")
                shown.wait_line("New password for ann:")
                shown.enter("short")
                shown.wait_text("! a password has 8 to 128 characters")
                for question in ("New password for ann:", "The same again:"):
                    shown.wait_line(question)
                    shown.enter(PASSWORD)
                shown.wait_text("! not sent to bob: there is no such user")
                shown.wait_line("to bob> into the void")
                twinline.register("bob")
                twinline.run("send", "ann", "of now", "--user", "bob")  # its seq was there before
                shown.wait_text("← bob: of now")
                shown.enter()
                shown.wait_text("→ bob: into the void")
                again.close()
                shown.wait(lambda: "reconnecting" in shown.toolbar, "the server to be missed")
                shown.enter("kept")
                shown.wait_line("○ bob: kept")
            with serving(twinline):
                shown.enter()
                shown.wait_line("Create ann again? [y/N]:")
                shown.type("\x03")
                assert shown.exit_code() == 3
                assert "1 message waits to be sent: the next chat of ann sends it" in shown.lines


def test_ctrl_c_clears_and_ctrl_d_leaves(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        shown.type("never sent")
        shown.wait_line("to bob> never sent")
        shown.type("\x03")
        shown.wait_line("to bob>")
        shown.type("nor this")
        shown.wait_line("to bob> nor this")
        os.killpg(shown.process.pid, signal.SIGINT)
        shown.wait_line("to bob>")
        shown.type("x\x04")  # not on an empty line
        shown.wait_line("to bob> x")
        shown.type("\x7f\x04")
        assert shown.exit_code() == 0
        assert shown.is_as_before
    assert ann.bodies("bob") == []
    assert ann.run("status").exit_code == 0  # the session is still open


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(ann: CommandLine, number: signal.Signals) -> None:
    with chat(ann) as shown:
        shown.wait_toolbar("online")
        shown.process.send_signal(number)
        assert shown.exit_code() == 128 + number
        assert shown.is_as_before


def test_completion(ann: CommandLine) -> None:
    ann.register("carol", "carla")
    with chat(ann, "--user", "ann") as shown:
        shown.wait_toolbar("online")
        shown.type("/hi")
        shown.wait(
            lambda: (
                shown.toolbar.startswith(" /history")
                and "| show the last" in shown.toolbar
                and "/status" not in shown.toolbar
            ),
            "a menu of what begins with /hi",
        )
        shown.type("\t")
        shown.wait_line("> /history")
        shown.type("\x03/to B")
        shown.wait_line("> /to B")
        shown.type("\t")
        shown.wait_line("> /to bob")
        shown.type("\x03car\t")
        shown.wait(lambda: shown.toolbar.split() == ["carla", "carol"], "both to be offered")
        shown.type("\t")
        shown.wait_line("> carla:")
        shown.type("\x03")
        ann.run("send", "ann", "hello", "--user", "carol")
        shown.wait_toolbar("1 unread (carol 1)")
        shown.type("\t")
        shown.wait_line("> carol:")
        shown.enter("hello yourself")
        shown.wait_line("to carol>")
        shown.wait_toolbar("0 unread")
        blank = [number for number, line in enumerate(shown.lines) if not line]
        assert blank == list(range(blank[0], blank[0] + len(blank)))  # but below the prompt none


def test_ctrl_r_shows_what_it_finds(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        for text in ("the red house", "the blue house"):
            shown.wait_line("to bob>")
            shown.enter(text)
            shown.wait_text(f"→ bob: {text}")
        shown.type("\x12red")
        shown.wait_text("to bob> the red house")
        shown.enter()  # takes it
        shown.wait_line("to bob> the red house")
        shown.enter()
        wait_until(lambda: ann.bodies("bob").count("the red house") == 2, "it to be said again")
        shown.type("\x12blue")
        shown.wait_text("to bob> the blue house")
        shown.type("\x03now")  # Ctrl-C leaves the search
        shown.wait_line("to bob> now")
        assert not any("search" in line for line in shown.lines)


def test_what_was_typed_is_there_again_and_no_password_is(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        shown.wait_line("to bob>")
        shown.enter("remembered")
        shown.wait_text("→ bob: remembered")
        shown.enter("/password")
        shown.wait_line("Present password:")
        shown.type(PASSWORD)
        shown.wait_line(f"Present password: {'*' * len(PASSWORD)}")
        shown.enter()
        for question, typed, told in (
            ("New password:", "short", "! a password has 8 to 128 characters"),
            ("New password:", "another horse", ""),
            ("The same again:", "another house", "! the two passwords differ"),
            ("New password:", "another horse", ""),
            ("The same again:", "another horse", "the password is changed"),
        ):
            shown.wait_line(question)
            shown.enter(typed)
            shown.wait_text(told)
        shown.type("\x04")
        assert shown.exit_code() == 0
        assert PASSWORD.encode() not in shown.output
    kept = ann.session_file.with_name("chat-history")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "remembered" in kept.read_text()
    assert "horse" not in kept.read_text()
    with chat(ann) as shown:
        shown.wait_toolbar("online")
        shown.type("\x1b[A\x1b[A")
        shown.wait_line("> remembered")
    with Client(ann.place) as again:
        again.login("ann", "another horse")


def test_a_question_can_be_left(ann: CommandLine) -> None:
    with chat(ann) as shown:
        for leave in ("\x03", "\x04"):
            shown.wait_line(">")
            shown.enter("/password")
            shown.wait_line("Present password:")
            shown.type(leave)
            shown.wait_line(">")
        shown.enter("/delete-account")
        shown.wait_text(f"Delete ann at {ann.place} and all its mail? [y/N]:")
        shown.enter("n")
        shown.wait(
            lambda: shown.above.count("nothing was changed") == 3, "three answers to no question"
        )
    assert ann.run("status").exit_code == 0


def test_delete_messages_and_the_account(ann: CommandLine) -> None:
    ann.run("send", "ann", "--lines", "--user", "bob", input="one\ntwo\nthree\n")
    with chat(ann) as shown:
        shown.wait_text("three")
        shown.enter("/delete 1-2")
        shown.wait_text("2 messages deleted")
        assert ann.bodies("ann") == ["three"]
        shown.enter("/delete-account")
        shown.wait_text("[y/N]:")
        shown.enter("y")
        shown.wait_line("Password for ann:")
        shown.enter(PASSWORD)
        shown.wait_text("ann is deleted")
        assert shown.exit_code() == 0
    assert "ann" not in ann.session_file.read_text()


def test_log_out(ann: CommandLine) -> None:
    with chat(ann) as shown:
        shown.wait_line(">")
        shown.enter("/logout")
        assert shown.exit_code() == 0
        assert f"ann is logged out of {ann.place}" in shown.lines
    ann.run("status", "--user", "ann", code=3)


def test_a_line_that_fails_comes_back(ann: CommandLine) -> None:
    with chat(ann, "bob") as shown:
        shown.wait_line("to bob>")
        shown.enter("ps: see you")
        shown.wait_text("! is this for bob? then begin it with a space; for ps, it is")
        shown.wait_line("to bob> ps: see you")
        shown.type("\x01 ")  # to the beginning of the line
        shown.enter()
        shown.wait_text("→ bob: ps: see you")
        shown.enter("/frobnicate")
        shown.wait_text("! there is no /frobnicate; /help tells what there is")
        shown.wait_line("to bob> /frobnicate")
        shown.type("\x03")
        shown.enter("/to nobody")
        shown.wait_text("! there is no nobody")
        shown.wait_line("to bob> /to nobody")
        shown.type("\x03")
        shown.enter("//slash")
        shown.wait_text("→ bob: /slash")
    assert ann.bodies("bob") == ["ps: see you", "/slash"]


def test_a_long_list_goes_to_the_pager_and_mail_waits_until_it_can_be_seen(
    ann: CommandLine, tmp_path: Path
) -> None:
    pager, seen, go_on = (tmp_path / name for name in ("pager", "seen", "go-on"))
    os.mkfifo(go_on)
    pager.write_text(f"#!/bin/sh\ncat > {seen}\necho in the pager\nread line < {go_on}\n")
    pager.chmod(0o755)
    names = [f"user{number:03d}" for number in range(30)]
    ann.register(*names)
    with chat(ann, "--user", "ann", variables={"PAGER": str(pager)}) as shown:
        shown.wait_line(">")
        shown.enter("/accounts user00*")  # fits
        shown.wait_text("user009")
        shown.enter("/accounts user*")
        shown.wait_text("in the pager")
        ann.run("send", "ann", "while the pager is open", "--user", "bob")
        assert seen.read_text().split() == names
        assert ann.unread("ann") == 1
        assert not any("while the pager is open" in line for line in shown.lines)
        go_on.write_text("\n")
        shown.wait_text("while the pager is open")
        wait_until(lambda: ann.unread("ann") == 0, "it to be acknowledged")
        assert not any("user010" in line for line in shown.lines)
