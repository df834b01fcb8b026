"""`twinline store`: checks, copies, restores, migrates, measures and moves stores."""

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
    StoreMoved,
    StoreRestored,
    StoreStats,
)
from twinline.cli.console.text import counted, visible
from twinline.cli.settings.options import config_option, json_option, load_from
from twinline.core.errors import StoreUnavailable
from twinline.core.names import parse_username
from twinline.core.service import ChatService
from twinline.stores.copying import CopyError, copy_all
from twinline.stores.registry import UnknownStore, open_store, store_schemes, upkeep_of
from twinline.stores.sqlite import StoreNotOpened
from twinline.stores.sqlite.upkeep import SqliteUpkeep
from twinline.stores.sqlite.upkeep import restore as put_back
from twinline.stores.upkeep import Upkeep, UpkeepError


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
    """Look after a store: a SQLite file, or what several servers share.

    PATH_OR_URL is the URL that the server was given, or the path of a SQLite file. check, backup
    and stats also work while servers use the store; but in Valkey or Redis, backup does not.
    """
    show_help(context)


@store.command(example="twinline store check chat.db && echo sound")
@_argument
@click.option(
    "--repair",
    is_flag=True,
    help="first mend what an interrupted creation or deletion of an account left; no server may "
    "use the store",
)
@json_option
def check(store: str, repair: bool, as_json: bool) -> None:
    """Check what the store relies on, and every page of a file.

    Exit code 0: the store is sound; 1: it is not, or it cannot be read.
    """
    upkeep = _upkeep(store)
    with _readable(upkeep.name), _bar("checking") as on_progress:
        repaired = upkeep.repair() if repair else []
        findings = upkeep.check(on_progress)
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
            write_line(f"{upkeep.name} is sound")
    if not sound:
        command = "restore" if isinstance(upkeep, SqliteUpkeep) else "copy"
        raise CommandError(
            f"{upkeep.name} is not sound; go back to a backup with 'twinline store {command}'",
            ExitCode.FAILURE,
        )


@store.command(example="twinline store backup chat.db /mnt/backups/chat-$(date +%F).db")
@_argument
@click.argument("target", type=click.Path(readable=False, path_type=Path))
@json_option
def backup(store: str, target: Path, as_json: bool) -> None:
    """Copy the store as it is at this moment, also while servers write it.

    TARGET is a file, and must not be there yet. It appears when it is complete and on disk, and
    is a SQLite store, whatever the original is. Of Valkey or Redis there is no moment that all of
    it could be read of: there no server may use the store.
    """
    upkeep = _upkeep(store)
    with _readable(upkeep.name), _bar("copying") as on_progress:
        upkeep.backup(target, on_progress)
    size = target.stat().st_size
    report(
        StoreCopied(source=upkeep.name, target=str(target), bytes=size),
        f"{upkeep.name} was copied to {target}, {size:,} bytes",
        as_json=as_json,
    )


@store.command(example="twinline store copy sqlite:chat.db postgresql://twinline@db/twinline")
@click.argument("source", type=click.Path(readable=False), metavar="FROM")
@click.argument("target", type=click.Path(readable=False), metavar="TO")
@json_option
def copy(source: str, target: str, as_json: bool) -> None:
    """Copy all that a store keeps to another one: SQLite, PostgreSQL, Valkey or Redis.

    No server may use either. What has arrived is compared with what was there, and nobody can
    open TO before that is done; a copy that was stopped goes on when it is said again. Everybody
    has to log in again: sessions stay behind.
    """
    one, other = _upkeep(source), _upkeep(target)
    with (
        _readable(one.name, other.name),
        one.source() as read,
        other.target() as written,
        _bar("copying") as on_progress,
    ):
        copied = copy_all(read, written, on_progress)
    report(
        StoreMoved(
            source=one.name,
            target=other.name,
            accounts=copied.accounts,
            reserved_names=copied.reserved_names,
            messages=copied.messages,
        ),
        f"{other.name} has all of {one.name}: {counted(copied.accounts, 'account')} and "
        f"{counted(copied.messages, 'message')}; everybody has to log in again",
        as_json=as_json,
    )


