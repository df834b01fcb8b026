"""Plug-ins that fail: a codec that raises costs its own connection, and what holds a loop is named.

The transport is somebody else's, and so is the store; what they do wrong is logged, with their
names, and nobody else's peer notices.
"""

import threading
from typing import Any

import pytest
from listening import loops_only, serving
from services import enter, make_service

from twinline.transports.contract import ServerCodec

pytestmark = pytest.mark.usefixtures("each_listener")


class Faulty:
    """A codec whose one step raises; all else is done by another codec."""

    def __init__(self, codec: ServerCodec, step: str) -> None:
        self._codec, self._step = codec, step

    def __getattr__(self, name: str) -> Any:
        if name == self._step:
            return self._fail
        return getattr(self._codec, name)

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("_codec", "_step"):
            object.__setattr__(self, name, value)
        else:
            setattr(self._codec, name, value)

    def _fail(self, *_: object) -> Any:
        raise ZeroDivisionError("of a plug-in")


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("step", ["receive_data", "next_event", "send", "receive_eof"])
def test_a_codec_that_raises_costs_its_own_connection_alone(
    step: str, blocks: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = make_service()
    service.store.blocks = blocks
    with serving(service=service) as server, server.peer() as bystander, server.peer() as peer:
        enter(service, "ann")
        bystander.login("ann")
        assert peer.login("ann").ask("status")["ok"]
        server.wait_connections(2)
        (_, connection) = server.listener._running()
        connection._talk.codec = Faulty(connection._talk.codec, step)
        if step == "receive_eof":
            peer.socket.shutdown(1)
        else:
            peer.send_line(op="status", id=1)
        assert peer.rest(5) == b""
        server.wait_connections(1)
        assert bystander.ask("status")["ok"]
    assert "ZeroDivisionError: of a plug-in" in caplog.text
    assert caplog.text.count("Traceback") == 1


# -- what holds the loop --------------------------------------------------------------------


@loops_only
def test_a_store_that_claims_not_to_block_and_does_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    service = make_service()
    standing = service.store.mailboxes.standing

    def slow(*arguments: Any) -> Any:
        threading.Event().wait(0.2)  # as a disk, or a network
        return standing(*arguments)

    with serving(service=service, loop_warn_seconds=0.05) as server, server.peer() as peer:
        peer.enter("ann")
        assert "held the event loop" not in caplog.text
        service.store.mailboxes.standing = slow  # type: ignore[method-assign]
        service._mailboxes.standing = slow  # type: ignore[method-assign]
        assert peer.ask("status")["ok"]
        assert peer.ask("ping")["ok"]  # the turn before is over, and so what it logs
    (said,) = [each.message for each in caplog.records if "held the event loop" in each.message]
    assert said.startswith("'status' held the event loop for ")
    assert "twinline.stores.memory.MemoryStore" in said


@loops_only
def test_a_codec_that_holds_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Faulty):
        def _fail(self, *arguments: object) -> Any:
            threading.Event().wait(0.2)
            return getattr(self._codec, self._step)(*arguments)

    with serving(loop_warn_seconds=0.05) as server, server.peer() as peer:
        assert peer.ask("ping")["ok"]
        (connection,) = server.listener._running()
        connection._talk.codec = Slow(connection._talk.codec, "send")
        assert peer.ask("ping")["ok"]
        assert peer.ask("ping")["ok"]
    said = [each.message for each in caplog.records if "held the event loop" in each.message]
    assert said
    assert all(each.startswith("a turn of the connection from 127.0.0.1") for each in said)
    assert all("Slow" in each for each in said)


@loops_only
def test_nothing_is_logged_of_a_hold_unless_it_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with serving() as server, server.peer() as peer:
        server.in_loop(lambda: threading.Event().wait(0.1))
        assert peer.ask("ping")["ok"]
    assert not caplog.records
