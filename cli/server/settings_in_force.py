"""What `twinline serve` does when its settings change: checks them, and has in force what can be.

All or nothing: what is wrong with any of them, or with the ones that would be in force beside those
that need a restart, leaves everything as it was. `SettingsInForce` is the first `Part` behind the
``reload`` door, and a `Source` says where the settings come from: the file of a server
(`SettingsFile`), or the parent of a node (`cli.server.node`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from twinline.cli.console.errors import SettingsError
from twinline.cli.server.reload import Outcome
from twinline.cli.server.trial import for_trial
from twinline.cli.settings.checks import check_settings
from twinline.cli.settings.model import SERVER_FIELDS, Settings
from twinline.cli.settings.sources import Origin
from twinline.core.reloading import OnReload, on_reload
from twinline.core.store import MailboxPolicy

POLICY: Final = frozenset(MailboxPolicy.model_fields)
"""The settings that only some stores can change while they are used."""


class Source(ABC):
    """Where the settings of a server come from.

    Attributes:
        checks: whether they are to be checked by who reads them.
        tells: whether it is told that nothing has changed.
    """

    checks = True
    tells = True

    @property
    @abstractmethod
    def name(self) -> str:
        """What they are, for a person."""

    @property
    def is_live(self) -> bool:
        """Whether they can change at all."""
        return True

    @abstractmethod
    def files(self) -> Iterable[str]:
        """Return the files that they are read from."""

    @abstractmethod
    def read(self) -> Settings:
        """Return the settings as they are to be now.

        Raises:
            SettingsError: they are wrong.
        """

    def ask(self, wake: Callable[[], None]) -> None:
        """Have them looked for, and `wake` called when they can be read; from any thread."""
        wake()


class SettingsFile(Source):
    """The settings file that was found at the start, below the same variables and flags."""

    def __init__(self, origin: Origin, trial: Path | None = None) -> None:
        """Read nothing yet.

        Args:
            origin: what they are read from.
            trial: the folder of a certificate for a trial, or None.
        """
        self._origin = origin
        self._trial = trial

    @property
    def name(self) -> str:
        """See `Source`: the file."""
        return str(self._origin.path)

    @property
    def is_live(self) -> bool:
        """See `Source`: without a file they are not, for flags and variables stay."""
        return self._origin.path is not None

    def files(self) -> Iterable[str]:
        """See `Source`."""
        return () if self._origin.path is None else (str(self._origin.path),)

    def read(self) -> Settings:
        """See `Source`."""
        path = self._origin.path
        # A full disk, or a program that stopped in the middle, leaves such a file. To take it for
        # the defaults would open a server to everybody that was closed.
        if path is not None and path.is_file() and path.stat().st_size == 0:
            raise SettingsError(
                f"the settings file {path} is empty; for the defaults, write a comment into it"
            )
        settings = self._origin.load().settings
        return settings if self._trial is None else for_trial(settings, self._trial)[0]


FIXED: Final = SettingsFile(Origin({}, None))
"""No file: the settings stay as they are."""
Apply = Callable[[Settings, frozenset[str]], None]
"""Has settings in force, of which those with these names have changed."""


class SettingsInForce:
    """The settings of a server that serves; all is called by the reloader's thread.

    Attributes:
        now: those in force.
        refusal: why what was read last is not; None: it is.
    """

    def __init__(
        self,
        settings: Settings,
        source: Source,
        apply: Apply,
        *,
        change_policy: Callable[[MailboxPolicy], bool],
    ) -> None:
        """Begin with those that the server was started with.

        Args:
            settings: these.
            source: where others come from.
            apply: has settings in force; it may raise `SettingsError`, and then has done nothing.
            change_policy: as `twinline.core.store.Store` has it.
        """
        self.now = settings
        self.refusal: str | None = None
        self._source = source
        self._apply = apply
        self._change_policy = change_policy
        self._warnings: list[str] = []

    def files(self) -> Iterable[str]:
        """See `Part`."""
        return self._source.files()

    def warnings(self) -> Iterable[str]:
        """See `Part`: what the last settings that were read should make an operator think of."""
        return self._warnings

    def reload(self) -> Sequence[Outcome]:
        """See `Part`."""
        name = self._source.name
        try:
            outcome = self._take(name, self._source.read())
        except SettingsError as error:
            self.refusal = str(error)
            return [Outcome(name, kept=self.refusal)]
        self.refusal = None
        return [] if outcome is None else [outcome]

    def _take(self, name: str, wanted: Settings) -> Outcome | None:
        before = self.now
        changed = frozenset(
            each for each in SERVER_FIELDS if getattr(wanted, each) != getattr(before, each)
        )
        if not changed:
            return Outcome(name, "nothing has changed") if self._source.tells else None
        waits = frozenset(
            each for each in changed if on_reload(Settings.model_fields[each]) is OnReload.RESTART
        )
        mixed = _with(before, wanted, changed - waits)
        self._check(wanted, mixed, waits)
        self._apply(mixed, changed - waits)
        policy = changed & POLICY
        if policy and not self._change_policy(mixed):
            waits |= policy
            mixed = _with(mixed, before, policy)
        self.now = mixed
        told = [
            f"{each} is {_shown(getattr(mixed, each))} instead of {_shown(getattr(before, each))}"
            for each in SERVER_FIELDS
            if each in changed - waits
        ]
        return Outcome(
            name,
            ", ".join(told) or "nothing has changed that can while the server runs",
            waits=tuple(each for each in SERVER_FIELDS if each in waits),
        )

    def _check(self, wanted: Settings, mixed: Settings, waits: frozenset[str]) -> None:
        """Refuse settings that a server would not start with, and those that do not fit now."""
        if not self._source.checks:
            return
        in_use = self.now.store
        self._warnings = check_settings(wanted, wanted.endpoints(), store_in_use=in_use)
        if waits:
            try:
                self._warnings = check_settings(mixed, mixed.endpoints(), store_in_use=in_use)
            except SettingsError as error:
                raise SettingsError(
                    f"{', '.join(sorted(waits))} can only change with a restart, and with what is "
                    f"in force until then: {error}"
                ) from None


def _with(settings: Settings, others: Settings, names: Iterable[str]) -> Settings:
    """Return settings with those of these names from others."""
    return settings.model_copy(update={name: getattr(others, name) for name in names})


def _shown(value: Any) -> str:
    if value is None or value == ():
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
