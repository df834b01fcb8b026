"""Mail for an open stream races with the peer's next request, over TLS: 20,000 times."""

import random
import threading
from typing import Any

import pytest
from listening import mail, serving
from services import PASSWORD, enter
from waiting import Call

pytest.importorskip("cryptography")
from sealing import TlsSpeaker, trusting

from twinline.core.protocol import CreateAccount, Done, Ping, SessionReply, Watch, WatchReply
from twinline.transports.contract import ReplyReceived

pytestmark = [pytest.mark.usefixtures("each_listener"), pytest.mark.timeout(300)]

ROUNDS = 20_000


def test_mail_that_races_with_the_peers_next_request_comes_once_and_in_order(
    certificates: Any,
) -> None:
    """Both begin at one moment, in two threads; and the request's records come in any pieces.

    A request is a renewal, which may be cut off the stream by the mail or the other way round, or
    a ping before it, which ends the stream at once and leaves a moment without any.
    """
    server_files = certificates.server
    files = {"tls_certificate": str(server_files.certificate), "tls_key": str(server_files.key)}
    chance = random.Random(16)
    begin = threading.Semaphore(0)
    ended = threading.Event()
    with (
        serving((("tls://127.0.0.1:0", "auto"),), **files) as server,
        TlsSpeaker(server.endpoints[0], trusting(certificates), "jsonl") as peer,
    ):
        assert isinstance(peer.ask(CreateAccount(username="bob", password=PASSWORD)), SessionReply)
        ann = enter(server.service, "ann")

        def write() -> None:
            for number in range(ROUNDS):
                assert begin.acquire(timeout=60)
                if ended.is_set():
                    return
                mail(server, ann, f"{number}")

        writing = Call(write)
        newest = 1
        peer.send(newest, Watch(after=0, window=16, wait=60))
        answered = 0
        by_new = 0  # messages that came by the watch that raced with them
        try:
            for number in range(1, ROUNDS + 1):
                requests, pings = [], set()
                if chance.random() < 0.2:
                    newest += 1
                    pings.add(newest)
                    requests.append((newest, Ping()))
                newest += 1
                seen = number - 1
                renewal = Watch(after=seen, ack=seen, window=16, wait=60, renew=True)
                requests.append((newest, renewal))
                sealed = peer.put(*requests)
                place = chance.randrange(len(sealed)) if chance.random() < 0.3 else 0
                first = chance.random() < 0.3
                if first:
                    begin.release()
                if place:
                    peer.socket.sendall(sealed[:place])
                if not first:
                    begin.release()
                peer.socket.sendall(sealed[place:])
                brought = None
                while brought is None or pings:
                    received = peer.read()
                    assert received is not None, "the connection ended"
                    assert answered <= received.id <= newest
                    answered = received.id
                    if received.id in pings:
                        assert received.reply == Done()
                        pings.discard(received.id)
                        continue
                    reply = received.reply
                    assert isinstance(reply, WatchReply), reply
                    for message in reply.messages:
                        assert brought is None, "two messages"
                        brought = received.id
                        assert (message.seq, message.body) == (number, f"{number - 1}")
                by_new += brought == newest
        finally:
            ended.set()
            begin.release()
        writing.outcome(60)
        last = peer.send(newest + 1, Ping())
        while (received := last.read()) is not None and received.id <= newest:
            assert isinstance(received.reply, WatchReply)
            assert received.reply.messages == ()
        assert received == ReplyReceived(newest + 1, Done())
    # It was a race: each has won often enough.
    assert ROUNDS // 1000 < by_new < ROUNDS - ROUNDS // 1000, by_new
