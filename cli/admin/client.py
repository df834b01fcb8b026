"""How an operator's command gets from its flags to the admin socket, and asks there.

Each question has a connection of its own: no command holds one while a person reads.
"""

import contextlib
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import BaseModel, ValidationError

from twinline.cli.console.command import option
from twinline.cli.console.errors import CommandError, SettingsError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.server.admin.places import found_places
from twinline.cli.server.admin.replies import Refused
from twinline.cli.server.admin.requests import AdminRequest
from twinline.cli.settings.model import ClientCommandSettings
from twinline.cli.settings.options import config_option, json_option, load_from, settings_options
from twinline.core.deadline import Deadline
from twinline.core.errors import RequestError
from twinline.transports.client import ConnectionLost, NotConnected, TimedOut
from twinline.transports.endpoints import Endpoint

_MOST_BYTES: Final = 64 * 1024 * 1024
"""No reply is longer: the longest one has a page of messages."""
_FLAGS: Final = {"admin_listen": "--admin"}
Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Reply = TypeVar("Reply", bound=BaseModel)

admin_option: Final = option(
    "--admin",
    "admin_listen",
    metavar="ENDPOINT",
    help="The server's admin socket, unix:/path.<|  [default: the setting admin_listen]>",
)


def admin_options(function: Decorated) -> Decorated:
    """Give a command the flags that say which server's operator it is for."""
    others = set(ClientCommandSettings.model_fields) - {"timeout"}
    timeout = settings_options(ClientCommandSettings, without=others)
    for give in (timeout, admin_option, config_option, json_option):
        function = give(function)
    return function


