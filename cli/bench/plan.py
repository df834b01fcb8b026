"""What `twinline bench` measures, in which order: rounds in which everybody takes a turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from twinline.cli.bench import figures
from twinline.cli.bench.accounts import Accounts, Member
from twinline.cli.bench.figures import (
    BLOCKED_DELIVERIES,
    DELIVERIES,
    DIRECT_FLOOR,
    FLOOR,
    FLOW,
    HOGS,
    IDLE_LOAD,
    PAIRS,
    PLAIN_LOAD,
    SEND_LOADS,
    Book,
    Load,
    Part,
    Who,
)
from twinline.cli.bench.idle import Crowd
from twinline.cli.bench.load import (
    Sample,
    beside,
    deliveries,
    delivery_latency,
    flow,
    one_at_a_time,
    percentile,
    pipelined,
    polled_latency,
)
from twinline.cli.bench.receivers import BACKLOG, by_async_client, by_client
from twinline.cli.bench.sockets import Refused
from twinline.cli.bench.subjects import FloorSubject, ServerSubject, Subject
from twinline.cli.bench.target import ServerProcess, floor_server
from twinline.cli.console.output import say
from twinline.cli.console.progress import Progress
from twinline.transports.contract import Transport

CALLERS: Final = max(load.connections for load in SEND_LOADS)
_FILLERS: Final = 8
_FILLING: Final = 32
"""The mailbox of a client that receives is filled over so many connections, so much under way."""
_UNWATCHED: Final = 16
"""Accounts that callers send to: enough that none is full before its mail is acknowledged."""
_UNWATCHED_BY_IDLE: Final = 8
"""Where memory is measured, fewer: what they keep as history would be counted as well."""
_POLL_SECONDS: Final = 1.0
_WARM_UP_SECONDS: Final = 0.2
# For the bar, about what they take.
_ACCOUNT_SECONDS: Final = 0.025
_JOIN_SECONDS: Final = 0.003
_STEP_SECONDS: Final = 0.1

RESERVED_DESCRIPTORS: Final = 256
"""For everything but the connections of a run."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server to measure is.

    Attributes:
        name: what the report calls it.
        serve: runs it, or only says where it is, for the time of the context; called with
            how many connections it will get.
        keeps: whether the accounts would outlive the run, so that they must be deleted.
        listener: of a private server, ``threads`` or ``loop``.
    """

    name: str
    serve: Callable[[int], AbstractContextManager[ServerProcess]]
    keeps: bool
    listener: str = ""

    def who(self, transport: Transport) -> Who:
        """Return whose figures those are that it has in a transport."""
        return Who(self.name, transport.name, self.listener)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure.

    Attributes:
        parts: of the figures.
        places: the servers.
        transports: to speak to each.
        rounds: how often.
        seconds: of each load in a round.
        idle_users: beside whom sends are timed.
    """

    parts: frozenset[Part]
    places: tuple[Place, ...]
    transports: tuple[Transport, ...]
    rounds: int
    seconds: float
    idle_users: int

    @property
    def in_rounds(self) -> frozenset[Part]:
        """The parts that are measured beside the floor."""
        return self.parts - {Part.POLLING, Part.BYTES, Part.IDLE}

    @property
    def pairs(self) -> int:
        """How many pairs a server gets."""
        pairless = {Part.SENDS, Part.FAIRNESS, Part.CLIENTS, Part.IDLE}
        return PAIRS if self.parts - pairless else 0

    @property
    def everybody(self) -> list[Who]:
        """Whom to measure, but for the floor."""
        return [place.who(transport) for place in self.places for transport in self.transports]

    @property
    def descriptors(self) -> int:
        """How many connections this process has beside those of idle users."""
        each = CALLERS + 2 * self.pairs + 1
        return each * (2 + len(self.everybody)) + RESERVED_DESCRIPTORS


class Course:
    """How far a run is, for the bar."""

    def __init__(self, progress: Progress, total: float) -> None:
        """Begin.

        Args:
            progress: shows it.
            total: the seconds that the run is expected to take.
        """
        self._progress = progress
        self._total = max(total, 1e-9)
        self._done = 0.0
        self._began = time.monotonic()
        self._text = ""

    def step(self, text: str) -> None:
        """Show what comes now."""
        self._text = text
        share = min(1.0, self._done / self._total)
        left = self._total - self._done
        if share > 0.1:  # by then it shows how fast this machine is
            left *= (time.monotonic() - self._began) / self._done
        self._progress.show(share, f"about {max(1, round(left))} s left: {text}")

    def passed(self, seconds: float) -> None:
        """Note that a part of the expected time is done."""
        self._done += seconds
        self.step(self._text)


