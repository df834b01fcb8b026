"""What `twinline bench` loads: a server in one of its transports, and the floor, in one shape."""

import itertools
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
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
from twinline.cli.bench.watchers import AskingWatcher, MailboxWatcher
from twinline.cli.bench.wire import (
    BODY,
    WINDOW,
    Encoder,
    Wire,
    cut,
    decoded,
    encoded,
    expect,
    opened,
)
from twinline.core.deadline import Deadline
from twinline.core.errors import RequestError
from twinline.core.protocol import (
    MAX_WAIT_SECONDS,
    Ack,
    Done,
    ErrorReply,
    Ping,
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
from twinline.transports.contract import RemoteProtocolError, Transport
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.registry import connecting_transport
from twinline.transports.websocket import WebSocketTransport

_TYPICAL_NAME: Final = "bench-01234567-89"
_TYPICAL_SEQ: Final = 1000
_TYPICAL_ID: Final = "bench-id12345678"
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
        self._lone: Caller | None = None
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

    def lone(self) -> Caller:
        """Return a connection of its own for what asks the least there is to ask.

        Raises:
            RequestError: the server refused it.
            LoadError: it does not answer, or ended a connection.
        """
        if self._lone is None:
            self._lone = self._open_lone()
        return self._lone

    @abstractmethod
    def _open_lone(self) -> Caller: ...

    def explain(self, refused: Refused) -> Exception:
        """Return the error that a refusal under load is."""
        return refused

    def close(self) -> None:
        """Close every connection; others can be opened then."""
        for connected in self._connections:
            connected.close()
        for made in (self._connections, self._callers, self.pairs):
            made.clear()
        self._lone = None


class ServerSubject(Subject):
    """A server in one transport, with accounts of its own.

    Callers send to accounts that have no watcher, and pairs have recipients of their own: else a
    watcher would get what it was not meant to count.

    Every send has a ``send_id`` of its own, as `twinline.transports.client.Client` gives it one.

    Attributes:
        transport: that is spoken, which is a WebSocket's at such an endpoint.
        streams: whether watchers watch by a stream; `watch` says so.
        receiver: an account that nothing else of the subject sends to or watches.
    """

    receiver: Member

    def __init__(
        self,
        target: ServerProcess,
        transport: Transport,
        accounts: Accounts,
        *,
        streams: bool = True,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            target: the server.
            transport: to speak.
            accounts: where to make accounts; they can be shared.
            streams: whether watchers watch by a stream, at first.
        """
        super().__init__(target)
        self.transport = connecting_transport(target.endpoint, transport)
        self._places = itertools.cycle(
            [(each, connecting_transport(each, transport)) for each in target.endpoints]
        )
        self.streams = streams
        self._accounts = accounts
        self._sender: Member
        self._unwatched: list[Member] = []
        self._watched: list[Member] = []
        self._good: tuple[int, bytes] | None = None  # the length and the beginning of a reply
        self._checks: list[_Check] = []  # of each pair
        self._send_prefix = secrets.token_urlsafe(6)
        self._sends = itertools.count()

    def make_accounts(self, unwatched: int, watched: int, on_done: OnDone = ignore) -> None:
        """Make the sender, those that callers send to, and those that have watchers.

        Raises:
            RequestError: the server refused one.
            LoadError: it does not answer, or ended a connection.
        """
        sender, receiver, *made = self._accounts.make(2 + unwatched + watched, on_done)
        self.take_accounts(sender, made[:unwatched], made[unwatched:])
        self.receiver = receiver

    def take_accounts(
        self, sender: Member, unwatched: Sequence[Member], watched: Sequence[Member] = ()
    ) -> None:
        """Take accounts that are there already: as `make_accounts` makes them, but no receiver."""
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
            self._callers.append(self._caller(self._recipients(number)))
        encode = _watching(self.transport, wait)
        for member in self._watched[:pairs]:
            sender = self._caller([member])
            wire = self.logged_in(member)
            base = _caught_up(wire)
            watcher = MailboxWatcher(wire.socket, _from(encode, base), streams=self.streams)
            self._checks.append(_Check(watcher, self.transport, base))
            self.pairs.append(Pair(sender, watcher))

    def watch(self, *, streams: bool) -> None:
        """Say whether watchers watch by a stream from the next load on."""
        self.streams = streams
        for check in self._checks:
            check.watcher.streams = streams

    def without_send_ids(self, count: int) -> list[Caller]:
        """Return so many of the callers, with frames that have no ``send_id``."""
        return [
            replace(caller, frames=itertools.cycle(self._frames(self._recipients(number))))
            for number, caller in enumerate(self._callers[:count])
        ]

    def empty_receiver(self) -> None:
        """Acknowledge what the receiver has."""
        self._accounts.acknowledge([self.receiver])

    def filling(self, count: int) -> list[Caller]:
        """Return so many of the callers, with frames that are for the receiver."""
        return [
            replace(caller, frames=self._numbered([self.receiver]))
            for caller in self._callers[:count]
        ]

    def settle(self) -> None:
        """Check what was delivered, and acknowledge the mail that has no watcher."""
        for check in self._checks:
            check.settle(self._sender.name)
        self._accounts.acknowledge(self._unwatched)

    def lengths(self) -> dict[Figure, int]:
        """Deliver messages to the first watcher, and return how many bytes each step takes.

        Raises:
            LoadError: they were not delivered.
        """
        pair, watcher = self.pairs[0], self._checks[0].watcher
        delivery_latency([pair], 0)
        before = len(watcher.received)
        delivery_latency([pair], 0)
        return {
            SEND_REQUEST: len(next(pair.sender.frames)),
            SEND_REPLY: pair.sender.reply_bytes,
            WATCH_REQUEST: watcher.asked_bytes,
            WATCH_REPLY: sum(map(len, watcher.received[before:])),
        }

    def explain(self, refused: Refused) -> Exception:
        """Return the error that a refusal under load is."""
        reply = decoded(self.transport, refused.reply)
        return RequestError.from_reply(reply) if isinstance(reply, ErrorReply) else refused

    def logged_in(self, member: Member) -> Wire:
        """Return a connection that has resumed a member's session, at the servers in turn."""
        wire = Wire(*next(self._places), self.target.tls)
        self._connections.append(wire)
        wire.ask(Resume(session=member.token), SessionReply)
        return wire

    def close(self) -> None:
        """Close every connection; others can be opened then."""
        super().close()
        self._checks.clear()

    def _open_lone(self) -> Caller:
        wire = self.logged_in(self._sender)
        frame = encoded(self.transport, Ping())
        pong, reply = wire.answer(wire.frame(Ping()))
        expect(reply, Done)
        return Caller(wire.socket, itertools.repeat(frame), len(pong), pong)

    def _recipients(self, number: int) -> list[Member]:
        """Return whom a caller sends to: each begins with another one than the callers beside."""
        first = number % len(self._unwatched)
        return self._unwatched[first:] + self._unwatched[:first]

    def _caller(self, to: Sequence[Member]) -> Caller:
        """Connect a sender that sends to these in turn."""
        wire = self.logged_in(self._sender)
        if self._good is None:
            self._good = self._learn(wire, to[0])
        return Caller(wire.socket, self._numbered(to), *self._good)

    def _frames(self, to: Sequence[Member], send_id: str | None = None) -> list[bytes]:
        encode = Encoder(self.transport)
        return [encode(Send(to=member.name, body=BODY, send_id=send_id)) for member in to]

    def _numbered(self, to: Sequence[Member]) -> Iterator[bytes]:
        """Return sends to these in turn, each with a send_id that no other has."""
        number = secrets.token_hex(4)  # where one goes; nothing else in a frame reads like it
        frames = self._frames(to, self._send_prefix + number)
        if isinstance(self.transport, WebSocketTransport):
            return _with_masked_numbers([cut(frame, number) for frame in frames], self._sends)
        parts = [frame.partition(number.encode()) for frame in frames]
        return _with_numbers([(head, tail) for head, _, tail in parts], self._sends)

    def _learn(self, wire: Wire, to: Member) -> tuple[int, bytes]:
        """Return how long a good reply to a send is, and with what only good ones begin."""
        good, reply = wire.answer(wire.frame(Send(to=to.name, body=BODY)))
        expect(reply, SentReply)
        bad, reply = wire.answer(wire.frame(Send(to=to.name, body="", send_id="")))
        same = len(_shared(good, bad))
        if not isinstance(reply, ErrorReply) or same >= min(len(good), len(bad)):
            raise LoadError("good replies cannot be told from refusals")
        return len(good), good[: same + 1]


class _Check:
    """What one watcher received, read when the time is up.

    Attributes:
        watcher: that received it.
    """

    def __init__(self, watcher: MailboxWatcher, transport: Transport, base: int) -> None:
        self.watcher = watcher
        self._codec = opened(transport)
        self._last = base  # seq that was checked

    def settle(self, sender: str) -> None:
        """Return if each message came once and in order.

        Raises:
            LoadError: it did not.
        """
        watcher, codec = self.watcher, self._codec
        for _ in range(watcher.asked):
            codec.send(1, Watch(after=0))
        codec.data_to_send()
        codec.receive_data(b"".join(watcher.received))
        found: list[tuple[int, str, str]] = []
        try:
            while (event := codec.next_event()) is not None:
                messages = expect(event.reply, WatchReply).messages
                found += [(message.seq, message.sender, message.body) for message in messages]
        except RemoteProtocolError as error:
            raise LoadError(f"a watcher received what it had not asked for: {error}") from error
        if found != [(self._last + 1 + at, sender, BODY) for at in range(watcher.unchecked)]:
            raise LoadError("a watcher did not receive each message once and in order")
        self._last += len(found)
        watcher.checked()


class FloorSubject(Subject):
    """The floor, with frames that are as long as those of JSON lines.

    Attributes:
        direct: whether the thread of a sender writes to the watcher itself.
    """

    _numbers = itertools.count()  # a relay that was used has a thread that may wait in it

    def __init__(self, target: ServerProcess, *, direct: bool = False) -> None:
        """Prepare; nothing is connected yet.

        Args:
            target: the floor.
            direct: whether the thread of a sender writes to the watcher itself.
        """
        super().__init__(target)
        spoken = JsonlTransport()
        self.direct = direct
        self._kinds = (b"R", b"D") if direct else (b"W", b"S")
        self._frame = encoded(spoken, Send(to=_TYPICAL_NAME, body=BODY, send_id=_TYPICAL_ID))
        watch = Watch(
            after=_TYPICAL_SEQ,
            ack=_TYPICAL_SEQ,
            wait=MAX_WAIT_SECONDS,
            window=WINDOW,
            renew=True,
        )
        self._request = encoded(spoken, watch)

    def open(self, callers: int, pairs: int) -> None:
        """Connect so many callers and pairs."""
        for _ in range(callers):
            self._callers.append(self._open_lone())
        watching, sending = self._kinds
        for _ in range(pairs):
            number = b"%d" % next(self._numbers)
            watcher = AskingWatcher(self._connected(watching + number), self._request)
            sender = self._connected(sending + number)
            caller = Caller(sender, itertools.repeat(self._frame), len(REPLY), REPLY[:1])
            self.pairs.append(Pair(caller, watcher))

    def settle(self) -> None:
        """Check that every message was relayed."""
        for pair in self.pairs:
            watcher = pair.watcher
            if any(received != self._frame for received in watcher.received):
                raise LoadError("the floor did not relay each message once")
            watcher.checked()

    def _open_lone(self) -> Caller:
        echo = self._connected(b"E")
        return Caller(echo, itertools.repeat(self._frame), len(self._frame), self._frame[:1])

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


def _watching(transport: Transport, wait: int) -> Callable[[int, bool], bytes]:
    """Return what makes a watch's bytes by the last seq; watchers that keep step share them."""
    made = Encoder(transport)

    @lru_cache(maxsize=_SHARED_FRAMES)
    def encode(last: int, streams: bool) -> bytes:
        how = {"window": WINDOW, "renew": True} if streams else {}
        return made(Watch(after=last, ack=last, wait=wait, **how))

    return encode


def _from(encode: Callable[[int, bool], bytes], base: int) -> Callable[[int, bool], bytes]:
    return lambda seen, streams: encode(base + seen, streams)


def _shared(one: bytes, other: bytes) -> bytes:
    """Return what both begin with."""
    equal = itertools.takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False))
    return one[: len(list(equal))]


def _with_numbers(parts: Sequence[tuple[bytes, bytes]], numbers: Iterator[int]) -> Iterator[bytes]:
    for head, tail in itertools.cycle(parts):
        yield b"%b%08x%b" % (head, next(numbers), tail)


def _with_masked_numbers(
    parts: Sequence[tuple[bytes, int, bytes]], numbers: Iterator[int]
) -> Iterator[bytes]:
    for head, mask, tail in itertools.cycle(parts):
        number = int.from_bytes(b"%08x" % next(numbers)) ^ mask
        yield head + number.to_bytes(8) + tail
