"""The page's modules in Node: twinline.js beside the protocol, and the conversations."""

import json
import os
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from twinline.core.protocol import REQUESTS

ROOT = Path(__file__).parents[3]
MODULE = Path(str(files("twinline.transports.web").joinpath("files", "twinline.js")))
OLDEST = 20
SHOW_REQUESTS = """
const { REQUESTS, REQUIRED } = await import(process.env.TWINLINE_JS);
console.log(JSON.stringify(REQUESTS, (name, value) => (value === REQUIRED ? "required" : value)));
"""


def node(*arguments: str | Path) -> str:
    """Run Node and return what it prints."""
    program = shutil.which("node")
    if program is None or _version_of(program) < OLDEST:
        pytest.skip(f"there is no Node {OLDEST} or later here, which runs twinline.js")
    ran = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={
            **os.environ,
            "TWINLINE_JS": str(MODULE),
            "TALKS_JS": str(MODULE.with_name("talks.js")),
            "VECTORS": str(ROOT / "docs" / "protocol-vectors.json"),
        },
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _version_of(program: str) -> int:
    said = subprocess.check_output([program, "--version"], text=True, timeout=20)
    return int(said.removeprefix("v").partition(".")[0])


def test_what_it_does() -> None:
    said = node("--test", "--test-reporter=tap", Path(__file__).with_name("client_tests.mjs"))
    vectors = json.loads((ROOT / "docs" / "protocol-vectors.json").read_text("utf-8"))
    passed = re.search(r"^# pass (\d+)$", said, re.MULTILINE)
    assert passed is not None
    assert int(passed[1]) > sum(len(vectors[key]) for key in ("requests", "replies", "streams"))


def test_the_conversations() -> None:
    node("--test", Path(__file__).with_name("talks_tests.mjs"))


def test_its_requests_are_those_of_the_protocol() -> None:
    def fields(model: Any) -> dict[str, Any]:
        return {
            field.alias or name: "required"
            if field.default is PydanticUndefined
            else json.loads(json.dumps(field.default))
            for name, field in model.model_fields.items()
        }

    table = json.loads(node("--input-type=module", "-e", SHOW_REQUESTS))
    # Without a send_id a send may not be repeated; there, every send has one.
    repeatable = {kind.op: kind.op == "send" or kind.repeatable for kind in REQUESTS}
    assert table == {
        kind.op: {
            "fields": fields(kind),
            "reply": kind.reply.__name__,
            "beforeLogin": kind.before_login,
            "repeatable": repeatable[kind.op],
        }
        for kind in REQUESTS
    }
    assert [list(row["fields"]) for row in table.values()] == [
        list(fields(kind)) for kind in REQUESTS
    ]
