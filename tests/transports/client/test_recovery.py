"""The client engine when the server is late, dies, comes back, or never answers."""

import socket
import threading
import time
from itertools import islice, pairwise
from typing import Any

import pytest
from client_kit import (
    FAST,
    MODES,
    Received,
    States,
    again,
    fast,
    inbox_of,
    make_client,
    queued,
    receive,
    user,
    watcher_of,
    watchers,
)
from fault_proxy import Fault, FaultProxy, Route
from listening import socket_path
from servers import HANG_UP, HELLO, SILENCE, ScriptedServer, Site, silent_endpoint
from services import PASSWORD
from waiting import Call, join, wait_event, wait_until

from twinline.core import errors
from twinline.core.protocol import (
    Done,
    ErrorReply,
    Hello,
    Login,
    Message,
    Ping,
    Resume,
    Send,
    SentReply,
    SessionReply,
    Watch,
    WatchReply,
)
from twinline.core.session import Session
from twinline.transports.client import (
    ClientClosed,
    ConnectionLost,
    NotConnected,
    StateKind,
    TimedOut,
    WatchMode,
)
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener.binding import listen

ONLINE = StateKind.ONLINE
RECONNECTING = StateKind.RECONNECTING
LOGGED_OUT = StateKind.LOGGED_OUT
CONNECTING = StateKind.CONNECTING


pytestmark = pytest.mark.usefixtures("both_clients")


def bodies(messages) -> list[str]:
    return [message.body for message in messages]


def free_endpoint() -> Endpoint:
    """Return an endpoint at which no server listens."""
    bound = listen(Endpoint.parse("tcp://127.0.0.1:0"))
    bound.close()
    return bound.endpoint


# -- not there yet --------------------------------------------------------------------------


def test_connect_waits_for_a_server_that_is_late() -> None:
    seen = States()
    with socket_path() as path, make_client(f"unix:{path}", settings=FAST, on_state=seen) as client:
        hellos: list[object] = []
        thread = threading.Thread(target=lambda: hellos.append(client.connect()))
        thread.start()
        seen.wait(CONNECTING, 3)
        with Site(f"unix:{path}"):
            join(thread)
            assert client.create_account("ann", PASSWORD).username == "ann"
            assert seen.kinds[-2:] == [LOGGED_OUT, ONLINE]
    assert len(hellos) == 1
    assert [state.retry_in for state in seen.seen[:3]] == [0.02, 0.04, 0.08]
    assert "No such file" in str(seen.seen[0])


def test_who_waits_for_an_attempt_can_have_it_now() -> None:
    seen = States()
    slow = fast(backoff_first=600, backoff_max=600, command_seconds=900)
    with socket_path() as path, make_client(f"unix:{path}", settings=slow, on_state=seen) as client:
        client.retry_now()  # nothing waits
        connecting = Call(client.connect)
        seen.wait(CONNECTING, 1)
        client.retry_now()
        seen.wait(CONNECTING, 3)  # what it waits for no more, and then the next wait
        with Site(f"unix:{path}"):
            client.retry_now()
            connecting.outcome()
    waits = [state.retry_in for state in seen.seen if state.kind is CONNECTING]
    assert waits[:4] == [600, None, 600, None]


def test_a_wait_that_the_server_has_asked_for_is_waited() -> None:
    seen = States()
    slow = fast(backoff_first=600, backoff_max=600, command_seconds=900)
    busy = ErrorReply(code="busy", message="later", retryable=True, retry_after_ms=300)
    answers = iter([busy, HELLO])
    with (
        ScriptedServer(lambda _: next(answers)) as server,
        make_client(server.endpoint, settings=slow, on_state=seen) as client,
    ):
        connecting = Call(client.connect)
        assert seen.wait(CONNECTING, 1).retry_in == 600
        begun = time.monotonic()
        client.retry_now()
        connecting.outcome()
        assert time.monotonic() - begun > 0.25
    assert server.connections == 2


