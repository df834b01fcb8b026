"""What `twinline bench` loads: a server in one of its transports, and the floor, in one shape."""

import itertools
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from twinline.cli.bench.accounts import Accounts, Member, OnDone, ignore
from twinline.cli.bench.figures import (
    SEND_REPLY,
    SEND_REQUEST,
    WATCH_REPLY,
    WATCH_REQUEST,
    Figure,
)
from twinline.cli.bench.floor import HELLO_BYTES, REPLY
from twinline.cli.bench.load import Caller, Pair, delivery_latency
from twinline.cli.bench.sockets import PATIENCE_SECONDS, LoadError, Refused
from twinline.cli.bench.target import ServerProcess
from twinline.cli.bench.wire import BODY, Wire, decoded, encoded, expect
from twinline.core.deadline import Deadline
from twinline.core.errors import RequestError
from twinline.core.protocol import (
    MAX_REPLY_BYTES,
    MAX_WAIT_SECONDS,
    Ack,
    ErrorReply,
    Reply,
    Resume,
    Send,
    SentReply,
    SessionReply,
    Status,
    StatusReply,
    Watch,
    WatchReply,
)
from twinline.transports.connecting import connect
from twinline.transports.contract import Transport
from twinline.transports.jsonl import JsonlTransport

_TYPICAL_NAME: Final = "bench-01234567-89"
_TYPICAL_SEQ: Final = 1000
_SHARED_FRAMES: Final = 4096


class Subject(ABC):
    """What can be loaded.

    Attributes:
        target: its process.
        pairs: the pairs that `open` made.
    """

    def __init__(self, target: ServerProcess) -> None:
        self.target = target
        self.pairs: list[Pair] = []
        self._callers: list[Caller] = []
        self._connections: list[Wire | socket.socket] = []

    @abstractmethod
    def open(self, callers: int, pairs: int) -> None:
        """Connect so many callers and pairs.

        Raises:
            RequestError: the server refused it.
            LoadError: it does not answer, or ended a connection.
        """

    @abstractmethod
    def settle(self) -> None:
        """Check what was delivered since the last time, and let no mail pile up.

        Raises:
            LoadError: a watcher did not receive each message once and in order, so that what
                was measured is nothing.
        """

    def callers(self, count: int) -> list[Caller]:
        """Return so many of the callers."""
        return self._callers[:count]

    def explain(self, refused: Refused) -> Exception:
        """Return the error that a refusal under load is."""
        return refused

    def close(self) -> None:
        """Close every connection; others can be opened then."""
        for connected in self._connections:
            connected.close()
        for made in (self._connections, self._callers, self.pairs):
            made.clear()


class ServerSubject(Subject):
    """A server in one transport, with accounts of its own.

    Callers send to accounts that have no watcher, and pairs have recipients of their own: else a
    watcher would get what it was not meant to count.

    Attributes:
        transport: that is spoken.
    """

    def __init__(self, target: ServerProcess, transport: Transport, accounts: Accounts) -> None:
        """Prepare; nothing is connected yet.

        Args:
            target: the server.
            transport: to speak.
            accounts: where to make accounts; they can be shared.
        """
        super().__init__(target)
        self.transport = transport
        self._accounts = accounts
        self._sender: Member
        self._unwatched: list[Member] = []
        self._watched: list[Member] = []
        self._good: tuple[int, bytes] | None = None  # the length and the beginning of a reply
        self._checked: list[int] = []  # of each pair: the last seq that was checked

    def make_accounts(self, unwatched: int, watched: int, on_done: OnDone = ignore) -> None:
        """Make the sender, those that callers send to, and those that have watchers.

        Raises:
            RequestError: the server refused one.
            LoadError: it does not answer, or ended a connection.
        """
        made = self._accounts.make(1 + unwatched + watched, on_done)
        self.take_accounts(made[0], made[1 : 1 + unwatched], made[1 + unwatched :])

    def take_accounts(
        self, sender: Member, unwatched: Sequence[Member], watched: Sequence[Member] = ()
    ) -> None:
        """Take accounts that are there already: as `make_accounts` makes them."""
        self._sender = sender
        self._unwatched = list(unwatched)
        self._watched = list(watched)

    def open(self, callers: int, pairs: int, *, wait: int = MAX_WAIT_SECONDS) -> None:
        """Connect so many callers and pairs.

        Args:
            callers: send in turn to all that are not watched.
            pairs: as many as there are accounts to watch, or fewer.
            wait: how long a watcher's request may wait, in seconds.

        Raises:
            RequestError: the server refused it.
            LoadError: it does not answer, or ended a connection.
        """
        for number in range(callers):
            # Each begins with another one, so that they do not all send to the same.
            first = number % len(self._unwatched)
            self._callers.append(self._caller(self._unwatched[first:] + self._unwatched[:first]))
        asking = _watching(self.transport, wait)
        for member in self._watched[:pairs]:
            sender = self._caller([member])
            watcher = self.logged_in(member)
            base = _caught_up(watcher)
            self._checked.append(base)
            self.pairs.append(Pair(sender, watcher.socket, _from(asking, base)))

    def settle(self) -> None:
        """Check what was delivered, and acknowledge the mail that has no watcher."""
        for number, pair in enumerate(self.pairs):
            checked = self._checked[number]
            self._checked[number] += len(pair.received)
            self._check(pair, checked)
        self._accounts.acknowledge(self._unwatched)

    def lengths(self) -> dict[Figure, int]:
        """Deliver a message to the first watcher, and return how many bytes each step took.

        Raises:
            LoadError: it was not delivered.
        """
        pair = self.pairs[0]
        asked = b"" if pair.ask is None else pair.ask(pair.seen)
        delivery_latency([pair], 0)
        return {
            SEND_REQUEST: len(pair.sender.frames[0]),
            SEND_REPLY: pair.sender.reply_bytes,
            WATCH_REQUEST: len(asked),
            WATCH_REPLY: len(pair.received[-1]),
        }

    def explain(self, refused: Refused) -> Exception:
        """Return the error that a refusal under load is."""
        reply = decoded(self.transport, refused.reply)
        return RequestError.from_reply(reply) if isinstance(reply, ErrorReply) else refused

    def logged_in(self, member: Member) -> Wire:
        """Return a connection that has resumed a member's session."""
        wire = Wire(self.target.endpoint, self.transport)
        self._connections.append(wire)
        wire.ask(Resume(session=member.token), SessionReply)
        return wire

    def close(self) -> None:
        """Close every connection; others can be opened then."""
        super().close()
        self._checked.clear()

    def _check(self, pair: Pair, checked: int) -> None:
        codec = self.transport.client_codec(MAX_REPLY_BYTES)
        for received in pair.received:
            codec.send(1, Watch(after=0))
            codec.receive_data(received)
        codec.data_to_send()
        found: list[tuple[int, str, str]] = []
        while (event := codec.next_event()) is not None:
            messages = expect(event.reply, WatchReply).messages
            found += [(message.seq, message.sender, message.body) for message in messages]
        seqs = range(checked + 1, checked + len(pair.received) + 1)
        if found != [(seq, self._sender.name, BODY) for seq in seqs]:
            raise LoadError("a watcher did not receive each message once and in order")
        pair.received.clear()

    def _caller(self, to: Sequence[Member]) -> Caller:
        """Connect a sender that sends to these in turn."""
        wire = self.logged_in(self._sender)
        if self._good is None:
            self._good = self._learn(wire, to[0])
        length, start = self._good
        frames = [encoded(self.transport, Send(to=member.name, body=BODY)) for member in to]
        return Caller(wire.socket, frames, length, start)

    def _learn(self, wire: Wire, to: Member) -> tuple[int, bytes]:
        """Return how long a good reply to a send is, and with what only good ones begin."""
        good, reply = wire.answer(wire.frame(Send(to=to.name, body=BODY)))
        expect(reply, SentReply)
        bad, reply = wire.answer(wire.frame(Send(to=to.name, body="", send_id="")))
        equal = itertools.takewhile(lambda both: both[0] == both[1], zip(good, bad, strict=False))
        same = len(list(equal))
        if not isinstance(reply, ErrorReply) or same >= min(len(good), len(bad)):
            raise LoadError("good replies cannot be told from refusals")
        return len(good), good[: same + 1]


