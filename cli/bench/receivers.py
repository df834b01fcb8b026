"""What `Client` and `AsyncClient` hand to an application: the load of `twinline bench` as receiver.

The mail is in the mailbox before the client connects, so that nothing else loads the machine; the
server writes it as the stream's window allows, and the client acknowledges what it has handed on.
"""

import asyncio
import time
from typing import Final

from twinline.cli.bench.load import Sample
from twinline.cli.bench.sockets import PATIENCE_SECONDS, LoadError
from twinline.cli.bench.target import ServerProcess
from twinline.cli.console.exit_codes import ExitCode
from twinline.transports.client import AsyncClient, Client
from twinline.transports.contract import Transport

BACKLOG: Final = 5_000
"""Messages: about a quarter of a second, and half of what a mailbox holds by default."""


def by_client(server: ServerProcess, transport: Transport, token: str, wanted: int) -> Sample:
    """Receive so many messages by a `Client`, and time them from the first to the last.

    Args:
        server: what sends them.
        transport: to speak.
        token: of a session whose mailbox has that many.
        wanted: how many, at least two.

    Raises:
        LoadError: they do not come.
        ClientError: the server is not reached.
    """
    moments = []
    with Client(server.endpoint, transport=transport, tls=server.tls) as client:
        client.resume(token)
        spent = time.process_time()
        for _ in client.messages(timeout=PATIENCE_SECONDS):
            moments.append(time.perf_counter())
            if len(moments) == wanted:
                break
        spent = time.process_time() - spent
    return _sample(moments, wanted, spent)


def by_async_client(server: ServerProcess, transport: Transport, token: str, wanted: int) -> Sample:
    """Receive as `by_client` does, by an `AsyncClient`.

    Raises:
        LoadError: they do not come.
        ClientError: the server is not reached.
    """
    return asyncio.run(_receive(server, transport, token, wanted))


async def _receive(server: ServerProcess, transport: Transport, token: str, wanted: int) -> Sample:
    moments = []
    async with AsyncClient(server.endpoint, transport=transport, tls=server.tls) as client:
        await client.resume(token)
        spent = time.process_time()
        async for _ in client.messages(timeout=PATIENCE_SECONDS):
            moments.append(time.perf_counter())
            if len(moments) == wanted:
                break
        spent = time.process_time() - spent
    return _sample(moments, wanted, spent)


def _sample(moments: list[float], wanted: int, spent: float) -> Sample:
    if len(moments) < wanted:
        message = f"a client has received {len(moments):,} of {wanted:,} messages"
        raise LoadError(message, ExitCode.TIMED_OUT)
    # Before the first came the connection and the login, which are no part of it.
    return Sample(wanted - 1, moments[-1] - moments[0], [], spent)