def test_the_pace_of_attempts_is_that_of_the_backoff() -> None:
    attempts: list[float] = []
    seen = States()
    settings = fast(backoff_first=0.05, backoff_max=0.2)

    with ScriptedServer() as server:

        def script(_: object) -> bytes:
            attempts.append(time.monotonic())
            return HANG_UP

        server.script = script
        with (
            make_client(server.endpoint, settings=settings, on_state=seen) as client,
            pytest.raises(NotConnected),
        ):
            client.connect(0.6)
    assert [state.retry_in for state in seen.seen[:4]] == [0.05, 0.1, 0.2, 0.2]
    gaps = [after - before for before, after in pairwise(attempts)]
    for gap, least in zip(gaps, [0.05, 0.1, 0.2], strict=False):
        assert gap >= least


def test_connect_gives_up_in_time() -> None:
    begin = time.monotonic()
    with make_client(free_endpoint(), settings=FAST) as client:
        with pytest.raises(NotConnected, match="refused"):
            client.connect(0.1)
        with pytest.raises(NotConnected):
            client.connect(0)
        with make_client(client.endpoint) as other, pytest.raises(NotConnected):
            other.connect(0)
        assert client.state.kind is CONNECTING
    assert time.monotonic() - begin < 1


def test_a_server_that_accepts_and_never_answers_is_a_failed_attempt() -> None:
    seen = States()
    settings = fast(reply_seconds=0.05, command_seconds=0.4)
    with (
        silent_endpoint() as endpoint,
        make_client(endpoint, settings=settings, on_state=seen) as client,
    ):
        begin = time.monotonic()
        with pytest.raises(NotConnected, match="did not answer in time"):
            client.login("ann", PASSWORD)
        assert 0.4 <= time.monotonic() - begin < 1.5
    assert seen.kinds.count(CONNECTING) >= 3


def test_a_connection_that_takes_too_long_is_a_failed_attempt() -> None:
    """Nothing takes connections from a full queue."""
    bound = listen(Endpoint.parse("tcp://127.0.0.1:0"))
    bound.sockets[0].listen(0)
    fillers = []
    try:
        with make_client(bound.endpoint, settings=fast(connect_seconds=0.05)) as client:
            for _ in range(2):
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", bound.endpoint.port))
                fillers.append(filler)
            with pytest.raises(NotConnected, match="connecting took too long"):
                client.connect(0.3)
    finally:
        for filler in fillers:
            filler.close()
        bound.close()


def test_another_version_of_the_protocol_is_reported_at_once() -> None:
    with ScriptedServer() as server:
        server.script = lambda _: errors.UnsupportedVersion("speaks 7").to_reply()
        with make_client(server.endpoint, settings=FAST) as client:
            with pytest.raises(errors.UnsupportedVersion, match="speaks 7"):
                client.connect()
            with pytest.raises(errors.UnsupportedVersion):
                client.ping()
        assert server.connections == 2


def test_another_version_after_a_restart_ends_the_session() -> None:
    seen = States()
    with ScriptedServer() as server:
        replies = scripted_session(server)
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.resume("token")
            wait_until(lambda: server.asked(Watch) == 2, "a watch that waits")
            replies[Hello] = errors.UnsupportedVersion("speaks 7").to_reply()
            replies[Ping] = HANG_UP
            for peer in list(server._peers):
                peer.shutdown(2)
            assert "speaks 7" in str(seen.wait(LOGGED_OUT, 2))
            wait_until(lambda: not watchers(), "the watcher ends")


def test_a_server_that_is_busy_says_when_to_come_again() -> None:
    answers = [errors.Busy(retry_after_ms=100).to_reply(), HELLO]
    seen = States()
    with ScriptedServer() as server:
        server.script = lambda _: answers.pop(0)
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.connect(2)
    assert seen.seen[0].retry_in == 0.1


# -- dying and coming back ------------------------------------------------------------------


