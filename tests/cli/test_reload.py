"""What is read again while a server runs: by a signal, by a change, and when it cannot be used."""

import errno
import logging
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from cli_server import CommandLine, ended
from waiting import join, wait_event, wait_until

from twinline.cli.server import reload
from twinline.cli.server.reload import Identity, Outcome, Reloader, identities, identity
from twinline.transports.endpoints import Endpoint
from twinline.transports.tls import client_context

if TYPE_CHECKING:
    from certificates import Certificates, Issued


class Thing:
    """A part that is a file, and cannot be read while that says "bad"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tried = 0
        self.value = path.read_text()
        self.remarks: list[str] = []
        self.breaks = False

    def files(self) -> list[str]:
        return [str(self.path)]

    def reload(self) -> list[Outcome]:
        self.tried += 1
        if self.breaks:
            raise RuntimeError("a fault of its own")
        try:
            found = self.path.read_text()
        except OSError as error:
            return [Outcome("it", kept=str(error.strerror))]
        if found == "bad":
            return [Outcome("it", kept="it is bad")]
        self.value = found
        return [Outcome("it", found)]

    def warnings(self) -> list[str]:
        return self.remarks


@pytest.fixture
def thing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Thing:
    caplog.set_level(logging.INFO)
    path = tmp_path / "file"
    path.write_text("first")
    return Thing(path)


def put(path: Path, text: str) -> None:
    """Change a file as careful programs do: another one takes its place."""
    other = path.with_suffix(".new")
    other.write_text(text)
    other.replace(path)


def told(caplog: pytest.LogCaptureFixture, words: str) -> Callable[[], bool]:
    return lambda: words in caplog.text


def test_a_change_is_noticed_once(thing: Thing, caplog: pytest.LogCaptureFixture) -> None:
    thing.remarks = ["it ends tomorrow"]
    with Reloader([thing], 0.02, remind=0.02):
        put(thing.path, "other")
        wait_until(lambda: thing.value == "other", "it is read again")
        wait_until(told(caplog, "it was read again: other"), "it is said")
        before = caplog.text.count("it ends tomorrow")
        wait_until(lambda: caplog.text.count("it ends tomorrow") > before + 3, "it has looked")
        assert thing.tried == 1
        thing.path.write_text("longer than that")
        wait_until(lambda: thing.value == "longer than that", "the same file is read again")
    assert not [each for each in threading.enumerate() if each.name == "reload"]


def test_what_comes_of_it_are_events(
    thing: Thing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes = [
        Outcome("it", "new", waits=("listen", "store")),
        Outcome("that", kept="it is bad", final=True),
    ]
    monkeypatch.setattr(thing, "reload", lambda: outcomes)
    with Reloader([thing], 0.02):
        put(thing.path, "other")
        wait_until(lambda: len(caplog.records) >= 3, "it is said")
    assert [(each.event, each.fields) for each in caplog.records] == [  # type: ignore[attr-defined]
        ("reloaded", {"what": "it", "told": "new"}),
        ("needs_restart", {"settings": ("listen", "store")}),
        ("reload_failed", {"what": "that", "why": "it is bad"}),
    ]


def test_a_link_is_followed(thing: Thing, tmp_path: Path) -> None:
    """As certbot's: the file has its place below another folder, and the link changes."""
    for name in ("1", "2"):
        (tmp_path / name).write_text(f"content {name}")
    thing.path.unlink()
    thing.path.symlink_to(tmp_path / "1")
    with Reloader([thing], 0.02):
        (tmp_path / "link").symlink_to(tmp_path / "2")
        (tmp_path / "link").replace(thing.path)
        wait_until(lambda: thing.value == "content 2", "the other file is read")


def test_what_has_changed_before_the_first_look_is_read(thing: Thing) -> None:
    """The parts were made from what was there, and a signal may have come too early."""
    since = identities(thing.files())
    put(thing.path, "other")
    with Reloader([thing], 0, since=since):
        wait_until(lambda: thing.value == "other", "it is read again")


