"""Stores by URL: the built-in ones, and those that other packages name as entry points.

An entry point in the group ``twinline.stores`` has the URL's scheme as its name and a callable
``(url: str, policy: MailboxPolicy) -> Store`` as its value; one in ``twinline.upkeep`` a callable
``(url: str) -> Upkeep``, where the store can be looked after from outside. A built-in scheme cannot
be replaced. Where several servers may open the store, the first callable has a true attribute
``shared``, or is a class method of a `Store` that has it.
"""

import difflib
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from twinline.core.errors import TwinlineError
from twinline.core.plugins import entry_points
from twinline.core.store import MailboxPolicy, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore, parse_url
from twinline.stores.upkeep import Upkeep

ENTRY_POINTS: Final = "twinline.stores"
"""The group of entry points for stores."""
UPKEEP_ENTRY_POINTS: Final = "twinline.upkeep"
"""The group of entry points for what looks after them."""
OpenStore = Callable[[str, MailboxPolicy], Store]
"""Opens the store that a URL names, with what its mailboxes keep."""
OpenUpkeep = Callable[[str], Upkeep]
"""Returns what looks after the store that a URL names; nothing is opened yet."""
_DEFAULT_POLICY: Final = MailboxPolicy()


class UnknownStore(TwinlineError):
    """A store's URL names nothing that can be opened.

    The text never has more of the URL than its scheme: the rest may hold a password.
    """


def _open_memory(url: str, policy: MailboxPolicy) -> Store:
    _check_memory(url)
    return MemoryStore(policy)


def _open_postgresql(url: str, policy: MailboxPolicy) -> Store:
    try:
        from twinline.stores.postgresql import PostgresqlStore  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _without("postgresql", "PostgreSQL", error) from error
    return PostgresqlStore.open(url, policy)


def _open_valkey(url: str, policy: MailboxPolicy) -> Store:
    try:
        from twinline.stores.valkey import ValkeyStore  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _without("redis", "Valkey or Redis", error) from error
    return ValkeyStore.open(url, policy)


def _without(extra: str, engine: str, error: ModuleNotFoundError) -> UnknownStore:
    """Return what says which extra is missing."""
    return UnknownStore(f"a store in {engine} needs {error.name}: pip install 'twinline[{extra}]'")


_BUILT_IN: Final[dict[str, OpenStore]] = {
    "memory": _open_memory,
    "sqlite": SqliteStore.open,
    "postgresql": _open_postgresql,
    "redis": _open_valkey,
    "rediss": _open_valkey,
    "redis+cluster": _open_valkey,
}

_SHARED: Final = frozenset({"postgresql", "redis", "rediss", "redis+cluster"})
"""Built-in stores that several servers may open: told without importing their drivers."""


def _upkeep_of_sqlite(url: str) -> Upkeep:
    from twinline.stores.sqlite.upkeep import SqliteUpkeep  # noqa: PLC0415 - a server does without

    return SqliteUpkeep(*parse_url(url))


def _upkeep_of_postgresql(url: str) -> Upkeep:
    try:
        from twinline.stores.postgresql.upkeep import PostgresqlUpkeep  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _without("postgresql", "PostgreSQL", error) from error
    return PostgresqlUpkeep(url)


def _upkeep_of_valkey(url: str) -> Upkeep:
    try:
        from twinline.stores.valkey.upkeep import ValkeyUpkeep  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _without("redis", "Valkey or Redis", error) from error
    return ValkeyUpkeep(url)


_BUILT_IN_UPKEEP: Final[dict[str, OpenUpkeep]] = {
    "sqlite": _upkeep_of_sqlite,
    "postgresql": _upkeep_of_postgresql,
    "redis": _upkeep_of_valkey,
    "rediss": _upkeep_of_valkey,
    "redis+cluster": _upkeep_of_valkey,
}


def _check_memory(url: str, _in_use: str | None = None) -> None:
    if url.partition(":")[2]:
        raise UnknownStore("the store in memory is written memory: and nothing after it")


def _check_sqlite(url: str, in_use: str | None) -> None:
    from twinline.stores.sqlite.looking import check_place  # noqa: PLC0415 - asked for once

    path, _ = parse_url(url)
    if in_use is not None and in_use.startswith("sqlite:"):
        with suppress(OSError):
            if path.samefile(parse_url(in_use)[0]):
                return
    check_place(path)


def _check_postgresql(url: str, _in_use: str | None) -> None:
    try:
        from twinline.stores.postgresql import parse_url  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _without("postgresql", "PostgreSQL", error) from error
    parse_url(url)


