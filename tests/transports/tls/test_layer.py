"""The layer of TLS: what it opens and seals, whatever the bytes are and however they are cut."""

import tracemalloc
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import cut, pieces

pytest.importorskip("cryptography")
from sealing import (
    ALERT,
    HANDSHAKE,
    SPOKEN,
    VERSIONS,
    Forger,
    Pair,
    opened,
    records,
    server_tls,
    trusting,
)

from twinline.transports.tls import ServerTls, TlsError
from twinline.transports.tls.hello import MOST_BYTES

SAID = b'{"op":"send","id":1,"to":"bob","body":"See you at half past seven."}\n'
PLACES = st.lists(st.integers(0, 1 << 16), max_size=6)
each_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def tls(certificates: Any) -> ServerTls:
    """What makes the server's layers."""
    return server_tls(certificates)


@pytest.fixture
def pair(tls: ServerTls, certificates: Any) -> Pair:
    """Two layers that have shaken hands."""
    return Pair(tls, trusting(certificates)).shake_hands()


# -- what is said ---------------------------------------------------------------------------


@each_version
@settings(max_examples=40, deadline=None)
@given(places=st.lists(PLACES, min_size=4, max_size=4), size=st.integers(1, 70_000))
def test_what_is_said_arrives_however_the_bytes_are_cut(
    tls: ServerTls, certificates: Any, version: str, places: list[list[int]], size: int
) -> None:
    """The handshake's too; and where a record ends is known all the way."""
    pair = Pair(tls, trusting(certificates, version))
    sent = pair.begin()
    for up, down in ((places[0], places[1]), (places[2], places[3])):
        assert opened(pair.server, cut(sent, up)) == b""
        assert not pair.server.mid_record
        assert opened(pair.client, cut(pair.take_down(), down)) == b""
        assert not pair.client.mid_record
        sent = pair.take_up()
    # In TLS 1.3 the client's last words of the handshake come with its first request.
    said = Random(size).randbytes(size)
    sent += b"".join(map(pair.take_up, pieces(said, size // 3 + 1)))
    assert opened(pair.server, cut(sent, places[0])) == said
    assert pair.server.established
    assert opened(pair.client, cut(pair.take_down(said), places[1])) == said
    for layer in (pair.server, pair.client):
        assert (layer.mid_record, layer.ended) == (False, False)
    for stream in (pair.up, pair.down):
        assert {record.kind for record in records(stream)} <= {20, HANDSHAKE, SPOKEN}
        assert size < 8 or said[:256] not in stream


@each_version
def test_it_is_known_after_every_byte_whether_a_record_has_begun(
    tls: ServerTls, certificates: Any, version: str
) -> None:
    pair = Pair(tls, trusting(certificates, version)).shake_hands()
    stream = b"".join(pair.take_up(SAID * count) for count in (1, 0, 400, 1))
    ends = set(accumulate(record.size for record in records(stream)))
    assert len(ends) > 3
    for at, byte in enumerate(pieces(stream, 1), 1):
        pair.server.receive_data(byte)
        assert pair.server.mid_record is (at not in ends), at


def test_nothing_is_said_before_the_handshake_is_over(pair: Pair, tls: ServerTls) -> None:
    early = tls.layer()
    assert early.send(SAID) == b""
    assert early.send(SAID, last=True) == b""
    assert early.send(SAID) == b""
    assert not early.established
    # And it is not kept until then.
    assert SAID not in pair.up + pair.down


def test_a_handshake_that_is_given_up_says_no_more(tls: ServerTls, certificates: Any) -> None:
    pair = Pair(tls, trusting(certificates))
    pair.server.receive_data(pair.begin())
    answer = pair.take_down(SAID, last=True)
    assert {record.kind for record in records(answer)} <= {20, HANDSHAKE, SPOKEN}
    pair.client.receive_data(answer)
    assert pair.client.established
    assert pair.server.receive_data(pair.take_up(SAID)) == b""  # which is not looked at
    assert pair.server.send(SAID, last=True) == b""


# -- the end --------------------------------------------------------------------------------


@each_version
@pytest.mark.parametrize("side", ["server", "client"])
def test_an_end_is_said_behind_the_last_words_and_is_the_end(
    tls: ServerTls, certificates: Any, version: str, side: str
) -> None:
    pair = Pair(tls, trusting(certificates, version)).shake_hands()
    ends, other = (pair.client, pair.server) if side == "client" else (pair.server, pair.client)
    sent = ends.send(SAID, last=True)
    assert len(records(sent)) == 2
    assert ends.send(SAID) == ends.send(b"", last=True) == b""
    assert not other.ended
    assert other.receive_data(sent) == SAID
    assert other.ended
    assert not other.mid_record
    # Whose end it was not may say the rest, and its own end.
    rest = other.send(SAID, last=True)
    assert len(records(rest)) == 2
    assert ends.receive_data(rest) == b""


@each_version
def test_no_session_of_tls_1_3_is_kept_to_be_resumed(certificates: Any, version: str) -> None:
    """OpenSSL keeps those of TLS 1.2, and Python has no way to tell it not to."""
    tls = server_tls(certificates)
    pair = Pair(tls, trusting(certificates, version)).shake_hands()
    assert pair.server.receive_data(pair.take_up(SAID, last=True)) == SAID
    pair.take_down(last=True)
    assert tls._context.session_stats()["number"] == (version == "1.2")


def test_what_comes_behind_the_end_is_not_read(forged: tuple[Pair, Forger]) -> None:
    pair, forger = forged
    before, end = forger.record(SPOKEN, SAID), forger.record(ALERT, bytes([1, 0]))
    behind = forger.record(SPOKEN, SAID)
    assert pair.server.receive_data(before + end + behind) == SAID
    assert pair.server.ended
    assert pair.server.receive_data(behind) == b""
    assert pair.server.receive_data(b"no TLS at all") == b""


# -- what is no TLS, or breaks its rules -------------------------------------------------------

NO_TLS = {
    "a request": SAID,
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a proxy's request": b"CONNECT localhost:443 HTTP/1.1\r\n\r\n",
    "a binary frame": bytes.fromhex("b7010f000000000109"),
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "zeros": bytes(64),
    "a record that is too long": bytes([HANDSHAKE, 3, 1, 0xFF, 0xFF]),
    "an alert": bytes([ALERT, 3, 3, 0, 2, 2, 40]),
    "what is said before the handshake": bytes([SPOKEN, 3, 3, 0, 3]) + b"abc",
    "an empty hello": bytes([HANDSHAKE, 3, 1, 0, 4, 1, 0, 0, 0]),
    "SSL 2": bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") * 2,
}


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("name", NO_TLS)
def test_what_is_no_tls_is_refused_with_an_alert_at_the_most(
    tls: ServerTls, name: str, size: int | None
) -> None:
    layer = tls.layer()
    with pytest.raises(TlsError) as refused:
        opened(layer, pieces(NO_TLS[name], size))
    assert str(refused.value).startswith(("TLS failed: ", "the client does not speak TLS"))
    answer = layer.send(SAID, last=True)
    assert [record.kind for record in records(answer)] in ([], [ALERT])
    assert not layer.established


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300), kind=st.sampled_from([None, HANDSHAKE, ALERT, SPOKEN, 20]))
def test_any_bytes_bring_a_documented_error_or_nothing(
    tls: ServerTls, data: bytes, kind: int | None
) -> None:
    if kind is not None:
        data = bytes([kind, 3, 1]) + len(data).to_bytes(2) + data
    layer = tls.layer()
    with suppress(TlsError):
        assert layer.receive_data(data) == b""
    records(layer.send(SAID, last=True))
    assert not layer.established


@each_version
@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, 1 << 16), bit=st.integers(0, 7))
def test_a_changed_bit_is_noticed_and_nothing_of_its_record_is_believed(
    tls: ServerTls, certificates: Any, version: str, place: int, bit: int
) -> None:
    pair = Pair(tls, trusting(certificates, version)).shake_hands()
    sent = bytearray(pair.take_up(SAID))
    place %= len(sent)
    sent[place] ^= 1 << bit
    more = pair.take_up(bytes(1 << 14)) * 2  # where a length was changed, the rest of it
    try:
        assert pair.server.receive_data(bytes(sent)) == b""
        pair.server.receive_data(more)
    except TlsError:
        assert pair.server.send(b"", last=True)  # an alert
    else:
        raise AssertionError("it was not noticed")


