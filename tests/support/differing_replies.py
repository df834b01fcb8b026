"""The same requests of several services, in several ways: where do their replies differ?

The requests are data, drawn at random from few names, bodies, send_ids and seqs, so that they meet.
Of each service and each way in there are accounts of their own, and all of these ask one thing
after the other; what they are told must be the same, but for the names and the ids. The
clock stands still while they ask. Receipts are off: one comes when it does, and takes a seq.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any, Final

from listening import Server, Speaker
from looped_client import LoopedClient, LoopThread
from services import PASSWORD, FakeClock

from twinline.core import protocol
from twinline.core.errors import RequestError
from twinline.transports.client import Client
from twinline.transports.endpoints import Endpoint

PEOPLE: Final = ("ann", "bob", "carl")
_NOBODY: Final = "nobody"
ENDPOINTS: Final = (("tcp://127.0.0.1:0", "auto"), ("ws://127.0.0.1:0", "auto"))
"""Where a service listens, for all ways in."""
_KINDS: Final = (None, ["mail"], ["sent"], ["mail", "sent"], ["receipt"], ["sent", "receipt"])

Asked = tuple[str, str, dict[str, Any]]
"""Who asks, the name of the request, and its fields: of a name what is behind the prefix, of an
account whose it is, and of a message how many were sent before it."""


def drawn(seed: int) -> list[Asked]:
    """Return some requests."""
    random = Random(seed)
    who = (*PEOPLE, *PEOPLE, _NOBODY)
    seqs = (0, 1, 2, 3, 5, 8, 99)
    limits = (1, 2, 50)

    def send() -> dict[str, Any]:
        fields = {"to": random.choice(who), "body": random.choice(("hello", "é👋", "\0 x", ""))}
        return {**fields, "send_id": random.choice("xyz"), "copy": random.choice((True, False))}

    def watch() -> dict[str, Any]:
        fields = {"limit": random.choice(limits), "kinds": random.choice(_KINDS) or ["mail"]}
        if random.choice((True, False)):
            return {**fields, "after": random.choice(seqs)}
        # Where the ack is good and the place to read from is not, it is acked or not.
        return {**fields, "after": 0, "ack": random.choice(seqs)}

    draws: dict[str, Callable[[], dict[str, Any]]] = {
        "send": send,
        "watch": watch,
        "ack": lambda: {"up_to": random.choice(seqs)},
        "history": lambda: {
            "before": random.choice((None, *seqs)),
            "limit": random.choice(limits),
            "with": random.choice((None, *who)),
            "account": random.choice((None, None, None, *PEOPLE, "0")),
            "kinds": random.choice(_KINDS),
        },
        "conversations": lambda: {
            "before": random.choice((None, None, *seqs)),
            "limit": random.choice(limits),
        },
        "block": lambda: {"username": random.choice(who)},
        "unblock": lambda: {"username": random.choice(who)},
        "list_blocked": dict,
        "set_receipts": lambda: {"receipts": False},
        "delete_messages": lambda: {"seqs": random.sample(seqs, random.randint(1, 3))},
        "trace": lambda: {"message_id": random.randint(0, 9), "to": random.choice(who)},
        "status": dict,
        "list_accounts": lambda: {
            "pattern": random.choice(("*", "a*", "?ob")),
            "after": random.choice((None, "ann", "bob")),
            "limit": random.choice(limits),
        },
    }
    weights = [8 if name == "send" else 2 if name in {"history", "watch"} else 1 for name in draws]
    names = random.choices(list(draws), weights, k=random.randint(15, 40))
    return [(random.choice(PEOPLE), name, draws[name]()) for name in names]


_REQUESTS: Final = {each.op: each for each in protocol.REQUESTS}
_WITH_NAMES: Final = ("to", "with", "username", "after")


class Talk:
    """The accounts that ask in one way, and what they were told."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._ids: dict[str, str] = {}
        self._accounts: dict[str, str] = {}

    def meet(self) -> None:
        """Learn the accounts' ids, when all are made."""
        for who in PEOPLE:
            page = self.told(who, protocol.History(with_=self.name(who)))
            assert isinstance(page, protocol.HistoryReply)
            assert page.account is not None
            self._accounts[who] = page.account

    def enter(self, who: str) -> None:
        """Have one of the accounts made, which gives no receipts."""
        raise NotImplementedError

    def told(self, who: str, request: protocol.Request) -> object:
        """Ask, and return a reply; None where this way has no such request.

        Raises:
            RequestError: it is refused.
        """
        raise NotImplementedError

    def name(self, who: str) -> str:
        """Return an account's name."""
        return f"{self._prefix}{who}"

    def ask(self, who: str, name: str, fields: Mapping[str, Any]) -> str | None:
        """Ask, and return what was said without what is of this way alone."""
        named: dict[str, Any] = {key: to for key, to in fields.items() if to is not None}
        for key in {*_WITH_NAMES} & named.keys():
            if isinstance(named[key], str):
                named[key] = self.name(named[key])
        if "account" in named:
            named["account"] = self._accounts.get(named["account"], named["account"])
        if "pattern" in named:
            named["pattern"] = self.name(named["pattern"])
        if "message_id" in named:
            sent = [*self._ids] or ["0" * 24]
            named["message_id"] = sent[-1 - named["message_id"] % len(sent)]
        try:
            reply = self.told(who, _REQUESTS[name].model_validate(named))
        except RequestError as error:
            return f"{error.code} {error.count}"
        if isinstance(reply, protocol.ErrorReply):
            return f"{reply.code} {reply.count}"
        if reply is None:
            return None
        if isinstance(reply, protocol.SentReply):
            self._ids.setdefault(reply.message_id, f"#{len(self._ids)}")
        assert isinstance(reply, protocol.Reply)
        text = json.dumps(reply.model_dump(mode="json"), ensure_ascii=False)
        for own, shown in self._ids.items():
            text = text.replace(own, shown)
        for whose, account in self._accounts.items():
            text = text.replace(account, f"the id of {whose}")
        return text.replace(self._prefix, "")


