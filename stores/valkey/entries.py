"""What messages and send_ids are kept as: written by who sends and who copies, read by who looks.

A message is an entry of its stream with two fields: ``h`` is `header`, and ``b`` the body. What is
remembered of send_ids is in one hash, whose fields begin with a letter that tells them apart::

    kSENDER_ID, a zero, SEND_ID    SENT_AT:LENGTH:MESSAGE_ID and then the body's fingerprint; LENGTH
                                   is that of the MESSAGE_ID, in bytes
    sSENDER_ID                     how many there are of a sender
    fSENDER_ID                     from which seq on they are, where that was looked for
    n                              how many there are
    d                              when it is to be seen next which of them do not count any more
    l                              nothing, or something long, where they are not few

A stream has the fields that begin with ``k``, by seq, for what is to be forgotten first.
"""

from typing import Final

from twinline.stores.archive import SendIdRow
from twinline.stores.valkey.wire import to_bytes, to_text

COUNT: Final = b"n"
"""The field that counts all send_ids."""


def header(sent_at: bytes, message_id: bytes, sender: bytes) -> bytes:
    """Return all of a message but its body; neither an id nor a name has a zero in it."""
    return b"%b\0%b\0%b" % (sent_at, message_id, sender)


def from_header(kept: bytes) -> tuple[int, str, str]:
    """Return the time of a message, its id and its sender."""
    sent_at, message_id, sender = kept.split(b"\0", 2)
    return int(sent_at), to_text(message_id), to_text(sender)


def sender_field(sender_id: str) -> bytes:
    """Return the field that counts a sender's send_ids."""
    return b"s%b" % to_bytes(sender_id)


def send_id_field(sender_id: str, send_id: str) -> bytes:
    """Return the field of a send_id."""
    return b"k%b\0%b" % (to_bytes(sender_id), to_bytes(send_id))


def receipt(sent_at: bytes, message_id: bytes, content: bytes) -> bytes:
    """Return what is kept under a send_id."""
    return b"%b:%d:%b%b" % (sent_at, len(message_id), message_id, content)


def send_id_row(seq: int, field: bytes, kept: bytes) -> SendIdRow:
    """Return what a send_id stands for."""
    sender_id, _, send_id = field[1:].partition(b"\0")
    sent_at, length, rest = kept.split(b":", 2)
    message_id, content = rest[: int(length)], rest[int(length) :]
    return SendIdRow(
        seq, to_text(sender_id), to_text(send_id), content, to_text(message_id), int(sent_at)
    )
