"""The screens that the page about the chat shows are those that one sees."""

import re
from pathlib import Path

import pytest
from cli_server import CommandLine
from services import PASSWORD
from terminal import Terminal, chat
from waiting import wait_until

from twinline.core.protocol import Kind
from twinline.transports.client import Client

pytestmark = pytest.mark.terminal

PAGE = Path(__file__).resolve().parents[3] / "docs" / "chat.md"
_SHOWN = re.compile(r"<!-- screen: (\w+) -->\n```text\n(.*?)```", re.DOTALL)
_VARYING = (
    (re.compile(r"\d\d:\d\d(:\d\d)?"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "DATE"),
    (re.compile(r"tcp://[\d.]+:\d+"), "PLACE"),
)


def screen_of(name: str) -> list[str]:
    """Return the lines of a screen of the page, without the command."""
    text = dict(_SHOWN.findall(PAGE.read_text()))[name]
    return [line for line in _same(text).splitlines() if not line.startswith("$ ")]


def _same(text: str) -> str:
    for varying, word in _VARYING:
        text = varying.sub(word, text)
    return text


def shows(shown: Terminal, name: str) -> None:
    """Wait until the terminal's last lines are a screen of the page.

    How many blank rows are below depends on whether a message was shown as waiting in between.
    """
    expected = screen_of(name)

    def is_shown() -> bool:
        lines = _same("\n".join(shown.lines)).splitlines()
        return [line for line in lines if line][-len(expected) :] == expected

    shown.wait(is_shown, f"the screen {name!r} of docs/chat.md: {expected}")


def test_a_conversation(ann: CommandLine) -> None:
    ann.register("carol")
    ann.run("send", "bob", "are you there?", "--user", "ann")
    ann.run("watch", "--count", "1", "--user", "bob")
    with Client(ann.place) as elsewhere:
        elsewhere.login("ann", PASSWORD)
        wait_until(
            lambda: elsewhere.history(limit=1, peer="bob", kinds=[Kind.RECEIPT]).receipts,
            "the receipt",
        )
    ann.run("send", "ann", "have you seen this?", "--user", "bob")
    with chat(ann, "bob", "--user", "ann") as shown:
        shown.wait_line("to bob>")
        shown.enter("not yet")
        shown.wait_text("→ bob: not yet")
        ann.run(
            "send",
            "ann",
            "shall we meet at the station? I could bring the tickets, and the sandwiches",
            "--user",
            "carol",
        )
        shown.wait_toolbar("1 unread (carol 1)")
        shown.type("where is it")
        shows(shown, "conversation")


def test_a_small_terminal(ann: CommandLine) -> None:
    ann.register("carol")
    with chat(ann, "carol", "--user", "ann", columns=40, lines=12) as shown:
        shown.wait_line("to carol>")
        body = "shall we meet at the station at eight? I bring:\n- the tickets\n- sandwiches"
        ann.run("send", "ann", body, "--user", "carol")
        shown.wait_text("- sandwiches")
        shown.enter("yes, at the big clock, as we did the last time")
        shown.wait_text("last time")
        ann.run("send", "ann", "have you seen this? It is on all day", "--user", "bob")
        shown.wait_toolbar("1 unread")
        shown.type("\x1bOQ")  # F2
        shown.wait_text("to which?")
        shows(shown, "small")


def test_every_screen_of_the_page_is_checked() -> None:
    assert [name for name, _ in _SHOWN.findall(PAGE.read_text())] == ["conversation", "small"]
    assert PAGE.read_text().count("```text") == 2
