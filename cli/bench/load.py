"""The load of `twinline bench`: raw sockets in one epoll loop, with frames that were encoded once.

It must cost less than the server that it measures, so nothing is decoded while the clock runs.
A reply to a send always has the same length, and so replies are counted by their bytes; `watchers`
count what is delivered. The loops bind what they call for every event beforehand, for in Python a
look-up and a call cost as much as the work itself.
"""

import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
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
from twinline.cli.bench.watchers import Watcher
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
        frames: the requests, without end.
        reply_bytes: the length of the reply that each of them gets.
        reply_start: what every good reply begins with, and no refusal does.
    """

    socket: socket.socket
    frames: Iterator[bytes]
    reply_bytes: int
    reply_start: bytes


@dataclass(frozen=True, slots=True)
class Pair:
    """A sender, and the watcher whom its messages reach and nobody else's."""

    sender: Caller
    watcher: Watcher


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
            caller.frames.__next__,
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


def pipelined(
    callers: Sequence[Caller], window: int, seconds: float, most: int | None = None
) -> Sample:
    """Let every connection have so many requests under way at any time.

    Args:
        callers: the connections.
        window: requests under way on each.
        seconds: how long.
        most: end when so many are answered, and with them those that are under way; None does not.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    lines = {caller.socket.fileno(): (caller, caller.socket.recv_into) for caller in callers}
    read = dict.fromkeys(lines, 0)  # bytes of a reply that has not come altogether
    done = 0
    clock = time.perf_counter
    buffer = bytearray(RECEIVE_BYTES)
    with unblocked(caller.socket for caller in callers), polling(lines) as poll:
        spent = time.thread_time()
        started = now = clock()
        ends = started + seconds
        for caller in callers:
            _send(caller, window)
        under_way = window * len(lines)
        while under_way:
            for descriptor, _ in events(poll):
                caller, take = lines[descriptor]
                count = take(buffer)
                _check_replies(caller, buffer, count, read[descriptor])
                complete, read[descriptor] = divmod(read[descriptor] + count, caller.reply_bytes)
                done += complete
                if now < ends and (most is None or done < most):
                    if complete:
                        _send(caller, complete)
                else:
                    under_way -= complete
            now = clock()
        spent = time.thread_time() - spent
    return Sample(done, now - started, [], spent)


def beside(callers: Sequence[Caller], lone: Caller, seconds: float, window: int = 1) -> Sample:
    """Let every connection have requests under way, and time what one more asks beside that.

    Args:
        callers: the connections that load.
        lone: the one that is timed; it has one request under way.
        seconds: how long.
        window: requests under way on each of the others.

    Returns:
        The operations of the one, with their latencies.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    lines = {caller.socket.fileno(): caller for caller in (*callers, lone)}
    timed = lone.socket.fileno()
    read = dict.fromkeys(lines, 0)  # bytes of a reply that has not come altogether
    latencies: list[float] = []
    clock = time.perf_counter
    buffer = bytearray(RECEIVE_BYTES)
    with unblocked(caller.socket for caller in lines.values()), polling(lines) as poll:
        spent = time.thread_time()
        started = asked_at = now = clock()
        ends = started + seconds
        for caller in callers:
            _send(caller, window)
        _send(lone, 1)
        under_way = window * len(callers) + 1
        while under_way:
            ready = events(poll)
            now = clock()
            for descriptor, _ in ready:
                caller = lines[descriptor]
                count = caller.socket.recv_into(buffer)
                _check_replies(caller, buffer, count, read[descriptor])
                complete, read[descriptor] = divmod(read[descriptor] + count, caller.reply_bytes)
                if descriptor == timed and complete:
                    latencies.append(now - asked_at)
                    asked_at = clock()
                if now >= ends:
                    under_way -= complete
                elif complete:
                    _send(caller, complete)
        spent = time.thread_time() - spent
    return Sample(len(latencies), now - started, sorted(latencies), spent)


