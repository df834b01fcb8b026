"""`benchmarks/storm.py` in small: outcomes that are known, and the order of what helps."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from storm import STRATEGIES, Busy, Jitter, Outcome, Queue, Storm, Strategy, simulate

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "storm.py"
STORM = Storm(
    clients=20_000,
    nodes=5,
    rate=1_000,
    gone=5,
    outage=5,
    patience=5,
    refusal=0.25,
    busy_seconds=5,
    seed=1,
)
BEFORE = Strategy(Jitter.TWENTY, Queue.ANY)


@pytest.fixture(scope="module")
def outcomes() -> dict[Strategy, Outcome]:
    told = (each for each in STRATEGIES if each.jitter is Jitter.EQUAL)
    return {strategy: simulate(STORM, strategy) for strategy in (BEFORE, *told)}


def seconds(outcome: Outcome, percent: float = 99) -> float:
    at = outcome.until(percent)
    assert at is not None
    return at


def test_one_server_without_an_outage_serves_one_after_the_other() -> None:
    storm = replace(STORM, nodes=1, gone=1, outage=0, rate=100, clients=1_000, patience=60)
    outcome = simulate(storm, BEFORE)
    assert outcome.back_at == pytest.approx(np.arange(1, 1_001) / 100)
    assert outcome.attempts == 1_000
    # With half of the patience half of them are served in vain, and come again.
    hasty = simulate(replace(storm, patience=5), BEFORE)
    assert hasty.in_vain >= 500
    assert seconds(hasty, 50) == pytest.approx(5)
    assert seconds(hasty, 50.2) > 10


def test_each_attempt_has_one_end(outcomes: dict[Strategy, Outcome]) -> None:
    for strategy, outcome in outcomes.items():
        assert len(outcome.back_at) == outcome.clients == STORM.clients
        ends = outcome.clients + outcome.refused + outcome.unreachable + outcome.in_vain
        assert outcome.attempts == ends
        if strategy.queue is Queue.ANY:
            assert outcome.refused == 0
        if strategy.queue is Queue.BOUNDED:
            assert outcome.in_vain == 0


def test_no_more_are_back_than_the_servers_can_resume(outcomes: dict[Strategy, Outcome]) -> None:
    for outcome in outcomes.values():
        could = (outcome.back_at - STORM.outage) * STORM.rate
        # Each server begins with a resume of its own.
        assert (np.arange(1, STORM.clients + 1) <= could + STORM.nodes).all()


def test_what_helps_most(outcomes: dict[Strategy, Outcome]) -> None:
    equal = Strategy(Jitter.EQUAL, Queue.BOUNDED)
    turn = replace(equal, busy=Busy.KEPT_TURN)
    told = replace(turn, told=True)
    in_order = [outcomes[each] for each in (BEFORE, equal, replace(equal, busy=Busy.TURN), turn)]
    found = [seconds(outcome) for outcome in in_order]
    assert found == sorted(found, reverse=True)
    assert found[0] > 80
    assert found[-1] < 32
    assert outcomes[told].attempts == STORM.clients
    assert seconds(outcomes[told]) < 30


def test_refusing_that_costs_nothing_makes_the_jitter_count() -> None:
    free = replace(STORM, refusal=0)
    twenty, equal = (
        seconds(simulate(free, Strategy(jitter, Queue.BOUNDED)))
        for jitter in (Jitter.TWENTY, Jitter.EQUAL)
    )
    assert seconds(simulate(free, BEFORE)) > 2 * twenty > 2 * equal


def test_the_clients_of_one_server_find_the_others() -> None:
    one = replace(STORM, clients=400_000, nodes=100, rate=20_000, gone=1)
    crashed = simulate(one, BEFORE)
    assert crashed.clients == 4_000
    assert seconds(crashed, 98) < 1
    left = simulate(one, Strategy(Jitter.EQUAL, Queue.BOUNDED, told=True))
    assert left.unreachable == 0
    assert left.attempts == 4_000
    assert seconds(left, 100) < 1


def test_the_seed_is_all_that_is_random() -> None:
    strategy = STRATEGIES[5]
    first = simulate(STORM, strategy)
    assert (simulate(STORM, strategy).back_at == first.back_at).all()
    assert (simulate(replace(STORM, seed=2), strategy).back_at != first.back_at).any()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, SCRIPT, "--clients", "8000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def test_a_small_run_prints_and_draws_every_strategy(tmp_path: Path) -> None:
    picture = tmp_path / "storm.svg"
    ran = run("--gone", "2", "--json", "--plot", str(picture))
    assert ran.returncode == 0, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    assert [row["strategy"] for row in rows] == [strategy.name for strategy in STRATEGIES]
    assert all(row["seconds_until"]["100"] > row["seconds_until"]["99"] > 5 for row in rows)
    assert "told at the end" in picture.read_text(encoding="utf-8")
    table = run("--gone", "1").stdout
    assert table.startswith("1 of 2 away for 5 s; 4,000 clients")
    assert all(strategy.name in table for strategy in STRATEGIES)


def test_more_servers_cannot_go_than_there_are() -> None:
    ran = run("--gone", "3")
    assert ran.returncode == 2
    assert "servers" in ran.stderr
