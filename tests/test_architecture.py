"""The structure: imports point one way, each package is typed, and no file grows without end."""

import ast
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ARROWS = {
    "core": {"core"},
    "transports": {"core", "transports"},
    "stores": {"core", "stores"},
    "cli": {"core", "transports", "stores", "cli"},
}
EXAMPLES = Path(__file__).parent.parent / "examples"
LIBRARIES = {
    "core": {"pydantic", "pydantic_core", "argon2"},
    "transports": {"pydantic", "pydantic_core"},
    "stores": {"pydantic", "sortedcontainers"},
    # matplotlib is an extra: only bench_plot has it, and imports it when it draws.
    "cli": {
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "click",
        "prompt_toolkit",
        "matplotlib",
        "argon2",
    },
}


def files_of(package: str) -> list[Path]:
    """Return the modules of a package as it is installed."""
    spec = find_spec(f"twinline.{package}")
    assert spec is not None
    assert spec.submodule_search_locations
    return sorted(Path(spec.submodule_search_locations[0]).glob("**/*.py"))


def imported_by(source: str) -> set[str]:
    """Return every module that a source imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            found |= {node.module}
            if node.module == "twinline":
                found |= {f"twinline.{alias.name}" for alias in node.names}
    return found


def against_the_arrows(package: str, source: str) -> set[str]:
    """Return the imports of a source that its package may not have."""
    wrong = set()
    for module in imported_by(source):
        top, _, rest = module.partition(".")
        if top == "twinline":
            if rest and rest.split(".")[0] not in ARROWS[package]:
                wrong.add(module)
        elif top not in sys.stdlib_module_names and top not in LIBRARIES[package]:
            wrong.add(module)
    return wrong


@pytest.mark.parametrize("package", ARROWS)
def test_imports_point_one_way(package: str) -> None:
    files = files_of(package)
    assert files
    for path in files:
        assert not against_the_arrows(package, path.read_text()), path


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("core", "import twinline.stores.memory"),
        ("core", "from twinline.transports.jsonl import JsonlTransport"),
        ("core", "import click"),
        ("core", "def f():\n    from twinline import stores"),
        ("transports", "from twinline.stores.memory import MemoryStore"),
        ("transports", "from twinline.cli import main"),
        ("stores", "from twinline.transports import contract"),
        ("stores", "import redis"),
    ],
)
def test_the_check_catches_an_import_against_the_arrows(package: str, source: str) -> None:
    assert against_the_arrows(package, source)


@pytest.mark.parametrize(
    ("example", "packages"),
    [("embed", {"core", "stores"}), ("msgpack_transport/src", {"core", "transports"})],
)
def test_an_example_needs_only_what_it_shows(example: str, packages: set[str]) -> None:
    files = sorted((EXAMPLES / example).glob("**/*.py"))
    assert files
    for path in files:
        ours = {name for name in imported_by(path.read_text()) if name.startswith("twinline.")}
        assert {name.split(".")[1] for name in ours} <= packages, path


@pytest.mark.parametrize("package", ARROWS)
def test_each_package_says_that_it_is_typed(package: str) -> None:
    assert (files_of(package)[0].parent / "py.typed").exists()


@pytest.mark.parametrize("package", ARROWS)
def test_no_file_grows_without_end(package: str) -> None:
    for path in files_of(package):
        assert len(path.read_text().splitlines()) <= 400, path


@pytest.mark.parametrize("package", ARROWS)
def test_every_module_says_in_its_first_line_why_it_exists(package: str) -> None:
    for path in files_of(package):
        docstring = ast.get_docstring(ast.parse(path.read_text()))
        assert docstring, path
        assert docstring.splitlines()[0].endswith((".", ":", "::")), path
