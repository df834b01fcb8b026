"""`twinline config`: shows the settings in effect with their sources, and checks a file."""

import json
from pathlib import Path
from typing import Any

import click

from twinline.cli.console.command import Group, show_help
from twinline.cli.console.errors import SettingsError
from twinline.cli.console.output import report, say, write_json, write_line
from twinline.cli.console.shapes import FileChecked, InForce
from twinline.cli.console.text import visible
from twinline.cli.settings.checks import check_settings
from twinline.cli.settings.model import GROUPS
from twinline.cli.settings.options import (
    all_options,
    config_option,
    json_option,
    load_from,
)
from twinline.cli.settings.sources import Loaded, check_file, find_file


@click.group(cls=Group, example="twinline config show --json")
@click.pass_context
def config(context: click.Context) -> None:
    """Show the settings in effect, or check a settings file."""
    show_help(context)


@config.command(example="TWINLINE_LOG_LEVEL=debug twinline config show")
@config_option
@json_option
@all_options
def show(as_json: bool, **options: Any) -> None:
    """Print every setting, its value and where the value comes from.

    The output is a settings file: save it as twinline.toml and edit it.
    """
    loaded = load_from(options)
    if as_json:
        write_json(_with_sources(loaded))
        return
    for title, model in GROUPS:
        write_line(f"# {title}")
        for name in model.model_fields:
            write_line(_toml_line(name, getattr(loaded.settings, name), loaded.sources[name]))
        write_line()


@config.command(example="twinline config check ./twinline.toml")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
def check(file: Path | None, as_json: bool) -> None:
    """Check a settings file, and whether a server could run with it.

    Its syntax, its keys and their values; that nothing is exposed in plain; the files of TLS:
    that they fit together, and when they expire. Without FILE, the file that the other commands
    would read. What is no fault is a warning, and the exit code is 0.
    """
    path = find_file(file)
    if path is None:
        raise SettingsError("there is no settings file here; name one to check it")
    settings = check_file(path)
    warnings = check_settings(settings, settings.endpoints())
    if not as_json:
        for warning in warnings:
            say(f"warning: {visible(warning)}")
    report(
        FileChecked(path=str(path), warnings=tuple(warnings)),
        f"{path} can be served with, but see above" if warnings else f"{path} is fine",
        as_json=as_json,
    )


def _with_sources(loaded: Loaded) -> dict[str, Any]:
    return {
        name: InForce(value=value, source=loaded.sources[name]).model_dump()
        for name, value in loaded.settings.model_dump(mode="json").items()
    }


def _toml_line(name: str, value: Any, source: str) -> str:
    if value is None:
        # TOML has no way to say "unset".
        return f'# {name} = ""  # unset'
    return f"{name} = {_toml(value)}  # {source}"


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        # TOML's basic strings escape as JSON's do, but must also escape DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)
