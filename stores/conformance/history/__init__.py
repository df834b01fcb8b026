"""The judge of a workload: what every worker asked for and got, and whether promises were kept."""

from twinline.stores.conformance.history.checker import Checker
from twinline.stores.conformance.history.recorder import (
    Event,
    HistoryError,
    Listener,
    Op,
    Outcome,
    Recorder,
    read_history,
    write_history,
)
from twinline.stores.conformance.history.verdict import Finding, Judgement, Rule, Verdict

__all__ = [
    "Checker",
    "Event",
    "Finding",
    "HistoryError",
    "Judgement",
    "Listener",
    "Op",
    "Outcome",
    "Recorder",
    "Rule",
    "Verdict",
    "read_history",
    "write_history",
]
