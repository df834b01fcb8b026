"""What a parameter's value can be, for completion: accounts, transports, endpoints, stores.

A parameter is known by its name, so that a command does nothing to have its values completed.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal, get_args, get_origin

import click

from twinline.cli.client.sessions import SessionFile
from twinline.cli.client.target import Target
from twinline.cli.settings.model import Settings
from twinline.core.errors import InvalidUsername
from twinline.core.names import parse_username
from twinline.stores.registry import store_schemes
from twinline.transports.endpoints import DEFAULT_PORT
from twinline.transports.registry import transport_names

_SECONDS: Final = 0.5
"""For everything that is asked of a server; a person waits for it."""
_MOST: Final = 100


def values(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> Iterable[str] | None:
    """Return what a value that begins so can be; None where that is left to its type.

    Args:
        context: of the command, with what the command line says so far.
        parameter: whose value it is.
        incomplete: the beginning.
    """
    name = parameter.name or ""
    known: dict[str, Callable[[], Iterable[str]]] = {
        "to": lambda: _accounts(context, incomplete),
        "peer": lambda: _accounts(context, incomplete),
        "pattern": lambda: _accounts(context, incomplete),
        "user": lambda: _kept_usernames(context),
        "username": lambda: (
            _operators_accounts(context, incomplete)
            if "admin_listen" in context.params
            else _kept_usernames(context)
        ),
        "connect": lambda: [*SessionFile().endpoints(), *_SCHEMES],
        "watch_at": lambda: [*SessionFile().endpoints(), *_SCHEMES],
        "listen": lambda: _SCHEMES,
        "key": lambda: Settings.model_fields,
        "transport": transport_names,
        "transports": transport_names,
        "client_transport": transport_names,
    }
    if name in known:
        return known[name]()
    if name in ("store", "stores") and isinstance(parameter, click.Option):
        return [f"{scheme}:" for scheme in store_schemes()]
    field = Settings.model_fields.get(name)
    if field is not None and get_origin(field.annotation) is Literal:
        return [str(value) for value in get_args(field.annotation)]
    return None


_SCHEMES: Final = (f"tcp://127.0.0.1:{DEFAULT_PORT}", "tls://", "wss://", "unix:/")


def _kept_usernames(context: click.Context) -> list[str]:
    return SessionFile().usernames(Target.of(context.params, warn=False).endpoints)


def _operators_accounts(context: click.Context, incomplete: str) -> list[str]:
    """Ask the admin socket, for as long as a person likes to wait."""
    from twinline.cli.admin.client import AdminTarget  # noqa: PLC0415 - only for the operator
    from twinline.cli.server.admin import replies, requests  # noqa: PLC0415

    target = AdminTarget.named(context.params)
    if target is None:
        return []
    asked = requests.Accounts(pattern=f"{incomplete.lower()}*")
    # Whatever goes wrong, there are no names then.
    with contextlib.suppress(Exception):
        page = replace(target, timeout=_SECONDS).ask(asked, replies.AccountStates)
        return [each.username for each in page.accounts if _is_username(each.username)]
    return []


def _accounts(context: click.Context, incomplete: str) -> list[str]:
    """Ask the server, for as long as a person likes to wait."""
    if incomplete:
        try:
            incomplete = parse_username(incomplete)
        except InvalidUsername:
            return []
    target = replace(Target.of(context.params, warn=False), timeout=_SECONDS, wait=False)
    found: list[str] = []

    def ask() -> None:
        # Whatever goes wrong, there are no names then.
        with contextlib.suppress(Exception), target.logged_in() as client:
            found.extend(client.list_accounts(f"{incomplete}*", limit=_MOST).usernames)

    # Each step has a deadline of its own, so together they could take longer.
    asking = threading.Thread(target=ask, name="completion", daemon=True)
    asking.start()
    asking.join(_SECONDS)
    # What a strange server calls an account must not get into a shell.
    return [name for name in found if _is_username(name)]


def _is_username(text: str) -> bool:
    try:
        return parse_username(text) == text
    except InvalidUsername:
        return False
