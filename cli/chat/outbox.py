"""What was entered and the server has not stored yet: sent in order, and kept until it is.

Each chat that runs has a file of its own in the folder ``outbox`` beside the kept sessions, of mode
600, and holds a lock on it. What a chat leaves behind when it ends, or is killed, the next one of
the same account takes over. Every message has its send_id from the beginning, so one whose outcome
is not known is simply sent again, for as long as the server remembers it.
"""

import fcntl
import json
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import say
from twinline.core.clock import wall_clock_ms
from twinline.core.deadline import Deadline
from twinline.core.errors import MailboxFull, NotLoggedIn, RequestError, SessionExpired
from twinline.core.locks import new_lock
from twinline.core.protocol import SentReply
from twinline.core.waiting import Waiter
from twinline.transports.client import ClientClosed, ClientError

MOST: Final = 1_000
"""How many messages may wait."""
TOO_OLD_MS: Final = 20 * 3_600_000
"""A message that may have arrived is sent again for so long: a server remembers for 24 hours."""
_BUSY_SECONDS: Final = 1.0
"""Where a server is busy and does not say for how long."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that the server has not stored yet, as far as is known.

    Attributes:
        to: the recipient's username.
        body: the text.
        send_id: what it is sent under, each time.
        entered_at: in ms.
        in_doubt: whether it may have arrived.
    """

    to: str
    body: str
    send_id: str
    entered_at: int
    in_doubt: bool = False


class Outbox:
    """Sends what is put into it, one after the other, in a thread of its own.

    Attributes:
        waiting: what is not sent yet, in order; replaced as a whole.
    """

    def __init__(
        self,
        send: Callable[[str, str, str], SentReply],
        *,
        folder: Path | None,
        account: str,
        on_sent: Callable[[Waiting, SentReply], None],
        on_refused: Callable[[Waiting, Exception], None],
        on_change: Callable[[], None],
        on_fault: Callable[[Exception], None],
    ) -> None:
        """Take over what was left behind; nothing is sent before `start`.

        Args:
            send: sends to a username a body under a send_id.
            folder: of the files; None: nothing is kept.
            account: whose, at which server: any text that tells it from others.
            on_sent: called when the server has stored a message.
            on_refused: called when it never will, with why.
            on_change: called when others wait than before.
            on_fault: called when nothing more will be sent, for there is a bug.
        """
        self._send = send
        self._on_sent = on_sent
        self._on_refused = on_refused
        self._on_change = on_change
        self._on_fault = on_fault
        self._lock = new_lock("outbox")  # guards what waits, and its file
        self._file = None if folder is None else _OutboxFile.open(folder, account)
        left = [] if self._file is None else self._file.left
        self.waiting: tuple[Waiting, ...] = tuple(left)
        self._waiter = Waiter()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="outbox")

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def put(self, to: str, body: str) -> None:
        """Have a message sent when its turn comes.

        Raises:
            CommandError: too many wait.
        """
        entry = Waiting(to, body, uuid.uuid4().hex, wall_clock_ms())
        with self._lock:
            if len(self.waiting) >= MOST:
                raise CommandError(
                    f"{MOST} messages wait already; nothing more is taken", ExitCode.REFUSED
                )
            self._keep((*self.waiting, entry))
        self._on_change()
        self._waiter.wake()

    def hurry(self) -> None:
        """Try again now, where it waits: before another attempt, or for a session."""
        self._waiter.wake()

    def close(self) -> None:
        """End the thread; what waits is kept. The client must be closed before."""
        self._ended = True
        self._waiter.wake()
        if self._thread.ident is not None:
            self._thread.join()
        if self._file is not None:
            self._file.close(keep=bool(self.waiting))

    # -- the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ended:
                if not self.waiting:
                    self._waiter.wait(Deadline.after(None))
                else:
                    self._try(self.waiting[0])
        except ClientClosed:
            pass  # the talk is over
        except Exception as error:  # noqa: BLE001 - a bug must not leave a chat that sends nothing
            self._on_fault(error)

    def _try(self, entry: Waiting) -> None:
        if entry.in_doubt and entry.entered_at < wall_clock_ms() - TOO_OLD_MS:
            error = CommandError("it is not known whether this arrived", ExitCode.REFUSED)
            self._done(entry, lambda: self._on_refused(entry, error))
            return
        try:
            reply = self._send(entry.to, entry.body, entry.send_id)
        except ClientClosed as error:
            if error.send_id is not None:
                self._doubt(entry)
            raise
        except ClientError as error:
            # The client has tried for as long as a command may take, at its own pace.
            if error.send_id is not None:
                self._doubt(entry)
        except (NotLoggedIn, SessionExpired):
            self._waiter.wait(Deadline.after(None))  # until the person has logged in again
        except RequestError as error:
            # A mailbox that is full may be so for days, and others are written to meanwhile.
            if error.retryable and not isinstance(error, MailboxFull):
                self._waiter.wait(Deadline.after(error.retry_after(_BUSY_SECONDS)))
            else:
                refusal = error
                self._done(entry, lambda: self._on_refused(entry, refusal))
        else:
            self._done(entry, lambda: self._on_sent(entry, reply))

    def _done(self, entry: Waiting, tell: Callable[[], None]) -> None:
        with self._lock:
            self._keep(tuple(each for each in self.waiting if each.send_id != entry.send_id))
        tell()
        self._on_change()

    def _doubt(self, entry: Waiting) -> None:
        if not entry.in_doubt:
            doubted = replace(entry, in_doubt=True)
            with self._lock:
                self._keep((doubted, *self.waiting[1:]))

    def _keep(self, waiting: tuple[Waiting, ...]) -> None:
        """Replace what waits, in the file first; with the lock held."""
        if self._file is not None:
            self._file.write(waiting)
        self.waiting = waiting


