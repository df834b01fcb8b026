"""Measures the SQLite store: through a real server beside the in-memory store, and by itself.

Sends go over TCP from a process of their own, which drives all its connections from one epoll
loop and reads no more of a reply than it must, so that what is measured is the server. Every
figure that is compared with another one comes from the same run, in turns; medians are printed.

    python benchmarks/sqlite.py              # two minutes
    python benchmarks/sqlite.py --quick      # a look
    python benchmarks/sqlite.py --only sends
    python benchmarks/sqlite.py --only copies  # a send with a copy over one without
"""

# A script: it prints, starts what it measures, and asserts what it relies on.
# ruff: noqa: FBT003, T201, S101, S105, S603

import argparse
import json
import os
import resource
import select
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import median

from twinline.core.store import Account, Draft, MailboxPolicy
from twinline.stores.sqlite import SqliteStore

PASSWORD = "correct horse"
RECIPIENTS = 8
BODY = "See you at the station at half past seven, platform 4."


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


# --- the load, in a process of its own


class Line:
    """One connection that sends, waits for the reply, and sends again."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_at = 0.0

    def ask(self, **fields: object) -> dict[str, object]:
        """Send a request and return its reply."""
        self.socket.sendall(json.dumps({"id": 1, **fields}).encode() + b"\n")
        reply = b""
        while not reply.endswith(b"\n"):
            reply += self.socket.recv(65536)
        answer: dict[str, object] = json.loads(reply)
        if not answer["ok"]:
            raise SystemExit(f"the server refused {fields['op']}: {answer['error']}")
        return answer


def load(port: int, connections: int, seconds: float, read_every: float) -> dict[str, object]:
    """Send from so many connections for so long, and read beside it; return what was counted."""
    first = Line(port)
    names = [f"bench{number}" for number in range(RECIPIENTS)]
    # One password hash opens all connections: they resume the session of the first.
    token = first.ask(op="login", username=names[0], password=PASSWORD)["session"]
    lines = [Line(port) for _ in range(connections)]
    reader = Line(port)
    for line in (*lines, reader):
        line.ask(op="resume", session=token)
    requests = [
        json.dumps({"op": "send", "id": 1, "to": name, "body": BODY}).encode() + b"\n"
        for name in names
    ]
    poll = select.epoll()
    for line in (*lines, reader):
        line.socket.setblocking(False)
        poll.register(line.socket, select.EPOLLIN)
    by_descriptor = {line.socket.fileno(): line for line in lines}
    reading = reader.socket.fileno()
    read_request = b'{"op":"history","id":1,"limit":20}\n'
    for number, line in enumerate(lines):
        line.socket.send(requests[number % RECIPIENTS])
    started = now = time.monotonic()
    done = number = 0
    reads: list[float] = []
    read_at, next_read, buffer = 0.0, started, b""
    while now - started < seconds:
        for descriptor, _ in poll.poll(0.01):
            if descriptor == reading:
                buffer = reader.socket.recv(1 << 20)
                if buffer.endswith(b"\n"):
                    reads.append(time.monotonic() - read_at)
                    read_at = 0.0
                continue
            line = by_descriptor[descriptor]
            reply = line.socket.recv(4096)
            if b'"ok":true' not in reply:
                raise SystemExit(f"a send was refused: {reply!r}")
            done += 1
            number += 1
            line.socket.send(requests[number % RECIPIENTS])
        now = time.monotonic()
        if read_every and not read_at and now >= next_read:
            read_at, next_read = now, now + read_every
            reader.socket.send(read_request)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "sends": done / (now - started),
        "reads": sorted(reads),
        "busy": (usage.ru_utime + usage.ru_stime) / (now - started),
    }


# --- a server to load


class Server:
    """`twinline serve` as a user runs it, with room for all that is sent."""

    def __init__(self, store: str) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "twinline.cli", "serve", "--listen", "tcp://127.0.0.1:0"),
                *("--store", store, "--mailbox-messages", "1000000000", "--log-level", "warning"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        words = self.process.stdout.readline().split()
        if len(words) < 3:
            raise SystemExit(f"no server with {store}")
        self.port = int(words[2].rpartition(":")[2])

    def register(self) -> None:
        """Create the accounts."""
        for number in range(RECIPIENTS):
            Line(self.port).ask(op="create_account", username=f"bench{number}", password=PASSWORD)

    def load(self, connections: int, seconds: float, read_every: float = 0) -> dict[str, object]:
        """Load it from another process."""
        result = subprocess.run(
            [sys.executable, __file__, "--load"]
            + [str(each) for each in (self.port, connections, seconds, read_every)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        counted: dict[str, object] = json.loads(result.stdout)
        return counted

    @property
    def memory(self) -> int:
        """The resident bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def serving(store: str) -> Iterator[Server]:
    """Run a server with its accounts."""
    server = Server(store)
    try:
        server.register()
        yield server
    finally:
        server.stop()


