"""`twinline verify`: a workload, its history, and the verdict on the server that took it."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import click

from twinline.cli.client.target import Target, client_options_but
from twinline.cli.console.command import command, option
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.interruption import defer_interrupt
from twinline.cli.console.numbers import FiniteRange
from twinline.cli.console.output import say, write_json, write_line
from twinline.cli.console.progress import Progress
from twinline.cli.console.text import counted
from twinline.cli.server.listeners import LISTENERS
from twinline.cli.server.private import private_server
from twinline.cli.verify.messages import RuleFound, Verified
from twinline.cli.verify.workload import Workload, WorkloadSettings
from twinline.core.deadline import LONGEST_SECONDS, Deadline
from twinline.stores.conformance.history import Checker, Judgement, Recorder, Verdict, write_history
from twinline.stores.registry import UnknownStore, open_store
from twinline.transports.endpoints import Endpoint

_EXIT_CODES: Final = {
    Verdict.OK: ExitCode.OK,
    Verdict.VIOLATED: ExitCode.FAILURE,
    Verdict.UNKNOWN: ExitCode.TIMED_OUT,
}
_TICK_SECONDS: Final = 0.2


@command(
    example="twinline verify --duration 60 --connect tcp://127.0.0.1:7767",
    details="""
    The server may be restarted, killed or cut off while this runs: that is what it is for. A
    message that was acknowledged must be delivered, once and in order, and its copy must come to
    another device of its sender; receipts must tell of what was acknowledged, and of nothing else.
    The verdict says whether all was so. Ctrl-C ends the sending early, and the verdict is that of
    what was sent until then; a second Ctrl-C does without one, and is exit code 130.

    The exit code is 0 for ok, 1 for violated, and 5 for unknown: nothing was delivered, or not
    everything could be read in time.
    """,
)
@option(
    "--duration",
    type=FiniteRange(0, LONGEST_SECONDS, min_open=True),
    default=10,
    show_default=True,
    metavar="SECONDS",
    help="How long to send.",
)
@option(
    "--senders",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    metavar="NUMBER",
    help="Accounts that send<|, one message after another>.",
)
@option(
    "--mailboxes",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    metavar="NUMBER",
    help="Accounts that receive, each with a watcher.",
)
@option(
    "--rate",
    type=FiniteRange(min=0),
    default=200,
    show_default=True,
    metavar="NUMBER",
    help="Sends a second, of all senders<| together; 0 is as fast as they can>.",
)
@option(
    "--no-copies",
    is_flag=True,
    rare=True,
    help="Send without copies, and watch for no receipts: to a server that keeps fewer than 1,000 "
    "messages of history.",
)
@option(
    "--history",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Keep what was done, as JSON lines.",
)
@option(
    "--connect",
    metavar="ENDPOINT",
    multiple=True,
    help="The server to verify<|, or servers with one state>. Repeatable.<|  [default: a private "
    "one]>",
)
@option(
    "--watch-at",
    metavar="ENDPOINT",
    multiple=True,
    rare=True,
    help="With --connect: the servers that the watchers use, where they are to be others than "
    "those that the senders use. Repeatable.",
)
@option(
    "--store",
    metavar="URL",
    help="<Of|Without --connect: the store of> the private server.  [<|default: >memory:]",
)
@option(
    "--listener",
    type=click.Choice(list(LISTENERS)),
    metavar="KIND",
    rare=True,
    help="Without --connect: what drives the connections of the private server: threads, one for "
    "each, or loop, one event loop.  [default: threads]",
)
@client_options_but("connect", "user", rare=("ca_file",))
def verify(
    *,
    duration: float,
    senders: int,
    mailboxes: int,
    rate: float,
    no_copies: bool,
    history: Path | None,
    connect: tuple[str, ...],
    watch_at: tuple[str, ...],
    store: str | None,
    listener: str | None,
    as_json: bool,
    **options: Any,
) -> ExitCode:
    """Send and receive for a while, and check that the server kept its promises.

    Makes accounts at the server of --connect, or at a private one, and deletes
    them at the end. Exit code 0 is ok, 1 violated, 5 unknown.
    """
    settings = WorkloadSettings(senders, mailboxes, rate, copies=not no_copies)
    checker = Checker()
    recorder = Recorder([checker])
    with (
        _opened(history) as file,
        _servers(connect, watch_at, store, listener, options) as servers,
    ):
        if file is not None:
            # What is there already gives way to a run that begins, and to no other.
            file.truncate(0)

        def keep() -> None:
            # What was taken must be written, or the file would tell another story.
            with defer_interrupt():
                events = recorder.take()
                if file is not None:
                    write_history(file, events)

        workload = Workload(
            servers.endpoints,
            recorder,
            settings,
            watching=servers.watching,
            transport=servers.transport,
            tls=servers.tls,
        )
        try:
            _run(workload, duration, keep)
        finally:
            try:
                left = workload.close()
            finally:
                keep()
            if left:
                which = counted(left, "account")
                say(f"{which} could not be deleted; their names begin {workload.prefix}")
    judgement = checker.judge()
    _tell(judgement, as_json=as_json)
    return _EXIT_CODES[judgement.verdict]


@contextlib.contextmanager
def _opened(history: Path | None) -> Iterator[TextIO | None]:
    """Open the file for the history, before there is a server that would run for nothing."""
    if history is None:
        yield None
        return
    try:
        file = history.open("a", encoding="utf-8")
    except OSError as error:
        raise CommandError(f"--history: {error.strerror}: {history}", ExitCode.USAGE) from None
    with file:
        yield file


def _run(workload: Workload, duration: float, keep: Callable[[], None]) -> None:
    """Carry out a run, in the calling thread, which shows how far it is."""
    progress = Progress()
    progress.say("making accounts")
    workload.open()
    workload.start()
    end = Deadline.after(duration)
    nothing = threading.Event()
    try:
        while not end.passed:
            passed = duration - (end.remaining() or 0.0)
            counts = f"{workload.acknowledged:,} acknowledged, {workload.received:,} received"
            progress.show(passed / duration, f"{passed:.0f} of {duration:g} s, {counts}")
            nothing.wait(end.sooner(_TICK_SECONDS).remaining())
            keep()
    except KeyboardInterrupt:
        say("no more is sent; the verdict follows, and another Ctrl-C does without it")
    progress.say("reading every mailbox to its end")
    workload.finish()
    progress.end()


def _tell(judgement: Judgement, *, as_json: bool) -> None:
    if as_json:
        findings = {
            finding.anomaly.value: RuleFound(
                count=finding.count,
                cases=finding.cases,
                below_95=finding.bound,
                examples=finding.examples,
            )
            for finding in judgement.findings
        }
        counts = judgement.model_dump(exclude={"findings"})
        write_json(Verified(verdict=judgement.verdict, **counts, findings=findings))
        return
    for line in verdict_table(judgement):
        write_line(line)


def verdict_table(judgement: Judgement) -> Iterator[str]:
    """Yield the lines that tell a person what a history shows."""
    yield (
        f"{judgement.attempted:,} sent: {judgement.acknowledged:,} acknowledged, "
        f"{judgement.failed:,} failed, {judgement.undecided:,} undecided"
    )
    yield (
        f"{judgement.delivered:,} delivered, {judgement.redelivered:,} of them again to another "
        f"life of a reader"
    )
    yield (
        f"{counted(judgement.copies, 'copy', 'copies')} and "
        f"{counted(judgement.receipts, 'receipt')} came to their senders"
    )
    if judgement.unread:
        unread = counted(judgement.unread, "mailbox was", "mailboxes were")
        yield f"{unread} not read to the end, or gone"
    yield ""
    yield f"{'':<11}{'found':>8}{'in':>12}   with 95 % confidence"
    for finding in judgement.findings:
        bound = "" if finding.bound is None else f"   below {min(finding.bound, 1):.2g}"
        yield f"{finding.anomaly.value:<11}{finding.count:>8,}{finding.cases:>12,}{bound}"
        for example in finding.examples:
            yield f"    {example}"
    yield ""
    yield f"verdict: {judgement.verdict.value}"


@dataclass(frozen=True, slots=True)
class _Servers:
    """What is verified, and how to speak to it; see `Workload`."""

    endpoints: Sequence[Endpoint]
    watching: Sequence[Endpoint] | None = None
    transport: str | None = None
    tls: ssl.SSLContext | None = None


@contextlib.contextmanager
def _servers(
    connect: tuple[str, ...],
    watch_at: tuple[str, ...],
    store: str | None,
    listener: str | None,
    options: Mapping[str, Any],
) -> Iterator[_Servers]:
    """Yield the servers that the command line names, or a private one.

    Only the command line names any: a run makes accounts and mail, and they should not turn up
    at the server that a file or a variable names for other commands.
    """
    if not connect:
        if watch_at:
            raise CommandError("--watch-at is given beside --connect", ExitCode.USAGE)
        url = store or "memory:"
        try:
            opened = open_store(url)
        except UnknownStore as error:
            raise CommandError(f"--store: {error}", ExitCode.USAGE) from None
        listener = listener or "threads"
        with private_server(opened, listener) as endpoint:
            scheme = url.partition(":")[0]
            say(f"a private server at {endpoint}, store {scheme}, listener {listener}")
            yield _Servers([endpoint], transport=options["client_transport"])
        return
    for flag, value in (("--store", store), ("--listener", listener)):
        if value is not None:
            raise CommandError(f"give --connect or {flag}, not both", ExitCode.USAGE)
    target = Target.of({**options, "connect": connect})
    places = [target]
    if watch_at:
        places.append(Target.of({**options, "connect": watch_at}, warn=False))
    for each in places:
        with each.anonymous():
            pass  # it is there
    # Of two contexts of TLS the one that is there; they are made of the same settings.
    tls = next((each.tls for each in places if each.tls is not None), None)
    yield _Servers(target.spoken, places[-1].spoken, tls=tls)
