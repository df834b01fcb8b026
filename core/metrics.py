"""What is counted while a server runs: the table of metrics, and the numbers behind them.

A `Metrics` is given to a `twinline.transports.listener.Listener` and a
`twinline.core.service.ChatService`, which count into it; where they are given none, nothing is
counted, and no object here is made. `Metrics.collect` sums up. It knows no format: whoever embeds a
server may write the numbers in any.

What counting costs, and how that is kept small:

1. What a request counts belongs to its connection (`ConnectionCounts`): plain integers of the one
   thread that drives it, so no lock is taken. They are added up when they are asked for, and at the
   connection's end.
2. A time is taken of one request in `Metrics.sample`, chosen at random: every sixteenth would
   always be the same op of a client that repeats a pattern of two or four.
3. What happens once a hash or once a commit is counted under a lock, each time.

No name, address or secret is in any label: ops, outcomes and reasons are from closed sets, and the
endpoints are those of the settings.
"""

import time
from bisect import bisect_right
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import cycle
from random import choices
from types import MappingProxyType
from typing import Final, NamedTuple, ParamSpec, Protocol, TypeVar

from twinline.core.clock import wall_clock_ms
from twinline.core.errors import ERROR_BY_CODE
from twinline.core.locks import new_lock
from twinline.core.protocol import MAX_INT, Message, Request, Watch
from twinline.core.session import Session
from twinline.core.store import MailPage, SessionKey

Params = ParamSpec("Params")
Result = TypeVar("Result")

PREFIX: Final = "twinline_"
"""What the name of each metric begins with."""
SAMPLE: Final = 16
"""Times are taken of one request in so many, unless another number is set."""
OK: Final = "ok"
"""The outcome of a request that was carried out; of another one it is the error's code."""
UNREADABLE: Final = "unreadable"
"""The op of a frame that is no request."""
UNDECIDED: Final = "none"
"""The transport of a connection that has said nothing by which it could be chosen."""
UNKNOWN_SEQ: Final = MAX_INT + 1
"""A seq that no message has, and that is behind all others."""
_OTHER: Final = "other"  # the code of an error that only somebody else's store knows
_GAPS: Final = 1_021
"""How many gaps between requests whose time is taken are drawn at random, before they repeat."""
_NOTED: Final = 256
"""A histogram sorts values into its buckets when so many wait for it."""
_FOLLOWED: Final = 4096
"""Of so many sessions it is known what was sent to them, and of so many accounts one message is
followed until its ack."""
_QUICK: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_SLOW: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_HUMAN: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30, 300, 3600, 86400)
_WRITES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Kind(StrEnum):
    """What a metric is, as Prometheus has it."""

    COUNTER = "counter"
    """It only goes up."""
    GAUGE = "gauge"
    """It is what it is now."""
    HISTOGRAM = "histogram"
    """How many values there were of which size."""


class Refusal(StrEnum):
    """Why a connection was not served."""

    CONNECTIONS = "connections"
    """There are as many as the setting allows."""
    ADDRESS = "address"
    """There are as many from its address as the setting allows."""
    PROXY = "proxy"
    """It comes from none of the trusted proxies, where only those may connect."""
    EXHAUSTED = "exhausted"
    """The system has no descriptor, thread or memory for it."""
    FAULT = "fault"
    """It could not be prepared; the log has the error."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of the table.

    Attributes:
        name: without the prefix.
        kind: what it is.
        help: a sentence, without its full stop.
        labels: what its samples are told apart by.
        bounds: of a histogram's buckets, each with its upper end.
        sampled: whether it observes one in `Metrics.sample`.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    sampled: bool = False

    @property
    def full_name(self) -> str:
        """Its name, as it is written."""
        return PREFIX + self.name


class Distribution(NamedTuple):
    """What a histogram has observed.

    Attributes:
        counts: by bucket, and at last what is above the last bound; not cumulative.
        sum: of all values.
    """

    counts: tuple[int, ...]
    sum: float


Samples = Sequence[tuple[tuple[str, ...], float | Distribution]]
"""The values of a metric's labels, in their order, each with what was counted."""


