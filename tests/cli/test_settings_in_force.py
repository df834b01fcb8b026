"""Settings that change while a server runs: each that is said to, and the others in a notice."""

import grp
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import pytest
from cli_server import CommandLine, ended
from listening import Peer
from pretended_store import PretendedSite
from services import PASSWORD, cheap_hasher
from waiting import join, wait_until

from twinline.cli.server.listeners import LISTENERS
from twinline.cli.server.log import JsonFormatter, QueuedLog, log_of
from twinline.cli.server.reload import Outcome, Reloader, Terminal, identities
from twinline.cli.server.serve import Server
from twinline.cli.server.settings_in_force import POLICY, SettingsFile
from twinline.cli.server.systemd import Notifier
from twinline.cli.settings.model import SERVER_FIELDS, Settings
from twinline.cli.settings.sources import Origin
from twinline.core.guesses import interval_of
from twinline.core.reloading import OnReload, on_reload
from twinline.core.service import ChatService
from twinline.core.store import MailboxPolicy, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore
from twinline.transports.client import Client
from twinline.transports.endpoints import Endpoint

if TYPE_CHECKING:
    from certificates import Certificates

PLAIN, SEALED, WEB = "tcp://127.0.0.1:0", "tls://127.0.0.1:0", "ws://127.0.0.1:0"


class Running:
    """A server in this process, and the file that its settings come from."""

    def __init__(self, file: Path, base: dict[str, object], store: Store | None = None) -> None:
        self._file = file
        self._base = {"reload_seconds": 0, **base}  # it is read again when that is asked for
        self._stack = ExitStack()
        self.write()
        source = SettingsFile(Origin({}, file))
        since = identities(source.files())
        settings = source.read()
        logged = self._stack.enter_context(log_of(settings, None))
        self.store = store or MemoryStore()
        self.service = ChatService(self.store, settings, hasher=cheap_hasher())
        endpoints = settings.endpoints()
        self.listener: Any = self._stack.enter_context(
            LISTENERS[settings.listener](self.service, endpoints, settings)
        )
        server = Server(
            self.service,
            settings,
            endpoints,
            logged=logged,
            source=source,
            since=since,
            systemd=Notifier({}),
        )
        self.reloader: Any = self._stack.enter_context(
            server.reloader(self.listener, Terminal(), None)
        )
        logs = [each for each in logging.getLogger().handlers if isinstance(each, QueuedLog)]
        self.log: Any = logs[-1]
        thread = threading.Thread(target=self.listener.serve_forever)
        thread.start()
        self._stack.callback(join, thread)
        self._stack.callback(self.listener.stop)

    def write(self, **changed: object) -> None:
        """Write the file anew, with these beside what it begins with."""
        text = "".join(
            f"{name} = {json.dumps(value)}\n" for name, value in {**self._base, **changed}.items()
        )
        new = self._file.with_suffix(".new")
        new.write_text(text)
        new.replace(self._file)

    def change(self, **changed: object) -> list[Outcome]:
        """Write the file and have it read again; return what came of the settings."""
        self.write(**changed)
        return [each for each in self.reloader.reload(20) if each.what == str(self._file)]

    def asked(self, *fields: str) -> bytes:
        """Return what a browser is answered that asks for the page."""
        endpoint = self.listener.endpoints[0]
        with Peer(endpoint) as peer:
            head = ("GET / HTTP/1.1", "Host: localhost", *fields, "", "")
            peer.send("\r\n".join(head).encode())
            received = b""
            while not (received.endswith(b"\r\n\r\n") and b"101" in received):
                data = peer.socket.recv(65_536)
                if not data:
                    break
                received += data
            return received

    def handshake(self, origin: str) -> bytes:
        """Return the status of a handshake of WebSocket from a site's page."""
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
        return self.asked(*upgrade, key, f"Origin: {origin}").split(b" ")[1]

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, certificates: "Certificates"
) -> Iterator[Running]:
    """A server on an event loop, for browsers and with TLS."""
    pair = certificates.server
    base = {
        "listen": [WEB, SEALED],
        "listener": "loop",
        "tls_certificate": str(pair.certificate),
        "tls_key": str(pair.key),
    }
    server = Running(tmp_path_factory.mktemp("in-force") / "twinline.toml", base)
    try:
        yield server
    finally:
        server.close()


