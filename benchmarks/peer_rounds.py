"""What `benchmarks/peers.py` measures of a server in one round."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from peer_contract import Server
from peer_table import Figures
from peer_twinline import SubjectServer

from twinline.cli.bench.figures import FLOW, PIPELINED
from twinline.cli.bench.load import (
    Sample,
    beside,
    deliveries,
    delivery_latency,
    flow,
    one_at_a_time,
    percentile,
    pipelined,
)
from twinline.cli.bench.plan import fill
from twinline.cli.bench.receivers import by_async_client, by_client
from twinline.cli.bench.subjects import FloorSubject, ServerSubject

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Measured:
    """A sample, and what it took.

    Attributes:
        sample: what was counted.
        server: processor µs of the server for each operation, or None where nobody can tell.
        load: the share of a processor that the load took.
    """

    sample: Sample
    server: float | None
    load: float


def measured(server: Server, run: Callable[[], Sample]) -> Measured:
    """Run a load, and count what it takes."""
    before, own, began = server.target.processor_seconds(), time.process_time(), time.monotonic()
    sample = run()
    after, elapsed = server.target.processor_seconds(), time.monotonic() - began
    load = (time.process_time() - own) / elapsed
    took = None if before is None or after is None else 1e6 * (after - before) / sample.operations
    return Measured(sample, took, load)


def one_round(server: Server, seconds: float) -> Figures:
    """Measure a server once; each load has connections of its own."""
    try:
        latency, delivered = received(server, seconds)
        more = more_received(server, seconds)
        server.disconnect()
        callers = server.callers(CONNECTIONS)
        sent = measured(server, partial(one_at_a_time, callers, seconds))
        more |= more_sent(server, seconds)
    finally:
        server.disconnect()
    return Figures(
        p50=1e6 * percentile(latency.sample.latencies, 50),
        p99=1e6 * percentile(latency.sample.latencies, 99),
        deliveries=delivered.sample.rate,
        sends=sent.sample.rate,
        single_cost=latency.server,
        delivery_cost=delivered.server,
        send_cost=sent.server,
        delivery_load=delivered.load,
        send_load=sent.load,
        **more,
    )


def received(server: Server, seconds: float) -> tuple[Measured, Measured]:
    """Measure the deliveries of one pair, and of many; these stay connected."""
    pairs = server.pairs(1)
    latency = measured(server, partial(delivery_latency, pairs, seconds))
    for pair in pairs:
        server.check(pair)
    server.disconnect()
    pairs = server.pairs(CONNECTIONS)
    delivered = measured(server, partial(deliveries, pairs, seconds))
    for pair in pairs:
        server.check(pair)
    return latency, delivered


def more_received(server: Server, seconds: float) -> dict[str, float | None]:
    """Measure what only twinline is asked for, by the pairs that are connected."""
    subject = server.subject if isinstance(server, SubjectServer) else None
    if not isinstance(subject, ServerSubject):
        return {}
    first = subject.pairs[0]
    found: dict[str, float | None] = {"flow": flow(first, FLOW.window, seconds).rate}
    if subject.streams:
        subject.watch(streams=False)
        latency = delivery_latency([first], seconds)
        blocked = measured(server, partial(deliveries, subject.pairs, seconds))
        subject.watch(streams=True)
        found["blocked_p50"] = 1e6 * percentile(latency.latencies, 50)
        found["blocked_deliveries"] = blocked.sample.rate
        found["blocked_cost"] = blocked.server
    return found


def more_sent(server: Server, seconds: float) -> dict[str, float | None]:
    """Measure what only twinline is asked for, and some of the floor, by connected callers."""
    if not isinstance(server, SubjectServer):
        return {}
    subject = server.subject
    if isinstance(subject, FloorSubject) and subject.direct:
        return {}
    lone = beside(subject.callers(CONNECTIONS), subject.lone(), seconds)
    found: dict[str, float | None] = {"ping_p99": 1e6 * percentile(lone.latencies, 99)}
    if isinstance(subject, ServerSubject):
        plain = subject.without_send_ids(CONNECTIONS)
        sent = measured(server, partial(one_at_a_time, plain, seconds))
        found |= {"plain_sends": sent.sample.rate, "plain_send_cost": sent.server}
        callers = subject.callers(PIPELINED.connections)
        found["pipelined_cost"] = measured(
            server, partial(pipelined, callers, PIPELINED.window, seconds)
        ).server
        if subject.streams:
            for name, receive in (("client", by_client), ("async_client", by_async_client)):
                filled = fill(subject, seconds)
                token = subject.receiver.token
                found[name] = receive(subject.target, subject.transport, token, filled).rate
    return found
