"""Every example of the page about asyncio runs, and prints what it should."""

import re
from pathlib import Path
from typing import Any

import pytest
from listening import TCP, serving

WSS = "wss://127.0.0.1:0"
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "asyncio.md"
PRINTED = [
    "fay a note to myself\n",
    "logged out\nonline\ngus: hello\ngus: you said hello\nclosed\n",
    "jan: hello\n✓ kit: hello\n✓✓\n",
    "0\n",
    "10\n['hal']\n",
    "1\n",
]


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_every_example_is_run() -> None:
    assert len(examples()) == len(PRINTED)


@pytest.mark.parametrize("number", range(len(PRINTED)))
def test_an_example(number: int, capsys: pytest.CaptureFixture[str], certificates: Any) -> None:
    shown = certificates.server
    files = {"tls_certificate": str(shown.certificate), "tls_key": str(shown.key)}
    with serving([(TCP, "auto"), (WSS, "auto")], **files) as server:
        code = examples()[number]
        for written, meant in (
            ("tcp://127.0.0.1:7767", server.endpoints[0]),
            ("wss://chat.example.org", server.endpoints[1]),
            ("trial/trial-ca.pem", certificates.ca.file),
        ):
            code = code.replace(written, str(meant))
        exec(compile(code, PAGE.name, "exec"), {"__name__": "example"})
    assert capsys.readouterr().out == PRINTED[number]
