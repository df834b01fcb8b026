"""A workload of several senders and watchers that records its history, for `twinline verify`.

Every sender sends one message after another, each under an id that is in its body and is its
send_id as well; every mailbox has a watcher. A sender asks for copies, and has another device,
which watches for them and for receipts. All go on while the server is down, stopped or restarted.
A send whose outcome is unknown is repeated under its id until it is known. At the end every mailbox
is read until all that was acknowledged is there or nothing more comes, its history is read once
more, and the accounts are deleted.
"""

import contextlib
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
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
from twinline.core.protocol import EVERY_KIND, MAIL_ALONE, Entry, Kind, Kinds, Message
from twinline.stores.conformance.history import Op, Outcome, Recorder
from twinline.transports.client import ClientClosed, NotConnected

_PAUSE: Final = 0.1
_COPIES: Final[Kinds] = frozenset({Kind.SENT})
_MOST_BEHIND: Final = 500
"""A sender waits while so many of its copies have not come: a mailbox keeps 1,000, if not less."""
_TOLD_SECONDS: Final = 3.0
"""After that, with nothing under way, a receipt is taken for lost: one more message is sent."""
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
        settle_seconds: for the last replies, for the last receipts, for reading every mailbox, and
            for cleaning up, each; then what is open stays open.
        copies: whether senders ask for copies, and have a device that watches for them.
    """

    senders: int = 8
    mailboxes: int = 4
    rate: float = 200
    body_bytes: int = 128
    settle_seconds: float = 30
    copies: bool = True


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
        self._devices: dict[str, Participant] = {}  # by sender
        self._threads: list[threading.Thread] = []
        self._sending: list[threading.Thread] = []
        # Written by one thread each, so that no lock is needed.
        self._acknowledged: dict[str, dict[str, set[str]]] = {}  # by sender, then mailbox
        self._received: dict[str, set[str]] = {}  # by mailbox
        self._arrived: dict[str, float] = {}  # by mailbox: when the last one came
        self._copied: dict[str, set[str]] = {}  # by sender: the ids of the copies that came
        self._reached: dict[str, int] = {}  # by sender: the last seq that its device had
        self._accepted: dict[str, dict[str, int]] = {}  # by sender, then mailbox: the last n
        self._told: dict[str, dict[str, int]] = {}  # the same, of the last receipt

    # -- a run --------------------------------------------------------------------------

    def open(self) -> None:
        """Make the accounts.

        Raises:
            TwinlineError: the server cannot be reached, or refuses.
        """
        deadline = Deadline.after(self._settings.settle_seconds)
        for number in range(self._settings.senders):
            self._senders.append(self._account(f"s{number}"))
        for number in range(self._settings.mailboxes):
            self._readers.append(self._account(f"m{number}", MAIL_ALONE))
        if self._settings.copies:
            for number, sender in enumerate(self._senders):
                self._devices[sender.name] = self._account(f"s{number}", EVERY_KIND)
        for account in (*self._senders, *self._readers, *self._devices.values()):
            account.create(deadline, self._give_up)

    def start(self) -> None:
        """Let the watchers watch and the senders send."""
        names = [reader.name for reader in self._readers]
        self._received = {name: set() for name in names}
        self._acknowledged = {
            sender.name: {name: set() for name in names} for sender in self._senders
        }
        self._copied = {sender.name: set() for sender in self._senders}
        self._accepted = {sender.name: {} for sender in self._senders}
        self._told = {sender.name: {} for sender in self._senders}
        for account in (*self._readers, *self._devices.values()):
            self._begin(self._watch, account)
        for sender in self._senders:
            self._sending.append(self._begin(self._send_all, sender))

    def finish(self) -> None:
        """End sending, and read every mailbox to its end; the server is expected to be there."""
        self._stop.set()
        deadline = Deadline.after(self._settings.settle_seconds)
        for thread in self._sending:
            thread.join(deadline.remaining())
        if self._devices:
            self._settle(Deadline.after(self._settings.settle_seconds))
        deadline = Deadline.after(self._settings.settle_seconds)
        for reader in self._readers:
            self._drain(reader, deadline)
        for device in self._devices.values():
            self._drain_copies(device, deadline)
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
        for account in (*self._senders, *self._readers, *self._devices.values()):
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
            if self._is_behind(sender):
                continue
            reader = self._readers[secrets.randbelow(len(self._readers))]
            message_id = f"{sender.name}-{number}"
            self._send_one(sender, reader.name, message_id)
            if sender.is_gone:
                return

    def _is_behind(self, sender: Participant) -> bool:
        """Wait while too few of a sender's copies have come, and return whether to send no more."""
        if sender.name not in self._devices:
            return False
        while self._copies_due(sender) >= _MOST_BEHIND:
            if self._stop.wait(_PAUSE):
                return True
        return False

    def _send_one(self, sender: Participant, mailbox: str, message_id: str) -> bool:
        """Send a message until its outcome is known, and return whether it was accepted."""
        body = body_of(message_id, self._settings.body_bytes)
        copy = self._settings.copies
        record = partial(
            self._record,
            sender,
            Op.SEND,
            mailbox=mailbox,
            message_id=message_id,
            peer=sender.name if copy else None,
        )
        while True:
            record(Outcome.INVOKE)
            try:
                sent = sender.client.send(mailbox, body, send_id=message_id, copy=copy)
            except TwinlineError as error:
                outcome = outcome_of(error)
                record(outcome, note=type(error).__name__)
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
                record(Outcome.OK, n=sent.n, given=sent.message_id)
                self._accepted[sender.name][mailbox] = sent.n
                self._acknowledged[sender.name][mailbox].add(message_id)
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

    def _watch(self, account: Participant) -> None:
        """Receive until the end; a session that has ended is followed by another."""
        while not self._give_up.is_set() and not account.is_gone:
            try:
                for entry in account.client.entries():
                    self._take(account, entry)
            except ClientClosed:
                return
            except TwinlineError:
                pass
            # The session is over: the server has forgotten it.
            account.life += 1
            account.log_in_again(self._give_up)

    def _take(self, account: Participant, entry: Entry) -> None:
        if not isinstance(entry, Message):
            self._record(
                *(account, Op.RECEIPT, Outcome.OK, account.name),
                seq=entry.seq,
                peer=entry.username,
                n=entry.n,
            )
            self._told[account.name][entry.username] = entry.n
            self._reached[account.name] = entry.seq
            return
        message_id = self._note(account, Op.RECEIVE, entry)
        if entry.kind is Kind.SENT:
            self._copied[account.name].add(message_id)
            self._reached[account.name] = entry.seq
        else:
            self._received[account.name].add(message_id)
            self._arrived[account.name] = time.monotonic()

    def _note(self, account: Participant, op: Op, message: Message) -> str:
        """Record a message or a copy that came or was read, and return its id."""
        message_id = id_of(message, self._settings.body_bytes)
        self._record(
            *(account, op, Outcome.OK, account.name, message_id),
            seq=message.seq,
            peer=message.to,
            n=message.n,
            given=message.message_id,
        )
        return message_id

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
                    self._note(reader, Op.READ, message)
        self._record(reader, Op.DRAIN, outcome, reader.name, note=note or None)

    def _drain_copies(self, device: Participant, deadline: Deadline) -> None:
        """Wait until no more copies can come, and note what it was."""
        outcome, note = Outcome.INFO, "the server did not let it be read in time"
        while not deadline.passed:
            if device.is_gone:
                outcome, note = Outcome.FAIL, "the account is gone"
                break
            with contextlib.suppress(TwinlineError):
                # They come in order: who has had the newest has had all.
                newest = device.client.history(limit=1, kinds=_COPIES).messages
                if not newest or newest[0].seq <= self._reached.get(device.name, 0):
                    outcome, note = Outcome.OK, ""
                    break
            self._give_up.wait(_PAUSE)
        if outcome is Outcome.OK:
            with contextlib.suppress(TwinlineError):
                for message in device.history(_COPIES):
                    self._note(device, Op.READ, message)
        self._record(device, Op.DRAIN, outcome, device.name, note=note or None)

    # -- receipts -----------------------------------------------------------------------

    def _settle(self, deadline: Deadline) -> None:
        """Wait for the last receipts; for one that does not come, send once more and wait again."""
        quiet = deadline.sooner(_TOLD_SECONDS)
        while (due := self._untold()) and not quiet.passed:
            self._give_up.wait(_PAUSE)
            if not all(self._is_empty(reader) for _, reader in due):
                quiet = deadline.sooner(_TOLD_SECONDS)
        # Not where the server is away: there nothing is known to be late.
        here = [pair for pair in due if not deadline.passed and self._is_empty(pair[1])]
        mended = [pair for pair in here if self._send_once_more(*pair)]
        while self._untold() and not deadline.passed:
            self._give_up.wait(_PAUSE)
        for sender in self._senders:
            for reader in self._readers:
                is_told = reader.name in self._accepted[sender.name] and not self._waits(
                    sender, reader
                )
                if is_told or ((sender, reader) in mended and self._is_empty(reader)):
                    device = self._devices[sender.name]
                    self._record(device, Op.SETTLE, Outcome.OK, sender.name, peer=reader.name)

    def _send_once_more(self, sender: Participant, reader: Participant) -> bool:
        return self._send_one(
            sender, reader.name, f"{sender.name}-{reader.name.rpartition('-')[2]}"
        )

    def _untold(self) -> list[tuple[Participant, Participant]]:
        """Return who was not told yet that what was sent last has come, and by whom."""
        return [
            (sender, reader)
            for sender in self._senders
            for reader in self._readers
            if not (sender.is_gone or reader.is_gone or self._devices[sender.name].is_gone)
            if self._waits(sender, reader)
        ]

    def _waits(self, sender: Participant, reader: Participant) -> bool:
        """Return whether a receipt is to come for what was sent last."""
        told = self._told[sender.name].get(reader.name, 0)
        return self._accepted[sender.name].get(reader.name, 0) > told

    def _is_empty(self, reader: Participant) -> bool:
        try:
            return reader.client.status().unread == 0
        except TwinlineError:
            return False

    # -- the rest -----------------------------------------------------------------------

    def _copies_due(self, sender: Participant) -> int:
        acknowledged = sum(len(ids) for ids in self._acknowledged[sender.name].values())
        return acknowledged - len(self._copied[sender.name])

    def _account(self, name: str, kinds: Iterable[Kind] = ()) -> Participant:
        return Participant(
            f"{self._run}-{name}",
            self._password,
            self._watching if kinds else self._endpoints,
            transport=self._transport,
            tls=self._tls,
            kinds=kinds,
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
        peer: str | None = None,
        n: int | None = None,
        given: str | None = None,
        note: str | None = None,
    ) -> None:
        worker = account.name if op is Op.SEND else f"{account.name}.{account.life}"
        self._recorder.record(
            *(worker, op, outcome, mailbox),
            message=message_id,
            seq=seq,
            peer=peer,
            n=n,
            given=given,
            note=note,
        )
