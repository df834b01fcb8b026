"""`twinline serve --self-signed`: a certificate for a trial, and clients that trust it."""

import os
import signal
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli_server import CommandLine, ended

from twinline.cli.console.errors import CommandError, SettingsError
from twinline.cli.server import trial as trials
from twinline.cli.server.trial import Trial, for_trial, names_of
from twinline.cli.settings.model import Settings
from twinline.transports.endpoints import Endpoint
from twinline.transports.tls import inspect

pytest.importorskip("cryptography")
HERE = "tls://127.0.0.1:0"


def listening(*places: str) -> Settings:
    return Settings(listen=places)


def test_people_talk_over_it(tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    twinline = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    server = twinline.start(
        "serve", "--listen", HERE, "--listen", "wss://localhost:0", "--self-signed", str(folder)
    )
    with ended(server):
        assert server.stdout is not None
        places = [server.stdout.readline().split()[2] for _ in range(2)]
        told = server.stdout.readline()
        assert told == f"clients trust it with --ca-file {folder}/trial-ca.pem\n"
        assert (folder / "trial-key.pem").stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o077 == 0
        trust = told.split()[-2:]
        for place in places:
            twinline.run("ping", "--count", "1", "--connect", place, *trust)
        twinline.run("register", "ann", "--connect", places[0], *trust)
        twinline.run("register", "bob", "--connect", places[1], *trust)
        talk = ("--connect", places[0], "--user", "ann", *trust)
        twinline.run("chat", "bob", *talk, input="hello over TLS\n")
        history = ("history", "--user", "bob", "--connect", places[1], *trust)
        assert "ann: hello over TLS" in twinline.run(*history).stdout
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_what_is_there_and_valid_is_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, trial = for_trial(listening(HERE), tmp_path)
    assert (settings.tls_certificate, settings.tls_key) == (str(trial.certificate), str(trial.key))
    before = trial.certificate.read_bytes(), trial.ca.read_bytes(), trial.key.read_bytes()

    def now() -> tuple[bytes, bytes, bytes]:
        return trial.certificate.read_bytes(), trial.ca.read_bytes(), trial.key.read_bytes()

    for_trial(listening(HERE, "wss://[::1]:0", "tls://localhost:0"), tmp_path)
    assert now() == before
    found = inspect(trial.files)
    assert found.names == ("127.0.0.1", "localhost", "0:0:0:0:0:0:0:1")
    assert 89 <= (found.ends - datetime.now(UTC)).days <= 90
    for_trial(listening("tls://other.example:0"), tmp_path)
    changed = now()
    assert not set(changed) & set(before)
    trial.key.write_bytes(before[2])  # not the certificate's
    for_trial(listening("tls://other.example:0"), tmp_path)
    assert not set(now()) & {*changed, *before}
    changed = now()
    monkeypatch.setattr(trials, "_ENOUGH", timedelta(days=91))
    for_trial(listening("tls://other.example:0"), tmp_path)
    assert not set(now()) & set(changed)
    assert sorted(os.listdir(tmp_path)) == [  # noqa: PTH208 - the names
        "trial-ca.pem",
        "trial-certificate.pem",
        "trial-key.pem",
    ]


def test_a_server_of_all_addresses_is_called_by_those_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "chat-host")
    found = names_of([Endpoint.parse("tls://0.0.0.0:0")])
    assert {"chat-host", "localhost", "127.0.0.1", "::1"} <= set(found)
    assert "0.0.0.0" not in found
    monkeypatch.setattr(socket, "gethostname", lambda: "no name")
    assert "no name" not in names_of([Endpoint.parse("wss://[::]:0")])


def test_it_is_not_for_a_server_that_has_a_certificate_or_no_tls(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="leave one of the two out"):
        for_trial(Settings(listen=(HERE,), tls_certificate="x"), tmp_path)
    with pytest.raises(SettingsError, match="name one with --listen"):
        for_trial(listening("tcp://127.0.0.1:0"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_it_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "find_spec", lambda _: None)
    with pytest.raises(CommandError, match=r"pip install 'twinline\[tls\]'"):
        for_trial(listening(HERE), tmp_path)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="--self-signed: "):
        for_trial(listening(HERE), tmp_path / "file" / "folder")
    assert Trial.of(tmp_path).files.paths == (
        str(tmp_path / "trial-certificate.pem"),
        str(tmp_path / "trial-key.pem"),
    )
