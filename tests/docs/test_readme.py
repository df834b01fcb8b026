"""The README says nothing that is not so: its examples run."""

import re
import tomllib
from pathlib import Path

import pytest
from listening import TCP, serving

from twinline.cli.settings.model import Settings
from twinline.transports.endpoints import Endpoint

ROOT = Path(__file__).parents[2]


def block(language: str, word: str) -> str:
    """Return the README's code block of a language with a word in it."""
    text = (ROOT / "README.md").read_text()
    (found,) = [
        code for code in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if word in code
    ]
    return found


def run(code: str) -> None:
    """Run an example as a module would."""
    exec(compile(code, "README.md", "exec"), {"__name__": "example"})


def test_the_embedding_example(capsys: pytest.CaptureFixture[str]) -> None:
    run(block("python", "ChatService"))
    assert capsys.readouterr().out == "hello\n"


def test_the_client_example(capsys: pytest.CaptureFixture[str]) -> None:
    code = block("python", "with Client")
    with serving([(TCP, "auto")]) as server:
        for _ in range(2):  # whoever types it may type it again
            run(code.replace("tcp://127.0.0.1:7767", str(server.endpoints[0])))
            assert capsys.readouterr().out == "eve a note to myself\n"


def test_the_asyncio_example(capsys: pytest.CaptureFixture[str]) -> None:
    code = block("python", "AsyncClient")
    with serving([(TCP, "auto")]) as server:
        for _ in range(2):  # whoever types it may type it again
            run(code.replace("tcp://127.0.0.1:7767", str(server.endpoints[0])))
            assert capsys.readouterr().out == "fay a note to myself\n"


def test_the_config_example() -> None:
    settings = Settings.model_validate(tomllib.loads(block("toml", "listen")))
    endpoints = [Endpoint.parse(url) for url in settings.listen]
    assert [endpoint.transport for endpoint in endpoints] == [None, "binary"]
    assert (settings.transport, settings.store) == ("jsonl", "memory:")


def test_the_two_commands_are_one_line_each() -> None:
    commands = re.findall(r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert commands[0].endswith(".venv/bin/twinline demo")
    assert commands[1].endswith(".venv/bin/tox -e py")