def scripted_session(server: ScriptedServer) -> dict[type, object]:
    """Have a server that knows one session; what it answers can be changed."""
    replies: dict[type, object] = {
        Hello: HELLO,
        Resume: SessionReply(username="ann", session="token", position=0, unread=0),
        Login: SessionReply(username="ann", session="token", position=0, unread=0),
        Ping: Done(),
        Send: SentReply(message_id="0" * 24, sent_at=1, n=1),
    }

    def script(request):
        if isinstance(request, Watch):
            return SILENCE if request.wait else WatchReply(messages=(), position=0, seen=0)
        return replies.get(type(request))

    server.script = script
    return replies


@MODES
def test_a_restart_with_the_store_kept_resumes_the_session(watch: WatchMode) -> None:
    seen = States()
    received = Received()
    with (
        Site() as site,
        user(site.endpoint, "ann", on_state=seen, on_message=received, watch=watch) as ann,
    ):
        token = ann.token
        site.stop()
        seen.wait(RECONNECTING, 4)
        site.start()
        seen.wait(ONLINE, 2)
        assert ann.token == token
        ann.send("ann", "still here")
        assert received.wait(1) == ["still here"]
    kinds = [kind for kind in seen.kinds if kind is not RECONNECTING]
    assert kinds == [LOGGED_OUT, ONLINE, ONLINE, StateKind.CLOSED]
    waits = [state.retry_in for state in seen.seen if state.kind is RECONNECTING]
    first, *others = [seconds for seconds in waits if seconds is not None]
    assert first in (0.02, 1.0)  # the second is what a server asks for that ends an open watch
    assert others[:2] == [0.04, 0.08]


def test_a_restart_with_the_store_lost_logs_out_and_says_so() -> None:
    seen = States()
    with Site() as site, user(site.endpoint, "ann", on_state=seen) as ann:
        loop = threading.Thread(target=lambda: list(ann.messages()))
        loop.start()
        site.stop(lose_store=True)
        seen.wait(RECONNECTING)
        site.start()
        state = seen.wait(LOGGED_OUT, 2)
        assert state.reason == "the session has ended; log in again"
        join(loop)
        wait_until(lambda: not watchers(), "the watcher ends")
        for call in (ann.status, lambda: ann.send("bob", "x"), ann.logout):
            with pytest.raises(errors.NotLoggedIn, match="the session has ended"):
                call()
        with pytest.raises(errors.NotLoggedIn, match="the session has ended"):
            next(ann.messages())
        assert ann.ping() < 1  # connected all the same
        ann.create_account("ann", PASSWORD)
        assert ann.state.kind is ONLINE
        assert ann.status().username == "ann"


def test_a_command_finds_out_too(site: Site) -> None:
    """Without a watch connection the command connection notices."""
    seen = States()
    with user(site.endpoint, "ann", on_state=seen, watch=WatchMode.OFF) as ann:
        site.stop()
        site.start()
        assert ann.status().username == "ann"
        site.stop(lose_store=True)
        site.start()
        with pytest.raises(errors.NotLoggedIn, match="the session has ended"):
            ann.status()
    assert seen.kinds == [LOGGED_OUT, ONLINE, LOGGED_OUT, StateKind.CLOSED]


@pytest.mark.parametrize("watch", [WatchMode.BLOCKING, WatchMode.OFF])
def test_without_resume_a_broken_connection_logs_out(site: Site, watch: WatchMode) -> None:
    seen = States()
    with (
        FaultProxy(site.endpoint) as proxy,
        user(proxy.endpoint, "ann", resume=False, on_state=seen, watch=watch) as ann,
    ):
        if watch is not WatchMode.OFF:
            proxy.wait_routes(2)
        proxy.cut()
        with pytest.raises(errors.NotLoggedIn, match="the connection was lost"):
            wait_until(lambda: ann.status() is None, "to be logged out")
        state = seen.wait(LOGGED_OUT, 2)
        assert "the connection was lost" in str(state)
        assert ann.token is None
        wait_until(lambda: not watchers(), "the watcher ends")
        ann.login("ann", PASSWORD)
        assert ann.status().username == "ann"
    assert RECONNECTING not in seen.kinds


