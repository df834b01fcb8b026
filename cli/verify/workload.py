"""A workload of several senders and watchers that records its history, for `twinline verify`.

Every sender sends one message after another, each under an id that is in its body and is its
send_id as well; every mailbox has a watcher. Both go on while the server is down, stopped or
restarted. A send whose outcome is unknown is repeated under its id until it is known. At the end
every mailbox is read until all that was acknowledged is there or nothing more comes, its history
is read once more, and the accounts are deleted.
"""

import contextlib
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final

from twinline.cli.console.output import say
from twinline.cli.verify.accounts import Participant, Places
from twinline.cli.verify.messages import body_of, id_of, outcome_of
from twinline.core.deadline import Deadline
from twinline.core.errors import (
    NoSuchUser,
    NotLoggedIn,
    RateLimited,
    SessionExpired,
    TwinlineError,
)
from twinline.core.locks import new_lock
from twinline.core.protocol import Message
from twinline.stores.conformance.history import Op, Outcome, Recorder
from twinline.transports.client import ClientClosed, NotConnected

_PAUSE: Final = 0.1
_QUIET_SECONDS: Final = 1.0
"""A mailbox from which nothing has come for so long is taken for read, if nothing is missing."""


@dataclass(frozen=True)
class WorkloadSettings:
    """How much is done.

    Attributes:
        senders: how many send.
        mailboxes: how many accounts receive, each with a watcher.
        rate: sends a second, of all senders together; 0 is as fast as they can.
        body_bytes: the length of a body, at least that of its id.
        settle_seconds: for the last replies, for reading every mailbox, and for cleaning up,
            each; then what is open stays open.
    """

    senders: int = 8
    mailboxes: int = 4
    rate: float = 200
    body_bytes: int = 128
    settle_seconds: float = 30


