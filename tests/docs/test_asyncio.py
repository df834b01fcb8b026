"""Every example of the page about asyncio runs, and prints what it should."""

import re
from pathlib import Path

import pytest
from listening import TCP, serving

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "asyncio.md"
PRINTED = [
    "fay a note to myself\n",
    "logged out\nonline\ngus: hello\ngus: you said hello\nclosed\n",
    "10\n['hal']\n",
    "1\n",
]


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_example_is_run() -> None:
    assert len(examples()) == len(PRINTED)


@pytest.mark.parametrize("number", range(len(PRINTED)))
def test_an_example(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    with serving([(TCP, "auto")]) as server:
        code = examples()[number].replace("tcp://127.0.0.1:7767", str(server.endpoints[0]))
        exec(compile(code, PAGE.name, "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == PRINTED[number]
