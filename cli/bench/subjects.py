"""What `twinline bench` loads: a server in one of its transports, and the floor, in one shape."""

import itertools
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Protocol

from twinline.cli.bench.accounts import Accounts, Member, Told, nobody
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
from twinline.transports.contract import Transport
from twinline.transports.jsonl import JsonlTransport

_TYPICAL_NAME: Final = "bench-01234567-89"
_TYPICAL_SEQ: Final = 1000
_SHARED_FRAMES: Final = 4096


class Subject(Protocol):
    """What can be loaded.

    Attributes:
        target: its process.
        pairs: the pairs that `open` made.
    """

    target: ServerProcess
    pairs: list[Pair]

    def open(self, callers: int, pairs: int) -> None:
        """Connect so many callers and pairs, once."""

    def callers(self, count: int) -> list[Caller]:
        """Return so many of the callers."""

    def settle(self) -> None:
        """Check what was delivered since the last time, and let no mail pile up."""

    def explain(self, refused: Refused) -> Exception:
        """Return the error that a refusal under load is."""

    def close(self) -> None:
        """Close every connection."""


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many bytes a message takes on the wire.

    Attributes:
        send_request: to send it.
        send_reply: to acknowledge it.
        watch_request: to acknowledge the one before, and to ask for more.
        watch_reply: to deliver it.
    """

    send_request: int
    send_reply: int
    watch_request: int
    watch_reply: int


class ServerSubject:
    """A server in one transport, with accounts of its own.

    Callers send to accounts that nobody watches, and pairs have recipients of their own: else a
    watcher would get what it was not meant to count.

    Attributes:
        target: its process.
        transport: that is spoken.
        pairs: the pairs that `open` made.
    """

    def __init__(self, target: ServerProcess, transport: Transport, accounts: Accounts) -> None:
        """Prepare; nothing is connected yet.

        Args:
            target: the server.
            transport: to speak.
            accounts: where to make accounts; they can be shared.
        """
        self.target = target
        self.pairs: list[Pair] = []
        self.transport = transport
        self._accounts = accounts
        self._sender: Member
        self._unwatched: list[Member] = []
        self._watched: list[Member] = []
        self._callers: list[Caller] = []
        self._wires: list[Wire] = []
        self._good: tuple[int, bytes] | None = None  # the length and the beginning of a reply
        self._bases: list[int] = []  # of each pair: the last seq before its first message
        self._checked: list[int] = []  # of each pair: the messages that were checked

    def make_accounts(self, unwatched: int, watched: int, told: Told = nobody) -> None:
        """Make the sender, those that callers send to, and those that have watchers.

        Raises:
            RequestError: the server refused one.
            LoadError: it does not answer, or ended a connection.
        """
        made = self._accounts.make(1 + unwatched + watched, told)
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
            self._bases.append(base)
            self._checked.append(0)
            self.pairs.append(Pair(sender, watcher.socket, _from(asking, base)))

    def callers(self, count: int) -> list[Caller]:
        """Return so many of the callers."""
        return self._callers[:count]

    def settle(self) -> None:
        """Check what was delivered, and acknowledge what nobody watches.

        Raises:
            LoadError: a watcher did not receive each message once and in order, so that what
                was measured is nothing.
        """
        for number, pair in enumerate(self.pairs):
            checked, self._checked[number] = self._checked[number], pair.seen
            self._check(pair, self._bases[number] + checked, pair.seen - checked)
        self._accounts.acknowledge(self._unwatched)

    def lengths(self) -> Lengths:
        """Deliver a message to the first watcher, and return how many bytes that took.

        Raises:
            LoadError: it was not delivered.
        """
        pair = self.pairs[0]
        asked = b"" if pair.ask is None else pair.ask(pair.seen)
        delivery_latency([pair], 0)
        sent, answered = len(pair.sender.frames[0]), pair.sender.reply_bytes
        return Lengths(sent, answered, len(asked), len(pair.received[-1]))

    def explain(self, refused: Refused) -> Exception:
        """Return the error that a refusal under load is."""
        reply = decoded(self.transport, refused.reply)
        return RequestError.from_reply(reply) if isinstance(reply, ErrorReply) else refused

    def logged_in(self, member: Member) -> Wire:
        """Return a connection that has resumed a member's session."""
        wire = Wire(self.target.endpoint, self.transport)
        self._wires.append(wire)
        wire.ask(Resume(session=member.token), SessionReply)
        return wire

    def close(self) -> None:
        """Close every connection; others can be opened then."""
        for wire in self._wires:
            wire.close()
        for connections in (self._wires, self._callers, self.pairs, self._bases, self._checked):
            connections.clear()

    def _check(self, pair: Pair, base: int, seen: int) -> None:
        codec = self.transport.client_codec(MAX_REPLY_BYTES)
        for received in pair.received:
            codec.send(1, Watch(after=0))
            codec.receive_data(received)
        codec.data_to_send()
        found: list[tuple[int, str, str]] = []
        while (event := codec.next_event()) is not None:
            messages = expect(event.reply, WatchReply).messages
            found += [(message.seq, message.sender, message.body) for message in messages]
        seqs = range(base + 1, base + seen + 1)
        if found != [(seq, self._sender.name, BODY) for seq in seqs]:
            raise LoadError("a watcher did not receive each message once and in order")
        pair.received.clear()

    def _send_frame(self, to: Member) -> bytes:
        return encoded(self.transport, Send(to=to.name, body=BODY))

    def _caller(self, to: Sequence[Member]) -> Caller:
        """Connect a sender that sends to these in turn."""
        wire = self.logged_in(self._sender)
        if self._good is None:
            self._good = self._learn(wire, to[0])
        length, start = self._good
        return Caller(wire.socket, [self._send_frame(member) for member in to], length, start)

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


