"""How the client engine hands messages over, and when it acks them."""

import contextlib
import threading
import time
from itertools import islice

import pytest
from client_kit import (
    FAST,
    MODES,
    Received,
    States,
    acking_after,
    again,
    blocking_only,
    failures,
    fast,
    inbox_of,
    make_client,
    receive,
    user,
    watchers,
)
from scripted_mailbox import Mailbox, page
from servers import HELLO, ScriptedServer, Site
from services import PASSWORD
from waiting import join, wait_event, wait_until

from twinline.core import errors
from twinline.core.protocol import (
    Ack,
    AckReply,
    ErrorReply,
    Hello,
    Kind,
    Message,
    Receipt,
    Status,
    Watch,
)
from twinline.transports.client import ClientBusy, StateKind, WatchMode
from twinline.transports.client.engine import watcher as watcher_module
from twinline.transports.client.engine.inbox import Inbox
from twinline.transports.client.engine.paging import PagingWatcher
from twinline.transports.client.engine.streaming import StreamingWatcher

pytestmark = pytest.mark.usefixtures("both_clients", "both_modes")


def fill(site: Site, count: int, to: str = "ann") -> None:
    """Send messages from bob, m1 to m<count>."""
    with user(site.endpoint, "bob") as bob:
        for number in range(1, count + 1):
            bob.send(to, f"m{number}")


def bodies(messages) -> list[str]:
    return [message.body for message in messages]


# -- entries() ------------------------------------------------------------------------------


@MODES
def test_copies_and_receipts_come_once_and_in_order_with_mail(site: Site, watch: WatchMode) -> None:
    with user(site.endpoint, "ann", watch=watch, kinds=Kind) as ann:
        fill(site, 1)
        with again(site.endpoint, "ann", watch=WatchMode.OFF) as desk:
            sent = desk.send("bob", "to bob", copy=True)
        entries = ann.entries(20)
        mail, copy = islice(entries, 2)
        assert (mail.kind, mail.sender, mail.body) == (Kind.MAIL, "bob", "m1")
        assert (copy.kind, copy.to, copy.body) == (Kind.SENT, "bob", "to bob")
        assert (copy.message_id, copy.sent_at, copy.n) == (sent.message_id, sent.sent_at, sent.n)
        with again(site.endpoint, "bob") as bob:
            assert receive(bob, 1) == ["to bob"]
            receipt = next(entries)
            bob.send("ann", "m2")
        assert isinstance(receipt, Receipt)
        assert (receipt.username, receipt.n) == ("bob", sent.n)
        last = next(entries)
        assert last.body == "m2"
        assert mail.seq < copy.seq < receipt.seq < last.seq
        # What was dealt with is acked, whatever it is, and nothing of it comes again.
        wait_until(lambda: ann.status().position == receipt.seq, "the ack of the receipt")
        entries.close()
        assert next(ann.entries(20)) == last


@MODES
def test_a_client_that_asks_for_mail_alone_is_told_of_nothing_else(
    site: Site, watch: WatchMode
) -> None:
    with user(site.endpoint, "ann", watch=watch) as ann:
        fill(site, 1)
        ann.send("bob", "to bob", copy=True)
        with again(site.endpoint, "bob") as bob:
            assert receive(bob, 1) == ["to bob"]
            wait_until(lambda: ann.history(kinds=[Kind.RECEIPT]).receipts, "the receipt")
            bob.send("ann", "m2")
        assert [entry.body for entry in islice(ann.entries(20), 2)] == ["m1", "m2"]


def test_receipts_are_passed_over_by_messages_and_by_a_handler(site: Site) -> None:
    handled = Received()
    with (
        user(site.endpoint, "ann", kinds=Kind) as ann,
        again(site.endpoint, "ann", kinds=Kind, on_message=handled),
    ):
        fill(site, 1)
        ann.send("bob", "to bob", copy=True)
        with again(site.endpoint, "bob") as bob:
            assert receive(bob, 1) == ["to bob"]
            wait_until(lambda: ann.history(kinds=[Kind.RECEIPT]).receipts, "the receipt")
            bob.send("ann", "m2")
        assert bodies(islice(ann.messages(20), 3)) == ["m1", "to bob", "m2"]
        assert handled.wait(3) == ["m1", "to bob", "m2"]


def test_who_does_not_watch_for_mail_would_ack_it_unseen(site: Site) -> None:
    with pytest.raises(ValueError, match="mail is among the kinds"):
        make_client(site.endpoint, kinds=[Kind.SENT])


# -- messages() -----------------------------------------------------------------------------


