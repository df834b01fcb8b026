"""The accounts of a run of `twinline bench`: made at its beginning, deleted at its end."""

import os
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from typing import Final, TypeVar

from twinline.cli.bench.sockets import LoadError
from twinline.cli.bench.wire import Wire
from twinline.core.errors import Busy, RequestError
from twinline.core.protocol import Ack, CreateAccount, DeleteAccount, Reply, Resume, SessionReply
from twinline.transports.contract import Transport
from twinline.transports.endpoints import Endpoint
from twinline.transports.registry import connecting_transport

# As many hashes as there are processors are made at once, and as many requests are on their way.
_THREADS: Final = 2 * (os.cpu_count() or 1)
_BUSY_PAUSE_SECONDS: Final = 0.5
_BUSY_ATTEMPTS: Final = 20
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")

OnDone = Callable[[int], None]
"""Called with how many more accounts are done, after each."""
ignore: Final[OnDone] = lambda _: None  # noqa: E731 - a default


@dataclass(frozen=True, slots=True)
class Member:
    """An account of the run: its name, and the token of a session that is open for it."""

    name: str
    token: str = field(repr=False)


class Accounts:
    """The accounts of one run at one server.

    Attributes:
        prefix: what their names begin with.
    """

    def __init__(
        self, endpoint: Endpoint, transport: Transport, tls: ssl.SSLContext | None = None
    ) -> None:
        """Prepare; nothing is made yet.

        Args:
            endpoint: of the server.
            transport: to speak.
            tls: for an endpoint over TLS.
        """
        self.prefix = f"bench-{secrets.token_hex(4)}"
        self._endpoint = endpoint
        self._transport = connecting_transport(endpoint, transport)
        self._tls = tls
        self._password = secrets.token_urlsafe(12)
        self._numbers = count()
        self._members: list[Member] = []  # appended to by several threads, which a list allows

    def make(self, wanted: int, on_done: OnDone = ignore) -> list[Member]:
        """Make so many more accounts, a password hash each.

        Raises:
            RequestError: the server refused one.
            LoadError: it does not answer, or ended a connection.
        """
        return _each(lambda _: self._make_one(), range(wanted), on_done)

    def acknowledge(self, members: Sequence[Member]) -> int:
        """Acknowledge all mail of some, and return how much there was.

        Raises:
            RequestError: the server refused it.
            LoadError: it does not answer, or ended a connection.
        """
        return sum(map(self._acknowledge_one, members))

    def delete(self, on_done: OnDone = ignore) -> int:
        """Delete every account, and return how many could not be."""
        members, self._members = self._members, []
        return len(members) - sum(_each(self._delete_one, members, on_done))

    def _wire(self) -> Wire:
        return Wire(self._endpoint, self._transport, self._tls)

    def _make_one(self) -> Member:
        name = f"{self.prefix}-{next(self._numbers)}"
        request = CreateAccount(username=name, password=self._password)
        for attempt in range(1, _BUSY_ATTEMPTS + 1):
            try:
                with closing(self._wire()) as wire:
                    member = Member(name, wire.ask(request, SessionReply).session)
            except Busy:
                # Every processor hashes for another request, which will end.
                if attempt == _BUSY_ATTEMPTS:
                    raise
                time.sleep(_BUSY_PAUSE_SECONDS)
            else:
                break
        self._members.append(member)
        return member

    def _acknowledge_one(self, member: Member) -> int:
        with closing(self._wire()) as wire:
            standing = wire.ask(Resume(session=member.token), SessionReply)
            if standing.unread:
                wire.ask(Ack(up_to=standing.position + standing.unread), Reply)
            return standing.unread

    def _delete_one(self, member: Member) -> bool:
        try:
            with closing(self._wire()) as wire:
                wire.ask(Resume(session=member.token), SessionReply)
                wire.ask(DeleteAccount(password=self._password, force=True), Reply)
        except (RequestError, LoadError):
            return False
        return True


def _each(work: Callable[[_Item], _Made], items: Sequence[_Item], on_done: OnDone) -> list[_Made]:
    """Do some work for each item, in a few threads; when it fails, no more of it is begun."""
    done: list[_Made] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for result in pool.map(work, items):
                done.append(result)
                on_done(1)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return done