class Run:
    """One run of a plan.

    Attributes:
        book: what was measured.
    """

    def __init__(self, plan: Plan, progress: Progress) -> None:
        """Prepare; nothing is started yet."""
        self.book = Book()
        self._plan = plan
        self._course = Course(progress, expected_seconds(plan))

    def measure(self) -> None:
        """Measure everything.

        Raises:
            RequestError: a server refused a request.
            LoadError: it does not answer, ended a connection, or lost a message.
        """
        if self._plan.parts - {Part.IDLE}:
            self._measure_in_turns()
        if Part.IDLE in self._plan.parts and self._plan.idle_users:
            for place in self._plan.places:
                self._measure_idle(place)

    # -- in turns -----------------------------------------------------------------------

    def _measure_in_turns(self) -> None:
        plan = self._plan
        subjects: dict[Who, Subject] = {}
        servers: dict[Who, ServerSubject] = {}
        with ExitStack() as stack:
            if plan.in_rounds:
                floor = stack.enter_context(floor_server())
                subjects[FLOOR] = stack.enter_context(closing(FloorSubject(floor)))
                if plan.in_rounds & {Part.LATENCY, Part.DELIVERIES}:
                    direct = FloorSubject(floor, direct=True)
                    subjects[DIRECT_FLOOR] = stack.enter_context(closing(direct))
            for place in plan.places:
                target = stack.enter_context(place.serve(plan.descriptors))
                for transport in plan.transports:
                    who = place.who(transport)
                    accounts = stack.enter_context(self._accounts(place, target, transport))
                    server = ServerSubject(target, transport, accounts)
                    self._course.step(f"{who}: making accounts")
                    server.make_accounts(_UNWATCHED, plan.pairs, self._one_account)
                    subjects[who] = servers[who] = stack.enter_context(closing(server))
            for who, subject in subjects.items():
                self._course.step(f"{who}: connecting")
                subject.open(CALLERS, plan.pairs)
                with _explained(subject):
                    one_at_a_time(subject.callers(CALLERS), min(plan.seconds, _WARM_UP_SECONDS))
                subject.settle()
            for number in range(1, plan.rounds + 1):
                for who, subject in subjects.items():
                    self._take_turn(who, subject, f"round {number} of {plan.rounds}, {who}")
            for who, server in servers.items():
                self._after_the_rounds(who, server)

    def _take_turn(self, who: Who, subject: Subject, text: str) -> None:
        """Measure one subject for one round."""
        plan, book = self._plan, self.book
        server = subject if isinstance(subject, ServerSubject) else None
        if Part.SENDS in plan.parts and who != DIRECT_FLOOR:
            for load in SEND_LOADS:
                if server is None and load.window > 1:
                    continue  # an echo does not know messages: a read of many is one to it
                self._course.step(f"{text}: {load.words}")
                self._count(who, load, subject, partial(_send, subject, load, plan.seconds))
        if Part.SENDS in plan.parts and server is not None:
            self._course.step(f"{text}: {PLAIN_LOAD.words}")
            plain = server.without_send_ids(PLAIN_LOAD.connections)
            self._count(who, PLAIN_LOAD, server, partial(one_at_a_time, plain, plan.seconds))
        if Part.FAIRNESS in plan.parts and who != DIRECT_FLOOR:
            self._course.step(f"{text}: a ping beside {CALLERS} senders")
            load_ = partial(beside, subject.callers(CALLERS), subject.lone(), plan.seconds)
            sample, _ = self._loaded(subject, load_)
            book.add(who, figures.PING_P99, 1e6 * percentile(sample.latencies, 99))
        if Part.FAIRNESS in plan.parts and server is not None:
            self._course.step(f"{text}: a ping beside {HOGS.words}")
            hogs = server.callers(HOGS.connections)
            load_ = partial(beside, hogs, server.lone(), plan.seconds, HOGS.window)
            sample, _ = self._loaded(server, load_)
            book.add(who, figures.HOGGED_PING_P99, 1e6 * percentile(sample.latencies, 99))
        self._take_deliveries(who, subject, text)
        if server is not None:
            if plan.parts & {Part.DELIVERIES, Part.LATENCY}:
                server.watch(streams=False)
                self._take_deliveries(who, server, f"{text}, blocked watches", blocked=True)
                server.watch(streams=True)
            if Part.DELIVERIES in plan.parts:
                self._course.step(f"{text}: {FLOW.words}")
                pair = server.pairs[0]
                self._count(who, FLOW, server, partial(flow, pair, FLOW.window, plan.seconds))
            if Part.CLIENTS in plan.parts:
                self._receive(who, server, text)

    def _take_deliveries(
        self, who: Who, subject: Subject, text: str, *, blocked: bool = False
    ) -> None:
        """Measure deliveries, by a stream or by one blocked watch after another."""
        plan, book, pairs = self._plan, self.book, subject.pairs
        if Part.DELIVERIES in plan.parts:
            self._course.step(f"{text}: {PAIRS} pairs")
            load = BLOCKED_DELIVERIES if blocked else DELIVERIES
            self._count(who, load, subject, partial(deliveries, pairs, plan.seconds))
        if Part.LATENCY in plan.parts:
            self._course.step(f"{text}: one message after another")
            sample, _ = self._loaded(subject, partial(delivery_latency, pairs[:1], plan.seconds))
            p50, p99 = (
                (figures.BLOCKED_P50, figures.BLOCKED_P99)
                if blocked
                else (figures.LATENCY_P50, figures.LATENCY_P99)
            )
            book.add(who, p50, 1e6 * percentile(sample.latencies, 50))
            book.add(who, p99, 1e6 * percentile(sample.latencies, 99))
            if not blocked:
                book.latencies.setdefault(who, []).extend(sample.latencies)

    def _receive(self, who: Who, server: ServerSubject, text: str) -> None:
        """Measure what clients hand to an application."""
        for figure, receive in (
            (figures.CLIENT, by_client),
            (figures.ASYNC_CLIENT, by_async_client),
        ):
            self._course.step(f"{text}: {figure.label.strip()}")
            filled = fill(server, self._plan.seconds)
            sample = receive(server.target, server.transport, server.receiver.token, filled)
            self.book.add(who, figure, sample.rate)
            self._course.passed(self._plan.seconds + _STEP_SECONDS)

    def _count(
        self, who: Who, load: Load, subject: Subject, carry_out: Callable[[], Sample]
    ) -> None:
        """Carry out a load whose operations are counted, and note what that found."""
        self._note(who, load, *self._loaded(subject, carry_out))

    def _note(self, who: Who, load: Load, sample: Sample, used: float | None) -> None:
        each, spent = 1e6 / sample.operations, sample.processor_seconds
        self.book.add(who, load.rate, sample.rate)
        self.book.add(who, load.server_time, None if used is None else each * used)
        self.book.add(who, load.load_time, each * spent)
        self.book.add(who, load.load_share, spent / sample.seconds)

    def _after_the_rounds(self, who: Who, server: ServerSubject) -> None:
        """Measure what has no floor."""
        if Part.BYTES in self._plan.parts:
            for figure, length in server.lengths().items():
                self.book.add(who, figure, length)
        if Part.POLLING in self._plan.parts:
            self._course.step(f"{who}: {PAIRS} watchers that look once a second")
            # Other watchers of the same accounts would be left behind by these.
            server.close()
            server.watch(streams=False)
            server.open(0, PAIRS, wait=0)
            with _explained(server):
                sample = polled_latency(server.pairs, _POLL_SECONDS)
            server.settle()
            self.book.add(who, figures.POLLED_P50, 1e3 * percentile(sample.latencies, 50))
            self.book.add(who, figures.POLLED_P99, 1e3 * percentile(sample.latencies, 99))
            self._course.passed(2 * _POLL_SECONDS)

    def _loaded(self, subject: Subject, load: Callable[[], Sample]) -> tuple[Sample, float | None]:
        """Carry out a load; return what it counted and the processor seconds of the server."""
        before = subject.target.processor_seconds()
        with _explained(subject):
            sample = load()
        after = subject.target.processor_seconds()
        subject.settle()
        self._course.passed(self._plan.seconds + _STEP_SECONDS)
        return sample, _difference(before, after)

    # -- beside idle users --------------------------------------------------------------

    def _measure_idle(self, place: Place) -> None:
        """Measure what idle users cost, at a server that has had no others before."""
        plan = self._plan
        with ExitStack() as stack:
            target = stack.enter_context(place.serve(2 * plan.idle_users + plan.descriptors))
            # One after another in every transport: an account costs more than all the rest.
            accounts = stack.enter_context(self._accounts(place, target, plan.transports[0]))
            servers: dict[Who, ServerSubject] = {}
            for transport in plan.transports:
                server = stack.enter_context(closing(ServerSubject(target, transport, accounts)))
                server.make_accounts(_UNWATCHED_BY_IDLE, 0, self._one_account)
                server.open(IDLE_LOAD.connections, 0)
                servers[place.who(transport)] = server
            self._course.step(f"{place.name} making the accounts of {plan.idle_users:,} idle users")
            members = accounts.make(plan.idle_users, self._one_account)
            target.settle()
            # All crowds are compared with this: a later one lives in what the ones before left.
            # They come before any mail, of which the server keeps some as history.
            memory, threads = target.resident_bytes(), target.threads()
            if memory is not None:
                for who, server in servers.items():
                    with self._crowd(who, server, members):
                        target.settle()
                        grown = _difference(memory, target.resident_bytes())
                        if grown is not None:
                            self.book.add(who, figures.IDLE_BYTES, grown / plan.idle_users)
                    target.settle(threads)
            for who, server in servers.items():
                with self._crowd(who, server, members) as crowd:
                    target.settle()
                    self._course.step(f"{who}: sends beside {plan.idle_users:,} idle users")
                    crowded = [self._send_p99(server) for _ in range(plan.rounds)]
                    crowd.check()
                target.settle(threads)
                self._course.step(f"{who}: the same sends without them")
                alone = [self._send_p99(server) for _ in range(plan.rounds)]
                for most, least in zip(crowded, alone, strict=True):
                    self.book.add(who, figures.CROWDED_P99, most)
                    self.book.add(who, figures.ALONE_P99, least)
                    self.book.add(who, figures.CROWDED_COST, most / least)

    @contextmanager
    def _crowd(self, who: Who, server: ServerSubject, members: Sequence[Member]) -> Iterator[Crowd]:
        """Have users connected and idle while the block runs."""
        with Crowd(server.target.endpoint, server.transport, server.target.tls) as crowd:
            self._course.step(f"{who}: connecting {len(members):,} idle users")
            crowd.join(members, lambda count: self._course.passed(count * _JOIN_SECONDS))
            yield crowd

    def _send_p99(self, server: ServerSubject) -> float:
        sample, _ = self._loaded(server, partial(_send, server, IDLE_LOAD, self._plan.seconds))
        return 1e6 * percentile(sample.latencies, 99)

    # -- accounts -----------------------------------------------------------------------

    @contextmanager
    def _accounts(
        self, place: Place, target: ServerProcess, transport: Transport
    ) -> Iterator[Accounts]:
        """Make accounts possible, and delete them at the end where they would stay."""
        accounts = Accounts(target.endpoint, transport, target.tls)
        try:
            yield accounts
        finally:
            if place.keeps:
                self._course.step("deleting the accounts of the run")
                left: int | str = "some"
                try:
                    left = accounts.delete()
                finally:
                    if left:
                        which = "1 account is" if left == 1 else f"{left} accounts are"
                        say(f"{which} left; their names begin {accounts.prefix}")

    def _one_account(self, count: int) -> None:
        self._course.passed(count * _ACCOUNT_SECONDS)


