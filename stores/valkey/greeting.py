"""What an engine is asked on every new connection, before anything is asked of it.

Whether it is a primary; which one (its *replication id*, which is another after every start and
every failover); what its settings let an acknowledged write survive; whether it may throw keys
away when its memory is full; and what time it has.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.connection import Connection

from twinline.core.clock import wall_clock_ms
from twinline.core.store import Durability
from twinline.stores.valkey.wire import asked, command

QUESTIONS: Final = (
    (b"INFO", b"replication"),
    (b"INFO", b"memory"),
    (b"INFO", b"server"),
    (b"CONFIG", b"GET", b"appendonly"),
    (b"CONFIG", b"GET", b"appendfsync"),
    (b"CLIENT", b"ID"),
)
"""The commands that ask what an engine is."""
_TIME: Final = command(b"TIME")
OLDEST: Final = 7
"""The oldest version that can publish to a part of a cluster."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What an engine answered.

    Attributes:
        primary: whether it takes writes.
        replication_id: of which data it is the primary.
        durability: what an acknowledged write survives by its settings.
        evicts: the policy by which it throws keys away that this store needs, or None.
        version: its first number.
        clock_offset_ms: how far this machine's clock is ahead of its.
        connection_id: of this connection.
        run_id: of the engine's process, which counts connections from one on.
    """

    primary: bool
    replication_id: bytes
    durability: Durability
    evicts: str | None
    version: int
    clock_offset_ms: int
    connection_id: bytes
    run_id: bytes


def greet(connection: Connection) -> Greeting:
    """Ask an engine what it is.

    Raises:
        redis.ConnectionError, redis.TimeoutError, OSError: it does not answer.
    """
    answers = asked(connection, *(command(*each) for each in QUESTIONS))
    for each in (answers[0], answers[-1]):
        if isinstance(each, redis.ResponseError):
            raise redis.ConnectionError(f"the engine refuses to say what it is: {each}")
    return greeting_from(answers, clock_offset(connection))


def greeting_from(answers: Sequence[Any], clock_offset_ms: int) -> Greeting:
    """Return what the answers to `QUESTIONS` say."""
    replication, memory, server, appendonly, appendfsync, connection_id = answers
    told, process = _info(replication), _info(server)
    # Some providers keep their settings to themselves: then nothing can be promised.
    synced = _setting(appendonly) == b"yes" and _setting(appendfsync) == b"always"
    return Greeting(
        primary=told.get(b"role") == b"master",
        replication_id=told.get(b"master_replid", b""),
        durability=Durability.DISK if synced else Durability.PROCESS,
        evicts=_evicts(_info(memory)),
        version=int(process.get(b"redis_version", b"0").split(b".")[0]),
        clock_offset_ms=clock_offset_ms,
        connection_id=b"%d" % connection_id,
        run_id=process.get(b"run_id", b""),
    )


def clock_offset(connection: Connection) -> int:
    """Return how far this machine's clock is ahead of an engine's, in ms, to half a round trip.

    Raises:
        redis.ConnectionError, redis.TimeoutError, OSError: it does not answer.
    """
    begun = time.monotonic()
    (told,) = asked(connection, _TIME)
    return offset_from(told, time.monotonic() - begun)


def offset_from(told: Any, seconds: float) -> int:
    """Return how far this clock is ahead of what an engine told in a round trip just now, in ms."""
    if isinstance(told, redis.ResponseError):
        return 0
    then = int(told[0]) * 1000 + int(told[1]) // 1000
    return wall_clock_ms() - round(seconds * 500) - then


def _info(text: Any) -> dict[bytes, bytes]:
    if isinstance(text, redis.ResponseError):
        return {}
    pairs = (line.partition(b":") for line in text.split(b"\r\n") if b":" in line)
    return {key: value for key, _, value in pairs}


def _setting(answer: Any) -> bytes | None:
    if isinstance(answer, redis.ResponseError) or len(answer) != 2:
        return None
    value: bytes = answer[1]
    return value


def _evicts(memory: dict[bytes, bytes]) -> str | None:
    policy = memory.get(b"maxmemory_policy", b"noeviction")
    # What may be thrown away among the keys with an end are send_ids: a repeat would be stored
    # twice. Without a limit nothing is, but for allkeys that is no state to begin in.
    if policy.startswith(b"allkeys-") or (
        policy.startswith(b"volatile-") and memory.get(b"maxmemory", b"0") != b"0"
    ):
        return policy.decode()
    return None
