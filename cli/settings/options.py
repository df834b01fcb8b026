"""Makes flags from the settings, and reads them back: one flag, one setting, one description."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from twinline.cli.console.command import option
from twinline.cli.settings.model import GROUPS, ClientCommandSettings, Settings
from twinline.cli.settings.sources import Loaded, Origin, find_file, flag_name

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_TITLES: Final = {name: title for title, model in GROUPS for name in model.model_fields}

# What a client command calls a setting; on `config show` it has its full name.
CLIENT_FLAGS: Final[Mapping[str, str]] = {"client_transport": "--transport"}

# The short help of the flags that many commands share, and of the settings that most people
# need; all others stand in the long help only.
BRIEF: Final[Mapping[str, str]] = {
    "listen": "Where to listen. Repeatable.",
    "transport": "What is spoken there; auto is all of it.",
    "listener": "threads, one each; or loop, one for all.",
    "store": "Where the state is kept.",
    "nodes": "Start so many processes of it.",
    "log_level": "debug, info, warning or error.",
    "insecure": "Allow plain TCP and ws:// beyond this machine.",
    "tls_certificate": "The server's certificate, for tls and wss.",
    "tls_key": "Its key.",
    "connect": "The server. Repeatable.",
    "client_transport": "What to speak, unless ENDPOINT says.",
    "user": "The account to act as, not the last to log in.",
    "timeout": "Wait so long for the server.",
    "ca_file": "Trust these in TLS, not the system's.",
}

config_option: Final = option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the settings from <FILE|this file>.<|  [default: ./twinline.toml, "
    "~/.config/twinline/twinline.toml]>",
)
json_option: Final = option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")


def settings_options(
    *models: type[BaseModel],
    names: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    rare: Collection[str] = (),
    grouped: bool = False,
) -> Callable[[Decorated], Decorated]:
    """Return a decorator that gives a command a flag for every setting of these models.

    Args:
        models: parts of `Settings`.
        names: how a flag is written, where it is not the setting's name.
        without: settings that the command has another use for.
        rare: settings that the command's short help leaves out.
        grouped: whether the long help shows them under the headings of the documentation.
    """

    def decorate(function: Decorated) -> Decorated:
        fields = [item for model in models for item in model.model_fields.items()]
        for name, field in reversed(fields):
            if name in without:
                continue
            flag = (names or {}).get(name, flag_name(name))
            title = _TITLES[name] if grouped else None
            brief = None if name in rare else BRIEF.get(name)
            function = _option(name, field, flag, title, brief)(function)
        return function

    return decorate


def server_options(function: Decorated) -> Decorated:
    """Give a command a flag for every setting that is not a client's."""
    models = [model for _, model in GROUPS if model is not ClientCommandSettings]
    return settings_options(*models, grouped=True)(function)


def all_options(function: Decorated) -> Decorated:
    """Give a command a flag for every setting."""
    models = [model for _, model in GROUPS]
    return settings_options(*models, rare=("ca_file", "nodes"), grouped=True)(function)


def rare_options(function: Decorated) -> Decorated:
    """Give a command a flag for every setting, and its short help none of them."""
    models = [model for _, model in GROUPS]
    return settings_options(*models, rare=tuple(Settings.model_fields), grouped=True)(function)


def load_from(options: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Loaded:
    """Return the settings of a command: its flags, over the environment, over the file.

    Args:
        options: the command's parameters, those that are no settings included.
        names: as for `settings_options`.

    Raises:
        SettingsError: a key is unknown or a value cannot be.
    """
    return origin_of(options, names).load()


def origin_of(options: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Origin:
    """Return what the settings of a command are read from; as `load_from`, which reads them."""
    flags = {
        name: value
        for name, value in options.items()
        if name in Settings.model_fields and value is not None and value != ()
    }
    return Origin(flags, find_file(options.get("config_file")), names or {})


def help_words(field: FieldInfo) -> str:
    """Return a setting's description with its default, for a flag's help."""
    text = (field.description or "").replace("`", "")
    return f"{text[:1].upper()}{text[1:]}.{_default(field)}"


def _option(
    name: str, field: FieldInfo, flag: str, group: str | None, brief: str | None
) -> Callable[[Decorated], Decorated]:
    # No default and no type of click's: an absent flag must leave room for the other sources,
    # and the model says what a value can be, in the same words for every source.
    several = isinstance(field.default, tuple)
    is_switch = field.annotation is bool
    if brief is not None and not is_switch:
        brief += _default(field, brief=True)
    attributes: dict[str, Any] = {
        "default": None,
        "group": group,
        "rare": brief is None,
        "help": f"<{brief or ''}|{help_words(field)}{' Repeatable.' * several}>",
    }
    if is_switch:
        return option(f"{flag}/--no-{flag.removeprefix('--')}", name, **attributes)
    metavar = _metavar(name, field.annotation)
    return option(flag, name, multiple=several, metavar=metavar, **attributes)


def _metavar(name: str, annotation: Any) -> str:
    known = {
        "listen": "ENDPOINT",
        "metrics_listen": "ENDPOINT",
        "connect": "ENDPOINT",
        "drain_endpoints": "ENDPOINT",
        "admin_listen": "ENDPOINT",
        "trusted_proxies": "NETWORK",
        "store": "URL",
        "web_origins": "ORIGIN",
        "web_servers": "URL",
        "timeout": "SECONDS",
        "listener": "KIND",
        "tls_certificate": "FILE",
        "tls_key": "FILE",
        "tls_client_ca": "FILE",
        "tls_crl": "FILE",
        "ca_file": "FILE",
        "client_cert": "FILE",
        "client_key": "FILE",
        "log_level": "LEVEL",
    }
    if name in known:
        return known[name]
    if annotation in (int, float):
        return "NUMBER"
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return "NAME"


def _default(field: FieldInfo, *, brief: bool = False) -> str:
    value: Any = field.default
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        value = "on" if value else "off"
    words = " ".join(value) if isinstance(value, tuple) else value
    return f"  [{words}]" if brief else f"  [default: {words}]"
