"""What a line typed into `twinline chat` means, and what carrying it out shows.

The same rules hold at the prompt and in a pipe: a `Talk` reads a line, asks the client, and shows
the outcome on a `Screen`, which is either of the two.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice
from typing import Final, NamedTuple, Protocol

from twinline.cli.chat.unread import Unopened
from twinline.cli.client.history import newest
from twinline.cli.client.paging import pages
from twinline.cli.client.target import whereabouts
from twinline.cli.console.errors import CommandError, sentence
from twinline.cli.console.exit_codes import ExitCode
from twinline.cli.console.text import counted, visible
from twinline.core.errors import (
    InvalidPassword,
    NoSuchUser,
    NotLoggedIn,
    RequestError,
    SessionExpired,
    UndeliveredMessages,
)
from twinline.core.names import parse_username
from twinline.core.protocol import (
    MAX_PAGE,
    PASSWORD_CHARACTERS,
    TALK,
    Conversation,
    Kind,
    Message,
    StatusReply,
)
from twinline.transports.client import Client, ClientClosed, ClientError, StateKind

HISTORY: Final = 20
"""How many messages ``/history`` shows when no number is given."""
OPENED: Final = 10
"""How many messages a conversation opens with, at the prompt; more where more are unread."""
MOST_OPENED: Final = 200
"""How many it opens with at most."""
LISTED: Final = 50
"""How many conversations ``/conversations`` lists: the newest."""
_OFFERED: Final = 9
"""How many conversations are numbered: a small terminal has room for them."""
FOUND: Final = 50
"""How many messages ``/search`` shows at most: the newest."""
MAX_DELETED: Final = 10_000
"""How many messages one ``/delete`` may name."""
SWITCH: Final = "/switch"
WHICH: Final = "to which? a number or a name"
NEXT: Final = "/next"
PREVIOUS: Final = "/previous"
_ADDRESSED: Final = re.compile(r"([a-zA-Z0-9][a-zA-Z0-9._-]{0,31}):(?:\s+(.*))?", re.DOTALL)
_SEQS: Final = re.compile(r"(\d{1,16})(?:-(\d{1,16}))?")


class Declined(Exception):
    """Who was asked a question did not want to answer it."""


class Opening(NamedTuple):
    """The end of a conversation, as it opens.

    Attributes:
        messages: the last ones of both sides, in order.
        unread_from: those of the account with this seq or a higher one are new to the person; None:
            none is.
        is_cut: whether older ones are unread as well.
        delivered: own messages up to this ``n`` have been acknowledged.
    """

    messages: Sequence[Message] = ()
    unread_from: int | None = None
    is_cut: bool = False
    delivered: int = 0


class Reader(Protocol):
    """Knows what the person has opened, where conversations are opened at all."""

    def unopened(self, name: str) -> Unopened | None:
        """Return what has come from an account and was not opened."""

    def turn_to(self, name: str | None) -> None:
        """Show what comes of a conversation as it is, from now on: it is about to be opened."""

    def opened(self, name: str, messages: Sequence[Message]) -> None:
        """Take what is there of a conversation as read.

        Args:
            name: the account that the talk has turned to.
            messages: what it opens with.
        """


class Screen(Protocol):
    """Where a talk shows what happens, and asks."""

    def inform(self, text: str) -> None:
        """Say something about the talk, in one or more lines."""

    def explain(self, rows: Sequence[tuple[str, str]]) -> None:
        """Tell what can be typed, and what it does."""

    def complain(self, text: str) -> None:
        """Say what went wrong, in one line."""

    def sent(self, to: str, body: str, sent_at: int) -> None:
        """Show a message that the server has stored."""

    def list_accounts(self, usernames: Iterable[str]) -> None:
        """Show usernames, a page at a time if there are many."""

    def list_messages(self, messages: Iterable[Message], *, more: bool) -> None:
        """Show messages of the mailbox with their seqs, and say whether older ones are kept."""

    def open(self, name: str, opening: Opening) -> None:
        """Show the end of a conversation that the talk has turned to."""

    def list_conversations(self, conversations: Sequence[Conversation]) -> None:
        """Show with whom messages were exchanged."""

    def choose(self, conversations: Sequence[Conversation]) -> str:
        """Show conversations with numbers from 1, and ask for one of them.

        Returns:
            A number, a name, or "" for none.

        Raises:
            Declined, CommandError: there is no answer.
        """

    def show_status(self, status: StatusReply, place: str) -> None:
        """Show how the account stands, and the server that says so."""

    def ask_password(self, question: str, *, known: bool) -> str:
        """Ask for a password without showing it.

        Args:
            question: what is asked for.
            known: whether it is the account's present one, and not one to be chosen.

        Raises:
            Declined, CommandError: there is no answer.
        """

    def confirm(self, question: str) -> bool:
        """Ask whether to go on.

        Raises:
            Declined, CommandError: there is no answer.
        """


def new_password(screen: Screen, question: str) -> str:
    """Ask for a password to be chosen until it can be one, and is the same twice.

    Raises:
        Declined, CommandError: there is no answer.
    """
    while True:
        password = screen.ask_password(question, known=False)
        if len(password) not in PASSWORD_CHARACTERS:
            screen.complain(sentence(InvalidPassword()))
        elif screen.ask_password("The same again", known=False) != password:
            screen.complain("the two passwords differ")
        else:
            return password


class Outcome(Enum):
    """What became of a line."""

    DONE = "done"
    NOT_DONE = "not done"
    """It was understood or not, and has had no effect."""
    LEAVE = "leave"
    """The talk is over."""


class Talk:
    """One person's talk with others; for one thread at a time.

    Attributes:
        to: whom a line without a name goes to, or None.
        over: whether the person has logged out, or deleted the account, in this talk.
        last_error: what the last line failed of; None if it did not.
    """

    def __init__(
        self,
        client: Client,
        screen: Screen,
        *,
        place: str,
        forget: Callable[[], None],
        reader: Reader | None = None,
        post: Callable[[str, str], None] | None = None,
    ) -> None:
        """Begin.

        Args:
            client: is logged in.
            screen: where to show what happens.
            place: the server, as a person knows it.
            forget: called when the session has been ended by this talk.
            reader: knows what is unread; None: nothing is shown of what was said before, and
                unread is what is not acknowledged.
            post: takes what is to be sent to a username, and sends it in its own time; None: each
                line waits until the server has stored what it says.
        """
        self._client = client
        self._screen = screen
        self._place = place
        self._forget = forget
        self._reader = reader
        self._post = post
        self.to: str | None = None
        self.over = False
        self.last_error: Exception | None = None
        self._round: list[str] = []  # the conversations that /next and /previous go round
        self._at = 0  # in it
        self._unsure: dict[tuple[str, str], str] = {}  # send_ids of sends with unknown outcome

    def obey(self, line: str) -> Outcome:
        """Carry out a line, and show what came of it.

        Raises:
            NotLoggedIn, SessionExpired: there is no session any more.
            ClientClosed: the talk was ended meanwhile.
        """
        self.last_error = None
        try:
            return self._obey(line)
        except Declined:
            self._screen.inform("nothing was changed")
            return Outcome.DONE
        except (NotLoggedIn, SessionExpired, ClientClosed):
            raise
        except (RequestError, ClientError, CommandError) as error:
            self.last_error = error
            self._screen.complain(sentence(error))
            return Outcome.NOT_DONE

    def _obey(self, line: str) -> Outcome:
        if not line.strip():
            return Outcome.DONE
        word, _, rest = line.partition(" ")
        command = COMMANDS.get(word)
        if word not in (NEXT, PREVIOUS):
            self._round = []
        if command is not None:
            if rest.strip() and not command.takes:
                return self.refuse(f"{word} takes nothing after it; a space before it sends it")
            return command.run(self, rest.strip())
        if line.startswith("/") and not line.startswith("//"):
            return self.refuse(f"there is no {visible(word)}; /help tells what there is")
        addressed = _ADDRESSED.fullmatch(line)
        if addressed is not None:
            name, text = addressed[1].lower(), (addressed[2] or "").strip()
            if text and self.to not in (None, name):
                # It may be meant for the one or the other: what goes to the wrong one cannot be
                # taken back, so it goes to nobody until the line says which.
                return self.refuse(
                    f"is this for {self.to}? then begin it with a space; for {name}, it is "
                    f"'/msg {name} ...'"
                )
            return self._say_to(name, text)
        if self.to is None:
            return self.refuse("to whom? '/to NAME' first, or 'NAME: text'")
        # A space before it, or a second slash, lets any text be sent as it is.
        self._send(self.to, line[1:] if line.startswith((" ", "//")) else line)
        return Outcome.DONE

    def refuse(self, reason: str) -> Outcome:
        """Say why a line has had no effect."""
        self.last_error = CommandError(reason, ExitCode.USAGE)
        self._screen.complain(reason)
        return Outcome.NOT_DONE

    # -- talking ------------------------------------------------------------------------

    def turn_to(self, name: str) -> Outcome:
        """Send lines without a name to an account from now on, if there is such an account.

        Raises:
            InvalidUsername: the name cannot be one.
            NoSuchUser: there is no such account.
        """
        name = parse_username(name)
        # A username has no character that means anything in a pattern.
        if name not in self._client.list_accounts(name, limit=1).usernames:
            raise NoSuchUser(f"there is no {name}")
        self._turn(name)
        return Outcome.DONE

    def _turn(self, name: str) -> None:
        opening = Opening()
        if self._reader is not None:
            unopened = self._reader.unopened(name)
            # Before the server is asked: what comes meanwhile may not be among what it answers.
            self._reader.turn_to(name)
            try:
                if self._client.state.kind is StateKind.ONLINE:
                    opening = self._opening(name, unopened)
            except BaseException:
                self._reader.turn_to(self.to)
                raise
            self._reader.opened(name, opening.messages)
        self.to = name
        self._screen.open(name, opening)

    def _opening(self, name: str, unopened: Unopened | None) -> Opening:
        """Return the end of a conversation, from the first message on that is unread."""
        # What is not acknowledged may have come so lately that it was not counted yet.
        first = self._client.status().position + 1
        if unopened is not None:
            first = min(first, unopened.since)
        page = self._client.history(limit=OPENED, peer=name)
        messages = page.messages
        if page.more and messages and messages[0].seq > first:
            page = self._client.history(page.seen, MOST_OPENED - OPENED, peer=name)
            messages = (*page.messages, *messages)
        unread = [at for at, each in enumerate(messages) if each.to is None and each.seq >= first]
        messages = messages[min([len(messages) - min(OPENED, len(messages)), *unread]) :]
        told = self._client.history(limit=1, peer=name, kinds=[Kind.RECEIPT]).receipts
        return Opening(
            messages,
            unread_from=first if unread else None,
            is_cut=page.more and bool(unread) and messages[0].seq > first,
            delivered=told[-1].n if told else 0,
        )

    def _say_to(self, name: str, text: str) -> Outcome:
        if not text:
            return self.turn_to(name)
        if self._post is not None and name != self.to:
            # It opens before what is said now appears in it.
            if self._client.state.kind is StateKind.ONLINE:
                self.turn_to(name)
            else:
                self._turn(name)
        self._send_to(name, text)
        if name != self.to:
            self._turn(name)
        return Outcome.DONE

    def _send_to(self, name: str, text: str) -> None:
        try:
            self._send(name, text)
        except NoSuchUser:
            raise NoSuchUser(f"there is no {name}") from None

    def _send(self, to: str, body: str) -> None:
        if self._post is not None:
            self._post(to, body)
            return
        try:
            send_id = self._unsure.pop((to, body), None)
            receipt = self._client.send(to, body, send_id, copy=True)
        except ClientError as error:
            if error.send_id is not None:
                # It may have arrived. The line comes back, and when it is entered again the
                # server sees that it is the same message.
                self._unsure[to, body] = error.send_id
            raise
        self._screen.sent(to, body, receipt.sent_at)

    # -- the commands -------------------------------------------------------------------

    def help(self, _rest: str) -> Outcome:
        """Tell what can be typed."""
        rows = [
            ("TEXT", "say it to the one that the prompt names"),
            ("NAME: TEXT", "the same as /to NAME and then TEXT, while it names nobody"),
            (" TEXT", "any text as it is, such as ' ps: see you' or ' /etc'"),
            ("//TEXT", "say /TEXT"),
            *((f"{word} {each.takes}".rstrip(), each.does) for word, each in COMMANDS.items()),
        ]
        self._screen.explain(rows)
        return Outcome.DONE

    def message(self, rest: str) -> Outcome:
        """Say something to an account, and stay where one is."""
        name, _, text = rest.partition(" ")
        if not text.strip():
            return self.refuse("/msg takes the name of an account, and what to say to it")
        self._send_to(parse_username(name), text.strip())
        return Outcome.DONE

    def act(self, text: str) -> Outcome:
        """Tell what one does, as IRC has it: ``* ann waves``."""
        if not text:
            return self.refuse("/me takes what you do, such as 'waves'")
        if self.to is None:
            return self.refuse("to whom? '/to NAME' first")
        self._send(self.to, f"* {self._client.username} {text}")
        return Outcome.DONE

    def list_conversations(self, _rest: str) -> Outcome:
        """Show with whom messages were exchanged."""
        found = self._conversations()
        if found:
            self._screen.list_conversations(found)
        else:
            self._screen.inform("nothing was said yet")
        return Outcome.DONE

    def switch(self, _rest: str) -> Outcome:
        """Turn to one of the conversations that are shown, or to another by its name."""
        offered: dict[str, Conversation] = {}
        for each in self._conversations():  # one of a name: that is all that it takes to turn there
            offered.setdefault(each.username, each)
        names = list(offered)[:_OFFERED]
        if not names:
            self._screen.inform("nothing was said yet")
            return Outcome.DONE
        answer = self._screen.choose([offered[name] for name in names]).strip()
        number = int(answer) if answer in map(str, range(1, len(names) + 1)) else None
        if number is not None:
            self._turn(names[number - 1])
        elif answer:
            return self.turn_to(answer)
        return Outcome.DONE

    def _conversations(self) -> list[Conversation]:
        """Return with whom messages were exchanged: first what is unread, then the newest."""
        found = list(self._client.conversations(limit=LISTED).conversations)
        if self._reader is not None:
            counts = [self._reader.unopened(each.username) for each in found]
            found = [
                each.model_copy(update={"unread": 0 if unopened is None else unopened.count})
                for each, unopened in zip(found, counts, strict=True)
            ]
        return sorted(found, key=lambda each: not each.unread)

    def go_on(self, _rest: str) -> Outcome:
        """Turn to the next conversation."""
        return self._go_round(1)

    def go_back(self, _rest: str) -> Outcome:
        """Turn to the conversation before."""
        return self._go_round(-1)

    def _go_round(self, step: int) -> Outcome:
        """Turn to another conversation, in an order that lasts until something else is entered."""
        if not self._round:
            here = [] if self.to is None else [self.to]
            names = [each.username for each in self._conversations()]
            self._round = list(dict.fromkeys([*here, *names]))
            self._at = 0 if here or step < 0 else -1
        if self._round in ([], [self.to]):
            self._screen.inform("there is no other conversation")
        else:
            self._at = (self._at + step) % len(self._round)
            self._turn(self._round[self._at])
        return Outcome.DONE

    def block(self, name: str) -> Outcome:
        """Refuse what an account sends from now on."""
        if not name:
            return self.refuse("/block takes the name of an account")
        self._client.block(name)
        self._screen.inform(f"{visible(name)} is blocked; '/unblock {visible(name)}' takes it back")
        return Outcome.DONE

    def unblock(self, name: str) -> Outcome:
        """Take messages of an account again."""
        if not name:
            return self.refuse("/unblock takes the name of an account")
        self._client.unblock(name)
        self._screen.inform(f"{visible(name)} is not blocked")
        return Outcome.DONE

    def list_blocked(self, _rest: str) -> Outcome:
        """Show whose messages are refused."""
        names = self._client.blocked()
        if names:
            self._screen.list_accounts(names)
        else:
            self._screen.inform("nobody is blocked")
        return Outcome.DONE

    def list_accounts(self, pattern: str) -> Outcome:
        """List the accounts that match."""
        refusals: list[Exception] = []
        pages = self._until_refused(self._client.accounts(pattern or "*"), refusals)
        first = next(pages, None)
        if first is not None:
            self._screen.list_accounts(chain([first], pages))
        elif not refusals:
            self._screen.inform("no account has such a name")
        if refusals:
            raise refusals[0]
        return Outcome.DONE

    def _until_refused(self, names: Iterator[str], refusals: list[Exception]) -> Iterator[str]:
        # The screen may be in the middle of a page, where nothing can be raised or shown.
        try:
            yield from names
        except (RequestError, ClientError) as error:
            refusals.append(error)

    def choose(self, name: str, word: str = "/to") -> Outcome:
        """Turn to an account."""
        if not name:
            return self.refuse(f"{word} takes the name of an account")
        return self.turn_to(name)

    def query(self, name: str) -> Outcome:
        """Turn to an account, by the word that IRC has for it."""
        return self.choose(name, "/query")

    def history(self, number: str) -> Outcome:
        """Show the newest messages of the conversation, or of the mailbox where none is open."""
        if number and not (number.isascii() and number.isdigit() and int(number[:9]) > 0):
            return self.refuse("/history takes how many messages to show, such as 50")
        count = int(number[:9]) if number else HISTORY
        messages, more = newest(self._client, None, count, peer=self.to)
        if messages:
            self._screen.list_messages(messages, more=more)
        else:
            self._screen.inform("nothing was said yet" if self.to else "the mailbox is empty")
        return Outcome.DONE

    def search(self, text: str) -> Outcome:
        """Show the newest messages, of both sides, that have a text in them, in any case."""
        if not text:
            return self.refuse("/search takes the text that is looked for")
        wanted = text.casefold()
        all_pages = pages(
            lambda before: self._client.history(before, MAX_PAGE, peer=self.to, kinds=TALK)
        )
        messages = chain.from_iterable(reversed(page.messages) for page in all_pages)
        found = list(
            islice((each for each in messages if wanted in each.body.casefold()), FOUND + 1)
        )
        if found:
            self._screen.list_messages(reversed(found[:FOUND]), more=False)
            if len(found) > FOUND:
                self._screen.inform(f"these are the newest {FOUND}; there are more")
        else:
            self._screen.inform(f"no message has {visible(text)} in it")
        return Outcome.DONE

    def delete(self, rest: str) -> Outcome:
        """Delete messages from the mailbox."""
        ranges = [_SEQS.fullmatch(word) for word in rest.replace(",", " ").split()]
        if not ranges or None in ranges:
            usage = "/delete takes the numbers that /history shows, such as 7 or 12-20"
            return self.refuse(usage)
        spans = [(int(each[1]), int(each[2] or each[1])) for each in ranges if each]
        if sum(last - first + 1 for first, last in spans if last >= first) > MAX_DELETED:
            return self.refuse(f"/delete takes at most {MAX_DELETED} messages at once")
        seqs = sorted({seq for first, last in spans for seq in range(first, last + 1) if seq})
        deleted = self._client.delete_messages(seqs) if seqs else 0
        self._screen.inform(f"{counted(deleted, 'message')} deleted")
        return Outcome.DONE

    def status(self, _rest: str) -> Outcome:
        """Show how the account stands."""
        self._screen.show_status(self._client.status(), whereabouts(self._client))
        return Outcome.DONE

    def change_password(self, _rest: str) -> Outcome:
        """Set another password."""
        old = self._screen.ask_password("Present password", known=True)
        self._client.change_password(old, new_password(self._screen, "New password"))
        self._screen.inform("the password is changed; every other session of the account has ended")
        return Outcome.DONE

    def delete_account(self, _rest: str) -> Outcome:
        """Delete the account, and leave."""
        name = self._client.username
        if not self._screen.confirm(f"Delete {name} at {self._place} and all its mail?"):
            raise Declined
        password = self._screen.ask_password(f"Password for {name}", known=True)
        with self._ending():
            try:
                self._client.delete_account(password)
            except UndeliveredMessages as error:
                mail = "message was" if error.count == 1 else "messages were"
                question = f"{error.count} {mail} not read yet. Delete the account all the same?"
                if not self._screen.confirm(question):
                    raise Declined from None
                self._client.delete_account(password, force=True)
        self._screen.inform(f"{name} is deleted")
        return Outcome.LEAVE

    def log_out(self, _rest: str) -> Outcome:
        """End the session, and leave."""
        name = self._client.username
        with self._ending():
            self._client.logout()
        self._screen.inform(f"{name} is logged out of {self._place}")
        return Outcome.LEAVE

    @contextmanager
    def _ending(self) -> Iterator[None]:
        """Let the body end the session, and forget it then."""
        self.over = True  # before the state reports that the session has ended
        try:
            yield
        except BaseException:
            self.over = False
            raise
        self._forget()

    def reconnect(self, _rest: str) -> Outcome:
        """Try now to reach the server again."""
        if self._client.state.kind is StateKind.ONLINE:
            self._screen.inform("we are online")
        self._client.retry_now()
        return Outcome.DONE

    def leave(self, _rest: str) -> Outcome:
        """Leave; the session stays open for the next time."""
        return Outcome.LEAVE


@dataclass(frozen=True, slots=True)
class TalkCommand:
    """A command of the talk.

    Attributes:
        takes: what may follow it.
        does: what it does, for the help.
        run: carries it out.
        needs_server: whether it has to wait while the server is away.
        says: whether it only sends a message, which can wait by itself.
        turns: whether what is entered behind it may go to another.
    """

    takes: str
    does: str
    run: Callable[[Talk, str], Outcome]
    needs_server: bool = True
    says: bool = False
    turns: bool = False


COMMANDS: Final[dict[str, TalkCommand]] = {
    "/help": TalkCommand("", "show this", Talk.help, needs_server=False),
    "/accounts": TalkCommand("[PATTERN]", "list accounts; * is any run", Talk.list_accounts),
    "/conversations": TalkCommand("", "list whom you talked to", Talk.list_conversations),
    SWITCH: TalkCommand("", "choose a conversation of a list; so does F2", Talk.switch, turns=True),
    NEXT: TalkCommand("", "talk in the next conversation; so does Alt-n", Talk.go_on, turns=True),
    PREVIOUS: TalkCommand("", "talk in the one before; so does Alt-p", Talk.go_back, turns=True),
    "/to": TalkCommand("NAME", "talk to NAME from now on", Talk.choose, turns=True),
    "/query": TalkCommand(
        "NAME", "the same as /to", lambda talk, name: talk.choose(name, "/query"), turns=True
    ),
    "/msg": TalkCommand(
        "NAME TEXT", "say TEXT to NAME, and stay where you are", Talk.message, says=True
    ),
    "/me": TalkCommand(
        "TEXT", "say what you do: '/me waves' is '* ann waves'", Talk.act, says=True
    ),
    "/history": TalkCommand("[N]", f"show the last N messages, or {HISTORY}", Talk.history),
    "/search": TalkCommand("TEXT", "show messages with TEXT in them", Talk.search),
    "/delete": TalkCommand("N[-M] ...", "delete messages by their numbers", Talk.delete),
    "/block": TalkCommand("NAME", "refuse what NAME sends from now on", Talk.block),
    "/unblock": TalkCommand("NAME", "take what NAME sends again", Talk.unblock),
    "/blocked": TalkCommand("", "list whom you have blocked", Talk.list_blocked),
    "/status": TalkCommand("", "show how the account stands", Talk.status),
    "/password": TalkCommand("", "change the password", Talk.change_password),
    "/delete-account": TalkCommand("", "delete the account, and leave", Talk.delete_account),
    "/logout": TalkCommand("", "end the session, and leave", Talk.log_out),
    "/reconnect": TalkCommand(
        "", "try now to reach the server again", Talk.reconnect, needs_server=False
    ),
    "/quit": TalkCommand("", "leave; so does Ctrl-D", Talk.leave, needs_server=False),
    "/exit": TalkCommand("", "the same as /quit", Talk.leave, needs_server=False),
}


def _command_of(line: str) -> TalkCommand | None:
    return COMMANDS.get(line.partition(" ")[0])


def needs_server(line: str) -> bool:
    """Return whether carrying out a line asks the server for something."""
    command = _command_of(line)
    return bool(line.strip()) if command is None else command.needs_server


def needs_server_now(line: str) -> bool:
    """Return whether a line cannot be carried out without the server, though messages can wait."""
    addressed = _ADDRESSED.fullmatch(line)
    if addressed is not None:
        return not (addressed[2] or "").strip()  # it turns to somebody, if there is one
    command = _command_of(line)
    return command is not None and command.needs_server and not command.says


def is_message(line: str) -> bool:
    """Return whether a line only says something to somebody."""
    command = _command_of(line)
    return bool(line.strip()) if command is None else command.says


def turns(line: str) -> bool:
    """Return whether what is entered behind a line may go to another."""
    command = _command_of(line)
    return _ADDRESSED.fullmatch(line) is not None if command is None else command.turns
