"""What a scripted server answers a client that watches a mailbox."""

from collections.abc import Callable

from servers import HELLO, Answer, ScriptedServer

from twinline.core.protocol import (
    Ack,
    AckReply,
    Done,
    Hello,
    Message,
    Reply,
    Request,
    Resume,
    SessionReply,
    Status,
    StatusReply,
    Watch,
    WatchReply,
)
from twinline.transports.registry import transport


class Mailbox:
    """A script: a server with one session, whose watch is answered as the test says.

    Attributes:
        watches, acks: the answers to come; a function makes its answer when it is asked for.
        always: what a watch is answered when there are none left; None is silence.
        others: the answers to requests of other kinds.
    """

    def __init__(self, server: ScriptedServer) -> None:
        self.watches: list[Answer | Callable[[], Answer]] = []
        self.acks: list[Answer] = []
        self.always: Answer = None
        self.others: dict[type[Request], Answer] = {}
        server.script = self

    def __call__(self, request: Request) -> Answer:
        match request:
            case Hello():
                return HELLO
            case Resume():
                return SessionReply(username="ann", session="token", position=0, unread=0)
            case Watch():
                answer = self.watches.pop(0) if self.watches else self.always
                return answer() if callable(answer) else answer
            case Ack(up_to=up_to):
                return self.acks.pop(0) if self.acks else AckReply(position=up_to, unread=0)
            case Status():
                return StatusReply(username="ann", position=0, unread=0, receipts=True)
            case _:
                return self.others.get(type(request), Done())


def page(*seqs: int, position: int = 0, more: bool = False) -> WatchReply:
    """Return the answer to a watch with messages of these seqs, m1 and so on."""
    return WatchReply(
        messages=messages(*seqs), position=position, seen=max(seqs, default=0), more=more
    )


def reply_to(id: int, reply: Reply) -> bytes:
    """Return the bytes of a reply to an earlier request.

    Of a watch connection hello is 1, resume 2, the first look 3 and the first stream 4.
    """
    codec = transport("jsonl").server_codec(1 << 20)
    codec.send(id, reply)
    return codec.data_to_send()


def messages(*seqs: int) -> tuple[Message, ...]:
    """Return messages of these seqs."""
    return tuple(
        Message(seq=seq, message_id="0" * 24, sender="bob", body=f"m{seq}", sent_at=0)
        for seq in seqs
    )
