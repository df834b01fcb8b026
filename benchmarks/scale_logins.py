"""A storm of logins for `scale.py`: what it takes of the server's memory, and of others' time."""

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from scale_site import CONNECTIONS, WIRE, Row, Site, in_ms
from scale_store import PASSWORD, username

from twinline.cli.bench.load import Caller, LoadError, one_at_a_time
from twinline.cli.bench.sockets import PATIENCE_SECONDS
from twinline.core.deadline import Deadline
from twinline.core.protocol import MAX_REPLY_BYTES, ErrorReply, Hello, Login, Reply, SessionReply
from twinline.core.settings import ServiceSettings
from twinline.transports.connecting import connect

LOGINS: Final = 200
_FIRST: Final = 300  # the number of the first account that logs in
_HASH_BYTES: Final = 19 * 1024 * 1024  # of one hash, with the default parameters
_SLICE_SECONDS: Final = 0.25
_STORM_SECONDS: Final = 60.0  # after so long it is given up


@dataclass(slots=True)
class Answers:
    """What the logins of one storm were answered.

    Attributes:
        good: the seconds after which those were answered that succeeded.
        busy: the same of those that were told ``busy``.
        error: why the storm was given up.
    """

    good: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    error: Exception | None = None

    def take(self, reply: Reply, seconds: float) -> None:
        """Count a reply.

        Raises:
            LoadError: it is none of the two that there may be.
        """
        if isinstance(reply, SessionReply):
            self.good.append(seconds)
        elif isinstance(reply, ErrorReply) and reply.code == "busy":
            self.busy.append(seconds)
        else:
            raise LoadError(f"a login was answered {reply!r}")


class Storm:
    """Connections that all log in at the same moment, each to another account.

    They are greeted first, so that the server has a thread for each of them by then, and what
    it takes later is the hashes'.
    """

    def __init__(self, site: Site) -> None:
        self.answers = Answers()
        self._lines = {}
        for number in range(_FIRST, _FIRST + LOGINS):
            connected = connect(site.target.endpoint, Deadline.after(PATIENCE_SECONDS)).socket
            codec = WIRE.client_codec(MAX_REPLY_BYTES)
            connected.settimeout(PATIENCE_SECONDS)
            codec.send(1, Hello())
            connected.sendall(codec.data_to_send())
            codec.receive_data(connected.recv(65536))
            if codec.next_event() is None:
                raise LoadError("the server did not greet")
            codec.send(1, Login(username=username(number), password=PASSWORD))
            self._lines[connected.fileno()] = (connected, codec, codec.data_to_send())

    def run(self) -> None:
        """Log in, and wait until every login is answered; in a thread of its own."""
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - the thread that waits raises it
            self.answers.error = error

    def _run(self) -> None:
        began = time.perf_counter()
        deadline = Deadline.after(_STORM_SECONDS)
        with select.epoll() as poll:
            for descriptor, (connected, _, frame) in self._lines.items():
                connected.sendall(frame)
                poll.register(descriptor, select.EPOLLIN)
            missing = set(self._lines)
            while missing:
                if deadline.passed:
                    raise LoadError(f"{len(missing)} logins were not answered")
                for descriptor, _ in poll.poll(1):
                    connected, codec, _ = self._lines[descriptor]
                    codec.receive_data(connected.recv(65536))
                    event = codec.next_event()
                    if event is not None:
                        self.answers.take(event.reply, time.perf_counter() - began)
                        poll.unregister(descriptor)
                        missing.remove(descriptor)

    def close(self) -> None:
        """Close the connections."""
        for connected, _, _ in self._lines.values():
            connected.close()


