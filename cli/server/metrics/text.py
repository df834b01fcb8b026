"""The numbers as Prometheus reads them, written by prometheus-client from a registry of our own.

Counting is not prometheus-client's: its counters take a lock each time, and this server counts
several things a message. It gets all numbers at once, when they are asked for.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as WrittenMetric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from twinline.cli.server.metrics import table
from twinline.cli.server.metrics.readiness import Facts
from twinline.cli.server.metrics.survey import Survey
from twinline.core.metrics import Distribution, Family, Kind, Metric, Metrics, Samples
from twinline.core.store import Health

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format that every Prometheus reads."""


class Text:
    """Writes all metrics of a server."""

    def __init__(self, metrics: Metrics, survey: Survey) -> None:
        """Prepare.

        Args:
            metrics: what is counted.
            survey: what is looked at now and then.
        """
        self._metrics = metrics
        self._survey = survey
        self._process = (
            ProcessCollector(registry=None),
            GCCollector(registry=CollectorRegistry()),
        )

    def write(self, facts: Facts) -> bytes:
        """Return them as text; it may take milliseconds, and reads files of /proc."""
        registry = CollectorRegistry()
        registry.register(_Collected(self._all(facts)))
        return generate_latest(registry)

    def _all(self, facts: Facts) -> Iterator[WrittenMetric]:
        for family in self._metrics.collect():
            yield _written(family, self._metrics.sample)
        for metric, samples in self._facts(facts):
            yield _written(Family(metric, samples), self._metrics.sample)
        for collector in self._process:
            try:
                yield from list(collector.collect())
            except ValueError:
                continue  # what /proc says is no number, such as "unlimited"

    def _facts(self, facts: Facts) -> Iterator[tuple[Metric, Samples]]:
        health = facts.health
        yield table.READY, _single(facts.ready)
        yield table.STORE_UP, _single(isinstance(health, Health))
        if isinstance(health, Health):
            labels = (facts.store, str(health.durability), health.epoch)
            yield table.STORE_INFO, [(labels, 1)]
            yield table.STORE_LAG, _single(health.lag_seconds)
            yield table.CLOCK_OFFSET, _single(health.clock_offset_ms / 1000)
            if health.free_bytes is not None:
                yield table.FREE_BYTES, _single(health.free_bytes)
        depths = self._survey.depths
        if depths is not None:
            yield table.MAILBOXES, _single(depths.mailboxes)
            yield table.DEEPEST, _single(depths.deepest)
            yield table.FULL, _single(depths.full)
            yield table.SURVEY_AGE, _single(time.monotonic() - self._survey.depths_at)
        ends = sorted(self._survey.certificates.items())
        if ends:
            yield table.CERTIFICATE_END, [((place,), end) for place, end in ends]
        yield table.THREADS, _single(_threads())
        yield table.BUILD, [((facts.version, facts.listener), 1)]


class _Collected(Collector):
    """What was collected already, for prometheus-client to write."""

    def __init__(self, families: Iterable[WrittenMetric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[WrittenMetric]:
        return self._families

    def describe(self) -> Iterable[WrittenMetric]:
        return ()


def _written(family: Family, sample: int) -> WrittenMetric:
    metric = family.metric
    words = f"{metric.help}; of one in {sample}." if metric.sampled else f"{metric.help}."
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(metric.full_name, words, labels=metric.labels)
        bounds = [*(f"{bound:g}" for bound in metric.bounds), "+Inf"]
        for labels, value in family.samples:
            assert isinstance(value, Distribution)  # noqa: S101 - as a histogram's are
            counts = map(float, accumulate(value.counts))
            histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), value.sum)
        return histogram
    written: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        # It adds the end of a counter's name by itself.
        name = metric.full_name.removesuffix("_total")
        written = CounterMetricFamily(name, words, labels=metric.labels)
    else:
        written = GaugeMetricFamily(metric.full_name, words, labels=metric.labels)
    for labels, value in family.samples:
        assert not isinstance(value, Distribution)  # noqa: S101 - as only a histogram's are
        written.add_metric(labels, value)
    return written


def _single(value: float) -> Samples:
    return [((), value)]


def _threads() -> int:
    """Return how many threads the process has, also those that Python's `threading` did not start.

    Each connection may have one of those.
    """
    try:
        stat = Path("/proc/self/stat").read_bytes()
    except OSError:  # on another system
        return threading.active_count()
    # Behind the name, which may hold anything, proc(5) has the state and 16 other fields first.
    return int(stat.rpartition(b")")[2].split()[17])