def test_a_record_that_comes_twice_or_out_of_turn_is_refused(pair: Pair) -> None:
    first, second = pair.take_up(SAID), pair.take_up(SAID)
    assert pair.server.receive_data(first) == SAID
    with pytest.raises(TlsError, match="bad record mac"):
        pair.server.receive_data(first)
    # It does not recover, and says an alert and no more.
    assert pair.server.receive_data(second) == b""
    assert [record.kind for record in records(pair.take_down(SAID))] == [SPOKEN]
    assert pair.take_down(SAID, last=True) == b""


@each_version
def test_the_alert_of_a_client_that_does_not_trust_arrives(
    tls: ServerTls, certificates: Any, version: str
) -> None:
    """Each side has an error that says which certificate it is about."""
    context = trusting(certificates, version)
    stranger = server_tls(certificates, certificates.unknown)
    pair = Pair(stranger, context)
    pair.server.receive_data(pair.begin())
    with pytest.raises(TlsError, match=r"^the server's certificate is refused: who has signed"):
        opened(pair.client, [pair.take_down()])
    with pytest.raises(TlsError, match=r"^the client refuses .* not trust who has signed it$"):
        pair.server.receive_data(pair.take_up())
    assert not pair.server.established


# -- floods ---------------------------------------------------------------------------------


@pytest.fixture
def forged(tls: ServerTls, certificates: Any, tmp_path: Path) -> tuple[Pair, Forger]:
    """Return two layers that have shaken hands, and what can seal for the client."""
    context = trusting(certificates, "1.3")
    context.keylog_filename = str(tmp_path / "keys")
    return Pair(tls, context).shake_hands(), Forger(tmp_path / "keys")