@dataclass(frozen=True, slots=True)
class Family:
    """A metric and its samples now.

    Attributes:
        metric: the row of the table.
        samples: each with a number, or a `Distribution` where it is a histogram.
    """

    metric: Metric
    samples: Samples


CONNECTIONS: Final = Metric(
    "connections",
    Kind.GAUGE,
    "Connections that are open, by what they speak",
    ("endpoint", "transport"),
)
CONNECTIONS_TOTAL: Final = Metric(
    "connections_total",
    Kind.COUNTER,
    "Connections that were taken; each counts once it is known what it speaks, or at its end",
    ("endpoint", "transport"),
)
REFUSED: Final = Metric(
    "connections_refused_total",
    Kind.COUNTER,
    "Connections that were not served, by why",
    ("endpoint", "reason"),
)
SESSIONS: Final = Metric("sessions", Kind.GAUGE, "Sessions that have a connection here")
RECEIVED: Final = Metric(
    "received_bytes_total", Kind.COUNTER, "Bytes that peers have sent", ("endpoint",)
)
SENT: Final = Metric("sent_bytes_total", Kind.COUNTER, "Bytes sent to peers", ("endpoint",))
REQUESTS: Final = Metric(
    "requests_total",
    Kind.COUNTER,
    "Requests that were answered, by their outcome: ok or the error's code",
    ("op", "outcome"),
)
REQUEST_SECONDS: Final = Metric(
    "request_seconds",
    Kind.HISTOGRAM,
    "From taking up a request to its reply, of a watch for each look at the mailbox",
    ("op",),
    _QUICK,
    sampled=True,
)
DELIVERIES: Final = Metric(
    "deliveries_total", Kind.COUNTER, "Messages that were sent to watches, repeats among them"
)
REDELIVERIES: Final = Metric(
    "redeliveries_total",
    Kind.COUNTER,
    "Messages that were sent to a session once more, as far as this process knows",
)
WAKE_SECONDS: Final = Metric(
    "wake_seconds",
    Kind.HISTOGRAM,
    "From the arrival of mail to the look of a watch that waits for it",
    (),
    _QUICK,
    sampled=True,
)
ACK_SECONDS: Final = Metric(
    "send_to_ack_seconds",
    Kind.HISTOGRAM,
    "From accepting a message to its recipient's ack, of messages delivered here",
    (),
    _HUMAN,
    sampled=True,
)
HASHES_WAITING: Final = Metric(
    "hash_queue_waiting", Kind.GAUGE, "Password hashes that wait for a processor"
)
HASHES_RUNNING: Final = Metric("hash_queue_running", Kind.GAUGE, "Password hashes under way")
HASH_WAIT_SECONDS: Final = Metric(
    "hash_wait_seconds",
    Kind.HISTOGRAM,
    "How long a password hash has waited for a processor, given up or not",
    (),
    _SLOW,
)
HASH_SECONDS: Final = Metric(
    "hash_seconds", Kind.HISTOGRAM, "How long a password hash has taken", (), _SLOW
)
LOGIN_FAILURES: Final = Metric(
    "login_failures_total",
    Kind.COUNTER,
    "Wrong passwords, and passwords for names that nobody has, whatever they were given for",
)
LOCKOUTS: Final = Metric(
    "login_lockouts_total",
    Kind.COUNTER,
    "Passwords that were not looked at, for too many before them were wrong",
)
STORE_SECONDS: Final = Metric(
    "store_call_seconds",
    Kind.HISTOGRAM,
    "How long a call of the store has taken",
    ("call",),
    _QUICK,
    sampled=True,
)
COMMIT_SECONDS: Final = Metric(
    "store_commit_seconds",
    Kind.HISTOGRAM,
    "How long a commit of the store has taken, with all writes in it",
    (),
    _QUICK,
)
COMMIT_WRITES: Final = Metric(
    "store_commit_writes",
    Kind.HISTOGRAM,
    "Writes that a commit of the store had in it",
    (),
    _WRITES,
)

