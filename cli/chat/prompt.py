"""The prompt: a line that is being typed, a toolbar below it, and text that appears above it.

The application runs in the main thread's event loop for as long as the talk; a line that is
entered is handed on and never ends it, so a key that is pressed while the server is slow goes
where it should. Text is put above by the same loop, between two keys: the prompt is taken away,
the text written, and the prompt drawn again with what was typed so far. The terminal is not asked
where its cursor is, and is given up only to a pager.

`Prompt.put`, `Prompt.page`, `Prompt.ask`, `Prompt.give_back`, `Prompt.take_up` and `Prompt.leave`
may be called from any other thread.
"""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, TypeVar

import click
from prompt_toolkit.application import Application, run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import Completer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition, has_focus, is_done
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import History
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout import (
    BufferControl,
    ConditionalContainer,
    Dimension,
    FormattedTextControl,
    HSplit,
    Layout,
    Window,
)
from prompt_toolkit.layout.processors import (
    BeforeInput,
    ConditionalProcessor,
    PasswordProcessor,
)
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.search import stop_search
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth
from prompt_toolkit.widgets import SearchToolbar

from twinline.cli.chat.conversation import NEXT, PREVIOUS, SWITCH, Declined
from twinline.cli.chat.rows import Entry
from twinline.cli.chat.theme import STYLES, trouble

_Answer = TypeVar("_Answer")
_TICK_SECONDS: Final = 0.25
_MOST_WAITING: Final = 4
_FOOT_LINES: Final = 2  # the prompt and its toolbar


