"""The engine over TLS, where it proves itself and asks for a certificate."""

import threading
from pathlib import Path

import pytest
from certificates import Certificates
from store_samples import draft
from valkey_engine import REDIS, StartEngine, ValkeyEngine, free_port, missing
from waiting import wait_event

from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.valkey import ValkeyStore

pytestmark = pytest.mark.skipif(missing(REDIS) is not None, reason=str(missing(REDIS)))


@pytest.fixture
def engine(start_valkey: StartEngine, certificates: Certificates) -> ValkeyEngine:
    """A server that takes TLS, of those who have a certificate."""
    issued = certificates.server
    return start_valkey(
        REDIS,
        tls_port=free_port(),
        tls_cert_file=issued.certificate,
        tls_key_file=issued.key,
        tls_ca_cert_file=certificates.ca.file,
    )


def url(engine: ValkeyEngine, ca: Path, certificates: Certificates) -> str:
    port, ann = engine._settings["tls-port"], certificates.ann
    return f"rediss://127.0.0.1:{port}?cafile={ca}&certfile={ann.certificate}&keyfile={ann.key}&prefix=tls:"


def test_mail_and_its_notices_go_over_tls(engine: ValkeyEngine, certificates: Certificates) -> None:
    where = url(engine, certificates.ca.file, certificates)
    with ValkeyStore.open(where) as here, ValkeyStore.open(where) as there:
        here.mailboxes.create("bob")
        for number in range(20):
            woken = threading.Event()
            unsubscribe = there.mailboxes.on_mail("bob", woken.set)
            here.mailboxes.append("bob", draft("x" * 3_000 * number))
            wait_event(woken, "mail wakes the other node", 5)
            unsubscribe()
        assert len(there.mailboxes.read("bob", 0, 99, 10**6).messages) == 20


def test_an_engine_that_does_not_prove_itself_is_refused(
    engine: ValkeyEngine, certificates: Certificates
) -> None:
    with pytest.raises(StoreNotOpened, match="CERTIFICATE_VERIFY_FAILED"):
        ValkeyStore.open(url(engine, certificates.other_ca.file, certificates))
