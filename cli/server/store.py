"""`twinline store`: checks, copies, restores, migrates and measures the file of a SQLite store."""

import dataclasses
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import click

from twinline.cli.client.passwords import password_option, read_password
from twinline.cli.console.command import Group, show_help
from twinline.cli.console.errors import CommandError, SettingsError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.output import report, write_json, write_line
from twinline.cli.console.shapes import (
    Account,
    StoreChecked,
    StoreCopied,
    StoreMigrated,
    StoreRestored,
    StoreStats,
)
from twinline.cli.console.text import visible
from twinline.cli.settings.options import json_option
from twinline.core.names import parse_username
from twinline.core.service import ChatService
from twinline.core.store import Durability, MailboxPolicy
from twinline.stores.registry import open_store, store_schemes
from twinline.stores.sqlite import StoreNotOpened, Synchronous, parse_url, upkeep


class _Bar(Protocol):
    def __call__(self, done: int, total: int, what: str = "") -> None: ...


_argument: Final = click.argument(
    # What cannot be read is no mistake in the command line.
    "store",
    type=click.Path(readable=False),
    metavar="PATH_OR_URL",
)


@click.group("store", cls=Group, example="twinline store check sqlite:/var/lib/twinline/chat.db")
@click.pass_context
def store(context: click.Context) -> None:
    """Look after the file of a SQLite store.

    PATH_OR_URL is the file, or the URL that the server was given: sqlite:PATH. check, backup and
    stats also work while a server has the file open.
    """
    show_help(context)


@store.command(example="twinline store check chat.db && echo sound")
@_argument
@click.option(
    "--repair",
    is_flag=True,
    help="first mend what an interrupted creation or deletion of an account left; no server may "
    "have the file open",
)
@json_option
def check(store: str, repair: bool, as_json: bool) -> None:
    """Check every page of the file, and what the store relies on.

    Exit code 0: the file is sound; 1: it is not, or it cannot be read.
    """
    path, _ = _place(store)
    with _readable(path), _bar("checking") as on_progress:
        repaired = upkeep.repair(path) if repair else []
        findings = upkeep.check(path, on_progress)
    sound = not findings.faults
    if as_json:
        write_json(
            StoreChecked(
                sound=sound,
                repaired=tuple(repaired),
                faults=tuple(findings.faults),
                notes=tuple(findings.notes),
            )
        )
    else:
        for text in repaired:
            write_line(f"repaired: {text}")
        for text in findings.faults:
            write_line(f"fault: {visible(text)}")
        for text in findings.notes:
            write_line(f"note: {text}")
        if sound:
            write_line(f"{path} is sound")
    if not sound:
        raise CommandError(
            f"{path} is not sound; go back to a backup of it with 'twinline store restore'",
            ExitCode.FAILURE,
        )


@store.command(example="twinline store backup chat.db /mnt/backups/chat-$(date +%F).db")
@_argument
@click.argument("target", type=click.Path(readable=False, path_type=Path))
@json_option
def backup(store: str, target: Path, as_json: bool) -> None:
    """Copy the file as it is at this moment, also while a server writes it.

    TARGET must not be there yet. It appears when it is complete and on disk, and is a store like
    the original.
    """
    path, _ = _place(store)
    with _readable(path), _bar("copying") as on_progress:
        upkeep.backup(path, target, on_progress)
    size = target.stat().st_size
    report(
        StoreCopied(source=str(path), target=str(target), bytes=size),
        f"{path} was copied to {target}, {size:,} bytes",
        as_json=as_json,
    )


@store.command("add-account", example="twinline store add-account chat.db ann")
@_argument
@click.argument("username")
@password_option
@json_option
def add_account(store: str, username: str, password_file: str | None, as_json: bool) -> None:
    """Create the account USERNAME, for a server whose registration is closed.

    No server may have the file open. It is made if it is not there yet.
    """
    path, _ = _place(store)
    name = parse_username(username)
    password = read_password(password_file, f"New password for {name} in {path}", twice=True)
    with _readable(path), open_store(f"sqlite:{path}", MailboxPolicy()) as opened:
        ChatService(opened).add_account(name, password)
    report(Account(username=name), f"{name} was created in {path}", as_json=as_json)