def test_new_keys_are_given_before_the_next_words(forged: tuple[Pair, Forger]) -> None:
    pair, forger = forged
    for number in range(5):
        said = b"%d" % number
        assert pair.server.receive_data(forger.key_update() + forger.record(SPOKEN, said)) == said
        sent = pair.take_down(said)
        assert len(records(sent)) == 2
        assert pair.client.receive_data(sent) == said


@pytest.mark.parametrize("together", [1, 200])
def test_a_flood_of_new_keys_is_answered_by_less_and_nothing_is_kept_of_it(
    forged: tuple[Pair, Forger], together: int
) -> None:
    pair, forger = forged
    arrived = answered = 0
    tracemalloc.start()
    for _ in range(2_000 // together):
        data = b"".join(forger.key_update() for _ in range(together))
        arrived += len(data)
        assert pair.server.receive_data(data) == b""
        answered += len(pair.take_down())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0 < answered <= arrived
    assert peak < 1 << 20
    assert pair.server.receive_data(forger.record(SPOKEN, SAID)) == SAID


@pytest.mark.parametrize(("kind", "content"), [(SPOKEN, b""), (ALERT, bytes([1, 90]))])
@pytest.mark.parametrize("together", [1, 100])
def test_a_flood_of_records_that_say_nothing_is_ended(
    forged: tuple[Pair, Forger], kind: int, content: bytes, together: int
) -> None:
    """Empty ones, and warnings (``user_canceled``): OpenSSL takes only so many in a row."""
    pair, forger = forged
    stream = [forger.record(kind, content) for _ in range(100)]
    with pytest.raises(TlsError):
        opened(pair.server, pieces(b"".join(stream), together * len(stream[0])))
    assert [record.kind for record in records(pair.take_down(SAID, last=True))] == [SPOKEN]


def hello(length: int, sent: int = 4, *, size: int = 1 << 14) -> bytes:
    """Return the first bytes of a hello that says how long it is, in records of a size."""
    message = (b"\x01" + length.to_bytes(3) + b"\x03\x03" + bytes(sent))[:sent]
    parts = [message[at : at + size] for at in range(0, sent, size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


@pytest.mark.parametrize("size", [None, 1])
@pytest.mark.parametrize("record", [1, 3, 1 << 14])
def test_nothing_is_set_aside_for_a_hello_that_is_far_too_long(
    tls: ServerTls, record: int, size: int | None
) -> None:
    for length in (MOST_BYTES + 1, 131_000):
        layer = tls.layer()
        with pytest.raises(TlsError, match="hello is too long"):
            opened(layer, pieces(hello(length, size=record), size))
        assert layer.receive_data(b"\x16") == b""
        assert layer.send(b"words", last=True) == b""
    layer = tls.layer()
    assert opened(layer, pieces(hello(MOST_BYTES, 9_000, size=max(record, 500)), size)) == b""


def test_a_second_hello_has_the_same_limit(certificates: Any) -> None:
    """One is asked for where the first one brings no key of a kind that both know."""
    tls = server_tls(certificates)
    tls._context.set_ecdh_curve("secp521r1")
    pair = Pair(tls, trusting(certificates, "1.3"))
    assert pair.server.receive_data(pair.begin()) == b""
    assert pair.take_down()[:1] == b"\x16"
    assert not pair.server.established
    with pytest.raises(TlsError, match="hello is too long"):
        pair.server.receive_data(b"\x14\x03\x03\x00\x01\x01" + hello(131_000))


@pytest.mark.parametrize("size", [None, 1, 7])
def test_what_ends_the_handshake_is_taken_for_no_hello(
    tls: ServerTls, certificates: Any, size: int | None
) -> None:
    """A client's last words in TLS 1.2 are encrypted, and one in 256 of them begins as a hello."""
    context = trusting(certificates, "1.2")
    for _ in range(10_000):
        pair = Pair(tls, context)
        pair.server.receive_data(pair.begin())
        pair.client.receive_data(pair.take_down())
        sent = pair.take_up()
        last = records(sent)[-1]
        if last.kind == HANDSHAKE and last.body[0] == 1 and last.body[1]:
            break
    else:
        raise AssertionError("none did")
    assert opened(pair.server, pieces(sent, size)) == b""
    assert pair.server.established


@pytest.mark.parametrize("size", [(1 << 14) + 1, (1 << 14) + 200])
def test_a_record_with_more_in_it_than_there_may_be_is_refused(
    forged: tuple[Pair, Forger], size: int
) -> None:
    pair, forger = forged
    assert pair.server.receive_data(forger.record(SPOKEN, bytes(1 << 14))) == bytes(1 << 14)
    with pytest.raises(TlsError):
        pair.server.receive_data(forger.record(SPOKEN, bytes(size)))
    assert [record.kind for record in records(pair.take_down(SAID, last=True))] == [SPOKEN]
    assert pair.server.ended is False