@pytest.mark.parametrize("refusal", [errors.SessionExpired, errors.NotLoggedIn])
def test_a_refusal_for_want_of_a_session_ends_it(refusal) -> None:
    with ScriptedServer() as server:
        replies = scripted_session(server)
        with make_client(server.endpoint, settings=FAST, watch=WatchMode.OFF) as client:
            client.login("ann", PASSWORD)
            replies[Send] = refusal("it is over").to_reply()
            with pytest.raises(refusal):
                client.send("bob", "x")
            assert str(client.state) == "logged out: it is over"
            replies[Send] = SentReply(message_id="0" * 24, sent_at=1, n=1)
            with pytest.raises(errors.NotLoggedIn, match="log in again: it is over"):
                client.send("bob", "x")
            client.login("ann", PASSWORD)  # on another connection: the old one may be bound
            client.send("bob", "x")
            assert server.connections == 2


def test_without_resume_a_watch_connection_that_never_came_logs_out() -> None:
    seen = States()
    with ScriptedServer() as server:
        replies = scripted_session(server)
        replies[Resume] = HANG_UP
        with make_client(server.endpoint, settings=FAST, resume=False, on_state=seen) as client:
            client.login("ann", PASSWORD)
            seen.wait(LOGGED_OUT, 2)
            with pytest.raises(errors.NotLoggedIn):
                client.status()


@pytest.mark.parametrize(
    "refusal",
    [errors.ShuttingDown, errors.Busy, errors.StoreUnavailable, errors.InternalError],
)
def test_a_resume_that_is_refused_for_now_is_tried_again(refusal) -> None:
    seen = States()
    with ScriptedServer() as server:
        replies = scripted_session(server)
        kept = replies[Resume]
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.login("ann", PASSWORD)
            wait_until(lambda: server.asked(Watch) == 2, "a watch that waits")
            replies[Resume] = refusal().to_reply()
            for peer in list(server._peers):
                peer.shutdown(2)
            seen.wait(RECONNECTING, 3)
            replies[Resume] = kept
            seen.wait(ONLINE, 2)
            assert client.token == "token"
    assert LOGGED_OUT not in seen.kinds[1:]


def test_while_it_reconnects_no_command_is_sent(site: Site, proxy: FaultProxy) -> None:
    seen = States()
    settings = fast(command_seconds=1)
    with user(proxy.endpoint, "ann", on_state=seen, settings=settings) as ann:
        proxy.wait_routes(2)
        # The command connection is whole as far as it can tell; only the watch connection breaks.
        command, watch = proxy.routes
        proxy.up = proxy.down = Fault(blackhole=True)
        before = command.up.passed
        watch.cut()
        seen.wait(RECONNECTING)
        begin = time.monotonic()
        with pytest.raises(NotConnected, match="nothing was sent"):
            ann.send("ann", "not now")
        assert 1 <= time.monotonic() - begin < 3
        assert command.up.passed == before
        proxy.up = proxy.down = Fault()
        for route in proxy.routes:
            route.cut()
        seen.wait(ONLINE, 2)
        ann.send("ann", "now")
        assert receive(ann, 1) == ["now"]


def test_commands_that_wait_go_on_when_the_server_is_back(site: Site, proxy: FaultProxy) -> None:
    seen = States()
    with user(proxy.endpoint, "ann", on_state=seen) as ann:
        proxy.wait_routes(2)
        proxy.refuse()
        seen.wait(RECONNECTING)
        threads = [
            threading.Thread(target=ann.send, args=("ann", f"m{number}")) for number in range(6)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: queued(ann) == 5, "five behind the first")
        proxy.allow()
        for thread in threads:
            join(thread)
        assert sorted(receive(ann, 6)) == [f"m{number}" for number in range(6)]


def test_a_handler_may_send_while_the_connection_is_down(site: Site, proxy: FaultProxy) -> None:
    in_handler = threading.Event()
    sent = threading.Event()

    def on_message(message: Message) -> None:
        if message.body == "hello":
            in_handler.set()
            down.wait(5)
            ann.send("ann", "from the handler")
            sent.set()

    down = threading.Event()
    with user(proxy.endpoint, "ann", on_message=on_message) as ann:
        ann.send("ann", "hello")
        wait_event(in_handler, "the handler")
        proxy.refuse()
        down.set()
        proxy.allow()
        wait_event(sent, "the send from the handler")
        wait_until(lambda: ann.status().unread == 0, "both are dealt with")


