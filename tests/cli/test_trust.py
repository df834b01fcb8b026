"""Whom the client commands trust over TLS, who they are there, and how they fail to connect."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_server import CommandLine, running_server
from listening import serving

from twinline.cli.client.sessions import SessionFile
from twinline.transports.endpoints import Endpoint

if TYPE_CHECKING:  # `cryptography` makes them, which a test without it does without
    from certificates import Certificates, Issued

TLS = "tls://127.0.0.1:0"


def shown_by(issued: "Issued") -> dict[str, str]:
    return {"tls_certificate": str(issued.certificate), "tls_key": str(issued.key)}


@pytest.fixture
def endpoint(certificates: "Certificates") -> Iterator[Endpoint]:
    """A server over TLS that asks clients for a certificate, and lets in those without, too."""
    ca = str(certificates.ca.file)
    with serving([(TLS, "auto")], **shown_by(certificates.server), tls_client_ca=ca) as it:
        yield it.endpoints[0]


@pytest.fixture
def twinline(tmp_path: Path, endpoint: Endpoint) -> CommandLine:
    """The command line of someone who knows where the server is, and trusts the system."""
    return CommandLine(tmp_path, endpoint)


def test_a_server_is_trusted_by_its_authority_s_file(
    twinline: CommandLine, certificates: "Certificates", tmp_path: Path
) -> None:
    ca = ["--ca-file", str(certificates.ca.file)]
    twinline.run("register", "ann", *ca)
    assert twinline.run("status", *ca).stdout.startswith(f"ann at {twinline.place}: 0 unread")
    config = tmp_path / "twinline.toml"
    config.write_text(f"ca_file = {json.dumps(str(certificates.ca.file))}\n")
    assert twinline.run("accounts", "--config", str(config)).stdout == "ann\n"
    kept = SessionFile(twinline.session_file)
    assert kept.endpoints() == [twinline.place]
    # Another way to the same port is another endpoint: no token goes there.
    elsewhere = twinline.place.replace("tls:", "wss:")
    assert "nobody is logged in" in twinline.run("status", "--connect", elsewhere, code=3).stderr


def test_without_it_the_command_says_what_to_do(twinline: CommandLine) -> None:
    result = twinline.run("register", "ann", code=4)
    assert result.stderr == (
        f"twinline: cannot reach {twinline.place}: the server's certificate is refused: "
        "who has signed it is not trusted here (trust it with --ca-file)\n"
    )
    with_another = ["--ca-file", str(Path(__file__).parents[1] / "nowhere.pem")]
    refused = twinline.run("ping", *with_another, code=2).stderr
    assert refused == (
        f"twinline: the file of trusted certificates {with_another[1]}: no such file or directory\n"
    )


def test_the_system_is_trusted_by_default(
    twinline: CommandLine, certificates: "Certificates", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca.file))
    twinline.run("ping")
    other = ["--ca-file", str(certificates.other_ca.file)]
    assert "not trusted here" in twinline.run("ping", *other, code=4).stderr


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("expired", "certificate has expired (--wait"),
        ("wrong_host", "IP address mismatch, certificate is not valid for '127.0.0.1' (--wait"),
        ("unknown", "who has signed it is not trusted here (trust it with --ca-file)"),
    ],
)
def test_a_certificate_that_is_not_the_server_s_is_refused(
    tmp_path: Path, certificates: "Certificates", which: str, words: str
) -> None:
    ca = ["--ca-file", str(certificates.ca.file)]
    with serving([(TLS, "auto")], **shown_by(getattr(certificates, which))) as server:
        twinline = CommandLine(tmp_path, server.endpoints[0])
        refused = twinline.run("register", "ann", *ca, code=4).stderr
        assert f"the server's certificate is refused: {words}" in refused
        # The one switch that lets it in says so, once, also where a command connects twice.
        insecure = twinline.run("register", "ann", "--insecure-skip-verify").stderr.splitlines()
        assert insecure[0].startswith("twinline: warning: nobody checks who answers at tls://")
        assert insecure[1:] == [f"logged in as ann at {twinline.place}, 0 unread"]


def test_a_certificate_is_shown_with_its_key(
    twinline: CommandLine, certificates: "Certificates", tmp_path: Path
) -> None:
    ca = ["--ca-file", str(certificates.ca.file)]
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.ann.certificate.read_bytes() + certificates.ann.key.read_bytes())
    pair = certificates.ann
    twinline.run("register", "ann", *ca)
    for shown in (
        ["--client-cert", str(pair.certificate), "--client-key", str(pair.key)],
        ["--client-cert", str(both)],
    ):
        twinline.run("ping", *ca, *shown)
    foreign = certificates.foreign_ann
    shown = ["--client-cert", str(foreign.certificate), "--client-key", str(foreign.key)]
    refused = twinline.run("ping", *ca, *shown, code=4).stderr
    assert "the server refuses the certificate that it was shown: it does not trust" in refused


def test_files_that_cannot_be_used_are_refused_before_anything_is_tried(
    tmp_path: Path, certificates: "Certificates"
) -> None:
    twinline = CommandLine(tmp_path, "tls://127.0.0.1:1")
    nothing, missing = tmp_path / "nothing.pem", tmp_path / "missing.pem"
    nothing.write_text("nothing\n")
    cert, key = str(certificates.ann.certificate), str(certificates.ann.key)
    for arguments, words in (
        (["--ca-file", str(nothing)], f"{nothing}: it holds no certificate in PEM"),
        (["--client-cert", str(missing)], f"{missing}: no such file or directory"),
        (["--client-cert", cert, "--client-key", str(missing)], f"{missing}: no such file"),
        (["--client-cert", cert], f"{cert}: it holds no private key in PEM"),
        (["--client-key", key], "client_key: the key comes with its certificate"),
        (
            ["--client-cert", cert, "--client-key", str(certificates.bob.key)],
            "the key does not belong to the certificate",
        ),
    ):
        assert words in twinline.run("ping", *arguments, code=2).stderr


def test_flags_of_tls_are_for_tls_and_a_file_may_hold_them_for_all(
    tmp_path: Path, certificates: "Certificates"
) -> None:
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        for arguments in (
            ["--ca-file", str(certificates.ca.file)],
            ["--insecure-skip-verify"],
        ):
            refused = twinline.run("ping", *arguments, code=2).stderr
            assert refused == (
                f"twinline: {arguments[0]} is for tls and wss endpoints, not {endpoint}\n"
            )
        twinline.environment["TWINLINE_CA_FILE"] = "not even there"
        twinline.environment["TWINLINE_INSECURE_SKIP_VERIFY"] = "true"
        assert "warning" not in twinline.run("ping").stderr


def test_the_wrong_scheme_fails_at_once(tmp_path: Path, twinline: CommandLine) -> None:
    with running_server() as endpoint:
        sealed = str(endpoint).replace("tcp:", "tls:")
        assert "does not speak TLS" in twinline.run("ping", "--connect", sealed, code=4).stderr
    plain = twinline.place.replace("tls:", "tcp:")
    refused = twinline.run("ping", "--connect", plain, code=4).stderr
    assert "the server ended the connection" in refused


def test_a_command_of_watch_trusts_whom_its_watch_trusts(
    twinline: CommandLine, certificates: "Certificates"
) -> None:
    ca = ["--ca-file", str(certificates.ca.file)]
    twinline.run("register", "bob", *ca)
    twinline.run("register", "ann", *ca)
    twinline.run("send", "ann", "hello", *ca)
    command = f"{sys.executable} -m twinline.cli send bob"
    watch = ["watch", "--count", "1", "--timeout", "60"]
    twinline.run(*watch, "--exec", command, *ca)
    shown = twinline.run(*watch, "--user", "bob", *ca).stdout
    assert "hello" in shown


def test_a_chat_and_a_verdict_are_had_over_tls(
    twinline: CommandLine, certificates: "Certificates"
) -> None:
    ca = ["--ca-file", str(certificates.ca.file)]
    twinline.run("register", "bob", *ca)
    twinline.run("register", "ann", *ca)
    twinline.run("chat", "bob", *ca, input="hello\n")
    assert "hello" in twinline.run("history", "--user", "bob", *ca).stdout
    run = ["verify", "--connect", twinline.place, "--duration", "0.3"]
    assert "verdict: ok" in twinline.run(*run, "--senders", "1", "--mailboxes", "1", *ca).stdout
    assert "--ca-file" in twinline.run(*run, code=4).stderr
