"""`twinline serve`: a service over a store, listening until a signal ends it."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from twinline.cli.console.command import command, option
from twinline.cli.console.errors import SettingsError
from twinline.cli.console.output import OutputClosed, write_json, write_line
from twinline.cli.console.shapes import Listening
from twinline.cli.server.certificates import Certificates, files_of
from twinline.cli.server.hashing import BackgroundHasher
from twinline.cli.server.listeners import LISTENERS
from twinline.cli.server.log import server_log
from twinline.cli.server.process import server_process, signals_handled
from twinline.cli.server.reload import Reloader, Terminal, identities
from twinline.cli.server.trial import for_trial
from twinline.cli.settings.checks import check_settings
from twinline.cli.settings.model import Settings
from twinline.cli.settings.options import config_option, json_option, load_from, server_options
from twinline.core.locks import check_locks
from twinline.core.service import ChatService
from twinline.core.store import Store
from twinline.stores.registry import UnknownStore, open_store
from twinline.transports import wakeup
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Listener, Waker

log = logging.getLogger(__name__)


@command(
    example="twinline serve --listen tcp://127.0.0.1:7767 --store sqlite:chat.db",
    details="""
    Every flag is also a variable, as TWINLINE_LOG_LEVEL for --log-level, and a key in
    twinline.toml, as log_level. A second signal ends the server at once, with 128 plus the
    signal's number.

    SIGHUP reads the files of TLS again, for the connections that come from then on. A change of
    them is noticed without it, see reload_seconds.
    """,
)
@config_option
@json_option
@server_options
@option(
    "--self-signed",
    "trial_folder",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Make a certificate for a trial<, in DIR|: in DIR, with its key and the file that clients "
    "name by --ca-file, for the hosts of the tls:// and wss:// endpoints and for localhost. What "
    "is there and valid is used again. It needs the extra tls>.",
)
def serve(as_json: bool, trial_folder: Path | None, **options: Any) -> None:
    """Run a server until SIGTERM or Ctrl-C.

    Prints a line for each endpoint when it is ready; the log goes to stderr. A
    signal drains: nobody new is let in, replies in flight finish, and the exit
    code is 0. Every setting has a flag: --help-all shows them.
    """
    settings = load_from(options).settings
    ca_file = None
    if trial_folder is not None:
        settings, trial = for_trial(settings, trial_folder)
        ca_file = str(trial.ca)
    run_server(settings, on_ready=partial(_announce, as_json=as_json, ca_file=ca_file))


def run_server(settings: Settings, on_ready: Callable[[Listener, Settings, str], None]) -> None:
    """Serve until a signal, in the calling thread, which must be the main one.

    Args:
        settings: all of them.
        on_ready: called when connections are taken, with the listener, the settings and the
            store's durability.

    Raises:
        SettingsError: the settings ask for what is not safe, name no store, or a file of TLS
            cannot be used.
        EndpointError: an endpoint cannot be listened on.
    """
    endpoints = settings.endpoints()
    warnings = check_settings(settings, endpoints)
    if settings.check_locks:
        # Locks choose their kind when they are made, so before anything is built.
        check_locks(True)
    threads = settings.listener == "threads"
    terminal = Terminal()
    # First the process, whose threads are as they were started; then what has threads.
    with (
        server_process(one_processor=settings.one_processor, many_threads=threads) as descriptors,
        server_log(settings.log_level, settings.log_queue),
    ):
        for warning in warnings:
            log.warning("%s", warning)
        # Mail wakes a thread by descriptors of its connection, and an event loop by its own.
        to_wake = wakeup.DESCRIPTORS if threads else 0
        descriptors.log_for(settings.connections, to_wake=to_wake)
        with _opened(settings) as store:
            service = ChatService(store, settings, hasher=BackgroundHasher())
            _serve(service, settings, endpoints, terminal, on_ready)


def _serve(
    service: ChatService,
    settings: Settings,
    endpoints: Sequence[tuple[Endpoint, Transport]],
    terminal: Terminal,
    on_ready: Callable[[Listener, Settings, str], None],
) -> None:
    listens = LISTENERS[settings.listener]
    # Before they are read, so that no change of them is missed.
    since = identities(files_of(settings))
    with (
        Waker() as waker,
        listens(service, endpoints, settings, waker=waker) as listener,
        Reloader(
            [Certificates(listener)],
            settings.reload_seconds,
            since=since,
            hung_up=partial(_end_with, terminal, listener),
        ) as reloader,
        signals_handled(listener.stop, reloader.wake, waker.fileno()),
    ):
        on_ready(listener, settings, service.store.durability)
        listener.serve_forever()
        service.stop()


def _end_with(terminal: Terminal, listener: Listener) -> bool:
    """End the server if the terminal has hung up, and return whether it has."""
    hung_up = terminal.has_hung_up()
    if hung_up:
        log.info("the terminal has hung up")
        listener.stop()
    return hung_up


def _opened(settings: Settings) -> Store:
    try:
        return open_store(settings.store, settings)
    except UnknownStore as error:
        raise SettingsError(f"store: {error}") from None


def _announce(
    listener: Listener,
    settings: Settings,
    durability: str,
    *,
    as_json: bool,
    ca_file: str | None,
) -> None:
    # A server whose stdout has no reader serves all the same.
    with contextlib.suppress(OutputClosed):
        for endpoint in listener.endpoints:
            ready = Listening(
                endpoint=endpoint.place,
                transport=endpoint.transport or settings.transport,
                store=settings.store.partition(":")[0],
                durability=durability,
                ca_file=ca_file if endpoint.scheme.is_tls else None,
            )
            if as_json:
                write_json(ready)
            else:
                write_line(
                    f"listening on {ready.endpoint} transport={ready.transport} "
                    f"store={ready.store} durability={ready.durability}"
                )
        if ca_file is not None and not as_json:
            write_line(f"clients trust it with --ca-file {ca_file}")
