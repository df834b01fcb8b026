"""`benchmarks/shared_stores.py` measures every store that can be started here, in small."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import postgres_engine
import pytest
import valkey_engine

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "shared_stores.py"


def test_a_small_run_gives_every_figure_of_each_store() -> None:
    if reason := postgres_engine.missing() or valkey_engine.missing():
        pytest.skip(reason)
    parts = ("--only", "sends", "--only", "wakes")
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--seconds", "0.3", "--json", *parts],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    rows: list[Any] = json.loads(ran.stdout)["rows"]
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        figures = row["figures"]
        found.setdefault(figures.pop("store"), {}).update(figures)
    assert set(found) == {"SQLite", "PostgreSQL", "Valkey"}
    for figures in found.values():
        assert all(value > 0 for values in figures.values() for value in values)
        assert figures["server"]
        assert figures["here"]
    for name in ("PostgreSQL", "Valkey"):
        # A watcher at another server has it later than the engine's own client hears a notice; a
        # message that was there before would be had at once.
        assert found[name]["there"] > found[name]["notice"]
        assert found[name]["engine"]
        assert found[name]["floor"]
    assert "there" not in found["SQLite"]
    assert "floor" not in found["SQLite"]
