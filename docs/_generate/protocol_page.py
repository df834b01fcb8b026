"""Writes the tables and the example of `docs/protocol.md` from the models and the codecs."""

import json
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from vectors import reply_bytes, request_bytes
from websocket_vectors import handshake

from twinline.core import protocol
from twinline.core.errors import ERROR_BY_CODE
from twinline.core.protocol import (
    Conversation,
    ErrorReply,
    Kind,
    Limits,
    Message,
    MessageId,
    Receipt,
)
from twinline.transports.binary.frames import ERROR_WITHOUT_ID, KIND_BY_REPLY, KIND_BY_REQUEST


def type_text(annotation: Any) -> str:
    """Say an annotation's type as the documentation does."""
    if annotation == MessageId:
        return "message id"
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return f"{type_text(inner)} or null"
    if origin is tuple:
        return f"list of {type_text(arguments[0])}"
    if issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {int: "integer", str: "text", bool: "truth value", Kind: "kind"}[annotation]


def field_table(model: type[BaseModel]) -> str:
    """Return a model's fields as a table, in their order."""
    if not model.model_fields:
        return "No fields.\n"
    rows = ["| field | type | default | bit | meaning |", "|---|---|---|---|---|"]
    annotations = get_type_hints(model, include_extras=True)
    bits = 0
    for name, field in model.model_fields.items():
        default, bit = "", ""
        if field.default is not PydanticUndefined:
            default, bit = f"`{json.dumps(field.default)}`", str(bits)
            bits += 1
        rows.append(
            f"| `{field.alias or name}` | {type_text(annotations[name])} | {default} | {bit} "
            f"| {field.description} |"
        )
    return "\n".join(rows) + "\n"


def first_line(model: type) -> str:
    """Return the first line of a docstring."""
    return (model.__doc__ or "").split("\n", 1)[0]


def requests_text() -> str:
    """Return the section of each request."""
    parts = []
    for request, kind in KIND_BY_REQUEST.items():
        reply = request.reply.__name__
        when = "Also before login." if request.before_login else "Only after login."
        parts.append(
            f"### {request.op}\n\n{first_line(request)} {when} Binary kind {kind}; "
            f"the reply is [{reply}](#{reply.lower()}).\n\n{field_table(request)}"
        )
    return "\n".join(parts)


def replies_text() -> str:
    """Return the section of each reply, and of what stands inside replies."""
    parts = []
    for reply, kind in KIND_BY_REPLY.items():
        kinds = f"0x{kind:02X}"
        if reply is ErrorReply:
            kinds += f", or 0x{ERROR_WITHOUT_ID:02X} without an id"
        parts.append(
            f"### {reply.__name__}\n\n{first_line(reply)} Binary kind {kinds}.\n\n"
            f"{field_table(reply)}"
        )
    parts.extend(
        f"### {model.__name__}\n\n{first_line(model)} It stands inside a reply.\n\n"
        f"{field_table(model)}"
        for model in (Message, Receipt, Conversation, Limits)
    )
    return "\n".join(parts)


def errors_text() -> str:
    """Return the table of the error codes."""
    rows = ["| code | retryable | meaning |", "|---|---|---|"]
    rows.extend(
        f"| `{code}` | {'yes' if kind.retryable else 'no'} | {first_line(kind)} |"
        for code, kind in ERROR_BY_CODE.items()
    )
    return "\n".join(rows) + "\n"


def example_text() -> str:
    """Return a send on both transports, as it is on the wire."""
    request = protocol.Send(to="bob", body="hi")
    reply = protocol.SentReply(
        message_id="0123456789abcdef01234567", sent_at=1_767_225_600_000, n=1_767_225_600_000
    )
    jsonl = request_bytes("jsonl", 1, request) + reply_bytes("jsonl", 1, reply)
    binary = [request_bytes("binary", 1, request), reply_bytes("binary", 1, reply)]
    frames = "\n".join(frame.hex(" ") for frame in binary)
    return f"```\n{jsonl.decode()}```\n\n```\n{frames}\n```\n"


def handshake_text() -> str:
    """Return both sides of a handshake."""
    request, answer = handshake("jsonl")
    return f"```text\n{request.decode()}```\n\n```text\n{answer.decode()}```\n".replace(
        "\r\n", "\n"
    )


SECTIONS = {
    "requests": requests_text,
    "replies": replies_text,
    "errors": errors_text,
    "example": example_text,
    "handshake": handshake_text,
}


def inserted(text: str) -> str:
    """Return the page with each section between its markers made anew."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- made: {name} -->\n", f"<!-- end: {name} -->"
        if (text.count(begin), text.count(end)) != (1, 1):
            raise SystemExit(f"the page does not have one place for {name}")
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text
