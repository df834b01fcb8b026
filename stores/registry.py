"""Stores by URL: the built-in ones, and those that other packages name as entry points.

An entry point in the group ``twinline.stores`` has the URL's scheme as its name and a callable
``(url: str, policy: MailboxPolicy) -> Store`` as its value. A built-in scheme cannot be replaced.
"""

import difflib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final

from twinline.core.errors import TwinlineError
from twinline.core.store import MailboxPolicy, Store
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore

ENTRY_POINTS: Final = "twinline.stores"
"""The group of entry points that is read."""
OpenStore = Callable[[str, MailboxPolicy], Store]
"""Opens the store that a URL names, with what its mailboxes keep."""
_DEFAULT_POLICY: Final = MailboxPolicy()


class UnknownStore(TwinlineError):
    """A store's URL names nothing that can be opened.

    The text never has more of the URL than its scheme: the rest may hold a password.
    """


def _open_memory(url: str, policy: MailboxPolicy) -> Store:
    if url.partition(":")[2]:
        raise UnknownStore("the store in memory is written memory: and nothing after it")
    return MemoryStore(policy)


_BUILT_IN: Final[dict[str, OpenStore]] = {"memory": _open_memory, "sqlite": SqliteStore.open}


def store_schemes() -> list[str]:
    """Return the schemes that `open_store` knows, sorted."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def open_store(url: str, policy: MailboxPolicy = _DEFAULT_POLICY) -> Store:
    """Open the store that a URL names.

    Args:
        url: the scheme, a colon, and what that store makes of the rest.
        policy: how much its mailboxes keep.

    Raises:
        UnknownStore: the scheme is unknown, or what is registered for it does not open a store.
        Exception: whatever the store itself raises when it cannot be opened.
    """
    scheme, colon, _ = url.partition(":")
    known = store_schemes()
    if not colon:
        raise UnknownStore(f"a store is written as a URL, like memory: ({_listed(known)})")
    if scheme not in known:
        near = difflib.get_close_matches(scheme, known, n=1)
        hint = f"; did you mean {near[0]}:?" if near else ""
        raise UnknownStore(f"there is no store {scheme[:64]!r}{hint} ({_listed(known)})")
    store = _opener(scheme)(url, policy)
    if not isinstance(store, Store):
        raise UnknownStore(f"what is registered for {scheme}: does not return a Store")
    return store


def _opener(scheme: str) -> OpenStore:
    if scheme in _BUILT_IN:
        return _BUILT_IN[scheme]
    point = next(iter(entry_points(group=ENTRY_POINTS, name=scheme)))
    try:
        opener: OpenStore = point.load()
    except Exception as error:
        raise UnknownStore(f"the store {scheme}: cannot be loaded from {point.value}") from error
    if not callable(opener):
        raise UnknownStore(f"what is registered for {scheme}: cannot be called")
    return opener


def _listed(schemes: list[str]) -> str:
    return "known: " + ", ".join(f"{scheme}:" for scheme in schemes)
