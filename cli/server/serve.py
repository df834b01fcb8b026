"""`twinline serve`: a service over a store, listening until a signal ends it."""

import contextlib
import grp
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from twinline.cli.console.command import command, option
from twinline.cli.console.errors import SettingsError
from twinline.cli.console.output import OutputClosed, write_json, write_line
from twinline.cli.console.shapes import Listening
from twinline.cli.server.admin.desk import Desk, Doors
from twinline.cli.server.admin.peers import AdminSocket
from twinline.cli.server.certificates import Certificates, files_of
from twinline.cli.server.hashing import BackgroundHasher
from twinline.cli.server.health import Watchman, comes_round
from twinline.cli.server.listeners import LISTENERS
from twinline.cli.server.log import LogInForce, log_of
from twinline.cli.server.metrics import watched
from twinline.cli.server.nodes import run_nodes
from twinline.cli.server.place import Place, own_name
from twinline.cli.server.process import server_process, signals_handled
from twinline.cli.server.reload import Identity, Part, Reloader, Terminal, identities
from twinline.cli.server.settings_in_force import FIXED, SettingsFile, SettingsInForce, Source
from twinline.cli.server.systemd import Notifier, status_of
from twinline.cli.server.trial import for_trial
from twinline.cli.settings.checks import check_settings, own_place
from twinline.cli.settings.model import Settings
from twinline.cli.settings.options import config_option, json_option, origin_of, server_options
from twinline.core import events
from twinline.core.events import emit
from twinline.core.locks import check_locks
from twinline.core.metrics import Metrics
from twinline.core.service import ChatService
from twinline.core.store import Store
from twinline.stores.registry import UnknownStore, is_shared, open_store
from twinline.stores.sqlite import SchemaTooNew
from twinline.transports import wakeup
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint, EndpointError
from twinline.transports.listener import Listener, Waker
from twinline.transports.tls import TlsFilesError

log = logging.getLogger(__name__)

OnReady = Callable[[Sequence[Endpoint], Settings, str], None]
Orders = Callable[[Callable[[], None], Callable[[], None]], AbstractContextManager[None]]
"""Has a server stop, or read its files again, by calling these while its context is entered."""


