"""What the URL of a PostgreSQL store says: libpq's own, and a few options of the store's.

::

    postgresql://USER@HOST:PORT/DATABASE
    postgresql://USER@FIRST,SECOND/DATABASE?durability=replicated

Several hosts, ``target_session_attrs``, ``sslmode``, ``passfile`` and all else that libpq knows
(https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING) is left to it. The
store's own options:

durability
    ``process``, ``disk`` or ``replicated``: writes are refused while the database promises less.
schema
    where the tables are (``twinline``): several stores can share one database.
readers
    connections that read (2), 1 to 3.
account_connections
    connections for accounts and sessions (2), 1 to 3.

Those two are at most 5 together: with the four that every store has, for writing, for listening,
for notices and for the main thread, a server has at most ten and in general eight.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl

from psycopg import Error, pq
from psycopg.conninfo import conninfo_to_dict

from twinline.core.store import Durability
from twinline.stores.shared.opening import StoreNotOpened

CONNECT_SECONDS: Final = 3
"""How long a host may take to answer a connection's beginning; libpq's least is 2."""
MOST_OF_A_KIND: Final = 3
"""The most connections that read, and the most that work for accounts."""
_MOST_OF_BOTH: Final = 5
_LEVELS: Final = (Durability.PROCESS, Durability.DISK, Durability.REPLICATED)
_SCHEMA: Final = re.compile(r"[a-z_][a-z0-9_]{0,47}", re.ASCII)
_DEFAULTS: Final = {
    "application_name": "twinline",
    "connect_timeout": str(CONNECT_SECONDS),
    # Of several hosts only the one that can be written; a standby is none.
    "target_session_attrs": "read-write",
    # A peer that is gone without a word is noticed by the kernel too.
    "tcp_user_timeout": "4000",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a store is, and what is asked of it.

    Attributes:
        parameters: libpq's, by keyword; one may be a password.
        place: the hosts and the database, for messages.
        durability: the least that an acknowledged write must survive, or None for any.
        schema: where the tables are; a plain identifier.
        readers: how many connections read.
        account_connections: how many work for accounts and sessions.
    """

    parameters: Mapping[str, str] = field(repr=False)
    place: str
    durability: Durability | None = None
    schema: str = "twinline"
    readers: int = 2
    account_connections: int = 2


def parse_url(url: str) -> Target:
    """Return what ``postgresql://…`` says.

    Raises:
        StoreNotOpened: libpq does not understand it, or an option is wrong; no part of the text
            is from the URL's user, password or values.
    """
    if not url.startswith("postgresql://"):
        raise StoreNotOpened(
            "a PostgreSQL store is written postgresql://USER@HOST/DATABASE, with more hosts behind "
            "commas where there is a standby"
        )
    address, _, query = url.partition("?")
    ours: dict[str, str] = {}
    theirs: list[str] = []
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"ssl"}
    for pair in query.split("&") if query else []:
        name = pair.partition("=")[0]
        if name in ("durability", "schema", "readers", "account_connections"):
            ours[name] = parse_qsl(pair, keep_blank_values=True)[0][1]
        elif name in known:
            theirs.append(pair)
        else:
            shown = name[:32] if name.isidentifier() else "?"
            raise StoreNotOpened(f"neither libpq nor the store has the option {shown!r}")
    try:
        given = conninfo_to_dict("?".join((address, "&".join(theirs))) if theirs else address)
    except Error:  # its text may have any part of the URL
        raise StoreNotOpened(
            "libpq cannot read the URL of the store; special characters in its user, password "
            "and values are written as %XX"
        ) from None
    parameters = {**_DEFAULTS, **{name: str(value) for name, value in given.items()}}
    hosts = parameters.get("host") or parameters.get("hostaddr") or "the local socket"
    database = parameters.get("dbname") or "the user's database"
    readers = _count("readers", ours.get("readers", "2"))
    account_connections = _count("account_connections", ours.get("account_connections", "2"))
    if readers + account_connections > _MOST_OF_BOTH:
        raise StoreNotOpened(
            f"readers and account_connections are at most {_MOST_OF_BOTH} together"
        )
    return Target(
        parameters,
        f"{database} on {hosts}",
        _level(ours.get("durability")),
        _schema(ours.get("schema", "twinline")),
        readers,
        account_connections,
    )


def _level(text: str | None) -> Durability | None:
    if text is None:
        return None
    if text not in _LEVELS:
        raise StoreNotOpened("durability is one of process, disk and replicated")
    return Durability(text)


def _schema(text: str) -> str:
    if not _SCHEMA.fullmatch(text) or text.startswith("pg_"):
        raise StoreNotOpened(
            "schema is a plain name: at most 48 small letters, digits and _, no digit first, "
            "and not pg_ in front"
        )
    return text


def _count(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:3]) <= MOST_OF_A_KIND:
        raise StoreNotOpened(f"{name} is a number from 1 to {MOST_OF_A_KIND}")
    return int(text)
