"""What is packed: the tree's modules and nothing else, importable by the promised paths."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("core", "transports", "stores", "cli")
# Nothing else is promised; a new one is a line here.
PUBLIC = {
    "core.accounts": "",
    "core.clock": "",
    "core.conformance": "",
    "core.deadline": "",
    "core.errors": "TwinlineError",
    "core.locks": "check_locks new_lock",
    "core.messages": "",
    "core.names": "",
    "core.passwords": "",
    "core.protocol": "REQUESTS",
    "core.service": "ChatService",
    "core.session": "Session",
    "core.settings": "ServiceSettings",
    "core.store": "Store",
    "core.throttle": "",
    "core.waiting": "",
    "transports.auto": "",
    "transports.binary": "",
    "transports.client": "AsyncClient Client",
    "transports.conformance": "check_transport",
    "transports.contract": "ServerCodec",
    "transports.endpoints": "Endpoint",
    "transports.jsonl": "",
    "transports.listener": "ThreadedListener LoopListener ListenerSettings",
    "transports.registry": "transport transport_names",
    "transports.web": "ChatPage",
    "stores.conformance": "check_store",
    "stores.conformance.history": "",
    "stores.memory": "MemoryStore",
    "stores.registry": "open_store",
    "stores.sqlite": "SchemaTooNew SqliteStore StoreLocked Synchronous",
}
CHECK = """
import importlib, sys
for line in sys.stdin:
    module, *names = line.split()
    found = importlib.import_module(f"twinline.{module}")
    assert found.__file__.startswith(sys.argv[1]), found.__file__
    for name in names:
        getattr(found, name)
"""


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_promised_can_be_imported(module: str) -> None:
    found = import_module(f"twinline.{module}")
    assert [name for name in PUBLIC[module].split() if not hasattr(found, name)] == []


def test_the_module_is_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "twinline.cli", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert said.stdout.startswith("twinline")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the tree in which an older one has been built."""
    copy = tmp_path_factory.mktemp("tree") / "twinline"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(
            ".*_cache", ".git", ".hypothesis", ".tox", ".venv", "__pycache__", "build", "dist",
            "*.egg-info",
        ),
    )  # fmt: skip
    old = copy / "build" / "lib" / "twinline" / "cli" / "old.py"
    old.parent.mkdir(parents=True)
    old.write_text("'''It was here once.'''\n")
    about = copy / "twinline.egg-info"
    about.mkdir()
    about.joinpath("SOURCES.txt").write_text("cli/old.py\ncli/py.typed\ncore/older.py\n")
    about.joinpath("top_level.txt").write_text("older\n")
    return copy


def build(what: str, tree: Path) -> Path:
    """Build a wheel or an sdist as pip does, with what is installed here; return the file."""
    code = f"import build_backend; print('made:', build_backend.build_{what}('out'))"
    (tree / "out").mkdir(exist_ok=True)
    made = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree / "packaging")},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return tree / "out" / made.stdout.rpartition("made: ")[2].strip()


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    return build("wheel", tree)


def modules(tree: Path) -> set[str]:
    return {
        f"twinline/{path.relative_to(tree)}"
        for package in PACKAGES
        for path in (tree / package).glob("**/*.py")
    }


def test_a_wheel_holds_the_modules_of_the_tree_and_nothing_older(tree: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = [name for name in packed.namelist() if ".dist-info/" not in name]
        about = {
            path.rpartition("/")[2]: packed.read(path).decode()
            for path in packed.namelist()
            if ".dist-info/" in path
        }
    assert {name for name in names if name.endswith(".py")} == modules(tree)
    assert {name for name in names if not name.endswith(".py")} == {
        "twinline-0.1.0.data/data/share/man/man1/twinline.1",
        *(f"twinline/{package}/py.typed" for package in PACKAGES),
        *(f"twinline/{path.relative_to(tree)}" for path in tree.glob("transports/web/files/*")),
    }
    assert about["top_level.txt"].split() == ["twinline"]
    assert "Project-URL: " in about["METADATA"]


def test_a_wheel_is_all_that_it_needs(wheel: Path, tmp_path: Path) -> None:
    """Unpacked it is importable by the promised paths, and runs."""
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path)
    promised = "\n".join(f"{module} {names}" for module, names in PUBLIC.items())
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    for command in (["-c", CHECK, str(tmp_path)], ["-m", "twinline.cli", "--version"]):
        done = subprocess.run(
            [sys.executable, *command],
            input=promised,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_an_sdist_holds_all_that_its_tests_need(tree: Path) -> None:
    with tarfile.open(build("sdist", tree)) as packed:
        names = {name.partition("/")[2] for name in packed.getnames() if "/" in name}
    for folder in (
        *PACKAGES,
        "tests",
        "docs",
        "examples",
        "benchmarks",
        "packaging",
        ".ci",
        ".github",
    ):
        for path in (tree / folder).glob("**/*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert str(path.relative_to(tree)) in names
    for name in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
        "tox.ini",
    ):
        assert name in names
    planted = {"old.py", "older.py"}  # by the fixture
    assert not [name for name in names if name.rpartition("/")[2] in planted]