Look = Callable[[Running], object]


def at(path: str) -> Look:
    """Return a look at a place of a server."""
    return attrgetter(path)


def setting(name: str) -> Look:
    """Return a look at what the connections of a listener go by."""
    return at(f"listener.in_force.settings.{name}")


def sealed(name: str) -> Look:
    return lambda running: getattr(running.listener.tls_files[0][1], name)


def told(running: Running) -> Any:
    """What `hello` tells of limits."""
    return running.service.hello(running.service.session()).limits


GUESSES = "service._accounts._guesses"
KEPT = "store.mailboxes._limits"
DAY_MS = 86_400_000
SITE, OTHER = "https://chat.example.org", "wss://b.example.org/"
# For each setting that a reload applies: another value, a look at what is in force, and what is
# seen there; without the last, the value.
APPLIED: dict[str, tuple[object, Look] | tuple[object, Look, object]] = {
    "web_origins": ([SITE], lambda running: running.handshake(SITE), b"101"),
    "web_servers": (
        [OTHER],
        lambda running: OTHER.encode() in running.asked("Connection: close"),
        True,
    ),
    "log_level": ("error", lambda _: logging.getLogger().level, logging.ERROR),
    "log_format": ("json", lambda running: type(running.log.formatter), JsonFormatter),
    "log_time": ("none", at("log.formatter._with_time"), False),
    "log_queue": (64, at("log._capacity")),
    "reload_seconds": (60, at("reloader._seconds")),
    "body_bytes": (4096, lambda running: told(running).body_bytes),
    "frame_bytes": (131_072, lambda running: told(running).frame_bytes),
    "frame_bytes_before_login": (1024, lambda running: told(running).frame_bytes_before_login),
    "session_idle_days": (
        2,
        lambda running: running.service._accounts._idle_ms // DAY_MS,
    ),
    "sessions_per_account": (3, at("service._accounts._most_sessions")),
    "watches_per_account": (3, at("service._watches.most")),
    "free_deleted_names": (True, at("service._accounts._keep_names"), False),
    "hash_wait_seconds": (7, at("service._passwords.wait_seconds")),
    "admission_seconds": (7, at("service._resumes._seconds")),
    "failures_per_account": (3, at(f"{GUESSES}._pairs.allowed")),
    "failures_per_address": (7, at(f"{GUESSES}._addresses.allowed")),
    "guesses_per_minute": (5, at(f"{GUESSES}._turns._interval"), interval_of(5)),
    "registration": ("closed", at("service._accounts._registration")),
    "registrations_per_hour": (5, at("service._accounts._registrations.per_hour")),
    "ipv6_prefix": (48, at("service._accounts._ipv6_prefix")),
    "sends_per_second": (5, at("service._messages._rate._rate")),
    "mailbox_messages": (5, at(f"{KEPT}.mailbox_messages")),
    "history_messages": (5, at(f"{KEPT}.history_messages")),
    "history_days": (2, at(f"{KEPT}.history_ms"), 2 * DAY_MS),
    "send_id_hours": (48, at(f"{KEPT}.send_id_ms"), 2 * DAY_MS),
    "send_ids_per_mailbox": (5, at(f"{KEPT}.send_ids_per_mailbox")),
    "send_ids_per_sender": (5, at(f"{KEPT}.send_ids_per_sender")),
    "login_seconds": (20, setting("login_seconds")),
    "frame_seconds": (20, setting("frame_seconds")),
    "write_seconds": (20, setting("write_seconds")),
    "drain_seconds": (1, setting("drain_seconds")),
    "drain_spread_seconds": (1, setting("drain_spread_seconds")),
    "drain_endpoints": (["tls://b.example.org:7767"], setting("drain_endpoints")),
    "connections": (9_000, setting("connections")),
    "connections_per_address": (5, setting("connections_per_address")),
    "limit_local_connections": (True, setting("limit_local_connections")),
    "loop_workers": (5, at("listener._workers._limit")),
    "loop_warn_seconds": (5, at("listener.detector._seconds")),
    "tls_certificate": ("other.pem", sealed("certificate")),
    "tls_key": ("other.pem", sealed("key")),
    "tls_client_ca": ("ca.pem", sealed("client_ca")),
    "tls_crl": ("crl.pem", sealed("crl")),
    "tls_minimum": ("1.3", sealed("minimum")),
    "trusted_proxies": (
        ["10.0.0.0/8"],
        lambda running: "10.1.2.3" in running.listener._proxies,
        True,
    ),
}
# And another value for each that needs a restart, unless its type says one.
RESTARTED: dict[str, object] = {
    "listen": ["tcp://127.0.0.1:7799"],
    "transport": "binary",
    "store": "sqlite:other.db",
    "node": "b",
    "admin_listen": "unix:/tmp/twinline-admin",
    "metrics_listen": "tcp://127.0.0.1:9464",
    "admin_group": grp.getgrgid(os.getgid()).gr_name,
}


