"""Write what is made from the program: tables and reference in the docs, vectors, the manual page.

Run ``python tests/regenerate.py`` after a change to the models or the commands, or to the README of
the example that the tutorial on transports is made from; tests compare.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from codec_samples import REPLIES, REQUESTS
from malformed_samples import (
    ALSO_ACCEPTED_BINARY,
    ALSO_ACCEPTED_JSONL,
    MALFORMED_BINARY,
    MALFORMED_JSONL,
    Malformed,
)
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from twinline.cli import cli_docs, man_page
from twinline.core import protocol
from twinline.core.errors import ERROR_BY_CODE
from twinline.core.protocol import (
    MAX_REPLY_BYTES,
    ErrorReply,
    Limits,
    Message,
    MessageId,
    Reply,
    Request,
)
from twinline.transports.binary.frames import ERROR_WITHOUT_ID, KIND_BY_REPLY, KIND_BY_REQUEST
from twinline.transports.registry import transport

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "protocol.md"
VECTORS = DOCS / "protocol-vectors.json"
TUTORIAL = DOCS / "how-to" / "write-a-transport.md"
TUTORIAL_SOURCE = DOCS.parent / "examples" / "msgpack_transport" / "README.md"
CLI_PAGE = DOCS / "cli.md"
MAN_PAGE = DOCS / "man" / "twinline.1"
TRANSPORTS = ("jsonl", "binary")


# ---------------------------------------------------------------------------------------
# Vectors


def request_bytes(name: str, id: int, request: Request) -> bytes:
    codec = transport(name).client_codec(MAX_REPLY_BYTES)
    codec.send(id, request)
    return codec.data_to_send()


def reply_bytes(name: str, id: int | None, reply: Reply) -> bytes:
    codec = transport(name).server_codec(MAX_REPLY_BYTES)
    codec.send(id, reply)
    return codec.data_to_send()


def _request(name: str, id: int, request: Request) -> dict[str, Any]:
    return {
        "name": name,
        "op": request.op,
        "model": type(request).__name__,
        "id": id,
        "fields": request.model_dump(mode="json"),
    }


def _malformed(cases: Iterable[Malformed]) -> list[dict[str, Any]]:
    return [
        {
            "name": case.name,
            "bytes": case.data.hex(),
            "frame_limit": case.frame_limit,
            "error": case.code,
            "id": case.id,
            "fatal": case.fatal,
        }
        for case in cases
    ]


def vectors() -> str:
    """Return the text of the vectors' file."""
    content = {
        "about": "Requests and replies with their exact bytes, as hexadecimal digits, on both "
        "transports; protocol.md explains them. 'fields' has every field, those that are left "
        "out on the wire because they have their default too. 'also_accepted' are other "
        "spellings of a request. 'malformed' are bytes that a server refuses with the error "
        "'error' for the request 'id' under a limit of 'frame_limit' bytes; after a 'fatal' one "
        "the connection ends, after any other the next frame is read.",
        "protocol": protocol.PROTOCOL_VERSION,
        "requests": [
            _request(*sample)
            | {which: request_bytes(which, *sample[1:]).hex() for which in TRANSPORTS}
            for sample in REQUESTS
        ],
        "replies": [
            {
                "name": name,
                "to": op,
                "model": type(reply).__name__,
                "id": reply_id,
                "fields": reply.model_dump(mode="json"),
            }
            | {which: reply_bytes(which, reply_id, reply).hex() for which in TRANSPORTS}
            for name, reply_id, op, reply in REPLIES
        ],
        "also_accepted": {
            which: [
                _request(name, request_id, request) | {"bytes": data.hex()}
                for name, data, request_id, request in cases
            ]
            for which, cases in (
                ("jsonl", ALSO_ACCEPTED_JSONL),
                ("binary", ALSO_ACCEPTED_BINARY),
            )
        },
        "malformed": {
            "jsonl": _malformed(MALFORMED_JSONL),
            "binary": _malformed(MALFORMED_BINARY),
        },
    }
    return json.dumps(content, indent=1) + "\n"


# ---------------------------------------------------------------------------------------
# Tables


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
    return {int: "integer", str: "text", bool: "truth value"}[annotation]


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
            f"| `{name}` | {type_text(annotations[name])} | {default} | {bit} "
            f"| {field.description} |"
        )
    return "\n".join(rows) + "\n"


def first_line(model: type) -> str:
    return (model.__doc__ or "").split("\n", 1)[0]


def requests_text() -> str:
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
        for model in (Message, Limits)
    )
    return "\n".join(parts)


def errors_text() -> str:
    rows = ["| code | retryable | meaning |", "|---|---|---|"]
    rows.extend(
        f"| `{code}` | {'yes' if kind.retryable else 'no'} | {first_line(kind)} |"
        for code, kind in ERROR_BY_CODE.items()
    )
    return "\n".join(rows) + "\n"


def example_text() -> str:
    """Return a send on both transports, as it is on the wire."""
    request = protocol.Send(to="bob", body="hi")
    reply = protocol.SentReply(message_id="0123456789abcdef01234567", sent_at=1_767_225_600_000)
    jsonl = request_bytes("jsonl", 1, request) + reply_bytes("jsonl", 1, reply)
    binary = [request_bytes("binary", 1, request), reply_bytes("binary", 1, reply)]
    frames = "\n".join(frame.hex(" ") for frame in binary)
    return f"```\n{jsonl.decode()}```\n\n```\n{frames}\n```\n"


SECTIONS = {
    "requests": requests_text,
    "replies": replies_text,
    "errors": errors_text,
    "example": example_text,
}


def page(text: str) -> str:
    """Return the page with each section between its markers made anew."""
    for name, make in SECTIONS.items():
        begin, end = f"<!-- made: {name} -->\n", f"<!-- end: {name} -->"
        if (text.count(begin), text.count(end)) != (1, 1):
            raise SystemExit(f"the page does not have one place for {name}")
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = f"{before}{begin}\n{make()}\n{end}{after}"
    return text


# ---------------------------------------------------------------------------------------
# The tutorial


def tutorial() -> str:
    """Return the example's README as a page of the documentation: its links start elsewhere."""
    text = TUTORIAL_SOURCE.read_text(encoding="utf-8")
    where = TUTORIAL_SOURCE.relative_to(DOCS.parent)
    made = f"<!-- made from {where} by tests/regenerate.py: change that one -->\n\n"
    return made + text.replace("](../../docs/", "](../")


def main() -> None:
    TUTORIAL.parent.mkdir(exist_ok=True)
    TUTORIAL.write_text(tutorial(), encoding="utf-8")
    VECTORS.write_text(vectors(), encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    CLI_PAGE.write_text(cli_docs.inserted(CLI_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    MAN_PAGE.write_text(man_page.page(), encoding="utf-8")


if __name__ == "__main__":
    main()