@dataclass(frozen=True, slots=True)
class AdminTarget:
    """The admin socket of a server, or those of its nodes.

    Attributes:
        place: the endpoint, as the operator has written it.
        timeout: seconds to wait for a reply.
        nodes: how many there are, as far as the settings say it.
    """

    place: str
    timeout: float
    nodes: int = 1

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Return the target that a command's flags, variables and file name.

        Raises:
            SettingsError: they name none, or a setting cannot be.
        """
        found = cls.named(options)
        if found is None:
            raise SettingsError(
                "say where the server's admin socket is: --admin unix:/path, or admin_listen in "
                "the settings, as the server has it"
            )
        return found

    @classmethod
    def named(cls, options: Mapping[str, Any]) -> Self | None:
        """Return the target, or None where none is named.

        Raises:
            SettingsError: a setting cannot be.
        """
        settings = load_from(options, _FLAGS).settings
        if settings.admin_listen is None:
            return None
        return cls(settings.admin_listen, settings.timeout, settings.nodes)

    def ask(self, asked: AdminRequest, reply: type[Reply]) -> Reply:
        """Ask one server: of several nodes any, for they have one state.

        Args:
            asked: the request.
            reply: the model of its reply.

        Raises:
            RequestError: it is refused.
            CommandError: this user may not ask.
            NotConnected: no server listens there.
            ConnectionLost, TimedOut: whether it was done is not known.
        """
        failures: list[str] = []
        for path in found_places(self.place):
            try:
                line = self._asked(path, asked)
            except NotConnected as error:
                failures.append(str(error))
                continue
            return self._read(path, line, reply)
        raise self._unreachable(failures)

    def ask_all(self, asked: AdminRequest, reply: type[Reply]) -> tuple[list[Reply], list[str]]:
        """Ask every node, for what each process has for itself.

        Returns:
            The replies, of one node at least; and why others have not replied, a sentence each.

        Raises:
            Exceptions: as for `ask`, if none has replied, or if one refuses it.
        """
        found, silent = self.ask_all_pages(lambda _: asked, reply, lambda _: None)
        return [page for (page,) in found], silent

    def _places(self) -> list[Path]:
        """Return where nodes are to be asked: those that the settings tell of, and all found."""
        found = found_places(self.place)
        if self.nodes == 1:
            return found
        path = Path(Endpoint.parse(self.place).path)
        every = [path.with_name(f"{path.name}.{index}") for index in range(self.nodes)]
        return [*every, *(each for each in found if each not in every)]

    def ask_all_pages(
        self,
        ask_after: Callable[[int], AdminRequest],
        reply: type[Reply],
        more: Callable[[Reply], int | None],
    ) -> tuple[list[list[Reply]], list[str]]:
        """Ask every node for all its pages.

        Args:
            ask_after: returns the request for what comes after a number.
            reply: the model of its reply.
            more: returns the number to go on after, or None: there is no more.

        Returns:
            The pages of each node, of one at least; and why others have not replied to the end, a
            sentence each.

        Raises:
            Exceptions: as for `ask_all`.
        """
        silent: list[str] = []
        lost: ConnectionLost | TimedOut | None = None
        found: list[list[Reply]] = []
        for path in self._places():
            pages: list[Reply] = []
            after: int | None = 0
            try:
                while after is not None:
                    asked = ask_after(after)
                    page = self._read(path, self._asked(path, asked), reply)
                    pages.append(page)
                    after = more(page)
            except NotConnected as error:
                silent.append(str(error))
                continue
            except (ConnectionLost, TimedOut) as error:
                lost = error  # it may have ended in the middle
                silent.append(str(error))
                continue
            found.append(pages)
        if not found:
            raise lost or self._unreachable(silent)
        return found, silent

    def _unreachable(self, failures: Sequence[str]) -> NotConnected:
        why = failures[0] if failures else f"there is no {self.place}"
        return NotConnected(
            f"{why}: no server runs with this admin_listen"
            if len(failures) < 2
            else f"no server answers at {self.place} or at any node's: {why}"
        )

    def _asked(self, path: Path, asked: AdminRequest) -> bytes:
        """Return the line that answers a request."""
        timeout = max(self.timeout, asked.seconds)
        deadline = Deadline.after(timeout)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
            connected.settimeout(timeout)
            try:
                connected.connect(str(path))
            except PermissionError:
                raise CommandError(
                    f"you may not use {path}: it is for root, for the server's own user and for "
                    "admin_group",
                    ExitCode.REFUSED,
                ) from None
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
                raise NotConnected(f"nobody listens on {path} ({error.strerror})") from None
            except OSError as error:
                raise NotConnected(f"cannot connect to {path}: {error}") from None
            try:
                # Who is refused at once has been told why.
                with contextlib.suppress(BrokenPipeError):
                    connected.sendall(asked.model_dump_json().encode() + b"\n")
                return _line(connected, deadline)
            except TimeoutError:
                raise TimedOut(
                    f"the server at {path} has not answered within {timeout:g} s"
                ) from None
            except OSError as error:
                raise ConnectionLost(f"the server at {path} has hung up: {error}") from None

    @staticmethod
    def _read(path: Path, line: bytes, reply: type[Reply]) -> Reply:
        try:
            if line.startswith(b'{"error"'):
                raise RequestError.from_reply(Refused.model_validate_json(line).error)
            return reply.model_validate_json(line)
        except ValidationError:
            raise CommandError(
                f"the server at {path} answers what this version of twinline does not know"
            ) from None


def _line(connected: socket.socket, deadline: Deadline) -> bytes:
    begun = bytearray()
    while not begun.endswith(b"\n"):
        if len(begun) > _MOST_BYTES:
            raise OSError("its reply has no end")
        connected.settimeout(max(0.001, deadline.remaining() or 0))
        data = connected.recv(1 << 18)
        if not data:
            raise OSError("the connection has ended")
        begun += data
    return bytes(begun)


def see_all_answered(silent: Sequence[str]) -> None:
    """See that no node was left out.

    Raises:
        CommandError: one was; it says which.
    """
    if silent:
        raise CommandError(f"not every node has answered: {'; '.join(silent)}")