def another(name: str, present: object) -> object:
    """Return a value for a setting that is not the present one."""
    field = Settings.model_fields[name]
    if name in RESTARTED:
        return RESTARTED[name]
    if field.annotation is bool:
        return not present
    if get_origin(field.annotation) is Literal:
        return next(each for each in get_args(field.annotation) if each != present)
    assert field.annotation in (int, float), f"give another value of {name} in RESTARTED"
    return present + 1  # type: ignore[operator]


def settings_with(mark: OnReload) -> list[str]:
    return [each for each in SERVER_FIELDS if on_reload(Settings.model_fields[each]) is mark]


LIVE = [*settings_with(OnReload.APPLIES), *settings_with(OnReload.STORE)]


def test_each_setting_that_is_said_to_change_has_a_row() -> None:
    assert sorted(LIVE) == sorted(APPLIED)
    assert set(settings_with(OnReload.STORE)) == POLICY


@pytest.mark.parametrize("name", LIVE)
def test_a_reload_applies(running: Running, name: str, certificates: "Certificates") -> None:
    value, look, *seen = APPLIED[name]
    folder = running._file.parent
    both = (certificates.unknown.certificate, certificates.unknown.key)
    (folder / "other.pem").write_bytes(b"".join(each.read_bytes() for each in both))
    (folder / "ca.pem").write_bytes(certificates.ca.file.read_bytes())
    (folder / "crl.pem").write_bytes(certificates.ca.crl(certificates.bob))
    changed: dict[str, object] = {name: value}
    if name.startswith("tls_") and name != "tls_minimum":
        value = str(folder / str(value))
        changed = {name: value}
    if name in ("tls_certificate", "tls_key"):  # which only change together
        changed = {"tls_certificate": value, "tls_key": value}
    if name == "tls_crl":
        changed["tls_client_ca"] = str(folder / "ca.pem")
    expected = seen[0] if seen else (tuple(value) if isinstance(value, list) else value)
    assert look_at(look, running) != expected
    try:
        (outcome,) = running.change(**changed)
        assert outcome.kept is None
        assert outcome.waits == ()
        assert f"{name} is " in outcome.told
        assert look(running) == expected
    finally:
        (outcome,) = running.change()
    assert (outcome.kept, outcome.waits) == (None, ())
    assert look_at(look, running) != expected


def look_at(look: Look, running: Running) -> object:
    """Look, where there may be nothing yet."""
    try:
        return look(running)
    except AttributeError:
        return None


