"""Keeps what was typed at the prompt of `twinline chat` from one run to the next.

The file is ``chat-history`` beside the kept sessions, of mode 600, because messages are in it.
"""

import os
from pathlib import Path
from typing import Final

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from twinline.cli.console.output import say

MAX_BYTES: Final = 256 * 1024
"""A file that has grown beyond this loses its older half when a talk begins."""
_ENTRY: Final = b"\n# "  # what begins an entry: its time, as a comment


def kept_history(folder: Path) -> History:
    """Return the history in a folder; one in memory where the folder cannot be written.

    Args:
        folder: of the kept sessions.
    """
    path = folder / "chat-history"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Made before the library opens it, which would leave it to the umask.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        path.chmod(0o600)
        _shorten(path)
    except OSError as error:
        say(f"twinline: what you type is not kept: {error.strerror}: {path}")
        return InMemoryHistory()
    return FileHistory(str(path))


def _shorten(path: Path) -> None:
    if path.stat().st_size <= MAX_BYTES:
        return
    newer = path.read_bytes()[-MAX_BYTES // 2 :]
    begin = newer.find(_ENTRY)
    kept = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(newer[begin:] if begin >= 0 else b"")
    kept.replace(path)
