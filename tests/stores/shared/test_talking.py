"""A talk over two servers of one state: each of its devices and both sides hear of all of it."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from listening import Server, serving
from services import cheap_hasher
from shared_engines import ENGINES, nodes_on

from twinline.core.service import ChatService
from twinline.core.store import MailboxPolicy


@pytest.fixture(params=ENGINES)
def servers(request: pytest.FixtureRequest) -> Iterator[list[Server]]:
    """Two servers of one state."""
    with ExitStack() as opened:
        nodes = opened.enter_context(nodes_on(request.param, request, MailboxPolicy(), 2))
        services = [ChatService(node, hasher=cheap_hasher()) for node in nodes]
        yield [opened.enter_context(serving(service=each)) for each in services]


@pytest.mark.usefixtures("each_listener")
def test_what_one_server_did_the_other_tells_and_obeys(servers: list[Server]) -> None:
    here, there = servers
    with ExitStack() as opened:
        desk, bob = (opened.enter_context(here.peer().enter(name)) for name in ("ann", "bob"))
        phone = opened.enter_context(there.peer().login("ann"))
        bob_there = opened.enter_context(there.peer().login("bob"))

        # What is sent here shows on the other device, which waits at the other server.
        phone.send_line(op="watch", id=7, after=0, wait=30, kinds=["mail", "sent"])
        sent = desk.ask("send", to="bob", body="from the desk", send_id="x", copy=True)
        watched = phone.read_line()
        (copy,) = watched["messages"]
        assert (copy["message_id"], copy["to"], copy["n"]) == (sent["message_id"], "bob", sent["n"])

        # Whoever acks there tells who waits here.
        desk.send_line(op="watch", id=8, after=watched["seen"], wait=30, kinds=["receipt"])
        (mail,) = bob_there.ask("watch", after=0)["messages"]
        assert bob_there.ask("ack", up_to=mail["seq"])["unread"] == 0
        (receipt,) = desk.read_line()["receipts"]
        assert (receipt["username"], receipt["n"]) == ("bob", sent["n"])

        # A block holds at once, and so does its end; a repeat is what it was.
        for blocking, asking in ((bob, phone), (bob_there, desk)):
            assert blocking.ask("block", username="ann")["ok"]
            refused = asking.ask("send", to="bob", body="no", send_id="y", copy=True)
            assert refused["error"]["code"] == "refused"
            again = asking.ask("send", to="bob", body="from the desk", send_id="x", copy=True)
            assert again == sent
            assert blocking.ask("unblock", username="ann")["ok"]
        taken = phone.ask("send", to="bob", body="yes", send_id="y", copy=True)
        assert taken["n"] > sent["n"]
        for ann in (desk, phone):
            (talk,) = ann.ask("conversations")["conversations"]
            assert (talk["username"], talk["last"]["body"]) == ("bob", "yes")
            bodies = [each["body"] for each in ann.ask("history", **{"with": "bob"})["messages"]]
            assert bodies == ["from the desk", "yes"]
        (talk,) = bob.ask("conversations")["conversations"]
        assert (talk["username"], talk["unread"]) == ("ann", 1)


def test_receipts_that_are_off_at_one_server_are_off_at_the_other(servers: list[Server]) -> None:
    here, there = servers
    with ExitStack() as opened:
        ann, bob = (opened.enter_context(here.peer().enter(name)) for name in ("ann", "bob"))
        bob_there = opened.enter_context(there.peer().login("bob"))
        assert bob.ask("set_receipts", receipts=False)["ok"]
        assert bob_there.ask("status")["receipts"] is False
        first = ann.ask("send", to="bob", body="first")
        assert bob_there.ask("ack", up_to=1)["position"] == 1
        assert bob.ask("set_receipts", receipts=True)["ok"]
        second = ann.ask("send", to="bob", body="second")
        ann.send_line(op="watch", id=7, after=0, wait=30, kinds=["receipt"])
        assert bob_there.ask("ack", up_to=2)["position"] == 2
        (receipt,) = ann.read_line()["receipts"]
        assert receipt["n"] == second["n"] > first["n"]
        assert receipt["seq"] == 1, "one came for what was acknowledged before"
