"""The table of the commands: where each is, and what the overview says of it.

A command's module is imported when the command is used, because half of a short command's time
would go into importing what the others need.
"""

from typing import Final

COMMANDS: Final[tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]] = (
    (
        "Start here",
        (
            ("demo", "server.demo:demo", "See two people talk through a real server."),
            ("serve", "server.serve:serve", "Run a server."),
            ("config", "settings.command:config", "Show, explain or check the settings."),
        ),
    ),
    (
        "Your account",
        (
            ("register", "client.accounts:register", "Create an account and log in."),
            ("login", "client.accounts:login", "Log in, and stay logged in."),
            ("logout", "client.accounts:logout", "End the session."),
            ("status", "client.accounts:status", "Show who is logged in and what is unread."),
            ("receipts", "client.peers:receipts", "Let senders see what is read, or not."),
            ("accounts", "client.accounts:accounts", "List accounts."),
            ("blocked", "client.peers:blocked", "List whose messages are refused."),
            ("block", "client.peers:block", "Refuse somebody's messages."),
            ("unblock", "client.peers:unblock", "Take somebody's messages again."),
            (
                "change-password",
                "client.accounts:change_password",
                "Change the account's password.",
            ),
            ("delete-account", "client.accounts:delete_account", "Delete the account."),
        ),
    ),
    (
        "Messages",
        (
            ("chat", "chat.command:chat", "Talk at a prompt."),
            ("send", "client.send:send", "Send a message, or many."),
            ("watch", "client.watch:watch", "Print messages as they come, or run a command."),
            ("history", "client.history:history", "Print the mailbox, or a conversation."),
            (
                "conversations",
                "client.conversations:conversations",
                "List whom you wrote to or heard from.",
            ),
        ),
    ),
    (
        "Checks",
        (
            ("store", "server.store:store", "Check, copy or measure a store's file."),
            ("ping", "client.ping:ping", "Measure the way to the server and back."),
            ("verify", "verify.command:verify", "Check that a server loses and repeats nothing."),
            ("bench", "bench.command:bench", "Measure how fast a server is."),
        ),
    ),
    (
        "The operator",
        (
            ("admin", "admin.command:admin", "Look after a server that runs."),
            ("top", "admin.top:top", "Show who is connected, and how busy they are."),
            ("trace", "admin.trace:trace", "Say where a message is."),
        ),
    ),
    (
        "The shell",
        (("completion", "completion.command:completion", "Complete commands with the Tab key."),),
    ),
)
"""In the order of the help: a title, and its commands with their places and summaries."""

TOGETHER: Final = {
    "login": ("logout", "Log in, and stay logged in; end the session."),
    "status": ("receipts", "Show what is unread; tell senders what is read."),
    "accounts": ("blocked", "List accounts; list those that are blocked."),
    "block": ("unblock", "Refuse somebody's messages; take them again."),
    "watch": ("history", "Print messages as they come; print the mailbox."),
    "store": ("ping", "Look after a store; measure the way to a server."),
    "verify": ("bench", "Check that a server loses nothing; measure it."),
    "top": ("trace", "See who is connected; where a message is."),
}
"""Commands that share a line of the overview with the next one, for it fits a screen."""

COMPLETE_VARIABLE: Final = "_TWINLINE_COMPLETE"
"""Set by a shell that wants a completion, and only by it."""

PLACES: Final = {name: place for _, commands in COMMANDS for name, place, _summary in commands}
