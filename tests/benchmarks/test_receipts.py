"""`benchmarks/receipts.py` measures what receipts add to a delivery, at a server of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

RECEIPTS = Path(__file__).parents[2] / "benchmarks" / "receipts.py"


def test_a_small_run_gives_every_figure() -> None:
    run = subprocess.run(
        [sys.executable, RECEIPTS, "--quick", "--json", "--listener", "threads"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    # It fails by itself unless every recipient of the one half has given a receipt, and none else.
    assert run.returncode == 0, run.stderr
    rows: list[Any] = json.loads(run.stdout)["rows"]
    found = {(row["figures"]["streams"], row["figures"]["away"]): row["figures"] for row in rows}
    assert set(found) == {(True, True), (False, True), (True, False), (False, False)}
    for figures in found.values():
        assert figures["with"][0] > 1
        assert figures["without"][0] > 1
        assert figures["ratio"] == figures["with"][0] / figures["without"][0]
