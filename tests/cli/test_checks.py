"""What a server does not run with, and what its operator is told: by `serve` and `config check`."""

import grp
import json
import os
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from twinline.cli.main import main
from twinline.cli.settings.model import Settings
from twinline.stores.sqlite.file import APPLICATION_ID
from twinline.stores.valkey.url import parse_url

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


# -- everything that a server does not start with, by both commands ------------------------

SHORT = "tcp://127.0.0.1:0"
REFUSED: dict[str, tuple[str, str]] = {
    "a certificate that is missing": (f'listen = "tls://{SHORT[6:]}"', "needs a certificate"),
    "no path of a file": ('store = "sqlite:"', "store: a SQLite store is written sqlite:PATH"),
    "a store in memory with more": ('store = "memory:x"', "written memory: and nothing after it"),
    "an unknown option of a file": (
        'store = "sqlite:chat.db?sync=off"',
        "store: the only option of a SQLite store is ?synchronous=full",
    ),
    "an unknown option of a database": (
        'store = "postgresql://u@h/d?nonsense=1"',
        "store: neither libpq nor the store has the option 'nonsense'",
    ),
    "an unknown option of an engine": (
        'store = "redis://h?nonsense=1"',
        "store: a Valkey or Redis store has no option 'nonsense'",
    ),
    "an engine's database that is none": ('store = "redis://h/x"', "is the number of a database"),
    "a password and a file with one": (
        'store = "redis://:secret@h?password_file={folder}/text"',
        "store: the URL of the store has a password, and password_file as well",
    ),
    "a password's file that is not there": (
        'store = "redis://h?password_file={folder}/none"',
        "store: password_file: {folder}/none: No such file or directory",
    ),
    "a password's file of many lines": (
        'store = "redis://h?password_file={folder}/text"',
        "text: it does not hold one line with a password",
    ),
    "a store of a kind that there is not": ('store = "mysql://h/d"', "expected the URL of a store"),
    "a password that was masked": (
        'store = "postgresql://u:***@h/d"',
        "store: *** is what is shown of a password",
    ),
    "a folder that is not there": (
        'store = "sqlite:{folder}/none/chat.db"',
        "there is no folder {folder}/none; make it first",
    ),
    "a folder in the place of a file": ('store = "sqlite:{folder}"', "it is not a file"),
    "a file that is no database": ('store = "sqlite:{folder}/text"', "file is not a database"),
    "a database of something else": (
        'store = "sqlite:{folder}/other.db"',
        "is a SQLite database, but not a store of twinline",
    ),
    "a file of a later program": ('store = "sqlite:{folder}/later.db"', "has schema version 99"),
    "an unknown option of an endpoint": (
        f'listen = "{SHORT}?nonsense=1"',
        "listen: '{place}?nonsense=1': unknown option nonsense".replace("{place}", SHORT),
    ),
    "the same endpoint twice": (
        'listen = ["tcp://127.0.0.1:7001", "tcp://127.0.0.1:7001?transport=binary"]',
        "listen: it has tcp://127.0.0.1:7001 twice",
    ),
    "an address and all of them": (
        'insecure = true\nlisten = ["tcp://0.0.0.0:7001", "tcp://127.0.0.1:7001"]',
        "listen: it has tcp://0.0.0.0:7001 and tcp://127.0.0.1:7001, which are the same port",
    ),
    "all addresses of both families": (
        'insecure = true\nlisten = ["ws://127.0.0.1:7001", "tcp://[::]:7001"]',
        "ws://127.0.0.1:7001 and tcp://[::]:7001, which are the same port",
    ),
    "a name and its address": (
        'listen = ["tcp://localhost:7001", "tcp://[::1]:7001"]',
        "tcp://localhost:7001 and tcp://[::1]:7001, which are the same port",
    ),
    "a socket's path twice": (
        'listen = ["unix:{folder}/s", "unix:{folder}/./s"]',
        "unix:{folder}/s and unix:{folder}/./s, which are the same",
    ),
    "a socket where there is no folder": (
        'listen = "unix:{folder}/none/s"',
        "listen: unix:{folder}/none/s: there is no folder {folder}/none",
    ),
    "a socket in the place of a file": ('listen = "unix:{folder}/text"', "is no socket"),
    "a socket's path that is too long": (f'listen = "unix:/{"p" * 120}"', "has at most 10"),
    "a transport that does not travel so": (
        'listen = "ws://127.0.0.1:0?transport=msgpack"',
        "there is no transport 'msgpack'",
    ),
    "a frame that is shorter than a body": (
        "body_bytes = 8000\nframe_bytes = 8100",
        "frame_bytes: a message of 8,000 bytes, the most that body_bytes allows, takes a frame",
    ),
    "a user that is no username": ('user = "Ann Smith"', "user: 'Ann Smith' is no username"),
    "nodes that cannot share a file": (
        'nodes = 2\nstore = "sqlite:chat.db"',
        "2 nodes need a store that servers can share",
    ),
    "proxies of which none is trusted": (
        f'listen = "{SHORT}?proxy=yes"',
        "proxy=yes needs trusted_proxies",
    ),
    "plain text for others to read": ('listen = "tcp://0.0.0.0:0"', "is plain TCP beyond"),
    "an unknown key": ("body_byte = 1", "unknown setting body_byte; did you mean body_bytes?"),
    "a table": ("[server]\nlog_levl = 1", "[server]: the file has keys and no tables; write log_l"),
    "a table in a table": ("[a.b]\nbody_bytes = 1", "[a]: the file has keys and no tables; write"),
    "an empty table": ("[server]", "[server]: the file has keys and no tables; remove it"),
    "a list of tables": ("[[server]]\nnodes = 2", "write nodes = ... at the top level, without [["),
    "what is no TOML": ("listen = ", "is not TOML"),
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with files that are no stores."""
    (tmp_path / "text").write_text("this is a letter, and no database at all\n" * 40)
    for name, pragma in (
        ("other.db", "CREATE TABLE others (x)"),
        ("later.db", f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 99"),
    ):
        with closing(sqlite3.connect(tmp_path / name)) as connection:
            connection.executescript(pragma)
            connection.execute("VACUUM")
    return tmp_path


@pytest.mark.parametrize("what", REFUSED)
def test_both_commands_refuse(broken: Path, what: str) -> None:
    text, words = (each.replace("{folder}", str(broken)) for each in REFUSED[what])
    file = broken / "twinline.toml"
    file.write_text(text)
    there = sorted(broken.iterdir())
    by_check, by_serve = (
        twinline(*command, str(file)) for command in (("config", "check"), ("serve", "--config"))
    )
    assert words in by_check.stderr
    assert (by_check.exit_code, by_check.stdout) == (2, "")
    assert (by_serve.exit_code, by_serve.stdout, by_serve.stderr) == (2, "", by_check.stderr)
    assert by_check.stderr.count("\n") == 1
    assert sorted(broken.iterdir()) == there, "nothing is made"


def test_a_driver_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("twinline.stores.postgresql")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    found = refused(tmp_path, SHORT, store="postgresql://h/d")
    assert "store: a store in PostgreSQL needs psycopg: pip install 'twinline[postgresql]'" in found


def test_a_folder_that_may_not_be_written_is_refused() -> None:
    """For root, who may write everywhere, by a process of another user."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from twinline.stores.sqlite.looking import check_place\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "check_place(Path(sys.argv[1]))\n"
    )
    with TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer, "folder")
        folder.mkdir(0o555)
        for path, words in (
            (folder / "chat.db", f"nothing may be written in the folder {folder}"),
            (folder / "none" / "chat.db", f"there is no folder {folder}/none"),
        ):
            done = subprocess.run(
                [sys.executable, "-c", script, str(path)],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            assert words in done.stderr
        assert not list(folder.iterdir())


def test_what_is_in_a_folder_that_cannot_be_entered_is_refused_or_passed_over() -> None:
    """For root, who may enter every folder, by a process of another user."""
    script = (
        "import os, sys\n"
        "from twinline.cli.console.errors import SettingsError\n"
        "from twinline.cli.settings import checks, sources\n"
        "from twinline.cli.settings.model import Settings\n"
        "if os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        "print(sources.find_file(None))\n"
        "for path in sys.argv[1:]:\n"
        "    place = 'unix:' + path\n"
        "    settings = Settings(listen=(place,), admin_listen=place)\n"
        "    for check in (checks.check_sockets, checks.check_admin):\n"
        "        try: list(check(settings, settings.endpoints()))\n"
        "        except SettingsError as error: print(error.exit_code, error)\n"
    )
    with TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        folder = Path(outer, "folder")
        folder.mkdir(0o700 if os.geteuid() == 0 else 0)
        places = {
            str(folder / "socket"): folder / "socket",
            str(folder / "no" / "s"): folder / "no",
        }
        done = subprocess.run(
            [sys.executable, "-c", script, *places],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=outer,
            env={**os.environ, "XDG_CONFIG_HOME": str(folder)},
        )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "None",
        *(
            f"2 {named}: {at}: Permission denied"
            for path, at in places.items()
            for named in (f"listen: unix:{path}", "admin_listen")
        ),
    ]


