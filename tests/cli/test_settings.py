"""The settings: one model behind the file, the environment, the flags and the documentation."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import ValidationError
from settings_page import inserted

from twinline.cli.console.errors import SettingsError
from twinline.cli.main import main
from twinline.cli.settings.model import (
    GROUPS,
    ClientCommandSettings,
    Settings,
    refuse_exposure,
)
from twinline.cli.settings.sources import load, variable_name
from twinline.core.settings import ServiceSettings
from twinline.core.store import MailboxPolicy
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import ListenerSettings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to stand in, and no settings from outside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for variable in (*map(variable_name, Settings.model_fields), "TWINLINE_CONFIG"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def twinline(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def shown(*arguments: str) -> dict[str, dict[str, object]]:
    result = twinline("config", "show", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    loaded: dict[str, dict[str, object]] = json.loads(result.stdout)
    return loaded


def test_every_setting_stands_in_one_group_and_has_a_description() -> None:
    names = [name for _, model in GROUPS for name in model.model_fields]
    assert sorted(names) == sorted(Settings.model_fields)
    assert len(set(names)) == len(names)
    assert all(field.description for field in Settings.model_fields.values())


def test_the_settings_serve_as_each_of_their_parts() -> None:
    settings = Settings()
    for part in (ServiceSettings, MailboxPolicy, ListenerSettings):
        assert isinstance(settings, part)
        assert settings.model_dump(include=set(part.model_fields)) == part().model_dump()


def test_flags_win_over_environment_over_file_over_defaults(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown()["body_bytes"] == {"value": 16384, "source": "default"}
    (nowhere / "twinline.toml").write_text("body_bytes = 1\nconnections = 7\n")
    assert shown()["body_bytes"] == {"value": 1, "source": "file twinline.toml"}
    monkeypatch.setenv("TWINLINE_BODY_BYTES", "2")
    assert shown()["body_bytes"] == {"value": 2, "source": "environment TWINLINE_BODY_BYTES"}
    assert shown("--body-bytes", "3")["body_bytes"] == {"value": 3, "source": "flag --body-bytes"}
    assert shown("--body-bytes", "3")["connections"]["value"] == 7


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLINE_BODY_BYTES", "")
    assert shown()["body_bytes"]["source"] == "default"


def test_the_file_is_the_named_one_else_the_one_here_else_the_users(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = nowhere / "config" / "twinline" / "twinline.toml"
    users.parent.mkdir(parents=True)
    users.write_text("connections = 1")
    assert load().settings.connections == 1
    (nowhere / "twinline.toml").write_text("connections = 2")
    assert load().settings.connections == 2
    (nowhere / "variable.toml").write_text("connections = 3")
    monkeypatch.setenv("TWINLINE_CONFIG", str(nowhere / "variable.toml"))
    assert load().settings.connections == 3
    (nowhere / "flag.toml").write_text("connections = 4")
    assert shown("--config", "flag.toml")["connections"]["value"] == 4


def test_a_named_file_must_exist() -> None:
    result = twinline("config", "show", "--config", "missing.toml")
    assert result.exit_code == 2
    assert result.stderr == (
        "twinline: cannot read the settings file missing.toml: No such file or directory\n"
    )


def test_several_endpoints_by_each_source(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = ["tcp://127.0.0.1:1", "unix:/tmp/x?transport=binary"]
    (nowhere / "twinline.toml").write_text(f"listen = {json.dumps(two)}")
    assert shown()["listen"]["value"] == two
    monkeypatch.setenv("TWINLINE_LISTEN", "tcp://127.0.0.1:2, tcp://127.0.0.1:3")
    assert shown()["listen"]["value"] == ["tcp://127.0.0.1:2", "tcp://127.0.0.1:3"]
    assert shown("--listen", two[0], "--listen", two[1])["listen"]["value"] == two
    (endpoint, spoken), (_, other) = load({"listen": two}).settings.endpoints()
    assert (str(endpoint), spoken.name, other.name) == (two[0], "auto", "binary")


def test_several_servers_by_each_source(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = ["tls://a.example", "wss://b.example/chat"]
    (nowhere / "twinline.toml").write_text(f"connect = {json.dumps(two)}")
    assert shown()["connect"]["value"] == two
    (nowhere / "twinline.toml").write_text("connect = 'unix:/run/a, b'")
    assert shown()["connect"]["value"] == ["unix:/run/a, b"]
    monkeypatch.setenv("TWINLINE_CONNECT", " tls://a.example,unix:/run/a b  TCP://[::1]:2 ")
    assert shown()["connect"]["value"] == ["tls://a.example", "unix:/run/a b", "TCP://[::1]:2"]
    assert shown("--connect", two[0], "--connect", two[1])["connect"]["value"] == two
    monkeypatch.setenv("TWINLINE_CONNECT", "tcp://127.0.0.1:1 nonsense")
    refused = twinline("config", "show")
    assert refused.exit_code == 2
    assert "environment TWINLINE_CONNECT: connect: " in refused.stderr


def test_a_pipe_is_no_settings_file(nowhere: Path) -> None:
    os.mkfifo(nowhere / "pipe")
    result = twinline("serve", "--config", "pipe")
    assert result.exit_code == 2
    assert "the settings file pipe is a pipe" in result.stderr


def test_what_was_loaded_shows_no_password_of_a_store() -> None:
    loaded = load({"store": "postgresql://ann:hunter2@h/d"})
    assert "hunter2" not in repr(loaded)
    with pytest.raises(ValidationError) as refused:
        Settings(**{**loaded.settings.model_dump(), "store": ("redis://:hunter2@h",)})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "body_byte = 1",
            "file twinline.toml: unknown setting body_byte; did you mean body_bytes?",
        ),
        ("log-level = 'info'", "unknown setting log-level; did you mean log_level?"),
        ("zzzzzzz = 1", "unknown setting zzzzzzz; 'twinline config show' lists all"),
        (
            "body_bytes = 'many'",
            "file twinline.toml: body_bytes: expected a whole number, at least",
        ),
        ("body_bytes = true", "body_bytes: expected a whole number"),
        ("body_bytes = 1.5", "body_bytes: expected a whole number"),
        ("drain_seconds = -1", "drain_seconds: expected a number, at least 0"),
        ("login_seconds = 0", "login_seconds: expected a number, above 0"),
        ("login_seconds = inf", "login_seconds: expected a number"),
        ("login_seconds = nan", "login_seconds: expected a number"),
        ("insecure = 'perhaps'", "insecure: expected true or false"),
        ("log_level = 'loud'", "log_level: expected one of debug, info, warning, error"),
        ("listen = []", "listen: expected one or more endpoints"),
        ("listen = 'nowhere'", "listen: 'nowhere' is not an endpoint: use tcp://host:port, tls"),
        ("connect = 'tcp://h:1?transport=jsnl'", "connect: there is no transport 'jsnl'; did you"),
        ("transport = 'binry'", "transport: there is no transport 'binry'; did you mean binary?"),
        ("store = 'nothing:'", "store: expected the URL of a store, which begins with one of"),
        (
            "[server]\nlisten = 1",
            "[server]: the file has keys and no tables; write listen = ... at the",
        ),
        ("listen = ", "the settings file twinline.toml is not TOML: "),
        (f"log_queue = {'1' * 5000}", "the settings file twinline.toml is not TOML: Exceeds the"),
        (f"listen = {'[' * 50_000}", "the settings file twinline.toml nests too deep"),
    ],
)
def test_a_wrong_file_is_one_clear_line(nowhere: Path, text: str, complaint: str) -> None:
    (nowhere / "twinline.toml").write_text(text)
    for command in (("config", "show"), ("config", "check"), ("serve",), ("ping",)):
        result = twinline(*command)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert result.stderr.startswith("twinline: ")
        assert result.stderr.count("\n") == 1
        assert complaint in result.stderr


def test_the_source_of_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "flag --connections: connections: expected"
        in twinline("serve", "--connections", "x").stderr
    )
    assert (
        "flag --transport: client_transport: there is"
        in twinline("ping", "--transport", "x").stderr
    )
    monkeypatch.setenv("TWINLINE_CONNECTIONS", "many")
    assert "environment TWINLINE_CONNECTIONS: connections: expected" in twinline("serve").stderr


NO_TIMES = ("nan", "inf", "-1", "1e10")
WRONG_TIMES = [
    (name, value)
    for name, field in Settings.model_fields.items()
    if field.annotation is float
    for value in NO_TIMES
    if (name, value) != ("sends_per_second", "1e10")  # a rate, for which no bound is too high
]


@pytest.mark.parametrize(("name", "value"), WRONG_TIMES)
def test_every_time_is_checked_in_every_source(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    with pytest.raises(SettingsError, match=name.replace("_", "-")):
        load({name: value})
    Path("twinline.toml").write_text(f"{name} = {value}\n")
    with pytest.raises(SettingsError, match=name):
        load()
    Path("twinline.toml").unlink()
    monkeypatch.setenv(variable_name(name), value)
    with pytest.raises(SettingsError, match=variable_name(name)):
        load()


@pytest.mark.parametrize(
    "endpoint",
    ["tcp://a..b", "tcp://" + "a" * 64, "tcp://xn--é", "tcp://x#y", "unix:/" + "p" * 200],
)
@pytest.mark.parametrize("name", ["listen", "connect"])
def test_every_endpoint_is_checked_where_it_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str, endpoint: str
) -> None:
    with pytest.raises(SettingsError, match=f"flag --{name}"):
        load({name: [endpoint] if name == "listen" else endpoint})
    monkeypatch.setenv(variable_name(name), endpoint)
    result = twinline("config", "show")
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1
    assert variable_name(name) in result.stderr


def test_a_client_does_not_connect_to_port_0() -> None:
    assert load({"listen": ["tcp://127.0.0.1:0"]}).settings.listen
    with pytest.raises(SettingsError, match="port 0 is for listening only"):
        load({"connect": "tcp://127.0.0.1:0"})


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [
        (*where, value)
        for where in (
            ("watch", "--timeout"),
            ("verify", "--duration"),
            ("verify", "--rate"),
            ("bench", "--seconds"),
            ("ping", "--timeout"),
        )
        for value in NO_TIMES
        if (*where, value) != ("verify", "--rate", "1e10")
    ],
)
def test_every_time_of_a_command_is_checked(command: str, option: str, value: str) -> None:
    result = twinline(command, option, value, "--connect", "tcp://127.0.0.1:1")
    assert result.exit_code == 2, result.output
    assert option in result.stderr


def test_a_variable_that_is_nearly_a_setting_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWINLINE_PASSWORD", "correct horse")
    assert shown()
    monkeypatch.setenv("TWINLINE_LOG_LEVL", "debug")
    said = (
        "twinline: environment: unknown setting TWINLINE_LOG_LEVL; "
        "did you mean TWINLINE_LOG_LEVEL?\n"
    )
    for command in (("config", "show"), ("serve",), ("ping",)):
        assert twinline(*command).stderr == said
    monkeypatch.delenv("TWINLINE_LOG_LEVL")
    monkeypatch.setenv("TWINLINE_TLS_CERT", "server.pem")
    assert "did you mean TWINLINE_TLS_CERTIFICATE?" in twinline("serve").stderr


def test_a_variable_that_is_like_no_setting_is_named_and_does_nothing(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / "twinline.toml").write_text("listen = 'tcp://127.0.0.1:0'\n")
    monkeypatch.setenv("TWINLINE_IMAGE", "latest")
    said = "warning: the variable TWINLINE_IMAGE is no setting, and does nothing\n"
    checked = twinline("config", "check")
    assert (checked.exit_code, said in checked.stderr) == (0, True)
    pinged = twinline("ping", "--connect", "tcp://127.0.0.1:1")
    assert (pinged.exit_code, said in pinged.stderr) == (4, True)
    assert shown()


OF_KUBERNETES = {
    "TWINLINE_SERVICE_HOST": "10.96.0.12",
    "TWINLINE_SERVICE_PORT": "7767",
    "TWINLINE_SERVICE_PORT_CHAT": "7767",
    "TWINLINE_PORT": "tcp://10.96.0.12:7767",
    "TWINLINE_PORT_7767_TCP": "tcp://10.96.0.12:7767",
    "TWINLINE_PORT_7767_TCP_PROTO": "tcp",
    "TWINLINE_PORT_7767_TCP_PORT": "7767",
    "TWINLINE_PORT_7767_TCP_ADDR": "10.96.0.12",
    "TWINLINE_METRICS_PORT_9464_TCP_ADDR": "10.96.0.13",
    "TWINLINE_METRICS_SERVICE_HOST": "10.96.0.13",
}


def test_what_kubernetes_tells_of_a_service_is_no_setting(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / "twinline.toml").write_text("listen = 'tcp://127.0.0.1:0'\n")
    for name, value in OF_KUBERNETES.items():
        monkeypatch.setenv(name, value)
    checked = twinline("config", "check")
    assert (checked.exit_code, checked.stderr) == (0, "twinline.toml is fine\n")


SECRETS = [
    ("postgresql://ann:hunter2@db/chat", "postgresql://ann:***@db/chat"),
    ("postgresql://ann:hunter2:@db,other/chat", "postgresql://ann:***@db,other/chat"),
    ("postgresql://db/chat?user=ann&password=hunter2&sslmode=require", None),
    ("postgresql://db/chat?sslpassword=hunter2", "postgresql://db/chat?sslpassword=***"),
    ("rediss://:hunter2@[::1]:6379/1?prefix=chat:", "rediss://:***@[::1]:6379/1?prefix=chat:"),
    ("redis+cluster://ann:hunter2@one:1,two:2", "redis+cluster://ann:***@one:1,two:2"),
]


@pytest.mark.parametrize(("url", "masked"), SECRETS)
def test_a_password_in_the_url_of_a_store_is_masked(
    nowhere: Path, url: str, masked: str | None
) -> None:
    masked = masked or url.replace("hunter2", "***")
    (nowhere / "twinline.toml").write_text(f"store = {json.dumps(url)}\n")
    assert shown()["store"] == {"value": masked, "source": "file twinline.toml"}
    for command in ("config show", "config explain store", "config explain store --json"):
        result = twinline(*command.split())
        assert masked in result.stdout
        assert "hunter2" not in result.output
    # What was shown is taken for no password.
    (nowhere / "twinline.toml").write_text(f"store = {json.dumps(masked)}\n")
    refused = twinline("serve")
    assert refused.exit_code == 2
    assert "*** is what is shown of a password" in refused.stderr


def test_other_urls_of_stores_are_shown_as_they_are() -> None:
    for url in ("memory:", "sqlite:a@b:c.db", "redis://h:1/2", "postgresql://ann@h/d?passfile=/p"):
        assert shown("--store", url)["store"]["value"] == url


def test_a_setting_is_explained(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "twinline.toml").write_text(
        'listen = [\n  "tcp://127.0.0.1:1",  # body_bytes = 3\n]\n\n"body_bytes" = 4096\n'
    )
    assert twinline("config", "explain", "body_bytes").stdout == (
        "body_bytes = 4096\n"
        "from     file twinline.toml, line 5\n"
        "what     The longest message body, in bytes of UTF-8.\n"
        "value    a whole number, at least 1, at most 65,536\n"
        "default  16384\n"
        "reload   applied by a reload\n"
        "set by   --body-bytes, TWINLINE_BODY_BYTES, or body_bytes in the settings file\n"
    )
    explained = json.loads(twinline("config", "explain", "TWINLINE_LISTEN", "--json").stdout)
    assert (explained["key"], explained["line"]) == ("listen", 1)
    assert explained["reload"] == "needs a restart"
    monkeypatch.setenv("TWINLINE_BODY_BYTES", "5")
    by_variable = json.loads(twinline("config", "explain", "body_bytes", "--json").stdout)
    assert (by_variable["source"], by_variable["line"]) == ("environment TWINLINE_BODY_BYTES", None)
    by_flag = twinline("config", "explain", "--body-bytes", "6", "--", "--body-bytes").stdout
    assert "from     flag --body-bytes\n" in by_flag
    assert "from     default\n" in twinline("config", "explain", "user").stdout


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_can_be_explained(name: str) -> None:
    result = twinline("config", "explain", name)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{name} = ")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


def test_the_nearest_setting_is_named() -> None:
    result = twinline("config", "explain", "bodybytes")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no setting bodybytes; did you mean body_bytes?" in result.stderr


def test_a_value_that_may_be_secret_is_not_repeated(nowhere: Path) -> None:
    (nowhere / "twinline.toml").write_text("store = 'nothing://ann:hunter2@host'")
    assert "hunter2" not in twinline("serve").stderr


def test_config_show_prints_a_settings_file(nowhere: Path) -> None:
    odd = 'unix:/tmp/"quoted"\\\u00e9\U0001f600\x7f'
    result = twinline("config", "show", "--listen", odd, "--user", "ann", "--insecure")
    assert "insecure = true  # flag --insecure\n" in result.stdout
    values = tomllib.loads(result.stdout)
    assert values["listen"] == [odd]
    (nowhere / "twinline.toml").write_text(result.stdout)
    assert load().settings.user == "ann"


def test_config_check_names_the_file_it_checked(nowhere: Path) -> None:
    assert twinline("config", "check").exit_code == 2
    (nowhere / "other.toml").write_text("insecure = true")
    result = twinline("config", "check", "other.toml")
    assert (result.exit_code, result.stderr) == (0, "other.toml is fine\n")


@pytest.mark.parametrize("command", ["serve", "config show"])
def test_every_setting_has_a_flag_that_tells_its_meaning_and_default(command: str) -> None:
    text = " ".join(twinline(*command.split(), "--help-all").stdout.split())
    client = set(ClientCommandSettings.model_fields)
    for name, field in Settings.model_fields.items():
        if command == "serve" and name in client:
            continue
        assert f"--{name.replace('_', '-')} " in text
        description = " ".join((field.description or "").replace("`", "").split())
        assert description[1:].rstrip(".") in text
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"[default: {field.default}]" in text


@pytest.mark.parametrize("place", ["tcp://0.0.0.0:1", "tcp://example.org:1", "tcp://[::]:1"])
def test_plain_tcp_beyond_this_machine_needs_a_word(place: str) -> None:
    with pytest.raises(SettingsError, match="others on the way could read passwords"):
        refuse_exposure(Settings(), [Endpoint.parse(place)])
    refuse_exposure(Settings(insecure=True), [Endpoint.parse(place)])
    assert twinline("serve", "--listen", place).exit_code == 2
    assert twinline("ping", "--connect", place).exit_code == 2


def test_this_machine_needs_none() -> None:
    for place in ("tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1", "unix:/tmp/x"):
        refuse_exposure(Settings(), [Endpoint.parse(place)])


def test_the_documentation_has_the_settings_as_they_are() -> None:
    document = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert inserted(document) == document, "out of date: python docs/_generate"
