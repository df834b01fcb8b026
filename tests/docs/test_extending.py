"""docs/extending.md says nothing that is not so: its examples run and print what it says."""

import re
import tomllib
from pathlib import Path

import pytest

from twinline.stores import registry as stores
from twinline.transports import registry as transports
from twinline.transports.conformance import RULES

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def block(word: str) -> str:
    """Return the Python block with a word in it."""
    (found,) = [code for code in blocks("python") if word in code]
    return found


def run(code: str) -> dict[str, object]:
    """Run an example as a module would, and return its names."""
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(code, PAGE.name, "exec"), names)
    return names


def test_the_transport_example(capsys: pytest.CaptureFixture[str]) -> None:
    # The whole kit runs over every built-in elsewhere: here a rule or two will do.
    code = block("others=").replace("])\n", '], only=["ids_are_echoed"])\n')
    names = run(code)
    assert capsys.readouterr().out.startswith("the transport 'jsonl' keeps 1 rule (")
    assert f"keeps {len(RULES)} rules" in PAGE.read_text()
    test = block("def test_my_transport")
    run_test = {"check_transport": lambda transport: None, "MyTransport": names["MyTransport"]}
    exec(test, run_test)
    run_test["test_my_transport_keeps_the_contract"]()  # type: ignore[operator]


def test_the_failing_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    run(block("class Trusting"))
    (text,) = blocks("text")
    assert capsys.readouterr().out == text


def test_the_entry_points_are_those_that_are_read() -> None:
    (toml,) = blocks("toml")
    groups = tomllib.loads(toml)["project"]["entry-points"]
    assert set(groups) == {transports.ENTRY_POINTS, stores.ENTRY_POINTS}
