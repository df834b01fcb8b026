"""The fixed workloads of `check.py`: what a server and a client do with bytes, without sockets.

A workload must stay what it is, or the figures that are kept for it mean nothing: one that is
changed gets another name, and figures of its own. Nothing here touches more of twinline than
the contracts of transports and stores, the methods of `ChatService` and those of `Conversation`,
which is held here as the listener's thread holds it over a socket.

The SQLite store is not among them: most of what it costs is another thread that collects a
batch, and the system that writes and syncs it, and both figures are those of one thread alone.
`sqlite.py` measures it.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from time import monotonic
from typing import Final

from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST

from twinline.cli.server.trial import for_trial
from twinline.cli.settings.model import Settings
from twinline.core.protocol import (
    MAX_REPLY_BYTES,
    MAX_WAIT_SECONDS,
    Message,
    Reply,
    Request,
    Resume,
    Send,
    SentReply,
    Watch,
    WatchReply,
)
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import Account, Draft, MailboxPolicy
from twinline.stores.memory import MemoryStore
from twinline.transports.contract import Transport
from twinline.transports.listener.conversation import Conversation
from twinline.transports.listener.settings import InForce, ListenerSettings
from twinline.transports.registry import transport
from twinline.transports.tls import ServerTls, TlsLayer, client_context

BODY: Final = "See you at the station at half past seven, platform 4."
ACCOUNTS: Final = 16**3
"""How many accounts the prefix page has to find its own among; one for every three digits."""
_NOW: Final = 1_700_000_000_000
_FRAMES: Final = 400  # more than the operations of a slice: none is sent twice
_SEND_PREFIX: Final = "bench-id"  # as long as a client's


@dataclass(frozen=True, slots=True)
class Workload:
    """An operation that is repeated.

    Attributes:
        what: what one operation is, for the reader of a table.
        operations: how many one call of ``run`` makes; about 2 ms of them.
        run: makes so many operations as it is told.
        reset: brings back the state that ``run`` begins with.
    """

    what: str
    operations: int
    run: Callable[[int], None]
    reset: Callable[[], None] = lambda: None


class Site:
    """A service without a listener, with two accounts: ann sends, and bob receives.

    Attributes:
        store: in memory.
        service: over it.
        ann: a session that is logged in.
        ann_id, bob: the ids of the two accounts.
    """

    def __init__(self, history_messages: int = 0) -> None:
        policy = MailboxPolicy(mailbox_messages=10**9, history_messages=history_messages)
        self.store = MemoryStore(policy)
        # The cheapest hash: it is paid once an account, and is no part of any workload.
        hasher = PasswordHasher.from_parameters(CHEAPEST)
        # A message's `n` costs more within a millisecond than in another: each call is another one.
        self.service = ChatService(self.store, hasher=hasher, clock=count(_NOW).__next__)
        self.ann = self.service.session("127.0.0.1")
        self._tokens = {"ann": self._enter(self.ann, "ann")}
        self._tokens["bob"] = self._enter(self.service.session("127.0.0.1"), "bob")
        self.bob = self._id_of("bob")
        self.ann_id = self._id_of("ann")

    def _id_of(self, name: str) -> str:
        account = self.store.accounts.find(name)
        if account is None:
            raise AssertionError(f"{name} is not there")
        return account.account_id

    def _enter(self, session: Session, name: str) -> str:
        return self.service.create_account(session, name, "correct horse").session

    def peer(self, name: str, wire: Transport, tls: "Tls | None" = None) -> "Peer":
        """Return a peer that has shaken hands and resumed the session of ann or bob."""
        peer = Peer(
            Talk(self.service, wire, None if tls is None else tls.server.layer()), wire, tls
        )
        peer.replies(peer.talk.exchange(peer.said(Resume(session=self._tokens[name]))))
        if not peer.talk.logged_in:
            raise AssertionError(f"{name} is not logged in")
        return peer

    def talk(self, name: str, wire: Transport) -> "Talk":
        """Return a conversation that has resumed the session of ann or bob."""
        talk = Talk(self.service, wire)
        talk.exchange(_encoded(wire, Resume(session=self._tokens[name])))
        if not talk.logged_in:
            raise AssertionError(f"{name} is not logged in")
        return talk

    def empty_bob(self) -> None:
        """Give bob a new mailbox: the next seq is 1, and no send_id is known."""
        self._empty(self.bob)

    def empty_both(self) -> None:
        """Give ann one as well: she has no copies."""
        self._empty(self.bob)
        self._empty(self.ann_id)

    def _empty(self, account_id: str) -> None:
        self.store.mailboxes.drop(account_id)
        self.store.mailboxes.create(account_id)

    def mail_comes(self) -> None:
        """Put a message into bob's mailbox."""
        draft = Draft(f"{1:024x}", "id-ann", "ann", BODY, _NOW)
        self.store.mailboxes.append(self.bob, draft)


