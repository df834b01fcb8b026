"""Follows a page of the documentation: what can be run is run, in order, in a place of its own.

A page has a home directory, a working folder, a port and, unless it starts one itself, a server.
Its Python blocks build on each other and run in one process; so do its shells, by terminal.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

from docs_blocks import NO_CODE, ROOT, RUNNABLE, Block, blocks_of
from docs_terminal import Terminal, WrongOutputError, fits

PORT = "7767"
SECONDS = 120
_PYTHON = """
import contextlib, io, json, sys
names = {"__name__": "example"}
for request in sys.stdin:
    line, code = json.loads(request)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile("\\n" * line + code, PAGE, "exec"), names)
    print(json.dumps(out.getvalue()), flush=True)
"""


class Page:
    """One page, and where it is followed."""

    def __init__(self, path: Path, folder: Path) -> None:
        self.name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        self.port = str(free_port())
        self.blocks = [
            Block(each.line, each.language, each.text.replace(PORT, self.port), each.marks)
            for each in blocks_of(path.read_text(encoding="utf-8"))
        ]
        self.lacking: dict[
            str, int
        ] = {}  # programs that are not here, and how many blocks need them
        self.home, self.work = folder / "home", folder / "work"
        self._terminals: dict[str, Terminal] = {}
        self._python: subprocess.Popen[str] | None = None
        self._printed: str | None = None

    def unknown(self) -> list[str]:
        """Return the blocks of unknown languages that do not say why they are not run."""
        return [
            f"{self.name}:{block.line}: a block of {block.language!r}: say '<!-- not run: why -->'"
            for block in self.blocks
            if block.not_run is None
            and "file" not in block.marks
            and block.language not in RUNNABLE | NO_CODE
        ]

    def follow(self) -> None:
        """Run every block that can be run.

        Raises:
            WrongOutputError: something is not so.
        """
        self.home.mkdir()
        self.work.mkdir()
        (self.work / "docs").symlink_to(ROOT / "docs")
        with contextlib.ExitStack() as stack:
            stack.callback(self._close)
            if self._wants_server():
                stack.enter_context(self._server())
            stack.callback(self._end_python)
            for block in self.blocks:
                try:
                    self._do(block)
                except (AssertionError, TimeoutError, subprocess.SubprocessError) as error:
                    raise WrongOutputError(f"{self.name}:{block.line}: {error}") from error

    def _do(self, block: Block) -> None:
        needed = block.marks.get("needs")
        if block.not_run is not None:
            return
        if needed is not None and shutil.which(needed) is None:
            self.lacking[needed] = self.lacking.get(needed, 0) + 1
            return
        self._register(block.marks.get("logged in", ""))
        if "file" in block.marks:
            (self.work / block.marks["file"]).write_text(block.text, encoding="utf-8")
            if block.language == "toml":
                self._check_toml(block)
        elif "prints" in block.marks:
            if self._printed is None or not fits(self._printed, block.text.splitlines()):
                raise WrongOutputError(f"it printed {self._printed!r}")
        elif block.language == "python":
            self._printed = self._run_python(block)
        elif block.language == "sh":
            self._printed = self._run_shell(block.text)
        elif block.language == "console":
            self._terminal(block.marks.get("terminal", "")).follow(
                block.text, goes_on="goes on" in block.marks, types=block.marks.get("types", "")
            )
        elif block.language == "toml":
            self._check_toml(block)
        elif block.language == "json":
            for line in block.text.splitlines():
                json.loads(line)

    # -- each language ------------------------------------------------------------------

    def _run_python(self, block: Block) -> str:
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", f"PAGE = {self.name!r}\n{_PYTHON}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=self.work,
                env=self._environment(),
            )
        python = self._python
        assert python.stdin is not None
        assert python.stdout is not None
        assert python.stderr is not None
        late = threading.Timer(SECONDS, python.kill)
        late.start()
        try:
            python.stdin.write(json.dumps((block.line, block.text)) + "\n")
            python.stdin.flush()
            answer = python.stdout.readline()
            if not answer:
                raise WrongOutputError(python.stderr.read() or "the interpreter has ended")
        finally:
            late.cancel()
        printed: str = json.loads(answer)
        return printed

    def _end_python(self) -> None:
        if self._python is not None:
            with self._python:
                self._python.kill()

    def _register(self, names: str) -> None:
        for name in reversed(names.replace(",", " ").split()):
            self._run_shell(f"twinline login {name} || twinline register {name}")

    def _run_shell(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", text],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=self.work,
            env=self._environment() | {"TWINLINE_PASSWORD": "correct horse"},
            timeout=SECONDS,
            check=False,
        )
        if done.returncode:
            raise WrongOutputError(f"exit code {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _terminal(self, name: str) -> Terminal:
        if name not in self._terminals:
            self._terminals[name] = Terminal(self.work, self._environment())
        return self._terminals[name]

    def _check_toml(self, block: Block) -> None:
        if "[project" in block.text:  # a part of a package's pyproject.toml
            tomllib.loads(block.text)
            return
        file = self.home / "checked.toml"
        file.write_text(block.text, encoding="utf-8")
        self._run_shell(f"twinline config check {file}")

    # -- where it is followed -----------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TWINLINE_", "XDG_", "COV_", "PYTEST_"))
        }
        place = f"tcp://127.0.0.1:{self.port}"
        return kept | {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            # What a page leaves to the default is this server too.
            "TWINLINE_LISTEN": place,
            "TWINLINE_CONNECT": place,
        }

    def _wants_server(self) -> bool:
        run = [
            block.text
            for block in self.blocks
            if block.not_run is None and block.language in {"python", "sh", "console"}
        ]
        starts_one = any("twinline serve" in text for text in run)
        return not starts_one and any(self.port in text or "twinline " in text for text in run)

    @contextlib.contextmanager
    def _server(self) -> Iterator[None]:
        with subprocess.Popen(
            [sys.executable, "-m", "twinline.cli", "serve"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self.home,
            env=self._environment(),
        ) as server:
            try:
                assert server.stdout is not None
                assert server.stdout.readline().startswith("listening on ")
                yield
            finally:
                server.kill()

    def _close(self) -> None:
        for terminal in self._terminals.values():
            terminal.close()


def free_port() -> int:
    """Return a port that is free, and none of those that the system hands out."""
    while True:
        port = random.randint(15_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
