"""Whatever the bytes and however they are cut: the models come back, or a documented error."""

from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest
from codec_samples import REPLIES, REQUESTS
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed_samples import MALFORMED_BINARY, MALFORMED_JSONL
from pydantic import BaseModel
from streams import cut, receive, receive_replies, shown

from twinline.core.errors import ERROR_BY_CODE
from twinline.core.protocol import (
    MAX_INT,
    AccountId,
    ErrorReply,
    MessageId,
    Ping,
    WatchReply,
)
from twinline.core.protocol import REQUESTS as REQUEST_MODELS
from twinline.transports.contract import (
    RemoteProtocolError,
    ReplyReceived,
    RequestReceived,
    RequestRefused,
)
from twinline.transports.registry import transport

NAMES = ("jsonl", "binary")
LIMIT = 1 << 20
IDS = st.integers(0, MAX_INT)
CUTS = st.lists(st.integers(0, LIMIT), max_size=12)
FEW = settings(max_examples=60, deadline=None)

# -- strategies, built from the models ---------------------------------------------------


def bounds(metadata: tuple[Any, ...]) -> dict[str, int]:
    """Return what the metadata of a field says about its range or its length."""
    found: dict[str, int] = {}
    for item in metadata:
        for rule in getattr(item, "metadata", [item]):
            for name in ("ge", "le", "min_length", "max_length"):
                if getattr(rule, name, None) is not None:
                    found[name] = getattr(rule, name)
    return found