@pytest.mark.parametrize("name", settings_with(OnReload.RESTART))
def test_a_notice_names_what_needs_a_restart(
    running: Running, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("twinline.cli.settings.checks.is_shared", lambda _: True)  # for nodes
    before = running.listener.settings
    changed = {name: another(name, getattr(before, name))}
    (outcome,) = running.change(**changed, body_bytes=2048)
    assert (outcome.kept, outcome.waits) == (None, (name,))
    assert outcome.told == "body_bytes is 2,048 instead of 16,384"
    assert f"changed, and in force after a restart: {name}" in caplog.text
    assert getattr(running.listener.settings, name) == getattr(before, name)
    # It is named for as long as it is another, and no longer.
    (outcome,) = running.change(**changed)
    assert outcome.waits == (name,)
    (outcome,) = running.change()
    assert (outcome.kept, outcome.waits, outcome.told) == (None, (), "nothing has changed")


BAD = [
    ({"body_bytes": 0}, "body_bytes: expected a whole number"),
    ({"body_byte": 1}, "unknown setting body_byte; did you mean body_bytes?"),
    ({"store": "sqlite:"}, "store: a SQLite store is written sqlite:PATH"),
    ({"frame_bytes": 16_384}, "frame_bytes: a message of 16,384 bytes"),
    ({"tls_key": "/no/such/key"}, "the key /no/such/key: no such file"),
    ({"listen": ["tcp://127.0.0.1:7001"] * 2}, "listen: it has tcp://127.0.0.1:7001 twice"),
]


@pytest.mark.parametrize(("wrong", "why"), BAD)
def test_a_bad_file_changes_nothing(
    running: Running, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object], why: str
) -> None:
    monkeypatch.setattr(running.reloader, "_patience", 0)
    before = (running.listener.settings, running.service.settings, logging.getLogger().level)
    (outcome,) = running.change(log_level="debug", connections=5, **wrong)
    assert outcome.kept is not None
    assert why in outcome.kept
    assert before[0] is running.listener.settings
    assert before[1] is running.service.settings
    assert before[2] == logging.getLogger().level
    assert running.change()[0].told == "nothing has changed"


def test_an_emptied_file_is_not_taken_for_the_defaults(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.reloader, "_patience", 0)
    running.change(registration="closed")
    running._file.write_text("")  # as a full disk leaves it
    (outcome,) = running.reloader.reload(20)[:1]
    assert "is empty; for the defaults, write a comment" in str(outcome.kept)
    assert running.service.settings.registration == "closed"
    assert running.change()[0].kept is None
    assert running.service.settings.registration == "open"