@command(
    example="twinline serve --listen tcp://127.0.0.1:7767 --store sqlite:chat.db",
    details="""
    Every flag is also a variable, as TWINLINE_LOG_LEVEL for --log-level, and a key in
    twinline.toml, as log_level. A second signal ends the server at once, with 128 plus the
    signal's number.

    SIGHUP reads the settings file and the files of TLS again. What can change while the server
    runs is in force from then on, and the log names what cannot; 'twinline config explain' says
    which. A change of the files is noticed without it, see reload_seconds.
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
    systemd = Notifier()
    origin = origin_of(options)
    source = SettingsFile(origin, trial_folder)
    # Before it is read, so that no change of it is missed.
    since = identities(source.files())
    settings = origin.load().settings
    ca_file = None
    if trial_folder is not None:
        settings, trial = for_trial(settings, trial_folder)
        ca_file = str(trial.ca)
    announce = partial(_announce, as_json=as_json, ca_file=ca_file)
    run = run_nodes if settings.nodes > 1 else run_server
    run(settings, announce, source=source, since=since, systemd=systemd)


def run_server(
    settings: Settings,
    on_ready: OnReady,
    *,
    place: Place | None = None,
    orders: Orders | None = None,
    source: Source = FIXED,
    since: Mapping[str, Identity] | None = None,
    drain: Callable[[], object] | None = None,
    systemd: Notifier | None = None,
) -> None:
    """Serve until a signal, in the calling thread, which must be the main one.

    Args:
        settings: all of them.
        on_ready: called when connections are taken, with the endpoints, the settings and the
            store's durability.
        place: which of several nodes this is; None for a server that is alone.
        orders: of who has started it; None: there are none but signals.
        source: where the settings are read again from.
        since: what its files were like before they were read.
        drain: has all servers of this one's parent drain; None: it has none, and drains itself.
        systemd: what is told of each step; None: nobody is.

    Raises:
        SettingsError: the settings ask for what is not safe, name no store, or a file of TLS
            cannot be used.
        EndpointError: an endpoint cannot be listened on.
        ClockRefused: this machine's clock is far off the store's, at the start or later.
        CommandError: the store does not answer at the start.
    """
    endpoints = settings.endpoints()
    # Whoever has started several nodes has checked them.
    warnings = check_settings(settings, endpoints) if place is None else []
    index = None if place is None else place.index
    if place is None:
        place = Place(settings.node or (own_name() if is_shared(settings.store) else None))
    if settings.check_locks:
        # Locks choose their kind when they are made, so before anything is built.
        check_locks(True)
    threads = settings.listener == "threads"
    terminal = Terminal()
    # First the process, whose threads are as they were started; then what has threads.
    with (
        server_process(
            one_processor=settings.one_processor, many_threads=threads, index=index
        ) as descriptors,
        log_of(settings, place.name) as logged,
    ):
        for warning in warnings:
            log.warning("%s", warning)
        # Mail wakes a thread by descriptors of its connection, and an event loop by its own.
        to_wake = wakeup.DESCRIPTORS if threads else 0
        descriptors.log_for(settings.connections, to_wake=to_wake)
        with _opened(settings) as store:
            hasher = BackgroundHasher(place.threads_to_hash)
            _tell_start(settings, endpoints, store.durability)
            # Where nobody is to read it, nothing is counted.
            metrics = None if settings.metrics_listen is None else Metrics(settings.metrics_sample)
            service = ChatService(store, settings, hasher=hasher, node=place.name, metrics=metrics)
            server = Server(
                service,
                settings,
                endpoints,
                logged=logged,
                source=source,
                since=since or {},
                metrics=metrics,
                index=index or 0,
                systemd=systemd or Notifier({}),
            )
            server.run(
                terminal,
                on_ready,
                orders,
                # Of several nodes each has its own.
                partial(_admin_socket, settings, service, place, alone=orders is None, drain=drain),
            )


class Server:
    """A service that is served: what serves it, and what is read again meanwhile."""

    def __init__(
        self,
        service: ChatService,
        settings: Settings,
        endpoints: Sequence[tuple[Endpoint, Transport]],
        *,
        logged: LogInForce,
        source: Source,
        since: Mapping[str, Identity],
        metrics: Metrics | None = None,
        index: int = 0,
        systemd: Notifier,
    ) -> None:
        self._service = service
        self._settings = settings
        self._endpoints = endpoints
        self._log = logged
        self._source = source
        self._metrics = metrics
        self._index = index
        self._systemd = systemd
        # Before they are read, so that no change of them is missed.
        self._since = {**since, **identities(files_of(settings))}

    def run(
        self,
        terminal: Terminal,
        on_ready: OnReady,
        orders: Orders | None,
        admin_socket: Callable[[Listener, Reloader], AbstractContextManager[object]],
    ) -> None:
        """Serve until it is to stop."""
        service, settings = self._service, self._settings
        listens = LISTENERS[settings.listener]
        with (
            Waker() as waker,
            listens(
                service, self._endpoints, settings, waker=waker, metrics=self._metrics
            ) as listener,
            Watchman(service.store, listener.stop) as watchman,
            self.reloader(listener, terminal, orders) as reloader,
            admin_socket(listener, reloader),
            signals_handled(listener.stop, reloader.wake, waker.fileno()),
            nullcontext() if orders is None else orders(listener.stop, reloader.wake),
            watched(settings, self._metrics, listener, service.store, index=self._index),
            self._systemd.watched(partial(_lives, listener)),
        ):
            listener.on_drain(self._systemd.stopping)
            if terminal.is_gone():  # before there was a handler for it
                listener.stop()
            emit(events.SERVER_READY, endpoints=[each.place for each in listener.endpoints])
            on_ready(listener.endpoints, settings, service.store.durability)
            self._systemd.ready(status_of(listener.endpoints))
            listener.serve_forever()
            service.stop()
        if watchman.failure is not None:
            raise watchman.failure

    def reloader(
        self, listener: Listener, terminal: Terminal, orders: Orders | None = None
    ) -> Reloader:
        """Return what reads the settings and the files of TLS again, for what serves."""
        parts: list[Part] = [Certificates(listener)]
        if self._source.is_live:

            def apply(settings: Settings, changed: frozenset[str]) -> None:
                self._apply(settings, changed, listener)
                reloader.look_every(settings.reload_seconds)

            in_force = SettingsInForce(
                self._settings,
                self._source,
                apply,
                change_policy=self._service.store.change_policy,
            )
            parts.insert(0, in_force)
        reloader = Reloader(
            parts,
            self._settings.reload_seconds,
            since=self._since,
            # A node's parent asks the terminal.
            hung_up=partial(_end_with, terminal, listener) if orders is None else lambda: False,
            ask=self._source.ask,
            on_begin=self._systemd.reloading,
            on_done=lambda _: self._systemd.reloaded(),
        )
        return reloader

    def _apply(self, settings: Settings, changed: frozenset[str], listener: Listener) -> None:
        """Have settings in force.

        Raises:
            SettingsError: the listener cannot go by them; nothing has changed.
        """
        spoken = None
        if not changed.isdisjoint(("web_origins", "web_servers")):
            spoken = [transport for _, transport in settings.endpoints()]
        try:
            listener.change_settings(settings, spoken)
        except (EndpointError, TlsFilesError) as error:  # its files have changed since the check
            raise SettingsError(str(error)) from None
        self._service.change_settings(settings)
        self._log.follow(settings)


def _tell_start(
    settings: Settings, endpoints: Sequence[tuple[Endpoint, Transport]], durability: str
) -> None:
    kind = settings.store.partition(":")[0]  # the rest may have a password
    emit(
        events.SERVER_STARTED,
        version=version("twinline"),
        endpoints=[endpoint.place for endpoint, _ in endpoints],
        store=kind,
        durability=str(durability),
        listener=settings.listener,
        connections=settings.connections,
        connections_per_address=settings.connections_per_address,
        registration=str(settings.registration),
    )
    if kind == "memory":
        emit(events.STORE_KEEPS_NOTHING, store=kind)


def _admin_socket(
    settings: Settings,
    service: ChatService,
    place: Place,
    listener: Listener,
    reloader: Reloader,
    *,
    alone: bool,
    drain: Callable[[], object] | None,
) -> AbstractContextManager[object]:
    """Return the admin socket that the settings ask for, or nothing."""
    if settings.admin_listen is None:
        return nullcontext()
    doors = Doors(listener, drain or listener.stop, reloader.reload, place.name)
    group = None if settings.admin_group is None else grp.getgrnam(settings.admin_group).gr_gid
    where = own_place(settings.admin_listen, None if alone else place.index)
    return AdminSocket(where, Desk(service, doors).answer, group=group)


def _lives(listener: Listener, seconds: float) -> bool:
    # While it drains it takes no connections, and has a time limit of its own.
    return listener.draining or comes_round(listener, seconds) or listener.draining


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
    except (UnknownStore, SchemaTooNew) as error:
        raise SettingsError(f"store: {error}") from None


def _announce(
    endpoints: Sequence[Endpoint],
    settings: Settings,
    durability: str,
    *,
    as_json: bool,
    ca_file: str | None,
) -> None:
    # A server whose stdout has no reader serves all the same.
    with contextlib.suppress(OutputClosed):
        for endpoint in endpoints:
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