def test_a_store_that_is_away_and_a_port_that_is_taken_are_no_wrong_settings(
    tmp_path: Path,
) -> None:
    """They may pass by themselves, so their exit code is another: systemd is to try again."""
    assert checked(tmp_path, store="redis://127.0.0.1:1", listen=SHORT).exit_code == 0
    away = twinline("serve", "--config", str(tmp_path / "twinline.toml"))
    assert (away.exit_code, away.stdout) == (1, "")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        place = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        assert checked(tmp_path, listen=place).exit_code == 0
        found = twinline("serve", "--config", str(tmp_path / "twinline.toml"))
        assert (found.exit_code, "Address already in use" in found.stderr) == (1, True)


WRONG = ["", "\x00", -1, 10**30, 1.5, True, "no such thing", ["no such thing"], {"a": 1}]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_wrong_value_is_refused_by_both_in_the_same_words(tmp_path: Path, name: str) -> None:
    """Each setting with some values that are mostly wrong: whatever one refuses the other does."""
    file = tmp_path / "twinline.toml"
    wrong = 0
    for value in WRONG:
        shown = "{ a = 1 }" if isinstance(value, dict) else json.dumps(value)
        file.write_text(f"{name} = {shown}\n")
        by_check = twinline("config", "check", str(file))
        assert by_check.exit_code in (0, 2), by_check.stderr
        if by_check.exit_code:
            wrong += 1
            by_serve = twinline("serve", "--config", str(file))
            assert (by_serve.exit_code, by_serve.stderr) == (2, by_check.stderr)
            assert str(file) in by_check.stderr or f"{name}: " in by_check.stderr
    assert wrong >= 3, f"{name} may be nearly anything"


def test_the_flags_of_the_server_are_checked_too(tmp_path: Path) -> None:
    listen = ("--listen", "tls://127.0.0.1:0")
    assert "needs a certificate" in checked(tmp_path, *listen, log_level="info").stderr
    assert checked(tmp_path, *listen, "--store", "sqlite:", log_level="info").exit_code == 2


def test_a_password_may_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("correct horse\n")
    target = parse_url(f"rediss://ann@h?password_file={tmp_path}/secret")
    assert (target.username, target.password) == ("ann", "correct horse")
    assert "horse" not in repr(target)
    assert parse_url("redis://ann:correct%20horse@h").password == "correct horse"