@store.command(example="twinline store restore /mnt/backups/chat-2026-01-31.db chat.db")
@click.argument("backup", type=click.Path(readable=False, path_type=Path))
@_argument
@json_option
def restore(backup: Path, store: str, as_json: bool) -> None:
    """Put a backup in the place of the server's file.

    BACKUP is looked at first, and stays as it is. What is at PATH_OR_URL is kept beside it, with
    its log, under a name that ends in .replaced. No server may have the file open. Clients that
    ran meanwhile miss none of the mail that comes afterwards.
    """
    path, _ = _place(store)
    with _readable(backup), _bar("copying") as on_progress:
        replaced = upkeep.restore(backup, path, on_progress)
    words = f"{path} is what {backup} was"
    if replaced is not None:
        words = f"{words}; what it was before is in {replaced}"
    shape = StoreRestored(
        source=str(backup),
        target=str(path),
        replaced=None if replaced is None else str(replaced),
        bytes=path.stat().st_size,
    )
    report(shape, words, as_json=as_json)


@store.command(example="twinline store migrate chat.db")
@_argument
@json_option
def migrate(store: str, as_json: bool) -> None:
    """Bring an older file to the schema version of this program.

    The file is copied first, beside itself. A server does the same when it opens an older file;
    this is for those who want to choose the moment. No server may have the file open.
    """
    path, _ = _place(store)
    with _readable(path), _bar("copying") as on_progress:
        migration = upkeep.migrate(path, on_progress)
    before, after, copy = migration.before, migration.after, migration.copy
    words = f"{path} has schema version {after} already"
    if copy is not None:
        words = (
            f"{path} went from schema version {before} to {after}; what it was before is in {copy}"
        )
    shape = StoreMigrated(before=before, after=after, copy=None if copy is None else str(copy))
    report(shape, words, as_json=as_json)


@store.command(example="twinline store stats chat.db --json")
@_argument
@json_option
def stats(store: str, as_json: bool) -> None:
    """Count what is in the file."""
    path, synchronous = _place(store)
    with _readable(path):
        counted = dataclasses.asdict(upkeep.stats(path))
    durability = Durability.DISK if synchronous is Synchronous.FULL else Durability.PROCESS
    shape = StoreStats(**counted, durability=str(durability))
    if as_json:
        write_json(shape)
        return
    for name, value in shape:
        shown = f"{value:,}" if isinstance(value, int) else value
        write_line(f"{name.replace('_', ' '):<15} {shown}")


def _place(text: str) -> tuple[Path, Synchronous]:
    """Return the file that a path or a URL names."""
    if not text:
        raise SettingsError("the path of a store's file is empty")
    scheme, colon, _ = text.partition(":")
    if not colon or scheme not in store_schemes():
        return Path(text), Synchronous.FULL
    if scheme != "sqlite":
        raise SettingsError(f"only a SQLite store has a file to look after, not {scheme}:")
    try:
        return parse_url(text)
    except StoreNotOpened as error:
        raise SettingsError(str(error)) from None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise CommandError(f"{path}: {error}") from error


@contextmanager
def _bar(label: str) -> Iterator[_Bar]:
    """Return what shows how far a long work is and what it is at, for a person at a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda _done, _total, _what="": None
        return
    with click.progressbar(
        length=1, label=label, file=sys.stderr, item_show_func=lambda what: what or None
    ) as bar:

        def on_progress(done: int, total: int, what: str = "") -> None:
            bar.length = max(1, total)
            bar.update(done - bar.pos, what)
            bar.render_progress()  # click waits for an advance, and a first step may be long

        yield on_progress
