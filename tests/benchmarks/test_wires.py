"""`benchmarks/wires.py` measures TLS and WebSocket beside plain TCP, at servers of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cryptography")
WIRES = Path(__file__).parents[2] / "benchmarks" / "wires.py"


def test_a_small_run_gives_every_figure() -> None:
    listener = "loop"
    run = subprocess.run(
        [sys.executable, WIRES, "--quick", "--json", "--listener", listener],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    rows: list[Any] = json.loads(run.stdout)["rows"]
    assert {row["listener"] for row in rows} == {listener}
    sends = {row["figures"]["scheme"]: row["figures"] for row in rows if "rates" in row["figures"]}
    assert set(sends) == {"tcp", "tls", "ws", "wss"}
    assert sends["tcp"]["ratio"] == 1
    assert all(figures["microseconds"][0] > 1 for figures in sends.values())
    (shaken,) = [row["figures"] for row in rows if "plain" in row["figures"]]
    # A handshake signs, whatever else the machine does.
    assert shaken["microseconds"][0] > shaken["plain"][0] > 1
    (rate,) = [row["figures"]["rate"] for row in rows if "rate" in row["figures"]]
    assert 1 < rate < 100_000
    silent = [row["figures"] for row in rows if row["what"] == "p99 over before"]
    assert [figures["scheme"] for figures in silent] == ["tls", "tcp"]
    assert all(figures["ratio"] > 0 for figures in silent)
    memory = {row["figures"]["scheme"]: row["figures"] for row in rows if "bytes" in row["figures"]}
    assert set(memory) == set(sends)
    assert memory["tls"]["over_plain"] > 0