def measure_logins(
    site: Site, rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Row]:
    """Let storms come over a server that is busy with sends."""
    callers = site.callers()
    cores = os.cpu_count() or 1
    before: list[float] = []
    beside: list[float] = []
    burning: list[float] = []
    storms: list[Answers] = []
    peaks = []
    bases = []
    mail = []  # bytes that the store has grown by in each storm
    for round_ in range(rounds):
        say(f"  logins, round {round_ + 1} of {rounds}")
        empty = _memory(site, "VmRSS")
        quiet = one_at_a_time(callers, seconds)
        a_message = max(0, _memory(site, "VmRSS") - empty) / quiet.operations
        before += quiet.latencies
        storm = Storm(site)
        try:
            bases.append(_memory(site, "VmRSS"))
            _forget_peak(site)
            sent = sent_beside(storm, callers)
            beside += sent
            peaks.append(_memory(site, "VmHWM"))
            mail.append(a_message * len(sent))
        finally:
            storm.close()
        storms.append(storm.answers)
        with _burning(cores):
            burning += one_at_a_time(callers, seconds).latencies
    good = [answer for storm in storms for answer in storm.good]
    busy = [answer for storm in storms for answer in storm.busy]
    longest = [max(storm.good + storm.busy) for storm in storms]
    calm, stormy, burnt = in_ms(before), in_ms(beside), in_ms(burning)
    grown = [peak - base - kept for peak, base, kept in zip(peaks, bases, mail, strict=True)]
    wait = ServiceSettings().hash_wait_seconds
    what = f"sends from {CONNECTIONS} connections"
    told = f", {len(busy)} told busy, the last after {max(busy):.1f} s" if busy else ""
    return [
        Row(
            f"{LOGINS} logins at once, {rounds} times: succeeded",
            f"{len(good)} of {rounds * LOGINS}{told}",
            f"all, or busy within {wait:g} s and a hash",
            {"good": len(good), "busy": len(busy), "busy_seconds": busy},
        ),
        Row(
            "until the last is answered: median, longest",
            f"{median(longest):.2f}, {max(longest):.2f} s",
            "",
            {"seconds": longest},
        ),
        Row(
            "memory at the peak, without the mail that was sent: median, most",
            f"{median(grown) / 2**20:.1f}, {max(grown) / 2**20:.1f} MiB above "
            f"{bases[0] / 2**20:.0f} MiB",
            f"<= {cores} cores x 19 MiB = {cores * _HASH_BYTES / 2**20:.0f} MiB",
            {
                "peak_bytes": peaks,
                "base_bytes": bases,
                "mail_bytes": mail,
                "allowed_bytes": cores * _HASH_BYTES,
            },
        ),
        Row(f"{what}, before: p50, p99, longest", calm.text, "", calm.figures),
        Row(f"{what}, during the storm: the same", stormy.text, "", stormy.figures),
        Row(
            "p99 during the storm over p99 before",
            f"{stormy.p99 / calm.p99:.1f}",
            "<= 2",
            {"ratio": stormy.p99 / calm.p99},
        ),
        Row(
            f"{what}, beside {cores} other programs that only compute: the same",
            burnt.text,
            "",
            burnt.figures,
        ),
        Row(
            "p99 beside those programs over p99 before",
            f"{burnt.p99 / calm.p99:.1f}",
            "",
            {"ratio": burnt.p99 / calm.p99},
        ),
    ]


def sent_beside(storm: Storm, callers: list[Caller]) -> list[float]:
    """Send while a storm lasts; return what each send took."""
    thread = threading.Thread(target=storm.run)
    thread.start()
    taken: list[float] = []
    try:
        while thread.is_alive():
            taken += one_at_a_time(callers, _SLICE_SECONDS).latencies
    finally:
        thread.join()
    if storm.answers.error is not None:
        raise storm.answers.error
    return taken


@contextmanager
def _burning(count: int) -> Iterator[None]:
    """Run so many programs that do nothing but compute, for a minute at the most."""
    code = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"
    command = [sys.executable, "-c", code]
    programs = [subprocess.Popen(command) for _ in range(count)]  # noqa: S603
    try:
        yield
    finally:
        for program in programs:
            program.terminate()
            program.wait()


def _memory(site: Site, name: str) -> int:
    """Return the server's resident bytes, now (VmRSS) or at the most (VmHWM); see proc(5)."""
    for line in Path(f"/proc/{site.target.pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LoadError("this system does not tell the memory of another process")


def _forget_peak(site: Site) -> None:
    Path(f"/proc/{site.target.pid}/clear_refs").write_text("5")
