"""Values to send through a transport: every model of the protocol, plain, extreme and odd.

They are built from the annotations of `twinline.core.protocol`, so a request that is added
there is tried without a change here.
"""

from collections.abc import Sequence
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from twinline.core import protocol
from twinline.core.errors import ERROR_BY_CODE
from twinline.core.protocol import (
    MAX_INT,
    AccountId,
    ErrorReply,
    HelloReply,
    Limits,
    MessageId,
    Reply,
    Request,
)

BODY_BYTES: Final = 16 * 1024
"""The longest body that a server takes unless it is set otherwise, in bytes of UTF-8."""
_CONTROLS: Final = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)]))
_TEXTS: Final = (
    "x",
    "",
    "ann",
    "Grüße, мир, 世界 👋",
    _CONTROLS,
    '"quoted" \\ / \\u0000 %s {} $x `',
    "\0",
    "\r\n",
    " \t ",
    "null",
    "0",
    "\ufeffa byte order mark",
    "e\u0301\u200d\u202e\u2028\u2029\x85",
    "\ufdd0\ufffe\uffff\U0001fffe\U0010ffff",
    "y" * 127,
    "y" * 128,
    "é" * 128,
    "z" * BODY_BYTES,
    "é" * (BODY_BYTES // 2),
    "\U0001f44b" * (BODY_BYTES // 4),
)
_EDGES: Final = (
    1,
    *(2**bits + more for bits in (7, 8, 14, 15, 16, 21, 31, 32, 49) for more in (-1, 0)),
)
_LIMITS: Final = Limits(
    body_bytes=1, frame_bytes=1, frame_bytes_before_login=1, reply_bytes=1, page=1, wait_seconds=1
)
_M = TypeVar("_M", Request, Reply)


def requests() -> list[Request]:
    """Return samples of every request."""
    return [sample for model in protocol.REQUESTS for sample in samples(model)]


def replies() -> list[tuple[Request, Reply]]:
    """Return samples of every reply, each with a request that it may answer."""
    answered = {request.reply: plain(request) for request in protocol.REQUESTS}
    found: list[tuple[Request, Reply]] = [
        (request, sample) for model, request in answered.items() for sample in samples(model)
    ]
    asked = [plain(request) for request in protocol.REQUESTS]
    refusals = [
        *samples(ErrorReply),
        *(kind().to_reply() for kind in ERROR_BY_CODE.values()),
    ]
    found += [(asked[at % len(asked)], refusal) for at, refusal in enumerate(refusals)]
    return found


def answer(reply: Reply) -> tuple[Reply, ...]:
    """Return all that a request is answered with that gets this reply: a stream needs its end."""
    return (reply, plain(type(reply))) if reply.continues else (reply,)


def streamed() -> list[tuple[Request, list[Reply]]]:
    """Return the requests that a stream may answer, with short replies that others follow."""
    found: dict[type[Reply], tuple[Request, list[Reply]]] = {}
    for request, reply in replies():
        if reply.continues and small([reply]):
            found.setdefault(type(reply), (request, []))[1].append(reply)
    return list(found.values())


def small(some: Sequence[_M]) -> list[_M]:
    """Return those that take a few hundred bytes at most, to be fed byte by byte."""
    return [sample for sample in some if len(repr(sample)) < 400]


def plain(model: type[_M]) -> _M:
    """Return the most ordinary instance of a model: no field set that has a default."""
    return samples(model)[0]


def long_reply(letters: int) -> HelloReply:
    """Return a reply to `Hello` of at least so many bytes."""
    return HelloReply(protocol=1, server="x" * letters, limits=_LIMITS)


def samples(model: type[_M]) -> Sequence[_M]:
    """Return instances of a model: minimal, maximal, and with odd values in every field."""
    found: Sequence[_M] = _samples(model)
    return found


@cache
def _samples(model: Any) -> tuple[Any, ...]:
    fields = _fields(model)
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    minimal = {name: fields[name][0] for name in required}
    found = [minimal, _by_default(model, minimal)]
    # Each field with a default alone: whatever stands for its presence is tried by itself.
    found += [{**minimal, name: fields[name][-1]} for name in fields if name not in required]
    most = max(map(len, fields.values()), default=0)
    found += [
        {name: values[at % len(values)] for name, values in fields.items()} for at in range(most)
    ]
    # Shifted against each other, so that two fields are not always of the same kind.
    found += [
        {name: values[(at * (2 * nth + 1)) % len(values)] for nth, (name, values) in items}
        for at in range(most)
        for items in [list(enumerate(fields.items()))]
    ]
    unique: list[Any] = []
    for values in found:
        sample = model(**values)
        if sample not in unique:
            unique.append(sample)
    return tuple(unique)


def _by_default(model: Any, minimal: dict[str, Any]) -> dict[str, Any]:
    """Return a model's fields with every default said aloud."""
    return {
        name: minimal[name] if name in minimal else field.get_default()
        for name, field in model.model_fields.items()
    }


def _fields(model: Any) -> dict[str, list[Any]]:
    annotations = get_type_hints(model, include_extras=True)
    return {
        name: _values(annotations[name], field.metadata)
        for name, field in model.model_fields.items()
    }


def _values(annotation: Any, metadata: Sequence[Any] = ()) -> list[Any]:
    """Return values of an annotation, the most ordinary first."""
    if annotation == MessageId:
        return ["0123456789abcdef01234567", "0" * 24, "f" * 24]
    if annotation == AccountId:
        return ["0123456789abcdef0123456789abcdef", "A", "-_" * 32]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0], [*metadata, *arguments[1:]])
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return [None, *_values(inner, metadata)]
    if origin is tuple:
        items = _values(arguments[0])
        least = max(_bound(metadata, "min_length", 0), 0)
        most = _bound(metadata, "max_length", len(items))
        some = [(), (items[0],), (items[0],) * 2, tuple(items), tuple(reversed(items))]
        full = [(items[-1],) * most] if most != len(items) else []
        return [value for value in (*some[1:], some[0], *full) if least <= len(value) <= most]
    if annotation is int:
        low, high = _bound(metadata, "ge", 0), _bound(metadata, "le", MAX_INT)
        edges = {low, high, low + 1, high - 1, *_EDGES}
        inside = sorted(edge for edge in edges if low <= edge <= high)
        return [max(low, 1), *inside]
    if annotation is bool:
        return [False, True]
    if annotation is str:
        return list(_TEXTS)
    if issubclass(annotation, Enum):
        return list(annotation)
    fields = _fields(annotation)
    most = max(map(len, fields.values()), default=1)
    return [
        annotation(**{name: values[at % len(values)] for name, values in fields.items()})
        for at in range(most)
    ]


def _bound(metadata: Sequence[Any], name: str, otherwise: int) -> int:
    """Return what the metadata of a field says about its range or its length."""
    for item in metadata:
        for each in getattr(item, "metadata", [item]):
            bound = getattr(each, name, None)
            if isinstance(bound, int):
                return bound
    return otherwise
