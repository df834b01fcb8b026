"""What the URL of a Valkey or Redis store says.

::

    redis://USER:PASSWORD@HOST:PORT/DATABASE
    rediss://HOST:PORT
    redis+cluster://HOST:PORT,HOST:PORT

``rediss`` speaks TLS. Of a cluster a few servers are named, and the others are asked for. The
options, behind a ``?``:

prefix
    what every key begins with (``twinline:``): several stores can share one database.
durability
    ``process`` or ``disk``: writes are refused while an engine promises less. Without it, what
    the engines promise when the store is opened is asked for from then on.
tls
    ``yes``: a cluster over TLS.
password_file
    a file with the password and nothing else, instead of the password in the URL; it is read when
    the store is opened.
cafile, certfile, keyfile
    for TLS: who signs the engine's certificate, and a certificate of the client's own.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from twinline.core.store import Durability
from twinline.stores.shared.opening import StoreNotOpened

SCHEMES: Final = ("redis", "rediss", "redis+cluster")
"""The schemes of this store."""
_PORT: Final = 6379
_OPTIONS: Final = ("prefix", "durability", "tls", "password_file", "cafile", "certfile", "keyfile")
_PREFIX: Final = re.compile(r"[\w.:-]{0,64}", re.ASCII)
_LEVELS: Final = (Durability.PROCESS, Durability.DISK)
Address = tuple[str, int]
"""A host and a port."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a store is, and what is asked of it.

    Attributes:
        addresses: the engine's, or of some of a cluster's.
        cluster: whether it is a cluster.
        username: the engine's user, or None.
        password: of that user, or None.
        database: its number; a cluster has 0 alone.
        prefix: what every key begins with.
        durability: the least that an acknowledged write must survive, or None.
        tls: whether to speak TLS.
        cafile: who signs the engine's certificate; None for those the system trusts.
        certfile: a certificate of the client's own, or None.
        keyfile: its key, if that is in another file.
    """

    addresses: tuple[Address, ...]
    cluster: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    prefix: str = "twinline:"
    durability: Durability | None = None
    tls: bool = False
    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def place(self) -> str:
        """The addresses, for messages."""
        return ",".join(map(shown, self.addresses))


def shown(address: Address) -> str:
    """Return an address as it is written."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_url(url: str) -> Target:
    """Return what a URL of this store says.

    Raises:
        StoreNotOpened: it is not one, or an option is wrong; no part of the text is from the
            URL's user or password.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES or not url.startswith(f"{scheme}://"):
        raise StoreNotOpened(
            "a Valkey or Redis store is written redis://HOST:PORT, rediss://HOST:PORT for TLS, or "
            "redis+cluster://HOST:PORT,HOST:PORT"
        )
    cluster = scheme == "redis+cluster"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreNotOpened("the URL of the store cannot be read") from None
    user, _, hosts = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    options = _options(parts.query)
    durability = options.get("durability")
    if durability not in (None, *_LEVELS):
        raise StoreNotOpened(
            "the durability of a Valkey or Redis store is process or disk; neither engine promises "
            "that a failover loses nothing"
        )
    prefix = options.get("prefix", "twinline:")
    if _PREFIX.fullmatch(prefix) is None:
        raise StoreNotOpened(
            "the prefix of a store's keys is at most 64 of letters, digits and . _ : -"
        )
    usual = "yes" if scheme == "rediss" else "no"
    tls = options.get("tls", usual)
    if tls not in ("yes", "no") or (tls != usual and not cluster):
        raise StoreNotOpened("tls=yes is for redis+cluster; for one engine write rediss://")
    if "password_file" in options:
        if password:
            raise StoreNotOpened("the URL of the store has a password, and password_file as well")
        password = _password_of(options["password_file"])
    else:
        password = unquote(password)
    addresses = tuple(_address(host) for host in hosts.split(","))
    if len(addresses) > 1 and not cluster:
        raise StoreNotOpened("only redis+cluster:// has several hosts")
    return Target(
        addresses,
        cluster,
        unquote(name) or None,
        password or None,
        _database(parts.path, cluster=cluster),
        prefix,
        None if durability is None else Durability(durability),
        tls == "yes",
        options.get("cafile"),
        options.get("certfile"),
        options.get("keyfile"),
    )


def _options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        known = ", ".join(_OPTIONS)
        what = unknown[0][:32] if unknown[0].isidentifier() else "?"
        raise StoreNotOpened(f"a Valkey or Redis store has no option {what!r}, but {known}")
    return options


def _password_of(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise StoreNotOpened(f"password_file: {path}: {reason}") from None
    password = text.removesuffix("\n").removesuffix("\r")
    if not password or "\n" in password:
        raise StoreNotOpened(f"password_file: {path}: it does not hold one line with a password")
    return password


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, port = text, str(_PORT)
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise StoreNotOpened("the URL of the store needs HOST or HOST:PORT behind the //")
    return host, int(port)


def _database(path: str, *, cluster: bool) -> int:
    number = path.removeprefix("/")
    if not number:
        return 0
    if cluster or not number.isascii() or not number.isdigit() or len(number) > 4:
        raise StoreNotOpened(
            "behind the host is the number of a database, as in redis://HOST/1; a cluster has none"
        )
    return int(number)
