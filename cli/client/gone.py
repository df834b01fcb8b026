"""What is said of an account that has ended with a server which keeps accounts in memory alone.

No reply tells whether there is an account of a name. That one is gone follows from its session: it
was opened at another incarnation of the server.
"""

from typing import Final

from twinline.cli.client.sessions import KeptSession
from twinline.cli.console.errors import CommandError
from twinline.cli.console.exit_codes import ExitCode
from twinline.transports.client import Client

IN_MEMORY_ALONE: Final = (
    "this server keeps accounts in memory alone: one from before its last start is gone"
)


def is_gone(session: KeptSession, client: Client) -> bool:
    """Return whether the account of a session has ended with its server.

    Args:
        session: that was kept.
        client: was connected since.
    """
    return client.incarnation not in (None, session.incarnation)


def gone(username: str, place: str) -> str:
    """Return what to say of an account that is gone.

    Args:
        username: of the account.
        place: the server, as a person knows it.
    """
    return (
        f"{username} at {place} is gone: this server keeps accounts in memory alone, and was "
        "started again"
    )


def gone_for_a_command(username: str, place: str) -> CommandError:
    """Return the same as a command's error, with what to do."""
    return CommandError(
        f"{gone(username, place)}; 'twinline register {username}' creates it anew",
        ExitCode.REFUSED,
    )
