"""A story that clients tell, and its transcript, which is the same wherever it is told."""

import contextlib
import itertools
import ssl
from collections.abc import Callable, Iterator, Sequence

import pytest
from client_kit import make_client
from listening import Server
from services import PASSWORD

from twinline.core.errors import NotLoggedIn, RequestError
from twinline.core.protocol import EVERY_KIND, MAIL_ALONE, Entry, Kind, Kinds, Message
from twinline.transports.client import Client, ClientSettings, WatchMode

OTHER = "battery staple"
DEVICES = ("carol's desk", "carol's phone", "dave's desk", "dave's phone")

TRANSCRIPT = """\
ann and bob register
  ann is ann, position 0, unread 0
  ann gives receipts: False
  bob again: username_taken
  as bob with a wrong password: bad_credentials
  accounts *: ann bob
  accounts b*: bob
bob is online
  bob gets 1 ann: hello
  bob gets 2 ann: how are you?
  ann gets 1 bob: well!
  nobody: no_such_user
bob goes offline without an ack of the last
  bob gets 3 ann: seen, not acked
ann sends on
  bob has unread 4
bob comes back and gets what he has not acked, in order
  bob gets 3 ann: seen, not acked
  bob gets 4 ann: offline 0
  bob gets 5 ann: offline 1
  bob gets 6 ann: offline 2
  bob stands at 6, unread 0
a repeated send_id is one message
  the same: True
  another body: send_id_conflict
  bob gets 7 ann: once
history
  5 ann: offline 1
  6 ann: offline 2
  7 ann: once
  more: True
  deleted: 2
  5 ann: offline 1
ann keeps what she sends
  the same: True
  1 mail bob: well!
  2 sent ann: kept
  with bob: kept, unread 0
  her mail is ['well!']
  bob gets 8 ann: kept
bob blocks ann for a while
  blocked: ann
  ann: refused
  what was sent before: True
  copies: 1
two sessions of bob both get everything
  bob gets 9 ann: to both
  bob's desk gets 9 ann: to both
bob changes his password
  bob's desk is logged out
  with the old one: bad_credentials
  with the new one: bob
bob deletes his account
  wrong password: bad_credentials
  with unread mail: undelivered_messages (1)
  bob: no_such_user
  bob's name: username_taken
  accounts *: ann
  ann has nothing: True
carol and dave talk, each on two devices
  carol's desk sees 1 sent to dave: hello
  carol's phone sees 1 sent to dave: hello
  dave's desk sees 1 mail of carol: hello
  dave's phone sees 1 mail of carol: hello
  carol's desk sees 2 receipt of dave, as far as that: True
  carol's phone sees 2 receipt of dave, as far as that: True
  dave's desk sees 2 sent to carol: well!
  carol's desk sees 3 mail of dave: well!
  carol's phone sees 3 mail of dave: well!
  dave's phone sees 2 sent to carol: well!
  on carol's phone the talk is ['hello', 'well!'], and before that ['hello']
  on carol's phone there are 1 receipt, 1 copy and 1 message
  on carol's phone: ann wrote last, unread 1
  on carol's phone: dave wrote last, unread 1
  on dave's phone: carol is blocked
  carol, from her desk: refused
  on dave's desk: nobody is blocked
  carol's phone sees 4 mail of ann: and I?
  carol's phone sees 5 sent to dave: again
  dave's phone sees 3 mail of carol: again
"""


