"""Runs tests of the clients over another scheme: `pytest --over tls tests/transports/client`.

The sites of these tests then listen at it, and the fault proxies before them pass on what they do
not understand. The authority of the tests' certificates is the system's, for OpenSSL.
"""

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any, ClassVar

import pytest

SCHEMES = ("tls", "ws", "wss")
# What is about one of them itself.
_OF_ONE = {
    "*::test_a_handler_that_raises_gets_that_message_again_and_no_other*": "reads the wire",
    "*::test_the_loop_is_never_held_up*": "names a host that no certificate is for",
    "*::test_the_attempts_that_lost*": "names a host that no certificate is for",
    "*::test_a_transport_that_makes_no_codec*": "has a transport that is not WebSocket's",
    "*::test_an_account_id_that_nobody_can_have_is_refused*": "speaks to its server by itself",
    "*/test_connecting.py::*": "names a host that no certificate is for",
    "*/client/test_tls.py::*": "is over TLS anyway",
    "*/client/test_websocket.py::*": "is over WebSocket anyway",
}


class Over:
    """What sites listen at where a test says TCP.

    Attributes:
        scheme: instead of ``tcp``.
        settings: of their listeners, beside those of the test.
    """

    scheme = "tcp"
    settings: ClassVar[dict[str, str]] = {}

    @classmethod
    def place(cls, endpoint: str) -> str:
        """Return an endpoint with the scheme that is tested."""
        return f"{cls.scheme}:{endpoint[4:]}" if endpoint.startswith("tcp:") else endpoint


def add_option(parser: pytest.Parser) -> None:
    """Let the command line say which."""
    parser.addoption("--over", choices=SCHEMES, help="have the clients' sites listen at it")


def deselect(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about one scheme, where another one is asked for."""
    if config.getoption("--over") is None:
        return
    left = [item for item in items if not any(fnmatch(item.nodeid, each) for each in _OF_ONE)]
    config.hook.pytest_deselected(items=[item for item in items if item not in left])
    items[:] = left


@pytest.fixture(scope="session", autouse=True)
def over(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have the sites listen as the command line says."""
    scheme = request.config.getoption("--over")
    if scheme is None:
        yield
        return
    certificates: Any = request.getfixturevalue("certificates")
    shown = certificates.server
    Over.scheme = scheme
    Over.settings = {"tls_certificate": str(shown.certificate), "tls_key": str(shown.key)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(certificates.ca.file))
        yield
