"""The load of `twinline bench`: raw sockets in one epoll loop, with frames that were encoded once.

It must cost less than the server that it measures, so nothing is decoded while the clock runs.
A reply to a send always has the same length, and so replies are counted by their bytes; what a
watcher receives is kept, and read when the time is up. The loops bind what they call for every
event beforehand, for in Python a look-up and a call cost as much as the work itself.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, cycle
from typing import Final

from twinline.cli.bench.sockets import (
    RECEIVE_BYTES,
    LoadError,
    Refused,
    ended,
    events,
    polling,
    receive,
    unblocked,
    wait_for,
)
from twinline.cli.console.exit_codes import ExitCode

_SETTLE_SECONDS: Final = 0.001
"""For a watcher's request to reach the server and block there, before it is sent to."""
_SHOWN_BYTES: Final = 1 << 10
"""How much of a refusal is kept, to tell what it was."""


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
        watcher: receives them, each in one piece, as they come from a server that writes a
            reply at once.
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
        processor_seconds: what the load itself took of a processor in that time.
    """

    operations: int
    seconds: float
    latencies: list[float] = field(default_factory=list)
    processor_seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return the value below which so many percent of the sorted values lie."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def one_at_a_time(callers: Sequence[Caller], seconds: float) -> Sample:
    """Let every connection send, wait for the reply, and send again.

    Raises:
        LoadError: the server refused a request, does not answer, or ended a connection.
    """
    lines = {
        caller.socket.fileno(): (
            caller,
            caller.socket.recv_into,
            caller.socket.send,
            cycle(caller.frames).__next__,
            caller.reply_bytes,
            caller.reply_start,
        )
        for caller in callers
    }
    began = dict.fromkeys(lines, 0.0)
    latencies: list[float] = []
    clock, took = time.perf_counter, latencies.append
    buffer = bytearray(RECEIVE_BYTES)
    with unblocked(caller.socket for caller in callers), polling(lines) as poll:
        spent = time.thread_time()
        started = now = clock()
        ends = started + seconds
        for descriptor, (_, _, send, next_frame, _, _) in lines.items():
            began[descriptor] = clock()
            send(next_frame())
        under_way = len(lines)
        while under_way:
            for descriptor, _ in events(poll):
                caller, take, send, next_frame, length, start = lines[descriptor]
                count = take(buffer)
                if count != length or not buffer.startswith(start):
                    _finish_reply(caller, bytes(buffer[:count]))
                now = clock()
                took(now - began[descriptor])
                if now < ends:
                    began[descriptor] = now
                    send(next_frame())
                else:
                    under_way -= 1
        spent = time.thread_time() - spent
    return Sample(len(latencies), now - started, sorted(latencies), spent)


class _Stream:
    """The frames of a caller, laid end to end, so that any run of them is one slice."""

    def __init__(self, caller: Caller, window: int) -> None:
        count = len(caller.frames)
        frames = [caller.frames[number % count] for number in range(count + window)]
        self._bytes = memoryview(b"".join(frames))
        self._ends = [0, *accumulate(map(len, frames))]
        self._count = count
        self._next = 0
        self._send = caller.socket.send

    def send(self, count: int) -> None:
        """Send the next so many frames, at most as many as the window has."""
        first = self._next
        begin, end = self._ends[first], self._ends[first + count]
        if self._send(self._bytes[begin:end]) != end - begin:
            raise LoadError("the server does not take what it is sent", ExitCode.TIMED_OUT)
        self._next = (first + count) % self._count


def pipelined(callers: Sequence[Caller], window: int, seconds: float) -> Sample:
    """Let every connection have so many requests under way at any time.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    lines = {
        caller.socket.fileno(): (caller, caller.socket.recv_into, _Stream(caller, window).send)
        for caller in callers
    }
    read = dict.fromkeys(lines, 0)  # bytes of a reply that has not come altogether
    done = 0
    clock = time.perf_counter
    buffer = bytearray(RECEIVE_BYTES)
    with unblocked(caller.socket for caller in callers), polling(lines) as poll:
        spent = time.thread_time()
        started = now = clock()
        ends = started + seconds
        for _, _, send in lines.values():
            send(window)
        under_way = window * len(lines)
        while under_way:
            for descriptor, _ in events(poll):
                caller, take, send = lines[descriptor]
                count = take(buffer)
                _check_replies(caller, buffer, count, read[descriptor])
                complete, read[descriptor] = divmod(read[descriptor] + count, caller.reply_bytes)
                done += complete
                if now < ends:
                    if complete:
                        send(complete)
                else:
                    under_way -= complete
            now = clock()
        spent = time.thread_time() - spent
    return Sample(done, now - started, [], spent)


