"""The connections of `twinline bench`: set up in the words of a transport, then bare sockets."""

import itertools
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self, TypeVar

from twinline.cli.bench_load import PATIENCE_SECONDS, Caller, LoadError, Pair
from twinline.core.deadline import Deadline
from twinline.core.errors import RequestError
from twinline.core.protocol import (
    MAX_REPLY_BYTES,
    MAX_WAIT_SECONDS,
    Ack,
    CreateAccount,
    DeleteAccount,
    ErrorReply,
    Login,
    Reply,
    Request,
    Resume,
    Send,
    SessionReply,
    Status,
    StatusReply,
    Watch,
    WatchReply,
)
from twinline.transports.contract import ClientCodec, Transport
from twinline.transports.endpoints import Endpoint

BODY: Final = "See you at the station at half past seven, platform 4."
_WORKERS: Final = 2 * (os.cpu_count() or 1)
_RECEIVE_BYTES: Final = 1 << 16
_Reply = TypeVar("_Reply", bound=Reply)


def encoded(transport: Transport, request: Request) -> bytes:
    """Return the bytes of a request, as every connection sends them."""
    codec = transport.client_codec(MAX_REPLY_BYTES)
    codec.send(1, request)
    return codec.data_to_send()


class Wire:
    """One connection while it is set up; under load only its socket is used.

    Attributes:
        socket: connected, and with nothing unread between two requests.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        """Connect.

        Raises:
            OSError: nobody listens there.
        """
        self.socket = endpoint.connect(Deadline.after(PATIENCE_SECONDS))
        self.socket.settimeout(PATIENCE_SECONDS)
        self._codec: ClientCodec = transport.client_codec(MAX_REPLY_BYTES)

    def ask(self, request: Request, kind: type[_Reply]) -> _Reply:
        """Return the reply to a request.

        Raises:
            RequestError: the server refused it.
            LoadError: it ended the connection.
        """
        self._codec.send(1, request)
        self.socket.sendall(self._codec.data_to_send())
        return _reply(self._next(), kind)

    def _next(self) -> Reply:
        while (event := self._codec.next_event()) is None:
            data = self.socket.recv(_RECEIVE_BYTES)
            if not data:
                raise LoadError("the server ended a connection")
            self._codec.receive_data(data)
        return event.reply

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()


def _reply(reply: Reply, kind: type[_Reply]) -> _Reply:
    if isinstance(reply, ErrorReply):
        raise RequestError.from_reply(reply)
    if not isinstance(reply, kind):
        raise LoadError(f"the server answered with a {type(reply).__name__}")
    return reply


@dataclass(frozen=True, slots=True)
class Member:
    """An account of the run: its name, and the token of a session that is open for it."""

    name: str
    token: str


class Accounts:
    """The accounts of a run: one that sends, and some that receive.

    Attributes:
        prefix: what their names begin with.
        sender: sends, over as many connections as it takes.
        recipients: those that it sends to.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.prefix = f"bench-{secrets.token_hex(4)}"
        self._endpoint = endpoint
        self._transport = transport
        self._password = secrets.token_urlsafe(12)
        self._numbers = itertools.count()
        self._members: list[Member] = []
        self.sender: Member
        self.recipients: list[Member] = []

    def open(self, recipients: int) -> Self:
        """Make the sender and so many recipients; a hash each, so it takes its time."""
        self.sender, *self.recipients = self.make(recipients + 1)
        return self

    def make(self, count: int, progress: Callable[[int], None] | None = None) -> list[Member]:
        """Make more accounts; ``progress`` is told after each, with 1."""
        made = []
        with ThreadPoolExecutor(_WORKERS) as pool:
            for member in pool.map(lambda _: self._make_one(), range(count)):
                made.append(member)
                self._members.append(member)
                if progress is not None:
                    progress(1)
        return made

    def _make_one(self) -> Member:
        wire = Wire(self._endpoint, self._transport)
        try:
            name = f"{self.prefix}-{next(self._numbers)}"
            request = CreateAccount(username=name, password=self._password)
            return Member(name, wire.ask(request, SessionReply).session)
        finally:
            wire.close()

    def acknowledge(self) -> int:
        """Acknowledge all mail of the recipients, and return how much there was."""
        waited = 0
        for member in self.recipients:
            wire = Wire(self._endpoint, self._transport)
            reply = wire.ask(Resume(session=member.token), SessionReply)
            waited += reply.unread
            if reply.unread:
                wire.ask(Ack(up_to=reply.position + reply.unread), Reply)
            wire.close()
        return waited

    def close(self) -> int:
        """Delete the accounts, and return how many could not be."""
        with ThreadPoolExecutor(_WORKERS) as pool:
            deleted = sum(pool.map(self._delete_one, self._members))
        left = len(self._members) - deleted
        self._members.clear()
        return left

    def _delete_one(self, member: Member) -> bool:
        try:
            wire = Wire(self._endpoint, self._transport)
            try:
                wire.ask(Login(username=member.name, password=self._password), SessionReply)
                wire.ask(DeleteAccount(password=self._password, force=True), Reply)
            finally:
                wire.close()
        except (OSError, RequestError, LoadError):
            return False
        return True


