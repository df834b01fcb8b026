"""All clients come back at once: those who are let in are served soon, the others told at once."""

import threading
import time
from contextlib import ExitStack
from selectors import EVENT_READ, DefaultSelector

import pytest
from listening import serving
from services import PASSWORD, cheap_hasher, enter

from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.store import SessionKey, SessionRecord
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.accounts import MemoryAccounts

pytestmark = pytest.mark.usefixtures("each_listener")
RATE = 400
"""Resumes a second that the store serves, whoever asks."""
COME = 500


class SlowAccounts(MemoryAccounts):
    """Finds sessions one after the other; a resume looks for its session twice."""

    turn: threading.Lock
    slow = False

    def find_session(self, key: SessionKey) -> SessionRecord | None:
        if self.slow:
            with self.turn:
                time.sleep(1 / RATE / 2)
        return super().find_session(key)


def slow_service(seconds: float) -> tuple[ChatService, SlowAccounts, str]:
    """Return a service that lets in who is served within so many seconds, and a session's token."""
    store = MemoryStore()
    accounts = store.accounts
    accounts.__class__ = SlowAccounts
    assert isinstance(accounts, SlowAccounts)
    accounts.turn, store.blocks = threading.Lock(), True
    service = ChatService(store, ServiceSettings(admission_seconds=seconds), hasher=cheap_hasher())
    enter(service, "ann")
    return service, accounts, service.login(service.session(), "ann", PASSWORD).session


def test_a_storm_is_let_in_as_far_as_it_is_served_soon() -> None:
    seconds = 0.4
    service, accounts, token = slow_service(seconds)
    with serving(service=service, login_seconds=60) as server, ExitStack() as stack:
        peers = [stack.enter_context(server.peer()) for _ in range(COME)]
        selector = stack.enter_context(DefaultSelector())
        for peer in peers:
            selector.register(peer.socket, EVENT_READ, peer)
        server.wait_connections(COME)
        accounts.slow = True
        came, served, refused = [], [], []
        for peer in peers:
            came.append(time.monotonic())
            peer.send_line(op="resume", id=1, session=token)
        while selector.get_map():
            found = selector.select(20)
            assert found, "some are not answered"
            for key, _ in found:
                reply, now = key.data.read_line(), time.monotonic()
                wait = now - came[peers.index(key.data)]
                (served if reply["ok"] else refused).append((wait, reply))
                selector.unregister(key.fileobj)
        accounts.slow = False
        # As many as were served while the others came, and those of the time that is set; on a
        # machine that has much else to do that may be few.
        assert len(served) >= 30
        assert refused
        assert max(wait for wait, _ in served) < seconds * 3
        assert {reply["error"]["code"] for _, reply in refused} == {"busy"}
        # Who is refused waits for nobody who is served, and not for the store.
        middle = sorted(wait for wait, _ in refused)[len(refused) // 2]
        assert middle < seconds
        later = [reply["error"]["retry_after_ms"] for _, reply in refused]
        assert len(set(later)) > len(later) // 2
        # In the end everybody is served.
        assert peers[0].ask("ping")["ok"]
        late = stack.enter_context(server.peer())
        assert late.ask("resume", session=token)["ok"]


def test_nobody_is_refused_by_a_server_that_has_time() -> None:
    service, _, token = slow_service(2)
    with serving(service=service) as server, ExitStack() as stack:
        peers = [stack.enter_context(server.peer()) for _ in range(100)]
        for peer in peers:
            peer.send_line(op="resume", id=1, session=token)
        assert all(peer.read_line()["ok"] for peer in peers)