def test_what_does_not_fit_what_waits_for_a_restart_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is fine; but its proxies are those of another endpoint than the one in force."""
    base = {"listen": [f"{PLAIN}?proxy=yes"], "trusted_proxies": ["127.0.0.1"]}
    running = Running(tmp_path / "twinline.toml", base)
    try:
        monkeypatch.setattr(running.reloader, "_patience", 0)
        (outcome,) = running.change(listen=[PLAIN], trusted_proxies=[])
        assert outcome.kept is not None
        assert outcome.kept.startswith("listen can only change with a restart, and with what is ")
        assert outcome.kept.endswith("whose word is believed there")
        assert running.listener.settings.trusted_proxies == ("127.0.0.1",)
    finally:
        running.close()


class SharedByOthers(MemoryStore):
    """A store of which others have the same policy."""

    def change_policy(self, policy: MailboxPolicy) -> bool:
        return Store.change_policy(self, policy)


def test_a_policy_that_servers_share_needs_a_restart(tmp_path: Path) -> None:
    running = Running(tmp_path / "twinline.toml", {"listen": [PLAIN]}, SharedByOthers())
    try:
        (outcome,) = running.change(mailbox_messages=5, body_bytes=2048)
        assert outcome.waits == ("mailbox_messages",)
        assert outcome.told == "body_bytes is 2,048 instead of 16,384"
        assert running.store.mailboxes._limits.mailbox_messages == 10_000
        (outcome,) = running.change(mailbox_messages=5)
        assert outcome.waits == ("mailbox_messages",)
    finally:
        running.close()


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_policy_holds_for_mailboxes_that_are_there(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "chat.db"
    with MemoryStore() if kind == "memory" else SqliteStore(file) as store:
        service = ChatService(store, hasher=cheap_hasher())
        ann = service.session("unix")
        service.create_account(ann, "ann", PASSWORD)
        service.send(ann, "ann", "one")
        first = service.send(ann, "ann", "two", "id")
        assert service.send(ann, "ann", "two", "id") == first
        assert store.change_policy(MailboxPolicy(mailbox_messages=2, history_messages=0))
        with pytest.raises(Exception, match="mailbox") as full:
            service.send(ann, "ann", "three")
        assert full.value.code == "mailbox_full"  # type: ignore[attr-defined]
        assert len(service.history(ann).messages) == 2
        service.ack(ann, 2)
        service.send(ann, "ann", "four")
        assert [each.body for each in service.history(ann).messages] == ["four"]
        assert store.change_policy(MailboxPolicy(send_id_hours=0))
        assert service.send(ann, "ann", "two", "id") != first


def test_two_that_ask_at_once_are_both_answered(running: Running) -> None:
    found: list[object] = []
    asking = [
        threading.Thread(target=lambda: found.append(running.reloader.reload(20))) for _ in range(8)
    ]
    for each in asking:
        each.start()
    for each in asking:
        join(each)
    assert len(found) == 8
    assert all(outcomes for outcomes in found)


def test_who_asks_at_the_end_is_answered() -> None:
    reloader = Reloader([], 0, ask=lambda _: None)
    found: list[object] = []
    asking = threading.Thread(target=lambda: found.append(reloader.reload(20)))
    with reloader:
        asking.start()
        wait_until(lambda: reloader._asks, "it has asked")
    join(asking)
    assert found == [[Outcome("the server", kept="it is about to end")]]


# -- under load -----------------------------------------------------------------------------


_BREATH = 0.005
"""Between two messages of one sender, in s: the reloads are to have a share of the processor."""


@pytest.mark.parametrize("listener", ["threads", "loop"])
@pytest.mark.parametrize("times", [1000 if os.environ.get("CRASH_TESTS") == "full" else 100])
@pytest.mark.timeout(400)
def test_reloads_under_load_drop_nothing(
    tmp_path: Path, certificates: "Certificates", listener: str, times: int
) -> None:
    pairs = [certificates.server, certificates.unknown]
    base: dict[str, object] = {"listen": [PLAIN, SEALED], "listener": listener}
    base["log_level"] = "error"

    def changed(number: int) -> dict[str, object]:
        pair = pairs[number % 2]
        return {
            "tls_certificate": str(pair.certificate),
            "tls_key": str(pair.key),
            "body_bytes": 8_000 + number % 7,
            "sends_per_second": 100_000 * (number % 3),
            "failures_per_account": 3 + number % 5,
            "mailbox_messages": 100_000 + number,
            "connections_per_address": 500 + number % 3,
            "trusted_proxies": ["10.0.0.1"] if number % 2 else [],
            "web_origins": [SITE] if number % 2 else [],
            "drain_endpoints": ["tls://b.example.org"] if number % 2 else [],
            "loop_workers": 4 + number % 5,
        }

    base |= changed(0)
    running = Running(tmp_path / "twinline.toml", base)
    endpoint = running.listener.endpoints[0]
    ended_ = threading.Event()
    failures: list[object] = []
    sent: dict[str, int] = {}
    received: dict[str, list[str]] = {}

    def talk(me: str, to: str) -> None:
        """Send numbered messages, one after the other, for as long as it lasts."""
        try:
            with Client(endpoint, on_message=lambda it: received[me].append(it.body)) as client:
                received[me] = []
                client.create_account(me, PASSWORD)
                there.wait(30)
                while not ended_.wait(_BREATH):
                    client.send(to, str(sent[me]))
                    sent[me] += 1
                all_sent.wait(30)
                wait_until(lambda: len(received[me]) >= sent[to], f"{me} has all", 60)
                states.append(client.state)
        except BaseException as error:
            failures.append(error)
            ended_.set()

    def come_and_go() -> None:
        """Connect, ask and leave, for as long as it lasts."""
        try:
            there.wait(30)
            while not ended_.wait(_BREATH):
                with closing(Peer(endpoint)) as peer:
                    assert peer.ask("ping")["ok"]
        except BaseException as error:
            failures.append(error)
            ended_.set()

    people = [("ann", "bob"), ("bob", "ann"), ("cat", "dan"), ("dan", "cat")]
    sent.update((me, 0) for me, _ in people)
    there = threading.Barrier(len(people) + 2)
    all_sent = threading.Barrier(len(people))
    states: list[object] = []
    threads = [threading.Thread(target=talk, args=each, daemon=True) for each in people]
    threads.append(threading.Thread(target=come_and_go, daemon=True))
    try:
        for each in threads:
            each.start()
        there.wait(30)
        for number in range(1, times + 1):
            (outcome,) = running.change(**changed(number))
            assert (outcome.kept, outcome.waits) == (None, ()), outcome
            assert not failures
        ended_.set()
        for each in threads:
            join(each, 90)
    finally:
        ended_.set()
        running.close()
    assert not failures
    for me, to in people:
        assert received[me] == [str(number) for number in range(sent[to])]
        assert sent[me] > times // 20


# -- a server as a process of its own -------------------------------------------------------


def written(file: Path, **values: object) -> None:
    new = file.with_suffix(".new")
    new.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    new.replace(file)


@contextmanager
def served(
    folder: Path, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[tuple[Any, list[Endpoint], Path, Path]]:
    """Serve by a settings file; yield the process, its endpoints, its log and the file."""
    file, log = folder / "served.toml", folder / "log"
    twinline = CommandLine(folder, "tcp://127.0.0.1:1")
    twinline.environment |= environment or {}
    with log.open("w") as stderr:
        process = twinline.start("serve", "--json", "--config", str(file), *flags, stderr=stderr)
    with ended(process):
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        yield process, [Endpoint.parse(json.loads(line)["endpoint"])], log, file


def says(log: Path, words: str, times: int = 1) -> None:
    wait_until(lambda: log.read_text().count(words) >= times, f"{words!r} in {log.read_text()}")


def test_a_changed_file_is_noticed_and_the_flags_stay_on_top(tmp_path: Path) -> None:
    base = {"listen": [PLAIN], "reload_seconds": 0.1, "body_bytes": 1000, "connections": 50}
    written(tmp_path / "served.toml", **base)
    with served(tmp_path, "--connections", "60") as (process, (place,), log, file):
        with Peer(place) as peer:
            peer.enter("ann")
            assert peer.ask("hello")["limits"]["body_bytes"] == 1000
            written(
                file, **base | {"body_bytes": 2000, "connections": 70, "nodes": 3} | {"nodes": 1}
            )
            says(log, "served.toml was read again: body_bytes is 2,000 instead of 1,000")
            assert peer.ask("hello")["limits"]["body_bytes"] == 2000
            assert "connections is" not in log.read_text()
            file.write_text("body_bytes = [")
            says(log, "served.toml goes on with what it had: the settings file")
            written(file, **base | {"log_level": "debug", "listener": "loop"})
            says(log, "in force after a restart: listener")
            assert peer.ask("hello")["limits"]["body_bytes"] == 1000
            os.kill(process.pid, signal.SIGHUP)
            says(log, "in force after a restart: listener", 2)
            written(file, **base | {"drain_endpoints": ["tcp://127.0.0.1:7999"]})
            says(log, "drain_endpoints is tcp://127.0.0.1:7999 instead of unset")
            # The connection was there before, and is told where to go all the same.
            peer.send_line(op="watch", id=9, after=0, wait=60)
            os.kill(process.pid, signal.SIGTERM)
            refused = peer.read_line()["error"]
            assert refused["endpoints"] == ["tcp://127.0.0.1:7999"]
        assert process.wait(10) == 0
    assert "Traceback" not in log.read_text()


def test_nodes_get_what_their_parent_has_read(tmp_path: Path) -> None:
    site = PretendedSite(tmp_path)
    base = {"listen": [PLAIN], "store": site.url, "nodes": 2, "node": "web", "body_bytes": 1000}
    written(tmp_path / "served.toml", **base, reload_seconds=0.1)

    def limits(place: Endpoint) -> dict[str, int]:
        """Return the longest body of each node, by its name."""
        found: dict[str, int] = {}

        def both() -> bool:
            try:
                with Peer(place) as peer:
                    hello = peer.ask("hello")
            except (OSError, AssertionError):
                return False  # of a node that has ended
            found[hello["node"]] = hello["limits"]["body_bytes"]
            return len(found) == 2

        wait_until(both, "both nodes answer")
        return found

    with served(tmp_path, environment=site.environment) as (process, (place,), log, file):
        assert set(limits(place).values()) == {1000}
        written(file, **base | {"body_bytes": 2000}, reload_seconds=0)
        says(log, "body_bytes is 2,000 instead of 1,000", 3)
        assert limits(place) == {"web-1": 2000, "web-2": 2000}
        written(file, **base | {"body_bytes": 3000, "mailbox_messages": 5})
        os.kill(process.pid, signal.SIGHUP)
        says(log, "body_bytes is 3,000 instead of 2,000", 3)
        assert log.read_text().count("in force after a restart: mailbox_messages") == 1
        # One that is started again has them from the start.
        pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(pids[0]), signal.SIGKILL)
        says(log, "is started again in")
        says(log, "serves, as process", 3)
        assert limits(place) == {"web-1": 3000, "web-2": 3000}
        file.write_text("body_bytes = 0")
        os.kill(process.pid, signal.SIGHUP)
        says(log, "goes on with what it had: file", 3)
        assert limits(place) == {"web-1": 3000, "web-2": 3000}
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(20) == 0
    assert "Traceback" not in log.read_text()


HANGUPS = """
import os, signal, sys, threading
import twinline.cli.__main__ as program

