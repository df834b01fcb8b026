"""What a server does not run with, and what its operator is told: by `serve` and `config check`."""

import grp
import json
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from twinline.cli.main import main

if TYPE_CHECKING:
    from certificates import Certificates, Issued

PAIR = ("tls_certificate", "tls_key")


def twinline(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, env={"TWINLINE_CONFIG": ""})


def checked(folder: Path, *flags: str, **settings: object) -> Result:
    """Write a settings file and check it."""
    file = folder / "twinline.toml"
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return twinline("config", "check", str(file), *flags)


def pair(issued: "Issued") -> dict[str, str]:
    return {"tls_certificate": str(issued.certificate), "tls_key": str(issued.key)}


def refused(folder: Path, listen: str, **settings: object) -> str:
    """Return why `config check` refuses, which is why `serve` does, in the same words."""
    by_check = checked(folder, listen=listen, **settings)
    by_serve = twinline("serve", "--config", str(folder / "twinline.toml"))
    assert (by_check.exit_code, by_check.stdout) == (2, "")
    assert (by_serve.exit_code, by_serve.stdout) == (2, "")
    assert by_check.stderr == by_serve.stderr
    assert by_check.stderr.count("\n") == 1
    return by_check.stderr


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (
            "tcp://0.0.0.0:0",
            (
                "plain TCP beyond this machine: others on the way could read passwords and "
                "messages; use tls://, stay on 127.0.0.1 or a Unix socket, or accept the risk "
                "with --insecure"
            ),
        ),
        ("ws://[::]:0", "a plain WebSocket beyond this machine"),
        ("ws://chat.example.org:80", "use wss://, stay on"),
    ],
)
def test_what_others_could_read_is_refused(tmp_path: Path, place: str, words: str) -> None:
    assert words in refused(tmp_path, place)
    assert checked(tmp_path, listen=place, insecure=True).exit_code == 0


@pytest.mark.parametrize("scheme", ["tls", "wss"])
def test_tls_needs_a_certificate(tmp_path: Path, scheme: str) -> None:
    found = refused(tmp_path, f"{scheme}://127.0.0.1:0")
    assert found == (
        f"twinline: {scheme}://127.0.0.1:0 needs a certificate: set tls_certificate and tls_key, "
        "or try it with --self-signed\n"
    )


def test_a_blank_path_is_no_file(tmp_path: Path) -> None:
    found = refused(tmp_path, "tls://127.0.0.1:0", tls_certificate="")
    assert "tls_certificate: expected the path of a file" in found


def test_files_that_cannot_be_used_are_refused(
    tmp_path: Path, certificates: "Certificates"
) -> None:
    place = "tls://127.0.0.1:0"
    server, ann = pair(certificates.server), pair(certificates.ann)
    assert "no such file" in refused(tmp_path, place, **server | {"tls_key": "/no/file"})
    mixed = server | {"tls_key": ann["tls_key"]}
    assert "the key does not belong to the certificate" in refused(tmp_path, place, **mixed)
    assert "set tls_client_ca" in refused(tmp_path, place, **server, tls_crl="/no/file")
    own = f"{place}?certificate={server['tls_certificate']}&key={ann['tls_key']}"
    assert "the key does not belong to the certificate" in refused(tmp_path, own, **server)
    # What nobody uses may be anything.
    assert checked(tmp_path, listen="tcp://127.0.0.1:0", **mixed).exit_code == 0


def test_what_its_operator_should_know_is_a_warning(
    tmp_path: Path, certificates: "Certificates"
) -> None:
    soon = certificates.ca.issue(
        "soon", hosts=["localhost"], lasts=timedelta(days=13, hours=1), folder=tmp_path
    )
    soon.key.chmod(0o644)
    listen = ["tls://127.0.0.1:0", "wss://127.0.0.1:0"]
    result = checked(tmp_path, listen=listen, **pair(soon))
    assert result.exit_code == 0, result.stderr
    first, second, last = result.stderr.splitlines()
    assert first.startswith(f"warning: the certificate {soon.certificate} expires in 13 days, on ")
    assert second == (
        f"warning: the key {soon.key} is open to every user of this machine: chmod o-rwx {soon.key}"
    )
    assert last == f"{tmp_path}/twinline.toml can be served with, but see above"
    as_json = json.loads(checked(tmp_path, "--json", listen=listen, **pair(soon)).stdout)
    assert len(as_json["warnings"]) == 2
    expired = checked(tmp_path, listen=listen, **pair(certificates.expired))
    assert (expired.exit_code, "has expired on" in expired.stderr) == (0, True)
    client = checked(tmp_path, listen=listen, **pair(certificates.ann))
    assert (client.exit_code, "clients refuse it" in client.stderr) == (0, True)
    fine = checked(tmp_path, listen=listen, **pair(certificates.server))
    assert fine.stderr == f"{tmp_path}/twinline.toml is fine\n"