class Scenario:
    """Plays the story and writes down what each side sees."""

    def __init__(self, make: Callable[[Kinds], Client]) -> None:
        self.make = make
        self.lines: list[str] = []
        self.clients: list[Client] = []

    def say(self, line: str) -> None:
        """Write a line down."""
        self.lines.append(line)

    def client(self, kinds: Kinds = MAIL_ALONE) -> Client:
        """Return another client, closed at the end; it watches for mail, or for more."""
        client = self.make(kinds)
        self.clients.append(client)
        return client

    def refused(self, what: str, call: Callable[[], object]) -> None:
        """Write down how a call is refused."""
        with pytest.raises(RequestError) as error:
            call()
        count = "" if error.value.count is None else f" ({error.value.count})"
        self.say(f"  {what}: {error.value.code}{count}")

    def gets(self, who: str, client: Client, count: int, *, ack: bool = True) -> list[Message]:
        """Write down the next messages of a client."""
        got = []
        for message in itertools.islice(client.messages(timeout=10, ack=ack), count):
            self.say(f"  {who} gets {message.seq} {message.sender}: {message.body}")
            got.append(message)
        assert len(got) == count
        if ack:
            client.ack(got[-1].seq)  # islice left the loop before the last was dealt with
        return got

    def sees(self, who: str, entries: Iterator[Entry], n: int) -> Entry:
        """Write down the next entry of a device; of a receipt, whether it names this ``n``."""
        entry = next(entries)
        if isinstance(entry, Message):
            of = f"to {entry.to}" if entry.kind is Kind.SENT else f"of {entry.sender}"
            self.say(f"  {who} sees {entry.seq} {entry.kind.value} {of}: {entry.body}")
        else:
            told = f"receipt of {entry.username}, as far as that: {entry.n == n}"
            self.say(f"  {who} sees {entry.seq} {told}")
        return entry

    def play(self) -> None:
        """Tell the story."""
        say = self.say
        say("ann and bob register")
        ann, bob = self.client(), self.client()
        ann.connect(timeout=10)
        reply = ann.create_account("Ann", PASSWORD)
        say(f"  ann is {reply.username}, position {reply.position}, unread {reply.unread}")
        bob.create_account("bob", PASSWORD)
        for client in (ann, bob):
            client.set_receipts(False)  # one comes when it does, and takes a seq
        say(f"  ann gives receipts: {ann.status().receipts}")
        stranger = self.client()
        self.refused("bob again", lambda: stranger.create_account("bob", OTHER))
        self.refused("as bob with a wrong password", lambda: stranger.login("bob", OTHER))
        say(f"  accounts *: {' '.join(ann.accounts())}")
        say(f"  accounts b*: {' '.join(ann.accounts('b*'))}")

        say("bob is online")
        ann.send("bob", "hello")
        ann.send("bob", "how are you?")
        self.gets("bob", bob, 2)
        bob.send("ann", "well!")
        self.gets("ann", ann, 1)
        self.refused("nobody", lambda: ann.send("nobody", "hello"))

        say("bob goes offline without an ack of the last")
        ann.send("bob", "seen, not acked")
        fresh = self.client()
        bob.close()
        fresh.login("bob", PASSWORD)
        self.gets("bob", fresh, 1, ack=False)
        fresh.close()

        say("ann sends on")
        for number in range(3):
            ann.send("bob", f"offline {number}")
        bob = self.client()
        say(f"  bob has unread {bob.login('bob', PASSWORD).unread}")

        say("bob comes back and gets what he has not acked, in order")
        self.gets("bob", bob, 4)
        status = bob.status()
        say(f"  bob stands at {status.position}, unread {status.unread}")

        say("a repeated send_id is one message")
        first = ann.send("bob", "once", "id-1")
        say(f"  the same: {ann.send('bob', 'once', 'id-1') == first}")
        self.refused("another body", lambda: ann.send("bob", "twice", "id-1"))
        self.gets("bob", bob, 1)

        say("history")
        page = bob.history(limit=3)
        for message in page.messages:
            say(f"  {message.seq} {message.sender}: {message.body}")
        say(f"  more: {page.more}")
        say(f"  deleted: {bob.delete_messages([6, 7, 99])}")
        last = bob.history(limit=1).messages[0]
        say(f"  {last.seq} {last.sender}: {last.body}")

        say("ann keeps what she sends")
        kept = ann.send("bob", "kept", "id-2", copy=True)
        say(f"  the same: {ann.send('bob', 'kept', 'id-2', copy=True) == kept}")
        for message in ann.history(peer="bob").messages:
            say(f"  {message.seq} {message.kind.value} {message.sender}: {message.body}")
        for talk in ann.conversations().conversations:
            say(f"  with {talk.username}: {talk.last.body}, unread {talk.unread}")
        say(f"  her mail is {[each.body for each in ann.history().messages]}")
        self.gets("bob", bob, 1)

        say("bob blocks ann for a while")
        bob.block("ann")
        say(f"  blocked: {' '.join(bob.blocked())}")
        self.refused("ann", lambda: ann.send("bob", "let me in", "id-3", copy=True))
        say(f"  what was sent before: {ann.send('bob', 'kept', 'id-2', copy=True) == kept}")
        bob.unblock("ann")
        say(f"  copies: {len(ann.history(kinds=[Kind.SENT]).messages)}")

        say("two sessions of bob both get everything")
        desk = self.client()
        desk.login("bob", PASSWORD)
        ann.send("bob", "to both")
        self.gets("bob", bob, 1)
        self.gets("bob's desk", desk, 1)

        say("bob changes his password")
        bob.change_password(PASSWORD, OTHER)
        # It ends with the session and not with the time, if it had not ended already.
        with contextlib.suppress(NotLoggedIn):
            assert list(desk.messages(timeout=10)) == []
        self.say(f"  bob's desk is {str(desk.state).partition(':')[0]}")
        self.refused("with the old one", lambda: self.client().login("bob", PASSWORD))
        say(f"  with the new one: {self.client().login('bob', OTHER).username}")

        say("bob deletes his account")
        ann.send("bob", "too late")
        self.refused("wrong password", lambda: bob.delete_account(PASSWORD))
        self.refused("with unread mail", lambda: bob.delete_account(OTHER))
        bob.delete_account(OTHER, force=True)
        self.refused("bob", lambda: ann.send("bob", "are you there?"))
        self.refused("bob's name", lambda: self.client().create_account("bob", OTHER))
        say(f"  accounts *: {' '.join(ann.accounts())}")
        say(f"  ann has nothing: {list(ann.messages(timeout=0)) == []}")

        self.talk(ann)

    def talk(self, ann: Client) -> None:
        """Tell of a talk, of what is seen on each of its devices, and of how it ends."""
        say = self.say
        say("carol and dave talk, each on two devices")
        devices = {name: self.client(EVERY_KIND) for name in DEVICES}
        desk, phone, daves_desk, daves_phone = devices.values()

        def see(*names: str, n: int = 0) -> list[Entry]:
            return [self.sees(name, entries[name], n) for name in names]

        for username, (first, second) in (
            ("carol", (desk, phone)),
            ("dave", (daves_desk, daves_phone)),
        ):
            first.create_account(username, PASSWORD)
            second.login(username, PASSWORD)
        entries = {
            # Each to its end, as who leaves such a loop is given the last entry again.
            name: device.entries(timeout=20, ack=False)
            for name, device in devices.items()
        }
        sent = desk.send("dave", "hello", copy=True)
        see("carol's desk", "carol's phone")
        mail = see("dave's desk", "dave's phone")[0]
        daves_desk.ack(mail.seq)
        see("carol's desk", "carol's phone", n=sent.n)
        daves_phone.send("carol", "well!", copy=True)
        # None of these is acked: the receipt of another ack comes a second later than the first.
        see("dave's desk", "carol's desk", "carol's phone", "dave's phone")

        whole = phone.history(peer="dave")
        earlier = phone.history(peer="dave", before=whole.messages[-1].seq)
        bodies, before = ([each.body for each in page.messages] for page in (whole, earlier))
        say(f"  on carol's phone the talk is {bodies}, and before that {before}")
        all_of_it = phone.history(kinds=EVERY_KIND)
        copies = [each for each in all_of_it.messages if each.kind is Kind.SENT]
        say(
            f"  on carol's phone there are {len(all_of_it.receipts)} receipt, {len(copies)} copy "
            f"and {len(all_of_it.messages) - len(copies)} message"
        )
        ann.send("carol", "and I?")
        for each in phone.conversations().conversations:
            say(f"  on carol's phone: {each.last.sender} wrote last, unread {each.unread}")
        daves_desk.block("carol")
        say(f"  on dave's phone: {' '.join(daves_phone.blocked())} is blocked")
        self.refused("carol, from her desk", lambda: desk.send("dave", "no", copy=True))
        daves_phone.unblock("carol")
        say(f"  on dave's desk: {' '.join(daves_desk.blocked()) or 'nobody'} is blocked")
        desk.send("dave", "again", copy=True)
        see("carol's phone", "carol's phone", "dave's phone")
        for each in (desk, phone, daves_desk, daves_phone):
            each.close()
        for name in DEVICES:
            assert len(list(entries[name])) <= 2, "what nobody has waited for"


def transcript(
    servers: Server | Sequence[Server],
    transport: str,
    watch: WatchMode,
    tls: ssl.SSLContext | None = None,
) -> str:
    """Have the story told, and return what was written down.

    Args:
        servers: one, or the nodes of a state: each client is then another one's than the last.
        transport: what the clients speak.
        watch: how they wait.
        tls: for their connections.
    """
    nodes = [servers] if isinstance(servers, Server) else servers
    places = itertools.cycle(node.endpoints[0] for node in nodes)
    settings = ClientSettings(poll_seconds=0.02)
    scenario = Scenario(
        lambda kinds: make_client(
            next(places), kinds=kinds, transport=transport, tls=tls, watch=watch, settings=settings
        )
    )
    try:
        scenario.play()
    finally:
        for client in scenario.clients:
            client.close()
    return "\n".join(scenario.lines) + "\n"