class Talk:
    """A conversation, and what the listener's thread does for it, with the socket left out."""

    def __init__(
        self, service: ChatService, wire: Transport, layer: TlsLayer | None = None
    ) -> None:
        self._service = service
        self._mail = False
        self._talk = Conversation(
            wire.server_codec(service.settings.frame_bytes),
            service,
            InForce(ListenerSettings()),
            address="127.0.0.1",
            on_mail=self._mail_has_come,
            on_end=lambda: None,
            clock=monotonic,
            layer=layer,
        )

    @property
    def logged_in(self) -> bool:
        """Whether it is bound to an account."""
        return self._talk.session.logged_in

    def exchange(self, data: bytes) -> bytes:
        """Take in what has arrived, and return what there is to send at once."""
        self._talk.receive_data(data)
        return self._go_on()

    def after_mail(self) -> bytes:
        """Look again, if mail has come, and return what there is to send at once."""
        if self._mail:
            self._mail = False
            self._talk.look_again()
        return self._go_on()

    def leave(self) -> None:
        """Drop what it is subscribed to."""
        self._service.leave(self._talk.session)

    def _mail_has_come(self) -> None:
        self._mail = True

    def _go_on(self) -> bytes:
        talk, service = self._talk, self._service
        while (job := talk.next_job()) is not None:
            talk.finish(service.handle(talk.session, job))
        return talk.data_to_send() if talk.urgent else b""


class Tls:
    """What both sides begin with over TLS.

    Attributes:
        server: makes the server's layers.
        client: the client's context.
    """

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory(prefix="twinline-check-") as folder:
            settings = Settings(listen=("tls://127.0.0.1:0",))
            _, trial = for_trial(settings, Path(folder))
            self.server = ServerTls(trial.files)
            self.client = client_context(ca_file=str(trial.ca))


class Peer:
    """A client's end of a conversation, which shakes hands where there is anything to shake.

    Attributes:
        talk: the server's end.
    """

    def __init__(self, talk: Talk, wire: Transport, tls: Tls | None) -> None:
        self.talk = talk
        self._codec = wire.client_codec(MAX_REPLY_BYTES)
        self._layer = None if tls is None else TlsLayer(tls.client, "127.0.0.1")
        if self._layer is not None:
            self._layer.begin()
            while sent := self._layer.send(b""):
                self._layer.receive_data(talk.exchange(sent))
        while not self._codec.opened:
            self._codec.receive_data(talk.exchange(self._codec.data_to_send()))
            self._codec.next_event()

    def said(self, request: Request) -> bytes:
        """Return the bytes of a request."""
        self._codec.send(1, request)
        data = self._codec.data_to_send()
        return data if self._layer is None else self._layer.send(data)

    def replies(self, data: bytes) -> list[Reply]:
        """Return what the server says by some bytes."""
        self._codec.receive_data(data if self._layer is None else self._layer.receive_data(data))
        found = []
        while (event := self._codec.next_event()) is not None:
            found.append(event.reply)
        return found


