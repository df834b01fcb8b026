"""The requests of the client's commands, built and checked in one place for every facade."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from twinline.core import protocol
from twinline.core.errors import BadRequest
from twinline.core.protocol import MAX_PAGE


@contextmanager
def readable() -> Iterator[None]:
    """Turn a request that the protocol cannot express into the error that it would get.

    Raises:
        BadRequest: a field is mistyped or out of range; its value, a secret perhaps, is not told.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{place}: {first['msg']}") from None


def create_account(username: str, password: str) -> protocol.CreateAccount:
    """Return what creates an account and logs in to it."""
    with readable():
        return protocol.CreateAccount(username=username, password=password)


def login(username: str, password: str) -> protocol.Login:
    """Return what opens a session."""
    with readable():
        return protocol.Login(username=username, password=password)


def resume(token: str) -> protocol.Resume:
    """Return what goes on with a session."""
    with readable():
        return protocol.Resume(session=token)


def change_password(password: str, new_password: str) -> protocol.ChangePassword:
    """Return what sets another password."""
    with readable():
        return protocol.ChangePassword(password=password, new_password=new_password)


def delete_account(password: str, *, force: bool) -> protocol.DeleteAccount:
    """Return what deletes the account."""
    with readable():
        return protocol.DeleteAccount(password=password, force=force)


def list_accounts(pattern: str, after: str | None, limit: int) -> protocol.ListAccounts:
    """Return what asks for a page of usernames."""
    with readable():
        return protocol.ListAccounts(pattern=pattern, after=after, limit=limit)


def send(to: str, body: str, send_id: str) -> protocol.Send:
    """Return what sends a message."""
    with readable():
        return protocol.Send(to=to, body=body, send_id=send_id)


def ack(up_to: int) -> protocol.Ack:
    """Return what acknowledges."""
    with readable():
        return protocol.Ack(up_to=up_to)


def history(before: int | None, limit: int) -> protocol.History:
    """Return what asks for a page of the mailbox."""
    with readable():
        return protocol.History(before=before, limit=limit)


def delete_messages(seqs: Iterable[int]) -> Iterator[protocol.DeleteMessages]:
    """Yield what deletes messages, as many at a time as a request may name."""
    left = tuple(seqs)
    while left:
        with readable():
            request = protocol.DeleteMessages(seqs=left[:MAX_PAGE])
        yield request
        left = left[MAX_PAGE:]