class Dialect:
    """Makes connections to one server in one transport, ready for the load."""

    def __init__(self, endpoint: Endpoint, transport: Transport, accounts: Accounts) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._accounts = accounts
        self._wires: list[Wire] = []

    def callers(self, count: int) -> list[Caller]:
        """Return connections that send, in turn, to every recipient."""
        frames = [self.send_frame(member) for member in self._accounts.recipients]
        callers = []
        for number in range(count):
            wire = self.logged_in(self._accounts.sender)
            first = number % len(frames)
            turned = frames[first:] + frames[:first]
            callers.append(self._caller(wire, turned))
        return callers

    def pairs(self, count: int, *, wait: int = MAX_WAIT_SECONDS) -> list[Pair]:
        """Return a sender's connection and a watcher's one for each of so many recipients."""
        pairs = []
        for member in self._accounts.recipients[:count]:
            wire = self.logged_in(self._accounts.sender)
            watcher = self.logged_in(member)
            sender = self._caller(wire, [self.send_frame(member)])
            base = self._caught_up(watcher)
            pairs.append(Pair(sender, watcher.socket, self._asking(base, wait)))
        return pairs

    def check(self, pair: Pair) -> None:
        """Check that a watcher received every message of its own once and in order.

        Raises:
            LoadError: it did not, so that what was measured is nothing.
        """
        codec = self._transport.client_codec(MAX_REPLY_BYTES)
        for data in pair.received:
            codec.send(1, Watch(after=0))
            codec.receive_data(data)
        codec.data_to_send()
        seqs: list[int] = []
        while (event := codec.next_event()) is not None:
            seqs += [message.seq for message in _reply(event.reply, WatchReply).messages]
        if seqs and seqs != list(range(seqs[0], seqs[0] + len(pair.received))):
            raise LoadError("a watcher did not receive each message once and in order")
        pair.received.clear()

    def send_frame(self, to: Member) -> bytes:
        """Return the bytes that send a message."""
        return encoded(self._transport, Send(to=to.name, body=BODY))

    def logged_in(self, member: Member) -> Wire:
        """Return a connection that has resumed a member's session."""
        wire = Wire(self._endpoint, self._transport)
        self._wires.append(wire)
        wire.ask(Resume(session=member.token), SessionReply)
        return wire

    def close(self) -> None:
        """Close every connection."""
        for wire in self._wires:
            wire.close()
        self._wires.clear()

    def _caller(self, wire: Wire, frames: Sequence[bytes]) -> Caller:
        """Return a connection with what a good reply on it looks like, as bytes."""
        good, error = self._answer(wire, frames[0])
        if isinstance(error, ErrorReply):
            raise RequestError.from_reply(error)
        nobody = Send(to=self._accounts.sender.name, body="", send_id="")
        bad, error = self._answer(wire, encoded(self._transport, nobody))
        same = sum(
            1
            for _ in itertools.takewhile(
                lambda pair: pair[0] == pair[1], zip(good, bad, strict=False)
            )
        )
        if not isinstance(error, ErrorReply) or same == len(good):
            raise LoadError("good replies cannot be told from refusals")
        return Caller(wire.socket, frames, len(good), good[: same + 1])

    def _answer(self, wire: Wire, frame: bytes) -> tuple[bytes, Reply]:
        """Send a frame, and return the reply as it came and as it is."""
        codec = self._transport.client_codec(MAX_REPLY_BYTES)
        codec.send(1, Send(to="", body=""))
        wire.socket.sendall(frame)
        data = b""
        while (event := codec.next_event()) is None:
            received = wire.socket.recv(_RECEIVE_BYTES)
            if not received:
                raise LoadError("the server ended a connection")
            data += received
            codec.receive_data(received)
        return data, event.reply

    def _caught_up(self, watcher: Wire) -> int:
        """Acknowledge what there is, and return the last seq."""
        standing = watcher.ask(Status(), StatusReply)
        last = standing.position + standing.unread
        if standing.unread:
            watcher.ask(Ack(up_to=last), Reply)
        return last

    def _asking(self, base: int, wait: int) -> Callable[[int], bytes]:
        encode = _watch_frames(self._transport, wait)
        return lambda seen: encode(base + seen)


@lru_cache(maxsize=8)
def _watch_frames(transport: Transport, wait: int) -> Callable[[int], bytes]:
    """Return what makes a watch's bytes by the last seq; the watchers of a run share them."""

    @lru_cache(maxsize=4096)
    def encode(last: int) -> bytes:
        return encoded(transport, Watch(after=last, ack=last, wait=wait))

    return encode