def deliveries(pairs: Sequence[Pair], seconds: float) -> Sample:
    """Let every sender send as soon as its last message was answered and delivered.

    A delivery is four transfers: the message and its reply, and the reply to the watcher and what
    that sends then, which acknowledges the message.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    senders = {pair.sender.socket.fileno(): number for number, pair in enumerate(pairs)}
    watchers = {pair.watcher.socket.fileno(): number for number, pair in enumerate(pairs)}
    missing = [2] * len(pairs)
    asked = [True] * len(pairs)
    done = 0
    clock = time.perf_counter
    with unblocked(_sockets(pairs)), polling([*senders, *watchers]) as poll:
        for pair in pairs:
            pair.watcher.begin()
        time.sleep(_SETTLE_SECONDS * 20)
        spent = time.thread_time()
        started = now = clock()
        ends = started + seconds
        for pair in pairs:
            _send(pair.sender, 1)
        under_way = len(pairs)
        while under_way:
            for descriptor, _ in events(poll):
                watching = watchers.get(descriptor)
                if watching is None:
                    number = senders[descriptor]
                    _take_reply(pairs[number].sender)
                    missing[number] -= 1
                else:
                    number = watching
                    watcher = pairs[number].watcher
                    came = watcher.take()
                    if not came:
                        continue  # the end of a stream that was renewed
                    done += came
                    missing[number] -= came
                    asked[number] = now < ends
                    if now < ends:
                        watcher.go_on()
                if missing[number]:
                    continue
                # Whoever has asked gets an answer, or a request would be left behind.
                if asked[number]:
                    missing[number] = 2
                    _send(pairs[number].sender, 1)
                else:
                    under_way -= 1
            now = clock()
        spent = time.thread_time() - spent
    return Sample(done, now - started, [], spent)


def flow(pair: Pair, window: int, seconds: float) -> Sample:
    """Let one sender have so many messages under way to its watcher at any time.

    A message is under way until it was both answered and delivered.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    sender, watcher = pair.sender, pair.watcher
    answering = sender.socket.fileno()
    answered = delivered = sent = read = 0
    clock = time.perf_counter
    buffer = bytearray(RECEIVE_BYTES)
    with unblocked(_sockets([pair])), polling([answering, watcher.socket.fileno()]) as poll:
        watcher.begin()
        time.sleep(_SETTLE_SECONDS * 20)
        seen = watcher.seen
        spent = time.thread_time()
        started = now = clock()
        ends = started + seconds
        _send(sender, window)
        sent = window
        came = 0
        while answered < sent or delivered < sent:
            for descriptor, _ in events(poll):
                if descriptor == answering:
                    count = sender.socket.recv_into(buffer)
                    _check_replies(sender, buffer, count, read)
                    complete, read = divmod(read + count, sender.reply_bytes)
                    answered += complete
                else:
                    came += watcher.take()
                    delivered = watcher.seen - seen
            now = clock()
            free = window - sent + min(answered, delivered)
            if free and now < ends:
                _send(sender, free)
                sent += free
            if came and delivered < sent:  # else it would ask for what nobody has sent
                watcher.go_on()
                came = 0
        spent = time.thread_time() - spent
    return Sample(delivered, now - started, [], spent)


def delivery_latency(pairs: Sequence[Pair], seconds: float, pause: float = 0) -> Sample:
    """Send to one watcher after another, and time each until the watcher has it.

    The next message follows at once: a server is at work, and not just woken from its sleep.

    Args:
        pairs: the senders and their watchers.
        seconds: how long.
        pause: in seconds, before each message, if it is not to follow at once.

    Raises:
        LoadError: as for `one_at_a_time`.
    """
    latencies: list[float] = []
    with unblocked(_sockets(pairs)):
        spent = time.thread_time()
        started = time.perf_counter()
        ends = started + seconds
        for pair in pairs:
            pair.watcher.begin()
        time.sleep(_SETTLE_SECONDS)
        for pair in cycle(pairs):
            if pause:
                time.sleep(pause)
            latencies.append(_deliver(pair))
            if time.perf_counter() >= ends:
                break
            pair.watcher.go_on()
        spent = time.thread_time() - spent
    return Sample(len(latencies), time.perf_counter() - started, sorted(latencies), spent)


def polled_latency(pairs: Sequence[Pair], every: float) -> Sample:
    """Send to watchers that look every so often instead of waiting, and time each delivery.

    Each pair's watcher must ask what is answered at once. The times between a
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
                _send(pair.sender, 1)
                wait_for(pair.sender.socket)
                _take_reply(pair.sender)
            else:
                pair.watcher.begin()
                wait_for(pair.watcher.socket)
                pair.watcher.take()
                latencies.append(clock() - sent_at[id(pair)])
    return Sample(len(latencies), clock() - started, sorted(latencies))


def _deliver(pair: Pair) -> float:
    """Send one message to a watcher that waits, and return the seconds until it had it."""
    clock = time.perf_counter
    sender = pair.sender.socket.fileno()
    missing = {sender, pair.watcher.socket.fileno()}
    delivered_at = 0.0
    with polling(missing) as poll:
        sent_at = clock()
        _send(pair.sender, 1)
        while missing:
            ready = events(poll)
            now = clock()
            for descriptor, _ in ready:
                if descriptor == sender:
                    _take_reply(pair.sender)
                elif pair.watcher.take():
                    delivered_at = now
                else:
                    continue  # the end of a stream that was renewed
                missing.discard(descriptor)
    return delivered_at - sent_at


def _send(caller: Caller, count: int) -> None:
    """Send the next so many requests, in one piece."""
    frames = next(caller.frames) if count == 1 else b"".join(islice(caller.frames, count))
    if caller.socket.send(frames) < len(frames):  # one that wraps them sends more
        raise LoadError("the server does not take what it is sent", ExitCode.TIMED_OUT)


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
    return [each for pair in pairs for each in (pair.sender.socket, pair.watcher.socket)]
