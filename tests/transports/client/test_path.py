"""What a command costs on its way through the client: the locks that it takes, the system calls.

``benchmarks/client_path.py`` measures the rest.
"""

import sys
import threading

import pytest
from client_kit import Kind, user
from client_path import system_calls
from crash_server import needs_strace
from listening import socket_path
from looped_client import LoopedClient
from servers import Site

from twinline.core.locks import CheckedLock
from twinline.transports.client import WatchMode


@pytest.mark.usefixtures("both_clients")
@pytest.mark.parametrize("resume", [True, False])
def test_a_command_takes_the_lock_of_the_commands_and_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    taken: list[str] = []
    enter = CheckedLock.__enter__
    caller = LoopedClient.thread.ident if Kind.made is LoopedClient else threading.get_ident()

    def counted(lock: CheckedLock) -> None:
        if threading.get_ident() == caller:
            taken.append(lock._name)
        enter(lock)

    with user(site.endpoint, "ann", watch=WatchMode.OFF, resume=resume) as ann:
        ann.ping()  # the first request proves the connection
        monkeypatch.setattr(CheckedLock, "__enter__", counted)
        for command in (ann.ping, ann.status, lambda: ann.send("ann", "x"), ann.history):
            taken.clear()
            command()
            assert taken == ["commands", "commands"]  # to take it, and to release it


@pytest.mark.parametrize("wire", ["tcp", "unix"])
def test_a_round_trip_with_a_deadline_is_six_system_calls_at_most(wire: str) -> None:
    needs_strace()
    with (
        socket_path() as path,
        Site(f"unix:{path}" if wire == "unix" else "tcp://127.0.0.1:0") as site,
    ):
        made = system_calls(sys.executable, str(site.endpoint), "send")
    # A look for an end, a send, a poll, a receive; a little more when the machine is busy.
    assert made <= 6