def deliveries(pairs: Sequence[Pair], seconds: float) -> Sample:
    """Let every sender send as soon as its last message was answered and delivered.

    A delivery is four transfers: the message and its reply, and the watcher's request, which
    acknowledges the last message, and its reply.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    senders = {pair.sender.socket.fileno(): number for number, pair in enumerate(pairs)}
    watchers = {pair.watcher.fileno(): number for number, pair in enumerate(pairs)}
    missing = [2] * len(pairs)
    asked = [True] * len(pairs)
    done = 0
    clock = time.perf_counter
    with unblocked(_sockets(pairs)), polling([*senders, *watchers]) as poll:
        for pair in pairs:
            _ask(pair)
        time.sleep(_SETTLE_SECONDS * 20)
        spent = time.thread_time()
        started = now = clock()
        ends = started + seconds
        for pair in pairs:
            pair.sender.socket.send(pair.sender.frames[0])
        under_way = len(pairs)
        while under_way:
            for descriptor, _ in events(poll):
                watching = watchers.get(descriptor)
                if watching is None:
                    number = senders[descriptor]
                    _take_reply(pairs[number].sender)
                else:
                    number = watching
                    _take_delivery(pairs[number])
                    done += 1
                    asked[number] = now < ends
                    if now < ends:
                        _ask(pairs[number])
                missing[number] -= 1
                if missing[number]:
                    continue
                # Whoever has asked gets an answer, or a request would be left behind.
                if asked[number]:
                    missing[number] = 2
                    sender = pairs[number].sender
                    sender.socket.send(sender.frames[0])
                else:
                    under_way -= 1
            now = clock()
        spent = time.thread_time() - spent
    return Sample(done, now - started, [], spent)


def delivery_latency(pairs: Sequence[Pair], seconds: float) -> Sample:
    """Send to one blocked watcher after another, and time each until the watcher has it.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    latencies: list[float] = []
    with unblocked(_sockets(pairs)):
        spent = time.thread_time()
        started = time.perf_counter()
        ends = started + seconds
        for pair in cycle(pairs):
            _ask(pair)
            time.sleep(_SETTLE_SECONDS)
            latencies.append(_deliver(pair))
            if time.perf_counter() >= ends:
                break
        spent = time.thread_time() - spent
    return Sample(len(latencies), time.perf_counter() - started, sorted(latencies), spent)


def polled_latency(pairs: Sequence[Pair], every: float) -> Sample:
    """Send to watchers that look every so often instead of waiting, and time each delivery.

    Each pair's ``ask`` must make requests that are answered at once. The times between a
    message and the watcher's next look are spread evenly over the interval. It takes twice as
    long as the interval, and gives a latency for each pair.

    Raises:
        LoadError: as for `one_at_a_time`.
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
    with unblocked(_sockets(pairs)):
        for moment, pair, sending in sorted(order, key=lambda event: (event[0], not event[2])):
            time.sleep(max(0.0, moment - clock()))
            if sending:
                sent_at[id(pair)] = clock()
                pair.sender.socket.send(pair.sender.frames[0])
                wait_for(pair.sender.socket)
                _take_reply(pair.sender)
            else:
                _ask(pair)
                wait_for(pair.watcher)
                _take_delivery(pair)
                latencies.append(clock() - sent_at[id(pair)])
    return Sample(len(latencies), clock() - started, sorted(latencies))


def _deliver(pair: Pair) -> float:
    """Send one message to a watcher that waits, and return the seconds until it had it."""
    clock = time.perf_counter
    sender = pair.sender.socket.fileno()
    missing = {sender, pair.watcher.fileno()}
    delivered_at = 0.0
    with polling(missing) as poll:
        sent_at = clock()
        pair.sender.socket.send(pair.sender.frames[0])
        while missing:
            ready = events(poll)
            now = clock()
            for descriptor, _ in ready:
                missing.discard(descriptor)
                if descriptor == sender:
                    _take_reply(pair.sender)
                else:
                    delivered_at = now
                    _take_delivery(pair)
    return delivered_at - sent_at


def _ask(pair: Pair) -> None:
    if pair.ask is not None:
        pair.watcher.send(pair.ask(pair.seen))


def _take_delivery(pair: Pair) -> None:
    pair.received.append(receive(pair.watcher))
    pair.seen += 1


def _take_reply(caller: Caller) -> None:
    """Read the reply of a connection that has something to read."""
    data = caller.socket.recv(RECEIVE_BYTES)
    if len(data) != caller.reply_bytes or not data.startswith(caller.reply_start):
        _finish_reply(caller, data)


def _finish_reply(caller: Caller, data: bytes) -> None:
    """Read the rest of a reply that came in pieces, and refuse one that is not good."""
    while data.startswith(caller.reply_start[: len(data)]) and data:
        if len(data) == caller.reply_bytes:
            return
        if len(data) > caller.reply_bytes:
            raise LoadError("the server sent more than was asked for")
        wait_for(caller.socket)
        data += receive(caller.socket)
    if not data:
        raise ended()
    raise Refused(data[:_SHOWN_BYTES])


def _check_replies(caller: Caller, buffer: bytearray, count: int, read: int) -> None:
    """Refuse pipelined replies of which one does not begin as a good one does.

    Only the last byte of the beginning is looked at: there a refusal differs, and all replies
    before the first refusal have the same length, so that it is where it is expected.

    Args:
        caller: whose replies they are.
        buffer: begins with what was received.
        count: how many bytes that is.
        read: how many bytes of the first reply came before.
    """
    if not count:
        raise ended()
    mark = len(caller.reply_start) - 1
    if mark < 0:
        return
    first = (mark - read) % caller.reply_bytes
    marks = buffer[first : count : caller.reply_bytes]
    good = marks.count(caller.reply_start[mark])
    if good != len(marks):
        bad = next(at for at, byte in enumerate(marks) if byte != caller.reply_start[mark])
        begin = max(0, first + bad * caller.reply_bytes - mark)
        raise Refused(bytes(buffer[begin : min(count, begin + _SHOWN_BYTES)]))


def _sockets(pairs: Sequence[Pair]) -> list[socket.socket]:
    return [each for pair in pairs for each in (pair.sender.socket, pair.watcher)]
