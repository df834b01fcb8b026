"""Keeps the sessions that `login` opens, in a file that only its owner can read.

The file is ``$XDG_STATE_HOME/twinline/sessions.json`` (``~/.local/state`` by default), mode 600
in a directory of mode 700. It holds, for each endpoint, the sessions by username and who logged
in last. It is replaced as a whole, so a reader sees the old one or the new one; a lock file keeps
two commands that change it from losing one of the changes.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.text import visible
from twinline.core.errors import NotLoggedIn
from twinline.transports.endpoints import Endpoint

_VERSION: Final = 1


class KeptSession(BaseModel):
    """A session that can be resumed: a secret.

    Attributes:
        username: the account.
        token: what `resume` takes.
        incarnation: of the server that it was opened at, if its accounts end with it.
    """

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    username: str
    token: str = Field(repr=False)
    incarnation: str | None = None


class _AtEndpoint(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    current: str | None = None
    sessions: dict[str, KeptSession] = Field(default_factory=dict)


class _Contents(BaseModel):
    model_config = ConfigDict(hide_input_in_errors=True)

    version: int = _VERSION
    endpoints: dict[str, _AtEndpoint] = Field(default_factory=dict)


class SessionFile:
    """The sessions of one user of this machine.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or _default_path()

    def find(self, endpoints: Iterable[Endpoint], username: str | None = None) -> KeptSession:
        """Return the session to resume.

        Args:
            endpoints: of the server, or of several with one state: the first where there is a
                session counts. Which transports they name makes no difference.
            username: whose; None is whoever logged in last there.

        Raises:
            CommandError: there is none, or the file cannot be read.
        """
        known = self._read().endpoints
        keys = [_key(endpoint) for endpoint in endpoints]
        for key in keys:
            here = known.get(key, _AtEndpoint())
            name = here.current if username is None else username.lower()
            if name is not None and name in here.sessions:
                return here.sessions[name]
        who = "nobody is" if username is None else f"{visible(username)} is not"
        raise CommandError(
            f"{who} logged in at {' or '.join(keys)}; log in with 'twinline login'",
            ExitCode.REFUSED,
        ) from NotLoggedIn()

    def endpoints(self) -> list[str]:
        """Return the endpoints where an account is logged in.

        Raises:
            CommandError: the file cannot be read.
        """
        return list(self._read().endpoints)

    def usernames(self, endpoints: Iterable[Endpoint]) -> list[str]:
        """Return who is logged in at any of these endpoints.

        Raises:
            CommandError: the file cannot be read.
        """
        known = self._read().endpoints
        places = [known.get(_key(endpoint), _AtEndpoint()) for endpoint in endpoints]
        return sorted({name for here in places for name in here.sessions})

    def keep(self, endpoints: Iterable[Endpoint], session: KeptSession) -> None:
        """Keep a session, in place of an older one, and make it the current one at each endpoint.

        Args:
            endpoints: of the server, or of several with one state: it is good at each of them.
            session: to keep.
        """
        with self._changing() as contents:
            for endpoint in endpoints:
                here = contents.endpoints.setdefault(_key(endpoint), _AtEndpoint())
                here.sessions[session.username] = session
                here.current = session.username

    def forget(self, endpoints: Iterable[Endpoint], session: KeptSession) -> None:
        """Drop a session that has ended, where no other one has taken its place since."""
        with self._changing() as contents:
            for endpoint in endpoints:
                key = _key(endpoint)
                here = contents.endpoints.get(key)
                if here is None or here.sessions.get(session.username) != session:
                    continue
                del here.sessions[session.username]
                if here.current == session.username:
                    here.current = None
                if not here.sessions:
                    del contents.endpoints[key]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Contents]:
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        lock = os.open(folder / f"{self.path.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            contents = self._read()
            yield contents
            self._write(contents)
        finally:
            os.close(lock)

    def _read(self) -> _Contents:
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return _Contents()
        try:
            contents = _Contents.model_validate_json(text)
        except ValidationError:
            raise CommandError(
                f"{self.path} is damaged; remove it and log in again", ExitCode.FAILURE
            ) from None
        if contents.version != _VERSION:
            raise CommandError(f"{self.path} was written by another version of twinline")
        return contents

    def _write(self, contents: _Contents) -> None:
        # mkstemp makes the file with mode 600; it is on the same file system, so that the
        # replacement is atomic.
        file, name = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(file, "w", encoding="utf-8") as temporary:
                temporary.write(contents.model_dump_json(indent=2))
                temporary.flush()
                os.fsync(temporary.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _default_path() -> Path:
    home = os.environ.get("XDG_STATE_HOME")
    folder = Path(home) if home else Path("~/.local/state").expanduser()
    return folder / "twinline" / "sessions.json"


def _key(endpoint: Endpoint) -> str:
    return str(replace(endpoint, transport=None))