def test_without_a_look_only_a_wake_has_it_read(
    thing: Thing, caplog: pytest.LogCaptureFixture
) -> None:
    thing.remarks = ["it ends tomorrow"]
    with Reloader([thing], 0, remind=0.02) as reloader:
        wait_until(told(caplog, "it ends tomorrow"), "it has looked for the first time")
        put(thing.path, "other")
        before = len(caplog.records)
        wait_until(lambda: len(caplog.records) >= before + 3, "it has been awake")
        assert (thing.tried, thing.value) == (0, "first")
        reloader.wake()
        wait_until(lambda: thing.value == "other", "it is read again")
        assert thing.tried == 1


def test_halves_of_a_change_are_waited_for_in_silence(
    thing: Thing, caplog: pytest.LogCaptureFixture
) -> None:
    with Reloader([thing], 0.02, patience=20):
        put(thing.path, "bad")
        wait_until(lambda: thing.tried >= 2, "it is tried again")
        put(thing.path, "good")
        wait_until(told(caplog, "it was read again: good"), "it is read")
    assert "goes on" not in caplog.text


def test_what_stays_bad_is_said_once_and_what_was_there_stays(
    thing: Thing, caplog: pytest.LogCaptureFixture
) -> None:
    with Reloader([thing], 0.01, patience=0.05) as reloader:
        put(thing.path, "bad")
        wait_until(told(caplog, "it goes on with what it had: it is bad"), "it is said")
        assert thing.value == "first"
        thing.path.unlink()
        wait_until(told(caplog, "what it had: No such file"), "it is said")
        put(thing.path, "good")
        wait_until(lambda: thing.value == "good", "it is read")
        reloader.wake()
        wait_until(lambda: caplog.text.count("read again: good") >= 2, "it is read when asked")
    assert caplog.text.count("it is bad") == 1


def test_it_is_reminded_of_what_the_operator_should_know(
    thing: Thing, caplog: pytest.LogCaptureFixture
) -> None:
    thing.remarks = ["it ends tomorrow"]
    with Reloader([thing], 0, remind=0.02):
        wait_until(lambda: caplog.text.count("it ends tomorrow") >= 2, "it is said again")
    assert thing.tried == 0


def test_a_part_that_fails_is_logged_and_the_next_change_is_read(
    thing: Thing, caplog: pytest.LogCaptureFixture
) -> None:
    thing.breaks = True
    steps: list[str] = []
    with Reloader(
        [thing],
        0.02,
        on_begin=lambda: steps.append("begun"),
        on_done=lambda outcomes: steps.extend(str(each.kept) for each in outcomes),
    ):
        put(thing.path, "other")
        wait_until(told(caplog, "a fault of its own"), "it is logged")
        # Who waits for the end of what has begun, as systemd does, is told of it.
        assert steps[:2] == ["begun", "the reload has failed; its log says how"]
        thing.breaks = False
        put(thing.path, "third")
        wait_until(lambda: thing.value == "third", "it is read again")


def test_it_ends_in_the_middle_of_its_patience(thing: Thing) -> None:
    with Reloader([thing], 0.01, patience=1000):
        put(thing.path, "bad")
        wait_until(lambda: thing.tried, "it is tried")