@store.command("add-account", example="twinline store add-account chat.db ann")
@_argument
@click.argument("username")
@config_option
@password_option
@json_option
def add_account(
    store: str, username: str, config_file: str | None, password_file: str | None, as_json: bool
) -> None:
    """Create the account USERNAME, for a server whose registration is closed.

    No server may have a SQLite file open; it is made if it is not there yet. Servers that share
    a store may go on: what mailboxes keep is read from the same settings as theirs.
    """
    settings = load_from({"config_file": config_file}).settings
    upkeep = _upkeep(store)
    name = parse_username(username)
    prompt = f"New password for {name} in {upkeep.name}"
    password = read_password(password_file, prompt, twice=True)
    url = store if _is_url(store) else f"sqlite:{store}"
    with _readable(upkeep.name), open_store(url, settings) as opened:
        ChatService(opened).add_account(name, password)
    report(Account(username=name), f"{name} was created in {upkeep.name}", as_json=as_json)


@store.command(example="twinline store restore /mnt/backups/chat-2026-01-31.db chat.db")
@click.argument("backup", type=click.Path(readable=False, path_type=Path))
@_argument
@json_option
def restore(backup: Path, store: str, as_json: bool) -> None:
    """Put a backup in the place of a server's SQLite file.

    BACKUP is looked at first, and stays as it is. What is at PATH_OR_URL is kept beside it, with
    its log, under a name that ends in .replaced. No server may have the file open. Clients that
    ran meanwhile miss none of the mail that comes afterwards. Into a store of another kind go
    with 'twinline store copy'.
    """
    upkeep = _upkeep(store)
    if not isinstance(upkeep, SqliteUpkeep):
        raise SettingsError(
            f"{upkeep.name} is no file; say 'twinline store copy {backup} URL' to an empty store"
        )
    path = upkeep.path
    with _readable(str(backup), str(path)), _bar("copying") as on_progress:
        replaced = put_back(backup, path, lambda done, total: on_progress(done, total, ""))
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
    """Bring an older store to the schema version of this program.

    A file is copied first, beside itself. A server does the same when it opens an older store;
    this is for those who want to choose the moment. No server may use it.
    """
    upkeep = _upkeep(store)
    with _readable(upkeep.name), _bar("copying") as on_progress:
        migration = upkeep.migrate(on_progress)
    before, after, copy = migration.before, migration.after, migration.copy
    words = f"{upkeep.name} has schema version {after} already"
    if before != after:
        words = f"{upkeep.name} went from schema version {before} to {after}"
        if copy is not None:
            words = f"{words}; what it was before is in {copy}"
    shape = StoreMigrated(before=before, after=after, copy=copy)
    report(shape, words, as_json=as_json)


@store.command(example="twinline store stats chat.db --json")
@_argument
@click.option(
    "--largest",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="list the N mailboxes with the most bytes of mail",
)
@json_option
def stats(store: str, largest: int, as_json: bool) -> None:
    """Count and measure what is in the store, and in its largest mailboxes.

    All mail is read for it, also while servers use the store.
    """
    upkeep = _upkeep(store)
    with _readable(upkeep.name):
        shape = StoreStats(**dataclasses.asdict(upkeep.stats(largest)))
    if as_json:
        write_json(shape)
        return
    for name, value in shape:
        if name != "largest" and value is not None:
            shown = f"{value:,}" if isinstance(value, int) else value
            write_line(f"{name.replace('_', ' '):<15} {shown}")
    for box in shape.largest:
        whose = "(no account)" if box.username is None else box.username
        unread = f"{box.unread:,} unread"
        if box.quota is not None:
            unread += f" of {box.quota:,}"
        write_line(
            f"  {whose:<32} {box.mail_bytes:,} bytes, {counted(box.messages, 'message')}, {unread}"
        )


def _upkeep(text: str) -> Upkeep:
    """Return what looks after the store that a path or a URL names."""
    if not text:
        raise SettingsError("the path of a store's file is empty")
    if not _is_url(text):  # a file, also with a colon or a question mark in its name
        return SqliteUpkeep(Path(text))
    try:
        return upkeep_of(text)
    except (UnknownStore, StoreNotOpened) as error:
        raise SettingsError(str(error)) from None


def _is_url(text: str) -> bool:
    scheme, colon, _ = text.partition(":")
    return bool(colon) and scheme in store_schemes()


@contextmanager
def _readable(*names: str) -> Iterator[None]:
    """Say of which store it is what a command ends with."""
    try:
        yield
    except (sqlite3.Error, CopyError, UpkeepError, StoreNotOpened, StoreUnavailable) as error:
        text = str(error)
        if not any(name in text for name in names):
            text = f"{' and '.join(names)}: {text}"
        raise CommandError(text) from error


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
