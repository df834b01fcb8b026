"""A bar on stderr for a person who waits; nothing where stderr is no terminal."""

import shutil
import sys
from typing import Final

_BAR: Final = 30


class Progress:
    """One line that is written over, and wiped at the end."""

    def __init__(self) -> None:
        self._to_terminal = sys.stderr is not None and sys.stderr.isatty()

    def show(self, share: float, text: str) -> None:
        """Show how far it is.

        Args:
            share: of the whole, 0 to 1.
            text: what stands beside the bar.
        """
        filled = max(0, min(_BAR, round(_BAR * share)))
        self.say(f"[{'#' * filled}{'.' * (_BAR - filled)}] {text}")

    def say(self, text: str) -> None:
        """Show words instead of the bar."""
        if self._to_terminal:
            # A line that wraps could not be written over.
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"\r\x1b[K{text[:width]}")
            sys.stderr.flush()

    def end(self) -> None:
        """Wipe the line."""
        self.say("")
