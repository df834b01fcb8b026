"""How `check.py` takes its figures: instructions that are counted, and time by a yardstick.

**Instructions** are those of Python's bytecode for one operation, counted by the interpreter's
own tracing. The count is the same on every machine and in every run, however busy the machine
is; but it is blind to what happens inside C (pydantic, JSON, locks), and it changes with the
Python version.

**Time** is processor time of one operation over that of one operation of the yardstick
(`check_yardstick`), which is no part of twinline. Both are run in slices of a few milliseconds
that alternate; compared are the low quantiles, because noise only ever adds; and the figure is
the median over several processes, because a process has a speed of its own that comes from where
its memory happens to lie.

How that was chosen: on two cores of a virtual machine that others loaded meanwhile (load 3 to 6),
the same slice took now 1 and now 1.8 times as long. Ten runs of one process each gave figures
that differed, from the lowest to the highest and in the worst of the workloads, by

====================================================  ======
the median of a workload over the yardsticks beside     21 %
the same, where both yardsticks beside it agree         21 %
the lower quartile of it                                24 %
minimum over minimum                                     8 %
5 % quantile over 5 % quantile                           6 %
====================================================  ======

So neighbours do not cancel out: who shares the processor slows the yardstick more than the
workloads. With a load of 5 to 20 the last one was 22 % for single processes, and for the median
of five, drawn 2,000 times out of 30, it was 12 % between the extremes and 5 % between the 5 %
and the 95 % quantile. (The lowest over the lowest yardstick of the same five: 13 % and 6 %.)
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any, Final

from check_workloads import BUILDERS, Workload
from check_yardstick import yardstick

ROUNDS: Final = 40
"""How many slices of each workload a process runs."""
PROCESSES: Final = 5
_WARM_UP: Final = 5  # slices; by then Python has specialised its bytecode
_COUNTED: Final = 20  # operations
_QUANTILE: Final = 0.05
_PATIENCE_SECONDS: Final = 120


@dataclass(slots=True)
class Times:
    """What one workload took, in each of several processes.

    Attributes:
        floors: the low quantile of an operation in ns, of each process.
        ratios: the same over that of the yardstick.
    """

    floors: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def add(self, floor: float, measure: float) -> None:
        """Take in what another process found for the workload, and for the yardstick."""
        self.floors.append(floor)
        self.ratios.append(floor / measure)

    @property
    def ratio(self) -> float:
        """One operation of the workload over one of the yardstick."""
        return median(self.ratios)

    @property
    def microseconds(self) -> float:
        """What an operation took here, in the fastest process."""
        return min(self.floors) / 1e3


@dataclass(slots=True)
class Found:
    """All that was measured.

    Attributes:
        instructions: of one operation, by the workload's name.
        times: by the workload's name.
    """

    instructions: dict[str, float] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)

    def measure(self, names: Sequence[str], rounds: int, processes: int) -> None:
        """Time these workloads in so many more processes, one after the other.

        With no round at all only the instructions are counted.
        """
        for number in range(processes if rounds else 1):
            for name, (instructions, floor, measure) in _in_a_process(names, rounds, number):
                self.instructions[name] = instructions
                if rounds:
                    self.times.setdefault(name, Times()).add(floor, measure)


def _in_a_process(
    names: Sequence[str], rounds: int, number: int
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    command = [sys.executable, str(Path(__file__)), str(rounds), *names]
    # Every run has the same seeds: the order of a set is no news.
    environment = {**os.environ, "PYTHONHASHSEED": str(number)}
    done = subprocess.run(  # noqa: S603 - this file
        command,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=_PATIENCE_SECONDS,
    )
    yield from json.loads(done.stdout).items()


def _measured(names: Sequence[str], rounds: int) -> dict[str, tuple[float, float, float]]:
    """Return instructions, the workload's floor and the yardstick's, by the workload's name."""
    chosen = {name: BUILDERS[name]() for name in names}
    measure = yardstick()
    # A collection would come in any slice; and what was built above is walked over by none.
    gc.collect()
    gc.freeze()
    gc.disable()
    for each in (*chosen.values(), measure):
        for _ in range(_WARM_UP):
            _time(each)
    own: dict[str, list[float]] = {name: [] for name in chosen}
    beside: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, each in chosen.items():
            beside[name].append(_time(measure))
            own[name].append(_time(each))
            beside[name].append(_time(measure))
    return {
        name: (_count(each), _low(own[name]), _low(beside[name])) for name, each in chosen.items()
    }


def _time(workload: Workload) -> float:
    """Run one slice; return the processor time of one operation, in ns."""
    workload.reset()
    began = time.thread_time_ns()
    workload.run(workload.operations)
    return (time.thread_time_ns() - began) / workload.operations


def _low(values: list[float]) -> float:
    values.sort()
    return values[int(_QUANTILE * len(values))] if values else 0


def _count(workload: Workload) -> float:
    """Return the bytecode instructions of one operation; the workload is warm."""
    workload.reset()
    with _counting() as counted:
        workload.run(_COUNTED)
    return counted[0] / _COUNTED


@contextmanager
def _counting() -> Iterator[list[int]]:
    """Count the instructions that this thread executes, into a list of one number."""
    counted = [0]
    if sys.version_info >= (3, 12):
        monitoring = sys.monitoring
        tool, event = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION

        def executed(_code: object, _offset: int) -> None:
            counted[0] += 1

        monitoring.use_tool_id(tool, "instructions")
        monitoring.register_callback(tool, event, executed)
        monitoring.set_events(tool, event)
        try:
            yield counted
        finally:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)
        return

    def traced(frame: FrameType, kind: str, _argument: Any) -> Any:
        if kind == "opcode":
            counted[0] += 1
        else:
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return traced

    before = sys.gettrace()
    sys.settrace(traced)
    try:
        yield counted
    finally:
        sys.settrace(before)


if __name__ == "__main__":
    print(json.dumps(_measured(sys.argv[2:], int(sys.argv[1]))))  # noqa: T201
