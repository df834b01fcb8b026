"""The benchmark of conversations, in short: what it fills and reads, with stores of two kinds."""

import subprocess
import sys
from pathlib import Path

import pytest

from twinline.stores.sqlite.upkeep import check

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "conversations.py"


@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_pages_of_conversations_are_measured(tmp_path: Path, store: str) -> None:
    path = tmp_path / "filled.db"
    url = "memory:" if store == "memory" else f"sqlite:{path}"
    result = subprocess.run(
        [sys.executable, SCRIPT, url, "--messages", "12000", "--peers", "60"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    lines = result.stdout.splitlines()
    assert [line[:44].strip() for line in lines] == [
        "the newest page of a peer",
        "one from the middle",
        "the newest page of a name, its account gone",
        "the first conversations",
    ]
    assert all(line.endswith(" ms (median, 99 %, longest)") for line in lines)
    if store == "sqlite":
        assert check(path).faults == []
