"""What is public, by the code, and what of it the built reference lacks.

The modules are those that the pages under `docs/api` name. A page that documents a module as a
whole makes all of it public: every name without a leading underscore that the module itself
defines, and every such name of its classes. Of a module that a page only opens with
``py:module`` those names are public that the page picks.

    python docs/_sphinx/public_names.py OUTPUT/objects.inv
"""

import ast
import inspect
import logging
import re
import sys
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

PAGES = Path(__file__).parent.parent / "api"
_DIRECTIVE = re.compile(r"^\.\. (?:py:)?(auto)?(module|class|exception|function|data):: (\S+)$")
# What only pydantic calls and reads.
_CONFIGURATION = {"model_config"}


def documented() -> dict[str, list[str] | None]:
    """Return the public modules, each with the names that its page picks, or None for all."""
    found: dict[str, list[str] | None] = {}
    for page in sorted(PAGES.glob("*.md")):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            directive = _DIRECTIVE.match(line)
            if directive is None:
                continue
            automatic, kind, name = directive.groups()
            if kind == "module":
                module = name
                found[module] = None if automatic else []
            else:
                picked = found[module]
                if picked is not None:
                    picked.append(name)
    return found


def public_names(of: str | None = None) -> Iterator[str]:
    """Yield the full name of everything public, or of what one module has of it."""
    for module_name, picked in documented().items():
        if of not in (None, module_name):
            continue
        module = import_module(module_name)
        yield module_name
        for name in own_names(module) if picked is None else picked:
            yield f"{module_name}.{name}"
            thing = getattr(module, name)
            if isinstance(thing, type):
                yield from (f"{module_name}.{name}.{member}" for member in members(thing))


def own_names(module: ModuleType) -> list[str]:
    """Return the public names that a module itself defines, and not those that it imports."""
    tree = ast.parse(inspect.getsource(module))
    names = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        else:
            names += assigned_names(node)
    return [name for name in names if not name.startswith("_") and _matters(module, name)]


def members(kind: type[Any]) -> list[str]:
    """Return the public names of a class: its own, and those of bases that have no page."""
    public = documented()
    names: list[str] = []
    for base in reversed(kind.__mro__):
        is_ours = base.__module__.startswith("twinline.")
        if base is kind or (is_ours and base.__module__ not in public):
            names += _in_body(base)
    return list(dict.fromkeys(names))


def _in_body(kind: type[Any]) -> list[str]:
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind)))
    (definition,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    names = []
    for node in definition.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.append(node.name)
        else:
            names += assigned_names(node)
    return [
        name
        for name in dict.fromkeys(names)
        if not (name.startswith("_") or name in _CONFIGURATION or _is_told_by_a_base(kind, name))
    ]


def inventory(path: Path) -> set[str]:
    """Return the names of Python's in an ``objects.inv``."""
    data = path.read_bytes()
    start = 0
    for _ in range(4):  # lines of text before what is compressed
        start = data.index(b"\n", start) + 1
    lines = zlib.decompress(data[start:]).decode().splitlines()
    return {line.split(" ")[0] for line in lines if line.split(" ")[1].startswith("py:")}


def assigned_names(node: ast.stmt) -> list[str]:
    """Return the names that a statement assigns."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return []


def _matters(module: ModuleType, name: str) -> bool:
    return not isinstance(getattr(module, name), logging.Logger | TypeVar)


def _is_told_by_a_base(kind: type[Any], name: str) -> bool:
    """Return whether a class only says what it has for something that a base declares."""
    return any(name in inspect.get_annotations(base) for base in kind.__mro__[1:])


def main() -> int:
    """Print what is missing, and return the exit code."""
    built = inventory(Path(sys.argv[1]))
    missing = [name for name in public_names() if name not in built]
    for name in missing:
        print(f"{name} is public and not in the reference", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
