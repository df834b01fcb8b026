"""`benchmarks/path.py` counts the same in every run, whatever else the machine does."""

import json
import subprocess
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "benchmarks" / "path.py"


def counted(*arguments: str) -> dict[str, dict[str, dict[str, int]]]:
    command = [sys.executable, PATH, "--json", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    found: dict[str, dict[str, dict[str, int]]] = json.loads(ran.stdout)
    return found


def test_calls_and_rooms_are_the_same_in_every_run() -> None:
    found = counted()
    assert counted() == found
    for name in ("jsonl", "binary"):
        send, delivery = found[name]["a send"], found[name]["a delivery"]
        assert 10 < send["rooms"] < send["functions of twinline"] <= send["calls of twinline"]
        # A delivery is a send, and more.
        assert all(delivery[figure] > value for figure, value in send.items())
        assert send["calls of twinline"] < send["calls"] < 200
    assert found["jsonl"] != found["binary"]


def test_the_loop_has_a_path_of_its_own() -> None:
    found = counted("--listener", "loop")
    threads = counted()
    for name in ("jsonl", "binary"):
        assert found[name] != threads[name]
        send, delivery = found[name]["a send"], found[name]["a delivery"]
        assert 10 < send["rooms"] < send["calls of twinline"] < delivery["calls of twinline"] < 300


def test_blocked_watches_are_another_path_to_the_same_sends() -> None:
    stream, blocked = counted(), counted("--blocked")
    assert blocked["jsonl"]["a send"] == stream["jsonl"]["a send"]
    assert blocked["jsonl"]["a delivery"] != stream["jsonl"]["a delivery"]


def test_the_rooms_are_listed() -> None:
    command = [sys.executable, PATH, "--rooms"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert "transports/listener/connection.py" in ran.stdout
    assert "bench" not in ran.stdout
