"""Who may create an account, and how many."""

import pytest
from services import PASSWORD, cheap_hasher, login

from twinline.core.errors import RateLimited, RegistrationClosed, UsernameTaken
from twinline.core.service import ChatService
from twinline.core.settings import Registration, ServiceSettings
from twinline.stores.memory import MemoryStore


def test_registrations_are_counted_by_address_and_hour() -> None:
    now = [0.0]
    service = ChatService(
        MemoryStore(),
        ServiceSettings(registrations_per_hour=3),
        monotonic=lambda: now[0],
        hasher=cheap_hasher(),
    )
    names = iter(range(1_000))

    def register(address: str) -> None:
        service.create_account(service.session(address), f"user{next(names)}", PASSWORD)

    service.add_account("ann", PASSWORD)
    with pytest.raises(UsernameTaken):  # costs no hash, and does not count
        service.create_account(service.session("192.0.2.1"), "ann", PASSWORD)
    for minute in range(3):
        now[0] = minute * 60
        register("192.0.2.1")
        register(f"2001:db8:0:1::{minute}")
    for address in ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8:0:1:f::"):
        with pytest.raises(RateLimited) as refused:
            register(address)
        assert refused.value.retry_after_ms == (3_600 - 120) * 1_000
    register("2001:db8:0:2::1")
    for address in ("", "unix", "127.0.0.1", "::1"):
        for _ in range(5):
            register(address)
    now[0] = 3_600
    register("192.0.2.1")
    with pytest.raises(RateLimited) as refused:
        register("192.0.2.1")
    assert refused.value.retry_after_ms == 60_000


def test_with_registration_closed_only_the_operator_creates_accounts() -> None:
    settings = ServiceSettings(registration=Registration.CLOSED)
    service = ChatService(MemoryStore(), settings, hasher=cheap_hasher())
    for username in ("ann", "not a name"):
        with pytest.raises(RegistrationClosed):
            service.create_account(service.session("127.0.0.1"), username, PASSWORD)
    service.add_account("ann", PASSWORD)
    assert service.status(login(service, "ann")).username == "ann"