class _OutboxFile:
    """What waits, on the disk: a line that says whose it is, and a line for each message."""

    def __init__(self, path: Path, file: IO[str], account: str, left: list[Waiting]) -> None:
        self._path, self._file, self._account = path, file, account
        self.left = left

    @classmethod
    def open(cls, folder: Path, account: str) -> "_OutboxFile | None":
        """Return a new file with what others have left; None where the folder cannot be written."""
        path = folder / f"{time.time_ns():020}-{uuid.uuid4().hex[:8]}"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Two chats that begin at once must not both take over a file.
            with (folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                taken = list(_left_behind(folder, account))
                file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+")
                fcntl.flock(file, fcntl.LOCK_EX)
                kept = cls(path, file, account, [each for _, found in taken for each in found])
                kept.write(tuple(kept.left))
                for old, _ in taken:
                    old.unlink()
        except OSError as error:
            say(f"twinline: what waits to be sent is not kept: {error.strerror}: {path}")
            return None
        return kept

    def write(self, waiting: tuple[Waiting, ...]) -> None:
        """Write anew what waits; where the disk is full it waits in memory alone."""
        lines = [json.dumps({"account": self._account})]
        lines += [json.dumps(asdict(each)) for each in waiting]
        text = "".join(f"{line}\n" for line in lines)
        # In place: of a kill before the file is cut, the end of the old text is left, which is a
        # part of a line, and messages that are in the new text too.
        with suppress(OSError):
            self._file.seek(0)
            self._file.write(text)
            self._file.truncate()
            self._file.flush()

    def close(self, *, keep: bool) -> None:
        """Let go of the file, and remove it if nothing is to be kept."""
        if not keep:
            with suppress(OSError):
                self._path.unlink()
        self._file.close()


def _left_behind(folder: Path, account: str) -> Iterator[tuple[Path, list[Waiting]]]:
    """Yield the files of chats that run no more, with what an account has in them, in order."""
    for path in sorted(folder.iterdir()):
        if path.name == "lock":
            continue
        with suppress(OSError), path.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # its chat runs
            lines = deque(file)
            if lines and _read(lines.popleft()).get("account") == account:
                yield path, list(_entries(lines))


def _entries(lines: deque[str]) -> Iterator[Waiting]:
    seen: set[str] = set()
    for line in lines:
        with suppress(TypeError):  # of another version
            fields = _read(line)
            if fields and fields.get("send_id") not in seen:
                entry = Waiting(**fields)
                seen.add(entry.send_id)
                yield entry


def _read(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}  # cut off by a crash
    return found if isinstance(found, dict) else {}
