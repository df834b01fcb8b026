"""Fills in the settings: flags win over the environment, that over the file, that over defaults.

Each value's source is kept, to show it and to name it in an error. An unknown key is an
error that names the nearest known one; a value that cannot be is an error that says what can.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from twinline.cli.console.errors import SettingsError
from twinline.cli.settings.model import ENVIRONMENT_PREFIX, Settings, describe_expected

FILE_NAME: Final = "twinline.toml"
MESSAGE_VARIABLES: Final = (
    "TWINLINE_SENDER",
    "TWINLINE_SEQ",
    "TWINLINE_MESSAGE_ID",
    "TWINLINE_SENT_AT",
)
"""What `watch --exec` tells its command, which may well run `twinline` itself."""
OTHER_VARIABLES: Final = frozenset({"TWINLINE_CONFIG", "TWINLINE_PASSWORD", *MESSAGE_VARIABLES})
"""Variables that are no settings: where the file is, a secret that no file should hold, and those
of a message."""
DEFAULT: Final = "default"
_NEAR: Final = 0.7
"""How like a setting's name an unknown one is (`difflib`) that is taken for a slip."""
_OF_SERVICE: Final = re.compile(
    rf"{ENVIRONMENT_PREFIX}(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""What Kubernetes tells every container of a service named twinline, or twinline-something."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each value comes from.

    Attributes:
        settings: the values in effect.
        sources: for each setting: ``flag --store``, ``environment TWINLINE_STORE``, ``file`` with
            its path, or ``default``.
        origin: what they were read from, to be read again.
    """

    settings: Settings
    sources: Mapping[str, str]
    origin: "Origin"

    def from_flag(self, name: str) -> bool:
        """Return whether a setting was given on the command line."""
        return self.sources[name].startswith("flag ")


@dataclass(frozen=True, slots=True)
class Origin:
    """What settings are read from, as often as they are.

    Attributes:
        flags: the settings given on the command line.
        path: the settings file, or None: there is none, also when one appears.
        flag_names: how a flag is written where it is not the setting's name, for errors.
    """

    flags: Mapping[str, Any] = field(repr=False)  # the store's URL may have a password
    path: Path | None
    flag_names: Mapping[str, str] = field(default_factory=dict)

    def load(self) -> Loaded:
        """Read every source and return what holds.

        Raises:
            SettingsError: a key is unknown, a value cannot be, or the file cannot be read.
        """
        path, written = self.path, self.flag_names
        layers: list[tuple[Mapping[str, Any], Callable[[str], str]]] = [
            (self.flags, lambda name: f"flag {written.get(name, flag_name(name))}"),
            (_read_environment(), lambda name: f"environment {variable_name(name)}"),
            (read_file(path) if path is not None else {}, lambda _: f"file {path}"),
        ]
        values: dict[str, Any] = {}
        sources = dict.fromkeys(Settings.model_fields, DEFAULT)
        for layer, source in reversed(layers):
            values |= layer
            sources |= {name: source(name) for name in layer}
        return Loaded(_validate(values, sources), sources, self)


class _Environment(EnvSettingsSource):
    """The variables as they are: a list is split by its own validator, not read as JSON."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:  # noqa: ARG002
        return value


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    config: Path | None = None,
    flag_names: Mapping[str, str] | None = None,
) -> Loaded:
    """Read every source and return what holds.

    Args:
        flags: the settings given on the command line.
        config: the file named on the command line.
        flag_names: how a flag is written where it is not the setting's name, for errors.

    Raises:
        SettingsError: a key is unknown, a value cannot be, or the named file cannot be read.
    """
    return Origin(flags or {}, find_file(config), flag_names or {}).load()


def flag_name(name: str) -> str:
    """Return a setting's flag: ``--log-level``."""
    return "--" + name.replace("_", "-")


def variable_name(name: str) -> str:
    """Return a setting's environment variable: ``TWINLINE_LOG_LEVEL``."""
    return ENVIRONMENT_PREFIX + name.upper()


def find_file(named: Path | None = None) -> Path | None:
    """Return the settings file: the one that is named, else the first that exists.

    Looked for are ``./twinline.toml`` and ``$XDG_CONFIG_HOME/twinline/twinline.toml``.

    Args:
        named: by a flag; else the variable TWINLINE_CONFIG may name one.
    """
    if named is not None:
        return named
    variable = os.environ.get("TWINLINE_CONFIG")
    if variable:
        return Path(variable)
    home = os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()
    for candidate in (Path(FILE_NAME), Path(home) / "twinline" / FILE_NAME):
        # It may be the home of another user, which this one cannot enter.
        with suppress(PermissionError):
            if candidate.is_file():
                return candidate
    return None


