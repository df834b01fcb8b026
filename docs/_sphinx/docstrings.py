"""Prepares docstrings for Sphinx: errors named in one line, and the fields of pydantic models.

Two things are written in the code in the way that reads best there, and are spelled out here:

* ``Raises: NoSuchUser, MailboxFull.`` becomes one entry for each error, which tells what the first
  sentence of its own docstring tells;
* a pydantic model tells of its fields in their descriptions, which become attributes with their
  type, bounds and default.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx

from twinline.core.errors import RequestError
from twinline.core.protocol import MAX_INT

_ERRORS_ONLY = re.compile(r"[A-Z]\w+(, [A-Z]\w+)*[,.]")
_ATTRIBUTES = {"attribute", "data", "property"}
_SECTION = re.compile(r"\s*[A-Z]\w+:")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the hooks with Sphinx."""
    app.connect("autodoc-process-docstring", prepare, priority=400)  # napoleon has 500
    sentences = Sentences()
    app.connect("autodoc-process-docstring", sentences.keep, priority=400)
    app.connect("autodoc-process-docstring", sentences.restore, priority=600)
    app.connect("autodoc-process-signature", hide_signature)
    app.connect("autodoc-skip-member", skip_told)
    return {"parallel_read_safe": True}


class Sentences:
    """Keeps the docstrings of attributes from napoleon, which takes "NAME: " for a type."""

    def __init__(self) -> None:
        self._kept: list[str] = []

    def keep(
        self, _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
    ) -> None:
        """Put the lines aside."""
        if what in _ATTRIBUTES:
            self._kept = list(lines)

    def restore(
        self, _app: Sphinx, what: str, _name: str, _obj: object, _options: object, lines: list[str]
    ) -> None:
        """Put them back."""
        if what in _ATTRIBUTES:
            lines[:] = self._kept


def prepare(
    _app: Sphinx, what: str, name: str, obj: object, _options: object, lines: list[str]
) -> None:
    """Rewrite the lines of one docstring in place."""
    if lines[:1] and lines[0].startswith("Create new instance of"):
        lines.clear()  # what Python says of every named tuple
    module = _module_of(name)
    if module is not None:
        lines[:] = spelled_out(lines, module)
    if what == "class" and _is_model(obj):
        # Called for the class, and again for its __init__, which is pydantic's.
        if lines[:1] == (inspect.getdoc(BaseModel.__init__) or "").splitlines()[:1]:
            lines.clear()
        else:
            lines.extend(_attributes(obj))


def hide_signature(
    _app: Sphinx, what: str, _name: str, obj: object, *_: object
) -> tuple[str, str] | None:
    """Leave out what a list below tells, or what stands at the base of all errors alike."""
    is_leaf = isinstance(obj, type) and issubclass(obj, RequestError) and obj is not RequestError
    return ("", "") if is_leaf or (what == "class" and _is_model(obj)) else None


def skip_told(
    _app: Sphinx, _what: str, name: str, obj: object, _skip: bool, _options: object
) -> bool | None:
    """Skip what the class's docstring tells of already, and what pydantic and Python add."""
    doc = getattr(obj, "__doc__", None) or ""
    added = name == "model_config" or doc.startswith("Alias for field number")
    return True if added else None


def spelled_out(lines: Sequence[str], module: ModuleType) -> Iterator[str]:
    """Yield the lines of a docstring with each error of its ``Raises:`` on a line of its own."""
    raises = False
    for line in lines:
        if _SECTION.fullmatch(line):
            raises = line.strip() == "Raises:"
        if raises and _ERRORS_ONLY.fullmatch(line.strip()):
            indent = line[: len(line) - len(line.lstrip())]
            for error in re.findall(r"\w+", line):
                yield f"{indent}{error}: {_first_sentence(error, module)}"
        else:
            yield line


def _first_sentence(error: str, module: ModuleType) -> str:
    # Not every module imports the errors that pass through it.
    errors = sys.modules["twinline.core.errors"]
    kind = getattr(module, error, None) or getattr(errors, error)
    return (inspect.getdoc(kind) or "").partition("\n")[0]


def _attributes(model: type[BaseModel]) -> Iterator[str]:
    own = [
        (name, field)
        for name, field in model.model_fields.items()
        if name in inspect.get_annotations(model)
    ]
    for name, field in own:
        words = [field.description or "", *_bounds(field), *_default(field)]
        yield from ("", f".. attribute:: {name}", f"   :type: {_plain(field.annotation)}")
        yield from ("", f"   {'; '.join(words)}")
    yield ""


def _bounds(field: FieldInfo) -> Iterator[str]:
    if get_origin(field.annotation) is Literal:
        yield " or ".join(f"``{each!r}``" for each in get_args(field.annotation))
    for limit in field.metadata:
        for sign, word in (("ge", "at least"), ("gt", "above"), ("le", "at most")):
            bound = getattr(limit, sign, None)
            if bound is not None and bound != MAX_INT and (sign, bound) != ("ge", 0):
                yield f"{word} {bound:,}"


def _plain(annotation: Any) -> str:
    """Write a type as a person would, without what pydantic is told beside it."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    arguments = get_args(annotation)
    if not arguments:
        return "None" if annotation in (None, type(None)) else annotation.__name__
    if get_origin(annotation) is Literal:
        return " | ".join(dict.fromkeys(type(each).__name__ for each in arguments))
    words = ["..." if each is ... else _plain(each) for each in arguments]
    if get_origin(annotation) in (Union, type(int | None)):
        return " | ".join(words)
    return f"{annotation.__origin__.__name__}[{', '.join(words)}]"


def _default(field: FieldInfo) -> Iterator[str]:
    if field.default is not PydanticUndefined:
        yield f"default ``{field.default!r}``"


def _is_model(obj: object) -> TypeGuard[type[BaseModel]]:
    return isinstance(obj, type) and issubclass(obj, BaseModel)


def _module_of(name: str) -> ModuleType | None:
    while name:
        if name in sys.modules:
            return sys.modules[name]
        name = name.rpartition(".")[0]
    return None
