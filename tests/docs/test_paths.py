"""The documents and the settings name files that there are, and the map of the house is whole."""

import re

from docs_blocks import ROOT, blocks_of, pages

PACKAGES = ("core", "transports", "stores", "cli")
NAMING = [
    *pages(),
    *(
        ROOT / name
        for name in (
            "CHANGELOG.md",
            "pyproject.toml",
            "tox.ini",
            ".ci/run",
            ".ci/package",
            ".github/workflows/ci.yml",
        )
    ),
    *sorted(path for name in PACKAGES for path in (ROOT / name).glob("**/*.py")),
    *sorted((ROOT / "tests" / "support").glob("*.py")),
    *sorted((ROOT / "docs" / "_generate").glob("*.py")),
    *sorted((ROOT / "benchmarks").glob("*.py")),
]
_PATH = re.compile(
    r"(?<![\w/.:-])((?:core|transports|stores|cli|tests|docs|examples|benchmarks|packaging|\.ci)"
    r"/[\w./*-]*[\w*/])"
)
MAP = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def missing(text: str) -> list[str]:
    """Return the paths that a text names and that are not there; some may be patterns."""
    return [name for name in _PATH.findall(text) if not any(ROOT.glob(name))]


def test_a_path_that_is_named_leads_somewhere() -> None:
    for path in NAMING:
        assert missing(path.read_text(encoding="utf-8")) == [], path


def test_a_path_that_leads_nowhere_is_noticed() -> None:
    text = "`cli/no_such.py`, (transports/no_such_*.py), docs/architecture.md, https://x.org/cli/a"
    assert missing(text) == ["cli/no_such.py", "transports/no_such_*.py"]


def mapped() -> dict[str, str]:
    """Return the folders of the map, and what it says of each."""
    drawn = next(each.text for each in blocks_of(MAP) if each.language == "text")
    found: dict[str, str] = {}
    above: list[str] = []
    for line in drawn.splitlines():
        indent, name, words = re.fullmatch(r"( *)([\w/, ]+?)  +(\S.*)", line).groups()  # type: ignore[union-attr]
        above = above[: len(indent) // 2]
        for each in name.split(", "):
            found["/".join([*above, each.rstrip("/")])] = words
        above.append(name.rstrip("/"))
    return found


def test_the_map_shows_every_room_of_the_packages() -> None:
    rooms = {
        str(path.parent.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).glob("**/__init__.py")
    }
    folders = {
        name for name in mapped() if (ROOT / name).is_dir() or not (ROOT / f"{name}.py").exists()
    }
    assert {name for name in folders if name.partition("/")[0] in PACKAGES} == rooms
    assert all((ROOT / name).is_dir() for name in folders), folders


def test_each_row_of_what_to_open_names_a_file() -> None:
    table = MAP.partition("| to find | open |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.count("\n") > 10
    for row in table.splitlines():
        named = re.findall(r"`([\w/.]+/[\w/.]*)`", row)
        assert named, row
        assert [name for name in named if not (ROOT / name).exists()] == [], row
