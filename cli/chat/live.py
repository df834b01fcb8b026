"""The talk at a terminal: the prompt in the main thread, and two threads that never draw.

::

    keys ──▶ prompt ──line──▶ [commands] ──▶ Talk ──▶ client ──▶ server
                ▲                 │
                ├──── put, ask ───┘
                └──── put ◀── [mail] ◀── client.entries()

The commands' thread carries out one line after another; what a line says goes to the `Outbox`,
which sends it. The mail's thread puts what has come above the prompt, as much at once as there is,
and acknowledges it when it is there.
"""

import asyncio
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from queue import Queue
from typing import Final, NamedTuple

from twinline.cli.chat.completion import SHOWN, Names, TalkCompleter
from twinline.cli.chat.conversation import (
    Declined,
    Outcome,
    Screen,
    Talk,
    is_message,
    needs_server_now,
    turns,
)
from twinline.cli.chat.history import kept_history
from twinline.cli.chat.notify import Osc, notification, told
from twinline.cli.chat.outbox import Outbox, Waiting
from twinline.cli.chat.prompt import Prompt
from twinline.cli.chat.renewal import open_another
from twinline.cli.chat.rows import Entry
from twinline.cli.chat.screen import PromptScreen
from twinline.cli.chat.theme import (
    came_in,
    day_of,
    elsewhere,
    rule,
    talk,
    trouble,
    waits,
    went_out,
)
from twinline.cli.chat.toolbar import Toolbar
from twinline.cli.chat.unread import KeptCounts, Unopened, Unread
from twinline.cli.client.gone import is_gone
from twinline.cli.client.paging import pages
from twinline.cli.client.sessions import KeptSession
from twinline.cli.client.target import Target, acked
from twinline.cli.console.errors import sentence
from twinline.cli.console.output import say
from twinline.cli.console.text import visible
from twinline.core import protocol
from twinline.core.clock import wall_clock_ms
from twinline.core.errors import CursorInvalid, NotLoggedIn, RequestError, SessionExpired
from twinline.core.locks import new_lock
from twinline.core.protocol import Message, Receipt, SentReply
from twinline.transports.client import Client, ClientClosed, ClientError, State, StateKind

_LEAVE: Final = "/quit"
_KNOWN_IDS: Final = 1_000
"""So many of the own messages that were shown last are known by their ids."""
_PAGE: Final = 100
_PAGES: Final = 10
"""So many pages of conversations are looked through for those that have something unread."""
_SHOWN_AFTER_MS: Final = 400
"""A message that is sent sooner is not shown as waiting before."""


class _Line(NamedTuple):
    """Something to carry out.

    Attributes:
        text: as it is typed.
        by_key: whether a key stands for it, so that it is not put back into the line.
    """

    text: str
    by_key: bool = False


