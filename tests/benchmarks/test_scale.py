"""`benchmarks/scale.py` measures servers that are full before they listen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.once, pytest.mark.measure, pytest.mark.timeout(300)]

SCALE = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.mark.timeout(120)
def test_a_small_run_gives_every_figure_of_the_servers():
    parts = ["--only", "accounts", "--only", "growth"]
    run = subprocess.run(
        [sys.executable, SCALE, "--quick", "--accounts", "5000", "--json", *parts],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)["rows"]
    whats = [row["what"] for row in rows]
    for size in ("10 accounts", "1,000 accounts", "5,000 accounts", "1,000 messages queued"):
        assert [what for what in whats if f"a send with {size}" in what], whats
    costs = [row["figures"] for row in rows if "cost" in row["figures"]]
    assert len(costs) == 5
    assert all(of["microseconds"] > 1 for each in costs for of in each["turns"])
    # A prefix of three hexadecimal digits has one name in 4,096.
    assert [what for what in whats if "a page of 1 names" in what or "a page of 2 names" in what]
