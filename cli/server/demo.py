"""`twinline demo`: a server, two people on different transports, and what each of them sees."""

import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self

from twinline.cli.console.command import command, option
from twinline.cli.console.errors import CommandError
from twinline.cli.console.output import write_json, write_line
from twinline.cli.console.shapes import DemoStep
from twinline.cli.console.text import visible
from twinline.cli.server.private import private_server
from twinline.cli.settings.options import json_option
from twinline.core.protocol import Message
from twinline.stores.registry import open_store
from twinline.transports.client import Client
from twinline.transports.endpoints import Endpoint

_SECONDS: Final = 10.0
_PING: Final = '{"op":"ping","id":1}'
_PASSWORD: Final = "a password for the demo"  # noqa: S105 - of accounts that end with this process


@command(example="twinline demo --once")
@option("--once", is_flag=True, help="End when the talk is over.")
@json_option
def demo(once: bool, as_json: bool) -> None:
    """See two people talk through a real server, on two transports.

    Starts a server on a free port of this machine, lets ann (JSON lines) and bob (binary) talk,
    and prints what each sees. Then the server stays up and tells how to join; Ctrl-C ends it.
    Nothing is kept.
    """
    show = write_json if as_json else _tell
    with private_server(open_store("memory:")) as endpoint, ExitStack() as people:
        show(DemoStep(event="listening", endpoint=str(endpoint)))
        ann = people.enter_context(_Person("ann", "jsonl", endpoint, show))
        bob = people.enter_context(_Person("bob", "binary", endpoint, show))
        if not as_json:
            write_line()
        _talk(ann, bob)
        if once:
            return
        bob.answers = True
        try:
            if not as_json:
                _invite(endpoint)
            threading.Event().wait()
        except KeyboardInterrupt:
            # It is how the demo ends, so it is no failure.
            if not as_json:
                write_line()


def _tell(step: DemoStep) -> None:
    """Tell a person what happens."""
    body = visible(step.body or "")
    match step.event:
        case "listening":
            write_line(
                f"A server listens on {step.endpoint}. It speaks both transports on one port"
            )
            write_line("and keeps what it is told in memory.")
            write_line()
            return
        case "registered":
            words = f"has an account and is online, speaking {step.transport}"
        case "sent":
            words = f"writes to {visible(step.peer or '')}: {body}"
        case "received":
            words = f"sees from {visible(step.peer or '')}: {body}"
        case "offline":
            words = "goes offline"
        case "online":
            words = "is online again"
    write_line(f"  {step.username}  {words}")


def _talk(ann: "_Person", bob: "_Person") -> None:
    ann.say(bob, "Hello bob! I speak JSON lines, one object a line.")
    bob.say(ann, "Hello ann! I speak binary frames. The server does not mind.")
    ann.say(bob, "Good. I have something for you later.")
    bob.leave()
    ann.say(bob, "Here it is. You are offline, so it waits for you.")
    bob.come_back()
    bob.see_one()
    bob.say(ann, "It was here when I came back. Thank you!")


class _Person:
    """Someone with an account and a client of their own.

    Attributes:
        name: the username.
        answers: whether to answer strangers.
    """

    def __init__(
        self, name: str, spoken: str, endpoint: Endpoint, show: Callable[[DemoStep], None]
    ) -> None:
        self.name = name
        self._show = show
        self.answers = False
        self._spoken = spoken
        self._endpoint = endpoint
        self._token = ""
        self._client: Client | None = None
        self._seen = threading.Semaphore(0)

    def __enter__(self) -> Self:
        client = self._connected()
        self._token = client.create_account(self.name, _PASSWORD).session
        self._client = client
        self._show(DemoStep(event="registered", username=self.name, transport=self._spoken))
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._client is not None:
            self._client.close()

    def say(self, to: "_Person", text: str) -> None:
        """Send a line, and wait until the other has seen it, if they are there."""
        if self._client is None:
            raise CommandError(f"{self.name} is offline")
        self._show(DemoStep(event="sent", username=self.name, peer=to.name, body=text))
        self._client.send(to.name, text)
        if to._client is not None:  # noqa: SLF001 - of the same class
            to.see_one()

    def see_one(self) -> None:
        """Wait until a message has been shown."""
        if not self._seen.acquire(timeout=_SECONDS):
            raise CommandError(f"{self.name} did not get the message")

    def leave(self) -> None:
        """Go offline; the session stays open."""
        client, self._client = self._client, None
        if client is not None:
            client.close()
            self._show(DemoStep(event="offline", username=self.name))

    def come_back(self) -> None:
        """Go online with the same session."""
        client = self._connected()
        self._show(DemoStep(event="online", username=self.name))
        self._client = client
        client.resume(self._token)

    def _connected(self) -> Client:
        client = Client(self._endpoint, transport=self._spoken, on_message=self._see)
        try:
            client.connect(_SECONDS)
        except BaseException:
            client.close()
            raise
        return client

    def _see(self, message: Message) -> None:
        sender = message.sender
        self._show(DemoStep(event="received", username=self.name, peer=sender, body=message.body))
        self._seen.release()
        if self.answers and self._client is not None and sender not in ("ann", "bob"):
            answer = f"Hello {sender}, I read: {message.body[:200]}"
            self._show(DemoStep(event="sent", username=self.name, peer=sender, body=answer))
            self._client.send(sender, answer)


def _invite(endpoint: Endpoint) -> None:
    program = _program()
    write_line()
    write_line("The server stays up. Join from another terminal; bob answers:")
    write_line()
    write_line(f"  {program} register carol --connect {endpoint}")
    write_line(f"  {program} chat bob --connect {endpoint}")
    write_line()
    write_line("Or speak the protocol by hand:")
    write_line()
    write_line(f"  {_by_hand(endpoint)}")
    write_line()
    write_line("Ctrl-C ends it.")


def _by_hand(endpoint: Endpoint) -> str:
    """Return a line for the shell that asks the server something, with what this machine has."""
    if shutil.which("nc") is not None and _nc_can_end():
        return f"""echo '{_PING}' | nc -N {endpoint.host} {endpoint.port}"""
    code = (
        "import socket, sys; "
        f"s = socket.create_connection((sys.argv[1], {endpoint.port})); "
        "s.sendall((sys.argv[2] + chr(10)).encode()); "
        "print(s.makefile().readline(), end=str())"
    )
    return f"{shlex.quote(sys.executable)} -c '{code}' {endpoint.host} '{_PING}'"


def _nc_can_end() -> bool:
    """Return whether nc has -N, with which it ends when its input does; not every nc has."""
    try:
        told = subprocess.run(["nc", "-h"], capture_output=True, text=True, timeout=1, check=False)  # noqa: S607 - the one that the person would run
    except (OSError, subprocess.TimeoutExpired):
        return False
    return re.search(r"-[0-9A-Za-z]*N", told.stdout + told.stderr) is not None


def _program() -> str:
    """Return what to type in another terminal to run this program."""
    name = Path(sys.argv[0])
    if name.name != "twinline":
        return f"{sys.executable} -m twinline.cli"
    return "twinline" if shutil.which("twinline") == str(name) else str(name.absolute())
