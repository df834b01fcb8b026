"""The client engine on a stream: what goes over the wire, races, and a connection that breaks."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from client_kit import (
    FAST,
    Received,
    States,
    acking_after,
    again,
    fast,
    inbox_of,
    make_client,
    receive,
    threads_only,
    user,
    watcher_of,
    watchers,
    watches,
)
from fault_proxy import Fault, FaultProxy, Route
from scripted_mailbox import Mailbox, page, reply_to
from servers import Answer, ScriptedServer, Site
from waiting import Call, wait_event, wait_until

from twinline.core import errors
from twinline.core.protocol import Ack, Message, Watch, WatchReply
from twinline.transports import wakeup
from twinline.transports.client import Client, StateKind, WatchMode
from twinline.transports.client.engine import stream

pytestmark = pytest.mark.usefixtures("both_clients")

OFF = WatchMode.OFF
LOOK = page()


def watch_requests(server: ScriptedServer) -> list[Watch]:
    """Return the watches that have a window."""
    asked = list(server.requests)
    return [request for request in asked if isinstance(request, Watch) and request.window]


def under_way(client: Client) -> int:
    """Return how many watches of a client have not had their last reply."""
    connection = watcher_of(client)._connection
    return 0 if connection is None else len(connection.under_way)


def heartbeat(client: Client, seq: int) -> None:
    """Wait until the stream has ended by its time, once all up to a seq has come and is acked."""
    watcher = watcher_of(client)
    wait_until(lambda: watches(client), "the stream")
    wait_until(lambda: watcher._stream._said == seq, "the ack of the last")
    asked = watcher._connection._last_id
    wait_until(lambda: watcher._connection._last_id > asked, "the next watch")


class Tap:
    """What has come from a server, of each connection through a proxy."""

    def __init__(self, proxy: FaultProxy) -> None:
        self.taken: list[bytearray] = []
        proxy.on_route = self._record

    def _record(self, route: Route) -> None:
        taken, passing = bytearray(), route.down._pass
        self.taken.append(taken)

        def record(data: bytes) -> bool:
            taken.extend(data)
            return passing(data)

        route.down._pass = record

    def seqs(self) -> list[list[int]]:
        """Return the seqs of all messages that have come, for each connection that had any."""
        found = []
        for taken in self.taken:
            replies = [json.loads(line) for line in bytes(taken).splitlines()]
            found.append([each["seq"] for reply in replies for each in reply.get("messages", ())])
        return [seqs for seqs in found if seqs]


# -- duplicates -------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3, 256])
@pytest.mark.parametrize("handler", [True, False], ids=["on_message", "messages"])
def test_a_stream_brings_each_message_once_on_the_wire(
    site: Site, proxy: FaultProxy, window: int, handler: bool
) -> None:
    """Renewals cross mail that is under way, the stream's end by its window, and by its time."""
    count = 400
    received = Received()
    tap = Tap(proxy)
    settings = fast(window=window, wait_seconds=1, batch=7)
    on_message = received if handler else None
    with (
        user(site.endpoint, "bob", watch=OFF) as bob,
        user(proxy.endpoint, "ann", settings=settings, on_message=on_message) as ann,
    ):

        def send() -> None:
            for number in range(count):
                bob.send("ann", f"m{number}")
                if number in (count // 3, count // 2):
                    heartbeat(ann, number + 1)

        sending = Call(send)
        got = received.wait(count) if handler else receive(ann, count)
        sending.outcome()
        assert got == [f"m{number}" for number in range(count)]
        wait_until(lambda: ann.status().unread == 0, "the ack of the last")
    assert tap.seqs() == [list(range(1, count + 1))]


def test_a_connection_that_breaks_in_mid_stream_hands_nothing_over_twice(
    site: Site, proxy: FaultProxy
) -> None:
    count = 300
    received = Received()
    with (
        user(site.endpoint, "bob", watch=OFF) as bob,
        user(proxy.endpoint, "ann", settings=fast(window=8), on_message=received) as ann,
    ):

        def send() -> None:
            for number in range(count):
                bob.send("ann", f"m{number}")
                if number % 60 == 30:
                    proxy.cut(reset=number % 120 == 30)

        sending = Call(send)
        assert received.wait(count) == [f"m{number}" for number in range(count)]
        sending.outcome()
        wait_until(lambda: ann.status().unread == 0, "the ack of the last")
        assert len(received.bodies) == count


def test_what_came_and_was_not_acked_when_the_connection_broke_is_acked_on_the_next(
    site: Site, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    acking_after(monkeypatch, 60)
    with user(site.endpoint, "bob", watch=OFF) as bob, user(proxy.endpoint, "ann") as ann:
        wait_until(lambda: watches(ann), "the stream")
        for body in ("one", "two", "three"):
            bob.send("ann", body)
        loop = ann.messages(5)
        assert [next(loop).body, next(loop).body] == ["one", "two"]
        proxy.routes[1].cut()
        assert next(loop).body == "three"
        wait_until(lambda: ann.status().position >= 2, "the ack, with the first look")
        loop.close()
        assert receive(ann, 1) == ["three"]


def test_a_handler_that_raises_gets_that_message_again_and_no_other(
    site: Site, proxy: FaultProxy
) -> None:
    attempts: Counter[str] = Counter()
    acked_meanwhile: list[int] = []
    tap = Tap(proxy)
    acked = threading.Event()

    def on_message(message: Message) -> None:
        attempts[message.body] += 1
        if message.body == "m2" and attempts["m2"] < 4:
            raise ValueError("not now")

    with (
        user(site.endpoint, "bob", watch=OFF) as bob,
        user(
            proxy.endpoint,
            "ann",
            on_message=on_message,
            on_handler_error=lambda *_: None,
            settings=fast(backoff_first=0.2, backoff_max=0.2),
        ) as ann,
    ):
        for number in range(5):
            bob.send("ann", f"m{number}")
        wait_until(lambda: attempts["m2"] == 2, "the second attempt")
        acked_meanwhile.append(ann.status().position)
        wait_until(lambda: ann.status().unread == 0, "all acked")
        acked.set()
    assert acked_meanwhile == [2]
    assert attempts == {"m0": 1, "m1": 1, "m2": 4, "m3": 1, "m4": 1}
    assert tap.seqs() == [[1, 2, 3, 4, 5]]


# -- renewals ---------------------------------------------------------------------------------


def test_a_renewal_carries_the_ack_and_goes_on_behind_what_is_under_way() -> None:
    received = Received()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [
            LOOK,
            page(1, more=True),
            iter([reply_to(4, page()), page(2, position=1, more=True)]),
            iter([reply_to(5, page(position=1)), page(3, position=2, more=True)]),
        ]
        with make_client(server.endpoint, settings=FAST, on_message=received) as client:
            client.resume("token")
            assert received.wait(3) == ["m1", "m2", "m3"]
            wait_until(lambda: len(watch_requests(server)) == 4, "the last renewal")
        asked = [(each.after, each.ack, each.renew) for each in watch_requests(server)]
        assert asked == [(0, None, False), (1, 1, True), (2, 2, True), (3, 3, True)]
        assert {each.window for each in watch_requests(server)} == {256}
        assert server.connections == 2


def test_a_renewal_that_crosses_the_streams_end_by_its_time_says_renew() -> None:
    received = Received()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)

        def ends_late() -> Iterator[WatchReply]:
            yield page(1, more=True)
            wait_until(lambda: under_way(client) == 2, "the renewal, which nobody has read yet")
            yield page()

        mailbox.watches = [LOOK, ends_late, page(2, position=1, more=True)]
        with make_client(server.endpoint, settings=FAST, on_message=received) as client:
            client.resume("token")
            assert received.wait(2) == ["m1", "m2"]
            assert watch_requests(server)[1].renew
        assert server.connections == 2


def test_what_an_ack_under_way_has_said_is_not_said_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acking_after(monkeypatch, 60)
    received = Received()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)

        def crosses() -> Iterator[Answer]:
            yield reply_to(4, page(2, more=True))  # was under way; says nothing of the ack
            received.wait(2)
            yield reply_to(4, page())
            yield page(3, position=1, more=True)

        mailbox.watches = [LOOK, page(1, more=True), crosses]
        with make_client(server.endpoint, settings=FAST, on_message=received) as client:
            client.resume("token")
            received.wait(3)
            wait_until(lambda: len(watch_requests(server)) == 3, "the next ack")
        assert [each.ack for each in watch_requests(server)] == [None, 1, 3]


