"""The screen of a talk at the prompt."""

from collections.abc import Iterable, Sequence
from itertools import chain, count

from twinline.cli.chat import theme
from twinline.cli.chat.conversation import WHICH, Opening
from twinline.cli.chat.prompt import Prompt
from twinline.cli.chat.rows import Entry
from twinline.cli.chat.toolbar import Toolbar
from twinline.cli.console.text import visible
from twinline.core.protocol import Conversation, Message, StatusReply


class PromptScreen:
    """Shows everything above the prompt, and asks in its place."""

    def __init__(self, prompt: Prompt, toolbar: Toolbar) -> None:
        """Make the screen.

        Args:
            prompt: where it is shown.
            toolbar: notified when it is the person who is waited for.
        """
        self._prompt = prompt
        self._toolbar = toolbar

    def inform(self, text: str) -> None:
        """Say something about the talk."""
        self._prompt.put(theme.talk(text))

    def explain(self, rows: Sequence[tuple[str, str]]) -> None:
        """Tell what can be typed, in a pager if the screen cannot hold it."""
        self._prompt.page(theme.helped(rows))

    def complain(self, text: str) -> None:
        """Say what went wrong."""
        self._prompt.put([theme.trouble(text)])

    def sent(self, to: str, body: str, sent_at: int) -> None:
        """Show a message that was sent."""
        self._prompt.put([theme.went_out(to, body, sent_at)])

    def list_accounts(self, usernames: Iterable[str]) -> None:
        """Show usernames, a line each."""
        self._prompt.page(Entry([("", visible(name))]) for name in usernames)

    def list_messages(self, messages: Iterable[Message], *, more: bool) -> None:
        """Show messages with their seqs."""
        older = theme.talk("there are older ones: /history with a larger number") * more
        lines = map(theme.listed, messages)
        self._prompt.page(chain(older, lines))

    def open(self, name: str, opening: Opening) -> None:
        """Show the end of a conversation."""
        self._prompt.put(list(theme.opened(name, opening)))

    def list_conversations(self, conversations: Sequence[Conversation]) -> None:
        """Show with whom messages were exchanged."""
        self._prompt.page(map(theme.conversation, conversations))

    def choose(self, conversations: Sequence[Conversation]) -> str:
        """Show conversations with their numbers, and ask for one in the place of the prompt."""
        self._prompt.put(list(map(theme.conversation, conversations, count(1))))
        return self._ask(WHICH, secret=False)

    def show_status(self, status: StatusReply, place: str) -> None:
        """Show how the account stands."""
        self._prompt.put(theme.standing(status, place))

    def ask_password(self, question: str, *, known: bool) -> str:  # noqa: ARG002
        """Ask, with asterisks for what is typed."""
        return self._ask(question, secret=True)

    def confirm(self, question: str) -> bool:
        """Ask for y or n; anything else is n."""
        answer = self._ask(f"{question} [y/N]", secret=False)
        return answer.strip().lower() in ("y", "yes")

    def _ask(self, question: str, *, secret: bool) -> str:
        with self._toolbar.waiting_for_the_person():
            return self._prompt.ask(question, secret=secret)
