"""The bar on stderr: written over on a terminal, and nothing anywhere else."""

import io
import sys

import pytest

from twinline.cli.console.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let stderr be a terminal; in a test's body, for the runner puts its own there before."""
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("COLUMNS", "60")
    return shown


@pytest.mark.parametrize(
    ("share", "filled"), [(0.0, 0), (0.5, 15), (1.0, 30), (-1.0, 0), (7.0, 30)]
)
def test_the_bar_is_as_long_as_the_share(
    monkeypatch: pytest.MonkeyPatch, share: float, filled: int
) -> None:
    terminal = on_a_terminal(monkeypatch)
    Progress().show(share, "half")
    assert terminal.getvalue() == f"\r\x1b[K[{'#' * filled}{'.' * (30 - filled)}] half"


def test_a_line_never_wraps_and_is_wiped_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = on_a_terminal(monkeypatch)
    progress = Progress()
    progress.say("x" * 100)
    progress.end()
    assert terminal.getvalue() == f"\r\x1b[K{'x' * 59}\r\x1b[K"


def test_nothing_is_shown_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress()
    progress.show(0.5, "half")
    progress.end()
    assert capsys.readouterr().err == ""