class Spoken(Talk):
    """Accounts whose requests a codec writes, each on a connection of its own."""

    def __init__(self, spoken: str, places: Iterator[Endpoint], prefix: str) -> None:
        super().__init__(prefix)
        self._spoken = spoken
        self._places = places
        self._speakers: dict[str, Speaker] = {}

    def enter(self, who: str) -> None:
        speaker = self._speakers[who] = Speaker(next(self._places), self._spoken)
        made = protocol.CreateAccount(username=self.name(who), password=PASSWORD)
        for request in (made, protocol.SetReceipts(receipts=False)):
            reply = speaker.ask(request)
            assert not isinstance(reply, protocol.ErrorReply), reply

    def told(self, who: str, request: protocol.Request) -> object:
        return self._speakers[who].ask(request)

    def close(self) -> None:
        """Close the connections."""
        for speaker in self._speakers.values():
            speaker.socket.close()


# What a client is called for a request; it watches by itself, and here no more than acks.
_CALLS: Final[dict[str, Callable[[Client, Any], object]]] = {
    "send": lambda client, it: client.send(it.to, it.body, it.send_id, copy=it.copy_),
    "ack": lambda client, it: client.ack(it.up_to),
    "history": lambda client, it: client.history(
        it.before, it.limit, peer=it.with_, account=it.account, kinds=it.kinds
    ),
    "conversations": lambda client, it: client.conversations(it.before, it.limit),
    "block": lambda client, it: client.block(it.username),
    "unblock": lambda client, it: client.unblock(it.username),
    "list_blocked": lambda client, _: protocol.BlockedReply(usernames=client.blocked()),
    "set_receipts": lambda client, it: client.set_receipts(it.receipts),
    "delete_messages": lambda client, it: protocol.DeletedReply(
        deleted=client.delete_messages(it.seqs)
    ),
    "trace": lambda client, it: client.trace(it.message_id, it.to),
    "status": lambda client, _: client.status(),
    "list_accounts": lambda client, it: client.list_accounts(it.pattern, it.after, it.limit),
}


class Called(Talk):
    """Accounts that a client serves each, of either kind."""

    def __init__(
        self, kind: Callable[..., Client], transport: str, places: Iterator[Endpoint], prefix: str
    ) -> None:
        super().__init__(prefix)
        self._make = lambda: kind(next(places), transport=transport)
        self._clients: dict[str, Client] = {}

    def enter(self, who: str) -> None:
        client = self._clients[who] = self._make()
        client.create_account(self.name(who), PASSWORD)
        client.set_receipts(False)

    def told(self, who: str, request: protocol.Request) -> object:
        client = self._clients[who]
        if isinstance(request, protocol.Watch):
            if request.ack is not None:
                client.ack(request.ack)
            return None
        found = _CALLS[request.op](client, request)
        return protocol.Done() if found is None else found

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients.values():
            client.close()


_numbers = itertools.count(1)


@contextmanager
def ways_in(servers: Sequence[Server]) -> Iterator[dict[str, Talk]]:
    """Yield every way to ask some servers of one state, in turn; all is closed in the end."""

    def places(which: int) -> Iterator[Endpoint]:
        return itertools.cycle([server.endpoints[which] for server in servers])

    def prefix() -> str:
        return f"w{next(_numbers)}."

    ways: dict[str, Spoken | Called] = {
        spoken: Spoken(spoken, places(0), prefix()) for spoken in ("jsonl", "binary")
    }
    for name, kind, transport, which in (
        ("client", Client, "jsonl", 0),
        ("client, binary over websocket", Client, "binary", 1),
        ("async client, binary", LoopedClient, "binary", 0),
        ("async client, over websocket", LoopedClient, "jsonl", 1),
    ):
        ways[name] = Called(kind, transport, places(which), prefix())
    try:
        yield dict(ways)
    finally:
        for way in ways.values():
            way.close()


def compare(servers: Mapping[str, Sequence[Server]], clock: FakeClock, seeds: Iterable[int]) -> int:
    """Ask all the same, in every way, and return how many replies were compared.

    Args:
        servers: by the name of what they keep their state in; of some there are several.
        clock: theirs.
        seeds: of the sequences.

    Raises:
        AssertionError: two differ; the text has all that was asked until then.
    """
    compared = 0
    LoopedClient.thread = LoopThread()
    try:
        for seed in seeds:
            with ExitStack() as opened:
                ways = {
                    f"{store}, {name}": way
                    for store, nodes in servers.items()
                    for name, way in opened.enter_context(ways_in(nodes)).items()
                }
                compared += _ask(ways, clock, seed)
    finally:
        LoopedClient.thread.close()
        del LoopedClient.thread
    return compared


def _ask(ways: Mapping[str, Talk], clock: FakeClock, seed: int) -> int:
    for way in ways.values():
        for who in PEOPLE:
            way.enter(who)
        way.meet()
    log: list[str] = []
    compared = 0
    for who, name, fields in drawn(seed):
        clock.forward(seconds=1)
        log.append(f"{who}: {name} {fields}")
        found = {key: way.ask(who, name, fields) for key, way in ways.items()}
        replies = {key: reply for key, reply in found.items() if reply is not None}
        compared += len(replies)
        told = "\n".join([f"by the requests of seed {seed}:", *log])
        assert len({*replies.values()}) == 1, "\n".join(
            [told, *(f"{key}: {reply}" for key, reply in replies.items())]
        )
    return compared
