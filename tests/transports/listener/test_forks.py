"""A listener that a forked child inherits stays its parent's."""

import os
from contextlib import suppress
from pathlib import Path

import pytest
from forking import Child
from listening import serving


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
