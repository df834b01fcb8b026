"""Watches that take copies and receipts, over real sockets."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from listening import Hold, Peer, Server, said, serving
from services import enter, login, make_service
from waiting import wait_until

from twinline.core.protocol import (
    EVERY_KIND,
    Login,
    Send,
    SentReply,
    Watch,
    WatchReply,
)
from twinline.core.service import ChatService
from twinline.core.session import Session

pytestmark = pytest.mark.usefixtures("each_listener")
ALL = ["mail", "sent", "receipt"]
TALK = ["mail", "sent"]
PING = b'{"op":"ping","id":90}\n'
PINGED = {"id": 90, "ok": True}


@contextmanager
def ann(service: ChatService | None = None) -> Iterator[tuple[Server, Peer, Session, Session]]:
    """Yield a server, ann's connection, and sessions of hers and of bob's elsewhere."""
    with serving(service=service) as server, server.peer() as peer:
        peer.enter("ann")
        desk, bob = login(server.service, "ann"), enter(server.service, "bob")
        yield server, peer, desk, bob
    server.service.stop()


def copy(server: Server, session: Session, *bodies: str) -> None:
    """Send messages to bob, and keep copies."""
    for body in bodies:
        server.service.send(session, "bob", body, f"id of {body[:20]}", copy=True)


def receipt(server: Server, bob: Session, up_to: int) -> None:
    """Have bob acknowledge what ann has sent, and wait until she has the receipt."""
    service, mailboxes = server.service, server.service.store.mailboxes
    account = service.store.accounts.find("ann")
    assert account is not None

    def seqs() -> list[int]:
        page = mailboxes.read(account.account_id, 0, 1_000, 1 << 20, EVERY_KIND)
        return [each.seq for each in page.receipts]

    before = seqs()
    service.ack(bob, up_to)
    wait_until(lambda: seqs() != before, "the receipt is there")


def brought(reply: dict[str, Any]) -> tuple[list[str], list[str], int, bool]:
    """Return what a reply to a watch has: bodies, whose receipts, `seen`, whether more follows."""
    assert reply["ok"], reply
    return (
        [each["body"] for each in reply.get("messages", [])],
        [each["username"] for each in reply.get("receipts", [])],
        reply["seen"],
        reply.get("more", False),
    )


def test_a_stream_brings_each_kind_as_it_comes() -> None:
    with ann() as (server, peer, desk, bob):
        peer.send_line(op="watch", id=5, after=0, wait=30, window=9, kinds=ALL)
        server.wait_watching()
        sent = server.service.send(desk, "bob", "one", "id-1", copy=True)
        reply = peer.read_line()
        assert brought(reply) == (["one"], [], 1, True)
        (message,) = reply["messages"]
        assert (message["to"], message["n"]) == ("bob", sent.n)
        server.service.send(bob, "ann", "two")
        assert brought(peer.read_line()) == (["two"], [], 2, True)
        receipt(server, bob, 1)
        reply = peer.read_line()
        assert brought(reply) == ([], ["bob"], 3, True)
        assert reply["receipts"][0]["n"] == sent.n
        assert peer.send(PING).read_line() | {"more": False} == reply_of_the_end(3)
        assert peer.read_line() == PINGED


def reply_of_the_end(seen: int, position: int = 0) -> dict[str, Any]:
    return {
        "id": 5,
        "ok": True,
        "messages": [],
        "position": position,
        "seen": seen,
        "more": False,
    }


def test_a_stream_of_mail_alone_is_not_told_of_copies_and_has_passed_them() -> None:
    with ann() as (server, peer, desk, bob):
        looks: list[int] = []
        server.around_looks(after=lambda look, _: looks.append(look.after))
        peer.send_line(op="watch", id=5, after=0, wait=30, window=9)
        wait_until(lambda: looks == [0], "its first look has found nothing")
        copy(server, desk, "one", "two")
        server.service.send(bob, "ann", "well!")
        assert brought(peer.read_line()) == (["well!"], [], 3, True)
        assert looks == [0, 0]
        copy(server, desk, "three")
        peer.send_line(op="watch", id=6, after=3, wait=0, window=9, renew=True)
        assert brought(peer.read_line()) == ([], [], 3, False)
        assert brought(peer.read_line()) == ([], [], 4, False)


def test_what_a_stream_has_passed_it_does_not_look_at_again() -> None:
    """Its next look begins at `seen`, though nothing was sent up to there."""
    with ann() as (server, peer, desk, _):
        copy(server, desk, "one", "two")
        looks: list[int] = []
        server.around_looks(before=lambda look: looks.append(look.after))
        peer.send_line(op="watch", id=5, after=0, wait=30, window=9, kinds=["receipt"])
        wait_until(lambda: looks == [0], "it has looked")
        server.service.store.mailboxes.delete(mailbox_of(server, "ann"), [1])
        peer.send_line(op="watch", id=5, after=0, wait=0, window=9, kinds=["receipt"])
        assert brought(peer.read_line()) == ([], [], 2, False)
        assert brought(peer.read_line()) == ([], [], 2, False)


def mailbox_of(server: Server, username: str) -> str:
    account = server.service.store.accounts.find(username)
    assert account is not None
    return account.account_id


def test_a_watch_that_does_not_wait_says_how_far_it_has_looked() -> None:
    with ann() as (server, peer, desk, bob):
        copy(server, desk, "one")
        receipt(server, bob, 1)
        assert brought(peer.ask("watch", after=0)) == ([], [], 2, False)
        assert brought(peer.ask("watch", after=0, kinds=TALK)) == (["one"], [], 2, False)
        assert brought(peer.ask("watch", after=1, kinds=ALL)) == ([], ["bob"], 2, False)
        assert brought(peer.ask("watch", after=0, kinds=ALL)) == (["one"], ["bob"], 2, False)
        assert brought(peer.ask("watch", after=0, kinds=ALL, limit=1)) == (["one"], [], 1, False)
        reply = peer.ask("history", kinds=ALL)
        assert [each["body"] for each in reply["messages"]] == ["one"]
        assert [each["username"] for each in reply["receipts"]] == ["bob"]
        assert peer.ask("watch", after=0, kinds=[])["error"]["code"] == "bad_request"
        assert peer.ask("watch", after=0, kinds=["post"])["error"]["code"] == "bad_request"


def test_receipts_count_for_a_window_as_messages_do() -> None:
    with ann() as (server, peer, desk, bob):
        copy(server, desk, "one")
        receipt(server, bob, 1)
        copy(server, desk, "two")
        peer.send_line(op="watch", id=5, after=0, wait=30, window=2, kinds=ALL)
        assert brought(peer.read_line()) == (["one"], ["bob"], 2, False)
        # The window is used up: a renewal that has seen both has room again.
        peer.send_line(op="watch", id=6, after=2, wait=30, window=2, kinds=ALL, renew=True)
        assert brought(peer.read_line()) == (["two"], [], 3, True)


def test_a_page_that_is_cut_brings_receipts_up_to_the_cut() -> None:
    """What follows it is in the next page: no receipt is left out, and none comes twice."""
    with ann() as (server, peer, desk, bob):
        body = "x" * 16_000
        copies = [f"{number}{body}" for number in range(6)]
        copy(server, desk, *copies)
        receipt(server, bob, 6)
        copy(server, desk, "last")
        messages: list[str] = []
        receipts: list[str] = []
        after = 0
        while after < 8:
            peer.send_line(op="watch", id=5, after=after, wait=0, window=99, kinds=ALL)
            more = True
            while more:
                bodies, names, after, more = brought(peer.read_line())
                messages += bodies
                receipts += names
        assert messages == [*copies, "last"]
        assert receipts == ["bob"]


def test_a_connection_may_take_other_kinds_from_one_watch_to_the_next() -> None:
    with ann() as (server, peer, desk, bob):
        peer.send_line(op="watch", id=5, after=0, wait=30, window=9)
        server.wait_watching()
        copy(server, desk, "one")
        server.service.send(bob, "ann", "two")
        assert brought(peer.read_line()) == (["two"], [], 2, True)
        # The copy lies before what this stream has sent.
        peer.send_line(op="watch", id=6, after=0, wait=30, window=9, kinds=TALK, renew=True)
        assert brought(peer.read_line()) == ([], [], 2, False)
        assert brought(peer.read_line()) == (["one", "two"], [], 2, True)
        copy(server, desk, "three")
        assert brought(peer.read_line()) == (["three"], [], 3, True)
        peer.send_line(op="watch", id=7, after=3, wait=30, window=9, renew=True)
        wait_until(lambda: server.subscribed == 3, "it watches mail alone again")
        copy(server, desk, "four")
        server.service.send(bob, "ann", "five")
        assert brought(peer.read_line()) == ([], [], 3, False)
        assert brought(peer.read_line()) == (["five"], [], 5, True)
        assert (len(server.subscriptions), server.subscribed) == (1, 3)


def test_a_change_of_kinds_against_an_entry_that_comes_meanwhile() -> None:
    """It comes when the old subscription has ended and the new one has not begun."""
    with ann() as (server, peer, desk, _):
        peer.send_line(op="watch", id=5, after=0, wait=30, window=9)
        server.wait_watching()
        mailboxes = server.service.store.mailboxes
        subscribe, hold = mailboxes.on_mail, Hold()

        def held(*args: Any) -> Any:
            hold()
            return subscribe(*args)

        mailboxes.on_mail = held  # type: ignore[method-assign]
        server.let_requests_wait()
        peer.send_line(op="watch", id=6, after=0, wait=30, window=9, kinds=TALK, renew=True)
        hold.wait_reached()
        copy(server, desk, "one")
        hold.release()
        assert brought(peer.read_line()) == ([], [], 0, False)
        assert brought(peer.read_line()) == (["one"], [], 1, True)


@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
def test_both_transports_bring_a_receipt_after_an_ack_on_a_stream(spoken: str) -> None:
    service = make_service()
    for name in ("ann", "bob"):
        enter(service, name)
    with (
        serving(service=service) as server,
        server.speaker(spoken) as hers,
        server.speaker(spoken) as his,
    ):
        for speaker, name in ((hers, "ann"), (his, "bob")):
            speaker.ask(Login(username=name, password="correct horse"))
        sent = hers.ask(Send(to="bob", body="hello", send_id="id-1", copy_=True))
        assert isinstance(sent, SentReply)
        kinds = tuple(sorted(EVERY_KIND))
        hers.send(7, Watch(after=1, wait=30, window=9, kinds=kinds))
        stream = Watch(after=0, wait=30, window=9)
        reply = his.ask(stream)
        assert isinstance(reply, WatchReply)
        his.send(2, stream.model_copy(update={"after": 1, "ack": 1, "renew": True}))
        received = hers.read()
        assert received is not None
        told = received.reply
        assert isinstance(told, WatchReply)
        (only,) = told.receipts
        assert (only.username, only.n, told.seen, told.messages) == ("bob", sent.n, only.seq, ())
    service.stop()


def test_who_is_blocked_is_refused_and_may_go_on() -> None:
    with ann() as (server, peer, _, bob):
        server.service.block(bob, "ann")
        reply = peer.ask("send", to="bob", body="hello", send_id="id-1", copy=True)
        assert reply["error"]["code"] == "refused"
        assert not reply["error"]["retryable"]
        reply = peer.ask("send", to="bob", body="hello", copy=True)
        assert reply["error"]["code"] == "bad_request"
        server.service.unblock(bob, "ann")
        assert peer.ask("send", to="bob", body="hello", send_id="id-1", copy=True)["ok"]
        assert said(peer.ask("watch", after=0, kinds=["sent"])) == (1, ["hello"], False)


def test_a_client_of_before_sees_mail_alone_wherever_it_asks() -> None:
    with ann() as (server, peer, desk, bob):
        copy(server, desk, "one")
        receipt(server, bob, 1)
        server.service.send(bob, "ann", "two")
        for reply in (peer.ask("watch", after=0), peer.ask("history")):
            assert [each["body"] for each in reply["messages"]] == ["two"]
            assert "receipts" not in reply
        assert peer.ask("status")["unread"] == 1
