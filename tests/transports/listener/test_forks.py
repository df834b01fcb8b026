"""A listener that a forked child inherits stays its parent's."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from forking import Child
from listening import mail, said, serving, threads_only
from services import enter

from twinline.transports import wakeup

pytestmark = pytest.mark.usefixtures("each_listener")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_child_neither_serves_nor_ends_what_its_parent_serves(kind: str, tmp_path: Path) -> None:
    place = "tcp://127.0.0.1:0" if kind == "tcp" else f"unix:{tmp_path / 'socket'}"
    with serving([(place, "jsonl")]) as server:
        peer = server.peer()
        peer.enter("ann")
        listener = server.listener

        def look() -> None:
            listener.stop()
            listener.close()
            with pytest.raises(RuntimeError, match="inherited by a fork"):
                listener.serve_forever()

        Child(look).end()
        peer.send_line(op="ping", id=7)
        assert peer.read_line() == {"id": 7, "ok": True}
        other = server.peer()
        other.enter("bob")
        peer.socket.close()
        other.socket.close()


def test_a_peer_sees_the_end_of_its_connection_before_the_childs() -> None:
    reading, writing = os.pipe()
    with serving() as server:
        peer = server.peer()
        peer.enter("ann")
        child = Child(lambda: os.read(reading, 1))
        peer.send(b"x" * 100_000)  # more than a frame may have
        with suppress(ConnectionResetError):  # what was not read resets it
            while peer.socket.recv(65536):
                pass
        peer.socket.close()
    os.write(writing, b"x")
    child.end()
    os.close(reading)
    os.close(writing)


@threads_only
@pytest.mark.parametrize("eventfd", [True, False], ids=["eventfd", "pipe"])
def test_a_child_keeps_no_copy_of_what_wakes_an_open_stream(
    monkeypatch: pytest.MonkeyPatch, eventfd: bool
) -> None:
    monkeypatch.setattr(wakeup, "_EVENTFD", eventfd and wakeup._EVENTFD)
    with serving() as server, server.peer() as peer:
        ann = enter(server.service, "ann")
        peer.enter("bob").send_line(op="watch", id=5, after=0, wait=30, window=10)
        server.wait_watching()
        (owner,) = server.listener._connections
        ends = owner._wake._ends
        assert ends is not None
        numbers = {ends.reading, ends.writing}
        del ends  # which would keep them open here, and in the child

        def look() -> None:
            owner._wake.wake()  # which is its parent's to do, and does nothing
            for number in numbers:
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(number)

        Child(look).end()
        mail(server, ann, "a")
        assert said(peer.read_line()) == (5, ["a"], True)
