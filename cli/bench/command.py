"""`twinline bench`: measures a server on this machine or elsewhere, beside the floor."""

import os
import platform
import select
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from twinline.cli.bench.figures import DIRECT_FLOOR, Machine, Part, Report
from twinline.cli.bench.idle import room_for_users
from twinline.cli.bench.plan import Place, Plan, Run
from twinline.cli.bench.report import table, warnings_of
from twinline.cli.bench.sockets import LoadError
from twinline.cli.bench.target import ServerProcess, server_process
from twinline.cli.client.target import Target, client_options_but
from twinline.cli.console.command import command, option
from twinline.cli.console.errors import CommandError, sentence
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.interruption import ended_by_sigterm
from twinline.cli.console.numbers import FiniteRange
from twinline.cli.console.output import say, write_line
from twinline.cli.console.progress import Progress
from twinline.cli.server.listeners import LISTENERS
from twinline.core.errors import Busy, MailboxFull, RateLimited, RequestError
from twinline.stores.registry import store_schemes
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Scheme
from twinline.transports.registry import AUTO, BrokenTransport, UnknownTransport, transport

_TRANSPORTS: Final = ("jsonl", "binary")
_STORES: Final = ("memory:", "sqlite:")
_IDLE_USERS: Final = 4_000
_ROUNDS: Final = 5
_SECONDS: Final = 1.0
_QUICK_STORES: Final = ("memory:",)
_QUICK_IDLE_USERS: Final = 50
_QUICK_SECONDS: Final = 0.3
_LIMITS: Final = {
    RateLimited: "it limits the rate of sends (sends_per_second), and a benchmark needs it not to",
    MailboxFull: "with shorter --seconds less piles up (mailbox_messages)",
    Busy: "it takes no more (connections, connections_per_address)",
}
"""What a refusal has to do with a server's settings."""
if TYPE_CHECKING:  # click's types are generic to a checker only, before 8.4
    _PartsType = click.ParamType[frozenset[Part]]
else:
    _PartsType = click.ParamType


class _Parts(_PartsType):
    """Names of parts, with commas between them."""

    name = "parts"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> frozenset[Part]:
        if isinstance(value, frozenset):
            return value
        names = [name.strip() for name in str(value).split(",")]
        for name in names:
            if name not in list(Part):
                self.fail(f"{name!r} is not one of {', '.join(Part)}", param, ctx)
        return frozenset(map(Part, names))


