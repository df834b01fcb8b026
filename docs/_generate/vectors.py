"""Writes `docs/protocol-vectors.json`: requests and replies with their bytes on both transports."""

import json
from collections.abc import Iterable
from typing import Any

from codec_samples import REPLIES, REQUESTS, STREAMS
from malformed_samples import (
    ALSO_ACCEPTED_BINARY,
    ALSO_ACCEPTED_JSONL,
    MALFORMED_BINARY,
    MALFORMED_JSONL,
    Malformed,
)
from websocket_vectors import websocket_vectors

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
    return {"name": name} | _asked(id, request)


def _asked(id: int, request: Request) -> dict[str, Any]:
    return {
        "op": request.op,
        "model": type(request).__name__,
        "id": id,
        "fields": request.model_dump(mode="json"),
    }


def _answered(id: int | None, op: str, reply: Reply) -> dict[str, Any]:
    return {
        "to": op,
        "model": type(reply).__name__,
        "id": id,
        "fields": reply.model_dump(mode="json"),
    }


def _conversation(steps: Iterable[tuple[int, Request | Reply]]) -> list[dict[str, Any]]:
    """Return what is said on a connection, in the form of a request or a reply."""
    said = []
    asked: dict[int, str] = {}
    for number, message in steps:
        if isinstance(message, Request):
            asked[number] = message.op
            step = {"from": "client"} | _asked(number, message)
            made = {which: request_bytes(which, number, message).hex() for which in TRANSPORTS}
        else:
            step = {"from": "server"} | _answered(number, asked[number], message)
            made = {which: reply_bytes(which, number, message).hex() for which in TRANSPORTS}
        said.append(step | made)
    return said


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
        "out on the wire because they have their default too. 'streams' are conversations about "
        "streams: 'conversation' is what is said on a connection, in an order that can be, each "
        "message 'from' the 'client' or the 'server'. 'also_accepted' are other spellings of a "
        "request. 'malformed' are bytes that a server refuses with the error 'error' for the "
        "request 'id' under a limit of 'frame_limit' bytes; after a 'fatal' one the connection "
        "ends, after any other the next frame is read. 'websocket' has the same over WebSocket: "
        "handshakes, and frames with one masking key, of some of the requests and replies.",
        "protocol": protocol.PROTOCOL_VERSION,
        "requests": [
            _request(*sample)
            | {which: request_bytes(which, *sample[1:]).hex() for which in TRANSPORTS}
            for sample in REQUESTS
        ],
        "replies": [
            {"name": name}
            | _answered(reply_id, op, reply)
            | {which: reply_bytes(which, reply_id, reply).hex() for which in TRANSPORTS}
            for name, reply_id, op, reply in REPLIES
        ],
        "streams": [
            {"name": name, "conversation": _conversation(steps)} for name, steps in STREAMS
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
        "websocket": websocket_vectors(REQUESTS, REPLIES),
    }
    return json.dumps(content, indent=1) + "\n"
