"""A conversation over TLS, without a connection: its clocks, and its ends."""

import ssl
from pathlib import Path
from typing import Any

import pytest
from services import PASSWORD, enter, make_service
from streams import pieces

pytest.importorskip("cryptography")
from sealing import ALERT, HANDSHAKE, SPOKEN, Forger, Pair, records, server_tls, trusting

from twinline.core.protocol import Login
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.settings import InForce
from twinline.transports.registry import transport
from twinline.transports.tls import ServerTls

SETTINGS = ListenerSettings(login_seconds=10, frame_seconds=10)
PING = b'{"op":"ping","id":9}\n'
PONG = b'{"id":9,"ok":true}\n'
WATCH = b'{"op":"watch","id":5,"after":0,"wait":30,"window":10}\n'
RENEWAL = b'{"op":"watch","id":6,"after":0,"wait":30,"window":10,"renew":true}\n'
CUT_OFF = "the TLS connection was cut off in the middle of a frame"


@pytest.fixture(scope="module")
def tls(certificates: Any) -> ServerTls:
    """Return what makes the server's layers."""
    return server_tls(certificates)


class Sealed:
    """A conversation over TLS, its peer's layer, and a clock that is moved by hand.

    Attributes:
        now: the clock, in seconds.
        service: with ann and bob; the peer is bob, once he has logged in.
        pair: the two layers.
        talk: the conversation.
    """

    def __init__(
        self, tls: ServerTls, certificates: Any, context: ssl.SSLContext | None = None
    ) -> None:
        self.now = 0.0
        self.service = make_service()
        self.ann = enter(self.service, "ann")
        enter(self.service, "bob")
        self.pair = Pair(tls, context or trusting(certificates))
        self.talk = Conversation(
            transport("jsonl").server_codec(1 << 16),
            self.service,
            InForce(SETTINGS),
            address="127.0.0.1",
            on_mail=lambda: None,
            on_end=lambda: None,
            clock=lambda: self.now,
            layer=self.pair.server,
        )

    def log_in(self) -> "Sealed":
        """Shake hands, and log in."""
        data = self.pair.begin()
        while data:
            assert self.pair.client.receive_data(self.feed(data)) == b""
            data = self.pair.take_up()
        assert self.talk.fault is None
        codec = transport("jsonl").client_codec(1 << 16)
        codec.send(1, Login(username="bob", password=PASSWORD))
        assert b'"ok":true' in self.ask(codec.data_to_send())
        assert self.talk.deadline is None
        return self

    def ask(self, data: bytes) -> bytes:
        """Say something to it, and return what it says."""
        return self.pair.client.receive_data(self.feed(self.pair.take_up(data)))

    def feed(self, data: bytes) -> bytes:
        """Have bytes arrive, and return what is sent."""
        self.talk.receive_data(data)
        return self.go_on()

    def go_on(self) -> bytes:
        """Carry out what there is, until it waits or has ended, and return what is sent."""
        talk, sent = self.talk, b""
        for _ in range(1_000):
            job = talk.next_job()
            if job is not None:
                talk.finish(self.service.handle(talk.session, job))
            elif talk.urgent:
                sent += talk.data_to_send()
            elif talk.ended:
                return sent if talk.cut else sent + talk.data_to_send()
            elif talk.waits:
                return sent
        raise AssertionError("there is nothing to do, to send or to wait for, and no end")

    def wait(self, seconds: float) -> bytes:
        """Let time pass, and tell it if it wanted to know."""
        self.now += seconds
        if self.talk.deadline is not None and self.talk.deadline <= self.now:
            self.talk.time_is_up()
        return self.go_on()


@pytest.fixture
def sealed(tls: ServerTls, certificates: Any) -> Sealed:
    """Return a conversation whose handshake has not begun."""
    return Sealed(tls, certificates)


# -- clocks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [1, 4, 5, 6, 40])
def test_a_record_that_comes_a_byte_every_9_seconds_is_cut_after_10(
    sealed: Sealed, begun: int
) -> None:
    """Its clock runs from the first byte of its header, and nothing of it is said to be wrong."""
    sealed.log_in().wait(1_000)
    record = sealed.pair.take_up(PING)
    assert sealed.feed(record[:begun]) == b""
    assert sealed.talk.deadline == sealed.now + 10
    assert sealed.wait(9) == b""
    assert sealed.feed(record[begun : begun + 1]) == b""
    assert sealed.talk.deadline == sealed.now + 1
    assert sealed.wait(0.9) == b""
    assert not sealed.talk.ended
    assert sealed.wait(0.1) == b""
    assert (sealed.talk.ended, sealed.talk.cut) == (True, True)
    assert sealed.talk.fault == "took too long to finish a frame"


def test_a_frame_that_comes_in_a_record_every_9_seconds_is_cut_after_10(sealed: Sealed) -> None:
    sealed.log_in().wait(1_000)
    began = sealed.now
    for byte in (PING[:1], PING[1:2]):
        assert sealed.ask(byte) == b""
        assert sealed.talk.deadline == began + 10
        sealed.wait(9)
    assert sealed.talk.cut


