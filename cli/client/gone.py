"""What is said of an account that is refused where the server keeps accounts in memory alone.

No reply tells whether there is an account of a name. That one is gone is concluded here, from what
the server says of itself and from the session that is kept on this machine.
"""

from typing import Final

IN_MEMORY_ALONE: Final = (
    "this server keeps accounts in memory alone: one from before its last start is gone"
)


def gone(username: str, place: str) -> str:
    """Return what to say where such a server refuses the kept session and the password as well.

    Args:
        username: of the account.
        place: the server, as a person knows it.
    """
    return (
        f"{username} at {place} is gone, it seems: its session is refused as well, and "
        f"{IN_MEMORY_ALONE}; 'twinline register {username}' creates it again"
    )
