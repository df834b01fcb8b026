"""Looking after a store that this process does not serve: what the commands `twinline store` do."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from twinline.core.errors import TwinlineError
from twinline.core.store import Durability
from twinline.stores.archive import Archive

Step = Callable[[int, int, str], None]
"""Called with how many steps are done, how many there are, and what the next one looks at."""


def no_step(_done: int, _total: int, _what: str) -> None:
    """Tell nobody."""


class UpkeepError(TwinlineError):
    """A store cannot be looked after in this way; the text says why, and what can be done."""


def require_finished(name: str, filled_from: str) -> None:
    """See that a store is not the unfinished target of a copy.

    Args:
        name: the store's, for the message.
        filled_from: as `Archive` has it.

    Raises:
        UpkeepError: it is.
    """
    if filled_from:
        raise UpkeepError(
            f"{name} is the unfinished copy of {filled_from}; have it finished by saying "
            "the same 'twinline store copy' once more"
        )


@dataclass(frozen=True, slots=True)
class Findings:
    """What a check came to: sentences, each with a count; without faults the store is sound."""

    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class MailboxSize:
    """How much mail one mailbox holds.

    Attributes:
        username: whose it is; None: the account is gone.
        messages: how many, acked or not.
        unread: how many of them lie beyond the position.
        quota: how many unacked ones it may hold; None: as many as the policy says.
        mail_bytes: the bodies' bytes of UTF-8, copies included.
    """

    username: str | None
    messages: int
    unread: int
    quota: int | None
    mail_bytes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store holds.

    Attributes:
        accounts: how many there are, as of the next four.
        sessions: those that are open.
        mailboxes: whose accounts are gone too, until they are dropped.
        messages: acked or not.
        unread: those that lie beyond their mailbox's position.
        bytes: what the store takes in its engine or its file.
        schema_version: the version of its tables, or of its format.
        durability: what an acknowledged write survives.
        mail_bytes: the bodies' bytes of UTF-8, copies included; None: the store does not tell.
        largest: the mailboxes with the most of them, the largest first.
    """

    accounts: int
    sessions: int
    mailboxes: int
    messages: int
    unread: int
    bytes: int
    schema_version: int
    durability: Durability
    mail_bytes: int | None = None
    largest: tuple[MailboxSize, ...] = ()


@dataclass(frozen=True, slots=True)
class Migration:
    """The schema version before and after, and where the copy is, if one was made."""

    before: int
    after: int
    copy: str | None


class Upkeep(ABC):
    """What can be done to a store from outside; each call opens it, and lets go of it.

    What cannot be done raises `UpkeepError`, or what the engine and the store raise.

    Attributes:
        name: what the store is called in messages; no secret is in it.
    """

    name: str

    @abstractmethod
    def check(self, step: Step = no_step) -> Findings:
        """Check what the store relies on, also while servers use it."""

    @abstractmethod
    def repair(self) -> list[str]:
        """Mend what creating and deleting accounts can leave half done; no server may use it.

        Returns:
            What was mended: sentences, each with a count.
        """

    @abstractmethod
    def stats(self, largest: int = 0) -> Stats:
        """Count and measure what it holds, also while servers use it; all mail is read.

        Args:
            largest: how many of the largest mailboxes to tell of.
        """

    @abstractmethod
    def backup(self, target: Path, step: Step = no_step) -> None:
        """Copy it as it is at this moment to a file that is a SQLite store.

        Args:
            target: a file that is not there yet.
            step: called with the progress.
        """

    @abstractmethod
    def migrate(self, step: Step = no_step) -> Migration:
        """Bring an older one to the schema version of this program; no server may use it."""

    @abstractmethod
    def source(self) -> Archive:
        """Return what it keeps, to be moved to another store; no server may use it meanwhile."""

    @abstractmethod
    def target(self) -> Archive:
        """Return where another store's is to go: it is empty, or an unfinished target."""
