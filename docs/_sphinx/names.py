"""Finds what a name in a docstring stands for, as Python would find it from that place.

A name in single backticks, the role of all of them here, is a link where the reference has a page
for it, and code where it has none: ``wait`` may be an argument, ``nc`` a program. A name that can
only be meant as one of twinline's, by its form, and that the code does not have is a warning.
"""

import builtins
import inspect
import re
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.errors import NoUri
from sphinx.roles import XRefRole
from sphinx.util import logging

_log = logging.getLogger(__name__)
_OURS = "twinline."
_CLASS = re.compile(r"[A-Z][a-z]\w*[a-z](\.\w+)*")
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
# What is not ours and never has a page here: no other project's inventory is fetched.
_FOREIGN = {*sys.stdlib_module_names, "pydantic", "pydantic_core", "argon2"}


class NameRole(XRefRole):
    """A name of Python's, or else code."""

    def process_link(
        self,
        env: BuildEnvironment,
        refnode: nodes.Element,
        has_explicit_title: bool,
        title: str,
        target: str,
    ) -> tuple[str, str]:
        """Note where the name was written."""
        refnode["refdomain"] = "py"
        refnode["reftype"] = "obj"
        refnode["soft"] = True
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        return super().process_link(env, refnode, has_explicit_title, title, target)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the role and the resolver with Sphinx."""
    app.add_role("name", NameRole(innernodeclass=nodes.literal))
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.Node | None:
    """Return what stands in the place of a name that Sphinx did not find by itself."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    soft = node.get("soft", False)
    if not _DOTTED.fullmatch(target):
        return shown if soft else None
    full_name = _full_name(target, node.get("py:module"), node.get("py:class"))
    if full_name is not None:
        link = _link(app, env, node, shown, full_name)
        return shown if link is None else link
    if soft:
        elsewhere = [name for name in _documented(env) if name.endswith(f".{target}")]
        if len(elsewhere) == 1:
            return _link(app, env, node, shown, elsewhere[0])
        if target.startswith(_OURS) or _CLASS.fullmatch(target):
            _log.warning("there is no %s", target, location=node)
        return shown
    return None


def _link(
    app: Sphinx,
    env: BuildEnvironment,
    node: pending_xref,
    shown: nodes.TextElement,
    full_name: str,
) -> nodes.Node | None:
    domain: PythonDomain = env.domains.python_domain
    again = pending_xref("", refdomain="py", reftype="obj", reftarget=full_name)
    try:
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full_name, again, shown)
    except NoUri:
        return None


def _documented(env: BuildEnvironment) -> list[str]:
    return list(env.domains.python_domain.objects)


def _full_name(target: str, module_name: str | None, class_name: str | None) -> str | None:
    """Return the name by which the reference would have it, or None if there is no such thing."""
    module = sys.modules.get(module_name or "")
    places: list[Any] = []
    if module is not None:
        if class_name:
            places.append(_walk(module, class_name))
        places.append(module)
    places += [sys.modules["twinline.core.errors"], builtins]
    for place in places:
        found = _walk(place, target) if place is not None else None
        if found is not None:
            return _name_of(found, place, target)
    return _imported(target)


def _imported(target: str) -> str | None:
    """Return a dotted name that begins with a module, if there is such a thing."""
    head = target.partition(".")[0]
    if head in _FOREIGN:
        return target
    if head != "twinline":
        return None
    place, _, rest = target, "", ""
    while place:
        try:
            module = import_module(place)
        except ImportError:
            place, _, last = place.rpartition(".")
            rest = f"{last}.{rest}" if rest else last
            continue
        if not rest:
            return target
        found = _walk(module, rest)
        return None if found is None else _name_of(found, module, rest)
    return None


def _walk(place: Any, path: str) -> Any:
    for part in path.split("."):
        fields = {**getattr(place, "__annotations__", {}), **getattr(place, "model_fields", {})}
        if part in fields and not hasattr(place, part):
            return f"{place.__module__}.{place.__qualname__}.{part}"
        place = inspect.getattr_static(place, part, None) or getattr(place, part, None)
        if place is None:
            return None
    return place


def _name_of(found: Any, place: Any, path: str) -> str:
    if isinstance(found, str) and found.startswith(_OURS):
        return found
    if isinstance(found, ModuleType):
        return found.__name__
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str):
        return f"{module}.{name}"
    # A property, a constant: it is named after the place where it was found.
    head = place.__name__ if isinstance(place, ModuleType) else None
    if head is None:
        head = f"{place.__module__}.{place.__qualname__}"
    owner, _, last = path.rpartition(".")
    if owner and isinstance(place, ModuleType):
        holder = _walk(place, owner)
        if isinstance(holder, type):
            return f"{holder.__module__}.{holder.__qualname__}.{last}"
    return f"{head}.{path}"