def _check_valkey(url: str, _in_use: str | None) -> None:
    try:
        from twinline.stores.valkey import parse_url  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise _without("redis", "Valkey or Redis", error) from error
    parse_url(url)


_CHECKS: Final[dict[str, Callable[[str, str | None], None]]] = {
    "memory": _check_memory,
    "sqlite": _check_sqlite,
    "postgresql": _check_postgresql,
    "redis": _check_valkey,
    "rediss": _check_valkey,
    "redis+cluster": _check_valkey,
}
"""What is seen of a built-in store before it is opened."""


def store_schemes() -> list[str]:
    """Return the schemes that `open_store` knows, sorted."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def open_store(url: str, policy: MailboxPolicy = _DEFAULT_POLICY) -> Store:
    """Open the store that a URL names.

    Args:
        url: the scheme, a colon, and what that store makes of the rest.
        policy: how much its mailboxes keep. Of a server's settings, which are a policy too, the
            store is given no more than that.

    Raises:
        UnknownStore: the scheme is unknown, or what is registered for it does not open a store.
        Exception: whatever the store itself raises when it cannot be opened.
    """
    scheme = _known_scheme(url)
    opener = _BUILT_IN.get(scheme) or _plugged_in(ENTRY_POINTS, scheme)
    # A store that servers share keeps the policy, and compares it: two servers' addresses differ,
    # and the URL of the store may have a password.
    alone = {name: getattr(policy, name) for name in MailboxPolicy.model_fields}
    store = opener(url, MailboxPolicy(**alone))
    if not isinstance(store, Store):
        raise UnknownStore(f"what is registered for {scheme}: does not return a Store")
    return store


def check_store(url: str, *, in_use: str | None = None) -> None:
    """See whether a store could be opened, as far as it can be seen without opening it.

    Nothing is made, and nobody is asked: a database that is away is no fault of the URL.

    Args:
        url: of the store.
        in_use: the URL of the store that this process has open; what both name is not looked at.

    Raises:
        UnknownStore: as for `open_store`.
        StoreNotOpened: the URL is wrong, or what it names cannot be a store.
    """
    scheme = _known_scheme(url)
    check = _CHECKS.get(scheme)
    if check is None:
        _plugged_in(ENTRY_POINTS, scheme)
    else:
        check(url, in_use)


def upkeep_of(url: str) -> Upkeep:
    """Return what looks after the store that a URL names.

    Raises:
        UnknownStore: the scheme is unknown, or such a store cannot be looked after from outside.
        Exception: whatever the store itself raises of a URL that is wrong.
    """
    scheme = _known_scheme(url)
    offered = entry_points(group=UPKEEP_ENTRY_POINTS).names
    if scheme not in _BUILT_IN_UPKEEP and scheme not in offered:
        raise UnknownStore(f"a store {scheme}: cannot be looked after from outside its server")
    opener = _BUILT_IN_UPKEEP.get(scheme) or _plugged_in(UPKEEP_ENTRY_POINTS, scheme)
    upkeep = opener(url)
    if not isinstance(upkeep, Upkeep):
        raise UnknownStore(f"what is registered for {scheme}: does not return an Upkeep")
    return upkeep


def _known_scheme(url: str) -> str:
    scheme, colon, _ = url.partition(":")
    known = store_schemes()
    if not colon:
        raise UnknownStore(f"a store is written as a URL, like memory: ({_listed(known)})")
    if scheme not in known:
        near = difflib.get_close_matches(scheme, known, n=1)
        hint = f"; did you mean {near[0]}:?" if near else ""
        raise UnknownStore(f"there is no store {scheme[:64]!r}{hint} ({_listed(known)})")
    return scheme


def is_shared(url: str) -> bool:
    """Return whether several servers may open the store of a URL at once; none is opened.

    Raises:
        UnknownStore: what is registered for the scheme cannot be loaded.
    """
    scheme = url.partition(":")[0]
    if scheme in _BUILT_IN or scheme not in store_schemes():
        return scheme in _SHARED
    opener = _plugged_in(ENTRY_POINTS, scheme)
    return bool(getattr(getattr(opener, "__self__", opener), "shared", False))


def _plugged_in(group: str, scheme: str) -> Callable[..., object]:
    point = next(iter(entry_points(group=group).select(name=scheme)))
    try:
        opener = point.load()
    except Exception as error:
        raise UnknownStore(f"the store {scheme}: cannot be loaded from {point.value}") from error
    if not callable(opener):
        raise UnknownStore(f"what is registered for {scheme}: cannot be called")
    return opener  # type: ignore[no-any-return]


def _listed(schemes: list[str]) -> str:
    return "known: " + ", ".join(f"{scheme}:" for scheme in schemes)