class Prompt:
    """Where one person types, and sees."""

    def __init__(
        self,
        *,
        to: Callable[[], str | None],
        toolbar: Callable[[], str],
        waiting: Callable[[], Sequence[Entry]],
        history: History,
        completer: Completer,
        on_line: Callable[[str], bool],
        on_key: Callable[[str], bool],
        on_end: Callable[[], None],
    ) -> None:
        """Prepare, within the event loop that is to show it.

        Args:
            to: whom the line goes to, for the prompt.
            toolbar: the toolbar's text.
            waiting: what is shown right above the prompt, in one row each, for as long as it is
                there.
            history: of what was typed.
            completer: offers what can be typed, without holding up the loop.
            on_line: takes a line, or returns False to leave it where it is.
            on_key: takes a command that a key stands for, or returns False.
            on_end: called when the person wants to leave.
        """
        self._to = to
        self._toolbar = toolbar
        self._waiting = waiting
        self._shown_waiting = 0
        self._on_line = on_line
        self._on_key = on_key
        self._on_end = on_end
        self._line = Buffer(
            history=history,
            completer=completer,
            complete_while_typing=Condition(self._begins_command),
            multiline=False,
        )
        self._drafts: dict[str | None, str] = {}  # what was being typed, where a key led away
        self._reply = Buffer(multiline=False)
        self._question = ""
        self._secret = False
        self._answer: asyncio.Future[str] | None = None
        self._loop = asyncio.get_running_loop()
        self._asking = asyncio.Lock()  # held by whoever waits for an answer
        self._terminal = asyncio.Lock()  # held by whoever writes on it; a pager holds it for long
        self._is_leaving = False
        self._ended_by: BaseException | None = None
        self._shown = ""
        self._app = self._application()

    # -- for the main thread ------------------------------------------------------------

    async def run(self) -> None:
        """Show the prompt until `leave` is called, or the person leaves.

        Raises:
            Whatever `leave` was called with.
        """
        for number in (signal.SIGTERM, signal.SIGHUP):
            # The terminal must be put right first.
            self._loop.add_signal_handler(number, self._leave, SystemExit(128 + number))
        ticking = asyncio.create_task(self._tick())
        try:
            await self._app.run_async(pre_run=self._leave_if_told)
        except EOFError:
            pass  # the terminal is gone
        finally:
            ticking.cancel()
            self._refuse_answer()
            for number in (signal.SIGTERM, signal.SIGHUP):
                self._loop.remove_signal_handler(number)
        if self._ended_by is not None:
            raise self._ended_by

    # -- for the other threads ----------------------------------------------------------

    def put(self, entries: Sequence[Entry]) -> None:
        """Put entries above the prompt; they are there when this returns."""
        self._call(self._put(entries))

    def page(self, entries: Iterable[Entry]) -> None:
        """Put entries above the prompt, or in a pager if the screen cannot hold them."""
        size = shutil.get_terminal_size()
        rows = 0
        first: list[Entry] = []
        rest = iter(entries)
        for entry in rest:
            first.append(entry)
            rows += len(entry.rows(size.columns))
            if rows > size.lines - _FOOT_LINES:
                self._call(self._show_in_pager(chain(first, rest), size.columns))
                return
        self.put(first)

    def ask(self, question: str, *, secret: bool) -> str:
        """Ask something in the place of the prompt.

        Raises:
            Declined: Ctrl-C or Ctrl-D was the answer.
        """
        return self._call(self._ask(question, secret=secret))

    def give_back(self, text: str) -> None:
        """Put a line that had no effect back, to be changed or tried again."""
        self._call(self._give_back(text))

    def take_up(self, name: str | None) -> None:
        """Put back what was being typed when a key led away from a conversation."""
        self._call(self._take_up(name))

    def leave(self, error: BaseException | None = None) -> None:
        """End `run`, from any thread.

        Args:
            error: what `run` is to raise.
        """
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._leave, error)

    def ring(self, notification: str = "") -> None:
        """Ring the terminal's bell, from any thread.

        Args:
            notification: a sequence that makes the terminal show one.
        """
        with suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._ring, notification)

    def redraw(self) -> None:
        """Draw the prompt and its toolbar again, from any thread."""
        self._app.invalidate()

    def _call(self, work: Coroutine[Any, Any, _Answer]) -> _Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # -- within the loop ----------------------------------------------------------------

    async def _put(self, entries: Sequence[Entry]) -> None:
        async with self._terminal:
            columns = _terminal_size().columns
            # After the prompt has gone, such as for a last word, there is nothing to take away.
            if self._app.is_running:
                self._app.renderer.erase()
            for entry in entries:
                for row in entry.rows(columns):
                    self._app.print_text([*row, ("", "\n")])
            self._app.output.flush()
            self._app.invalidate()

    async def _show_in_pager(self, entries: Iterable[Entry], columns: int) -> None:
        rows = chain.from_iterable(entry.rows(columns) for entry in entries)
        lines = ("".join(text for _, text in row) + "\n" for row in rows)
        async with self._terminal:
            await run_in_terminal(lambda: click.echo_via_pager(lines), in_executor=True)

    async def _ask(self, question: str, *, secret: bool) -> str:
        async with self._asking:
            self._answer = asyncio.get_running_loop().create_future()
            if not self._app.is_running:
                self._refuse_answer()
            self._question, self._secret = question, secret
            self._reply.reset()
            self._app.layout.focus(self._reply)
            self._app.invalidate()
            try:
                return await self._answer
            finally:
                self._answer = None
                self._reply.reset()
                self._app.layout.focus(self._line)
                self._app.invalidate()

    def _refuse_answer(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Declined())

    async def _give_back(self, text: str) -> None:
        if self._line.text:
            # Something else is being typed meanwhile; Up brings this one back as well.
            await self._put([trouble(f"not done: {text}")])
        else:
            self._line.document = Document(text)
            self._app.invalidate()

    async def _take_up(self, name: str | None) -> None:
        if not self._line.text and (text := self._drafts.pop(name, "")):
            self._line.document = Document(text)
            self._app.invalidate()

    def _leave(self, error: BaseException | None = None) -> None:
        if not self._is_leaving:
            self._is_leaving = True
            self._ended_by = error
            if self._app.is_running:
                self._app.exit()

    def _ring(self, notification: str) -> None:
        if self._app.is_running:
            self._app.output.write_raw(notification)
            self._app.output.bell()
            self._app.output.flush()

    def _leave_if_told(self) -> None:
        if self._is_leaving:
            self._app.exit()

    async def _tick(self) -> None:
        """Draw again when the toolbar says something else: it counts down.

        A search looks again too, for what was typed in earlier runs is read meanwhile.
        """
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if (
                self._toolbar() != self._shown
                or len(self._waiting()) != self._shown_waiting
                or self._app.layout.is_searching
            ):
                self._app.invalidate()

    # -- how it looks and what keys do ---------------------------------------------------

    def _application(self) -> Application[None]:
        asking = Condition(lambda: self._answer is not None)
        search = SearchToolbar()
        line = Window(
            BufferControl(
                self._line,
                input_processors=[BeforeInput(self._before_line, style="class:prompt")],
                search_buffer_control=search.control,
                preview_search=True,  # Ctrl-R shows what it has found
            ),
            # A long text leaves what was said in sight, and why it was refused.
            height=lambda: Dimension(max=max(1, _terminal_size().rows // 2)),
            dont_extend_height=True,
            wrap_lines=True,
        )
        reply = Window(
            BufferControl(
                self._reply,
                input_processors=[
                    ConditionalProcessor(PasswordProcessor(), Condition(lambda: self._secret)),
                    BeforeInput(lambda: f"{self._question}: ", style="class:prompt"),
                ],
            ),
            wrap_lines=True,
        )
        foot = Window(FormattedTextControl(self._foot), height=1, dont_extend_height=True)
        waiting = Window(FormattedTextControl(self._rows_waiting), dont_extend_height=True)
        root = HSplit(
            [
                ConditionalContainer(waiting, Condition(lambda: bool(self._waiting()))),
                ConditionalContainer(line, ~asking),
                ConditionalContainer(reply, asking),
                search,
                ConditionalContainer(foot, ~is_done),
            ],
        )
        return Application(
            Layout(root, focused_element=line),
            key_bindings=self._keys(),
            style=Style.from_dict(STYLES),
            erase_when_done=True,
            output=Vt100_Output(
                sys.stdout,
                _terminal_size,
                term=os.environ.get("TERM"),
                default_color_depth=ColorDepth.from_env(),  # NO_COLOR
                enable_cpr=False,
            ),
        )

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("enter", filter=has_focus(self._line))
        def _enter(_event: KeyPressEvent) -> None:
            text = self._line.text
            if self._on_line(text):
                with suppress(OSError):  # a full disk is no reason to lose the line itself
                    self._line.append_to_history()
                self._line.reset()

        @keys.add("escape", "enter", filter=has_focus(self._line))
        def _break(_event: KeyPressEvent) -> None:
            self._line.insert_text("\n")

        @keys.add("enter", filter=has_focus(self._reply))
        def _answer(_event: KeyPressEvent) -> None:
            if self._answer is not None and not self._answer.done():
                self._answer.set_result(self._reply.text)

        @keys.add(Keys.BracketedPaste)
        def _paste(event: KeyPressEvent) -> None:
            # The end of the last line is not the beginning of another.
            text = event.data.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
            event.current_buffer.insert_text(text)

        @keys.add("c-c")
        @keys.add("<sigint>")
        def _clear(_event: KeyPressEvent) -> None:
            self._refuse_answer()
            if self._app.layout.is_searching:
                stop_search()
            self._line.reset()

        @keys.add("c-d", filter=Condition(lambda: not self._app.current_buffer.text))
        def _end(_event: KeyPressEvent) -> None:
            if self._answer is not None:
                self._refuse_answer()
            else:
                self._on_end()

        @keys.add("c-z", filter=Condition(lambda: hasattr(signal, "SIGTSTP")))
        def _suspend(event: KeyPressEvent) -> None:
            event.app.suspend_to_background()

        @keys.add("f2", filter=has_focus(self._line))
        def _switch(_event: KeyPressEvent) -> None:
            self._go(SWITCH)

        @keys.add("escape", "n", filter=has_focus(self._line))
        def _next(_event: KeyPressEvent) -> None:
            self._go(NEXT)

        @keys.add("escape", "p", filter=has_focus(self._line))
        def _previous(_event: KeyPressEvent) -> None:
            self._go(PREVIOUS)

        return keys

    def _go(self, command: str) -> None:
        # At once, so that nothing that is typed for one conversation is entered in another.
        if self._on_key(command) and self._line.text:
            self._drafts[self._to()] = self._line.text
            self._line.reset()

    def _before_line(self) -> str:
        name = self._to()
        return "> " if name is None else f"to {name}> "

    def _rows_waiting(self) -> StyleAndTextTuples:
        entries = self._waiting()
        self._shown_waiting = len(entries)
        rows: StyleAndTextTuples = []
        for entry in entries[:_MOST_WAITING]:
            rows += [*entry.rows(_terminal_size().columns)[0], ("", "\n")]
        if len(entries) > _MOST_WAITING:
            rows.append(("class:waits", f"... and {len(entries) - _MOST_WAITING} more\n"))
        if rows:  # what waited may have been sent since it was decided to show it
            rows[-1] = (rows[-1][0], rows[-1][1].removesuffix("\n"))
        return rows

    def _foot(self) -> StyleAndTextTuples:
        self._shown = self._toolbar()
        completing = self._line.complete_state
        if completing is not None and completing.completions:
            # In the toolbar's row, so that nothing grows, and leaves rows blank when it shrinks.
            return candidates(
                [(each.display_text, each.display_meta_text) for each in completing.completions],
                completing.complete_index,
                _terminal_size().columns,
            )
        return [("class:toolbar", f" {self._shown} ")]

    def _begins_command(self) -> bool:
        # Names are asked for with Tab alone: a request for each key would be too many.
        return self._line.text.startswith("/") and " " not in self._line.text


def candidates(
    offered: Sequence[tuple[str, str]], chosen: int | None, columns: int
) -> StyleAndTextTuples:
    """Return one row with what Tab offers, from the chosen one's page on.

    Args:
        offered: each text, and what it does; that is shown of the chosen one, or the only one.
        chosen: which it is; None: none yet.
        columns: of the terminal.
    """
    meta = offered[chosen or 0][1] if chosen is not None or len(offered) == 1 else ""
    meta = f" | {meta}" if meta else ""
    room = max(columns - get_cwidth(meta) - 3, columns // 2)  # 3: signs of more, and an edge
    pages: list[list[int]] = [[]]
    taken = 0
    for number, (text, _) in enumerate(offered):
        width = get_cwidth(text) + 2
        if taken + width > room and pages[-1]:
            pages.append([])
            taken = 0
        pages[-1].append(number)
        taken += width
    page = next(each for each in pages if (chosen or 0) in each)
    row: StyleAndTextTuples = [("class:toolbar", "<" if page[0] else " ")]
    for number in page:
        style = "class:chosen" if number == chosen else "class:toolbar"
        row += [(style, offered[number][0]), ("class:toolbar", "  ")]
    row.append(("class:toolbar", f"{'>' if page[-1] < len(offered) - 1 else ''}{meta} "))
    return row


def _terminal_size() -> Size:
    columns, lines = shutil.get_terminal_size()
    return Size(rows=lines, columns=columns)