def values(annotation: Any, metadata: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    if annotation == MessageId:
        return st.binary(min_size=12, max_size=12).map(bytes.hex)
    if annotation == AccountId:
        return st.binary(min_size=1, max_size=32).map(bytes.hex)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values(arguments[0], arguments[1:])
    if origin in (Union, UnionType):
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return st.none() | values(inner)
    limits = bounds(metadata)
    if origin is tuple:
        most = min(limits.get("max_length", 5), 5)
        return st.lists(
            values(arguments[0]), min_size=limits.get("min_length", 0), max_size=most
        ).map(tuple)
    if annotation is int:
        return st.integers(limits["ge"], limits["le"])
    if annotation is bool:
        return st.booleans()
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    if annotation is str:
        return st.text(max_size=200)
    return models(annotation)


def models(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    annotations = get_type_hints(model, include_extras=True)
    fields = {name: values(annotations[name]) for name in model.model_fields}
    return st.fixed_dictionaries(fields).map(lambda found: model(**found))


ANY_REQUEST = st.one_of(*map(models, REQUEST_MODELS))
REQUEST_FOR = {request.reply: request for request in REQUEST_MODELS}
LAST_REPLY = st.one_of(*map(models, [*REQUEST_FOR, ErrorReply])).filter(
    lambda reply: not reply.continues
)
STREAMED = models(WatchReply).map(lambda reply: reply.model_copy(update={"more": True}))
STREAM_END = st.one_of(models(WatchReply), models(ErrorReply)).filter(
    lambda reply: not reply.continues
)
# All the replies to one request: one, or those of a stream and its end.
ANSWER = st.one_of(
    LAST_REPLY.map(lambda reply: [reply]),
    st.builds(lambda some, end: [*some, end], st.lists(STREAMED, max_size=4), STREAM_END),
)
EXAMPLES = {type(request): request for _, _, request in REQUESTS}


# -- what goes in comes out --------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(requests=st.lists(st.tuples(IDS, ANY_REQUEST), min_size=1, max_size=5), cuts=CUTS)
def test_requests_come_back_however_they_are_cut(name, requests, cuts):
    client, server = transport(name).client_codec(LIMIT), transport("auto").server_codec(LIMIT)
    for number, request in requests:
        client.send(number, request)
    received = receive(server, cut(client.data_to_send(), cuts))
    assert received == [RequestReceived(number, request) for number, request in requests]
    assert not server.mid_frame


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(answers=st.lists(st.tuples(IDS, ANSWER), min_size=1, max_size=5), cuts=CUTS)
def test_replies_come_back_however_they_are_cut(name, answers, cuts):
    client, server = transport(name).client_codec(LIMIT), transport(name).server_codec(LIMIT)
    sent = []
    for number, replies in answers:
        client.send(number, EXAMPLES[REQUEST_FOR.get(type(replies[0]), Ping)])
        for reply in replies:
            server.send(number, reply)
            sent.append(ReplyReceived(number, reply))
    received = receive_replies(client, cut(server.data_to_send(), cuts))
    assert received == sent
    assert not client.mid_frame


# -- any bytes at all --------------------------------------------------------------------

GOOD = {
    name: [
        next(
            data
            for codec in [transport(name).client_codec(LIMIT)]
            for data in [codec.send(number, request) or codec.data_to_send()]
        )
        for _, number, request in REQUESTS
    ]
    for name in NAMES
}
BAD = {
    "jsonl": [case.data for case in MALFORMED_JSONL if len(case.data) < 300],
    "binary": [case.data for case in MALFORMED_BINARY if len(case.data) < 300],
}


def mutated(good: bytes, at: int, byte: int, how: str) -> bytes:
    at %= len(good)
    if how == "replace":
        return good[:at] + bytes([byte]) + good[at + 1 :]
    if how == "insert":
        return good[:at] + bytes([byte]) + good[at:]
    return good[:at] + good[at + 1 :]


def streams(name: str) -> st.SearchStrategy[bytes]:
    """Good frames, bad frames, frames with one byte changed, and noise, in any order."""
    changed = st.builds(
        mutated,
        st.sampled_from(GOOD[name]),
        st.integers(0, 999),
        st.integers(0, 255),
        st.sampled_from(["replace", "insert", "remove"]),
    )
    parts = st.one_of(
        st.sampled_from(GOOD[name]), st.sampled_from(BAD[name]), changed, st.binary(max_size=40)
    )
    return st.lists(parts, max_size=6).map(b"".join)


@pytest.mark.parametrize("spoken", NAMES)
@pytest.mark.parametrize("served", [*NAMES, "auto"])
@FEW
@given(data=st.data(), limit=st.integers(16, 300), cuts=CUTS)
def test_any_bytes_become_events_that_do_not_depend_on_the_cuts(served, spoken, data, limit, cuts):
    stream = data.draw(streams(spoken))
    seen = []
    for way in ([stream], cut(stream, cuts), cut(stream, range(len(stream)))):
        server = transport(served).server_codec(limit)
        events = receive(server, way)
        for event in events:
            if isinstance(event, RequestRefused):
                assert event.error.code in ERROR_BY_CODE
                server.send(event.id, event.error.to_reply())
        assert all(not event.fatal for event in events[:-1] if isinstance(event, RequestRefused))
        middle = server.mid_frame
        server.receive_eof()
        assert server.next_event() is None
        assert not server.mid_frame
        seen.append((list(map(shown, events)), server.data_to_send(), middle))
    assert seen[0] == seen[1] == seen[2]


def replies_of(name: str) -> st.SearchStrategy[bytes]:
    good = []
    for _, number, _, reply in REPLIES:
        server = transport(name).server_codec(LIMIT)
        server.send(number, reply)
        good.append(server.data_to_send())
    changed = st.builds(
        mutated,
        st.sampled_from(good),
        st.integers(0, 999),
        st.integers(0, 255),
        st.sampled_from(["replace", "insert", "remove"]),
    )
    parts = st.one_of(st.sampled_from(good), changed, st.binary(max_size=40))
    return st.lists(parts, max_size=4).map(b"".join)


@pytest.mark.parametrize("name", NAMES)
@FEW
@given(
    data=st.data(),
    requests=st.lists(st.sampled_from(REQUESTS), max_size=6),
    limit=st.integers(16, 5_000),
    cuts=CUTS,
)
def test_any_bytes_become_replies_or_a_protocol_error(name, data, requests, limit, cuts):
    stream = data.draw(replies_of(name))
    seen = []
    for way in ([stream], cut(stream, cuts), cut(stream, range(len(stream)))):
        client = transport(name).client_codec(limit)
        for _, number, request in requests:
            client.send(number, request)
        events: list[object] = []
        try:
            for piece in way:
                client.receive_data(piece)
                while (event := client.next_event()) is not None:
                    events.append(event)
        except RemoteProtocolError as error:
            events.append(str(error))
            client.receive_data(stream)
            assert client.next_event() is None
        seen.append(events)
    assert seen[0] == seen[1] == seen[2]
