"""How the client's commands build their requests, checked before anything is sent."""

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


def build_deletions(seqs: Iterable[int]) -> Iterator[protocol.DeleteMessages]:
    """Yield what deletes messages, as many at a time as a request may name."""
    left = tuple(seqs)
    while left:
        yield build(protocol.DeleteMessages, seqs=left[: protocol.MAX_PAGE])
        left = left[protocol.MAX_PAGE :]
