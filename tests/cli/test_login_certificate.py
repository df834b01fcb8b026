"""`twinline login --certificate`, and a chat that begins with one."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cli_server import CommandLine
from listening import Server, serving
from services import PASSWORD
from terminal import chat

from twinline.cli.chat.start import session_at_terminal
from twinline.cli.client.target import Target

if TYPE_CHECKING:  # `cryptography` makes them, which a test without it does without
    from certificates import Certificates, Issued


@pytest.fixture
def server(certificates: "Certificates") -> Iterator[Server]:
    """A server over TLS with an account for ann, who has a certificate, and for nobody else."""
    pair = {
        "tls_certificate": str(certificates.server.certificate),
        "tls_key": str(certificates.server.key),
    }
    ca = str(certificates.ca.file)
    with serving([("tls://127.0.0.1:0", "auto")], **pair, tls_client_ca=ca) as running:
        running.service.add_account("ann", PASSWORD)
        yield running


@pytest.fixture
def twinline(tmp_path: Path, server: Server, certificates: "Certificates") -> CommandLine:
    """The command line of someone who trusts the server, and has no password."""
    line = CommandLine(tmp_path, server.endpoints[0])
    del line.environment["TWINLINE_PASSWORD"]
    line.environment["TWINLINE_CA_FILE"] = str(certificates.ca.file)
    return line


def shown_by(issued: "Issued") -> list[str]:
    return ["--client-cert", str(issued.certificate), "--client-key", str(issued.key)]


def test_a_certificate_logs_in_and_the_commands_that_follow_need_it_no_more(
    twinline: CommandLine, certificates: "Certificates"
) -> None:
    login = ["login", "--certificate", *shown_by(certificates.ann)]
    assert twinline.run(*login).stderr == f"logged in as ann at {twinline.place}, 0 unread\n"
    assert twinline.json(*login) == [{"username": "ann", "position": 0, "unread": 0}]
    twinline.run("send", "ann", "hello")
    assert twinline.bodies("ann") == ["hello"]
    twinline.run("logout")


@pytest.mark.parametrize(
    ("arguments", "shown", "end"),
    [
        ([], "", (2, "say who logs in: USERNAME, or --certificate")),
        (["--certificate"], "", (2, "name the certificate with --client-cert")),
        (["--certificate", "ann"], "ann", (2, "there is no USERNAME and no password to give")),
        (["--certificate", "--password-file", "-"], "ann", (2, "no USERNAME and no password")),
        (
            ["--certificate", "--connect", "tcp://127.0.0.1:7767"],
            "",
            (2, "tcp://127.0.0.1:7767 is not an endpoint with TLS"),
        ),
        (["--certificate"], "nobody", (3, "no client certificate that names an account")),
        (
            ["--certificate"],
            "bob",
            (3, "the account that the client certificate names is not there"),
        ),
    ],
)
def test_what_does_not_log_in(
    twinline: CommandLine,
    certificates: "Certificates",
    arguments: list[str],
    shown: str,
    end: tuple[int, str],
) -> None:
    code, why = end
    pair = shown_by(getattr(certificates, shown)) if shown else []
    assert why in twinline.run("login", *arguments, *pair, code=code).stderr
    assert not twinline.session_file.exists()


def test_a_chat_begins_with_the_certificate_where_nobody_is_logged_in(
    server: Server,
    certificates: "Certificates",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("click.prompt", lambda *_, **__: "q")
    options = {"connect": str(server.endpoints[0]), "ca_file": str(certificates.ca.file)}

    def target(shown: "Issued") -> Target:
        pair = {"client_cert": str(shown.certificate), "client_key": str(shown.key)}
        return Target.of({**options, **pair})

    with pytest.raises(Exception, match="nobody is logged in"):
        session_at_terminal(target(certificates.bob))
    assert "the account that the client certificate names is not there" in capsys.readouterr().err
    kept = session_at_terminal(target(certificates.ann))
    assert kept.username == "ann"
    assert session_at_terminal(target(certificates.ann)) == kept


@pytest.mark.terminal
def test_a_session_that_ends_in_a_chat_is_opened_again_by_the_certificate(
    server: Server, twinline: CommandLine, certificates: "Certificates"
) -> None:
    with chat(twinline, *shown_by(certificates.ann)) as shown:
        shown.wait_toolbar("online")
        for answer in ("y", "n"):
            server.service.administration("a test").kick("ann")
            shown.wait_line("Log in as ann by the client certificate? [y/N]:")
            shown.enter(answer)
            if answer == "n":
                shown.wait_line("Password for ann:")
                shown.enter(PASSWORD)
            shown.wait_line(">")
            shown.wait_toolbar(" online")
        shown.enter("ann: still here")
        shown.wait_text("→ ann: still here")
    server.service.add_account("carl", PASSWORD)
    twinline.environment["TWINLINE_PASSWORD"] = PASSWORD
    twinline.run("login", "carl")
    with chat(twinline, *shown_by(certificates.ann)) as shown:
        shown.wait_toolbar("carl at")
        server.service.administration("a test").kick("carl")
        shown.wait_line("Log in as carl by the client certificate? [y/N]:")
        shown.enter("y")
        shown.wait_text("! the client certificate names ann")
        shown.wait_line("Password for carl:")