@MODES
def test_a_message_is_acked_when_the_loop_comes_back(site: Site, watch: WatchMode) -> None:
    with user(site.endpoint, "ann", watch=watch) as ann:
        fill(site, 3)
        loop = ann.messages(5)
        assert bodies(islice(loop, 2)) == ["m1", "m2"]
        wait_until(lambda: ann.status().position == 1, "the ack of the first")
        assert next(loop).body == "m3"
        wait_until(lambda: ann.status().position == 2, "the ack of the second")
        loop.close()
        assert ann.status().position == 2
        assert receive(ann, 1) == ["m3"]
        wait_until(lambda: ann.status().position == 3, "the ack of the last")


def test_leaving_the_loop_leaves_the_message(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        fill(site, 2)
        with contextlib.suppress(ValueError):
            for _ in ann.messages(5):
                raise ValueError("boom")
        for message in ann.messages(5):
            assert message.body == "m1"
            break
        assert receive(ann, 2) == ["m1", "m2"]


def test_what_was_not_acked_comes_to_the_next_session(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        fill(site, 3)
        loop = ann.messages(5)
        assert bodies(islice(loop, 2)) == ["m1", "m2"]  # m1 dealt with, m2 not
    with again(site.endpoint, "ann") as ann:
        assert receive(ann, 2) == ["m2", "m3"]
    with again(site.endpoint, "ann") as ann:
        assert bodies(ann.messages(0.05)) == []


def test_acking_can_be_left_to_the_caller(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        fill(site, 3)
        assert receive(ann, 3, ack=False) == ["m1", "m2", "m3"]
        assert ann.status().position == 0
        assert ann.ack(2).unread == 1
    with again(site.endpoint, "ann") as ann:
        assert receive(ann, 1, ack=False) == ["m3"]


def test_what_the_caller_has_acked_is_not_handed_over_again(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        fill(site, 3)
        loop = ann.messages(5)
        first = next(loop)
        wait_until(lambda: ann.status().unread == 3, "three messages")
        ann.ack(first.seq + 1)
        loop.close()
        inbox = inbox_of(ann)
        wait_until(lambda: inbox.cursor == 3, "the last is fetched")
        assert bodies(ann.messages(0.05))[-1:] == ["m3"]
        wait_until(lambda: ann.status().unread == 0, "the ack of the last")
        ann.ack(3)
        assert bodies(ann.messages(0.05)) == []


@MODES
def test_what_the_caller_has_acked_ahead_is_not_fetched_and_handed_over(
    site: Site, watch: WatchMode
) -> None:
    with user(site.endpoint, "ann", watch=WatchMode.OFF):
        fill(site, 10)
    with again(site.endpoint, "ann", watch=watch, settings=fast(batch=2)) as ann:
        inbox = inbox_of(ann)
        wait_until(lambda: not inbox.is_empty(), "the first batch")
        assert ann.ack(8).unread == 2
        assert receive(ann, 2) == ["m9", "m10"]
        wait_until(lambda: ann.status().unread == 0, "the ack of the rest")


def test_what_is_acked_while_it_is_on_its_way_is_not_handed_over() -> None:
    inbox = Inbox(0)
    inbox.drop(2)
    inbox.put(page(1, 2).messages)
    assert inbox.head() is None
    inbox.put(page(2, 3).messages)
    assert inbox.head() == page(3).messages[0]
    assert (inbox.cursor, inbox.unacked) == (3, None)


@pytest.mark.parametrize("leave", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_a_loop_that_is_left_acks_what_came_before(
    site: Site, monkeypatch: pytest.MonkeyPatch, leave: type[BaseException]
) -> None:
    acking_after(monkeypatch, 60)
    with user(site.endpoint, "ann", watch=WatchMode.OFF):
        fill(site, 3)
    with contextlib.suppress(leave), again(site.endpoint, "ann") as ann:
        for message in ann.messages(5):
            if message.body == "m3":
                raise leave
    with again(site.endpoint, "ann", watch=WatchMode.OFF) as ann:
        assert ann.status().position == 2


def test_one_loop_at_a_time(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        fill(site, 1)
        loop = ann.messages(5)
        next(loop)
        with pytest.raises(ClientBusy):
            next(ann.messages(5))
        loop.close()
        assert next(ann.messages(5)).body == "m1"


def test_a_message_wakes_the_loop(site: Site) -> None:
    with user(site.endpoint, "ann") as ann, user(site.endpoint, "cat") as cat:
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.extend(bodies(islice(ann.messages(5), 1))))
        thread.start()
        inbox = inbox_of(ann)
        wait_until(lambda: inbox._ended._wakes, "the loop waits")
        cat.send("ann", "wake up")
        join(thread)
        assert got == ["wake up"]


def test_logging_out_ends_the_loop_and_acks_what_is_dealt_with(site: Site) -> None:
    with user(site.endpoint, "ann") as ann:
        fill(site, 3)
        loop = ann.messages()
        assert bodies(islice(loop, 3)) == ["m1", "m2", "m3"]
        ann.logout()
        assert next(loop, None) is None
        assert not watchers()
        ann.login("ann", PASSWORD)
        assert receive(ann, 1) == ["m3"]


def test_a_slow_consumer_holds_no_more_than_is_set(site: Site) -> None:
    with user(site.endpoint, "ann", settings=fast(batch=4, window=4)) as ann:
        fill(site, 10)
        inbox = inbox_of(ann)
        wait_until(lambda: not inbox.is_empty(), "the first batch")
        loop = ann.messages(5)
        held = 0
        got = []
        for message in islice(loop, 10):
            got.append(message.body)
            held = max(held, len(inbox._pending))
        assert held <= 4
        assert got == [f"m{number}" for number in range(1, 11)]


def test_a_slow_consumers_progress_is_acked_and_its_connection_kept_alive(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    acking_after(monkeypatch, 0.02)
    pinged = threading.Event()
    ping = site.service.ping
    site.service.ping = lambda session: (pinged.set(), ping(session))[1]
    with user(site.endpoint, "ann", settings=fast(wait_seconds=0.05, window=3)) as ann:
        fill(site, 3)
        loop = ann.messages(5)
        assert bodies(islice(loop, 2)) == ["m1", "m2"]
        wait_until(lambda: ann.status().position == 1, "the ack of the first")
        wait_event(pinged, "a ping while the consumer does nothing")
        assert next(loop).body == "m3"
        wait_until(lambda: ann.status().position == 2, "the ack of the second")


# -- on_message -----------------------------------------------------------------------------


@MODES
def test_the_callback_gets_all_in_order_and_acks(site: Site, watch: WatchMode) -> None:
    received = Received()
    with user(site.endpoint, "ann", on_message=received, watch=watch) as ann:
        fill(site, 5)
        assert received.wait(5) == ["m1", "m2", "m3", "m4", "m5"]
        wait_until(lambda: ann.status().unread == 0, "the ack")
        with pytest.raises(ClientBusy):
            next(ann.messages())


def test_a_handler_that_raises_loses_nothing_and_keeps_the_order(site: Site) -> None:
    attempts: list[str] = []
    failures: list[tuple[str, str]] = []
    positions: list[int] = []

    def on_message(message: Message) -> None:
        attempts.append(message.body)
        if attempts.count(message.body) < 3 and message.body == "m2":
            positions.append(ann.status().position)
            raise ValueError(f"no {message.body}")

    def on_handler_error(message: Message, error: Exception) -> None:
        failures.append((message.body, str(error)))
        if len(failures) == 1:
            raise RuntimeError("this one raises too")

    with user(
        site.endpoint, "ann", on_message=on_message, on_handler_error=on_handler_error
    ) as ann:
        fill(site, 3)
        wait_until(lambda: ann.status().unread == 0, "all acked")
    assert attempts == ["m1", "m2", "m2", "m2", "m3"]
    assert failures == [("m2", "no m2")] * 2
    assert max(positions) < 2


def test_a_handler_that_ends_the_watch_loses_no_ack_of_those_before_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(BaseException):
        pass

    acking_after(monkeypatch, 60)
    caught = failures(monkeypatch)
    seen = States()

    def on_message(message: Message) -> None:
        if message.body == "m3":
            raise Enough

    with user(site.endpoint, "ann", watch=WatchMode.OFF):
        fill(site, 3)
    with again(site.endpoint, "ann", on_message=on_message, on_state=seen) as ann:
        assert "Enough" in str(seen.wait(StateKind.LOGGED_OUT, 2))
        wait_until(lambda: not watchers(), "the watcher ends")
    with again(site.endpoint, "ann", watch=WatchMode.OFF) as ann:
        assert ann.status().position == 2
    assert [type(error) for error in caught] == [Enough]


def test_a_handlers_error_is_logged_without_the_text(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def on_message(_: Message) -> None:
        if not failed.is_set():
            failed.set()
            raise ValueError("no")

    with user(site.endpoint, "ann", on_message=on_message) as ann:
        fill(site, 1)
        wait_until(lambda: ann.status().unread == 0, "acked at the second attempt")
    assert "which will come again" in caplog.text
    assert "m1" not in caplog.text.replace("m1's", "")


@blocking_only
def test_a_failing_handlers_connection_is_kept_alive(site: Site) -> None:
    pinged = threading.Event()
    ping = site.service.ping
    site.service.ping = lambda session: (pinged.set(), ping(session))[1]
    settings = fast(wait_seconds=0.02, backoff_first=5, backoff_max=5)

    def on_message(_: Message) -> None:
        raise ValueError("never")

    with user(
        site.endpoint,
        "ann",
        on_message=on_message,
        on_handler_error=lambda *_: None,
        settings=settings,
    ):
        fill(site, 1)
        wait_event(pinged, "a ping in the pause")


def test_a_slow_handlers_progress_is_acked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    acking_after(monkeypatch, 0.0)
    go_on = threading.Event()

    def on_message(message: Message) -> None:
        if message.body == "m3":
            go_on.wait(5)

    with user(site.endpoint, "ann") as ann:
        fill(site, 3)
    with again(site.endpoint, "ann", on_message=on_message) as ann:
        wait_until(lambda: ann.status().position == 2, "the ack of two of three")
        go_on.set()
        wait_until(lambda: ann.status().position == 3, "the ack of all")


def test_a_handler_may_send(site: Site) -> None:
    with user(site.endpoint, "cat") as cat:

        def on_message(message: Message) -> None:
            ann.send("cat", f"you said {message.body}")

        with user(site.endpoint, "ann", on_message=on_message) as ann:
            cat.send("ann", "hello")
            assert bodies(islice(cat.messages(5), 1)) == ["you said hello"]


def test_a_handler_may_close_and_its_message_is_acked(site: Site) -> None:
    closed = threading.Event()

    def on_message(_: Message) -> None:
        ann.close()
        closed.set()

    with user(site.endpoint, "ann") as ann:
        pass
    fill(site, 2)
    with make_client(site.endpoint, settings=FAST, on_message=on_message) as ann:
        ann.login("ann", PASSWORD)
        wait_event(closed, "the handler closes")
        wait_until(lambda: not watchers(), "the watcher ends")
    with again(site.endpoint, "ann") as ann:
        assert receive(ann, 1) == ["m2"]


def test_a_handler_may_log_out_and_its_message_stays(site: Site) -> None:
    with user(site.endpoint, "ann"):
        pass
    fill(site, 1)
    out = threading.Event()

    def on_message(_: Message) -> None:
        if not out.is_set():
            ann.logout()
            out.set()

    with make_client(site.endpoint, settings=FAST, on_message=on_message) as ann:
        ann.login("ann", PASSWORD)
        wait_event(out, "the handler logs out")
        ann.login("ann", PASSWORD)
        wait_until(lambda: ann.status().unread == 0, "it came again, and was acked")


def test_handlers_of_two_sessions_do_not_run_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher_module, "FLUSH_SECONDS", 0.02)
    with user(site.endpoint, "ann"):
        pass
    fill(site, 1)
    begun = threading.Event()
    second = threading.Event()
    go_on = threading.Event()
    running: list[str] = []
    most: list[int] = []

    def on_message(message: Message) -> None:
        running.append(message.body)
        most.append(len(running))
        (second if begun.is_set() else begun).set()
        go_on.wait(5)
        running.remove(message.body)

    with make_client(site.endpoint, settings=FAST, on_message=on_message) as ann:
        ann.login("ann", PASSWORD)
        wait_event(begun, "the handler")
        ann.logout()  # does not wait for ever for a handler that does not return
        ann.login("ann", PASSWORD)
        assert len(watchers()) == 2
        assert not second.wait(0.1)
        go_on.set()
        wait_until(lambda: ann.status().unread == 0, "it came again, and was acked")
    assert most == [1, 1]


def test_a_handler_that_is_refused_to_delete_the_account_goes_on(site: Site) -> None:
    with user(site.endpoint, "ann"):
        pass
    fill(site, 2)
    refused: list[Exception] = []

    def on_message(_: Message) -> None:
        try:
            ann.delete_account(PASSWORD)
        except errors.UndeliveredMessages as error:
            refused.append(error)

    with make_client(site.endpoint, settings=FAST, on_message=on_message) as ann:
        ann.login("ann", PASSWORD)
        wait_until(lambda: ann.status().unread == 0, "all acked")
    assert len(refused) == 2


# -- a server that refuses ------------------------------------------------------------------


def refusal(kind: type[errors.RequestError]) -> ErrorReply:
    return kind(retry_after_ms=20).to_reply()


@pytest.mark.parametrize(
    "kind", [errors.RateLimited, errors.Busy, errors.StoreUnavailable, errors.InternalError]
)
def test_a_refused_watch_is_asked_again_after_a_while_on_the_same_connection(kind) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [refusal(kind), refusal(kind), page(1)]
        with make_client(server.endpoint, settings=FAST) as client:
            begin = time.monotonic()
            client.resume("token")
            assert bodies(islice(client.messages(5), 1)) == ["m1"]
            assert time.monotonic() - begin >= 0.06
            assert client.state.kind is StateKind.ONLINE
        assert server.connections == 2


def test_a_mailbox_that_was_put_back_is_read_from_its_position() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        go_on = threading.Event()

        def put_back() -> ErrorReply:
            wait_event(go_on, "the message is handed over")
            return refusal(errors.CursorInvalid)

        mailbox.watches = [page(7, position=0), put_back]
        mailbox.always = page(1)
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            loop = client.messages(5)
            assert next(loop).body == "m7"
            go_on.set()
            assert next(loop).body == "m1"
        found = [each for each in server.requests if isinstance(each, Watch) and not each.after]
        assert len(found) >= 2
        assert {request.ack for request in found} == {None}


def test_a_mailbox_whose_position_is_not_known_is_tried_again() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [refusal(errors.CursorInvalid), page(1)]
        script = server.script
        server.script = lambda request: (
            refusal(errors.Busy) if isinstance(request, Status) else script(request)
        )
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            assert bodies(islice(client.messages(5), 1)) == ["m1"]


def test_a_watch_whose_session_is_over_logs_out() -> None:
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [refusal(errors.SessionExpired)]
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.resume("token")
            assert "session has ended" in str(seen.wait(StateKind.LOGGED_OUT, 2))
            wait_until(lambda: not watchers(), "the watcher ends")


def test_what_another_session_has_acked_is_not_acked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acking_after(monkeypatch, 0.0)
    received = Received()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(1, 2, 3, position=9)]
        with make_client(server.endpoint, settings=FAST, on_message=received) as client:
            client.resume("token")
            received.wait(3)
            wait_until(lambda: server.asked(Watch) == 2, "the next watch")
        assert not server.asked(Ack)


@pytest.mark.parametrize(
    "answer", [errors.StoreUnavailable().to_reply(), b"", AckReply(position=1, unread=0)]
)
def test_a_last_ack_that_is_refused_is_the_end_all_the_same(answer) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(1, 2)]
        mailbox.acks = [answer]
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            loop = client.messages(5)
            next(loop)
            next(loop)
        assert 1 <= server.asked(Ack) <= 2  # the second on the command connection


def test_a_draining_server_is_left_and_tried_again() -> None:
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(), refusal(errors.ShuttingDown), page(1)]
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.resume("token")
            assert bodies(islice(client.messages(5), 1)) == ["m1"]
            assert client.state.kind is StateKind.ONLINE
        assert server.connections == 3
    assert StateKind.RECONNECTING in seen.kinds


@blocking_only
def test_an_ack_that_is_refused_is_given_again_without_haste(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acking_after(monkeypatch, 0.05)
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(1, 2, 3)]
        mailbox.acks = [refusal(errors.StoreUnavailable), AckReply(position=1, unread=2)]
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            loop = client.messages(5)
            begin = time.monotonic()
            next(loop)
            next(loop)
            wait_until(lambda: server.asked(Ack) == 2, "two acks")
            assert time.monotonic() - begin >= 0.1


def test_what_was_seen_is_not_handed_over_again() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(1, 2), page(2, 3), page(3)]
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            assert receive(client, 3) == ["m1", "m2", "m3"]


def test_the_client_asks_for_no_more_than_the_server_allows() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        small = HELLO.limits.model_copy(update={"page": 7, "wait_seconds": 3})
        server.script = lambda request: (
            HELLO.model_copy(update={"limits": small})
            if isinstance(request, Hello)
            else mailbox(request)
        )
        mailbox.watches = [page()]
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            wait_until(lambda: server.asked(Watch) == 2, "a watch that waits")
        asked = [request for request in server.requests if isinstance(request, Watch)]
        assert [(request.limit, request.wait) for request in asked] == [(7, 0), (7, 3)]


def test_a_bug_in_the_watcher_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    caught = failures(monkeypatch)
    seen = States()
    with ScriptedServer() as server:
        Mailbox(server)
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            for kind in (PagingWatcher, StreamingWatcher):
                monkeypatch.setattr(kind, "_round", lambda _: (_ for _ in ()).throw(KeyError(1)))
            client.resume("token")
            state = seen.wait(StateKind.LOGGED_OUT, 2)
            assert "the watcher has failed" in str(state)
    assert [type(error) for error in caught] == [KeyError]
