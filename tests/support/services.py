"""Services for tests: the real rules over the in-memory store, with the cheapest hash."""

from collections import Counter
from typing import Any

from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST

from twinline.core.metrics import Metrics
from twinline.core.protocol import Kinds
from twinline.core.service import ChatService
from twinline.core.session import Session
from twinline.core.settings import ServiceSettings
from twinline.core.store import MailboxPolicy, Store, Unsubscribe
from twinline.core.waiting import Wake
from twinline.stores.memory import MemoryStore

PASSWORD = "correct horse"
START_MS = 1_700_000_000_000


class FakeClock:
    """A wall clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = START_MS

    def __call__(self) -> int:
        return self.now

    def forward(self, *, days: float = 0, hours: float = 0, seconds: float = 0) -> None:
        """Let time pass."""
        self.now += round(((days * 24 + hours) * 3600 + seconds) * 1000)


def cheap_hasher() -> PasswordHasher:
    """Return argon2id with parameters that are good for nothing but tests."""
    return PasswordHasher.from_parameters(CHEAPEST)


def make_service(
    *,
    policy: MailboxPolicy | None = None,
    clock: FakeClock | None = None,
    store: Store | None = None,
    metrics: Metrics | None = None,
    **settings: object,
) -> ChatService:
    """Return a service over a new in-memory store, or another one."""
    return ChatService(
        store or MemoryStore(policy or MailboxPolicy()),
        ServiceSettings.model_validate(settings),
        clock=clock or FakeClock(),
        hasher=cheap_hasher(),
        metrics=metrics,
    )


def enter(service: ChatService, username: str) -> Session:
    """Create an account and return a session that is logged in to it."""
    session = service.session("127.0.0.1")
    service.create_account(session, username, PASSWORD)
    return session


def login(service: ChatService, username: str) -> Session:
    """Return another session of an account."""
    session = service.session("127.0.0.1")
    service.login(session, username, PASSWORD)
    return session


def count_subscriptions(service: ChatService) -> Counter[str | bytes]:
    """Return how many subscriptions are open from now on, by account id and by token hash."""
    opened: Counter[str | bytes] = Counter()

    def counting(half: Any, name: str) -> None:
        subscribe = getattr(half, name)

        def counted(key: str | bytes, wake: Wake, *kinds: Kinds) -> Unsubscribe:
            unsubscribe = subscribe(key, wake, *kinds)
            opened[key] += 1
            ended: list[bool] = []

            def end() -> None:
                opened[key] -= not ended
                ended.append(True)
                unsubscribe()

            return end

        setattr(half, name, counted)

    counting(service.store.mailboxes, "on_mail")
    counting(service.store.accounts, "on_session_end")
    return opened


def bodies(service: ChatService, session: Session, after: int = 0) -> list[str]:
    """Return what lies in a mailbox beyond a seq."""
    return [message.body for message in service.watch(session, after).messages]
