"""Commands as the engine reads them, connections, and which part of a cluster has a key.

Commands are packed by the threads that ask, so that the one thread which sends has only to join
them. redis-py makes the connections (TLS, login, the database) and reads the answers.
"""

import binascii
import hashlib
from contextlib import suppress
from typing import Any, Final

import redis
from redis.connection import Connection, SSLConnection

from twinline.core.errors import StoreUnavailable
from twinline.stores.valkey.url import Address, Target

SLOTS: Final = 16_384
"""How many parts a cluster's keys are in."""
CONNECT_SECONDS: Final = 2.0
"""How long an engine may take to accept a connection."""
ANSWER_SECONDS: Final = 4.0
"""How long it may take for what was sent on one, in all: a sync of its disk is in this."""
_FORMS: Final = [b"$%d\r\n%b\r\n" * count for count in range(16)]
LOST: Final = (redis.ConnectionError, redis.TimeoutError, OSError)
"""What is raised by a connection that is of no use any more."""


def slot_of(key: bytes) -> int:
    """Return the part of a cluster that has a key: a CRC16 of its hash tag, or of all of it.

    The rule is https://valkey.io/topics/cluster-spec/#hash-tags.
    """
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return binascii.crc_hqx(key, 0) % SLOTS


def to_bytes(text: str) -> bytes:
    """Return a text as it is kept: any, also one with half a surrogate pair."""
    return text.encode(errors="surrogatepass")


def to_text(kept: bytes) -> str:
    """Return a text that was kept."""
    return kept.decode(errors="surrogatepass")


def packed(*arguments: bytes) -> bytes:
    """Return arguments of a command, without how many they are."""
    count = len(arguments)
    if count >= len(_FORMS):
        return b"".join([b"$%d\r\n%b\r\n" % (len(each), each) for each in arguments])
    return _FORMS[count] % tuple([part for each in arguments for part in (len(each), each)])


def command(*arguments: bytes) -> bytes:
    """Return a whole command."""
    return b"*%d\r\n%b" % (len(arguments), packed(*arguments))


def answered(answers: list[Any]) -> list[Any]:
    """Return the answers to several calls.

    Raises:
        StoreUnavailable: one has none.
    """
    for each in answers:
        if isinstance(each, StoreUnavailable):
            raise each
    return answers


class Script:
    """A script, which the engine runs as one step.

    Attributes:
        load: the command that has the engine keep it.
        name: the beginning of a command that runs it, packed: two arguments.
    """

    __slots__ = ("load", "name")

    def __init__(self, text: str) -> None:
        source = text.encode()
        self.load = command(b"SCRIPT", b"LOAD", source)
        # The engine's own name for it.
        self.name = packed(
            b"EVALSHA", hashlib.sha1(source, usedforsecurity=False).hexdigest().encode()
        )


def connect(target: Target, address: Address) -> Connection:
    """Return a connection that has logged in.

    Raises:
        redis.RedisError, OSError: it cannot be made.
    """
    host, port = address
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": target.database,
        "username": target.username,
        "password": target.password,
        "socket_timeout": ANSWER_SECONDS,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_keepalive": True,
        # Answers alone, in their order; what else an engine may tell comes to who subscribes.
        "protocol": 2,
    }
    kind: type[Connection] = Connection
    if target.tls:
        kind = SSLConnection
        options |= {
            "ssl_ca_certs": target.cafile,
            "ssl_certfile": target.certfile,
            "ssl_keyfile": target.keyfile,
            "ssl_check_hostname": True,
        }
    connection = kind(**options)
    connection.connect()  # type: ignore[no-untyped-call]
    return connection


def send(connection: Connection, data: bytes) -> None:
    """Send commands.

    Raises:
        redis.ConnectionError, redis.TimeoutError, OSError: they may have been sent in part.
    """
    connection.send_packed_command([data], check_health=False)  # type: ignore[no-untyped-call]


def answer(connection: Connection) -> Any:
    """Return the next answer; a refusal is returned as what redis-py raises.

    Raises:
        redis.ConnectionError, redis.TimeoutError, OSError: there is none.
    """
    try:
        return connection.read_response(disable_decoding=True, disconnect_on_error=False)
    except redis.ResponseError as refusal:
        return refusal


def asked(connection: Connection, *commands: bytes) -> list[Any]:
    """Send whole commands and return their answers.

    Raises:
        redis.ConnectionError, redis.TimeoutError, OSError: there are none.
    """
    send(connection, b"".join(commands))
    return [answer(connection) for _ in commands]


def disconnect(connection: Connection | None) -> None:
    """Close a connection, whatever state it is in."""
    if connection is not None:
        with suppress(Exception):
            connection.disconnect()  # type: ignore[no-untyped-call]
