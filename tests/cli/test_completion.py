"""Completion: the scripts in their shells, what is completed, and how little it may disturb."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from admin_server import administered
from cli_server import CommandLine, running_server
from cli_tree import every_command
from click.testing import CliRunner
from services import PASSWORD
from waiting import join

from twinline.cli.commands import PLACES
from twinline.cli.completion.shells import SHELLS
from twinline.cli.main import main
from twinline.core.protocol import AccountsReply
from twinline.transports.client import Client
from twinline.transports.client.backends.threads import ThreadBackend
from twinline.transports.client.engine.connection import Connection
from twinline.transports.registry import transport_names

SHELL_CHECKS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.fixture
def ann(tmp_path: Path) -> Iterator[CommandLine]:
    """Ann is logged in; andy, bob and carol have accounts."""
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        twinline.register("andy", "bob", "carol", "ann")
        yield twinline


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A directory with `twinline` in it, for a PATH: tests need not have it installed there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "twinline"
    file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m twinline.cli "$@"\n')
    file.chmod(0o755)
    return folder


def asked(twinline: CommandLine, shell: str, *words: str) -> list[str]:
    """Ask as a shell's script does, by its variables, and return the lines of the answer."""
    line = " ".join(("twinline", *words))
    given = {
        "bash": {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_WORDBREAKS": " \n=:"},
        "zsh": {"COMP_WORDS": line, "COMP_CWORD": str(len(words))},
        "fish": {"COMP_WORDS": line, "COMP_CWORD": words[-1]},
    }
    result = CliRunner().invoke(
        main,
        [],
        env={**twinline.environment, **given[shell], "_TWINLINE_COMPLETE": f"{shell}_complete"},
    )
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.splitlines()


def values(twinline: CommandLine, *words: str) -> list[str]:
    return [line.partition(",")[2] for line in asked(twinline, "bash", *words)]


# -- what is completed ------------------------------------------------------------------


def test_settings_to_explain(ann: CommandLine) -> None:
    assert values(ann, "config", "explain", "tls_c") == [
        "tls_certificate",
        "tls_client_ca",
        "tls_crl",
    ]


def test_commands_and_options(ann: CommandLine) -> None:
    assert values(ann, "") == list(PLACES)
    assert values(ann, "s") == ["serve", "status", "send", "store"]
    assert values(ann, "--debug", "sta") == ["status"]
    assert values(ann, "store", "") == [
        "add-account",
        "backup",
        "check",
        "copy",
        "migrate",
        "restore",
        "stats",
    ]
    assert values(ann, "watch", "--ex") == ["--exec"]
    assert values(ann, "serve", "--log-l") == ["--log-level"]
    assert values(ann, "--ver") == ["--version"]


def test_values_of_options(ann: CommandLine) -> None:
    assert values(ann, "watch", "--on-failure", "") == ["stop", "retry"]
    assert values(ann, "serve", "--log-level", "") == ["debug", "info", "warning", "error"]
    assert values(ann, "send", "--transport", "") == transport_names()
    assert values(ann, "bench", "--transport", "b") == ["binary"]
    assert values(ann, "serve", "--store", "s") == ["sqlite:"]
    assert values(ann, "completion", "") == ["bash", "zsh", "fish"]
    assert asked(ann, "bash", "status", "--config", "") == ["file,"]
    assert asked(ann, "bash", "login", "--password-file", "") == ["file,"]
    assert asked(ann, "bash", "store", "check", "") == ["file,"]


def test_usernames_of_the_server_and_of_the_kept_sessions(ann: CommandLine) -> None:
    assert values(ann, "send", "") == ["andy", "ann", "bob", "carol"]
    for words in (["send", "an"], ["chat", "an"], ["accounts", "an"]):
        assert values(ann, *words) == ["andy", "ann"]
    assert values(ann, "send", "--json", "--user", "bob", "c") == ["carol"]
    # The text of a message is nobody's name.
    assert values(ann, "send", "bob", "an") == []
    assert values(ann, "send", "*") == []
    assert values(ann, "status", "--user", "c") == ["carol"]
    assert values(ann, "login", "an") == ["andy", "ann"]
    ann.run("logout", "--user", "carol")
    assert values(ann, "status", "--user", "c") == []


def test_bash_replaces_only_what_follows_a_colon(ann: CommandLine) -> None:
    port = ann.place.rpartition(":")[2]
    assert f"tcp://127.0.0.1:{port}" in values(ann, "send", "--connect", "t")
    assert f"//127.0.0.1:{port}" in values(ann, "send", "--connect", "tcp:/")
    assert f"//127.0.0.1:{port}" in values(ann, "send", "--connect=tcp:/")
    assert f"tcp://127.0.0.1:{port}" in values(ann, "send", "--connect=t")
    assert port in values(ann, "send", "--connect", f"tcp://127.0.0.1:{port[:2]}")


@pytest.mark.parametrize(("shell", "end"), [("zsh", "\n_"), ("fish", "")])
def test_the_other_shells_get_the_same(ann: CommandLine, shell: str, end: str) -> None:
    text = "\n".join(asked(ann, shell, "send", "an"))
    names = [line for line in text.replace("plain,", "plain\n").splitlines() if line != "plain"]
    assert [name for name in names if name != "_"] == ["andy", "ann"]
    commands = "\n".join(asked(ann, shell, "sta"))
    assert "status" in commands
    assert "Show who is logged in" in commands


# -- nothing but silence where there is nothing -----------------------------------------


def test_no_session_or_no_server_is_no_name_and_no_word(tmp_path: Path) -> None:
    nobody = CommandLine(tmp_path, "tcp://127.0.0.1:1")
    assert asked(nobody, "bash", "send", "") == []
    with running_server() as endpoint:
        twinline = CommandLine(tmp_path, endpoint)
        assert values(twinline, "send", "") == []
        twinline.register("ann")
        assert values(twinline, "send", "") == ["ann"]
    assert values(twinline, "send", "") == []


def test_nonsense_is_no_word_either(ann: CommandLine) -> None:
    for words in (
        ["sned", ""],
        ["send", "--connect", "nonsense", "a"],
        ["send", "--timeout", "x", "a"],
        ["send", "'unfinished"],
    ):
        assert asked(ann, "bash", *words) == []
    ann.session_file.write_text("damaged")
    assert asked(ann, "bash", "send", "a") == []
    assert asked(ann, "bash", "status", "--user", "") == []


@pytest.mark.parametrize("instruction", ["bash_complete", "bash_dance", "tcsh_complete", ""])
def test_a_shell_that_asks_wrongly_gets_exit_code_1(tmp_path: Path, instruction: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "twinline.cli"],
        env={**os.environ, "_TWINLINE_COMPLETE": instruction, "COMP_POINT": "x"},
        capture_output=True,
        timeout=50,
        check=False,
    )
    assert (result.returncode, result.stdout, result.stderr) == (1, b"", b"")