def test_peers_named_by_proxies_need_trusted_ones(tmp_path: Path) -> None:
    assert "proxy=yes needs trusted_proxies" in refused(tmp_path, "tcp://127.0.0.1:0?proxy=yes")


BEFORE = "if there is a proxy before {}, add {} to trusted_proxies"


@pytest.mark.parametrize(
    ("listen", "trusted", "warned"),
    [
        ("ws://127.0.0.1:8080", [], BEFORE.format("ws://127.0.0.1:8080", "127.0.0.1")),
        ("ws://localhost:8080", ["unix"], BEFORE.format("ws://localhost:8080", "127.0.0.1")),
        ("ws://[::1]:8080", ["127.0.0.1"], BEFORE.format("ws://[::1]:8080", "::1")),
        ("unix:/run/s?transport=websocket", ["10.0.0.1"], BEFORE.format("unix:/run/s", "unix")),
        ("tcp://127.0.0.1:0?transport=websocket", [], "if there is a proxy before"),
        ("tcp://127.0.0.1:0?proxy=yes", ["10.0.0.1"], "trusted_proxies has no 127.0.0.1"),
        ("unix:/run/s?proxy=yes", ["127.0.0.1"], "nobody can connect to unix:/run/s"),
        ("tcp://127.0.0.1:0", ["10.0.0.1", "::/0"], "trusted_proxies has ::/0: whoever connects"),
        ("ws://localhost:8080", ["::1"], None),
        ("unix:/run/s?transport=websocket", ["unix"], None),
        ("unix:/run/s?proxy=yes", ["unix"], None),
        ("tcp://127.0.0.1:0?proxy=yes", ["127.0.0.0/8"], None),
        ("tcp://127.0.0.1:7767", [], None),
        ("unix:/run/s", [], None),
    ],
)
def test_a_proxy_that_is_likely_and_not_trusted_is_a_warning(
    tmp_path: Path, listen: str, trusted: list[str], warned: str | None
) -> None:
    result = checked(tmp_path, listen=listen, trusted_proxies=trusted)
    assert result.exit_code == 0, result.stderr
    warnings = result.stderr.splitlines()[:-1]
    assert [warned in warning for warning in warnings] == ([] if warned is None else [True])


def test_a_proxy_that_cannot_be_is_refused(tmp_path: Path) -> None:
    found = refused(tmp_path, "tcp://127.0.0.1:0", trusted_proxies=["10.0.0.1/8"])
    assert "trusted_proxies: '10.0.0.1/8' has bits beyond its network: write 10.0.0.0/8" in found


def test_a_server_listens_at_every_path(tmp_path: Path) -> None:
    assert "write no path" in refused(tmp_path, "ws://127.0.0.1:0/chat")


# -- the admin socket -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"admin_listen": "tcp://127.0.0.1:1"}, "expected a Unix socket without options"),
        ({"admin_listen": "unix:/a?transport=binary"}, "expected a Unix socket without options"),
        ({"admin_listen": "unix:/" + "x" * 120}, "at most"),
        ({"admin_listen": "unix:/run/x"}, "unix:/run/x is where clients connect"),
        ({"admin_listen": "unix:/run/y", "admin_group": "no-such-group"}, "there is no group"),
        ({"admin_listen": "unix:/run/y", "admin_group": "a b"}, "admin_group"),
    ],
)
def test_an_admin_socket_that_cannot_be_is_refused(
    tmp_path: Path, settings: dict[str, str], words: str
) -> None:
    assert words in refused(tmp_path, "unix:/run/x", **settings)


def test_a_group_without_a_socket_is_a_remark(tmp_path: Path) -> None:
    group = grp.getgrgid(os.getgid()).gr_name
    told = checked(tmp_path, listen="unix:/run/x", admin_group=group)
    assert told.exit_code == 0
    assert "admin_group has no effect" in told.stderr
