"""How the client's commands build their requests, checked before anything is sent."""

import math
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from pydantic import ValidationError

from twinline.core import protocol
from twinline.core.errors import BadRequest, describe_validation_error

_R = TypeVar("_R", bound=protocol.Request)


def build(kind: type[_R], **fields: Any) -> _R:
    """Return a request.

    Raises:
        BadRequest: a field is mistyped or out of range; its value, a secret perhaps, is not shown.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise BadRequest(describe_validation_error(error)) from None


def build_history(
    before: int | None,
    limit: int,
    peer: str | None,
    account: str | None,
    kinds: Iterable[protocol.Kind] | None,
) -> protocol.History:
    """Return the request for a page of the mailbox.

    Raises:
        BadRequest: as `build`.
    """
    named = None if kinds is None else tuple(kinds)
    return build(
        protocol.History, before=before, limit=limit, with_=peer, account=account, kinds=named
    )


def limit_of(timeout: float | None) -> float | None:
    """Return an argument that is a time to wait; less than 0 is 0.

    Raises:
        BadRequest: it is neither a number of seconds nor None.
    """
    if timeout is None:
        return None
    if isinstance(timeout, int | float) and not math.isnan(timeout):
        return max(0, timeout)
    raise BadRequest("timeout: a number of seconds, or None")


def build_deletions(seqs: Iterable[int]) -> Iterator[protocol.DeleteMessages]:
    """Yield what deletes messages, as many at a time as a request may name."""
    left = tuple(seqs)
    while left:
        yield build(protocol.DeleteMessages, seqs=left[: protocol.MAX_PAGE])
        left = left[protocol.MAX_PAGE :]
