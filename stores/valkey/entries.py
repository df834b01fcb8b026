"""What a mailbox's entries are kept as: written by who sends and who copies, read by who looks.

A message, a copy and a receipt are each an entry of a stream of their kind, with two fields: ``h``
is `header`, and ``b`` the body, which a receipt has not. The header says who the other side is. All
three are in one sorted set as well, which is searched by its members alone. Mail comes into it when
a conversation is asked for, and so a send costs nothing more; the others at once. The members begin
with a letter that tells them apart::

    mPEER, a zero, SEQ             a message; SEQ has 16 digits
    sPEER, a zero, SEQ:SENT_AT     a copy of what was sent
    rPEER, a zero, SEQ:ACKED_AT    a receipt
    cMESSAGE_ID                    that there is a copy of a message

``PEER`` is the other side's account id; of a message that came before senders' ids were kept, it is
a byte of 1 and the sender's name. Another sorted set has every peer of whom there is a message or a
copy in that one, by the seq of the last of these: it is the list of conversations.

What is remembered of send_ids is in one hash, whose fields begin with a letter, too::

    kSENDER_ID, a zero, SEND_ID    N:SENT_AT:LENGTH:MESSAGE_ID and then the body's fingerprint;
                                   LENGTH is that of the MESSAGE_ID, in bytes
    sSENDER_ID                     how many there are of a sender
    fSENDER_ID                     from which seq on they are, where that was looked for
    n                              how many there are
    d                              when it is to be seen next which of them do not count any more
    l                              nothing, or something long, where they are not few

A stream has the fields that begin with ``k``, by seq, for what is to be forgotten first.
"""

from typing import Final, NamedTuple

from twinline.core.protocol import Kind
from twinline.stores.archive import SendIdRow
from twinline.stores.valkey.wire import to_bytes, to_text

COUNT: Final = b"n"
"""The field that counts all send_ids."""


PARTS: Final = "^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%d+)"
"""What the scripts take a header apart by."""
LETTERS: Final = {Kind.MAIL: b"m", Kind.SENT: b"s", Kind.RECEIPT: b"r"}
"""What stands for a kind: in the index, in notices, and as the name of the stream's key."""


class Header(NamedTuple):
    """All of an entry but its seq and body.

    Attributes:
        peer_id: the other side's account id; "" of a message of before that was kept.
        peer: its username.
        at: when it was sent, or acknowledged, in ms.
        message_id: "" of a receipt.
        n: as `twinline.core.store.Accepted` has it.
        sender: of a copy, the username of the account itself; else "".
    """

    peer_id: str
    peer: str
    at: int
    message_id: str
    n: int
    sender: str = ""

    @property
    def place(self) -> bytes:
        """What the other side is called in the index."""
        return to_bytes(self.peer_id) if self.peer_id else nameless(self.peer)

    @property
    def kept(self) -> bytes:
        """What it is kept as."""
        peer_id, peer, message_id = map(to_bytes, (self.peer_id, self.peer, self.message_id))
        head = b"%b%d" % (header(peer_id, peer, b"%d" % self.at, message_id), self.n)
        return b"%b\0%b" % (head, to_bytes(self.sender)) if self.sender else head


def header(peer_id: bytes, peer: bytes, at: bytes, message_id: bytes) -> bytes:
    """Return what a `Header` of a message is kept as, but for ``n``, which is put behind it.

    Neither an id nor a name has a zero in it.
    """
    return b"%b\0%b\0%b\0%b\0" % (peer_id, peer, at, message_id)


def from_header(kept: bytes) -> Header:
    """Return what was kept."""
    peer_id, peer, at, message_id, n, *sender = kept.split(b"\0")
    return Header(
        to_text(peer_id),
        to_text(peer),
        int(at),
        to_text(message_id),
        int(n),
        to_text(sender[0]) if sender else "",
    )


def nameless(username: str) -> bytes:
    """Return what the index calls an account of which no id was kept."""
    return b"\1" + to_bytes(username)


def members(kind: Kind, seq: int, head: Header) -> list[bytes]:
    """Return what the index has of a copy or a receipt."""
    member = b"%b%b\0%016d" % (LETTERS[kind], head.place, seq)
    of_copy = [b"c" + to_bytes(head.message_id)] if kind is Kind.SENT else []
    return [b"%b:%d" % (member, head.at), *of_copy]


def sender_field(sender_id: str) -> bytes:
    """Return the field that counts a sender's send_ids."""
    return b"s%b" % to_bytes(sender_id)


def send_id_field(sender_id: str, send_id: str) -> bytes:
    """Return the field of a send_id."""
    return b"k%b\0%b" % (to_bytes(sender_id), to_bytes(send_id))


def result(sent_at: bytes, message_id: bytes, content: bytes) -> bytes:
    """Return what is kept under a send_id, but for ``n`` and a colon, which are put before it."""
    return b"%b:%d:%b%b" % (sent_at, len(message_id), message_id, content)


def send_id_row(seq: int, field: bytes, kept: bytes) -> SendIdRow:
    """Return what a send_id stands for."""
    sender_id, _, send_id = field[1:].partition(b"\0")
    n, sent_at, length, rest = kept.split(b":", 3)
    message_id, content = rest[: int(length)], rest[int(length) :]
    return SendIdRow(
        seq,
        to_text(sender_id),
        to_text(send_id),
        content,
        to_text(message_id),
        int(sent_at),
        int(n),
    )
