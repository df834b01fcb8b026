"""Runs a command of the shell for each message, and acks the message when the command succeeds.

At least once: the ack follows the command's success at once, and waits for a server that is away;
only what happens between the two can have a message run again.
"""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Final

from twinline.cli.client.passwords import PASSWORD_VARIABLE
from twinline.cli.client.target import Target, acked
from twinline.cli.console.errors import CommandError
from twinline.cli.console.interruption import defer_interrupt, exit_on_closed_pipe
from twinline.cli.console.output import json_line, say
from twinline.cli.console.text import visible
from twinline.cli.settings.sources import MESSAGE_VARIABLES, variable_name
from twinline.core.protocol import Message
from twinline.transports.client import Backoff, Client, StateKind

_SHELL: Final = "/bin/sh"
_PATIENCE_SECONDS: Final = 1.0


class MessageCommand:
    """The command of `watch --exec`."""

    def __init__(self, command: str, target: Target, *, as_json: bool, retry: bool) -> None:
        """Prepare.

        Args:
            command: for ``/bin/sh -c``.
            target: the server and the account, for a `twinline` within the command.
            as_json: whether stdin is the whole message, as an object on a line, or its body.
            retry: whether a command that fails is run again, or ends it all.
        """
        self._command = command
        self._target = target
        self._as_json = as_json
        self._retry = retry

    def on_each(
        self, client: Client, count: int | None, idle_seconds: float | None, *, ack: bool
    ) -> int:
        """Run it on messages until there is a reason to end, and return on how many.

        Args:
            client: logged in, and watching.
            count: end after so many; None for never.
            idle_seconds: end when no message came for so long; None for never.
            ack: whether to ack each message on which it succeeded.

        Raises:
            CommandError: it failed on a message, which is not acked then.
            KeyboardInterrupt: a signal; the command that ran has ended, and its message is acked
                if it succeeded.
            OutputClosed: the reader of stdout is gone.
        """
        done = 0
        with exit_on_closed_pipe(sys.stdout):
            for message in client.messages(idle_seconds, ack=False):
                if not self._until_done(client, message, ack=ack):
                    break  # the session has ended
                done += 1
                if done == count:
                    break
        return done

    def _until_done(self, client: Client, message: Message, *, ack: bool) -> bool:
        backoff = Backoff()
        while client.state.kind is not StateKind.LOGGED_OUT:
            # What the command has done and what the server knows of it must not differ.
            with defer_interrupt():
                status = self._run(client, message)
                is_acked = status == 0 and (not ack or acked(client, message.seq))
            if status == 0:
                # However long the server is away: the command must not run again for that.
                while not is_acked:
                    is_acked = acked(client, message.seq)
                return True
            failed = (
                f"message {message.seq} from {visible(message.sender)}: "
                f"the command {_how_it_ended(status)}"
            )
            if not self._retry:
                raise CommandError(f"{failed}; the message stays unread")
            seconds = backoff.next()
            say(f"twinline: {failed}; again in {seconds:.0f} s")
            threading.Event().wait(seconds)
        return False

    def _run(self, client: Client, message: Message) -> int:
        text = f"{json_line(message)}\n" if self._as_json else message.body
        with subprocess.Popen(  # noqa: S603 - the user's own command
            [_SHELL, "-c", self._command],
            stdin=subprocess.PIPE,
            env=self._environment(client, message),
        ) as process:
            try:
                # One that does not read it all is fine: it knows what it needs.
                process.communicate(text.encode())
            except BaseException:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_PATIENCE_SECONDS)
                raise
        return process.returncode

    def _environment(self, client: Client, message: Message) -> Mapping[str, str]:
        about = (message.sender, message.seq, message.message_id, message.sent_at)
        return {
            **{name: text for name, text in os.environ.items() if name != PASSWORD_VARIABLE},
            variable_name("connect"): ",".join(map(str, self._target.endpoints)),
            variable_name("client_transport"): self._target.transport,
            variable_name("user"): client.username or "",
            **{variable_name(name): text for name, text in self._target.tls_settings.items()},
            # A variable cannot hold every character that a strange server may send.
            **{
                name: visible(str(value))
                for name, value in zip(MESSAGE_VARIABLES, about, strict=True)
            },
        }


def _how_it_ended(status: int) -> str:
    return f"ended with status {status}" if status >= 0 else f"was ended by signal {-status}"
