"""What is installed is read once, until something else is."""

import os
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from twinline.core.plugins import entry_points

GROUP = "twinline.tests"


def install(name: str, folder: Path) -> Path:
    """Install a package that offers its own name; return what tells of it."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = somewhere:something\n")
    return info


def later(folder: Path, seconds: int) -> None:
    """Let a folder have changed then: two changes at once may have one time."""
    os.utime(folder, (seconds, seconds))


def names() -> set[str]:
    return set(entry_points(group=GROUP).names)


def test_what_is_installed_or_removed_while_a_process_runs_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    later(tmp_path, 1)
    assert names() == set()
    first = install("first", tmp_path)
    later(tmp_path, 2)
    assert names() == {"first"}
    install("second", tmp_path)
    shutil.rmtree(first)
    later(tmp_path, 3)
    assert names() == {"second"}


def test_a_folder_that_comes_onto_the_path_or_into_being_is_looked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names() == set()
    folder = tmp_path / "packages"
    monkeypatch.syspath_prepend(folder)
    assert names() == set()
    folder.mkdir()
    install("late", folder)
    assert names() == {"late"}


def test_nothing_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    built_in = set(entry_points(group="console_scripts"))
    monkeypatch.setattr(metadata, "entry_points", None)
    assert set(entry_points(group="console_scripts")) == built_in != set()
