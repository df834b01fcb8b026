"""The list of what a peer can make the server keep names every setting, table and container."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_blocks import ROOT

from twinline.cli.server import event_sums
from twinline.cli.server.admin import desk, peers
from twinline.cli.settings.model import ServerSettings
from twinline.core import (
    accounts,
    admin,
    admission,
    guesses,
    limit_states,
    metrics,
    names,
    service,
    settling,
    shared_limits,
    throttle,
)
from twinline.core.receipts import MOST_DUE
from twinline.core.settings import ServiceSettings
from twinline.core.store import MOST_BLOCKED, MailboxPolicy
from twinline.stores.conformance.conversing import KINDS
from twinline.stores.postgresql import accounts as postgresql_accounts
from twinline.stores.postgresql import send_ids as postgresql_send_ids
from twinline.stores.postgresql import touches, wakes
from twinline.stores.sqlite import accounts as sqlite_accounts
from twinline.stores.sqlite import mailbox_rows, send_ids
from twinline.stores.sqlite.reads import _Whose
from twinline.stores.sqlite.schema import TABLES
from twinline.stores.valkey import accounts as valkey_accounts
from twinline.stores.valkey import keys
from twinline.transports.binary.fields import write_uint
from twinline.transports.listener import ListenerSettings, proxy, turns
from twinline.transports.tls import hello
from twinline.transports.websocket import handshake, head

MODELS = (ServiceSettings, MailboxPolicy, ListenerSettings, ServerSettings)
SETTINGS = {name: field for model in MODELS for name, field in model.model_fields.items()}
NO_BOUNDS = {
    "check_locks": "checks the program",
    "drain_endpoints": "the operator's",
    "drain_seconds": "the end of the server",
    "drain_spread_seconds": "the end of the server",
    "listen": "the operator's",
    "listener": "the operator's",
    "log_format": "the operator's",
    "log_level": "the operator's",
    "log_time": "the operator's",
    "loop_warn_seconds": "what is logged",
    "node": "the operator's",
    "nodes": "the operator's",
    "one_processor": "the operator's",
    "reload_seconds": "the operator's",
    "store": "the operator's",
    "tls_certificate": "the operator's",
    "tls_client_ca": "the operator's",
    "tls_crl": "the operator's",
    "tls_key": "the operator's",
    "tls_minimum": "the operator's",
    "transport": "the operator's",
    "trusted_proxies": "the operator's",
    "web_origins": "the operator's",
    "web_servers": "the operator's",
}
OPEN = "accounts of which a failing store left it open whether they are there"
FOLLOWED = "sessions and accounts of which metrics know what was sent"
TOGETHER = "failures and turns that servers count together"
FRAME = "bytes of a frame that is not whole yet, or of a message in fragments"
FIXED = {
    "bytes of a head of HTTP that is not whole yet": (head.MOST_BYTES // 1024,),
    "addresses that proxies name in a handshake": (handshake._MOST_PROXIES,),
    # And SSL_MAX_CERT_LIST_DEFAULT of OpenSSL.
    "bytes of a TLS handshake that is not over yet": (hello.MOST_BYTES // 1024, 100),
    OPEN: (settling._MOST,),
    "invitations": (admin.MOST_INVITATIONS,),
    "connections of the admin socket": (peers.CONNECTIONS, peers.LINE_BYTES // 1024),
    "logins that are let in at once": (
        admission._FIRST,
        admission._FEW,
        service._LEAST_LOGINS,
    ),
    "sessions of TLS 1.2 that may be resumed": (20 * 1024,),  # SSL_SESSION_CACHE_MAX_SIZE_DEFAULT
    FOLLOWED: (metrics._FOLLOWED,),
    "known addresses": (accounts.KNOWN_ADDRESSES,),
    "exports of accounts": (desk.MOST_EXPORTS,),
    "events that are counted": (
        event_sums.MOST_ADDRESSES,
        event_sums.MOST_NAMES,
        event_sums.MOST_ACCOUNTS,
        event_sums.QUIET_SECONDS / 60,
    ),
    "failures": (throttle.MAX_KEYS,),
    "turns at accounts": (throttle.MAX_KEYS, guesses.MOST_TURNS, guesses._SHARED_LINES),
    "registrations": (throttle.MAX_KEYS,),
    TOGETHER: (
        shared_limits._FAILURES_MS // 60_000,
        # From here on the last turn of a queue lies nearer than failures count.
        next(n for n in range(2, 99) if (guesses.MOST_TURNS + 1) * 80 / (n - 1) + 20 <= 900),
        limit_states.MOST_PAIRS,
        guesses.MOST_TURNS,
        8,
        len(limit_states.failures_to_bytes(throttle.Failures(1, 0.0))),
    ),
    "registrations that servers count together": (
        shared_limits._HOUR_MS // 60_000,
        8,
        len(limit_states.events_to_bytes(map(float, range(20)))),
    ),
    "who was told to wait, where servers count together": (throttle.MAX_KEYS,),
    "rates of sends": (throttle.MAX_KEYS,),
    "rates of traces": (throttle.MAX_KEYS,),
    "integers that were written in binary": (write_uint.cache_parameters()["maxsize"],),
    "usernames that were read": (names.parse_username.cache_parameters()["maxsize"],),
    "accounts and sessions read from SQLite": (sqlite_accounts._CACHED,),
    "mailbox rows read from SQLite": (mailbox_rows._CACHED,),
    "counts of send_ids read from SQLite": (send_ids._COUNTED,),
    # For each choice of kinds: forwards, and backwards in each way to say whose.
    "SQLite's questions for entries, by kinds": (len(KINDS) * (1 + len(_Whose)),),
    "receipts that wait to be written": (MOST_DUE,),
    "blocked accounts": (MOST_BLOCKED,),
    "counts of send_ids read from PostgreSQL": (postgresql_send_ids.COUNTED,),
    "mailboxes whose mail the other servers are told of": (wakes._PENDING,),
    "sessions and recipients read from PostgreSQL or Valkey": (
        postgresql_accounts._CACHED,
        valkey_accounts._CACHED,
    ),
    "names of keys in Valkey that were made": (keys._CACHED,),
    "sessions whose use waits to be noted in PostgreSQL": (touches._PENDING,),
    "bytes of a proxy's header that is not whole yet": (
        proxy._BINARY_HEAD_BYTES + proxy._UNIX_BYTES,
    ),
    "bytes that have come while a worker has the connection": (turns.RECEIVE_BYTES // 1024,),
}
OF_TABLES = {
    "accounts": "accounts, each with a mailbox",
    "mailboxes": "accounts, each with a mailbox",
    "reserved_names": "names that stay reserved",
    "hash_profiles": "counts of hash profiles",
    "known_addresses": "known addresses",
    "invitations": "invitations",
    "sessions": "sessions",
    "messages": "unread messages",
    "acks": "history",
    "send_ids": "send_ids",
    "copies": "copies of what was sent",
    "receipts": "receipts",
    "blocked": "blocked accounts",
    "dropped": "dropped mailboxes",
}
ONE_ROW = {"store"}
OF_CONTAINERS = {
    "cli/server/log.py": {
        "_debug": "lines of the log",
        "_info": "lines of the log",
        "_warnings": "lines of the log",
        "_events": "lines of the log",
    },
    "core/certificates.py": {
        "held": "sessions in use that a certificate opened",
        "_lists": "certificates that are revoked",
    },
    "core/guesses.py": {"_lines": "turns at accounts", "turns": "turns at accounts"},
    "core/hash_queue.py": {
        "_waiting": "threads that wait for a hash",
        "_tickets": "threads that wait for a hash",
    },
    "core/limit_states.py": {"pairs": TOGETHER, "turns": TOGETHER},
    "core/metrics.py": {"_open": "connections", "_sent": FOLLOWED, "awaited": FOLLOWED},
    "core/names.py": {"parse_username": "usernames that were read"},
    "core/settling.py": {"_open": OPEN},
    "core/throttle.py": {
        "_failures": "failures",
        "_last": "failures",
        "_buckets": "rates of sends",
        "_events": "registrations",
    },
    "core/shared_limits.py": {"_until": "who was told to wait, where servers count together"},
    "core/receipts.py": {"_due": "receipts that wait to be written"},
    "core/session.py": {"_watches": "watches that wait"},
    "core/watches.py": {"_waiting": "watches that wait"},
    "stores/memory/accounts.py": {
        "_invitations": "invitations",
        "_by_name": "accounts, each with a mailbox",
        "_by_id": "accounts, each with a mailbox",
        "_names": "accounts, each with a mailbox",
        "_reserved": "names that stay reserved",
        "_profiles": "counts of hash profiles",
        "_addresses": "known addresses",
        "_sessions": "sessions",
        "_tokens": "sessions",
        "watchers": "subscriptions to mail and to the end of sessions",
    },
    "stores/memory/log.py": {
        "_messages": "unread messages",
        "_seqs": "unread messages",
        "_peers": "unread messages",
    },
    "stores/memory/mailbox.py": {
        "_acks": "history",
        "_by_id": "copies of what was sent",
        "receipts": "receipts",
        "blocked": "blocked accounts",
        "watchers": "subscriptions to mail and to the end of sessions",
        "others": "subscriptions to mail and to the end of sessions",
    },
    "stores/memory/mailboxes.py": {
        "_boxes": "accounts, each with a mailbox",
        "_expiring": "accounts, each with a mailbox",
    },
    "stores/memory/send_ids.py": {"_by_sender": "send_ids", "_order": "send_ids"},
    "stores/postgresql/rereads.py": {"_known": "subscriptions to mail and to the end of sessions"},
    "stores/postgresql/send_ids.py": {
        "_new": "writes that wait for SQLite or PostgreSQL",
        "_counts": "counts of send_ids read from PostgreSQL",
    },
    "stores/postgresql/touches.py": {
        "_pending": "sessions whose use waits to be noted in PostgreSQL"
    },
    "stores/shared/cache.py": {
        "_entries": "sessions and recipients read from PostgreSQL or Valkey",
        "_keys": "sessions and recipients read from PostgreSQL or Valkey",
    },
    "stores/shared/coalescing.py": {"_waiting": "look-ups that wait for those before them"},
    "stores/postgresql/wakes.py": {
        "_pending": "mailboxes whose mail the other servers are told of"
    },
    "stores/sqlite/accounts.py": {
        "_accounts": "accounts and sessions read from SQLite",
        "_sessions": "accounts and sessions read from SQLite",
    },
    "stores/sqlite/cache.py": {"_entries": "accounts and sessions read from SQLite"},
    "stores/sqlite/mailbox_rows.py": {
        "_rows": "mailbox rows read from SQLite",
        "_changed": "writes that wait for SQLite or PostgreSQL",
        "_messages": "writes that wait for SQLite or PostgreSQL",
        "_copies": "writes that wait for SQLite or PostgreSQL",
        "_copied": "writes that wait for SQLite or PostgreSQL",
    },
    "stores/sqlite/reads.py": {
        "_forwards": "SQLite's questions for entries, by kinds",
        "_backwards": "SQLite's questions for entries, by kinds",
    },
    "stores/sqlite/send_ids.py": {
        "_known": "writes that wait for SQLite or PostgreSQL",
        "_absent": "writes that wait for SQLite or PostgreSQL",
        "_new": "writes that wait for SQLite or PostgreSQL",
        "_again": "writes that wait for SQLite or PostgreSQL",
        "_counts": "counts of send_ids read from SQLite",
    },
    "stores/shared/subscriptions.py": {
        "_wakes": "subscriptions to mail and to the end of sessions"
    },
    "stores/sql/writes.py": {
        "_waiting": "writes that wait for SQLite or PostgreSQL",
        "wakes": "subscriptions to mail and to the end of sessions",
    },
    "stores/valkey/lane.py": {"_waiting": "calls that wait for Valkey"},
    "stores/valkey/links.py": {
        "_of": "subscriptions to mail and to the end of sessions",
        "_changed": "subscriptions to mail and to the end of sessions",
        "_subscribed": "subscriptions to mail and to the end of sessions",
        "_expected": "subscriptions to mail and to the end of sessions",
        "_asked": "subscriptions to mail and to the end of sessions",
        "_wakes": "subscriptions to mail and to the end of sessions",
    },
    "stores/valkey/watches.py": {
        "subscribers": "subscriptions to mail and to the end of sessions",
        "waiters": "subscriptions to mail and to the end of sessions",
        "_watches": "subscriptions to mail and to the end of sessions",
        "_anew": "subscriptions to mail and to the end of sessions",
    },
    "transports/contract.py": {
        "_received": FRAME,
        "_out": "replies that are not written yet",
    },
    "transports/auto.py": {"_start": FRAME},
    "transports/binary/fields.py": {"write_uint": "integers that were written in binary"},
    "transports/websocket/codec.py": {
        "forwarded_for": "addresses that proxies name in a handshake"
    },
    "transports/websocket/frames.py": {"_message": FRAME},
    "transports/listener/connection.py": {"_deferred": "replies that are not written yet"},
    "transports/listener/conversation.py": {
        "_out": "replies that are not written yet",
        "under_way": "seqs that a stream has sent and that are not seen yet",
    },
    "transports/listener/base.py": {
        "_connections": "connections",
        "_by_address": "connections",
    },
    "transports/listener/proxy.py": {"_start": "bytes of a proxy's header that is not whole yet"},
    "transports/listener/threaded.py": {"_starting": "connections"},
    "transports/listener/loop.py": {"_opening": "connections", "_looking": "connections"},
    "transports/listener/loop_connection.py": {
        "_early": "bytes that have come while a worker has the connection",
    },
    "transports/listener/turns.py": {
        "_marked": "turns and deadlines of the event loop",
        "_timers": "turns and deadlines of the event loop",
    },
    "transports/listener/workers.py": {
        "_starting": "workers of the event loop",
        "_work": "requests that wait for such a worker",
    },
}
DO_NOT_GROW = {
    ("cli/server/log.py", "_lost"): "one count for each level",
    ("cli/server/log.py", "_wakes"): "two at most",
    ("core/hash_queue.py", "_held"): "as many as there are slots",
    **{
        (
            "core/metrics.py",
            name,
        ): "counts by op, outcome, bucket and endpoint, which are few"
        for name in (
            "answered",
            "refused",
            "_endpoints",
            "_received",
            "_refused",
            "request_seconds",
            "_requests",
            "_sent_bytes",
            "_histograms",
            "_taken",
            "hash_queues",
        )
    },
    ("core/metrics.py", "_noted"): "256 values that are to be sorted into buckets",
    ("core/messages.py", "_ids"): "made in advance, so many at a time",
    ("core/waiting.py", "_hints"): "one hint at most",
    ("core/plugins.py", "_entry_points"): "one for each group of entry points",
    ("stores/postgresql/lane.py", "sent"): "the times of the last sends, so many",
    ("stores/sqlite/archive.py", "_begun"): "one mailbox at a time",
    ("stores/shared/cache.py", "_changing"): "one for each thread that changes a session",
    ("stores/shared/cache.py", "_reads"): "one for each thread that reads a session",
    ("stores/shared/coalescing.py", "answer"): "two at most",
    ("stores/shared/watchers.py", "_by_kind"): "one of each kind",
    ("stores/postgresql/archive.py", "_waiting"): "of one mailbox, and few of them",
    ("stores/postgresql/batch.py", "_acks"): "of one transaction",
    ("stores/postgresql/batch.py", "_appends"): "of one transaction",
    ("stores/postgresql/batch.py", "_boxes"): "of one transaction",
    ("stores/postgresql/batch.py", "_creates"): "of one transaction",
    ("stores/postgresql/batch.py", "_deletes"): "of one transaction",
    ("stores/postgresql/batch.py", "_drops"): "of one transaction",
    ("stores/postgresql/batch.py", "_keys"): "of one transaction",
    ("stores/postgresql/batch.py", "_known"): "of one transaction",
    ("stores/postgresql/batch.py", "_looks"): "of one transaction",
    ("stores/postgresql/batch.py", "_messages"): "of one transaction",
    ("stores/postgresql/batch.py", "_moves"): "of one transaction",
    ("stores/postgresql/batch.py", "_numbers"): "of one transaction",
    ("stores/postgresql/batch.py", "_passed"): "of one transaction",
    ("stores/postgresql/batch.py", "_reads"): "of one transaction",
    ("stores/postgresql/batch.py", "_rows"): "of one transaction",
    ("stores/postgresql/batch.py", "_trims"): "of one transaction",
    ("stores/postgresql/batch.py", "_writes"): "of one transaction",
    ("stores/postgresql/batch.py", "_told"): "of one transaction",
    ("stores/postgresql/batch.py", "_receipts"): "of one transaction",
    ("stores/postgresql/batch.py", "_refuses"): "of one transaction",
    ("stores/postgresql/batch.py", "news"): "of one transaction",
    ("stores/postgresql/batch.py", "dropped"): "of one transaction",
    ("stores/postgresql/condition.py", "_reasons"): "one of each kind",
    ("stores/postgresql/condition.py", "on_durability"): "the parts of the store",
    ("stores/postgresql/database.py", "_doubts"): "at most one for each connection",
    ("stores/postgresql/database.py", "_free"): "the connections of the store",
    ("stores/postgresql/database.py", "checks"): "the parts of the store",
    ("stores/postgresql/link.py", "_asked"): "two at the most",
    ("stores/postgresql/link.py", "_prepared"): "the statements of the store",
    ("stores/postgresql/link.py", "_warned_of"): "of one call",
    ("stores/postgresql/link.py", "expected"): "of one call",
    ("stores/postgresql/link.py", "warnings"): "of one call",
    ("stores/postgresql/notes.py", "_known_copies"): "of one transaction",
    ("stores/postgresql/notes.py", "_known_receipts"): "of one transaction",
    ("stores/postgresql/notes.py", "_nows"): "of one transaction",
    ("stores/postgresql/notes.py", "_takes"): "of one transaction",
    ("stores/postgresql/notes.py", "coming"): "of one transaction",
    ("stores/postgresql/notes.py", "gone"): "of one transaction",
    ("stores/postgresql/notes.py", "oldest"): "of one transaction",
    ("stores/postgresql/send_ids.py", "_old"): "of one transaction",
    ("stores/postgresql/wakes.py", "_beats"): "a few, or the connection is given up",
    ("stores/postgresql/wakes.py", "_others"): "the servers on the database, of late",
    ("stores/postgresql/wakes.py", "_threads"): "two",
    ("stores/postgresql/wakes.py", "on_gap"): "the parts of the store",
    ("stores/sqlite/readers.py", "_free"): "the connections of the store",
    ("stores/sqlite/rows.py", "values"): "the values of one statement",
    ("stores/sqlite/schema.py", "_wanted"): "the tables of this version",
    ("stores/sqlite/writer.py", "on_rollback"): "the parts of the store",
    ("stores/sqlite/writer.py", "on_reopen"): "the parts of the store",
    ("stores/sql/writes.py", "outcome"): "of one write",
    ("stores/valkey/accounts.py", "_known_buckets"): "two letters each, of usernames",
    ("stores/valkey/archive.py", "_senders"): "one mailbox at a time",
    ("stores/valkey/archive.py", "_seqs"): "one mailbox at a time",
    ("stores/valkey/archive.py", "_waiting"): "of one mailbox, and few of them",
    ("stores/valkey/archive.py", "_withdrawn"): "accounts whose deletion a crash cut in two",
    ("stores/valkey/engine.py", "_epochs"): "one for each start of a server of the engine",
    ("stores/valkey/engine.py", "_lanes"): "two for each server of the engine",
    ("stores/valkey/engine.py", "_peers"): "the servers of the engine",
    ("stores/valkey/engine.py", "_refusals"): "the servers of the engine, and the policy",
    ("stores/valkey/lane.py", "_lost"): "two connections, until a third is made",
    ("stores/valkey/lane.py", "outcome"): "of one call",
    ("stores/valkey/pending.py", "_unfinished"): "accounts whose deletion the engine cut in two",
    ("stores/valkey/rebuild.py", "_key"): "a key for each kind",
    ("stores/valkey/upkeep.py", "_done"): "a count for each kind",
    ("stores/valkey/upkeep.py", "_found"): "a count for each kind",
    ("stores/valkey/upkeep.py", "_words"): "a count for each kind",
    ("stores/valkey/links.py", "_links"): "the servers of the engine",
    ("stores/valkey/pages.py", "letters_of"): "the choices of kinds",
    ("stores/valkey/watches.py", "noted"): "a number for each kind",
    ("transports/listener/base.py", "_bound"): "the endpoints that the server has",
    ("transports/listener/base.py", "endpoints"): "the same",
    ("transports/listener/base.py", "_served"): "the same",
    ("transports/listener/base.py", "_drainer"): "one at most",
    ("transports/listener/base.py", "_drains"): "the program's calls of on_drain",
    ("transports/listener/base.py", "_rounds"): "the program's calls of on_round",
    ("transports/listener/base.py", "_closing"): "the program's calls of close",
    ("transports/binary/fields.py", "_defaults"): "of a model",
    ("transports/binary/fields.py", "_reads"): "of a model",
    ("transports/binary/fields.py", "_writes"): "of a model",
    ("transports/binary/fields.py", "bits"): "of a model",
    ("transports/websocket/frames.py", "_xored_with"): "one for each value of a byte",
    ("transports/websocket/head.py", "_values"): "of one head, while it is answered",
    ("transports/listener/threaded.py", "_refused"): "what one round of accepting took",
}
ROOMS = (
    "core",
    "stores",
    "stores/memory",
    "stores/postgresql",
    "stores/shared",
    "stores/sql",
    "stores/sqlite",
    "stores/valkey",
    "transports",
    "transports/binary",
    "transports/listener",
    "transports/websocket",
)
CLIENTS = {  # what only a client, a kit or the program itself fills
    "core/conformance.py",
    "transports/race.py",
    "transports/resolver.py",
}
MAKERS = {
    "Counter", "DeferredWakes", "OrderedDict", "Queue", "ReadThroughCache", "SimpleQueue",
    "SortedList", "WeakSet", "bytearray", "defaultdict", "deque", "dict", "list", "set",
}  # fmt: skip


def rows() -> dict[str, tuple[str, set[str]]]:
    """Return each thing that grows with what bounds it and the settings of that."""
    page = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    section = page.partition("## What a peer can make the server keep\n")[2].partition("\n## ")[0]
    table = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and cells[0] != "what":
            what, bound, settings = (*cells, "")[:3]
            table[what] = (bound.strip(" |"), set(re.findall(r"`(\w+)`", settings)))
    return table


ROWS = rows()


def test_every_setting_that_bounds_something_is_listed_and_no_other() -> None:
    listed = {name for _, settings in ROWS.values() for name in settings}
    assert listed | NO_BOUNDS.keys() == SETTINGS.keys()
    assert not listed & NO_BOUNDS.keys()


@pytest.mark.parametrize("what", ROWS)
def test_the_numbers_are_those_of_the_settings(what: str) -> None:
    bound, settings = ROWS[what]
    told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", bound)}
    expected = set(FIXED.get(what, ()))
    for name in settings:
        default = SETTINGS[name].default
        if type(default) in (int, float) and default and name != "ipv6_prefix":
            kibibytes = name.endswith("_bytes") or "_bytes_" in name
            expected.add(int(default / 1024 if kibibytes else default))
    if what == "replies that are not written yet":
        expected = {1}
    assert told == expected


def test_what_is_fixed_is_listed() -> None:
    assert FIXED.keys() <= ROWS.keys()


def test_every_table_of_a_file_is_listed() -> None:
    tables = {name for each in TABLES for name in re.findall(r"CREATE TABLE (\w+)", each)}
    assert tables == OF_TABLES.keys() | ONE_ROW
    assert set(OF_TABLES.values()) <= ROWS.keys()


def growing(source: str) -> Iterator[str]:
    """Yield the attributes that are made as containers, and the functions that have a cache."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            decorators = map(ast.unparse, node.decorator_list)
            if any(re.match(r"(functools\.)?(lru_)?cache\b", each) for each in decorators):
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and _is_container(node.value):
                    yield target.attr