def test_a_server_that_never_answers_is_not_waited_for_long(
    ann: CommandLine, tmp_path: Path
) -> None:
    """Beside the server that answers: what is measured is what the other one costs more."""

    def seconds() -> float:
        begin = time.monotonic()
        asked(ann, "bash", "send", "--connect", place, "a")
        return time.monotonic() - begin

    place = f"unix:{tmp_path}/s"
    with running_server(place):
        ann.run("register", "ann", "--connect", place)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{tmp_path}/s")
        mute.listen()
        silent = min(seconds() for _ in range(3))
    gone = min(seconds() for _ in range(3))
    assert silent - gone < 0.5 + 2.5  # the rest is for a loaded machine; a reply has 10 s else


def test_an_attempt_to_connect_that_takes_long_is_not_waited_for(
    ann: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, asking, gave_up = threading.Event(), threading.Event(), threading.Event()

    async def connect(*_arguments: object) -> Connection:
        asking.set()
        if not found.wait(20):
            gave_up.set()
        raise ConnectionRefusedError

    monkeypatch.setattr(ThreadBackend, "connect", connect)
    try:
        assert values(ann, "send", "a") == []
        assert asking.is_set()
        assert not gave_up.is_set()
    finally:
        found.set()
        for thread in threading.enumerate():
            if thread.name == "completion":
                join(thread)


def test_a_name_that_no_account_can_have_never_reaches_the_shell(
    ann: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = AccountsReply(usernames=("ann", "a;rm", "a\nfile,x", "A"), more=False)
    monkeypatch.setattr(Client, "list_accounts", lambda *_arguments, **_how: bad)
    assert values(ann, "send", "a") == ["ann"]


def test_an_operator_is_shown_the_accounts_of_the_server(tmp_path: Path) -> None:
    with administered() as served:
        for name in ("ann", "anna", "bob"):
            served.server.service.add_account(name, PASSWORD)
        operator = CommandLine(tmp_path, "tcp://127.0.0.1:1")
        assert values(operator, "admin", "kick", "a") == []
        operator.environment["TWINLINE_ADMIN_LISTEN"] = served.place
        assert values(operator, "admin", "kick", "An") == []  # what is typed goes on as it is
        assert values(operator, "admin", "kick", "an") == ["ann", "anna"]
        assert values(operator, "admin", "log-level", "w") == ["warning"]


def test_what_a_tab_imports_is_little() -> None:
    """Names of commands need none of the models; only so they come in a tenth of a second."""
    code = (
        "import os, sys\n"
        "os.environ.update(_TWINLINE_COMPLETE='bash_complete', COMP_LINE='twinline s', "
        "COMP_POINT='10')\n"
        "from twinline.cli.main import main\n"
        "try:\n    main(prog_name='twinline')\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=True
    )
    assert "plain,send" in result.stdout
    modules = set(result.stdout.splitlines()[-1].split())
    assert "twinline.cli.completion.shells" in modules
    assert not {"pydantic", "asyncio", "sqlite3", "twinline.transports", "argon2"} & modules


# -- the scripts in their shells --------------------------------------------------------


@pytest.mark.terminal
@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_sound(ann: CommandLine, shell: str) -> None:
    script = ann.run("completion", shell).stdout
    assert "_TWINLINE_COMPLETE" in script
    assert ann.json("completion", shell) == [{"shell": shell, "script": script}]
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here to read it")
    subprocess.run(SHELL_CHECKS[shell], input=script, text=True, check=True, timeout=50)


_IN_BASH = """
eval "$(twinline completion bash)"
complete -p twinline >&2
COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDBREAKS=$' \\n=:'
_twinline_completion twinline
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.terminal
@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("twinline sta", ["status"]),
        ("twinline send a", ["andy", "ann"]),
        ("twinline send --user b", ["bob"]),
        ("twinline send --transport j", ["jsonl"]),
        ("twinline store ch", ["check"]),
        ("twinline send bob ", []),
    ],
)
def test_bash_completes(ann: CommandLine, program: Path, line: str, words: list[str]) -> None:
    done = subprocess.run(
        ["bash", "--norc", "-c", _IN_BASH, "bash", line],
        env={**os.environ, **ann.environment, "PATH": f"{program}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.split() == words
    assert "-F _twinline_completion twinline" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.terminal
@pytest.mark.skipif(not shutil.which("fish"), reason="there is no fish here")
def test_fish_completes(ann: CommandLine, program: Path) -> None:
    done = subprocess.run(
        ["fish", "-c", 'twinline completion fish | source; complete -C "twinline send a"'],
        env={**os.environ, **ann.environment, "PATH": f"{program}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout.split() == ["andy", "ann"]


def test_every_command_can_be_reached(ann: CommandLine) -> None:
    for *above, name in filter(None, every_command()):
        assert name in values(ann, *above, name)
