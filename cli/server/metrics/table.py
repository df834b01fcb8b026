"""The metrics that there are besides those that `twinline.core.metrics` counts.

With these the table is whole; the page of the documentation is made from it.
"""

from typing import Final, NamedTuple

from twinline.core.metrics import COUNTED, Kind, Metric

READY: Final = Metric("ready", Kind.GAUGE, "Whether /readyz says yes: 1 or 0")
STORE_UP: Final = Metric("store_up", Kind.GAUGE, "Whether the store answers: 1 or 0")
STORE_INFO: Final = Metric(
    "store_info",
    Kind.GAUGE,
    "1, with the kind of the store, what an acknowledged write survives now, and the epoch, which "
    "changes when the store was put back or has failed over",
    ("store", "durability", "epoch"),
)
STORE_LAG: Final = Metric(
    "store_lag_seconds",
    Kind.GAUGE,
    "For how long this server may not have heard what the others did",
)
CLOCK_OFFSET: Final = Metric(
    "store_clock_offset_seconds",
    Kind.GAUGE,
    "How far this machine's clock is ahead of the store's",
)
FREE_BYTES: Final = Metric(
    "store_free_bytes",
    Kind.GAUGE,
    "Room in the file system of the store; absent where it has none of this machine's",
)
MAILBOXES: Final = Metric("mailboxes", Kind.GAUGE, "Mailboxes that there are")
DEEPEST: Final = Metric(
    "mailbox_unread_max", Kind.GAUGE, "Unread messages in the mailbox that has the most"
)
FULL: Final = Metric(
    "mailboxes_full", Kind.GAUGE, "Mailboxes with as many unread messages as they may have"
)
SURVEY_AGE: Final = Metric(
    "mailbox_survey_age_seconds", Kind.GAUGE, "How long ago the mailboxes were looked at"
)
CERTIFICATE_END: Final = Metric(
    "certificate_expiry_timestamp_seconds",
    Kind.GAUGE,
    "When the certificate in force ends, in seconds since 1970 UTC",
    ("endpoint",),
)
THREADS: Final = Metric("threads", Kind.GAUGE, "Threads of the process")
BUILD: Final = Metric(
    "build_info", Kind.GAUGE, "1, with the version and the listener", ("version", "listener")
)

ADDED: Final[tuple[Metric, ...]] = (
    READY,
    STORE_UP,
    STORE_INFO,
    STORE_LAG,
    CLOCK_OFFSET,
    FREE_BYTES,
    MAILBOXES,
    DEEPEST,
    FULL,
    SURVEY_AGE,
    CERTIFICATE_END,
    THREADS,
    BUILD,
)
TABLE: Final = (*COUNTED, *ADDED)
"""All metrics of ours, in the order of the documentation."""


class OfProcess(NamedTuple):
    """A metric that prometheus-client makes.

    Attributes:
        name: all of it.
        kind: what it is.
        help: what it counts.
    """

    name: str
    kind: Kind
    help: str


OF_PROCESS: Final[tuple[OfProcess, ...]] = (
    OfProcess("process_virtual_memory_bytes", Kind.GAUGE, "Address space"),
    OfProcess("process_resident_memory_bytes", Kind.GAUGE, "Memory that is resident (RSS)"),
    OfProcess("process_start_time_seconds", Kind.GAUGE, "When it was started, since 1970 UTC"),
    OfProcess("process_cpu_seconds_total", Kind.COUNTER, "Processor time, user and system"),
    OfProcess("process_open_fds", Kind.GAUGE, "Descriptors that are open"),
    OfProcess("process_max_fds", Kind.GAUGE, "The most that may be open"),
    OfProcess(
        "python_gc_objects_collected_total",
        Kind.COUNTER,
        "Objects that the garbage collector has freed, by generation",
    ),
    OfProcess(
        "python_gc_objects_uncollectable_total",
        Kind.COUNTER,
        "Objects that it could not free, by generation",
    ),
    OfProcess("python_gc_collections_total", Kind.COUNTER, "Collections, by generation"),
)
"""Those of the process; on systems without /proc the first six are absent."""