def test_a_dead_peer_that_says_nothing_is_noticed(site: Site, proxy: FaultProxy) -> None:
    """A blackhole: no end, no reset, no answer."""
    seen = States()
    settings = fast(reply_seconds=0.4, wait_seconds=1, command_seconds=5)
    with user(proxy.endpoint, "ann", on_state=seen, settings=settings) as ann:
        proxy.wait_routes(2)
        for route in proxy.routes:
            route.up.fault = route.down.fault = Fault(blackhole=True)
        ann.send("ann", "through")  # its connection times out, and the next one is whole
        assert ann.status().unread == 1
        seen.wait(RECONNECTING)
        seen.wait(ONLINE, 2)
        assert receive(ann, 1) == ["through"]


def test_a_connection_that_breaks_each_time_is_not_hammered() -> None:
    with ScriptedServer() as server:
        replies = scripted_session(server)
        settings = fast(command_seconds=1, backoff_first=0.2, backoff_max=2)
        with make_client(server.endpoint, settings=settings, watch=WatchMode.OFF) as client:
            client.login("ann", PASSWORD)
            replies[Send] = HANG_UP
            with pytest.raises((ConnectionLost, TimedOut)) as lost:
                client.send("bob", "x")
            assert lost.value.send_id
            assert {send.send_id for send in server.requests if isinstance(send, Send)} == {
                lost.value.send_id
            }
            # At once, then after 0.2 s and 0.4 s; the next would be too late.
            assert server.asked(Send) <= 4
            assert client.state.kind is RECONNECTING


def test_a_watch_that_breaks_each_time_is_not_hammered() -> None:
    seen = States()
    with ScriptedServer() as server:
        scripted_session(server)
        script = server.script
        server.script = lambda request: HANG_UP if isinstance(request, Watch) else script(request)
        with make_client(server.endpoint, settings=FAST, on_state=seen) as client:
            client.login("ann", PASSWORD)
            seen.wait(RECONNECTING, 8)
    waits = [state.retry_in for state in seen.seen if state.retry_in is not None]
    assert waits[:4] == [0.02, 0.04, 0.08, 0.08]


def test_a_draining_server_is_waited_for() -> None:
    with ScriptedServer() as server:
        replies = scripted_session(server)
        with make_client(server.endpoint, settings=fast(command_seconds=1)) as client:
            client.login("ann", PASSWORD)
            kept, replies[Send] = replies[Send], errors.ShuttingDown().to_reply()
            # The time may be up between two attempts, or in the midst of one.
            with pytest.raises((errors.ShuttingDown, TimedOut)):
                client.send("bob", "x")
            assert server.asked(Send) > 1

            def recover(request):
                replies[Send] = kept
                return errors.ShuttingDown().to_reply()

            script = server.script
            server.script = lambda request: (
                recover(request)
                if isinstance(request, Send) and isinstance(replies[Send], ErrorReply)
                else script(request)
            )
            client.send("bob", "y")
            replies[Login] = errors.ShuttingDown().to_reply()
        with (
            make_client(server.endpoint, settings=FAST) as other,
            pytest.raises(errors.ShuttingDown),
        ):
            other.login("ann", PASSWORD)


def test_a_send_in_doubt_stays_in_doubt_when_the_server_then_refuses() -> None:
    with ScriptedServer() as server:
        replies = scripted_session(server)
        settings = fast(command_seconds=1)
        with make_client(server.endpoint, settings=settings, watch=WatchMode.OFF) as client:
            client.login("ann", PASSWORD)
            answers = [HANG_UP]
            script = server.script
            replies[Send] = errors.ShuttingDown().to_reply()
            server.script = lambda request: (
                answers.pop() if isinstance(request, Send) and answers else script(request)
            )
            with pytest.raises((ConnectionLost, TimedOut)) as lost:
                client.send("bob", "x")
            assert lost.value.send_id
            assert server.asked(Send) > 1


