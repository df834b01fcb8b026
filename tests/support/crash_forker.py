"""Forks servers for the crash tests: ``start LOG ARGUMENTS`` and ``wait PID`` on stdin.

Its own argument, if it has one, names what these servers do wrong (`crash_faults`).

Starting an interpreter and importing everything takes most of a restart. This process does it
once; each server is then a process of its own, which can be killed like any other.
"""

import os
import signal
import sys

import twinline.cli.server.serve
import twinline.stores.sqlite  # noqa: F401 - so that the forks have it
from twinline.cli.main import main


def run() -> None:
    """Do as stdin says, until its end."""
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "start":
            pid = os.fork()
            if pid == 0:
                null = os.open(os.devnull, os.O_RDONLY)
                os.dup2(null, 0)
                log, *arguments = rest
                os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
                signal.signal(signal.SIGPIPE, signal.SIG_IGN)
                # The caller reads which process it is before what that says.
                print(f"pid {os.getpid()}", flush=True)
                main(arguments, "twinline")
        elif word == "wait":
            os.waitpid(int(rest[0]), 0)
            print(f"ended {rest[0]}", flush=True)


if __name__ == "__main__":
    for fault in sys.argv[1:]:
        import crash_faults

        crash_faults.FAULTS[fault]()
    run()