def _send_beyond(wire: Transport, tls: Tls | None) -> Workload:
    """Return a send over TLS, whose records were sealed beforehand, or in a WebSocket."""
    site = Site()
    sends = [
        Send(to="bob", body=BODY, send_id=f"{_SEND_PREFIX}{number:x}") for number in range(100)
    ]
    peer = site.peer("ann", wire, tls)
    (reply,) = peer.replies(peer.talk.exchange(peer.said(sends[0])))
    if type(reply) is not SentReply:
        raise AssertionError(f"it was not sent: {reply}")
    frames: list[bytes] = []

    def reset() -> None:
        nonlocal peer, frames
        peer.talk.leave()
        site.empty_bob()
        peer = site.peer("ann", wire, tls)
        frames = [peer.said(send) for send in sends]

    def run(operations: int) -> None:
        exchange = peer.talk.exchange
        for frame in frames[:operations]:
            exchange(frame)

    over = "TLS, in jsonl" if tls is not None else "WebSocket, in jsonl"
    return Workload(f"a send with a send_id over {over}", 100, run, reset)


def _service_send() -> Workload:
    site = Site()
    send = partial(site.service.send, site.ann, "bob", BODY)

    def run(operations: int) -> None:
        for _ in range(operations):
            send()

    return Workload("ChatService.send, no wire", 200, run, site.empty_bob)


def _service_send_with_id() -> Workload:
    site = Site()
    send = site.service.send
    ids = [f"{_SEND_PREFIX}{number:x}" for number in range(_FRAMES)]

    def run(operations: int) -> None:
        for send_id in ids[:operations]:
            send(site.ann, "bob", BODY, send_id)

    return Workload("ChatService.send with a send_id, no wire", 200, run, site.empty_bob)


def _service_send_with_copy() -> Workload:
    """Return a send whose copy takes the place of the oldest one, as with all that come later."""
    kept = 100
    site = Site(history_messages=kept)
    send = partial(site.service.send, copy=True)
    ids = [f"{_SEND_PREFIX}{number:x}" for number in range(_FRAMES + 2 * kept)]
    before, ids = ids[: 2 * kept], ids[2 * kept :]

    def reset() -> None:
        site.empty_both()
        for send_id in before:
            send(site.ann, "bob", BODY, send_id)

    def run(operations: int) -> None:
        for send_id in ids[:operations]:
            send(site.ann, "bob", BODY, send_id)

    what = "the same with a copy for the sender, the oldest of which goes"
    return Workload(what, 200, run, reset)


def _wire_send(wire: Transport, *, send_ids: bool) -> Workload:
    site = Site()
    sends = [
        Send(to="bob", body=BODY, send_id=f"{_SEND_PREFIX}{number:x}" if send_ids else None)
        for number in range(_FRAMES)
    ]
    frames = [_encoded(wire, send) for send in sends]
    exchange = site.talk("ann", wire).exchange
    _must_be(SentReply, wire, sends[0], exchange(frames[0]))

    def run(operations: int) -> None:
        for frame in frames[:operations]:
            exchange(frame)

    which = "a send with a send_id" if send_ids else "a send without one"
    what = f"{which}, from {wire.name} bytes to {wire.name} bytes"
    return Workload(what, 100, run, site.empty_bob)


def _wire_delivery(wire: Transport, *, window: int) -> Workload:
    """Return a delivery: a watch comes that acknowledges the one before, and then its message."""
    site = Site()
    watches = [
        Watch(after=seq, ack=seq, wait=MAX_WAIT_SECONDS, window=window, renew=window > 0)
        for seq in range(_FRAMES)
    ]
    frames = [_encoded(wire, watch) for watch in watches]
    talk = site.talk("bob", wire)

    def deliver(frame: bytes) -> bytes:
        talk.exchange(frame)
        site.mail_comes()
        return talk.after_mail()

    def run(operations: int) -> None:
        for frame in frames[:operations]:
            deliver(frame)

    def reset() -> None:
        nonlocal talk
        talk.leave()
        site.empty_bob()
        talk = site.talk("bob", wire)
        # What the first watch of a connection does once is not a delivery's.
        talk.exchange(frames[0])

    reset()
    _must_be(WatchReply, wire, watches[0], deliver(frames[0]))
    which = "an open stream that is renewed" if window else "a blocked watch"
    what = f"a message that comes to {which}, in {wire.name}"
    return Workload(what, 50, run, reset)


