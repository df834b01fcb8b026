"""The accounts of the workload of `twinline verify`: made, logged in again, read and deleted."""

import ssl
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from twinline.core.deadline import Deadline
from twinline.core.errors import (
    BadCredentials,
    Busy,
    ShuttingDown,
    StoreUnavailable,
    TwinlineError,
    UsernameTaken,
)
from twinline.core.protocol import MAIL_ALONE, Kind, Kinds, Message
from twinline.transports.client import (
    Client,
    ClientClosed,
    ClientError,
    ClientSettings,
    WatchMode,
)
from twinline.transports.endpoints import Endpoint

PATIENCE: Final = ClientSettings(
    connect_seconds=2,
    reply_seconds=10,
    command_seconds=15,
    wait_seconds=5,
    backoff_first=0.05,
    backoff_max=0.5,
)
"""Quick to come back, because a run is short and its server is expected to."""
Places = str | Endpoint | Sequence[Endpoint]
"""Where clients connect: to one server, or to several with one state."""
_PAUSE: Final = 0.1


class Participant:
    """An account of this run, and a client that is logged in to it.

    Attributes:
        name: the username.
        client: of one worker's thread; others may ask for the status.
        life: how many sessions of it were lost.
        is_gone: whether the server has forgotten the account.
    """

    def __init__(
        self,
        name: str,
        password: str,
        endpoints: Places,
        *,
        transport: str | None,
        tls: ssl.SSLContext | None,
        kinds: Iterable[Kind] = (),
    ) -> None:
        """Connect to nothing yet.

        Args:
            name: the username.
            password: of the account.
            endpoints: where it connects.
            transport: to speak, or None for what the endpoint says.
            tls: for an endpoint over TLS.
            kinds: of the entries that it watches for; none: it does not watch.
        """
        self.name = name
        self.life = 0
        self.is_gone = False
        self._password = password
        self._endpoints = endpoints
        self._transport = transport
        self._tls = tls
        self._kinds: Kinds = frozenset(kinds)
        self.client = self._new_client(self._kinds)

    def create(self, deadline: Deadline, give_up: threading.Event) -> None:
        """Make the account, trying again while the server is not there or is busy.

        Raises:
            TwinlineError: not in time, or it is refused.
        """
        self.client.connect(deadline.remaining())
        while True:
            try:
                self._create_or_log_in()
            except (ClientError, Busy, ShuttingDown, StoreUnavailable):
                if deadline.passed or give_up.wait(_PAUSE):
                    raise
            else:
                return

    def log_in_again(self, give_up: threading.Event) -> None:
        """Open another session, for the server has forgotten the one there was."""
        try:
            self.client.login(self.name, self._password)
        except BadCredentials:
            self.is_gone = True
        except ClientClosed:
            return
        except TwinlineError:
            give_up.wait(_PAUSE)

    def history(self, kinds: Kinds = MAIL_ALONE) -> Iterator[Message]:
        """Yield the messages that are kept in the mailbox, the newest page first."""
        before: int | None = None
        while True:
            page = self.client.history(before, limit=1000, kinds=kinds)
            yield from page.messages
            if not page.more or not page.messages:
                return
            before = page.messages[0].seq

    def delete(self, seconds: float) -> bool:
        """Delete the account, and return whether it is not there any more."""
        try:
            if not self.is_gone:
                with self._new_client() as client:
                    client.connect(seconds)
                    client.login(self.name, self._password)
                    client.delete_account(self._password, force=True)
        except BadCredentials:
            return True  # the server does not know it
        except TwinlineError:
            return False
        return True

    def _create_or_log_in(self) -> None:
        try:
            self.client.create_account(self.name, self._password)
        except UsernameTaken:
            # The name is of this run: an attempt whose reply was lost has made it.
            self.client.login(self.name, self._password)

    def _new_client(self, kinds: Kinds = frozenset()) -> Client:
        return Client(
            self._endpoints,
            transport=self._transport,
            tls=self._tls,
            watch=WatchMode.STREAMING if kinds else WatchMode.OFF,
            kinds=kinds or MAIL_ALONE,
            settings=PATIENCE,
        )