class Workload:
    """One run against one server, or several with one state.

    Call `open`, `start`, after a while `finish`, and `close` in any case.
    """

    def __init__(
        self,
        endpoints: Places,
        recorder: Recorder,
        settings: WorkloadSettings | None = None,
        *,
        watching: Places | None = None,
        transport: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Prepare; nothing is connected yet.

        Args:
            endpoints: of the server, or of those that a client may use.
            recorder: of the history.
            settings: None for the defaults.
            watching: of those that the watchers use instead; None for the same.
            transport: to speak, or None for what the endpoint says.
            tls: for an endpoint over TLS; None trusts what the system does.
        """
        self._endpoints = endpoints
        self._watching = endpoints if watching is None else watching
        self._transport = transport
        self._tls = tls
        self._recorder = recorder
        self._settings = settings or WorkloadSettings()
        self._run = f"verify-{secrets.token_hex(4)}"
        self._password = secrets.token_urlsafe(12)
        self._stop = threading.Event()  # no new send
        self._give_up = threading.Event()  # nothing more at all
        self._limit_lock = new_lock("verify limit")
        self._limit_known = False  # it was said that the rate is limited; guarded by _limit_lock
        self._senders: list[Participant] = []
        self._readers: list[Participant] = []
        self._threads: list[threading.Thread] = []
        self._sending: list[threading.Thread] = []
        # Written by one thread each, so that no lock is needed.
        self._acknowledged: dict[str, dict[str, set[str]]] = {}  # by sender, then mailbox
        self._received: dict[str, set[str]] = {}  # by mailbox
        self._arrived: dict[str, float] = {}  # by mailbox: when the last one came

    # -- a run --------------------------------------------------------------------------

    def open(self) -> None:
        """Make the accounts.

        Raises:
            TwinlineError: the server cannot be reached, or refuses.
        """
        deadline = Deadline.after(self._settings.settle_seconds)
        for number in range(self._settings.senders):
            self._senders.append(self._account(f"s{number}", watches=False))
        for number in range(self._settings.mailboxes):
            self._readers.append(self._account(f"m{number}", watches=True))
        for account in (*self._senders, *self._readers):
            account.create(deadline, self._give_up)

    def start(self) -> None:
        """Let the watchers watch and the senders send."""
        names = [reader.name for reader in self._readers]
        self._received = {name: set() for name in names}
        self._acknowledged = {
            sender.name: {name: set() for name in names} for sender in self._senders
        }
        for reader in self._readers:
            self._begin(self._watch, reader)
        for sender in self._senders:
            self._sending.append(self._begin(self._send_all, sender))

    def finish(self) -> None:
        """End sending, and read every mailbox to its end; the server is expected to be there."""
        self._stop.set()
        deadline = Deadline.after(self._settings.settle_seconds)
        for thread in self._sending:
            thread.join(deadline.remaining())
        deadline = Deadline.after(self._settings.settle_seconds)
        for reader in self._readers:
            self._drain(reader, deadline)
        self._give_up.set()

    def close(self, *, clean: bool = True) -> int:
        """End every thread.

        Args:
            clean: delete the accounts too, as far as the server lets it.

        Returns:
            How many accounts are left at the server.
        """
        self._stop.set()
        self._give_up.set()
        deadline = Deadline.after(self._settings.settle_seconds)
        for account in (*self._senders, *self._readers):
            account.client.close()
        for thread in self._threads:
            thread.join(deadline.remaining())
        accounts = (*self._senders, *self._readers)
        if not clean:
            return len(accounts)
        return sum(deadline.passed or not account.delete(_QUIET_SECONDS) for account in accounts)

    @property
    def prefix(self) -> str:
        """What the names of this run's accounts begin with."""
        return f"{self._run}-"

    @property
    def acknowledged(self) -> int:
        """How many sends were acknowledged so far."""
        return sum(len(ids) for boxes in self._acknowledged.values() for ids in boxes.values())

    def acknowledged_ids(self) -> set[str]:
        """Return the ids of the messages that were acknowledged so far."""
        return {
            message_id
            for boxes in self._acknowledged.values()
            for ids in boxes.values()
            for message_id in tuple(ids)
        }

    @property
    def received(self) -> int:
        """How many different messages were received so far."""
        return sum(len(ids) for ids in self._received.values())

    # -- sending ------------------------------------------------------------------------

    def _send_all(self, sender: Participant) -> None:
        pace = self._settings.senders / self._settings.rate if self._settings.rate else 0.0
        # Not all at the same moments.
        due = time.monotonic() + pace * secrets.randbelow(1000) / 1000
        for number in count(1):
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            due = max(due + pace, time.monotonic() - pace)
            reader = self._readers[secrets.randbelow(len(self._readers))]
            message_id = f"{sender.name}-{number}"
            if self._send_one(sender, reader.name, message_id):
                self._acknowledged[sender.name][reader.name].add(message_id)
            if sender.is_gone:
                return

    def _send_one(self, sender: Participant, mailbox: str, message_id: str) -> bool:
        """Send a message until its outcome is known, and return whether it was accepted."""
        body = body_of(message_id, self._settings.body_bytes)
        while True:
            self._record(sender, Op.SEND, Outcome.INVOKE, mailbox, message_id)
            try:
                sender.client.send(mailbox, body, send_id=message_id)
            except TwinlineError as error:
                outcome = outcome_of(error)
                self._record(
                    sender, Op.SEND, outcome, mailbox, message_id, note=type(error).__name__
                )
                if isinstance(error, ClientClosed):
                    return False
                # Nothing was done this time, and a send after the drain would spoil it.
                if self._stop.is_set() and isinstance(error, RateLimited | NotConnected):
                    return False
                if self._rest(error):
                    return False
                if isinstance(error, NotLoggedIn | SessionExpired):
                    sender.log_in_again(self._give_up)
                    if sender.is_gone:
                        return False
                elif isinstance(error, NoSuchUser):
                    return False  # the reader is gone, and will not come back
                elif outcome is Outcome.FAIL and not isinstance(error, NotConnected):
                    return False
            else:
                self._record(sender, Op.SEND, Outcome.OK, mailbox, message_id)
                return True

    def _rest(self, error: TwinlineError) -> bool:
        """Wait before another attempt, and return whether there shall be none."""
        if not isinstance(error, RateLimited):
            return self._give_up.wait(_PAUSE)
        with self._limit_lock:
            known, self._limit_known = self._limit_known, True
        if not known:
            say("the server limits the rate of sends; this sends as fast as it lets")
        # Whoever has to wait for its turn need not wait for the end of the run as well.
        self._stop.wait(max(_PAUSE, error.retry_after()))
        return self._give_up.is_set()

    # -- receiving ----------------------------------------------------------------------

    def _watch(self, reader: Participant) -> None:
        """Receive until the end; a session that has ended is followed by another."""
        while not self._give_up.is_set() and not reader.is_gone:
            try:
                for message in reader.client.messages():
                    self._take(reader, message)
            except ClientClosed:
                return
            except TwinlineError:
                pass
            # The session is over: the server has forgotten it.
            reader.life += 1
            reader.log_in_again(self._give_up)

    def _take(self, reader: Participant, message: Message) -> None:
        message_id = id_of(message, self._settings.body_bytes)
        self._record(reader, Op.RECEIVE, Outcome.OK, reader.name, message_id, seq=message.seq)
        self._received[reader.name].add(message_id)
        self._arrived[reader.name] = time.monotonic()

    def _drain(self, reader: Participant, deadline: Deadline) -> None:
        """Wait until nothing more can come, and note what it was."""
        expected = {
            message_id for boxes in self._acknowledged.values() for message_id in boxes[reader.name]
        }
        outcome, note = Outcome.INFO, "the server did not let it be read in time"
        while not deadline.passed:
            if reader.is_gone:
                outcome, note = Outcome.FAIL, "the account is gone"
                break
            if self._is_empty(reader):
                quiet = time.monotonic() - self._arrived.get(reader.name, 0.0)
                if expected <= self._received[reader.name] or quiet > _QUIET_SECONDS:
                    outcome, note = Outcome.OK, ""
                    break
            self._give_up.wait(_PAUSE)
        if outcome is Outcome.OK:
            with contextlib.suppress(TwinlineError):
                for message in reader.history():
                    message_id = id_of(message, self._settings.body_bytes)
                    self._record(
                        reader, Op.READ, Outcome.OK, reader.name, message_id, seq=message.seq
                    )
        self._record(reader, Op.DRAIN, outcome, reader.name, note=note or None)

    def _is_empty(self, reader: Participant) -> bool:
        try:
            return reader.client.status().unread == 0
        except TwinlineError:
            return False

    # -- the rest -----------------------------------------------------------------------

    def _account(self, name: str, *, watches: bool) -> Participant:
        return Participant(
            f"{self._run}-{name}",
            self._password,
            self._watching if watches else self._endpoints,
            transport=self._transport,
            tls=self._tls,
            watches=watches,
        )

    def _begin(self, run: Callable[[Participant], None], account: Participant) -> threading.Thread:
        thread = threading.Thread(target=run, args=(account,), name=account.name, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _record(
        self,
        account: Participant,
        op: Op,
        outcome: Outcome,
        mailbox: str,
        message_id: str | None = None,
        *,
        seq: int | None = None,
        note: str | None = None,
    ) -> None:
        worker = account.name if op is Op.SEND else f"{account.name}.{account.life}"
        self._recorder.record(worker, op, outcome, mailbox, message=message_id, seq=seq, note=note)
