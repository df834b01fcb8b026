"""The load of `twinline bench`: raw sockets in one epoll loop, with frames that were encoded once.

It must cost less than the server that it measures, so nothing is decoded while the clock runs.
A reply to a send always has the same length, and so replies are counted by their bytes; what a
watcher receives is kept, and read when the time is up.
"""

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Final

from twinline.cli.errors import CommandError
from twinline.cli.exit_codes import ExitCode

PATIENCE_SECONDS: Final = 10.0
"""How long a server may take to answer before the run is given up."""
_SETTLE_SECONDS: Final = 0.001
"""For a watcher's request to reach the server and block there, before it is sent to."""
_RECEIVE_BYTES: Final = 1 << 16


class LoadError(CommandError):
    """The server did not do its part, so that there is nothing to measure."""


@dataclass(slots=True)
class Caller:
    """A connection that sends requests and counts replies.

    Attributes:
        socket: connected and logged in; nothing else may read it.
        frames: the requests, sent in turn for ever.
        reply_bytes: the length of the reply that each of them gets.
        reply_start: what every good reply begins with, and no refusal does.
    """

    socket: socket.socket
    frames: Sequence[bytes]
    reply_bytes: int
    reply_start: bytes


@dataclass(slots=True)
class Pair:
    """A sender and the watcher whom its messages reach.

    Attributes:
        sender: sends, one message at a time.
        watcher: receives them.
        ask: makes the frame that asks for what follows so many messages; None where the
            server pushes.
        seen: how many messages the watcher has received.
        received: what the watcher read since the last check.
    """

    sender: Caller
    watcher: socket.socket
    ask: Callable[[int], bytes] | None
    seen: int = 0
    received: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement counted.

    Attributes:
        operations: how many were done.
        seconds: in how much time.
        latencies: of each operation, in seconds, sorted; empty where they were not taken.
    """

    operations: int
    seconds: float
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value below which so many percent of the sorted values lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def one_at_a_time(callers: Sequence[Caller], seconds: float) -> Sample:
    """Let every connection send, wait for the reply, and send again."""
    by_descriptor = {caller.socket.fileno(): caller for caller in callers}
    frames = {descriptor: cycle(caller.frames) for descriptor, caller in by_descriptor.items()}
    began = {}
    latencies = []
    clock = time.perf_counter
    with _polling(by_descriptor) as poll:
        started = now = clock()
        ends = started + seconds
        for descriptor, caller in by_descriptor.items():
            began[descriptor] = clock()
            caller.socket.send(next(frames[descriptor]))
        under_way = len(callers)
        while under_way:
            for descriptor, _ in _happened(poll):
                caller = by_descriptor[descriptor]
                _take_replies(caller, 1)
                now = clock()
                latencies.append(now - began[descriptor])
                if now < ends:
                    began[descriptor] = now
                    caller.socket.send(next(frames[descriptor]))
                else:
                    under_way -= 1
    return Sample(len(latencies), now - started, sorted(latencies))


def pipelined(callers: Sequence[Caller], window: int, seconds: float) -> Sample:
    """Let every connection have so many requests under way at any time."""
    by_descriptor = {caller.socket.fileno(): caller for caller in callers}
    frames = {descriptor: cycle(caller.frames) for descriptor, caller in by_descriptor.items()}
    read = dict.fromkeys(by_descriptor, 0)  # bytes of a reply that has not come altogether
    done = 0
    clock = time.perf_counter
    with _polling(by_descriptor) as poll:
        started = now = clock()
        ends = started + seconds
        for descriptor, caller in by_descriptor.items():
            caller.socket.send(b"".join(islice(frames[descriptor], window)))
        under_way = window * len(callers)
        while under_way:
            for descriptor, _ in _happened(poll):
                caller = by_descriptor[descriptor]
                data = _receive(caller.socket)
                if not read[descriptor]:
                    _check_start(caller, data)
                complete, read[descriptor] = divmod(
                    read[descriptor] + len(data), caller.reply_bytes
                )
                done += complete
                if now < ends:
                    if complete:
                        caller.socket.send(b"".join(islice(frames[descriptor], complete)))
                else:
                    under_way -= complete
            now = clock()
    return Sample(done, now - started)


def deliveries(pairs: Sequence[Pair], seconds: float) -> Sample:
    """Let every sender send as soon as its last message was answered and delivered.

    A delivery is four transfers: the message and its reply, and the watcher's request, which
    acknowledges the last message, and its reply.
    """
    senders = {pair.sender.socket.fileno(): pair for pair in pairs}
    watchers = {pair.watcher.fileno(): pair for pair in pairs}
    missing = dict.fromkeys(senders, 2)
    done = 0
    clock = time.perf_counter
    with _polling([*senders, *watchers]) as poll:
        for pair in pairs:
            _ask(pair)
        time.sleep(_SETTLE_SECONDS * 20)
        started = clock()
        ends = started + seconds
        for pair in pairs:
            pair.sender.socket.send(pair.sender.frames[0])
        under_way = len(pairs)
        while under_way:
            for descriptor, _ in _happened(poll):
                watching = watchers.get(descriptor)
                if watching is None:
                    pair = senders[descriptor]
                    _take_replies(pair.sender, 1)
                else:
                    pair = watching
                    _take_delivery(pair)
                    done += 1
                    _ask(pair)
                sender = pair.sender.socket
                missing[sender.fileno()] -= 1
                if missing[sender.fileno()]:
                    continue
                if clock() < ends:
                    missing[sender.fileno()] = 2
                    sender.send(pair.sender.frames[0])
                else:
                    under_way -= 1
        elapsed = clock() - started
    for pair in pairs:
        _deliver(pair)  # no request to watch is left behind, to be answered who knows when
    return Sample(done, elapsed)


def delivery_latency(pairs: Sequence[Pair], seconds: float) -> Sample:
    """Send to one blocked watcher after another, and time each until the watcher has it."""
    latencies: list[float] = []
    started = time.perf_counter()
    ends = started + seconds
    for pair in cycle(pairs):
        _ask(pair)
        time.sleep(_SETTLE_SECONDS)
        latencies.append(_deliver(pair))
        if time.perf_counter() >= ends:
            break
    return Sample(len(latencies), time.perf_counter() - started, sorted(latencies))


def polled_latency(pairs: Sequence[Pair], every: float) -> Sample:
    """Send to watchers that look every so often instead of waiting, and time each delivery.

    Each pair's ``ask`` must make requests that are answered at once. The times between a
    message and the watcher's next look are spread evenly over the interval.
    """
    clock = time.perf_counter
    started = clock() + every
    looks = {number: started + every * number / len(pairs) for number in range(len(pairs))}
    # Multiples of the golden ratio, taken modulo 1, cover an interval evenly (Weyl 1916).
    sends = {number: look - every * (number * 0.618034 % 1) for number, look in looks.items()}
    order = [(moment, pairs[number], True) for number, moment in sends.items()]
    order += [(moment, pairs[number], False) for number, moment in looks.items()]
    sent_at: dict[int, float] = {}
    latencies: list[float] = []
    for moment, pair, sending in sorted(order, key=lambda event: (event[0], not event[2])):
        time.sleep(max(0.0, moment - clock()))
        if sending:
            sent_at[id(pair)] = clock()
            pair.sender.socket.send(pair.sender.frames[0])
            _wait_for(pair.sender.socket)
            _take_replies(pair.sender, 1)
        else:
            _ask(pair)
            _wait_for(pair.watcher)
            _take_delivery(pair)
            latencies.append(clock() - sent_at[id(pair)])
    return Sample(len(latencies), clock() - started, sorted(latencies))


def _deliver(pair: Pair) -> float:
    """Send one message to a watcher that waits, and return the seconds until it had it."""
    clock = time.perf_counter
    sender = pair.sender.socket.fileno()
    missing = {sender, pair.watcher.fileno()}
    delivered_at = 0.0
    with _polling(missing) as poll:
        sent_at = clock()
        pair.sender.socket.send(pair.sender.frames[0])
        while missing:
            for descriptor, _ in _happened(poll):
                now = clock()
                missing.discard(descriptor)
                if descriptor == sender:
                    _take_replies(pair.sender, 1)
                else:
                    delivered_at = now
                    _take_delivery(pair)
    return delivered_at - sent_at


def _ask(pair: Pair) -> None:
    if pair.ask is not None:
        pair.watcher.send(pair.ask(pair.seen))


def _take_delivery(pair: Pair) -> None:
    pair.received.append(_receive(pair.watcher))
    pair.seen += 1


def _take_replies(caller: Caller, count: int) -> None:
    """Read so many replies of a connection that has something to read."""
    data = _receive(caller.socket)
    _check_start(caller, data)
    missing = count * caller.reply_bytes - len(data)
    while missing > 0:  # a reply may come in pieces
        _wait_for(caller.socket)
        missing -= len(_receive(caller.socket))
    if missing < 0:
        raise LoadError("the server sent more than was asked for")


def _check_start(caller: Caller, data: bytes) -> None:
    """Refuse a reply that does not begin as a good one does."""
    if not data.startswith(caller.reply_start[: len(data)]):
        raise LoadError(f"the server refused a request: {data[:200]!r}", ExitCode.REFUSED)


def _receive(connected: socket.socket) -> bytes:
    data = connected.recv(_RECEIVE_BYTES)
    if not data:
        raise LoadError("the server ended a connection", ExitCode.UNREACHABLE)
    return data


def _wait_for(connected: socket.socket) -> None:
    with _polling([connected.fileno()]) as poll:
        _happened(poll)


def _happened(poll: select.epoll) -> list[tuple[int, int]]:
    happened = poll.poll(PATIENCE_SECONDS)
    if not happened:
        raise LoadError("the server does not answer", ExitCode.TIMED_OUT)
    return happened


@contextmanager
def _polling(descriptors: Iterable[int]) -> Iterator[select.epoll]:
    with select.epoll() as poll:
        for descriptor in descriptors:
            poll.register(descriptor, select.EPOLLIN)
        yield poll
