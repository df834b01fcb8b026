"""Writes `docs/protocol-vectors.json`: requests and replies with their bytes on both transports."""

import json
from collections.abc import Iterable
from typing import Any

from codec_samples import REPLIES, REQUESTS
from malformed_samples import (
    ALSO_ACCEPTED_BINARY,
    ALSO_ACCEPTED_JSONL,
    MALFORMED_BINARY,
    MALFORMED_JSONL,
    Malformed,
)

from twinline.core import protocol
from twinline.core.protocol import MAX_REPLY_BYTES, Reply, Request
from twinline.transports.registry import transport

TRANSPORTS = ("jsonl", "binary")


def request_bytes(name: str, id: int, request: Request) -> bytes:
    """Return a request as a transport writes it."""
    codec = transport(name).client_codec(MAX_REPLY_BYTES)
    codec.send(id, request)
    return codec.data_to_send()


def reply_bytes(name: str, id: int | None, reply: Reply) -> bytes:
    """Return a reply as a transport writes it."""
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
