"""The program `twinline`, which is also `python -m twinline.cli`.

What runs a server first sees to SIGHUP, whose default is to end the process: until there is
something that could be read again it is to do nothing. All else is imported after that, for it
takes a hundred times as long.
"""

import signal
import sys
from types import FrameType

SERVERS = ("serve",)
"""The commands that run a server until they are told to stop."""


def outlive_hangup() -> None:
    """Have SIGHUP do nothing for now, unless it is ignored already, as nohup(1) has it.

    By a handler, and not by ignoring it: so it can be told from that later on.
    """

    def nothing(_number: int, _frame: FrameType | None) -> None:
        pass

    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, nothing)


def run() -> None:
    """Run the command that the arguments name, and exit with its code."""
    if next((word for word in sys.argv[1:] if not word.startswith("-")), "") in SERVERS:
        outlive_hangup()
    from twinline.cli.main import main  # noqa: PLC0415 - see above

    main(prog_name="twinline")


if __name__ == "__main__":
    run()
