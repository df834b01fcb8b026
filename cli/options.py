"""Makes flags from the settings, and reads them back: one flag, one setting, one description."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from twinline.cli.settings import GROUPS, ClientCommandSettings, Settings
from twinline.cli.settings_sources import Loaded, flag_name, load

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

# What a client command calls a setting; on `config show` it has its full name.
CLIENT_FLAGS: Final[Mapping[str, str]] = {"client_transport": "--transport"}

config_option: Final = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Read the settings from this file.  [default: ./twinline.toml, "
    "~/.config/twinline/twinline.toml]",
)
json_option: Final = click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")


class SettingsCommand(click.Command):
    """A command whose help shows the settings in their groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then each group of settings."""
        grouped = {name: title for title, model in GROUPS for name in model.model_fields}
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        sections |= {title: [] for title, _ in GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections[grouped.get(parameter.name or "", "Options")].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def show_help(context: click.Context) -> None:
    """Print a group's help when no command was named."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def settings_options(
    *models: type[BaseModel],
    names: Mapping[str, str] | None = None,
    without: Collection[str] = (),
) -> Callable[[Decorated], Decorated]:
    """Return a decorator that gives a command a flag for every setting of these models.

    Args:
        models: parts of `Settings`.
        names: how a flag is written, where it is not the setting's name.
        without: settings that the command has another use for.
    """

    def decorate(function: Decorated) -> Decorated:
        fields = [item for model in models for item in model.model_fields.items()]
        for name, field in reversed(fields):
            if name in without:
                continue
            function = _option(name, field, (names or {}).get(name, flag_name(name)))(function)
        return function

    return decorate


def server_options(function: Decorated) -> Decorated:
    """Give a command a flag for every setting that is not a client's."""
    models = [model for _, model in GROUPS if model is not ClientCommandSettings]
    return settings_options(*models)(function)


def all_options(function: Decorated) -> Decorated:
    """Give a command a flag for every setting."""
    return settings_options(*(model for _, model in GROUPS))(function)


def load_from(options: Mapping[str, Any], names: Mapping[str, str] | None = None) -> Loaded:
    """Return the settings of a command: its flags, over the environment, over the file.

    Args:
        options: the command's parameters, those that are no settings included.
        names: as for `settings_options`.

    Raises:
        SettingsError: a key is unknown or a value cannot be.
    """
    flags = {
        name: value
        for name, value in options.items()
        if name in Settings.model_fields and value is not None and value != ()
    }
    return load(flags, config=options.get("config_file"), flag_names=names)


def help_words(field: FieldInfo) -> str:
    """Return a setting's description with its default, for a flag's help."""
    text = (field.description or "").replace("`", "")
    return f"{text[:1].upper()}{text[1:]}.{_default(field)}"


def _option(name: str, field: FieldInfo, flag: str) -> Callable[[Decorated], Decorated]:
    # No default and no type of click's: an absent flag must leave room for the other sources,
    # and the model says what a value can be, in the same words for every source.
    if field.annotation is bool:
        declaration = f"{flag}/--no-{flag.removeprefix('--')}"
        return click.option(declaration, name, default=None, help=help_words(field))
    several = isinstance(field.default, tuple)
    return click.option(
        flag,
        name,
        multiple=several,
        default=None,
        metavar=_metavar(name, field.annotation),
        help=help_words(field) + (" Repeatable." if several else ""),
    )


def _metavar(name: str, annotation: Any) -> str:
    if annotation in (int, float):
        return "NUMBER"
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    return {"listen": "ENDPOINT", "connect": "ENDPOINT", "store": "URL", "user": "NAME"}.get(
        name, "NAME"
    )


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if value is None:
        return ""
    if isinstance(value, bool):
        value = "on" if value else "off"
    words = " ".join(value) if isinstance(value, tuple) else value
    return f"  [default: {words}]"
