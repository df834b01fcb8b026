"""Has metrics and health served while a server runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Final

from twinline.cli.server.metrics.http import Answer, HttpServer, Page
from twinline.cli.server.metrics.readiness import Facts, Readiness
from twinline.cli.server.metrics.shared import SharedLook
from twinline.cli.server.metrics.survey import Survey
from twinline.cli.settings.model import Settings
from twinline.core.events import METRICS_READY, emit
from twinline.core.metrics import Metrics
from twinline.core.store import Store
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Listener

_WRITTEN_SECONDS: Final = 0.2
"""Who asks more often than this gets the same text again."""
_PATIENCE_SECONDS: Final = 8.0


@contextmanager
def watched(
    settings: Settings, metrics: Metrics | None, listener: Listener, store: Store, *, index: int
) -> Iterator[Endpoint | None]:
    """Serve `/metrics`, `/healthz` and `/readyz` while the block runs, if the settings say where.

    Args:
        settings: all of them.
        metrics: what the listener and its service count in; None: nothing is served.
        listener: of the server.
        store: of the server.
        index: of the node, whose port is the setting's and so many more.

    Yields:
        Where they are, or None.

    Raises:
        EndpointError: it cannot be listened on.
    """
    if metrics is None or settings.metrics_listen is None:
        yield None
        return
    with Survey(store, listener) as survey:
        pages = partial(_pages, settings, metrics, listener, store, survey)
        with HttpServer(metrics_endpoint(settings, index), pages) as server:
            emit(METRICS_READY, endpoint=f"http://{server.endpoint.authority}")
            yield server.endpoint


def metrics_endpoint(settings: Settings, index: int) -> Endpoint:
    """Return where a node's metrics are: at the setting's port, and one more for each before it."""
    assert settings.metrics_listen is not None  # noqa: S101 - else there are none
    endpoint = Endpoint.parse(settings.metrics_listen)
    port = endpoint.port + index if endpoint.port else 0
    return Endpoint(endpoint.scheme, endpoint.host, port)


def _pages(
    settings: Settings, metrics: Metrics, listener: Listener, store: Store, survey: Survey
) -> Mapping[str, Answer]:
    # Imported here, for it needs prometheus-client, which is an extra.
    from twinline.cli.server.metrics.text import CONTENT_TYPE, Text  # noqa: PLC0415

    readiness = Readiness(listener, store, settings.ready_free_bytes)
    text = Text(metrics, survey)
    kind = settings.store.partition(":")[0]
    known: list[Facts] = []

    async def facts() -> Facts:
        health = await readiness.health()
        ready = not readiness.reasons(health)
        return Facts(version("twinline"), settings.listener, kind, ready, health)

    written = SharedLook("metrics text", lambda: text.write(known[-1]), _WRITTEN_SECONDS)

    async def metrics_page() -> Page:
        known[:] = [await facts()]
        return Page(await written.get(_PATIENCE_SECONDS), content_type=CONTENT_TYPE)

    async def healthz() -> Page:
        if listener.draining or await readiness.lives():
            return Page(b"ok\n")
        return _not("the thread that takes connections does not come round")

    async def readyz() -> Page:
        reasons = readiness.reasons(await readiness.health())
        return _not(*reasons) if reasons else Page(b"ready\n")

    return {"/metrics": metrics_page, "/healthz": healthz, "/readyz": readyz}


def _not(*reasons: str) -> Page:
    lines = "".join(f"{reason}\n" for reason in reasons)
    return Page(lines.encode(), HTTPStatus.SERVICE_UNAVAILABLE)