def test_the_watch_connection_heals_the_state_that_a_command_left() -> None:
    seen = States()
    with ScriptedServer() as server:
        replies = scripted_session(server)
        settings = fast(command_seconds=1)
        with make_client(
            server.endpoint, settings=settings, on_state=seen, watch=WatchMode.POLLING
        ) as client:
            client.login("ann", PASSWORD)
            seen.wait(ONLINE)
            replies[Send] = HANG_UP
            with pytest.raises((ConnectionLost, TimedOut)):
                client.send("bob", "x")
            seen.wait(RECONNECTING)
            wait_until(
                lambda: client.state.kind is ONLINE, "the watch connection says that it works"
            )


def test_an_idle_connection_that_was_reset_is_replaced_before_it_is_used(proxy: FaultProxy) -> None:
    with user(proxy.endpoint, "ann", watch=WatchMode.OFF) as ann:
        proxy.cut(reset=True)
        for way in (proxy.routes[0].up, proxy.routes[0].down):
            way.join()  # the reset is sent when no thread holds the socket any more
        ann.change_password(PASSWORD, "another secret")  # would be in doubt on a broken connection
        assert len(proxy.routes) == 2


def test_a_command_does_not_wait_for_others_for_ever() -> None:
    with ScriptedServer() as server, make_client(server.endpoint, settings=FAST) as client:

        def ping() -> None:
            with pytest.raises(ClientClosed):
                client.ping()

        thread = threading.Thread(target=ping)
        thread.start()
        wait_until(lambda: len(server.requests) == 2, "hello and a ping")
        with pytest.raises(NotConnected, match="other requests"):
            client.connect(0.05)
        client.close()
        join(thread)


# -- in flight when a connection breaks ----------------------------------------------------


@pytest.mark.parametrize("name", ["jsonl", "binary"])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("arrives", [False, True])
def test_a_send_that_is_cut_gives_one_message(
    site: Site, proxy: FaultProxy, name: str, reset: bool, arrives: bool
) -> None:
    with user(proxy.endpoint, "ann", transport=name, watch=WatchMode.OFF) as ann:
        route = proxy.routes[0]
        if arrives:  # the request goes through, the reply does not
            route.down.fault = Fault(cut_after=route.down.passed + 3, reset=reset)
        else:  # a part of the request goes through
            route.up.fault = Fault(cut_after=route.up.passed + 9, reset=reset)
        sent = ann.send("ann", "once")
        assert len(proxy.routes) == 2
        mailbox = site.service.session("test")
        site.service.resume(mailbox, ann.token)
        got = site.service.watch(mailbox, 0).messages
        assert [(message.body, message.message_id) for message in got] == [
            ("once", sent.message_id)
        ]


def test_a_send_whose_reply_never_comes_gives_one_message(site: Site, proxy: FaultProxy) -> None:
    with user(proxy.endpoint, "ann", settings=fast(reply_seconds=0.4)) as ann:
        proxy.wait_routes(2)
        proxy.routes[0].down.fault = Fault(blackhole=True)
        ann.send("ann", "once")
        assert receive(ann, 1) == ["once"]


def test_a_send_that_runs_out_of_time_can_be_repeated_by_its_send_id(
    site: Site, proxy: FaultProxy
) -> None:
    settings = fast(reply_seconds=0.4, command_seconds=1)
    with user(proxy.endpoint, "ann", settings=settings, watch=WatchMode.OFF) as ann:
        proxy.down = Fault(blackhole=True)
        proxy.routes[0].down.fault = Fault(blackhole=True)
        with pytest.raises(TimedOut) as late:
            ann.send("ann", "once")
        proxy.down = Fault()
        first = ann.send("ann", "once", send_id=late.value.send_id)
        assert first == ann.send("ann", "once", send_id=late.value.send_id)
        assert ann.status().unread == 1


