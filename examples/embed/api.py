"""The JSON API itself, which knows of no server: what is asked in HTTP's words, and its reply."""

from urllib.parse import parse_qsl

from pydantic import ValidationError

from twinline.core import protocol
from twinline.core.errors import BadRequest, RequestError, UnknownOp, describe_validation_error
from twinline.core.protocol import ErrorReply, Reply, Request
from twinline.core.service import ChatService
from twinline.core.session import Session

ROUTES: dict[str, type[Request]] = {
    "POST /accounts": protocol.CreateAccount,
    "GET /accounts": protocol.ListAccounts,
    "POST /sessions": protocol.Login,
    "DELETE /sessions": protocol.Logout,
    "POST /messages": protocol.Send,
    "GET /messages": protocol.Watch,
    "POST /ack": protocol.Ack,
    "GET /ping": protocol.Ping,
}
STATUS = {
    "not_logged_in": 401,
    "bad_credentials": 401,
    "session_expired": 401,
    "refused": 403,
    "unknown_op": 404,
    "no_such_user": 404,
    "username_taken": 409,
    "send_id_conflict": 409,
    "frame_too_large": 413,
    "message_too_long": 413,
    "rate_limited": 429,
    "internal": 500,
}


def answer(
    service: ChatService,
    session: Session,
    method: str,
    target: str,
    authorization: str,
    *,
    body: bytes = b"",
    may_wait: bool = False,
) -> Reply:
    """Carry out one HTTP request, and return its reply or its refusal.

    Args:
        service: who carries it out.
        session: a new one, for this request alone.
        method: such as "POST".
        target: the path, and behind a "?" the query.
        authorization: the header of that name; "Bearer", and the token of the caller's session.
        body: a JSON object, or nothing.
        may_wait: whether this thread may wait for mail, as ``GET /messages?wait=25`` asks.
    """
    try:
        request = _read(method, target, body, may_wait=may_wait)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and not request.before_login:
            service.resume(session, token)
    except ValidationError as error:
        return BadRequest(describe_validation_error(error)).to_reply()
    except RequestError as refusal:
        return refusal.to_reply()
    return service.handle(session, request)


def _read(method: str, target: str, body: bytes, *, may_wait: bool) -> Request:
    path, _, query = target.partition("?")
    kind = ROUTES.get(f"{method} {path}")
    if kind is None:
        raise UnknownOp("there is nothing at this path")
    if method != "GET":
        return kind.model_validate_json(body or b"{}", by_name=False)
    fields = dict(parse_qsl(query, keep_blank_values=True))
    fields.pop("ack", None)  # a GET changes nothing: acks go by POST
    if not may_wait:
        fields.pop("wait", None)
    return kind.model_validate_strings(fields, by_name=False)


def response(reply: Reply) -> tuple[int, bytes]:
    """Return a reply's status and its body, in JSON."""
    body = reply.model_dump_json(exclude_none=True).encode()
    if not isinstance(reply, ErrorReply):
        return 200, body
    return STATUS.get(reply.code, 503 if reply.retryable else 400), b'{"error":%b}' % body