# --- what is measured


def measure_sends(folder: Path, rounds: int, seconds: float) -> list[tuple[str, str, str]]:
    """Sends a second, durable and in memory, and what a reader waits meanwhile."""
    rates: dict[str, list[float]] = {}
    waits: dict[str, list[float]] = {"memory": [], "sqlite": []}
    busy = []
    with serving("memory:") as memory, serving(f"sqlite:{folder / 'sends.db'}") as sqlite:
        for round_ in range(rounds):
            for name, server in (("memory", memory), ("sqlite", sqlite)):
                for connections in (1, 64):
                    say(f"  sends, round {round_ + 1} of {rounds}: {name}, {connections}")
                    counted = server.load(connections, seconds)
                    rates.setdefault(f"{name} {connections}", []).append(counted["sends"])  # type: ignore[arg-type]
                    busy.append(counted["busy"])
                waits[name] += server.load(64, seconds, read_every=0.005)["reads"]  # type: ignore[operator]
    of = {name: median(values) for name, values in rates.items()}
    rows = [
        (f"sends a second, {name} connection{'s' * name.endswith('64')}", f"{of[name]:,.0f}", "")
        for name in of
    ]
    rows += [
        ("durable: 64 connections over 1", f"{of['sqlite 64'] / of['sqlite 1']:.2f}", ">= 5"),
        ("durable over in memory, 64", f"{of['sqlite 64'] / of['memory 64']:.2f}", ">= 0.5"),
        ("of a core, the load generator", f"{max(busy):.2f}", ""),  # type: ignore[type-var]
    ]
    for name, times in waits.items():
        times.sort()
        rows.append(
            (
                f"a read beside 64 senders, {name}: median, 99 %, longest",
                shown(times),
                "",
            )
        )
    return rows


def measure_reads(folder: Path, seconds: float) -> list[tuple[str, str, str]]:
    """What a read of the store itself waits while threads write as fast as they can."""
    store = SqliteStore(folder / "reads.db", MailboxPolicy(mailbox_messages=10**9))
    stop = threading.Event()
    with store:
        store.mailboxes.create("bob")
        for number in range(200):
            store.mailboxes.append("bob", draft(number))

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                store.mailboxes.append("bob", draft(number))

        writers = [threading.Thread(target=write) for _ in range(8)]
        for writer in writers:
            writer.start()
        times: list[float] = []
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            began = time.perf_counter()
            store.mailboxes.read("bob", 0, 100, 1 << 16)
            times.append(time.perf_counter() - began)
            time.sleep(0.001)
        stop.set()
        for writer in writers:
            writer.join()
    times.sort()
    what = "a read beside 8 writing threads: median, 99 %, longest"
    return [(what, shown(times), "<= 50 ms")]