def test_a_send_in_flight_when_the_session_ends_is_in_doubt(proxy: FaultProxy) -> None:
    with user(proxy.endpoint, "ann", resume=False, watch=WatchMode.OFF) as ann:
        route = proxy.routes[0]
        route.down.fault = Fault(cut_after=route.down.passed + 1)
        with pytest.raises(ConnectionLost) as lost:
            ann.send("ann", "once")
        ann.login("ann", PASSWORD)
        ann.send("ann", "once", send_id=lost.value.send_id)
        assert ann.status().unread == 1


def test_what_may_not_be_repeated_is_not(site: Site, proxy: FaultProxy) -> None:
    with user(proxy.endpoint, "ann") as ann:
        proxy.wait_routes(2)
        route = proxy.routes[0]
        route.down.fault = Fault(cut_after=route.down.passed + 1)
        with pytest.raises(ConnectionLost, match="change_password may or may not"):
            ann.change_password(PASSWORD, "another secret")
        assert ann.status().username == "ann"
        with pytest.raises(errors.BadCredentials):
            ann.change_password(PASSWORD, "a third secret")  # it was done


@pytest.mark.parametrize(
    "lost", [("reply",), ("request",), ("reply", "reply"), ("reply", "request")], ids="-".join
)
def test_a_login_that_sets_a_password_and_is_in_doubt_tries_that_once(
    site: Site, proxy: FaultProxy, lost: tuple[str, ...]
) -> None:
    """So who has set it is logged in, and one failed login at most is the price."""
    with make_client(site.endpoint) as client:
        client.create_account("ann", PASSWORD)
    logins: list[str] = []
    handle, new, losses = site.service.handle, "another secret", list(lost)

    def noted(session: Session, request: Any) -> Any:
        if isinstance(request, Login):
            logins.append(request.password)
        return handle(session, request)

    def lose(route: Route) -> None:
        """Cut a connection in the middle of what comes after its greeting."""
        way = losses.pop(0) if losses else None
        if way == "request":
            route.up.fault = Fault(cut_after=sent + 9)
        elif way == "reply":
            route.down.fault = Fault(cut_after=received + 9)

    site.service.handle = noted  # type: ignore[method-assign]
    with make_client(proxy.endpoint, settings=FAST, watch=WatchMode.OFF) as client:
        client.connect()
        (greeted,) = proxy.routes
        sent, received = greeted.up.passed, greeted.down.passed
        lose(greeted)
        proxy.on_route = lose
        if lost == ("reply",):
            assert client.login("ann", PASSWORD, new_password=new).username == "ann"
            assert client.status().username == "ann"
        else:
            with pytest.raises(ConnectionLost, match="login may or may not") as doubt:
                client.login("ann", PASSWORD, new_password=new)
            assert ("may be set already" in str(doubt.value)) == (lost[0] == "reply")
        assert len(proxy.routes) == 2
    assert logins == [
        *([PASSWORD] if lost[0] == "reply" else []),
        *([new] if lost[1:] != ("request",) else []),
    ]
    with make_client(site.endpoint) as client:
        client.login("ann", PASSWORD if lost == ("request",) else new)


def test_a_logout_acks_what_the_watch_connection_could_not(site: Site, proxy: FaultProxy) -> None:
    with user(proxy.endpoint, "ann") as ann:
        wait_until(lambda: len(proxy.routes) == 2, "the watch connection")
        ann.send("ann", "m1")
        seen: list[str] = []
        for message in ann.messages(timeout=0.2):
            proxy.routes[1].up.fault = Fault(blackhole=True)
            seen.append(message.body)
        assert seen == ["m1"]
        ann.logout()
    with again(site.endpoint, "ann") as ann:
        assert ann.status().unread == 0


def test_a_logout_that_fails_leaves_the_watcher_at_work(site: Site, proxy: FaultProxy) -> None:
    received = Received()
    settings = fast(command_seconds=1)
    with user(proxy.endpoint, "ann", settings=settings, on_message=received) as ann:
        ann.send("ann", "before")
        received.wait(1)
        proxy.refuse()
        with pytest.raises(NotConnected):
            ann.logout()
        proxy.allow()
        wait_until(lambda: ann.state.kind is ONLINE, "online again")
        ann.send("ann", "after")
        assert received.wait(2) == ["before", "after"]
        ann.logout()


