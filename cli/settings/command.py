"""`twinline config`: shows and explains the settings in effect, and checks a file."""

import json
import textwrap
from pathlib import Path
from typing import Any, Final

import click

from twinline.cli.console.command import WIDTH, Group, argument, show_help
from twinline.cli.console.errors import SettingsError
from twinline.cli.console.output import report, say, write_json, write_line
from twinline.cli.console.shapes import Explained, FileChecked, InForce
from twinline.cli.console.text import visible
from twinline.cli.settings.checks import check_settings
from twinline.cli.settings.model import (
    ENVIRONMENT_PREFIX,
    GROUPS,
    RELOAD_WORDS,
    SERVER_FIELDS,
    Settings,
    describe_expected,
    masked,
)
from twinline.cli.settings.options import (
    CLIENT_FLAGS,
    all_options,
    config_option,
    json_option,
    load_from,
    rare_options,
)
from twinline.cli.settings.sources import (
    Loaded,
    find_file,
    flag_name,
    line_of,
    no_such_setting,
    variable_name,
)
from twinline.core.reloading import on_reload


@click.group(cls=Group, example="twinline config explain log_level")
@click.pass_context
def config(context: click.Context) -> None:
    """Show or explain the settings in effect, or check a settings file."""
    show_help(context)


@config.command(
    example="TWINLINE_LOG_LEVEL=debug twinline config show",
    details="""
    Of a password in the URL of the store only *** is shown, and no server takes that for one.
    """,
)
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
            write_line(_toml_line(name, _value(loaded, name), loaded.sources[name]))
        write_line()


@config.command(
    example="twinline config explain store",
    details="""
    A setting that a reload applies is in force once SIGHUP has come, or the file has changed, and
    the log has said so. Others hold from the next start on.
    """,
)
@argument("key")
@config_option
@json_option
@rare_options
def explain(key: str, as_json: bool, **options: Any) -> None:
    """Tell all there is to know of the setting KEY.

    Its value and where that comes from, what it does, what it can be, and what
    becomes of a change while a server runs.
    """
    name = key.removeprefix("--").replace("-", "_").lower()
    name = name.removeprefix(ENVIRONMENT_PREFIX.lower())
    if name not in Settings.model_fields:
        raise no_such_setting(key)
    found = _explained(load_from(options), name)
    if as_json:
        write_json(found)
        return
    about, default = found.about.replace("`", ""), found.default
    write_line(f"{name} = {_UNSET if found.value is None else _toml(found.value)}")
    for title, text in (
        ("from", found.source),
        ("what", f"{about[:1].upper()}{about[1:]}."),
        ("value", found.expected),
        ("default", _UNSET if default in (None, ()) else _toml(default)),
        ("reload", found.reload),
        ("set by", f"{found.flag}, {found.variable}, or {name} in the settings file"),
    ):
        write_line(textwrap.fill(text, WIDTH, initial_indent=f"{title:<9}", subsequent_indent=_IN))


@config.command(
    example="twinline config check ./twinline.toml",
    details="""
    What 'twinline serve --config FILE' would refuse in this environment is refused here in the same
    words, with exit code 2: its syntax, its keys and their values, the URL of the store, endpoints
    that cannot be, what would be exposed in plain, the files of TLS. Give the server's flags too,
    where it has any. A file that is fine may still fail for what only shows when it is tried: a
    port that is taken, a database that is away.
    """,
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
@rare_options
def check(file: Path | None, as_json: bool, **options: Any) -> None:
    """Check a settings file: whether a server would start with it.

    Nothing is started, made or changed. Without FILE, the file that the other
    commands would read. What is no fault is a warning, and the exit code is 0.
    """
    path = find_file(file)
    if path is None:
        raise SettingsError("there is no settings file here; name one to check it")
    settings = load_from({**options, "config_file": path}).settings
    warnings = check_settings(settings, settings.endpoints())
    if not as_json:
        for warning in warnings:
            say(f"warning: {visible(warning)}")
    report(
        FileChecked(path=str(path), warnings=tuple(warnings)),
        f"{path} can be served with, but see above" if warnings else f"{path} is fine",
        as_json=as_json,
    )


def _value(loaded: Loaded, name: str) -> Any:
    """Return a setting's value, to be shown."""
    value = getattr(loaded.settings, name)
    return masked(value) if name == "store" else value


def _with_sources(loaded: Loaded) -> dict[str, Any]:
    values = loaded.settings.model_dump(mode="json")
    values["store"] = masked(values["store"])
    return {
        name: InForce(value=value, source=loaded.sources[name]).model_dump()
        for name, value in values.items()
    }


def _explained(loaded: Loaded, name: str) -> Explained:
    field = Settings.model_fields[name]
    path, source, line = loaded.origin.path, loaded.sources[name], None
    if path is not None and source == f"file {path}":
        line = line_of(path, name)
        source = source if line is None else f"{source}, line {line}"
    client = name not in SERVER_FIELDS
    return Explained(
        key=name,
        value=_value(loaded, name),
        source=source,
        line=line,
        about=field.description or "",
        expected=describe_expected(name),
        default=field.default,
        reload=RELOAD_WORDS["client" if client else on_reload(field)],
        flag=CLIENT_FLAGS.get(name, flag_name(name)),
        variable=variable_name(name),
    )


_UNSET: Final = "unset"
_IN: Final = " " * 9


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
