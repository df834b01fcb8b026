"""The store in a SQLite file: durable, on one machine, for one server at a time."""

from twinline.stores.sqlite.file import StoreLocked, StoreNotOpened, Synchronous
from twinline.stores.sqlite.schema import SchemaTooNew
from twinline.stores.sqlite.store import SqliteStore, parse_url

__all__ = [
    "SchemaTooNew",
    "SqliteStore",
    "StoreLocked",
    "StoreNotOpened",
    "Synchronous",
    "parse_url",
]