class FloorSubject:
    """The floor, with frames that are as long as those of JSON lines.

    Attributes:
        target: its process.
        pairs: the pairs that `open` made.
    """

    _numbers = itertools.count()  # a relay that was used has a thread that may wait in it

    def __init__(self, target: ServerProcess) -> None:
        """Prepare; nothing is connected yet."""
        spoken = JsonlTransport()
        self.target = target
        self.pairs: list[Pair] = []
        self._frame = encoded(spoken, Send(to=_TYPICAL_NAME, body=BODY))
        watch = Watch(after=_TYPICAL_SEQ, ack=_TYPICAL_SEQ, wait=MAX_WAIT_SECONDS)
        self._request = encoded(spoken, watch)
        self._callers: list[Caller] = []
        self._sockets: list[socket.socket] = []

    def open(self, callers: int, pairs: int) -> None:
        """Connect so many callers and pairs.

        Raises:
            LoadError: the floor is not there.
        """
        for _ in range(callers):
            echo = self._connected(b"E")
            self._callers.append(Caller(echo, [self._frame], len(self._frame), self._frame[:1]))
        for _ in range(pairs):
            number = b"%d" % next(self._numbers)
            sender = self._connected(b"S" + number)
            watcher = self._connected(b"W" + number)
            caller = Caller(sender, [self._frame], len(REPLY), REPLY[:1])
            self.pairs.append(Pair(caller, watcher, lambda _: self._request))

    def callers(self, count: int) -> list[Caller]:
        """Return so many of the callers."""
        return self._callers[:count]

    def settle(self) -> None:
        """Check that every message was relayed.

        Raises:
            LoadError: one was not.
        """
        for pair in self.pairs:
            if any(received != self._frame for received in pair.received):
                raise LoadError("the floor did not relay each message once")
            pair.received.clear()

    def explain(self, refused: Refused) -> Exception:
        """Return the refusal as it is, for the floor has no errors."""
        return refused

    def close(self) -> None:
        """Close every connection; others can be opened then."""
        for connected in self._sockets:
            connected.close()
        for connections in (self._sockets, self._callers, self.pairs):
            connections.clear()

    def _connected(self, hello: bytes) -> socket.socket:
        padded = hello.ljust(HELLO_BYTES)
        try:
            connected = self.target.endpoint.connect(Deadline.after(PATIENCE_SECONDS))
            self._sockets.append(connected)
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