@command(
    example="twinline bench --store memory: --only sends,latency --plot bench.png",
    details="""
    Without --connect, private servers are started on this machine, with either listener. In the
    same rounds the floor
    is measured, a bare server of the same shape that only echoes and relays, and every figure
    is set beside it. Sends carry a send_id and deliveries come by a stream, as with a client.
    A whole run takes some minutes; Ctrl-C ends it and leaves nothing.

    The exit code is 3 when the server refuses what is sent, and 4 when it is not reached.
    """,
)
@option(
    "--only",
    type=_Parts(),
    default=frozenset(Part),
    metavar="PARTS",
    help="<Of sends,latency,deliveries,fairness,idle and others|"
    f"Measure only these, with commas between: {', '.join(Part)}>.",
)
@option("--quick", is_flag=True, help="A look in a minute or two: one short round, in memory.")
@option(
    "--rounds",
    type=click.IntRange(1, 100),
    metavar="NUMBER",
    help=f"Of each load.  [<|default: >{_ROUNDS}]",
)
@option(
    "--seconds",
    type=FiniteRange(0, 60, min_open=True),
    metavar="NUMBER",
    help=f"Of each load in a round.  [<|default: >{_SECONDS:g}]",
)
@option(
    "--idle-users",
    type=click.IntRange(0, 100_000),
    metavar="NUMBER",
    help="Connected and idle, two lines each.  "
    f"[<|default: >{_IDLE_USERS:,}<|; with --connect none>]",
)
@option(
    "--transport",
    "transports",
    multiple=True,
    metavar="NAME",
    help="<What to speak. |>Repeatable.  [<|default: >jsonl<|,> binary]",
)
@option(
    "--store",
    "stores",
    multiple=True,
    metavar="URL",
    help="Of a private server. Repeatable.  "
    "[<|default: >memory:<|, and a file of its own for> sqlite:]",
)
@option(
    "--listener",
    type=click.Choice(list(LISTENERS)),
    metavar="KIND",
    help="<threads|Of a private server: threads> or loop.  "
    "[<|default: >both<|; on a store of yours threads>]",
)
@option(
    "--scheme",
    "schemes",
    type=click.Choice([scheme.value for scheme in Scheme if scheme is not Scheme.UNIX]),
    multiple=True,
    rare=True,
    metavar="NAME",
    help="How a private server is reached: tcp, tls, ws or wss; over TLS it has a certificate of "
    "its own. Repeatable.  [default: tcp]",
)
@option(
    "--connect",
    metavar="ENDPOINT",
    multiple=True,
    help="Measure this server, not a private one.<|  Of several with one state: repeat it; the "
    "load's connections are spread over them.>",
)
@option(
    "--pid",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="With --connect: its process<, to measure it too| on this machine, for its processor time "
    "and memory>.",
)
@option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False, writable=True),
    metavar="FILE",
    help="Draw <them|latency and throughput; the ending says how>: .png, .svg or .pdf.",
)
@client_options_but("connect", "user", "client_transport", rare=("ca_file",))
def bench(
    *,
    only: frozenset[Part],
    quick: bool,
    rounds: int | None,
    seconds: float | None,
    idle_users: int | None,
    transports: tuple[str, ...],
    stores: tuple[str, ...],
    listener: str | None,
    schemes: tuple[str, ...],
    connect: tuple[str, ...],
    pid: int | None,
    plot_file: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure what a server does: sends, deliveries, latency, bytes, idle users."""
    if not hasattr(select, "epoll"):
        raise CommandError("the load needs epoll, which only Linux has")
    if plot_file is not None:
        # Before minutes of measuring: it may be that nothing can be drawn.
        from twinline.cli.bench import plot as bench_plot  # noqa: PLC0415 - needs an extra

        bench_plot.check(plot_file, only)
    if Part.IDLE not in only:
        idle_users = 0
    elif idle_users is None:
        idle_users = 0 if connect else _QUICK_IDLE_USERS if quick else _IDLE_USERS
    if not idle_users and only == {Part.IDLE}:
        raise CommandError("--only idle needs --idle-users", ExitCode.USAGE)
    with ExitStack() as stack:
        stack.enter_context(ended_by_sigterm())
        if not connect:
            if pid is not None:
                raise CommandError("--pid is for --connect", ExitCode.USAGE)
            places = stack.enter_context(
                _private(
                    stores or (_QUICK_STORES if quick else _STORES),
                    listener,
                    [Scheme(scheme) for scheme in schemes] or [Scheme.TCP],
                )
            )
            names = transports or _TRANSPORTS
        else:
            for flag, value in (
                ("--store", stores),
                ("--listener", listener),
                ("--scheme", schemes),
            ):
                if value:
                    raise CommandError(f"give --connect or {flag}, not both", ExitCode.USAGE)
            place, spoken = _deployment({**options, "connect": connect}, pid)
            places = (place,)
            names = transports or ((spoken,) if spoken else _TRANSPORTS)
        plan = Plan(
            parts=only,
            places=places,
            transports=_known(names),
            rounds=rounds or (1 if quick else _ROUNDS),
            seconds=seconds or (_QUICK_SECONDS if quick else _SECONDS),
            idle_users=idle_users,
        )
        _measure(plan, as_json=as_json, plot_file=plot_file)


def _measure(plan: Plan, *, as_json: bool, plot_file: Path | None) -> None:
    warnings = []
    room = room_for_users(plan.idle_users, plan.descriptors)
    if room < plan.idle_users:
        warnings.append(
            f"only {room:,} idle users instead of {plan.idle_users:,}, for this process may not "
            "have more open files (ulimit -n)"
        )
    started_at = time.time_ns() // 1_000_000
    progress = Progress()
    plan = replace(plan, idle_users=room)
    run = Run(plan, progress)
    try:
        run.measure()
    except RequestError as error:
        raise _refusal(error) from error
    except KeyboardInterrupt:
        progress.end()
        say("ended before its time, so there are no figures")
        raise
    finally:
        progress.end()
    warnings += warnings_of(run.book, plan.everybody)
    report = Report(
        twinline=metadata.version("twinline"),
        started_at=started_at,
        machine=_machine(),
        rounds=plan.rounds,
        seconds=plan.seconds,
        idle_users=plan.idle_users,
        results=run.book.results([DIRECT_FLOOR, *plan.everybody]),
        warnings=tuple(warnings),
    )
    if as_json:
        write_line(report.model_dump_json())
    else:
        for line in table(report):
            write_line(line)
    if plot_file is not None:
        from twinline.cli.bench import plot as bench_plot  # noqa: PLC0415 - needs an extra

        bench_plot.draw(run.book, plan.everybody, plot_file)


def _known(names: Sequence[str]) -> tuple[Transport, ...]:
    if AUTO in names:
        raise CommandError(
            "--transport: 'auto' is for servers; name those to speak", ExitCode.USAGE
        )
    try:
        return tuple(transport(name) for name in dict.fromkeys(names))
    except (UnknownTransport, BrokenTransport) as error:
        raise CommandError(f"--transport: {error}", ExitCode.USAGE) from None


@contextmanager
def _private(
    urls: Sequence[str], listener: str | None, schemes: Sequence[Scheme]
) -> Iterator[tuple[Place, ...]]:
    """Yield a place for each store, listener and scheme; what is kept for the run goes with it."""
    for url in urls:
        scheme, colon, _ = url.partition(":")
        if not colon or scheme not in store_schemes():
            known = ", ".join(f"{name}:" for name in store_schemes())
            raise CommandError(f"--store: write one of {known}, with its URL", ExitCode.USAGE)
    numbers = iter(range(1_000_000))
    with tempfile.TemporaryDirectory(prefix="twinline-bench-") as folder:

        def serve(url: str, kind: str, scheme: Scheme, connections: int) -> Any:
            # A fresh file each time: what an earlier part left in it would be measured too.
            real = f"sqlite:{folder}/{next(numbers)}.db" if url == "sqlite:" else url
            return server_process(real, max(10_000, connections), listener=kind, scheme=scheme)

        def kinds(url: str) -> tuple[str, ...]:
            if listener is not None:
                return (listener,)
            # A store of the user's own may be open in one server only.
            return tuple(LISTENERS) if url in _STORES else ("threads",)

        yield tuple(
            Place(
                url if scheme is Scheme.TCP else f"{url} {scheme}",
                partial(serve, url, kind, scheme),
                keeps=url not in _STORES,
                listener=kind,
            )
            for url in dict.fromkeys(urls)
            for kind in kinds(url)
            for scheme in dict.fromkeys(schemes)
        )


def _deployment(options: dict[str, Any], pid: int | None) -> tuple[Place, str | None]:
    """Return the server that the command line names, and what its endpoint says it speaks."""
    named = Target.of({**options, "client_transport": None})
    with named.anonymous():
        pass  # it is there
    first, *others = named.endpoints
    if any((each.scheme, each.transport) != (first.scheme, first.transport) for each in others):
        raise CommandError("--connect: these differ in what is spoken there", ExitCode.USAGE)
    target = ServerProcess(first, pid, named.tls, tuple(others))
    if pid is not None and target.processor_seconds() is None:
        raise CommandError(f"--pid: there is no process {pid} on this machine", ExitCode.USAGE)
    place = Place(named.place, lambda _: nullcontext(target), keeps=True)
    return place, first.transport


def _refusal(error: RequestError) -> LoadError:
    reason = next((why for kind, why in _LIMITS.items() if isinstance(error, kind)), None)
    words = f"the server refused the load: {sentence(error)}"
    return LoadError(f"{words}; {reason}" if reason else words, ExitCode.REFUSED)


def _machine() -> Machine:
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    system = os.uname()
    return Machine(
        system=f"{system.sysname} {system.release} {system.machine}",
        processors=len(usable) or os.cpu_count() or 1,
        python=platform.python_version(),
    )