def expected_seconds(plan: Plan) -> float:
    """Return about how long a run takes."""
    servers = len(plan.everybody)
    loads = (len(SEND_LOADS) + 1) * (Part.SENDS in plan.parts)
    loads += 3 * (Part.DELIVERIES in plan.parts) + 2 * (Part.LATENCY in plan.parts)
    loads += 2 * (Part.FAIRNESS in plan.parts) + 2 * (Part.CLIENTS in plan.parts)
    total = 0.0
    if plan.parts - {Part.IDLE}:
        total += servers * (2 + _UNWATCHED + plan.pairs) * _ACCOUNT_SECONDS
    total += (servers + 1) * plan.rounds * loads * (plan.seconds + _STEP_SECONDS)
    total += servers * 2 * _POLL_SECONDS * (Part.POLLING in plan.parts)
    if Part.IDLE in plan.parts and plan.idle_users:
        made = plan.idle_users + len(plan.transports) * (2 + _UNWATCHED_BY_IDLE)
        total += len(plan.places) * made * _ACCOUNT_SECONDS
        total += 2 * servers * plan.idle_users * _JOIN_SECONDS
        total += servers * 2 * plan.rounds * (plan.seconds + _STEP_SECONDS)
    return total


def fill(server: ServerSubject, seconds: float) -> int:
    """Put mail into the empty mailbox of the receiver, and return how many messages.

    Args:
        server: the server; it has callers.
        seconds: that filling may take, where `BACKLOG` messages take longer.

    Raises:
        RequestError: it refused one.
        LoadError: it does not answer, or ended a connection.
    """
    server.empty_receiver()
    with _explained(server):
        return pipelined(server.filling(_FILLERS), _FILLING, seconds, BACKLOG).operations


def _send(subject: Subject, load: Load, seconds: float) -> Sample:
    callers = subject.callers(load.connections)
    if load.window == 1:
        return one_at_a_time(callers, seconds)
    return pipelined(callers, load.window, seconds)


@contextmanager
def _explained(subject: Subject) -> Iterator[None]:
    """Say what a refusal under load was."""
    try:
        yield
    except Refused as refused:
        raise subject.explain(refused) from refused


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