def _is_container(value: ast.expr | None) -> bool:
    if isinstance(value, ast.Call):
        made = value.func.value if isinstance(value.func, ast.Subscript) else value.func
        return ast.unparse(made).rpartition(".")[2] in MAKERS
    if isinstance(value, ast.List | ast.Dict | ast.Tuple):
        return ast.unparse(value) in {"[]", "{}", "()"}  # a tuple is replaced by a longer one
    return isinstance(value, ast.ListComp | ast.DictComp | ast.SetComp)


def sources() -> list[Path]:
    """Return the files whose containers live as long as a server or a connection."""
    files = [file for room in ROOMS for file in sorted((ROOT / room).glob("*.py"))]
    return [*files, ROOT / "cli/server/log.py"]


def test_every_container_is_listed() -> None:
    found = {
        (name, attribute)
        for file in sources()
        if (name := file.relative_to(ROOT).as_posix()) not in CLIENTS
        for attribute in growing(file.read_text(encoding="utf-8"))
    }
    # A codec's request buffer of the client's side is in the same file as the server's.
    found.discard(("transports/contract.py", "_pending"))
    listed = {
        (file, name): what for file, its in OF_CONTAINERS.items() for name, what in its.items()
    }
    assert found == listed.keys() | DO_NOT_GROW.keys()
    assert set(listed.values()) <= ROWS.keys()


@pytest.mark.parametrize(
    "source",
    [
        "self._x: dict[str, int] = {}",
        "self.x = collections.deque()",
        "x.y = OrderedDict[str, int]()",
        "@lru_cache(maxsize=3)\ndef x(): ...",
        "self.x = [0 for _ in y]",
        "self._x: tuple[int, ...] = ()",
    ],
)
def test_the_look_at_the_source_sees_a_container(source: str) -> None:
    assert list(growing(source))