def _client(wire: Transport) -> Workload:
    codec = wire.client_codec(MAX_REPLY_BYTES)
    message = Message(seq=1, message_id=f"{1:024x}", sender="ann", body=BODY, sent_at=_NOW)
    watch = Watch(after=0, ack=0, wait=MAX_WAIT_SECONDS)
    server = wire.server_codec(64 * 1024)
    server.receive_data(_encoded(wire, watch))
    server.next_event()
    server.send(1, WatchReply(messages=(message,), position=0, seen=message.seq))
    reply = server.data_to_send()

    def ask() -> Reply:
        codec.send(1, watch)
        codec.data_to_send()
        codec.receive_data(reply)
        event = codec.next_event()
        if event is None:
            raise AssertionError("the reply is not whole")
        return event.reply

    if ask() != WatchReply(messages=(message,), position=0, seen=message.seq):
        raise AssertionError("the client read another reply than the server wrote")

    def run(operations: int) -> None:
        for _ in range(operations):
            ask()

    what = f"a client's watch and its reply of one message, in {wire.name}"
    return Workload(what, 100, run)


def _prefix_page() -> Workload:
    site = Site()
    for number in range(ACCOUNTS):
        # Three hexadecimal digits, each three of them once, and in no order.
        name = f"{number * 2_654_435_761 % ACCOUNTS:03x}"
        site.store.accounts.create(Account(f"id-{number}", name, "$argon2id$none", _NOW))
    page = partial(site.service.list_accounts, site.ann, "ab*", None, 100)
    if len(page().usernames) != 16:
        raise AssertionError("the names are not spread as they should be")

    def run(operations: int) -> None:
        for _ in range(operations):
            page()

    what = f"a page of the 16 names of {ACCOUNTS:,} that begin with ab"
    return Workload(what, 40, run)


def _encoded(wire: Transport, request: Request) -> bytes:
    codec = wire.client_codec(MAX_REPLY_BYTES)
    codec.send(1, request)
    return codec.data_to_send()


def _must_be(kind: type[Reply], wire: Transport, request: Request, data: bytes) -> None:
    """See to it that what is measured is the work and not its refusal."""
    codec = wire.client_codec(MAX_REPLY_BYTES)
    codec.send(1, request)
    codec.send(1, request)  # where the last reply of another stands before it
    codec.receive_data(data)
    replies = []
    while (event := codec.next_event()) is not None:
        replies.append(event.reply)
    last = replies[-1] if replies else None
    if not isinstance(last, kind) or (isinstance(last, WatchReply) and len(last.messages) != 1):
        raise AssertionError(f"expected a {kind.__name__}: {replies}")


def _builders() -> Iterator[tuple[str, Callable[[], Workload]]]:
    yield "send", _service_send
    yield "send, id", _service_send_with_id
    yield "send, id, copy", _service_send_with_copy
    for name in ("jsonl", "binary"):
        wire = transport(name)
        yield f"{name} send, id", partial(_wire_send, wire, send_ids=True)
        yield f"{name} plain send", partial(_wire_send, wire, send_ids=False)
        yield f"{name} stream", partial(_wire_delivery, wire, window=256)
        yield f"{name} blocked", partial(_wire_delivery, wire, window=0)
        yield f"{name} client", partial(_client, wire)
    yield "jsonl send, TLS", lambda: _send_beyond(transport("jsonl"), Tls())
    yield "jsonl send, WebSocket", lambda: _send_beyond(transport("websocket"), None)
    yield "prefix page", _prefix_page


BUILDERS: Final = dict(_builders())
"""What makes each workload, by the name that its figures are kept under."""