COUNTED: Final[tuple[Metric, ...]] = (
    CONNECTIONS,
    CONNECTIONS_TOTAL,
    REFUSED,
    SESSIONS,
    RECEIVED,
    SENT,
    REQUESTS,
    REQUEST_SECONDS,
    DELIVERIES,
    REDELIVERIES,
    WAKE_SECONDS,
    ACK_SECONDS,
    HASHES_WAITING,
    HASHES_RUNNING,
    HASH_WAIT_SECONDS,
    HASH_SECONDS,
    LOGIN_FAILURES,
    LOCKOUTS,
    STORE_SECONDS,
    COMMIT_SECONDS,
    COMMIT_WRITES,
)
"""The metrics that `Metrics.collect` returns, in this order."""

TIMED: Final = ("append", "look", "look_many")
"""The calls of a store that are timed: what every send and every delivery waits for."""


class Count:
    """A number that goes up, from any thread."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self._lock = new_lock("count")
        self.value = 0  # written under _lock

    def add(self) -> None:
        """Count one more."""
        with self._lock:
            self.value += 1


class Histogram:
    """Observes values, from any thread.

    To observe one is to note it down: they are sorted into the buckets when somebody asks, or when
    `_NOTED` of them wait for that, which is cheaper for many at once.
    """

    __slots__ = ("_bounds", "_counts", "_lock", "_noted", "_sum")

    def __init__(self, metric: Metric) -> None:
        """Begin with none; the buckets are the metric's."""
        self._bounds = metric.bounds
        self._noted: list[float] = []  # any thread appends; taken out under _lock
        self._lock = new_lock("histogram")
        # Guarded by _lock.
        self._counts = [0] * (len(metric.bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Take in a value."""
        self._noted.append(value)
        if len(self._noted) >= _NOTED:
            with self._lock:
                self._sort()

    @property
    def value(self) -> Distribution:
        """What it has observed."""
        with self._lock:
            self._sort()
            return Distribution(tuple(self._counts), self._sum)

    def _sort(self) -> None:
        """Sort what was noted into the buckets; under the lock."""
        noted = self._noted.copy()
        del self._noted[: len(noted)]  # what came meanwhile is behind these, and stays
        noted.sort()
        below = 0
        for bucket, bound in enumerate(self._bounds):
            upto = bisect_right(noted, bound, below)
            self._counts[bucket] += upto - below
            below = upto
        self._counts[-1] += len(noted) - below
        self._sum += sum(noted)


class CallTimer:
    """Times a call of the store now and then: the next one after it was set ``due``.

    To ask costs a look at an attribute, so it is asked at every call. Where several threads come at
    once, more of them or none may be timed: it is a sample all the same.

    Attributes:
        due: whether the next call is to be timed.
    """

    __slots__ = ("_clock", "_histograms", "due")

    def __init__(self, clock: Callable[[], float]) -> None:
        self.due = False
        self._clock = clock
        self._histograms = {call: Histogram(STORE_SECONDS) for call in TIMED}

    def call(
        self,
        name: str,
        method: Callable[Params, Result],
        *arguments: Params.args,
        **options: Params.kwargs,
    ) -> Result:
        """Make a call of the store, one of `TIMED`, and take its time."""
        self.due = False
        began = self._clock()
        try:
            return method(*arguments, **options)
        finally:
            self._histograms[name].observe(self._clock() - began)

    @property
    def samples(self) -> Samples:
        """What was observed, by call."""
        return [((call,), each.value) for call, each in self._histograms.items()]


class Counted(Protocol):
    """What is said on a connection, as far as it counts; other threads only read the numbers.

    Attributes:
        session: whose requests these are.
        received: how many bytes have come.
        said: how many bytes were to be sent.
        brought: how many messages it was sent.
        watched: how many watches were answered.
        last_sent: the last seq that it was sent, or `UNKNOWN_SEQ`.
        observed: whether its `ConnectionCounts` are to be told what comes next.
        wake_timed_at: what ``brought`` is when the time of a wake is to be taken.
    """

    session: Session
    received: int
    said: int
    brought: int
    watched: int
    last_sent: int
    observed: bool
    wake_timed_at: int


class _Ended:
    """Stands for what is said on a connection that has ended."""

    def __init__(self) -> None:
        self.session = Session()
        self.received = self.said = self.brought = self.watched = self.last_sent = 0
        self.observed = False
        self.wake_timed_at = UNKNOWN_SEQ


class ConnectionCounts:
    """What one connection has counted; its owner alone writes to it, but for `note_wake`.

    What the connection counts in any case it does not count again. Of the rest, what happens to
    every request is here an integer each; what is rare is told by the methods, and only while it
    is `observing`.

    Attributes:
        endpoint: where it was taken.
        transport: what it speaks, "" before that is known; `speaks` finds out.
        answered: by their kind, the requests that were carried out, but for watches.
        refused: by kind and code, those that were not; None for a frame that was none.
        began: when the job began of which a time is taken, or 0.
        woken: when mail has woken the connection that has not looked since, or 0.
        counted: whether the connection itself was added up.
    """

    __slots__ = (
        "_awaited",
        "_folded",
        "_follows",
        "_metrics",
        "_redeliveries",
        "_repeating",
        "_repeats_to",
        "_spoken",
        "_talk",
        "answered",
        "began",
        "counted",
        "endpoint",
        "refused",
        "transport",
        "woken",
    )

    def __init__(self, metrics: "Metrics", endpoint: str, spoken: Callable[[], str]) -> None:
        """Begin with nothing; made by `Metrics.connection`."""
        self.endpoint = endpoint
        # Not a `Counter`: whose items are set by Python, at three times the cost.
        self.answered: defaultdict[type[Request], int] = defaultdict(int)
        self.refused: defaultdict[tuple[type[Request] | None, str], int] = defaultdict(int)
        self.began = 0.0
        self.woken = 0.0
        self._talk: Counted = _ENDED  # until it follows one
        self._follows = False  # whether what a look has found is followed until its ack
        self._awaited = UNKNOWN_SEQ  # the seq that is
        self._redeliveries = 0
        self._repeats_to = 0  # the last seq that its session was sent before
        self._repeating = False  # whether it may be sent one of those
        self._metrics = metrics
        self.transport = ""
        self._spoken: Callable[[], str] | None = spoken  # until that is known
        # What was added up before, and whether the connection itself was; guarded by the metrics'
        # lock.
        self._folded = _Sums()
        self.counted = False

    @property
    def session_key(self) -> SessionKey | None:
        """The session that it is bound to, if any."""
        return self._talk.session.key

    @property
    def observing(self) -> bool:
        """Whether it is to be told what comes next: one of the rare things is under way."""
        return (
            self._follows
            or self._repeating
            or self._awaited != UNKNOWN_SEQ
            or self.began > 0
            or self.woken > 0
        )

    def follow(self, talk: Counted) -> None:
        """Count what is said on a connection, and have it say when mail wakes it."""
        self._talk = talk
        talk.wake_timed_at = self._metrics.gap() - 1

    def speaks(self) -> str:
        """Find out what it speaks, and return it; "" before that is known."""
        spoken = self._spoken
        if spoken is not None:
            self.transport = spoken()
            if self.transport:
                self._spoken = None
        return self.transport

    def gap(self) -> int:
        """Return how many requests it is until the first one of which a time is taken."""
        return self._metrics.gap()

    def note_wake(self) -> None:
        """Note when mail has woken the connection; from any thread, and before it looks."""
        talk = self._talk
        if not (self.woken and talk.observed):  # the first of several that one look is for
            self.woken = self._metrics.clock()
            talk.observed = True

    def look(self) -> None:
        """Take the time since the wake that was noted, and that of the look which it has led to."""
        woken, self.woken = self.woken, 0.0
        if woken:
            self._talk.wake_timed_at = self._talk.brought + self.begin()
            self._metrics.wake_seconds.observe(self.began - woken)

    def begin(self) -> int:
        """Take the time of the job that begins now, and of its call of the store.

        Returns:
            How many of its kind it is until the next one of which a time is taken.
        """
        metrics = self._metrics
        gap = metrics.gap()
        metrics.store_timer.due = True
        self.began = metrics.clock()
        return gap

    def end(self, kind: type[Request], page: MailPage | None) -> bool:
        """Take the time that has passed since `begin`, if that was called.

        Args:
            kind: of the request whose job has ended.
            page: what a look has found.

        Returns:
            Whether it is `observing` still.
        """
        began = self.began
        if began:
            self.began = 0.0
            metrics = self._metrics
            histogram = metrics.request_seconds.get(kind) or metrics.times_of(kind)
            histogram.observe(metrics.clock() - began)
        self._follows = False
        if page is not None:
            if page.position >= self._awaited:
                self.acked(page.position)
            self._follows = bool(began and page.messages)
        # As `observing` has it: without a call, as nothing has begun now.
        return self._follows or self._repeating or self._awaited != UNKNOWN_SEQ or self.woken > 0

    def deliver(self, messages: Sequence[Message]) -> None:
        """Take a look at messages that are sent to a watch, by rising seq."""
        last = messages[-1]
        if self._repeating:
            self._redeliveries += sum(message.seq <= self._repeats_to for message in messages)
            self._repeating = last.seq < self._repeats_to
        if self._follows:
            self._follows = False
            session_key = self._talk.session.key
            if session_key is not None:
                self._awaited = last.seq
                self._metrics.await_ack(session_key.account_id, last.seq, last.sent_at)

    def repeat(self, after: int, last_sent: int) -> int:
        """Take in that a watch may send what was sent before.

        Args:
            after: the seq after which the watch begins.
            last_sent: the last seq that the connection was sent, or `UNKNOWN_SEQ`.

        Returns:
            The last seq that the connection or, before it, its session was sent.
        """
        if last_sent == UNKNOWN_SEQ:
            session_key = self.session_key
            if session_key is None:
                return last_sent
            last_sent = self._metrics.sent_before(session_key)
        self._repeats_to = max(self._repeats_to, last_sent)
        self._repeating = after < self._repeats_to
        return last_sent

    def acked(self, position: int) -> None:
        """Take in how far the account's messages are acked."""
        self._awaited = UNKNOWN_SEQ
        session_key = self._talk.session.key
        if session_key is not None and session_key.account_id in self._metrics.awaited:
            self._metrics.note_ack(session_key.account_id, position)

    def read(self) -> "_Sums":
        """Return what it has counted so far; from any thread."""
        talk = self._talk
        # A copy is one step; to go through what its owner may add to is not.
        return _Sums(
            talk.received,
            talk.said,
            talk.brought,
            self._redeliveries,
            talk.watched,
            self.answered.copy(),
            self.refused.copy(),
        )

    def fold(self, *, last: bool) -> "tuple[_Sums, _Sums] | None":
        """Return what it had counted before and has now; None if that is the same.

        Args:
            last: whether it counts no more.
        """
        before, talk = self._folded, self._talk
        # Whatever happens on a connection moves bytes, sooner or later; nearly all are idle.
        if not last and before.received == talk.received and before.sent == talk.said:
            return None
        self._folded = now = self.read()
        return before, now

    def let_go(self) -> tuple[SessionKey | None, int]:
        """Lead to its connection no more; return its session, and the last seq sent to it."""
        session_key, last_sent = self.session_key, self._talk.last_sent
        self._talk, self._spoken = _ENDED, None
        return session_key, max(self._repeats_to, 0 if last_sent == UNKNOWN_SEQ else last_sent)


class _Sums(NamedTuple):
    """What was counted, of one connection at one moment."""

    received: int = 0
    sent: int = 0
    deliveries: int = 0
    redeliveries: int = 0
    watched: int = 0
    answered: Mapping[type[Request], int] = MappingProxyType({})
    refused: Mapping[tuple[type[Request] | None, str], int] = MappingProxyType({})


_ENDED: Final = _Ended()


class Metrics:
    """What a server counts; each method may be called by any thread.

    One may be given to a service and to several listeners of it.

    Attributes:
        sample: times are taken of one request in so many.
        gap: returns how many requests it is until the next one of which a time is taken.
        clock: seconds that never leap.
        login_failures: passwords that were wrong.
        login_lockouts: passwords that were not looked at.
        wake_seconds: from mail's arrival to a watch's look.
        hash_wait_seconds: of each password hash.
        hash_seconds: of each password hash.
        hash_queues: what returns how many hashes wait and how many run; a service adds its own.
        store_timer: times calls of the store.
        request_seconds: of each kind of request that a time was taken of; see `times_of`.
        awaited: by account id, the message that is followed until its ack: seq and time in ms.
    """

    def __init__(
        self,
        sample: int = SAMPLE,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """Begin with nothing counted.

        Args:
            sample: take times of one request in so many; 1 takes those of all.
            clock: seconds that never leap.
            wall_clock: ms since 1970 UTC, as messages have it.
        """
        self.sample = sample
        # Drawn beforehand, by all connections in turn: of what is done for a sample this is little.
        self.gap: Callable[[], int] = cycle(choices(range(1, 2 * sample), k=_GAPS)).__next__  # noqa: S311 - guards nothing
        self.clock = clock
        self._wall_clock = wall_clock
        self.login_failures = Count()
        self.login_lockouts = Count()
        self.wake_seconds = Histogram(WAKE_SECONDS)
        self.hash_wait_seconds = Histogram(HASH_WAIT_SECONDS)
        self.hash_seconds = Histogram(HASH_SECONDS)
        self._ack_seconds = Histogram(ACK_SECONDS)
        self._commit_seconds = Histogram(COMMIT_SECONDS)
        self._commit_writes = Histogram(COMMIT_WRITES)
        self.store_timer = CallTimer(clock)
        self.hash_queues: list[Callable[[], tuple[int, int]]] = []
        self._lock = new_lock("metrics")
        self.request_seconds: dict[type[Request], Histogram] = {}  # written under _lock
        self.awaited: OrderedDict[str | None, tuple[int, int]] = (
            OrderedDict()
        )  # written under _lock
        # All of these are guarded by _lock.
        self._sent: OrderedDict[SessionKey, int] = OrderedDict()  # the last seq, of those that left
        self._open: dict[ConnectionCounts, None] = {}
        self._endpoints: dict[str, None] = {}
        self._taken: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._received: Counter[str] = Counter()
        self._sent_bytes: Counter[str] = Counter()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._deliveries = 0
        self._redeliveries = 0

    # -- for listeners ------------------------------------------------------------------

    def listen(self, endpoint: str) -> None:
        """Tell of an endpoint also while nothing has happened there."""
        with self._lock:
            self._endpoints[endpoint] = None

    def connection(self, endpoint: str, spoken: Callable[[], str]) -> ConnectionCounts:
        """Return what a connection counts in; it is counted itself once it is `connected`.

        Args:
            endpoint: where it was taken.
            spoken: returns the transport, "" before it is known.
        """
        return ConnectionCounts(self, endpoint, spoken)

    def connected(self, counts: ConnectionCounts) -> None:
        """Count a connection from now on."""
        with self._lock:
            self._open[counts] = None

    def disconnected(self, counts: ConnectionCounts) -> None:
        """Add up what a connection has counted, for it has ended; harmless when repeated."""
        with self._lock:
            if counts in self._open:
                del self._open[counts]
                self._fold(counts, last=True)
            session_key, highest = counts.let_go()
            if session_key is not None and highest > 0:
                self._sent[session_key] = max(highest, self._sent.pop(session_key, 0))
                if len(self._sent) > _FOLLOWED:
                    self._sent.popitem(last=False)

    def refuse(self, endpoint: str, reason: Refusal) -> None:
        """Count a connection that is not served."""
        with self._lock:
            self._refused[endpoint, reason] += 1

    def times_of(self, kind: type[Request]) -> Histogram:
        """Return what observes how long requests of a kind have taken."""
        made = Histogram(REQUEST_SECONDS)
        with self._lock:
            return self.request_seconds.setdefault(kind, made)

    def sent_before(self, session: SessionKey) -> int:
        """Return the last seq that a session was sent by connections that have ended; 0 if none."""
        with self._lock:
            return self._sent.get(session, 0)

    def await_ack(self, account_id: str | None, seq: int, sent_at: int) -> None:
        """Follow a message until it is acked, unless another one of the account is followed."""
        with self._lock:
            if account_id not in self.awaited:
                self.awaited[account_id] = (seq, sent_at)
                if len(self.awaited) > _FOLLOWED:
                    self.awaited.popitem(last=False)

    def note_ack(self, account_id: str | None, position: int) -> None:
        """Take in how far the messages of an account are acked."""
        with self._lock:
            seq, sent_at = self.awaited.get(account_id, (position + 1, 0))
            if seq > position:
                return
            del self.awaited[account_id]
        self._ack_seconds.observe(max(0, self._wall_clock() - sent_at) / 1000)

    # -- for services and stores --------------------------------------------------------

    def observe_commit(self, writes: int, seconds: float) -> None:
        """Take in a commit: the writes in it, and how long it has taken."""
        self._commit_writes.observe(writes)
        self._commit_seconds.observe(seconds)

    # -- for who asks -------------------------------------------------------------------

    def collect(self) -> list[Family]:
        """Add up, and return all metrics of `COUNTED`, in that order."""
        queues = [queue() for queue in self.hash_queues]
        now: Counter[tuple[str, str]] = Counter()
        sessions: set[SessionKey] = set()
        found: dict[Metric, Samples]
        with self._lock:
            for counts in self._open:
                now[counts.endpoint, self._fold(counts, last=False)] += 1
                session_key = counts.session_key
                if session_key is not None:
                    sessions.add(session_key)
            for endpoint in self._endpoints:
                self._received[endpoint] += 0
                self._sent_bytes[endpoint] += 0
                for reason in Refusal:
                    self._refused[endpoint, reason] += 0
            found = {
                CONNECTIONS: _listed({**dict.fromkeys(self._taken, 0), **now}),
                CONNECTIONS_TOTAL: _listed(self._taken),
                REFUSED: _listed(self._refused),
                SESSIONS: [((), len(sessions))],
                RECEIVED: [((endpoint,), n) for endpoint, n in sorted(self._received.items())],
                SENT: [((endpoint,), n) for endpoint, n in sorted(self._sent_bytes.items())],
                REQUESTS: _listed(self._requests),
                DELIVERIES: [((), self._deliveries)],
                REDELIVERIES: [((), self._redeliveries)],
            }
            of_requests = sorted((kind.op, each) for kind, each in self.request_seconds.items())
        found[REQUEST_SECONDS] = [((op,), each.value) for op, each in of_requests]
        found[STORE_SECONDS] = self.store_timer.samples
        found[HASHES_WAITING] = [((), sum(waiting for waiting, _ in queues))]
        found[HASHES_RUNNING] = [((), sum(running for _, running in queues))]
        found[LOGIN_FAILURES] = [((), self.login_failures.value)]
        found[LOCKOUTS] = [((), self.login_lockouts.value)]
        for metric, histogram in (
            (WAKE_SECONDS, self.wake_seconds),
            (ACK_SECONDS, self._ack_seconds),
            (HASH_WAIT_SECONDS, self.hash_wait_seconds),
            (HASH_SECONDS, self.hash_seconds),
            (COMMIT_SECONDS, self._commit_seconds),
            (COMMIT_WRITES, self._commit_writes),
        ):
            found[metric] = [((), histogram.value)]
        return [Family(metric, found[metric]) for metric in COUNTED]

    def _fold(self, counts: ConnectionCounts, *, last: bool) -> str:
        """Add what is new of a connection; under the lock. Return what it speaks."""
        spoken = counts.speaks()
        if not counts.counted and (spoken or last):
            counts.counted = True
            self._taken[counts.endpoint, spoken or UNDECIDED] += 1
        changed = counts.fold(last=last)
        if changed is not None:
            before, after = changed
            self._received[counts.endpoint] += after.received - before.received
            self._sent_bytes[counts.endpoint] += after.sent - before.sent
            self._deliveries += after.deliveries - before.deliveries
            self._redeliveries += after.redeliveries - before.redeliveries
            if after.watched:
                self._requests[Watch.op, OK] += after.watched - before.watched
            for kind, number in after.answered.items():
                self._requests[kind.op, OK] += number - before.answered.get(kind, 0)
            for (asked, code), number in after.refused.items():
                op = UNREADABLE if asked is None else asked.op
                outcome = code if code in ERROR_BY_CODE else _OTHER
                self._requests[op, outcome] += number - before.refused.get((asked, code), 0)
        return spoken or UNDECIDED


def _listed(counted: Mapping[tuple[str, str], int]) -> Samples:
    return sorted(counted.items())
