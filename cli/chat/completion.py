"""Completes commands, and the names of accounts, which the server is asked for by prefix."""

import re
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Final

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, ThreadedCompleter
from prompt_toolkit.document import Document

from twinline.cli.chat.conversation import COMMANDS
from twinline.core.errors import RequestError
from twinline.transports.client import ClientError

SHOWN: Final = 50
"""How many names are offered at once."""
_FRESH_SECONDS: Final = 10.0
_CACHED: Final = 100
_TAKE_NAMES: Final = frozenset({"/to", "/query", "/msg"})
_NAME: Final = re.compile(r"[a-z0-9._-]{0,32}")


class Names:
    """The names of accounts by prefix; what the server said is good for ten seconds."""

    def __init__(self, ask: Callable[[str], Iterable[str]], is_online: Callable[[], bool]) -> None:
        """Prepare.

        Args:
            ask: returns the names that match a pattern, the first `SHOWN` of them.
            is_online: whether to ask now.
        """
        self._ask = ask
        self._is_online = is_online
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}

    def beginning_with(self, prefix: str) -> tuple[str, ...]:
        """Return names, or none when the server cannot be asked."""
        known = self._known.get(prefix)
        if known is not None and time.monotonic() - known[0] < _FRESH_SECONDS:
            return known[1]
        if not self._is_online():
            return ()
        try:
            names = tuple(self._ask(f"{prefix}*"))
        except (ClientError, RequestError):
            return ()  # the conversation itself says what is wrong
        if len(self._known) >= _CACHED:
            self._known.clear()
        self._known[prefix] = (time.monotonic(), names)
        return names


class TalkCompleter(Completer):
    """Offers what can stand where the cursor is.

    A command at the beginning of a line that begins with a slash; an account after one that takes
    a name, or as the first word of a line. On an empty line those whose mail is unread. A name has
    its colon only where no conversation is open: in one, such a line would go to nobody.
    """

    def __init__(
        self, names: Names, unread: Callable[[], Iterable[str]], to: Callable[[], str | None]
    ) -> None:
        """Prepare.

        Args:
            names: of all accounts.
            unread: returns those whose mail is unread.
            to: returns whom the talk is with, or None.
        """
        self._names = names
        self._unread = unread
        self._to = to

    def get_completions(
        self,
        document: Document,
        complete_event: CompleteEvent,  # noqa: ARG002
    ) -> Iterable[Completion]:
        """Yield completions of the text before the cursor."""
        text = document.text_before_cursor
        if text.startswith("/"):
            word, space, rest = text.partition(" ")
            if not space:
                yield from self._commands(word)
            elif word in _TAKE_NAMES and " " not in rest.lstrip():
                yield from self._accounts(rest.lstrip(), " " if word == "/msg" else "")
        elif not text:
            for name in self._unread():
                begun = f"{name}: " if self._to() is None else f"/to {name}"
                yield Completion(begun, display=name)
        elif " " not in text:
            yield from self._accounts(text, ": " if self._to() is None else " ")

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """Yield the same; the server is asked in a thread of its own.

        Commands need none, and names are asked for with Tab alone: so a Tab never finds the
        completion of an earlier key still under way, which would swallow it.
        """
        text = document.text_before_cursor
        if text.startswith("/") and " " not in text:
            for completion in self.get_completions(document, complete_event):
                yield completion
        elif complete_event.completion_requested:
            async for completion in ThreadedCompleter(self).get_completions_async(
                document, complete_event
            ):
                yield completion

    def _commands(self, word: str) -> Iterator[Completion]:
        for name, command in COMMANDS.items():
            if name.startswith(word):
                more = " " if command.takes else ""
                yield Completion(
                    name + more,
                    start_position=-len(word),
                    display=name,
                    display_meta=command.does,
                )

    def _accounts(self, begun: str, end: str) -> Iterator[Completion]:
        prefix = begun.lower()
        if _NAME.fullmatch(prefix):
            for name in self._names.beginning_with(prefix):
                yield Completion(f"{name}{end}", start_position=-len(begun), display=name)
