"""`twinline serve`: a service over a store, listening until a signal ends it."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twinline.cli.console.command import command
from twinline.cli.console.errors import SettingsError
from twinline.cli.console.output import OutputClosed, write_json, write_line
from twinline.cli.console.shapes import Listening
from twinline.cli.server.hashing import BackgroundHasher
from twinline.cli.server.listeners import LISTENERS
from twinline.cli.server.log import server_log
from twinline.cli.server.process import server_process, stopped_by_signals
from twinline.cli.settings.model import Settings, refuse_exposure
from twinline.cli.settings.options import config_option, json_option, load_from, server_options
from twinline.core.locks import check_locks
from twinline.core.service import ChatService
from twinline.core.store import Store
from twinline.stores.registry import UnknownStore, open_store
from twinline.transports import wakeup
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Listener, Waker


@command(
    example="twinline serve --listen tcp://127.0.0.1:7767 --store sqlite:chat.db",
    details="""
    Every flag is also a variable, as TWINLINE_LOG_LEVEL for --log-level, and a key in
    twinline.toml, as log_level. A second signal ends the server at once, with 128 plus the
    signal's number.
    """,
)
@config_option
@json_option
@server_options
def serve(as_json: bool, **options: Any) -> None:
    """Run a server until SIGTERM or Ctrl-C.

    Prints a line for each endpoint when it is ready; the log goes to stderr. A
    signal drains: nobody new is let in, replies in flight finish, and the exit
    code is 0. Every setting has a flag: --help-all shows them.
    """
    settings = load_from(options).settings
    run_server(settings, on_ready=partial(_announce, as_json=as_json))


def run_server(settings: Settings, on_ready: Callable[[Listener, Settings, str], None]) -> None:
    """Serve until a signal, in the calling thread, which must be the main one.

    Args:
        settings: all of them.
        on_ready: called when connections are taken, with the listener, the settings and the
            store's durability.

    Raises:
        SettingsError: the settings ask for what is not safe, or name no store.
        EndpointError: an endpoint cannot be listened on.
    """
    endpoints = settings.endpoints()
    refuse_exposure(settings, (endpoint for endpoint, _ in endpoints))
    if settings.check_locks:
        # Locks choose their kind when they are made, so before anything is built.
        check_locks(True)
    threads = settings.listener == "threads"
    # First the process, whose threads are as they were started; then what has threads.
    with (
        server_process(one_processor=settings.one_processor, many_threads=threads) as descriptors,
        server_log(settings.log_level, settings.log_queue),
    ):
        # Mail wakes a thread by descriptors of its connection, and an event loop by its own.
        to_wake = wakeup.DESCRIPTORS if threads else 0
        descriptors.log_for(settings.connections, to_wake=to_wake)
        with _opened(settings) as store:
            service = ChatService(store, settings, hasher=BackgroundHasher())
            _serve(service, settings, endpoints, on_ready)


def _serve(
    service: ChatService,
    settings: Settings,
    endpoints: Sequence[tuple[Endpoint, Transport]],
    on_ready: Callable[[Listener, Settings, str], None],
) -> None:
    listens = LISTENERS[settings.listener]
    with (
        Waker() as waker,
        listens(service, endpoints, settings, waker=waker) as listener,
        stopped_by_signals(listener.stop, waker.fileno()),
    ):
        on_ready(listener, settings, service.store.durability)
        listener.serve_forever()
        service.stop()


def _opened(settings: Settings) -> Store:
    try:
        return open_store(settings.store, settings)
    except UnknownStore as error:
        raise SettingsError(f"store: {error}") from None


def _announce(listener: Listener, settings: Settings, durability: str, *, as_json: bool) -> None:
    # A server whose stdout has no reader serves all the same.
    with contextlib.suppress(OutputClosed):
        for endpoint in listener.endpoints:
            ready = Listening(
                endpoint=str(endpoint).partition("?")[0],
                transport=endpoint.transport or settings.transport,
                store=settings.store.partition(":")[0],
                durability=durability,
            )
            if as_json:
                write_json(ready)
            else:
                write_line(
                    f"listening on {ready.endpoint} transport={ready.transport} "
                    f"store={ready.store} durability={ready.durability}"
                )