def measure_copies(folder: Path, rounds: int, seconds: float) -> list[tuple[str, str, str]]:
    """A send with a copy over one without, both with a send_id, by threads that call the store.

    Each thread has a sender and a recipient of its own, so that no two share a page of the file.
    """
    rows = []
    policy = MailboxPolicy(mailbox_messages=10**9)
    for writers in (1, 32):
        who = f"a send with a copy over one without, {writers} writer{'s' * (writers > 1)}"
        costs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        with (
            SqliteStore(folder / f"plain-{writers}.db", policy) as plain,
            SqliteStore(folder / f"copied-{writers}.db", policy) as copied,
        ):
            for store in (plain, copied):
                for number in range(writers):
                    store.mailboxes.create(f"from-{number}")
                    store.mailboxes.create(f"to-{number}")
            for round_ in range(rounds + 1):
                say(f"  copies, round {round_} of {rounds}: {writers}")
                for copy, store in ((False, plain), (True, copied))[:: 1 if round_ % 2 else -1]:
                    cost = send_for(store, writers, seconds, copy=copy)
                    if round_:  # the first one fills caches
                        costs[copy].append(cost)
        ratios = [
            [
                with_copy[part] / without[part]
                for without, with_copy in zip(*costs.values(), strict=True)
            ]
            for part in (0, 1)
        ]
        without, with_copy = (median(cost for _, cost in costs[copy]) for copy in costs)
        rows += [
            (f"{who}: its time", f"{median(ratios[0]):.2f}", "<= 1.15"),
            (f"{who}: µs of a processor", f"{with_copy:.0f} over {without:.0f}", "<= 1.15"),
        ]
    return rows


def send_for(
    store: SqliteStore, writers: int, seconds: float, *, copy: bool
) -> tuple[float, float]:
    """Send by so many threads for so long; return a send's µs, and its µs of a processor."""
    counts = [0] * writers
    ends = time.monotonic() + seconds

    def write(writer: int) -> None:
        to = f"to-{writer}"
        while time.monotonic() < ends:
            counts[writer] += 1
            send_id = f"{time.monotonic_ns():x}"
            each = Draft(
                f"{writer:08x}{time.monotonic_ns():016x}",
                f"from-{writer}",
                "ann",
                BODY,
                time.time_ns() // 1_000_000,
                send_id,
                to if copy else None,
            )
            store.mailboxes.append(to, each)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(writers)]
    busy = time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    busy = time.process_time() - busy
    return seconds / sum(counts) * 1e6, busy / sum(counts) * 1e6


