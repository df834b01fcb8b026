"""What a scripted server answers a client that watches a mailbox."""

from servers import HELLO, Answer, ScriptedServer

from twinline.core.protocol import (
    Ack,
    AckReply,
    Done,
    Hello,
    Message,
    Request,
    Resume,
    SessionReply,
    Status,
    StatusReply,
    Watch,
    WatchReply,
)


class Mailbox:
    """A script: a server with one session, whose watch is answered as the test says.

    Attributes:
        watches, acks: the answers to come.
        always: what a watch is answered when there are none left; None is silence.
        others: the answers to requests of other kinds.
    """

    def __init__(self, server: ScriptedServer) -> None:
        self.watches: list[Answer] = []
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
                return self.watches.pop(0) if self.watches else self.always
            case Ack(up_to=up_to):
                return self.acks.pop(0) if self.acks else AckReply(position=up_to, unread=0)
            case Status():
                return StatusReply(username="ann", position=0, unread=0)
            case _:
                return self.others.get(type(request), Done())


def page(*seqs: int, position: int = 0) -> WatchReply:
    """Return the answer to a watch with messages of these seqs, m1 and so on."""
    return WatchReply(messages=messages(*seqs), position=position)


def messages(*seqs: int) -> tuple[Message, ...]:
    """Return messages of these seqs."""
    return tuple(
        Message(seq=seq, message_id="0" * 24, sender="bob", body=f"m{seq}", sent_at=0)
        for seq in seqs
    )