def test_a_logout_that_fails_in_the_midst_of_a_batch_loses_nothing(
    site: Site, proxy: FaultProxy
) -> None:
    in_handler = threading.Event()
    go_on = threading.Event()
    received = Received()

    def on_message(message: Message) -> None:
        received(message)
        in_handler.set()
        go_on.wait(5)

    with user(site.endpoint, "ann"):
        pass
    with user(site.endpoint, "bob") as bob:
        for number in range(3):
            bob.send("ann", f"m{number}")
    settings = fast(command_seconds=1)
    with again(proxy.endpoint, "ann", settings=settings, on_message=on_message) as ann:
        wait_event(in_handler, "the first message")
        proxy.refuse()

        def log_out() -> None:
            with pytest.raises(NotConnected):
                ann.logout()

        thread = threading.Thread(target=log_out)
        thread.start()
        wait_until(lambda: watcher_of(ann)._stop.is_set, "the watcher is stopped")
        go_on.set()
        join(thread)
        proxy.allow()
        assert received.wait(3) == ["m0", "m1", "m2"]
        wait_until(lambda: ann.status().unread == 0, "all acked")


def test_one_byte_at_a_time(site: Site, proxy: FaultProxy) -> None:
    proxy.up = proxy.down = Fault(pieces=1)
    with user(proxy.endpoint, "ann") as ann:
        ann.send("ann", "slowly")
        assert receive(ann, 1) == ["slowly"]


def test_a_half_closed_connection_is_replaced(site: Site, proxy: FaultProxy) -> None:
    with user(proxy.endpoint, "ann", watch=WatchMode.OFF) as ann:
        route = proxy.routes[0]
        route.down.fault = Fault(cut_after=route.down.passed + 1, half_close=True)
        ann.send("ann", "once")
        assert ann.status().unread == 1


# -- acks across breaks ---------------------------------------------------------------------


def test_what_was_fetched_and_not_acked_is_redelivered_to_the_next_client(
    site: Site, proxy: FaultProxy
) -> None:
    """A client that is killed between receiving and acking."""
    with user(site.endpoint, "bob") as bob:
        with user(site.endpoint, "ann"):
            for number in range(3):
                bob.send("ann", f"m{number}")
        with again(proxy.endpoint, "ann") as ann:
            loop = ann.messages(5)
            assert bodies(islice(loop, 2)) == ["m0", "m1"]
            proxy.refuse()
        with again(site.endpoint, "ann") as ann:
            # Its ack of m0 may have got through or not; nothing beyond it may have.
            assert receive(ann, 2)[-2:] == ["m1", "m2"]


def test_a_reconnect_hands_nothing_over_twice(site: Site, proxy: FaultProxy) -> None:
    received = Received()
    with user(site.endpoint, "bob") as bob, user(proxy.endpoint, "ann", on_message=received):
        for number in range(10):
            bob.send("ann", f"m{number}")
            if number % 3 == 0:
                proxy.cut(reset=number % 2 == 0)
        assert received.wait(10) == [f"m{number}" for number in range(10)]


def test_a_consumer_goes_on_with_what_is_here_while_the_connection_is_down(
    site: Site, proxy: FaultProxy
) -> None:
    seen = States()
    with (
        user(site.endpoint, "bob") as bob,
        user(proxy.endpoint, "ann", on_state=seen, settings=fast(wait_seconds=0.05)) as ann,
    ):
        for number in range(3):
            bob.send("ann", f"m{number}")
        loop = ann.messages(5)
        first = next(loop)
        inbox = inbox_of(ann)
        if len(inbox._pending) < 3:  # they came one by one
            assert first.body == "m0"
        proxy.refuse()
        seen.wait(RECONNECTING)
        proxy.allow()
        assert bodies(islice(loop, 2)) == ["m1", "m2"]
        seen.wait(ONLINE, 2)
