"""Times to wait that are too long for the system, or no times at all."""

import math

import pytest
from client_kit import FAST, make_client, user
from pydantic import ValidationError
from servers import Site

from twinline.core.errors import BadRequest
from twinline.core.settings import ServiceSettings
from twinline.core.store import MailboxPolicy
from twinline.transports.client import ClientSettings, NotConnected
from twinline.transports.endpoints import EndpointError
from twinline.transports.listener import ListenerSettings

MODELS = (ClientSettings, ListenerSettings, ServiceSettings, MailboxPolicy)
WRONG_TIMES = [
    (model, name, value)
    for model in MODELS
    for name, field in model.model_fields.items()
    if field.annotation is float
    for value in (1e10, math.nan, math.inf, -1)
    if (name, value) != ("sends_per_second", 1e10)  # a rate, for which no bound is too high
]


@pytest.mark.parametrize(("model", "name", "value"), WRONG_TIMES)
def test_every_time_of_a_model_has_bounds(model: type, name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=name):
        model(**{name: value})


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize("timeout", [math.nan, "5", b"5", [5]])
def test_a_timeout_that_is_no_number_is_refused(site: Site, timeout: object) -> None:
    with user(site.endpoint, "ann") as ann:
        with pytest.raises(BadRequest, match="timeout: a number of seconds"):
            ann.connect(timeout)
        with pytest.raises(BadRequest, match="timeout: a number of seconds"):
            next(iter(ann.messages(timeout)))
        ann.send("ann", "hello")  # no loop is left in the way
        assert next(iter(ann.messages(5))).body == "hello"


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize("timeout", [1e10, 1e300, math.inf, None])
def test_a_timeout_may_be_long(site: Site, timeout: float | None) -> None:
    with user(site.endpoint, "ann") as ann:
        ann.connect(timeout)
        ann.send("ann", "hello")
        assert next(iter(ann.messages(timeout))).body == "hello"
    with make_client(site.endpoint, settings=FAST) as client:
        client.connect(timeout)


@pytest.mark.usefixtures("both_clients")
def test_a_timeout_below_nothing_is_nothing(site: Site) -> None:
    with make_client(site.endpoint, settings=FAST) as client, pytest.raises(NotConnected):
        client.connect(-1)
    with user(site.endpoint, "ann") as ann:
        assert list(ann.messages(-1)) == []


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize(
    "endpoint", ["tcp://a..b:1", "tcp://xn--é:1", "tcp://127.0.0.1:0", None, []]
)
def test_an_endpoint_is_checked_when_a_client_is_made(endpoint: object) -> None:
    with pytest.raises(EndpointError):
        make_client(endpoint)
