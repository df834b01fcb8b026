"""Text from others cannot steer a terminal or hide in it, and is exact in JSON."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinline.cli.console.output import message_line, write_message
from twinline.cli.console.text import counted, local_time, visible
from twinline.core.protocol import Message


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain ~", "plain ~"),
        ("Grüße, 世界 👋🏽 👍", "Grüße, 世界 👋🏽 👍"),
        ("\x1b[31mred\x07", "␛[31mred␇"),
        ("one\ntwo\r\tthree\x00", "one␊two␍␉three␀"),
        ("\x7f", "␡"),
        ("\x9b2J", "<U+009B>2J"),
        ("\x85", "<U+0085>"),
        ("a\u202eb\u2066c\u200f", "a<U+202E>b<U+2066>c<U+200F>"),
        ("\u200b\u200c\ufeff\u2060\u00ad", "<U+200B><U+200C><U+FEFF><U+2060><U+00AD>"),
        ("\u2028\u2029", "<U+2028><U+2029>"),
        ("\U000e0041\ue000\ufffe", "<U+E0041><U+E000><U+FFFE>"),
        ("\u3164\u115f\uffa0", "<U+3164><U+115F><U+FFA0>"),
        ("\ud800", "<U+D800>"),
        # A joiner makes one picture of two, and is an invisible character everywhere else.
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("🏳\ufe0f\u200d🌈", "🏳\ufe0f\u200d🌈"),
        ("a\u200db", "a<U+200D>b"),
        ("\u200d👩\u200d", "<U+200D>👩<U+200D>"),
    ],
)
def test_what_cannot_be_seen_is_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text())
def test_no_control_character_is_ever_shown(text: str) -> None:
    for character in visible(text).replace("\u200d", ""):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_is_exact_and_harmless(body: str) -> None:
    line: list[str] = []
    message = Message(seq=1, message_id="0" * 24, sender="ann", body=body, sent_at=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twinline.cli.console.output.write_line", line.append)
        write_message(message, as_json=True)
    assert line[0].isascii()
    assert line[0].isprintable()
    assert json.loads(line[0])["body"] == body


def test_a_message_is_one_line_whatever_it_holds() -> None:
    message = Message(
        seq=1,
        message_id="0" * 24,
        sender="ann\x1b",
        body="hi\n2025-01-01 00:00:00  bob: no",
        sent_at=0,
    )
    assert message_line(message).endswith("  ann␛: hi␊2025-01-01 00:00:00  bob: no")


def test_a_time_beyond_every_calendar_stays_a_number() -> None:
    assert local_time(2**53 - 1) == "9007199254740991 ms"
    assert len(local_time(0)) == len("1970-01-01 00:00:00")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (counted(0, "message"), "0 messages"),
        (counted(1, "message"), "1 message"),
        (counted(2_000, "message"), "2,000 messages"),
        (counted(1, "copy", "copies"), "1 copy"),
        (counted(2, "copy", "copies"), "2 copies"),
    ],
)
def test_what_is_counted_has_its_plural(said: str, expected: str) -> None:
    assert said == expected
