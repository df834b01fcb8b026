"""The judge of a workload: what every worker asked for and got, and whether promises were kept.

::

    recorder   the events of a history, and how they are recorded, written and read
    checker    finds the anomalies in a history
    verdict    the anomalies, and what a judged history comes to
"""

from twinline.stores.conformance.history.checker import Checker
from twinline.stores.conformance.history.recorder import (
    Event,
    EventSink,
    HistoryError,
    Op,
    Outcome,
    Recorder,
    read_history,
    write_history,
)
from twinline.stores.conformance.history.verdict import Anomaly, Finding, Judgement, Verdict

__all__ = [
    "Anomaly",
    "Checker",
    "Event",
    "EventSink",
    "Finding",
    "HistoryError",
    "Judgement",
    "Op",
    "Outcome",
    "Recorder",
    "Verdict",
    "read_history",
    "write_history",
]