class LiveTalk:
    """One person's talk at one terminal."""

    def __init__(self, target: Target, session: KeptSession, notify: Osc | None = None) -> None:
        """Prepare; nothing is shown before `hold`.

        Args:
            target: the server, and where sessions are kept.
            session: that the talk begins with.
            notify: how the terminal is told of mail of other conversations; None: by the bell.
        """
        self._target = target
        self._session = session  # the one that is kept; replaced when it has ended
        self._notify = notify
        self._toolbar = Toolbar(target.place, waiting=lambda: len(self._waiting()))
        self._prompt: Prompt | None = None
        self._outbox: Outbox | None = None
        self._retry: Callable[[], None] = lambda: None
        self._lines: Queue[_Line | None] = Queue()
        # Set where the talk is with whom it begins: what is unread there opens with it, not twice.
        self._opened = threading.Event()
        self._is_leaving = False
        self._shown_up_to: dict[str, int] = {}  # by account: what opening has shown
        self._last_seq = 0  # of what has come
        self._lock = new_lock("shown messages")
        self._own: OrderedDict[str, None] = OrderedDict()  # ids that are shown; guarded by _lock
        self._day = day_of(wall_clock_ms())  # the last one that was begun; guarded by _lock

    def on_state(self, state: State) -> None:
        """Take in a state of the client, from any thread."""
        self._toolbar.take_in(state)
        if state.kind is StateKind.ONLINE and state.endpoint is not None:
            self._toolbar.who = f"{self._session.username} at {state.endpoint.place}"
        if self._outbox is not None and state.kind is StateKind.ONLINE:
            self._outbox.hurry()
        if self._prompt is not None:
            self._prompt.redraw()

    async def hold(self, client: Client, to: str | None) -> None:
        """Talk until the person leaves, or the session has ended and the person opens no other.

        Args:
            client: is logged in, and has no ``on_message``.
            to: whom to talk to first.

        Raises:
            CommandError: the session was ended elsewhere.
        """
        toolbar, target = self._toolbar, self._target
        name = self._session.username
        toolbar.who = f"{name} at {client.endpoint.place}"
        account = f"{name} {target.place}"
        folder = target.sessions.path.parent
        toolbar.unread = Unread(KeptCounts(folder / "unread", account))
        prompt = Prompt(
            to=lambda: conversation.to,
            toolbar=toolbar.__str__,
            waiting=lambda: [*self._waiting(), *self._behind()],
            history=kept_history(folder),
            completer=TalkCompleter(
                Names(
                    lambda pattern: client.list_accounts(pattern, limit=SHOWN).usernames,
                    lambda: client.state.kind is StateKind.ONLINE,
                ),
                lambda: toolbar.unread.names,
                lambda: conversation.to,
            ),
            on_line=self._take,
            on_key=self._press,
            on_end=self._end,
        )
        self._outbox = outbox = Outbox(
            partial(client.send, copy=True),
            folder=folder / "outbox",
            account=account,
            on_sent=self._sent,
            on_refused=lambda entry, error: self._refused(entry, error, conversation.to),
            on_change=self._other_wait,
            on_fault=prompt.leave,
        )
        screen = PromptScreen(prompt, toolbar)
        conversation = Talk(
            client,
            screen,
            place=target.place,
            forget=lambda: target.forget(self._session),
            reader=self,
            post=outbox.put,
        )
        self._prompt = prompt
        self._retry = client.retry_now
        if to is None:
            self._opened.set()
        else:
            self._lines.put(_Line(f"/to {to}"))
        threads = [
            threading.Thread(target=partial(self._carry_out, prompt, conversation)),
            threading.Thread(target=partial(self._receive, prompt, conversation, client, screen)),
        ]
        for thread in threads:
            thread.start()
        outbox.start()
        try:
            await prompt.run()
        finally:
            self._lines.put(None)
            await asyncio.to_thread(client.close)  # ends whatever the threads wait for
            for thread in threads:
                await asyncio.to_thread(thread.join)
            await asyncio.to_thread(outbox.close)
            left = len(outbox.waiting)
            if left and not conversation.over:
                what, which = ("message waits", "it") if left == 1 else ("messages wait", "them")
                say(f"{left} {what} to be sent: the next chat of {name} sends {which}")

    # -- the prompt's side, in the main thread --------------------------------------------

    def _take(self, line: str) -> bool:
        away = self._toolbar.state.kind is not StateKind.ONLINE
        if away and not line.strip():
            self._retry()
        self._toolbar.held_back = away and needs_server_now(line)
        if self._toolbar.held_back:
            return False
        self._lines.put(_Line(line))
        return True

    def _press(self, command: str) -> bool:
        self._toolbar.held_back = self._toolbar.state.kind is not StateKind.ONLINE
        if not self._toolbar.held_back:
            self._lines.put(_Line(command, by_key=True))
        return not self._toolbar.held_back

    def _end(self) -> None:
        # What was entered before is carried out first; who cannot wait asks again.
        assert self._prompt is not None  # noqa: S101 - it is what calls this
        if self._is_leaving:
            self._prompt.leave()
        self._is_leaving = True
        self._lines.put(_Line(_LEAVE, by_key=True))

    def _waiting(self) -> list[Entry]:
        if self._outbox is None:
            return []
        before = wall_clock_ms() - _SHOWN_AFTER_MS
        waiting = self._outbox.waiting
        return [waits(each.body, each.to) for each in waiting if each.entered_at <= before]

    def _behind(self) -> list[Entry]:
        """Return what was entered behind a line that is still under way."""
        if not self._toolbar.is_slow:
            return []
        with self._lines.mutex:
            lines = list(self._lines.queue)
        typed = [each.text for each in lines if each is not None and not each.by_key]
        return [waits(text) for text in typed if text.strip()]

    def _is_new(self, message_id: str) -> bool:
        """Return whether an own message is to be shown: its copy may come before its reply."""
        with self._lock:
            if message_id in self._own:
                return False
            self._own[message_id] = None
            if len(self._own) > _KNOWN_IDS:
                self._own.popitem(last=False)
        return True

    def _new_day(self, sent_at: int) -> list[Entry]:
        """Return a line with the day, where a message is the first of one since the talk began."""
        day = day_of(sent_at)
        with self._lock:
            if day <= self._day:
                return []
            self._day = day
        return [rule(day)]

    # -- the outbox's thread -------------------------------------------------------------

    def _sent(self, entry: Waiting, reply: SentReply) -> None:
        assert self._prompt is not None  # noqa: S101 - it is there before the outbox
        self._toolbar.delivered.sent(entry.to, reply.n)
        if self._is_new(reply.message_id):
            with suppress(RuntimeError):  # the prompt has ended; the message is stored
                own = went_out(entry.to, entry.body, reply.sent_at)
                self._prompt.put([*self._new_day(reply.sent_at), own])

    def _refused(self, entry: Waiting, error: Exception, to: str | None) -> None:
        assert self._prompt is not None  # noqa: S101 - it is there before the outbox
        with suppress(RuntimeError):
            why = f"not sent to {visible(entry.to)}: {sentence(error)}"
            if entry.to == to:
                self._prompt.put([trouble(why)])
                self._prompt.give_back(entry.body)
            else:
                self._prompt.put([trouble(f"{why}: {entry.body}")])

    def _other_wait(self) -> None:
        if self._prompt is not None:
            self._prompt.redraw()

    # -- the commands' thread ------------------------------------------------------------

    def unopened(self, name: str) -> Unopened | None:
        """Return what has come from an account and was not opened."""
        return self._toolbar.unread.names.get(name)

    def turn_to(self, name: str | None) -> None:
        """Show what comes of a conversation as it is, from now on."""
        self._toolbar.to = name

    def opened(self, name: str, messages: Sequence[Message]) -> None:
        """Take what is there of a conversation as read, and as shown what it opens with."""
        if messages:
            self._shown_up_to[name] = messages[-1].seq
        for message in messages:
            if message.to is not None:
                self._is_new(message.message_id)
                self._toolbar.delivered.sent(name, message.n or 0)
        self._toolbar.unread.open(name)

    def _carry_out(self, prompt: Prompt, conversation: Talk) -> None:
        try:
            prompt.put(talk(f"you are {self._toolbar.who}; /help tells what to type"))
            while (line := self._lines.get()) is not None:
                self._toolbar.under_way(is_so=True)
                try:
                    outcome = conversation.obey(line.text)
                except (NotLoggedIn, SessionExpired):
                    outcome = Outcome.NOT_DONE  # the mail's thread asks for another session
                except ClientClosed:  # the talk is over
                    self._keep(line, prompt, conversation)
                    return
                self._toolbar.under_way(is_so=False)
                if outcome is Outcome.LEAVE:
                    prompt.leave()
                    return
                if outcome is Outcome.NOT_DONE and not line.by_key:
                    prompt.give_back(line.text)
                self._opened.set()
                prompt.take_up(conversation.to)
                prompt.redraw()
        except Exception as error:  # noqa: BLE001 - a bug must not leave a prompt that does nothing
            prompt.leave(error)
        finally:
            self._opened.set()

    def _keep(self, interrupted: _Line, prompt: Prompt, conversation: Talk) -> None:
        """Have the outbox keep the messages that were entered last; tell what else is not done.

        Args:
            interrupted: the line that was under way when the talk ended.
            prompt: tells.
            conversation: the talk.
        """
        line: _Line | None = interrupted
        not_done: list[Entry] = []
        would_turn = False  # then nobody can tell to whom a message behind that is
        while line is not None:
            if needs_server_now(line.text) or (would_turn and is_message(line.text)):
                would_turn = would_turn or turns(line.text)
                if not line.by_key:
                    not_done.append(trouble(f"not done: {line.text}"))
            elif conversation.obey(line.text) is Outcome.LEAVE:
                break
            line = self._lines.get()
        if not_done:  # at last, for the terminal may be gone
            prompt.put(not_done)

    # -- the mail's thread ----------------------------------------------------------------

    def _receive(self, prompt: Prompt, conversation: Talk, client: Client, screen: Screen) -> None:
        try:
            self._settle(client)
            self._opened.wait()
            self._read_mail(prompt, client)
            while client.state.kind is not StateKind.CLOSED and not conversation.over:
                self._renew(client, screen)
                self._read_mail(prompt, client)
        except ClientClosed:
            pass  # the talk is over
        except Declined:
            prompt.leave(self._target.ended(self._session, client))
        except Exception as error:  # noqa: BLE001 - a bug must not leave a prompt that is deaf
            prompt.leave(error)

    def _read_mail(self, prompt: Prompt, client: Client) -> None:
        """Show what comes until the session ends."""
        with suppress(NotLoggedIn, SessionExpired):
            while _waits_for_mail(client):
                batch = list(client.entries(0, ack=False))
                self._show(prompt, batch)
                if batch:
                    _acknowledge(client, batch[-1].seq)

    def _renew(self, client: Client, screen: Screen) -> None:
        """Put another session in the place of one that has ended.

        Raises:
            Declined: the person wants none.
            ClientClosed: the talk was ended meanwhile.
        """
        ended = self._session
        if is_gone(ended, client):  # whoever creates it again, its mailbox begins anew
            self._forget_mail()
        reply = open_another(client, screen, self._target, ended)
        self._session = self._target.keep(reply, client)

    def _forget_mail(self) -> None:
        self._shown_up_to.clear()
        self._last_seq = 0
        self._toolbar.unread.begin_anew()
        self._toolbar.delivered.begin_anew()

    def _settle(self, client: Client) -> None:
        """Have nothing counted as unread that is not in the mailbox any more."""
        unread = self._toolbar.unread
        if not unread.seen:
            return
        newest, known, more = 0, set[str](), True
        with suppress(RequestError, ClientError):  # it is asked again the next time
            all_pages = pages(lambda before: client.conversations(before, _PAGE))
            for page in islice(all_pages, _PAGES):
                newest = max([newest, *(each.last.seq for each in page.conversations)])
                known.update(each.username for each in page.conversations)
                more = page.more and not known.issuperset(unread.names)
                if not more:
                    break
            unread.settle(newest, None if more else known)

    def _show(self, prompt: Prompt, batch: Sequence[protocol.Entry]) -> None:
        toolbar, shown, news = self._toolbar, list[Entry](), list[Message]()
        if batch and batch[0].seq <= self._last_seq:  # the mailbox was put back to before
            self._shown_up_to.clear()
            toolbar.unread.settle(batch[0].seq - 1, None)
        for each in batch:
            if isinstance(each, Receipt):
                toolbar.delivered.acked(each.username, each.n)
                continue
            peer = each.to if each.to is not None else each.sender
            if each.seq <= self._shown_up_to.get(peer, 0):
                continue  # as it was opened, it was there
            if each.to is not None:  # sent from here, or from another device
                toolbar.delivered.sent(each.to, each.n or 0)
                if each.to == toolbar.to and self._is_new(each.message_id):
                    shown += self._new_day(each.sent_at)
                    shown.append(went_out(each.to, each.body, each.sent_at))
                continue
            shown += self._new_day(each.sent_at)
            is_here = toolbar.to in (None, each.sender)
            shown.append(came_in(each) if is_here else elsewhere(each))
            if each.sender != toolbar.to:
                news.append(each)
        prompt.put(shown)
        # Before it is acknowledged: what comes again is not counted again.
        messages = [each for each in batch if isinstance(each, Message)]
        toolbar.unread.take_in(messages, toolbar.to)
        if batch:
            self._last_seq = batch[-1].seq
        if news:
            prompt.ring(self._notification(news))
        prompt.redraw()

    def _notification(self, news: Sequence[Message]) -> str:
        if self._notify is None:
            return ""
        return notification(self._notify, told(news), in_tmux=bool(os.environ.get("TMUX")))


def _waits_for_mail(client: Client) -> bool:
    """Wait until there is mail, and leave it where it is; False when the session has ended."""
    for _ in client.entries(ack=False):
        return True
    return False


def _acknowledge(client: Client, seq: int) -> None:
    """Acknowledge what is on the screen, however long the server is away."""
    # Where the server's store was put back to before, the engine begins again there.
    with suppress(CursorInvalid):
        while not acked(client, seq):
            pass