def shown(times: list[float]) -> str:
    """Return the median, the 99th percentile and the longest of sorted times."""
    chosen = (median(times), times[len(times) * 99 // 100], times[-1])
    return ", ".join(f"{1e3 * each:.1f}" for each in chosen) + " ms"


def measure_size(folder: Path, accounts: int, messages: int) -> list[tuple[str, str, str]]:
    """Restart, page and memory of a store with much in it."""
    path = folder / "size.db"
    say(f"  filling {accounts:,} accounts, {messages:,} messages")
    fill(path, accounts, messages)
    began = time.monotonic()
    server = Server(f"sqlite:{path}")
    Line(server.port).ask(op="hello")
    ready = time.monotonic() - began
    resident = server.memory
    server.stop()
    empty = Server("memory:")
    started = empty.memory
    empty.stop()
    pages = []
    with SqliteStore(path) as store:
        opened = []
        for number in range(100):
            after = number * (messages // 100)
            began = time.perf_counter()
            page = store.mailboxes.read("id-0", min(after, messages - 100), 100, 1 << 16)
            pages.append(time.perf_counter() - began)
            assert len(page.messages) == 100
    for _ in range(5):
        began = time.perf_counter()
        SqliteStore(path).close()
        opened.append(time.perf_counter() - began)
    return [
        ("bytes of the file", f"{path.stat().st_size:,}", ""),
        ("from the command to the first answer", f"{ready:.2f} s", "<= 2 s"),
        ("of it, opening and closing the store", f"{median(opened) * 1e3:.1f} ms", ""),
        (
            f"a page of 100 from {messages:,}: median, longest",
            f"{median(pages) * 1e3:.2f}, {max(pages) * 1e3:.2f} ms",
            "<= 5 ms",
        ),
        (
            "resident after the start: this store, an empty one in memory",
            f"{resident / 1e6:.0f}, {started / 1e6:.0f} MB",
            "",
        ),
    ]


def measure_growth(folder: Path, seconds: float) -> list[tuple[str, str, str]]:
    """The server's memory while mail piles up."""
    counted: list[dict[str, object]] = []
    with serving(f"sqlite:{folder / 'growth.db'}") as server:
        # Looked at within one load: new connections bring threads, and those bring memory.
        loading = threading.Thread(target=lambda: counted.append(server.load(64, 4 * seconds)))
        loading.start()
        time.sleep(1.5 * seconds)
        before = server.memory
        time.sleep(2 * seconds)
        grown = (server.memory - before) / 1e6
        loading.join()
    count = float(counted[0]["sends"]) * 2 * seconds  # type: ignore[arg-type]
    return [(f"memory grown by about {count:,.0f} messages", f"{grown:.1f} MB", "about 0")]


def draft(number: int) -> Draft:
    """Return a message."""
    return Draft(f"{number:024x}", "id-ann", "ann", BODY, 1_700_000_000_000)


def fill(path: Path, accounts: int, messages: int) -> None:
    """Make a store with all messages in one mailbox, past the store's own way in."""
    with SqliteStore(path) as store:
        store.accounts.create(Account("id-0", "user0", "$argon2id$none", 1))
        store.mailboxes.create("id-0")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "INSERT INTO accounts (account_id, username, password_hash, created_at) "
            "VALUES (?, ?, '$argon2id$none', 1)",
            ((f"id-{number}", f"user{number}") for number in range(1, accounts)),
        )
        connection.executemany(
            "INSERT INTO mailboxes (account_id) VALUES (?)",
            ((f"id-{number}",) for number in range(1, accounts)),
        )
        connection.executemany(
            "INSERT INTO messages VALUES "
            "(1, ?, ?, 'ann', ?, 1700000000000, 'id-ann', 1700000000000, 1)",
            ((seq, f"{seq:024x}", BODY) for seq in range(1, messages + 1)),
        )
        connection.execute(
            "UPDATE mailboxes SET last = ?, unread = ?, filed = ?, newest = 1700000000000 "
            "WHERE box = 1",
            (messages,) * 3,
        )


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument(
        "--only",
        choices=["sends", "copies", "reads", "size", "growth"],
        action="append",
        help="repeatable",
    )
    parser.add_argument("--folder", type=Path, help="where the files go  [default: $TMPDIR]")
    parser.add_argument("--rounds", type=int, default=5, help="of the sends  [default: 5]")
    parser.add_argument("--seconds", type=float, default=4, help="of each load  [default: 4]")
    parser.add_argument("--load", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        port, connections, seconds, every = options.load
        print(json.dumps(load(int(port), int(connections), float(seconds), float(every))))
        return
    rounds, seconds = (1, 1.5) if options.quick else (options.rounds, options.seconds)
    thousands = 100 if options.quick else 1_000
    rows: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory(prefix="twinline-bench-", dir=options.folder) as name:
        folder = Path(name)
        parts: dict[str, Callable[[], list[tuple[str, str, str]]]] = {
            "sends": lambda: measure_sends(folder, rounds, seconds),
            "copies": lambda: measure_copies(folder, rounds, seconds / 2),
            "reads": lambda: measure_reads(folder, seconds),
            "size": lambda: measure_size(folder, thousands * 100, thousands * 1_000),
            "growth": lambda: measure_growth(folder, seconds),
        }
        for part, measure in parts.items():
            if not options.only or part in options.only:
                say(part)
                rows += measure()
    width = max(len(what) for what, _, _ in rows)
    for what, found, wanted in rows:
        print(f"{what:{width}}  {found}{f'   (wanted: {wanted})' if wanted else ''}")


if __name__ == "__main__":
    main()
