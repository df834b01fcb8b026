"""The table of the commands: where each is, and what the overview says of it.

A command's module is imported when the command is used, because half of a short command's time
would go into importing what the others need.
"""

from typing import Final

COMMANDS: Final[tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]] = (
    (
        "Start here",
        (
            ("demo", "demo:demo", "See two people talk through a real server."),
            ("serve", "serve:serve", "Run a server."),
            ("config", "config:config", "Show or check the settings."),
        ),
    ),
    (
        "Your account",
        (
            ("register", "account_commands:register", "Create an account and log in."),
            ("login", "account_commands:login", "Log in, and stay logged in."),
            ("logout", "account_commands:logout", "End the session."),
            ("status", "account_commands:status", "Show who is logged in and what is unread."),
            ("accounts", "account_commands:accounts", "List accounts."),
            (
                "change-password",
                "account_commands:change_password",
                "Change the account's password.",
            ),
            ("delete-account", "account_commands:delete_account", "Delete the account."),
        ),
    ),
    (
        "Messages",
        (
            ("chat", "chat:chat", "Talk at a prompt."),
            ("send", "send:send", "Send a message, or many."),
            ("watch", "watch:watch", "Print messages as they come, or run a command."),
            ("history", "history:history", "Print the mailbox."),
        ),
    ),
    (
        "Checks",
        (
            ("store", "store:store", "Check, copy or measure a store's file."),
            ("ping", "ping:ping", "Measure the way to the server and back."),
            ("verify", "verify:verify", "Check that a server loses and repeats nothing."),
            ("bench", "bench:bench", "Measure how fast a server is."),
        ),
    ),
    (
        "The shell",
        (("completion", "completion_command:completion", "Complete commands with the Tab key."),),
    ),
)
"""In the order of the help: a title, and its commands with their places and summaries."""

COMPLETE_VARIABLE: Final = "_TWINLINE_COMPLETE"
"""Set by a shell that wants a completion, and by nobody else."""

PLACES: Final = {name: place for _, commands in COMMANDS for name, place, _summary in commands}
