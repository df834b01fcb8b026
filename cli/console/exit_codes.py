"""The exit codes of every command; the table in ``docs/cli.md`` is checked against this one."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says; each member carries the sentence for the documentation."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> "ExitCode":
        """Make a member that is its number and carries its sentence."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OK = 0, "it was done; also when the reader of stdout went away (`| head`)"
    FAILURE = (
        1,
        (
            "it failed for a reason that has no code of its own, such as a port in use; "
            "a store's file is not sound; a promise was broken; a message's command failed"
        ),
    )
    USAGE = 2, "the command line, a setting or the input is wrong; nothing was tried"
    REFUSED = 3, "the server refused it, or there is no session to ask with: log in"
    UNREACHABLE = 4, "the server could not be reached, or the connection broke"
    TIMED_OUT = (
        5,
        (
            "no reply in time, or fewer messages than `--count` in time; nothing to judge, or not "
            "all of it, in time"
        ),
    )
    INTERRUPTED = 130, "Ctrl-C; SIGTERM too where something is finished first (`watch`, `bench`)"

    @property
    def word(self) -> str:
        """What stands for it in a script where there is no error code of the server's.

        None of these is such a code: that the server has `refused` a message is another matter than
        that there is no session to send it with.
        """
        return "denied" if self is ExitCode.REFUSED else self.name.lower()
