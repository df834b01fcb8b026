"""Fills in the settings: flags win over the environment, that over the file, that over defaults.

Each value's source is kept, to show it and to name it in an error. An unknown key is an
error that names the nearest known one; a value that cannot be is an error that says what can.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
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

    flags: Mapping[str, Any]
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


def check_file(path: Path) -> Settings:
    """Return the settings of one file alone, over the defaults.

    Raises:
        SettingsError: it cannot be read, or holds what it should not.
    """
    values = read_file(path)
    return _validate(values, dict.fromkeys(Settings.model_fields, f"file {path}"))


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
        if candidate.is_file():
            return candidate
    return None


def read_file(path: Path) -> Mapping[str, Any]:
    """Return what a settings file says, its keys checked and its values not.

    Raises:
        SettingsError: it cannot be read, is not TOML, or has an unknown key.
    """
    try:
        # The source opens only files that exist, and a missing one would read as an empty one.
        path.open("rb").close()
        values = TomlConfigSettingsSource(Settings, toml_file=path)()
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"the settings file {path} is not TOML: {error}") from None
    for name, value in values.items():
        if name not in Settings.model_fields:
            raise _unknown(f"file {path}", name, list(Settings.model_fields))
        if isinstance(value, bool) and Settings.model_fields[name].annotation is not bool:
            # pydantic would take true for the number 1.
            raise _impossible(name, f"file {path}", f"expected {describe_expected(name)}")
    return values


def _read_environment() -> Mapping[str, Any]:
    known = {variable_name(name) for name in Settings.model_fields} | OTHER_VARIABLES
    for variable in os.environ:
        if variable.upper().startswith(ENVIRONMENT_PREFIX) and variable.upper() not in known:
            raise _unknown("environment", variable, sorted(known))
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


def _unknown(source: str, name: str, known: list[str]) -> SettingsError:
    near = get_close_matches(name.replace("-", "_"), known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else "; 'twinline config show' lists all"
    return SettingsError(f"{source}: unknown setting {name}{hint}")


def _impossible(name: str, source: str, reason: str) -> SettingsError:
    return SettingsError(f"{source}: {name}: {reason}")