def read_file(path: Path) -> Mapping[str, Any]:
    """Return what a settings file says, its keys checked and its values not.

    Raises:
        SettingsError: it cannot be read, is not TOML, or has an unknown key.
    """
    try:
        if path.is_fifo():  # who opens one waits for its writer, for ever where there is none
            raise SettingsError(f"the settings file {path} is a pipe, and it is read several times")
        # The source opens only files that exist, and a missing one would read as an empty one.
        path.open("rb").close()
        values = TomlConfigSettingsSource(Settings, toml_file=path)()
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except RecursionError:
        raise SettingsError(f"the settings file {path} nests too deep") from None
    except ValueError as error:  # it is no TOML, no UTF-8, or has a number of thousands of digits
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None
    for name, value in values.items():
        _refuse_table(path, name, value)
        if name not in Settings.model_fields:
            raise _unknown(f"file {path}", name, list(Settings.model_fields))
        if isinstance(value, bool) and Settings.model_fields[name].annotation is not bool:
            # pydantic would take true for the number 1.
            raise _impossible(name, f"file {path}", f"expected {describe_expected(name)}")
    return values


def _refuse_table(path: Path, name: str, value: object) -> None:
    """Refuse a table, and a list of them: the file is flat.

    Raises:
        SettingsError: it is one; what to write instead is said of its first key.
    """
    brackets = f"[{name}]"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        brackets, value = f"[[{name}]]", value[0]
    if not isinstance(value, dict):
        return
    inside: dict[str, Any] = value
    while isinstance(next(iter(inside.values()), None), dict):
        inside = next(iter(inside.values()))
    key = next(iter(inside), None)
    instead = "remove it"
    if key is not None:
        known = list(Settings.model_fields)
        near = get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.5)
        instead = f"write {near[0] if near else key} = ... at the top level, without {brackets}"
    raise SettingsError(f"file {path}: {brackets}: the file has keys and no tables; {instead}")


def line_of(path: Path, name: str) -> int | None:
    """Return the line of a settings file, from 1, where a key is; None if that cannot be told."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError):
        return None
    key = re.compile(rf"""\s*(["']?){re.escape(name)}\1\s*=""")
    for number, line in enumerate(lines, start=1):
        if key.match(line):
            try:
                tomllib.loads("".join(lines[: number - 1]))
            except tomllib.TOMLDecodeError:
                continue  # it stands within a value of several lines
            return number
    return None


def unknown_variables() -> Iterator[str]:
    """Yield what there is to say of variables that begin as a setting's and are none.

    Raises:
        SettingsError: one is so near to a setting's that it will be meant.
    """
    known = {variable_name(name) for name in Settings.model_fields} | OTHER_VARIABLES
    suffixes = sorted(name.removeprefix(ENVIRONMENT_PREFIX) for name in known)
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(ENVIRONMENT_PREFIX) or name in known or _OF_SERVICE.fullmatch(name):
            continue
        suffix = name.removeprefix(ENVIRONMENT_PREFIX)
        if get_close_matches(suffix, suffixes, n=1, cutoff=_NEAR):
            raise _unknown("environment", variable, sorted(known))
        yield f"the variable {variable} is no setting, and does nothing"


def _read_environment() -> Mapping[str, Any]:
    for _ in unknown_variables():
        pass  # it is told by who has somebody to tell it to
    return _Environment(Settings)()


def _validate(values: Mapping[str, Any], sources: Mapping[str, str]) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        # A validator of ours has a sentence of its own; pydantic's speak of Python's types.
        own = first["type"] == "value_error"
        reason = str(first["ctx"]["error"]) if own else f"expected {describe_expected(name)}"
        raise _impossible(name, sources[name], reason) from None


def no_such_setting(name: str) -> SettingsError:
    """Return the refusal of a key that there is not, with the nearest one that there is."""
    return SettingsError(f"there is no setting {name}{_nearest(name, list(Settings.model_fields))}")


def _unknown(source: str, name: str, known: list[str]) -> SettingsError:
    return SettingsError(f"{source}: unknown setting {name}{_nearest(name, known)}")


def _nearest(name: str, known: list[str]) -> str:
    said = name.replace("-", "_")
    near = [each for each in known if each.startswith(said)]
    near = near or get_close_matches(said, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "; 'twinline config show' lists all"


def _impossible(name: str, source: str, reason: str) -> SettingsError:
    return SettingsError(f"{source}: {name}: {reason}")