def test_a_file_that_is_being_written_is_read_when_it_is_whole(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = deque(["", "wh", "who", "whole"])
    reloader = Reloader([thing], 0.01, patience=1000)

    def look(path: str) -> Identity:
        if written:  # between any two looks
            thing.path.write_text(written.popleft())
        return identity(path)

    monkeypatch.setattr(reload, "identity", look)
    with reloader:
        wait_until(lambda: thing.tried, "it is read")
    assert (thing.value, thing.tried) == ("whole", 1)


def test_who_asks_for_a_reload_does_not_wait_for_what_is_being_written(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloader = Reloader([thing], 0.01, patience=1000)
    number = iter(range(10**9))
    monkeypatch.setattr(reload, "identity", lambda _: (0, 0, 0, next(number)))  # it never ends
    thing.path.write_text("now")
    with reloader:
        assert [each.told for each in reloader.reload(20)] == ["now"]


@pytest.mark.parametrize(
    ("number", "there"), [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ENXIO, False)]
)
def test_no_descriptor_is_no_end_of_the_terminal(
    number: int, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a SIGHUP would end a server of which strangers hold all descriptors."""

    def fails(*_arguments: object) -> int:
        raise OSError(number, "as if")

    monkeypatch.setattr("twinline.cli.server.reload.os.open", fails)
    assert reload._is_there() is there


def test_a_file_system_that_does_not_answer_keeps_no_server_from_its_end(
    thing: Thing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_END_SECONDS", 0.05)
    begun, answers = threading.Event(), threading.Event()

    def read() -> list[Outcome]:
        begun.set()
        wait_event(answers, "the file system to answer")
        return []

    monkeypatch.setattr(thing, "reload", read)
    try:
        with Reloader([thing], 0) as reloader:
            reloader.wake()
            wait_event(begun, "it to be read")
    finally:
        answers.set()
        join(reloader._thread)
        reloader._waker.close()


def test_a_file_that_cannot_be_is_nobody() -> None:
    assert identity("no\0name") is None
    assert identity("/no/such/file") is None


# -- a server as a process of its own -------------------------------------------------------


class Log:
    """What a process says on a stream, read as it comes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self._stream = process.stderr
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:
            self.lines.append(line)

    def wait(self, words: str, times: int = 1) -> None:
        """Wait until it has said this so often."""
        wait_until(
            lambda: sum(words in line for line in self.lines) >= times,
            f"{words!r} in {self.lines}",
        )

    def close(self) -> None:
        self._thread.join(10)


class Open:
    """A connection over TLS.

    Attributes:
        shown: the certificate that the server has shown, as DER.
    """

    def __init__(self, place: Endpoint, context: ssl.SSLContext) -> None:
        plain = socket.create_connection((place.host, place.port), timeout=10)
        self._socket = context.wrap_socket(plain, server_hostname=place.host)
        self.shown = self._socket.getpeercert(binary_form=True)

    def ping(self) -> bool:
        """Return whether the server answers."""
        self._socket.sendall(b'{"op":"ping","id":1}\n')
        return b'"ok":true' in self._socket.recv(4096)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def written(issued: "Issued", folder: Path) -> None:
    """Have a certificate and its key take the places of others, one after the other."""
    for name, path in (("certificate.pem", issued.certificate), ("key.pem", issued.key)):
        new = folder / f"{name}.new"
        new.touch(mode=0o600)
        new.write_bytes(path.read_bytes())
        new.replace(folder / name)


@contextmanager
def tls_server(
    twinline: CommandLine, folder: Path, *options: str
) -> Iterator[tuple[subprocess.Popen[str], Endpoint, Log]]:
    """Serve with the certificate of a folder."""
    server = twinline.start(
        "serve",
        *("--listen", "tls://127.0.0.1:0"),
        *("--tls-certificate", str(folder / "certificate.pem")),
        *("--tls-key", str(folder / "key.pem")),
        *options,
    )
    with ended(server):
        log = Log(server)
        assert server.stdout is not None
        ready = server.stdout.readline()
        assert ready.startswith("listening on tls://"), log.lines
        try:
            yield server, Endpoint.parse(ready.split()[2]), log
            server.send_signal(signal.SIGTERM)
            assert server.wait(10) == 0
        finally:
            server.kill()
            log.close()
        assert not [line for line in log.lines if "Traceback" in line], log.lines


@pytest.mark.parametrize(("listener", "by"), [("threads", "change"), ("loop", "signal")])
def test_a_new_certificate_is_shown_and_no_connection_drops(
    tmp_path: Path, certificates: "Certificates", listener: str, by: str
) -> None:
    seconds = "0.1" if by == "change" else "0"
    trusting = client_context(ca_file=str(certificates.ca.file))
    soon = certificates.ca.issue("soon", hosts=["127.0.0.1"], lasts=timedelta(days=3))
    written(soon, tmp_path)
    with tls_server(
        CommandLine(tmp_path, "tcp://127.0.0.1:1"),
        tmp_path,
        *("--listener", listener, "--reload-seconds", seconds),
    ) as (server, place, log):

        def change(issued: "Issued") -> None:
            written(issued, tmp_path)
            if by == "signal":
                server.send_signal(signal.SIGHUP)

        log.wait("certificate.pem expires in 2 days, on ")
        with Open(place, trusting) as first:
            assert first.shown == soon.der
            change(certificates.server)
            log.wait(f"{place} was read again: {tmp_path}/certificate.pem is valid until ")
            with Open(place, trusting) as second:
                assert second.shown == certificates.server.der
                assert first.ping()
                (tmp_path / "key.pem").write_bytes(soon.key.read_bytes())
                if by == "signal":
                    server.send_signal(signal.SIGHUP)
                log.wait(f": {place} goes on with what it had: ")
                log.wait("the key does not belong to the certificate")
                with Open(place, trusting) as third:
                    assert third.shown == certificates.server.der
                    assert all(each.ping() for each in (first, second, third))
                change(soon)
                log.wait("was read again", 2)
                log.wait("certificate.pem expires in 2 days, on ", 2)
                with Open(place, trusting) as fourth:
                    assert fourth.shown == soon.der
                assert first.ping()
                assert second.ping()


def test_a_revoked_certificate_ends_what_it_has_opened(
    tmp_path: Path, certificates: "Certificates"
) -> None:
    crl = tmp_path / "crl.pem"
    crl.write_bytes(certificates.ca.crl())
    written(certificates.server, tmp_path)
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    asked = ("--tls-client-ca", str(certificates.ca.file), "--tls-crl", str(crl))
    with tls_server(twinline, tmp_path, "--reload-seconds", "0.1", *asked) as (_, place, log):
        ca = ("--connect", str(place), "--ca-file", str(certificates.ca.file))
        twinline.run("register", "ann", *ca)
        twinline.run("register", "bob", *ca)

        def come(who: "Issued") -> ssl.SSLSocket:
            context = client_context(
                ca_file=str(certificates.ca.file),
                certificate=str(who.certificate),
                key=str(who.key),
            )
            plain = socket.create_connection((place.host, place.port), timeout=10)
            return context.wrap_socket(plain, server_hostname=place.host)

        def log_in(connected: ssl.SSLSocket) -> None:
            connected.sendall(b'{"op":"login_certificate","id":1}\n')
            assert b'"session"' in connected.recv(4096)

        with come(certificates.ann) as ann, come(certificates.bob) as bob:
            log_in(ann)
            log_in(bob)
            new = tmp_path / "new"
            new.write_bytes(certificates.ca.crl(certificates.ann))
            new.replace(crl)
            log.wait("sessions of revoked certificates that ended: 1")
            with suppress(ssl.SSLError, ConnectionError):
                assert ann.recv(4096) == b""
            bob.sendall(b'{"op":"ping","id":2}\n')
            assert b'"ok":true' in bob.recv(4096)
            refused = b""
            with suppress(ssl.SSLError, ConnectionError), come(certificates.ann) as again:
                refused = again.recv(4096)
            assert refused == b""
            log.wait("certificate revoked")


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    server = twinline.start("serve", "--listen", "tcp://127.0.0.1:0")
    with ended(server):
        assert server.stdout is not None
        assert server.stdout.readline()
        log = Log(server)
        server.send_signal(signal.SIGHUP)
        log.wait("there is nothing to read again: no settings file, and no endpoint with TLS")
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0
        log.close()


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_hangs_up_ends_the_server(tmp_path: Path, ignored: bool) -> None:
    """Its SIGHUP is no wish to have anything read; nohup(1) ignores it, and the server goes on."""
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    ours, theirs = os.openpty()

    def enter_terminal() -> None:
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # the first that a session opens is its own
        # A suite that nohup(1) has started ignores it too, and so would what it starts.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    try:
        server = twinline.start(
            "serve",
            *("--listen", "tcp://127.0.0.1:0"),
            stdin=theirs,
            start_new_session=True,
            preexec_fn=enter_terminal,
        )
    finally:
        os.close(theirs)
    with ended(server):
        assert server.stdout is not None
        assert server.stdout.readline()
        log = Log(server)
        os.close(ours)
        if ignored:
            log.wait("there is nothing to read again")
            server.send_signal(signal.SIGTERM)
        else:
            log.wait("the terminal has hung up")
        assert server.wait(10) == 0
        log.close()