class FloorSubject(Subject):
    """The floor, with frames that are as long as those of JSON lines."""

    _numbers = itertools.count()  # a relay that was used has a thread that may wait in it

    def __init__(self, target: ServerProcess) -> None:
        """Prepare; nothing is connected yet."""
        super().__init__(target)
        spoken = JsonlTransport()
        self._frame = encoded(spoken, Send(to=_TYPICAL_NAME, body=BODY))
        watch = Watch(after=_TYPICAL_SEQ, ack=_TYPICAL_SEQ, wait=MAX_WAIT_SECONDS)
        self._request = encoded(spoken, watch)

    def open(self, callers: int, pairs: int) -> None:
        """Connect so many callers and pairs."""
        for _ in range(callers):
            echo = self._connected(b"E")
            self._callers.append(Caller(echo, [self._frame], len(self._frame), self._frame[:1]))
        for _ in range(pairs):
            number = b"%d" % next(self._numbers)
            sender = self._connected(b"S" + number)
            watcher = self._connected(b"W" + number)
            caller = Caller(sender, [self._frame], len(REPLY), REPLY[:1])
            self.pairs.append(Pair(caller, watcher, lambda _: self._request))

    def settle(self) -> None:
        """Check that every message was relayed."""
        for pair in self.pairs:
            if any(received != self._frame for received in pair.received):
                raise LoadError("the floor did not relay each message once")
            pair.received.clear()

    def _connected(self, hello: bytes) -> socket.socket:
        padded = hello.ljust(HELLO_BYTES)
        try:
            connected = connect(self.target.endpoint, Deadline.after(PATIENCE_SECONDS)).socket
            self._connections.append(connected)
            connected.settimeout(PATIENCE_SECONDS)
            connected.sendall(padded)
            answer = connected.recv(HELLO_BYTES)
        except OSError as error:
            raise LoadError(f"the floor does not answer: {error}") from error
        if answer != padded:
            raise LoadError("the floor does not answer as it should")
        return connected


def _caught_up(watcher: Wire) -> int:
    """Acknowledge what there is, and return the last seq."""
    standing = watcher.ask(Status(), StatusReply)
    last = standing.position + standing.unread
    if standing.unread:
        watcher.ask(Ack(up_to=last), Reply)
    return last


def _watching(transport: Transport, wait: int) -> Callable[[int], bytes]:
    """Return what makes a watch's bytes by the last seq; watchers that keep step share them."""

    @lru_cache(maxsize=_SHARED_FRAMES)
    def encode(last: int) -> bytes:
        return encoded(transport, Watch(after=last, ack=last, wait=wait))

    return encode


def _from(encode: Callable[[int], bytes], base: int) -> Callable[[int], bytes]:
    return lambda seen: encode(base + seen)
