"""What an idle user holds: two connections, one of them with an open stream."""

import gc
import tracemalloc
from collections.abc import Callable
from sys import getsizeof
from time import monotonic

import pytest
from conversing import LIMIT
from services import PASSWORD, make_service

from twinline.core.protocol import (
    CreateAccount,
    ErrorReply,
    Ping,
    Reply,
    Request,
    Resume,
    Send,
    SessionReply,
    Watch,
    WatchReply,
)
from twinline.core.service import ChatService
from twinline.transports.contract import BufferedCodec, Transport
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.settings import InForce
from twinline.transports.registry import transport

USERS = 200
USER_BYTES = 4_864
"""The account, its session and subscriptions, both conversations and their codecs take 4.5 kB: a
set more for each connection is too much."""
PIECE_BYTES = 1_000
LARGE_BYTES = 60_000
SETTINGS = ListenerSettings()
SERVED = transport("auto")
STREAM = Watch(after=0, window=256, wait=60)
PINGS = [Ping()] * 500


class IdleConnection:
    """A conversation as its driver holds it."""

    __slots__ = ("service", "talk")

    def __init__(self, service: ChatService) -> None:
        self.service = service
        codec = SERVED.server_codec(service.settings.frame_bytes_before_login)
        self.talk = Conversation(
            codec,
            service,
            InForce(SETTINGS),
            address="127.0.0.1",
            on_mail=self.nothing,
            on_end=self.nothing,
            clock=monotonic,
        )

    def nothing(self) -> None:
        """Be woken."""

    def receive(self, data: bytes) -> bytes:
        """Take in bytes in pieces, as a network may bring them, and return the replies."""
        talk, replies = self.talk, []
        for start in range(0, len(data), PIECE_BYTES):
            talk.receive_data(data[start : start + PIECE_BYTES])
            while (job := talk.next_job()) is not None or not talk.waits:
                if job is not None:
                    talk.finish(self.service.handle(talk.session, job))
                else:
                    replies.append(talk.data_to_send())
        return b"".join([*replies, talk.data_to_send()])


class Peer:
    """The other end, which a server does not hold."""

    def __init__(self, connection: IdleConnection, spoken: Transport) -> None:
        self.connection = connection
        self._codec = spoken.client_codec(LIMIT)
        self._number = 0

    def ask(self, *requests: Request) -> list[Reply]:
        """Send requests, and return the replies that come."""
        for request in requests:
            self._number += 1
            self._codec.send(self._number, request)
        self._codec.receive_data(self.connection.receive(self._codec.data_to_send()))
        replies = []
        while (event := self._codec.next_event()) is not None:
            replies.append(event.reply)
        return replies


def arrive(service: ChatService, spoken: Transport, number: int) -> tuple[Peer, Peer]:
    """Return the peers of a new user's two connections, which lead to these."""
    commands, watch = (Peer(IdleConnection(service), spoken) for _ in range(2))
    [entered] = commands.ask(CreateAccount(username=f"user{number}", password=PASSWORD))
    assert isinstance(entered, SessionReply)
    [resumed] = watch.ask(Resume(session=entered.session))
    assert isinstance(resumed, SessionReply)
    assert watch.ask(STREAM) == []
    return commands, watch


def held(service: ChatService, spoken: Transport, count: int) -> list[IdleConnection]:
    """Return the connections of so many new users; their peers are not in this process."""
    peers = [peer for number in range(count) for peer in arrive(service, spoken, number)]
    return [peer.connection for peer in peers]


def traced(what: Callable[[], object]) -> int:
    """Return by how many bytes what is held has grown when this was done."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = what()
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
        del kept
    finally:
        tracemalloc.stop()
    return grown


@pytest.mark.parametrize("name", ["jsonl", "binary"])
def test_an_idle_user_holds_what_the_conversations_need(name: str) -> None:
    service, spoken = make_service(), transport(name)
    held(make_service(), spoken, USERS)  # for what is made once, such as caches
    assert traced(lambda: held(service, spoken, USERS)) / USERS < USER_BYTES


@pytest.mark.parametrize("name", ["jsonl", "binary"])
def test_a_buffer_that_was_large_once_is_not_kept(name: str) -> None:
    commands, watch = arrive(make_service(), transport(name), 0)
    for _ in range(2):
        [refused] = commands.ask(Send(to="user0", body="x" * LARGE_BYTES))
        assert isinstance(refused, ErrorReply)
        assert len(commands.ask(*PINGS)) == len(PINGS)
        last_of_the_stream, *pongs = watch.ask(*PINGS)
        assert last_of_the_stream == WatchReply(messages=(), position=0, seen=0)
        assert len(pongs) == len(PINGS)
        assert watch.ask(STREAM) == []
    for peer in (commands, watch):
        talk = peer.connection.talk
        codec = talk.codec
        assert isinstance(codec, BufferedCodec)
        assert sum(map(getsizeof, (codec._received, codec._out, talk._out))) < 512
