"""The same requests in every way in, of services in memory and in SQLite: the same replies."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from differing_replies import ENDPOINTS, compare
from listening import Server, serving
from services import FakeClock, make_service
from shared_memory import open_first, open_more

from twinline.core.protocol import ConversationsReply
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.store import MailboxPolicy
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore, Synchronous

POLICY = MailboxPolicy(mailbox_messages=6, history_messages=4)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def servers(clock: FakeClock, tmp_path: Path) -> Iterator[dict[str, list[Server]]]:
    """Of each store the servers that have it."""
    first = open_first(POLICY)
    sqlite = SqliteStore(tmp_path / "chat.db", POLICY, synchronous=Synchronous.NORMAL)
    with ExitStack() as opened:
        found = {}
        for name, stores in {
            "memory": [MemoryStore(POLICY)],
            "sqlite": [sqlite],
            "two nodes": [first, *open_more(first, POLICY, 1)],
        }.items():
            found[name] = []
            for each in stores:
                opened.enter_context(each)
                service = make_service(store=each, clock=clock, registrations_per_hour=10_000)
                found[name].append(opened.enter_context(serving(ENDPOINTS, service)))
        yield found


@pytest.mark.usefixtures("each_listener")
def test_all_ways_in_are_told_the_same(servers: dict[str, list[Server]], clock: FakeClock) -> None:
    assert compare(servers, clock, range(4)) > 500


def keeps_no_copy(service: ChatService) -> tuple[str, Any]:
    def send(session: Session, to: str, body: str, send_id: str | None = None, **_: object) -> Any:
        return ChatService.send(service, session, to, body, send_id)

    return "send", send


def takes_mail_alone(service: ChatService) -> tuple[str, Any]:
    def history(*where: Any, kinds: object = None, **peer: Any) -> Any:
        return ChatService.history(service, *where, **peer)

    return "history", history


def takes_who_has_the_name(service: ChatService) -> tuple[str, Any]:
    def history(*where: Any, account: object = None, **others: Any) -> Any:
        return ChatService.history(service, *where, **others)

    return "history", history


def counts_nothing_unread(service: ChatService) -> tuple[str, Any]:
    def conversations(*where: Any) -> ConversationsReply:
        reply = ChatService.conversations(service, *where)
        talks = [each.model_copy(update={"unread": 0}) for each in reply.conversations]
        return reply.model_copy(update={"conversations": tuple(talks)})

    return "conversations", conversations


@pytest.mark.parametrize(
    "fault", [keeps_no_copy, takes_mail_alone, takes_who_has_the_name, counts_nothing_unread]
)
def test_a_service_that_tells_otherwise_is_found(
    servers: dict[str, list[Server]],
    clock: FakeClock,
    fault: Callable[[ChatService], tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = servers["sqlite"][0].service
    monkeypatch.setattr(service, *fault(service))
    with pytest.raises(AssertionError, match="sqlite, jsonl: "):
        compare(servers, clock, range(12))
