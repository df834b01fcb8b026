"""`twinline serve --nodes N`: a parent, and N server processes that share its ports and one store.

The parent serves nobody: it takes the ports, starts the nodes, passes signals on, and starts a node
again that has ended. A node's life, as the parent sees it::

    state      process ready    process ends                        told to end
    starting   -> serving       first start: all end with its error -> ending
                                later: -> waiting
    serving                     -> waiting                          -> ending
    waiting    (its time has come: -> starting)                     -> ended
    ending                      -> ended

The first node is started alone, and the others once it serves: so settings that are wrong, or a
store that cannot be opened, are told once, and a new database is made by one.

A node is a program of its own (exec, no fork of one with threads), in a process group of its own:
Ctrl-C reaches the parent, which lets all drain.
"""

import logging
import random
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from enum import Enum, auto
from functools import partial
from math import ceil
from typing import Any, Final

from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.server.channel import Channel, ChannelError, Said
from twinline.cli.server.health import comes_round
from twinline.cli.server.log import LogInForce, log_of
from twinline.cli.server.place import Place, machine_name
from twinline.cli.server.process import signals_handled
from twinline.cli.server.reload import Identity, Outcome, Part, Reloader, Terminal
from twinline.cli.server.settings_in_force import FIXED, SettingsInForce, Source
from twinline.cli.server.systemd import Notifier, status_of
from twinline.cli.settings.checks import check_settings
from twinline.cli.settings.model import Settings
from twinline.core.deadline import Deadline
from twinline.core.waiting import Wake
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import Waker, reserve

log = logging.getLogger(__name__)

# What the parent does not import from the directory where it was started the node does not either.
_COMMAND: Final = (
    sys.executable,
    "-I" if sys.flags.isolated else "-P",
    *("-m", "twinline.cli.server.node"),
)
FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Before a node is started again: twice as long after each start that came to nothing."""
STEADY_SECONDS: Final = 10.0
"""A node that served for so long begins with the first pause again."""
_SEND_SECONDS: Final = 5.0
"""For a node to take in what it is told; a socket holds some 30 of the longest lines."""
_LATE_SECONDS: Final = 10.0
"""For a node to end beyond the time that its drain may take; then it is killed."""
_DRAINED: Final = "ended with exit code 0"
OnReady = Callable[[Sequence[Endpoint], Settings, str], None]


class State(Enum):
    """What a node is at; the module's text has the transitions."""

    STARTING = auto()
    SERVING = auto()
    WAITING = auto()
    ENDING = auto()
    ENDED = auto()


