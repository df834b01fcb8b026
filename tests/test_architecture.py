"""The structure: which way imports point, that nothing goes in a circle, and where things stand."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "transports", "stores", "cli")
FOLDERS = (*PACKAGES, "docs", "benchmarks", "examples", "support")
LIBRARIES = {
    "core": {"pydantic", "pydantic_core", "argon2"},
    # Two are extras: only the event loop's listener imports uvloop, for a loop of its own, and only
    # who has a revocation list imports cryptography.
    "transports": {"pydantic", "pydantic_core", "uvloop", "cryptography"},
    "stores": {"pydantic", "sortedcontainers"},
    # Extras: each is imported by the one store that needs it.
    "stores.postgresql": {"psycopg"},
    "stores.valkey": {"redis"},
    # Extras, imported when they are needed: matplotlib by the plot of `bench`, cryptography by the
    # certificate for a trial, prometheus_client by what writes metrics.
    "cli": {
        "pydantic",
        "pydantic_core",
        "pydantic_settings",
        "click",
        "prompt_toolkit",
        "matplotlib",
        "cryptography",
        "prometheus_client",
        "argon2",
    },
}
# What all stores may use.
COMMON = "stores.rules stores.archive stores.copying stores.upkeep stores.backup"
# Who, what of ours it may not import, and what of that it may all the same.
WALLS = (
    ("core", "transports stores cli", ""),
    ("transports", "stores cli", ""),
    ("stores", "transports cli", ""),
    # A codec knows no socket; the two ends of a wire know nothing of each other.
    *(
        (codec, "transports.listener transports.client transports.conformance", "")
        for codec in (
            "transports.contract",
            "transports.registry",
            "transports.endpoints",
            "transports.jsonl",
            "transports.auto",
            "transports.binary",
            "transports.web",
        )
    ),
    ("transports.listener", "transports.client transports.conformance", ""),
    ("transports.client", "transports.listener transports.conformance", ""),
    # The engine is the same for threads and for an event loop, and knows none of its faces.
    (
        "transports.client.engine",
        "transports.client",
        """transports.client.engine transports.client.errors transports.client.options
        transports.client.requests transports.client.settings transports.client.state""",
    ),
    # A store stands alone, and the kit judges it from outside.
    ("stores.memory", "stores", "stores.memory stores.rules"),
    ("stores.sqlite", "stores", f"stores.sqlite stores.sql stores.shared {COMMON}"),
    ("stores.postgresql", "stores", f"stores.postgresql stores.sql stores.shared {COMMON}"),
    ("stores.valkey", "stores", f"stores.valkey stores.shared {COMMON}"),
    ("stores.sql", "stores", f"stores.sql {COMMON}"),
    ("stores.shared", "stores", f"stores.shared {COMMON}"),
    ("stores.conformance", "stores", "stores.conformance"),
    # What every command stands on.
    ("cli.console", "cli", "cli.console"),
    ("cli.settings", "cli", "cli.settings cli.console"),
)


def modules_of(package: str) -> dict[str, Path]:
    """Return the modules of a package as it is installed, by their names without `twinline`."""
    spec = find_spec(f"twinline.{package}")
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(
            ".__init__"
        ): path
        for path in sorted(folder.glob("**/*.py"))
    }


MODULES = {name: path for package in PACKAGES for name, path in modules_of(package).items()}


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield every import, wherever in a source, but those that only a type checker follows."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        for each in node.orelse:
            yield from imports(each)
    else:
        for each in ast.iter_child_nodes(node):
            yield from imports(each)


def imported_by(source: str) -> set[str]:
    """Return every module that a source imports; a name that is imported is not one."""
    found = set()
    for node in imports(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        assert node.level == 0, "imports are absolute"
        assert node.module is not None
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            is_module = node.module == "twinline" or full.removeprefix("twinline.") in MODULES
            found.add(full if is_module else node.module)
    return found


def ours(source: str) -> set[str]:
    """Return the modules of this project that a source imports, without `twinline`."""
    return {
        name.removeprefix("twinline.")
        for name in imported_by(source)
        if name.startswith("twinline.")
    }


def inside(module: str, rooms: str) -> bool:
    """Return whether a module is one of these rooms, or stands in one."""
    return any(f"{module}.".startswith(f"{room}.") for room in rooms.split())


def offered(module: str) -> bool:
    """Return whether the face of a module's room has the module in its `__all__`."""
    room, _, name = module.rpartition(".")
    return name in getattr(import_module(f"twinline.{room}"), "__all__", ())


