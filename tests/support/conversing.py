"""A connection's conversation without a connection: no socket, no thread, a clock moved by hand."""

from collections.abc import Iterable
from functools import cache

from services import PASSWORD, enter, make_service
from streams import receive_replies

from twinline.core.protocol import ErrorReply, Login, Request, SessionReply, WatchReply
from twinline.core.service import ChatService
from twinline.transports.contract import ReplyReceived
from twinline.transports.listener import ListenerSettings
from twinline.transports.listener.conversation import Conversation, Job
from twinline.transports.listener.settings import InForce
from twinline.transports.registry import transport

BOTH_WAYS = (("jsonl", "jsonl"), ("binary", "binary"), ("auto", "jsonl"), ("auto", "binary"))
"""What a server serves and what its peer speaks."""
LIMIT = 1 << 20
LOGIN = Login(username="bob", password=PASSWORD)
SETTINGS = ListenerSettings(login_seconds=10, frame_seconds=8, write_seconds=6)
_STEPS = 100_000
# The same in every run, so that what is said can be compared to the byte.
_MESSAGE_IDS = tuple(f"{number:024x}" for number in range(5_000, 0, -1))
_transport = cache(transport)  # each look into the registry reads what is installed


class Conversing:
    """A conversation whose peer is bob, the service that it is about, and ann, who sends bob mail.

    Attributes:
        now: the monotonic clock, in seconds.
        spoken: the transport of the peer.
        service: with the accounts of ann and bob.
        ann: a session of her.
        bob: a session of his, which is not the conversation's.
        talk: the conversation.
        job: what it is working at, if it was told not to go on.
        woken: whether mail has woken it, and nobody has told it yet.
        session_ended: whether its session's end has woken it.
        writes: what was sent, each a write.
        received: the replies, as far as they were read.
    """

    def __init__(
        self,
        served: str = "auto",
        spoken: str = "jsonl",
        *,
        service: ChatService | None = None,
        logged_in: bool = True,
    ) -> None:
        self.now = 0.0
        self.service = service or make_service()
        self.service._messages._ids = list(_MESSAGE_IDS)
        self.ann, self.bob = enter(self.service, "ann"), enter(self.service, "bob")
        self.spoken = spoken
        self.client = _transport(spoken).client_codec(LIMIT)
        self._encoder = _transport(spoken).server_codec(LIMIT)
        self.job: Job | None = None
        self.woken = self.session_ended = False
        self.writes: list[bytes] = []
        self._read = 0  # of the writes
        self.received: list[ReplyReceived] = []
        self.talk = Conversation(
            _transport(served).server_codec(self.service.settings.frame_bytes_before_login),
            self.service,
            InForce(SETTINGS),
            address="127.0.0.1",
            on_mail=lambda: setattr(self, "woken", True),
            on_end=lambda: setattr(self, "session_ended", True),
            clock=lambda: self.now,
        )
        self.token = ""
        if logged_in:
            assert shown(self.ask(1, LOGIN)) == ["1:SessionReply"]

    # -- what the peer and others do ------------------------------------------------------

    def frame(self, number: int, request: Request) -> bytes:
        """Return the bytes of a request, whose reply is expected from now on."""
        self.client.send(number, request)
        return self.client.data_to_send()

    def ask(self, number: int, request: Request) -> list[ReplyReceived]:
        """Send a request, and return what it brings at once."""
        return self.feed(self.frame(number, request))

    def feed(self, *pieces: bytes) -> list[ReplyReceived]:
        """Have bytes arrive piece by piece, and return what they bring."""
        for piece in pieces:
            self.talk.receive_data(piece)
            self.go_on()
        return self.replies()

    def end(self) -> list[ReplyReceived]:
        """Have the peer end its side."""
        self.talk.receive_eof()
        self.go_on()
        return self.replies()

    def mail(self, *bodies: str) -> None:
        """Have ann send, and nobody notice."""
        for body in bodies:
            self.service.send(self.ann, "bob", body)

    def wake(self) -> list[ReplyReceived]:
        """Tell the conversation that mail has woken it, if it has."""
        if self.woken:
            self.woken = False
            self.talk.look_again()
        self.go_on()
        return self.replies()

    def deliver(self, *bodies: str) -> list[ReplyReceived]:
        """Have ann send, and the conversation notice."""
        self.mail(*bodies)
        return self.wake()

    def wait(self, seconds: float) -> list[ReplyReceived]:
        """Let time pass, and tell the conversation if it wanted to know."""
        self.now += seconds
        if self.talk.deadline is not None and self.talk.deadline <= self.now:
            self.talk.time_is_up()
        self.go_on()
        return self.replies()

    # -- the driver ----------------------------------------------------------------------

    def begin(self, *data: bytes) -> None:
        """Have bytes arrive, and go on until there is something to carry out, which is not."""
        for piece in data:
            self.talk.receive_data(piece)
        self.job = self.talk.next_job()
        assert self.job is not None

    def go_on(self) -> None:
        """Carry out and send what there is, until it waits or has ended."""
        talk = self.talk
        for _ in range(_STEPS):
            job, self.job = self.job or talk.next_job(), None
            if job is not None:
                talk.finish(self.service.handle(talk.session, job))
            elif talk.urgent or (talk.ended and not talk.cut and talk._out):
                self.writes.append(talk.data_to_send())
            elif talk.ended or talk.waits:
                return
            else:
                break
        raise AssertionError("there is nothing to do, to send or to wait for, and no end")

    def flush(self) -> list[ReplyReceived]:
        """Have what is kept back sent as well, and return what it brings."""
        if not self.talk.cut:
            self.writes.append(self.talk.data_to_send())
        return self.replies()

    @property
    def state(self) -> str:
        """Where it is, in the words of the conversation's table."""
        if self.talk.ended:
            return "ended, cut" if self.talk.cut else "ended"
        if self.job is not None:
            return "working"
        assert self.talk.waits
        return "watching" if self.talk.watches else "waiting"

    @property
    def sent(self) -> bytes:
        """All that was sent, with the same session token in every run."""
        return b"".join(self.writes).replace(self.token.encode(), b"(token)")

    def replies(self) -> list[ReplyReceived]:
        """Return what was sent since this was asked last."""
        unread = self.writes[self._read :]
        self._read = len(self.writes)
        received = receive_replies(self.client, unread)
        self.received += received
        for each in received:
            if isinstance(each.reply, SessionReply):
                self.token = each.reply.session
        return received

    def size(self, received: ReplyReceived) -> int:
        """Return how many bytes a reply takes."""
        self._encoder.send(received.id, received.reply)
        return len(self._encoder.data_to_send())


def shown(received: Iterable[ReplyReceived]) -> list[str]:
    """Return replies in short: ``7:[42,43]+`` brings two messages, and others follow."""
    return [_shown(each) for each in received]


def _shown(received: ReplyReceived) -> str:
    reply = received.reply
    if isinstance(reply, ErrorReply):
        return f"{received.id}:{reply.code}"
    if isinstance(reply, WatchReply):
        seqs = ",".join(str(message.seq) for message in reply.messages)
        return f"{received.id}:[{seqs}]" + "+" * reply.more
    return f"{received.id}:{type(reply).__name__}"
