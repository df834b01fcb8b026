"""The fixed workloads of `check.py`: what a server and a client do with bytes, without sockets.

A workload must stay what it is, or the figures that are kept for it mean nothing: one that is
changed gets another name, and figures of its own. Nothing here touches more of twinline than
the contracts of transports and stores and the methods of `ChatService`.

The SQLite store is not among them: most of what it costs is another thread that collects a
batch, and the system that writes and syncs it, and both figures are those of one thread alone.
`sqlite.py` measures it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST

from twinline.core.protocol import (
    MAX_REPLY_BYTES,
    MAX_WAIT_SECONDS,
    ErrorReply,
    Message,
    Reply,
    Request,
    Send,
    SentReply,
    Watch,
    WatchReply,
)
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import Account, Draft, MailboxPolicy, MailPage
from twinline.stores.memory import MemoryStore
from twinline.transports.contract import RequestRefused, ServerCodec, Transport
from twinline.transports.registry import transport

BODY: Final = "See you at the station at half past seven, platform 4."
ACCOUNTS: Final = 16**3
"""How many accounts the prefix page has to find its own among; one for every three digits."""
_NOW: Final = 1_700_000_000_000


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
        bob: another.
    """

    def __init__(self, *, mail_comes_when_watched: bool = False) -> None:
        self.store = MemoryStore(MailboxPolicy(mailbox_messages=10**9, history_messages=0))
        if mail_comes_when_watched:
            self._let_mail_come()
        # The cheapest hash: it is paid once an account, and is no part of any workload.
        hasher = PasswordHasher.from_parameters(CHEAPEST)
        self.service = ChatService(self.store, hasher=hasher)
        self.ann = self._enter("ann")
        self.bob = self._enter("bob")

    def _enter(self, name: str) -> Session:
        session = self.service.session("127.0.0.1")
        self.service.create_account(session, name, "correct horse")
        return session

    def _let_mail_come(self) -> None:
        """Put a message into a mailbox at the moment when a watch has found it empty.

        So a watch goes all the way of one that blocks, and only the blocking is left out.
        """
        mailboxes = self.store.mailboxes
        read = mailboxes.read
        draft = Draft(f"{1:024x}", "id-ann", "ann", BODY, _NOW)

        def read_before_mail_comes(
            account_id: str, after: int, limit: int, max_bytes: int
        ) -> MailPage:
            page = read(account_id, after, limit, max_bytes)
            if not page.messages:
                mailboxes.append(account_id, draft)
            return page

        mailboxes.read = read_before_mail_comes  # type: ignore[method-assign]

    def empty_bob(self) -> None:
        """Give bob a new mailbox: the next seq is 1."""
        bob = self.store.accounts.find("bob")
        if bob is None:
            raise AssertionError("bob is gone")
        self.bob.unsubscribe()  # from the old one
        self.store.mailboxes.drop(bob.account_id)
        self.store.mailboxes.create(bob.account_id)


def _service_send() -> Workload:
    site = Site()
    send = partial(site.service.send, site.ann, "bob", BODY)

    def run(operations: int) -> None:
        for _ in range(operations):
            send()

    return Workload("ChatService.send, no wire", 200, run, site.empty_bob)


def _wire_send(wire: Transport) -> Workload:
    site = Site()
    frame = _encoded(wire, Send(to="bob", body=BODY))
    answer = _answering(site.service, site.ann, wire.server_codec(64 * 1024))
    _must_be(SentReply, wire, Send(to="bob", body=BODY), answer(frame))

    def run(operations: int) -> None:
        for _ in range(operations):
            answer(frame)

    what = f"a send, from {wire.name} bytes to {wire.name} bytes"
    return Workload(what, 100, run, site.empty_bob)


def _wire_watch(wire: Transport) -> Workload:
    site = Site(mail_comes_when_watched=True)
    watches = [Watch(after=seq, ack=seq, wait=MAX_WAIT_SECONDS) for seq in range(200)]
    frames = [_encoded(wire, watch) for watch in watches]
    answer = _answering(site.service, site.bob, wire.server_codec(64 * 1024))
    _must_be(WatchReply, wire, watches[0], answer(frames[0]))

    def run(operations: int) -> None:
        for frame in frames[:operations]:
            answer(frame)

    what = f"a message that comes to a blocked watch, in {wire.name}"
    return Workload(what, 50, run, site.empty_bob)


def _client(wire: Transport) -> Workload:
    codec = wire.client_codec(MAX_REPLY_BYTES)
    message = Message(seq=1, message_id=f"{1:024x}", sender="ann", body=BODY, sent_at=_NOW)
    watch = Watch(after=0, ack=0, wait=MAX_WAIT_SECONDS)
    server = wire.server_codec(64 * 1024)
    server.receive_data(_encoded(wire, watch))
    server.next_event()
    server.send(1, WatchReply(messages=(message,), position=0))
    reply = server.data_to_send()

    def ask() -> Reply:
        codec.send(1, watch)
        codec.data_to_send()
        codec.receive_data(reply)
        event = codec.next_event()
        if event is None:
            raise AssertionError("the reply is not whole")
        return event.reply

    if ask() != WatchReply(messages=(message,), position=0):
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


def _answering(
    service: ChatService, session: Session, codec: ServerCodec
) -> Callable[[bytes], bytes]:
    """Return what answers bytes as a connection does, with nothing but the socket left out."""

    def answer(data: bytes) -> bytes:
        codec.receive_data(data)
        replies = b""
        while (event := codec.next_event()) is not None:
            if isinstance(event, RequestRefused):
                raise event.error
            codec.send(event.id, service.handle(session, event.request))
            replies += codec.data_to_send()
        return replies

    return answer


def _encoded(wire: Transport, request: Request) -> bytes:
    codec = wire.client_codec(MAX_REPLY_BYTES)
    codec.send(1, request)
    return codec.data_to_send()


def _must_be(kind: type[Reply], wire: Transport, request: Request, data: bytes) -> None:
    """See to it that what is measured is the work and not its refusal."""
    codec = wire.client_codec(MAX_REPLY_BYTES)
    codec.send(1, request)
    codec.receive_data(data)
    event = codec.next_event()
    if event is None or not isinstance(event.reply, kind) or isinstance(event.reply, ErrorReply):
        raise AssertionError(f"expected a {kind.__name__}: {event}")


def _builders() -> Iterator[tuple[str, Callable[[], Workload]]]:
    yield "send", _service_send
    for name in ("jsonl", "binary"):
        wire = transport(name)
        yield f"{name} send", partial(_wire_send, wire)
        yield f"{name} watch", partial(_wire_watch, wire)
        yield f"{name} client", partial(_client, wire)
    yield "prefix page", _prefix_page


BUILDERS: Final = dict(_builders())
"""What makes each workload, by the name that its figures are kept under."""