class Hangups:
    def find_spec(self, name, path=None, target=None):
        os.kill(os.getpid(), signal.SIGHUP)

sys.meta_path.insert(0, Hangups())
program.run()
"""


@pytest.mark.parametrize("nodes", [1, 2])
def test_no_sighup_ends_a_server_that_has_no_terminal(tmp_path: Path, nodes: int) -> None:
    """From its first import on, while it starts, while it drains, and in its last moment."""
    site = PretendedSite(tmp_path)
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    twinline.environment |= site.environment
    serve = ("serve", "--listen", PLAIN, "--store", site.url, "--nodes", str(nodes))
    process = twinline.python(HANGUPS, *serve, start_new_session=True)
    over = threading.Event()

    def everybody() -> list[int]:
        found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        return [process.pid, *map(int, found)]

    def hang_up() -> None:
        while not over.wait(0.001):
            try:
                for pid in everybody():
                    os.kill(pid, signal.SIGHUP)
            except OSError:
                return  # it has ended

    bombarding = threading.Thread(target=hang_up)
    with ended(process):
        assert process.stdout is not None
        begun = time.monotonic()
        # From here on our own module has been imported: the program's first line was run.
        wait_until(
            lambda: "SigCgt" in Path(f"/proc/{process.pid}/status").read_text() and caught(process),
            "it has a handler",
        )
        bombarding.start()
        try:
            ready = process.stdout.readline()
            assert ready.startswith("listening on"), (process.wait(5), process.stderr.read())  # type: ignore[union-attr]
            with Peer(Endpoint.parse(ready.split()[2])) as peer:
                assert peer.ask("ping")["ok"]
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0, time.monotonic() - begun
        finally:
            over.set()
            join(bombarding)


def caught(process: Any) -> bool:
    """Return whether SIGHUP is caught or ignored."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    masks = [
        int(line.split()[1], 16)
        for line in status.splitlines()
        if line.startswith(("SigCgt", "SigIgn"))
    ]
    return any(mask >> (signal.SIGHUP - 1) & 1 for mask in masks)