class Node:
    """One of the processes, as its parent sees it; used by the parent's one thread.

    Attributes:
        settings: those that it is started with.
    """

    def __init__(self, settings: Settings, place: Place) -> None:
        self.place = place
        self.state = State.ENDED
        self.pause = Deadline.after(0)  # while it waits to be started again
        self.durability = ""
        self.drains = False  # whether its operator wants all to drain
        self.failure: Said | None = None
        self.channel: Channel | None = None
        self.asks = False  # for everything to be read again
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0  # starts, one after the other, that came to nothing
        self._steady: Deadline | None = None  # since it serves

    @property
    def runs(self) -> bool:
        """Whether it has a process."""
        return self._process is not None

    def start(self) -> None:
        """Start its process.

        Raises:
            OSError: the system has none to give.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs, _hangups_held():
                self._process = subprocess.Popen(  # noqa: S603 - all of it is written here
                    _COMMAND, stdin=theirs.fileno(), process_group=0
                )
        except BaseException:
            ours.close()
            raise
        ours.settimeout(_SEND_SECONDS)  # one that hears nothing must not hold up all others
        self.channel = Channel(ours)
        self.failure = None
        self.state = State.STARTING
        settings = self.settings.model_dump(mode="json")
        self.channel.send(start={"settings": settings, "place": asdict(self.place)})

    def say(self, **said: Any) -> bool:
        """Tell it something, and return whether it takes that in."""
        return self.channel is not None and self.channel.send(**said)

    def hear(self) -> None:
        """Take in what it says."""
        if self.channel is None:
            return
        try:
            heard = self.channel.receive()
        except ChannelError:
            heard = None
        if heard is None:
            self._hang_up()  # it has ended, or is about to
            return
        for said in heard:
            if "ready" in said and self.state is State.STARTING:
                self.durability = said["ready"]["durability"]
                self.state = State.SERVING
                assert self._process is not None  # noqa: S101 - it has said something
                log.info("node %s serves, as process %d", self.place.name, self._process.pid)
                self._steady = Deadline.after(STEADY_SECONDS)
            elif "failed" in said:
                self.failure = said["failed"]
            elif "reload" in said:
                self.asks = True
            elif "drain" in said:
                self.drains = True

    def ended(self) -> str | None:
        """Return how its process has ended, in words; None while it runs, or has none."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return None
        while self.channel is not None:
            self.hear()
        self._process = None
        if self.failure is not None:
            return f"failed: {self.failure['why']}"
        if code < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def wait(self) -> float:
        """Have it wait before it is started again, and return for how long."""
        if self._steady is not None and self._steady.passed:
            self._failures = 0
        self._steady = None
        seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**self._failures)
        seconds *= random.uniform(0.5, 1)  # noqa: S311 - spreads load, and guards nothing
        self._failures = min(self._failures + 1, 16)
        self.pause = Deadline.after(seconds)
        self.state = State.WAITING
        return seconds

    def end(self) -> None:
        """Let it drain."""
        if self.channel is not None and self.state in (State.STARTING, State.SERVING):
            self.channel.send(stop=True)
        self.state = State.ENDING if self.runs else State.ENDED

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def _hang_up(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None


@contextmanager
def _hangups_held() -> Iterator[None]:
    """Have a process that is started meanwhile keep SIGHUP until it knows what that is for."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Nodes:
    """All of them: starts, watches and ends them, in the thread that calls `run`."""

    def __init__(self, nodes: Sequence[Node], waker: Waker, drain_seconds: float) -> None:
        """Prepare.

        Args:
            nodes: all of them, none of which runs yet.
            waker: what ends the wait for something to happen.
            drain_seconds: what a node may take to end.
        """
        self.on_ask: Callable[[], None] = lambda: None  # a node wants everything read again
        self.on_drain: Callable[[], None] = lambda: None
        # Appended by any thread, taken by the one that runs.
        self._rounds: deque[Wake] = deque()
        self._nodes = nodes
        self._waker = waker
        self._stops = False  # set by any thread, and by signal handlers
        # Appended by the thread that reads settings again, taken by the one that runs: the settings
        # of nodes from now on, and what they are told.
        self._reloads: deque[tuple[Settings | None, Said]] = deque()
        self._drain_seconds = drain_seconds
        self._ready = False  # whether all have served
        self._failure: CommandError | None = None  # what ends all of them
        self._late: Deadline | None = None

    def stop(self) -> None:
        """Let all drain; from any thread or a signal handler."""
        self._stops = True
        self._waker.wake()

    def on_round(self, call: Wake) -> None:
        """Have ``call`` called once by the thread that runs, when it comes round."""
        self._rounds.append(call)
        self._waker.wake()

    def reload(self, settings: Settings | None, refusal: str | None) -> None:
        """Have all read again what they have read; from any thread.

        Args:
            settings: theirs from now on; None: as before.
            refusal: why they are as before, though others were there to be read; or None.
        """
        said = None if settings is None else settings.model_dump(mode="json")
        self._reloads.append((settings, {"settings": said, "refused": refusal}))
        self._waker.wake()

    def kill(self) -> None:
        """End all at once."""
        for node in self._nodes:
            node.kill()

    def run(self, on_ready: Callable[[str], None]) -> None:
        """Have them serve until `stop`.

        Args:
            on_ready: called with the durability when all serve for the first time.

        Raises:
            CommandError: one could not be started when none had been yet, or ended otherwise than
                it should when it was told to.
        """
        try:
            while True:
                if self._stops or self._failure is not None:
                    if self._late is None:
                        self._late = Deadline.after(self._drain_seconds + _LATE_SECONDS)
                        self.on_drain()
                        self._end_all()
                    if not any(node.runs for node in self._nodes):
                        break
                    if self._late.passed:
                        log.error("nodes that have not ended in time are killed")
                        self._late = Deadline.after(_LATE_SECONDS)
                        self.kill()
                else:
                    self._start_due()
                    if not self._ready and all(n.state is State.SERVING for n in self._nodes):
                        self._ready = True
                        on_ready(self._nodes[0].durability)
                self._wait()
                while self._rounds:
                    self._rounds.popleft()()
                self._pass_on()
                for node in self._nodes:
                    self._look_after(node)
        except BaseException:
            self.kill()
            raise
        if self._failure is not None:
            raise self._failure

    def _start_due(self) -> None:
        """Start those that are not, the first alone if none has served yet."""
        first = self._nodes[0]
        alone = not self._ready and first.state is not State.SERVING
        for node in (first,) if alone else self._nodes:
            if node.state is State.ENDED or (node.state is State.WAITING and node.pause.passed):
                try:
                    node.start()
                except OSError as error:
                    self._has_ended(node, f"cannot be started: {error.strerror}", None)

    def _wait(self) -> None:
        """Wait until something has happened, or is due."""
        deadline = Deadline.after(None) if self._late is None else self._late
        poll = select.poll()
        poll.register(self._waker.woken, select.POLLIN)
        for node in self._nodes:
            if node.channel is not None:
                poll.register(node.channel, select.POLLIN)
            elif node.runs:
                deadline = deadline.sooner(0.05)  # it has hung up, and is about to end
            if node.state is State.WAITING:
                deadline = deadline.sooner(node.pause.remaining() or 0)
        remaining = deadline.remaining()
        happened = poll.poll(None if remaining is None else ceil(remaining * 1000))
        self._waker.clear()
        heard = {descriptor for descriptor, _ in happened}
        for node in self._nodes:
            if node.channel is not None and node.channel.fileno() in heard:
                node.hear()

    def _pass_on(self) -> None:
        """Tell the nodes what was read again, and have it read if one of them asks for it."""
        while self._reloads:
            settings, said = self._reloads.popleft()
            if settings is not None:
                self._drain_seconds = _drain_seconds(settings)
            for node in self._nodes:
                if settings is not None:
                    node.settings = settings
                hears = node.channel is not None and node.state in (State.STARTING, State.SERVING)
                if hears and not node.say(reload=said):
                    node.kill()  # it has not read for seconds; another one takes its place
        if any(node.asks for node in self._nodes):
            for node in self._nodes:
                node.asks = False
            self.on_ask()

    def _look_after(self, node: Node) -> None:
        if node.drains:
            self._stops = True
        how = node.ended()
        if how is not None:
            self._has_ended(node, how, node.failure)

    def _has_ended(self, node: Node, how: str, failure: Said | None) -> None:
        name = node.place.name
        if node.state is State.ENDING:
            node.state = State.ENDED
            # A signal to all processes of a service may find one that has no handler yet.
            if how not in (_DRAINED, "was ended by SIGTERM") and self._failure is None:
                self._failure = CommandError(f"node {name} {how} while it drained")
        elif self._ready:
            level = logging.INFO if how == _DRAINED else logging.ERROR
            log.log(level, "node %s %s; it is started again in %.2g s", name, how, node.wait())
        else:
            node.state = State.ENDED
            if self._failure is None:
                self._failure = (
                    CommandError(f"node {name} {how} before it served")
                    if failure is None
                    else CommandError(failure["why"], _exit_code(failure["exit_code"]))
                )

    def _end_all(self) -> None:
        for node in self._nodes:
            node.end()


def _drain_seconds(settings: Settings) -> float:
    return settings.drain_spread_seconds + settings.drain_seconds


def _exit_code(number: int) -> ExitCode:
    return next((code for code in ExitCode if code == number), ExitCode.FAILURE)


def run_nodes(
    settings: Settings,
    on_ready: OnReady,
    *,
    source: Source = FIXED,
    since: Mapping[str, Identity] | None = None,
    systemd: Notifier | None = None,
) -> None:
    """Serve by several nodes until a signal, in the calling thread, which must be the main one.

    Args:
        settings: all of them.
        on_ready: called when all nodes take connections, with the endpoints, the settings and the
            store's durability.
        source: where the settings are read again from.
        since: what its files were like before they were read.
        systemd: what is told of each step; None: nobody is.

    Raises:
        SettingsError: the settings ask for what is not safe, or for what nodes cannot share.
        EndpointError: an endpoint cannot be listened on.
        CommandError: a node could not be started.
    """
    endpoints = settings.endpoints()
    warnings = check_settings(settings, endpoints)
    base = settings.node or machine_name()
    systemd = systemd or Notifier({})
    terminal = Terminal()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a node to pass it on to
    with (
        log_of(settings, base) as logged,
        _reserved([endpoint for endpoint, _ in endpoints]) as shared,
        Waker() as waker,
    ):
        for warning in warnings:
            log.warning("%s", warning)

        def theirs(settings: Settings) -> Settings:
            return settings.model_copy(
                update={"listen": tuple(map(str, shared)), "nodes": 1, "node": base}
            )

        nodes = Nodes(
            [
                Node(theirs(settings), Place(f"{base}-{index + 1}", index, settings.nodes))
                for index in range(settings.nodes)
            ],
            waker,
            _drain_seconds(settings),
        )
        # What has a handler ends the wait: the end of a node too.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with (
            _reloader(
                settings,
                source,
                nodes,
                theirs,
                since=since or {},
                terminal=terminal,
                logged=logged,
                systemd=systemd,
            ) as reloader,
            signals_handled(nodes.stop, reloader.wake, waker.fileno(), at_once=nodes.kill),
            systemd.watched(partial(comes_round, nodes)),
        ):
            nodes.on_ask = reloader.wake
            nodes.on_drain = systemd.stopping
            if terminal.is_gone():  # before there was a handler for it
                nodes.stop()

            def all_serve(durability: str) -> None:
                on_ready(shared, settings, durability)
                systemd.ready(status_of(shared))

            nodes.run(all_serve)


def _reloader(
    settings: Settings,
    source: Source,
    nodes: Nodes,
    theirs: Callable[[Settings], Settings],
    *,
    since: Mapping[str, Identity],
    terminal: Terminal,
    logged: LogInForce,
    systemd: Notifier,
) -> Reloader:
    """Return what reads the settings again for all nodes, which read their files of TLS."""

    def apply(settings: Settings, _names: frozenset[str]) -> None:
        logged.follow(settings)
        reloader.look_every(settings.reload_seconds)

    def pass_on(outcomes: Sequence[Outcome]) -> None:
        refusal = next((each.kept for each in outcomes if each.kept), None)
        nodes.reload(theirs(in_force.now) if source.is_live else None, refusal)
        systemd.reloaded()

    def hung_up() -> bool:
        gone = terminal.has_hung_up()
        if gone:
            log.info("the terminal has hung up")
            nodes.stop()
        return gone

    # A store that servers share has one policy.
    in_force = SettingsInForce(settings, source, apply, change_policy=lambda _: False)
    parts: list[Part] = [in_force] if source.is_live else []
    reloader = Reloader(
        parts,
        settings.reload_seconds,
        since=since,
        hung_up=hung_up,
        on_begin=systemd.reloading,
        on_done=pass_on,
    )
    return reloader


@contextmanager
def _reserved(endpoints: Sequence[Endpoint]) -> Iterator[list[Endpoint]]:
    """Take the ports of endpoints for the nodes, and yield the endpoints that they listen on.

    The ports stay taken while the block runs, whichever nodes are there.
    """
    with ExitStack() as stack:
        shared = []
        for endpoint in endpoints:
            if endpoint.port and not endpoint.listening.reuse_port:
                # The operator wants it shared by these nodes, and by no other server of the same
                # user that is there already.
                reserve(endpoint).close()
            wanted = replace(endpoint, listening=replace(endpoint.listening, reuse_port=True))
            bound = reserve(wanted)
            stack.callback(bound.close)
            shared.append(bound.endpoint)
        yield shared