def test_an_exchange_on_an_open_stream_loses_none_of_its_messages() -> None:
    """With a page of long bodies held there is no room: the ack goes on its own."""
    long = [each.model_copy(update={"body": "x" * 16_000}) for each in page(1, 2, 3, 4).messages]
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        script = server.script

        def late(request: object) -> Answer:
            if not isinstance(request, Ack):
                return script(request)
            return iter([reply_to(4, page(5, more=True)), reply_to(4, page(6)), script(request)])

        server.script = late
        mailbox.watches = [
            LOOK,
            WatchReply(messages=long, position=0, seen=long[-1].seq, more=True),
        ]
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            loop = client.messages(5)
            assert [next(loop).seq for _ in range(2)] == [1, 2]
            wait_until(lambda: server.asked(Ack), "the ack")
            assert [next(loop).seq for _ in range(4)] == [3, 4, 5, 6]
        assert server.connections == 2


def test_a_slow_application_is_told_apart_from_a_server_that_is_gone(
    site: Site, proxy: FaultProxy
) -> None:
    """Its window is full, so nothing is under way; the end of the connection is seen at once."""
    seen = States()
    settings = fast(window=1, wait_seconds=20)
    with (
        user(site.endpoint, "bob", watch=OFF) as bob,
        user(proxy.endpoint, "ann", settings=settings, on_state=seen) as ann,
    ):
        for body in ("one", "two"):
            bob.send("ann", body)
        loop = ann.messages(5)
        assert next(loop).body == "one"
        wait_until(lambda: not under_way(ann), "the window is used up")
        assert inbox_of(ann).progress.held == 1
        proxy.wait_routes(2).cut()
        seen.wait(StateKind.RECONNECTING)
        seen.wait(StateKind.ONLINE, 2)
        assert next(loop).body == "two"


