"""`benchmarks/scale.py` measures servers that are full before they listen."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)

SCALE = Path(__file__).parents[2] / "benchmarks" / "scale.py"


def rows_of(*parts: str) -> list[Any]:
    """Return the rows of a small run of some parts."""
    run = subprocess.run(
        [sys.executable, SCALE, "--quick", "--accounts", "5000", "--json", *parts],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    rows: list[Any] = json.loads(run.stdout)["rows"]
    return rows


def test_a_small_run_gives_every_figure_of_the_servers():
    rows = rows_of("--only", "accounts", "--only", "growth", "--listener", "threads")
    assert {row["listener"] for row in rows} == {"threads"}
    whats = [row["what"] for row in rows]
    for size in ("10 accounts", "1,000 accounts", "5,000 accounts", "1,000 messages queued"):
        assert [what for what in whats if f"a send with {size}" in what], whats
    costs = [row["figures"] for row in rows if "cost" in row["figures"]]
    assert len(costs) == 5
    assert all(of["microseconds"] > 1 for each in costs for of in each["turns"])
    # A prefix of three hexadecimal digits has one name in 4,096.
    assert [what for what in whats if "a page of 1 names" in what or "a page of 2 names" in what]


def test_idle_users_are_held_reached_and_gone_and_a_ping_is_timed_beside_others():
    rows = rows_of("--only", "connections", "--only", "fairness", "--listener", "loop")
    found = {row["what"]: row["figures"] for row in rows}
    held = next(figures for figures in found.values() if "connections" in figures)
    # With the event loop a connection has one descriptor, whether it waits for mail or not.
    assert held == {"connections": 400, "descriptors": 400}
    gone = [figures["seconds"] for what, figures in found.items() if "gone" in what]
    assert len(gone) == 3
    assert all(0 < seconds < 10 for seconds in gone)
    pings = [figures["p99_ms"] for what, figures in found.items() if "lone ping" in what]
    assert len(pings) == 6
    assert all(0 < p99 < 1_000 for p99 in pings)