def through_a_wall(module: str, source: str) -> set[str]:
    """Return what a module imports and may not."""
    found = ours(source)
    wrong = {
        name
        for room, shut, but in WALLS
        if inside(module, room)
        for name in found
        if inside(name, shut) and not inside(name, but)
    }
    package = module.partition(".")[0]
    # Another package is entered by a face, by a module that a face offers, or by one that stands
    # directly in the package.
    wrong |= {
        name
        for name in found
        if not inside(name, package)
        and name.count(".") > 1
        and MODULES.get(name, Path()).name != "__init__.py"
        and not offered(name)
    }
    others = {name.partition(".")[0] for name in imported_by(source)} - {"twinline"}
    allowed = {name for room, names in LIBRARIES.items() if inside(module, room) for name in names}
    return wrong | (others - sys.stdlib_module_names - allowed)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    sources = {name: path.read_text("utf-8") for name, path in modules_of(package).items()}
    wrong = {name: through_a_wall(name, source) for name, source in sources.items()}
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.service", "import twinline.stores.memory"),
        ("core.service", "from twinline.transports.jsonl import JsonlTransport"),
        ("core.service", "import click"),
        ("core.service", "def f():\n    from twinline import stores"),
        ("transports.listener", "from twinline.stores.memory import MemoryStore"),
        ("transports.jsonl", "from twinline.cli import main"),
        ("transports.jsonl", "from twinline.transports.listener import ThreadedListener"),
        ("transports.binary.codec", "import twinline.transports.client.settings"),
        ("transports.web.page", "from twinline.transports.listener import ThreadedListener"),
        ("transports.listener.poller", "from twinline.transports.client import Client"),
        (
            "transports.client.engine.link",
            "from twinline.transports.client.backends import threads",
        ),
        ("transports.client.engine.link", "from twinline.transports.client import Client"),
        ("stores.sqlite.store", "from twinline.transports import contract"),
        ("stores.sqlite.store", "import redis"),
        ("stores.sqlite.store", "from twinline.stores.memory import MemoryStore"),
        ("stores.memory.mailbox", "from twinline.stores.conformance import check_store"),
        ("stores.conformance.sending", "from twinline.stores import memory"),
        ("cli.console.output", "from twinline.cli.settings.model import Settings"),
        ("cli.settings.model", "from twinline.cli.server import serve"),
        ("cli.server.serve", "from twinline.stores.sqlite.store import SqliteStore"),
        ("cli.client.ping", "from twinline.transports.client.engine import engine"),
    ],
)
def test_an_import_through_a_wall_is_caught(module: str, source: str) -> None:
    assert module in MODULES
    assert through_a_wall(module, source)


def test_a_type_checker_may_look_through_a_wall() -> None:
    source = (
        "if TYPE_CHECKING:\n    import twinline.cli.main\nelse:\n    import twinline.core.clock"
    )
    assert ours(source) == {"core.clock"}


def circle(sources: dict[str, str]) -> list[str] | None:
    """Return modules that import each other in a circle, or None."""
    graph = {name: ours(source) & set(sources) - {name} for name, source in sources.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_imports_go_in_a_circle() -> None:
    assert circle({name: path.read_text("utf-8") for name, path in MODULES.items()}) is None


def test_a_circle_is_caught() -> None:
    sources = {
        "core.service": "from twinline.core import clock",
        "core.clock": "import twinline.core.locks",
        "core.locks": "def late():\n    from twinline.core.service import ChatService",
        "core.names": "from twinline.core.service import ChatService",
    }
    assert set(circle(sources) or ()) == {"core.service", "core.clock", "core.locks"}


@pytest.mark.parametrize(
    ("example", "packages"),
    [("embed", "core stores"), ("msgpack_transport/src", "core transports")],
)
def test_an_example_needs_only_what_it_shows(example: str, packages: str) -> None:
    files = sorted((ROOT / "examples" / example).glob("**/*.py"))
    assert files
    for path in files:
        assert all(inside(name, packages) for name in ours(path.read_text("utf-8"))), path


# -- where things stand ---------------------------------------------------------------------


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_that_it_is_typed(package: str) -> None:
    assert MODULES[package].with_name("py.typed").exists()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_in_its_first_line_why_it_exists(package: str) -> None:
    for path in modules_of(package).values():
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert docstring, path
        assert docstring.splitlines()[0].endswith((".", ":", "::")), path


def unnamed(faces: dict[str, str], modules: dict[str, Path]) -> list[str]:
    """Return the modules that neither their room's face nor one above it names."""
    missing = []
    for module in modules:
        parts = module.split(".")
        above = "\n".join(faces[".".join(parts[:n])] for n in range(1, len(parts)))
        if parts[1:] not in ([], ["__main__"]) and not re.search(rf"\b{parts[-1]}\b", above):
            missing.append(module)
    return missing


def test_a_face_names_what_is_in_its_rooms() -> None:
    faces = {
        name: ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        for name, path in MODULES.items()
        if path.name == "__init__.py"
    }
    assert unnamed(faces, MODULES) == []
    assert unnamed({**faces, "core": "The domain: no clock."}, modules_of("core"))


def test_every_room_is_packaged() -> None:
    """One that is forgotten would be left out of the wheel without a word."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    rooms = {
        f"twinline.{'.'.join(path.parent.relative_to(ROOT).parts)}"
        for package in PACKAGES
        for path in (ROOT / package).glob("**/*.py")
    }
    assert len(settings["packages"]) == len(set(settings["packages"]))
    assert set(settings["packages"]) == rooms
    for room in rooms:
        assert (ROOT / room.removeprefix("twinline.").replace(".", "/") / "__init__.py").exists()


def test_the_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").glob("**/__init__.py"))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    path = settings["ini_options"]["pythonpath"]
    assert [entry for entry in path if entry.startswith("tests")] == ["tests/support"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_not_imported_by_its_name(name: str) -> None:
    """`core` is `twinline.core`, also where the folder that tests are started in is on the path."""
    assert not {"", str(ROOT)} & set(sys.path)
    with pytest.raises(ModuleNotFoundError):
        __import__(name)


def test_no_source_imports_a_folder_by_its_name() -> None:
    """pytest makes `tests` itself, so that an import of it could work."""
    imported = re.compile(
        rf"^\s*(?:from|import) (?:{'|'.join(FOLDERS)}|tests)\b(?! = )", re.MULTILINE
    )
    for folder in (*FOLDERS, "tests"):
        for path in (ROOT / folder).glob("**/*.py"):
            assert not imported.search(path.read_text("utf-8")), path