def test_a_record_that_is_whole_in_time_stops_its_clock(sealed: Sealed) -> None:
    sealed.log_in()
    for _ in range(3):
        record = sealed.pair.take_up(PING)
        sealed.feed(record[:-1])
        assert sealed.wait(9.9) == b""
        assert sealed.pair.client.receive_data(sealed.feed(record[-1:])) == PONG
        assert sealed.talk.deadline is None


@pytest.mark.parametrize("every", [1, 9])
def test_a_handshake_that_comes_byte_by_byte_is_cut_when_the_time_to_log_in_is_over(
    sealed: Sealed, every: int
) -> None:
    for byte in pieces(sealed.pair.begin(), 1):
        assert sealed.feed(byte) == b""
        assert sealed.talk.deadline == 10
        assert sealed.wait(every) == b""
        if sealed.talk.ended:
            break
    assert sealed.talk.cut
    assert sealed.now == 10 if every == 1 else sealed.now == 18
    assert sealed.talk.fault in ("took too long to log in", "took too long to finish a frame")


def test_a_peer_that_shakes_hands_and_says_nothing_is_cut_when_that_time_is_over(
    sealed: Sealed,
) -> None:
    answer = sealed.feed(sealed.pair.begin())
    sealed.wait(6)
    sealed.pair.client.receive_data(answer)
    assert sealed.feed(sealed.pair.take_up()) == b""
    assert sealed.pair.server.established
    sealed.wait(4)
    assert sealed.talk.cut
    assert sealed.talk.fault == "took too long to log in"


# -- ends -----------------------------------------------------------------------------------


def test_the_peers_end_ends_an_open_stream_and_both_have_said_so(
    tls: ServerTls, certificates: Any, tmp_path: Path
) -> None:
    """The peer, which has ended its side alone, reads what is left to be said."""
    context = trusting(certificates, "1.3")
    context.keylog_filename = str(tmp_path / "keys")
    sealed = Sealed(tls, certificates, context).log_in()
    sealed.ask(WATCH)
    forger = Forger(tmp_path / "keys", sent=2)
    sent = sealed.feed(forger.record(SPOKEN, PING) + forger.record(ALERT, bytes([1, 0])))
    assert sealed.talk.ended
    assert sealed.talk.fault is None
    last = b'{"id":5,"ok":true,"messages":[],"position":0,"seen":0}\n'
    assert sealed.pair.client.receive_data(sent) == last + PONG
    assert sealed.pair.client.ended


@pytest.mark.parametrize(
    ("left", "fault"),
    [("nothing", None), ("half a record", CUT_OFF), ("half a frame", CUT_OFF)],
)
def test_a_cut_is_a_fault_where_it_takes_something_away(
    sealed: Sealed, left: str, fault: str | None
) -> None:
    """Even so, what arrived whole before is answered, and the end is said as TLS does."""
    sealed.log_in()
    if left == "half a record":
        sealed.feed(sealed.pair.take_up(PING)[:-1])
    elif left == "half a frame":
        sealed.ask(PING[:-1])
    sealed.talk.receive_eof()
    sent = sealed.go_on()
    assert (sealed.talk.ended, sealed.talk.cut) == (True, False)
    assert sealed.talk.fault == fault
    assert sealed.pair.client.receive_data(sent) == b""
    assert sealed.pair.client.ended


def test_a_forged_record_ends_it_with_an_alert_whatever_was_to_be_said(sealed: Sealed) -> None:
    """What is left to be said, here the end of a stream, is not said to whoever forged it."""
    sealed.log_in().ask(WATCH)
    assert sealed.ask(RENEWAL) == b""  # the last reply of the watch before waits for the next one
    record = bytearray(sealed.pair.take_up(PING))
    record[-1] ^= 1
    sent = sealed.feed(bytes(record))
    assert len(records(sent)) == 1
    assert sealed.talk.ended
    assert sealed.talk.fault == "TLS failed: decryption failed or bad record mac"
    assert sealed.feed(bytes(record)) == b""


@pytest.mark.parametrize("arrived", ["nothing", "half a hello", "a hello"])
@pytest.mark.parametrize("end", ["drain", "end_session"])
def test_an_end_in_the_middle_of_a_handshake_is_said_by_closing_alone(
    sealed: Sealed, end: str, arrived: str
) -> None:
    hello = sealed.pair.begin()
    sent = sealed.feed({"nothing": b"", "half a hello": hello[:80], "a hello": hello}[arrived])
    getattr(sealed.talk, end)()
    sealed.talk.receive_eof()
    sent += sealed.go_on()
    assert sealed.talk.ended
    assert {record.kind for record in records(sent)} <= {20, HANDSHAKE, SPOKEN}
    assert bool(sent) is (arrived == "a hello")
    assert b"shutting_down" not in sent
    assert sealed.talk.data_to_send() == b""


def test_clear_text_is_told_so_by_an_alert_and_by_nothing_else(sealed: Sealed) -> None:
    sent = sealed.feed(PING)
    assert {record.kind for record in records(sent)} <= {ALERT}
    assert sealed.talk.ended
    assert sealed.talk.fault == "the client does not speak TLS"