def test_an_application_that_has_dealt_with_all_is_acked_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but its nudge ends the watcher's wait here."""
    acking_after(monkeypatch, 60)
    monkeypatch.setattr(stream, "LOOK_SECONDS", 60)
    with user(site.endpoint, "bob", watch=OFF) as bob, user(site.endpoint, "ann") as ann:
        for number in range(1, 4):
            bob.send("ann", f"m{number}")
            assert receive(ann, 1) == [f"m{number}"]
            wait_until(lambda n=number: ann.status().position == n, "the ack", seconds=5)


@threads_only
def test_an_application_nudges_the_watcher_now_and_then(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never once a message: that would be a system call and a switch of threads for each."""
    count = 2000
    with user(site.endpoint, "ann", watch=OFF), user(site.endpoint, "bob", watch=OFF) as bob:
        for number in range(count):
            bob.send("ann", f"m{number}")
    nudges: list[float] = []
    wake = wakeup.WakeDescriptor.wake

    def counted(descriptor: wakeup.WakeDescriptor) -> None:
        if threading.current_thread() is threading.main_thread():
            nudges.append(time.monotonic())
        wake(descriptor)

    monkeypatch.setattr(wakeup.WakeDescriptor, "wake", counted)
    with again(site.endpoint, "ann") as ann:
        assert len(receive(ann, count)) == count
    assert len(nudges) < count / 8


# -- errors and ends --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "reason"),
    [
        ([page(1, more=True)], "others follow"),
        ([LOOK, page(more=True)], "others follow"),
        ([LOOK, page(1, 2, 3, more=True)], "more messages than there was room for"),
        ([LOOK, page(2, 1, more=True)], "do not rise"),
    ],
    ids=["more without a window", "more without messages", "beyond the window", "not rising"],
)
def test_a_stream_that_cannot_be_is_not_trusted(replies: list[Answer], reason: str) -> None:
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = list(replies)
        with make_client(server.endpoint, settings=fast(window=2), on_state=seen) as client:
            client.resume("token")
            seen.wait(StateKind.RECONNECTING)
            reasons = [str(state.reason) for state in seen.seen]
            assert any(reason in each for each in reasons), reasons
            assert inbox_of(client).is_empty()


def test_a_window_is_used_up_by_all_replies_together() -> None:
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [LOOK, iter([page(1, more=True), page(2, more=True), page(3, more=True)])]
        with make_client(server.endpoint, settings=fast(window=2), on_state=seen) as client:
            client.resume("token")
            seen.wait(StateKind.RECONNECTING)
            assert inbox_of(client).cursor <= 2


def test_a_draining_servers_pause_is_kept() -> None:
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [
            LOOK,
            iter([page(1, more=True), errors.ShuttingDown(retry_after_ms=300).to_reply()]),
        ]
        mailbox.always = page(2)
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.resume("token")
            begin = time.monotonic()
            assert receive(client, 2) == ["m1", "m2"]
            assert time.monotonic() - begin >= 0.25
        assert 0.3 in [state.retry_in for state in seen.seen]


def test_of_a_mailbox_that_was_put_back_nothing_is_passed_over() -> None:
    """What comes to a watch that began where the mailbox was before is beyond what is missed."""
    received = Received()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)

        def late() -> Iterator[Answer]:
            wait_until(lambda: under_way(client) == 2, "the watch that acks it")
            yield errors.CursorInvalid().to_reply()

        mailbox.watches = [page(7), late, page(9)]
        mailbox.always = page(1)
        with make_client(server.endpoint, settings=FAST, on_message=received) as client:
            client.resume("token")
            assert received.wait(2) == ["m7", "m1"]
            wait_until(
                lambda: any(request.ack == 1 for request in watch_requests(server)),
                "the ack of the second",
            )


@pytest.mark.parametrize("kind", [errors.SessionExpired, errors.NotLoggedIn])
def test_a_session_that_ends_in_mid_stream_logs_out(kind: type[errors.RequestError]) -> None:
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [LOOK, iter([page(1, more=True), kind().to_reply()])]
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.resume("token")
            seen.wait(StateKind.LOGGED_OUT, 2)
            wait_until(lambda: not watchers(), "the watcher ends")


@pytest.mark.parametrize("kind", [errors.Busy, errors.RateLimited, errors.StoreUnavailable])
def test_a_stream_that_is_refused_goes_on_after_a_while(kind: type[errors.RequestError]) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        refusal = kind(retry_after_ms=100).to_reply()
        mailbox.watches = [LOOK, iter([page(1, more=True), refusal]), page(2, more=True)]
        with make_client(server.endpoint, settings=FAST) as client:
            client.resume("token")
            begin = time.monotonic()
            assert receive(client, 2) == ["m1", "m2"]
            assert time.monotonic() - begin >= 0.1
        assert server.connections == 2


def test_a_server_that_falls_silent_in_mid_stream_is_left() -> None:
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [LOOK, page(1, more=True), None, page(2)]
        settings = fast(wait_seconds=1, reply_seconds=1)
        with make_client(server.endpoint, settings=settings, on_state=seen) as client:
            client.resume("token")
            begin = time.monotonic()
            assert receive(client, 2) == ["m1", "m2"]
            assert time.monotonic() - begin >= 1.9
        assert "the server did not answer in time" in [state.reason for state in seen.seen]


def test_a_handler_that_takes_longer_than_a_silent_server_may_finds_the_mail_that_came(
    site: Site,
) -> None:
    seen = States()
    received = Received()
    first = threading.Event()

    def on_message(message: Message) -> None:
        received(message)
        if not first.is_set():
            first.set()
            time.sleep(2.5)  # beyond the watch's time and a reply's

    settings = fast(wait_seconds=1, reply_seconds=1)
    with (
        user(site.endpoint, "bob", watch=OFF) as bob,
        user(site.endpoint, "ann", settings=settings, on_message=on_message, on_state=seen) as ann,
    ):
        bob.send("ann", "one")
        wait_event(first, "the handler")
        bob.send("ann", "two")
        assert received.wait(2) == ["one", "two"]
        wait_until(lambda: ann.status().unread == 0, "the ack")
        assert StateKind.RECONNECTING not in seen.kinds


def test_close_awaits_an_ack_that_is_under_way(site: Site, proxy: FaultProxy) -> None:
    """The renewal that carries it is held up on its way, and so is the last ack behind it."""
    received = Received()
    with user(site.endpoint, "bob", watch=OFF) as bob, user(site.endpoint, "ann", watch=OFF):
        with again(proxy.endpoint, "ann", on_message=received) as ann:
            wait_until(lambda: watches(ann), "the stream")
            proxy.wait_routes(2).up.fault = Fault(delay=0.2)
            bob.send("ann", "one")
            received.wait(1)
            wait_until(lambda: under_way(ann) == 2, "the ack is under way")
        with again(site.endpoint, "ann", watch=OFF) as ann:
            assert ann.status().unread == 0


def test_logging_out_of_an_open_stream_acks_what_is_dealt_with(site: Site) -> None:
    with user(site.endpoint, "bob", watch=OFF) as bob, user(site.endpoint, "ann") as ann:
        wait_until(lambda: watches(ann), "the stream")
        for body in ("one", "two"):
            bob.send("ann", body)
        loop = ann.messages(5)
        assert [next(loop).body, next(loop).body] == ["one", "two"]
        ann.logout()
        assert not watchers()
    with again(site.endpoint, "ann") as ann:
        assert receive(ann, 1) == ["two"]


@threads_only
def test_without_descriptors_for_a_wake_it_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = States()
    tries = iter([True, True, False])
    opened = wakeup.WakeDescriptor.open

    def fail(descriptor: wakeup.WakeDescriptor) -> None:
        if threading.current_thread() in watchers() and next(tries, False):
            raise OSError(24, "Too many open files")
        opened(descriptor)

    monkeypatch.setattr(wakeup.WakeDescriptor, "open", fail)
    with user(site.endpoint, "ann", on_state=seen) as ann:
        seen.wait(StateKind.RECONNECTING, 2)
        assert "Too many open files" in str(seen.wait(StateKind.RECONNECTING))
        ann.send("ann", "one")
        assert receive(ann, 1) == ["one"]
