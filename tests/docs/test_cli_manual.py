"""The manual page and docs/cli.md: made from the commands, up to date, sound, and in the wheel."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import cli_page
import click
import man_page
import pytest
from cli_tree import command_of, every_command

from twinline.cli.console.exit_codes import ExitCode

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "man" / "twinline.1").read_text(encoding="utf-8")
CLI_PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")


def test_the_manual_is_up_to_date() -> None:
    assert man_page.page() == PAGE, "run: python docs/_generate"


def test_the_reference_is_up_to_date() -> None:
    assert cli_page.inserted(CLI_PAGE) == CLI_PAGE, "run: python docs/_generate"


def test_a_page_without_its_markers_is_noticed() -> None:
    with pytest.raises(ValueError, match="place for commands"):
        cli_page.inserted("# nothing\n")


@pytest.mark.parametrize("settings", [{"COLUMNS": "40"}, {"COLUMNS": "300", "TZ": "Asia/Tokyo"}])
def test_the_manual_does_not_depend_on_where_it_is_made(settings: dict[str, str]) -> None:
    code = "import man_page; print(man_page.page(), end='')"
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(man_page.__file__).parent,
        env={"PATH": "", "TWINLINE_STORE": "sqlite:x", "PYTHONIOENCODING": "utf-8", **settings},
        capture_output=True,
        check=True,
        timeout=50,
    )
    assert made.stdout.decode() == PAGE


def test_the_exit_codes_stand_in_one_table() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", CLI_PAGE, re.MULTILINE)
    assert [(int(code), words.replace("\\|", "|")) for code, words in rows] == [
        (int(code), code.meaning) for code in ExitCode
    ]
    section = PAGE.partition(".SH EXIT STATUS")[2].partition(".SH")[0]
    assert re.findall(r"\\fB(\d+)\\fR", section) == [str(int(code)) for code in ExitCode]


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_option_stands_in_both(words: tuple[str, ...]) -> None:
    documented = CLI_PAGE + (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for parameter in command_of(words).params:
        if isinstance(parameter, click.Option):
            for name in parameter.opts:
                assert name in documented
                assert name.replace("-", r"\-") in PAGE


def test_what_roff_would_read_is_escaped() -> None:
    escaped = man_page._escaped
    assert escaped("--x 'y' \\z") == r"\-\-x \(aqy\(aq \ez"
    assert escaped(".TH") == r"\&.TH"
    assert escaped('a "b"') == r"a \(dqb\(dq"
    for line in PAGE.splitlines():
        if line.startswith((".", "'")):
            assert re.match(r"\.(\\\"|TH|SH|SS|PP|TP|RS|RE|nf|fi|nh|ad|B|BR)( |$)", line), line


@pytest.mark.skipif(not shutil.which("groff"), reason="there is no groff here")
def test_groff_reads_it_without_a_warning() -> None:
    read = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou"],
        input=PAGE,
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert read.stderr == ""
    text = " ".join(read.stdout.split())
    assert "twinline watch [OPTIONS]" in text
    assert """twinline watch --exec 'twinline send "$TWINLINE_SENDER" "I got it"'""" in text


@pytest.mark.skipif(not shutil.which("mandoc"), reason="there is no mandoc here")
def test_mandoc_finds_nothing_wrong() -> None:
    found = subprocess.run(
        ["mandoc", "-Tlint", "-Werror"],
        input=PAGE,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_it_is_shipped() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    files = settings["tool"]["setuptools"]["data-files"]
    assert files == {"share/man/man1": ["docs/man/twinline.1"]}
    distribution = metadata.distribution("twinline")
    if "__editable__" in " ".join(map(str, distribution.files or ())):
        pytest.skip("an editable install has no manual page; tox installs the wheel")
    (installed,) = (each for each in distribution.files or () if each.name == "twinline.1")
    assert Path(str(installed.locate())).read_text(encoding="utf-8") == PAGE
