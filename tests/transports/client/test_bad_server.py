"""What a server that is broken, or lies, cannot make the client do."""

import time
from itertools import islice

import pytest
from client_kit import MODES, States, failures, fast, inbox_of, make_client, receive
from scripted_mailbox import Mailbox, messages, page
from servers import HANG_UP, HELLO, Answer, ScriptedServer
from waiting import wait_until

from twinline.core import errors
from twinline.core.protocol import (
    MAX_INT,
    AccountsReply,
    Done,
    Hello,
    History,
    HistoryReply,
    Limits,
    ListAccounts,
    Request,
    Watch,
    WatchReply,
)
from twinline.transports import registry
from twinline.transports.client import ConnectionLost, StateKind, WatchMode

pytestmark = pytest.mark.usefixtures("both_clients")

FOR_EVER = 2**53 - 1
# The second attempt follows at once; a third would come after the command's time.
TWO_ATTEMPTS = fast(command_seconds=1, backoff_first=60, backoff_max=60)


def limited(server: ScriptedServer, **limits: int) -> None:
    """Have a server tell other limits than it has."""
    script = server.script
    told = HELLO.model_copy(update={"limits": HELLO.limits.model_copy(update=limits)})
    server.script = lambda request: told if isinstance(request, Hello) else script(request)


# -- how often it is asked ------------------------------------------------------------------


@MODES
@pytest.mark.parametrize("answer", [page(), page(1), page(1, 2, position=2)])
def test_a_watch_that_is_answered_at_once_is_repeated_at_the_pace_of_polling(
    watch: WatchMode, answer: WatchReply
) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.always = answer
        settings = fast(poll_seconds=0.1)
        with make_client(
            server.endpoint, settings=settings, watch=watch, on_message=lambda _: None
        ) as client:
            begin = time.monotonic()
            client.resume("token")
            wait_until(lambda: server.asked(Watch) >= 7, "some watches")
            # Neither the first look nor a batch with news is waited after.
            assert time.monotonic() - begin >= 0.4
            assert client.state.kind is StateKind.ONLINE


def test_a_server_that_lets_no_watch_wait_is_polled() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.always = page()
        limited(server, wait_seconds=0)
        with make_client(server.endpoint, settings=fast(poll_seconds=0.1)) as client:
            begin = time.monotonic()
            client.resume("token")
            wait_until(lambda: server.asked(Watch) >= 6, "some watches")
            assert time.monotonic() - begin >= 0.4


@pytest.mark.parametrize("answer", [HANG_UP, errors.ShuttingDown().to_reply(), Done()])
def test_a_server_that_hangs_up_again_and_again_is_connected_to_at_the_pace_of_the_backoff(
    answer: Answer,
) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        script = server.script
        first: set[int] = set()  # connections that have had their first look

        def each_one_look(request: Request) -> Answer:
            if isinstance(request, Watch) and server.connections not in first:
                first.add(server.connections)
                return page()
            return answer if isinstance(request, Watch) else script(request)

        mailbox.always = answer
        server.script = each_one_look
        settings = fast(backoff_first=0.1, backoff_max=0.1)
        with make_client(server.endpoint, settings=settings) as client:
            begin = time.monotonic()
            client.resume("token")
            # Two of three connections are replaced at once at most.
            wait_until(lambda: server.connections >= 12, "some connections")
            assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize("kind", [errors.RateLimited, errors.Busy])
def test_a_wait_that_a_server_asks_for_is_a_minute_at_most(kind: type[errors.RequestError]) -> None:
    refusal = kind(retry_after_ms=FOR_EVER)
    assert refusal.retry_after() == 60
    assert kind(retry_after_ms=500).retry_after() == 0.5
    assert kind().retry_after() == 0
    assert kind(retry_after_ms=0).retry_after(1.0) == 1  # who asks again and again has a pace
    with ScriptedServer() as server:
        server.script = lambda _: refusal.to_reply()
        with make_client(server.endpoint, settings=fast(command_seconds=0.1)) as client:
            with pytest.raises(errors.TwinlineError):
                client.ping()
            assert client.state.reason
            assert client._engine.link.next_attempt.remaining() <= 60


def test_a_watch_that_is_refused_for_ever_is_tried_again_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(errors, "MAX_RETRY_AFTER_SECONDS", 0.05, raising=False)
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [errors.RateLimited(retry_after_ms=FOR_EVER).to_reply(), page(1)]
        with make_client(server.endpoint, settings=fast()) as client:
            client.resume("token")
            assert [message.body for message in islice(client.messages(5), 1)] == ["m1"]


# -- pages without end ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usernames", "said"),
    [
        ((), "no usernames and says that others follow"),
        (("ann", "bob"), "usernames that do not follow those before"),
        (("bob", "ann"), "usernames that are not sorted"),
        (("ann", "ann"), "usernames that are not sorted"),
    ],
)
def test_usernames_that_lead_nowhere_end_in_an_error(usernames: tuple[str, ...], said: str) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.others[ListAccounts] = AccountsReply(usernames=usernames, more=True)
        with make_client(server.endpoint, settings=TWO_ATTEMPTS) as client:
            client.resume("token")
            with pytest.raises(ConnectionLost, match=said):
                list(islice(client.accounts(), 100))


@pytest.mark.parametrize(
    ("seqs", "said"),
    [
        ((), "no messages and says that there are older ones"),
        ((7,), "messages that are not older than was asked"),
        ((5, 3), "messages whose seqs do not rise"),
        ((3, 3), "messages whose seqs do not rise"),
    ],
)
def test_a_history_that_leads_nowhere_is_an_error(seqs: tuple[int, ...], said: str) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.others[History] = HistoryReply(
            messages=messages(*seqs), more=True, seen=min(seqs, default=0)
        )
        with make_client(server.endpoint, settings=TWO_ATTEMPTS) as client:
            client.resume("token")
            with pytest.raises(ConnectionLost, match=said):
                client.history(before=7)


# -- messages and positions that cannot be --------------------------------------------------


def acks(server: ScriptedServer) -> list[int]:
    """Return what the watches have acked."""
    asked = [request for request in server.requests if isinstance(request, Watch)]
    return [request.ack for request in asked if request.ack is not None]


@pytest.mark.parametrize("seqs", [(5, 3, 7), (5, 5), (7, 6)])
def test_messages_out_of_order_are_not_acked_unseen(seqs: tuple[int, ...]) -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(*seqs), page(3, 5, 7)]
        with make_client(server.endpoint, settings=fast()) as client:
            client.resume("token")
            assert receive(client, 3) == ["m3", "m5", "m7"]
            wait_until(lambda: acks(server) == [7], "the ack")
        assert server.connections == 3  # the one that sent them was not trusted


def test_seqs_far_apart_are_seqs() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        far = (1, 2**32 + 5, 2**53 - 2, MAX_INT)
        mailbox.watches = [page(*far)]
        with make_client(server.endpoint, settings=fast()) as client:
            client.resume("token")
            assert receive(client, 4) == [f"m{seq}" for seq in far]
            wait_until(lambda: acks(server) == [MAX_INT], "the ack")


def test_a_position_that_runs_ahead_or_back_loses_no_ack() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(1, 2, position=MAX_INT), page(3), page(4, position=1), page(5)]
        with make_client(server.endpoint, settings=fast()) as client:
            client.resume("token")
            assert receive(client, 5) == ["m1", "m2", "m3", "m4", "m5"]
            wait_until(lambda: acks(server)[-1:] == [5], "the last ack")
            # The server was said to know of the first two. How many acks the others take depends
            # on how fast they come.
            assert acks(server) == sorted(set(acks(server)))
            assert acks(server)[0] > 2


def test_of_more_messages_than_were_asked_for_the_rest_is_asked_for_again() -> None:
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(1, 2, 3, 4), page(3), page(4)]
        with make_client(server.endpoint, settings=fast(batch=2, window=2)) as client:
            client.resume("token")
            inbox = inbox_of(client)
            wait_until(lambda: not inbox.is_empty(), "the first page")
            assert inbox.cursor == 2
            assert receive(client, 4) == ["m1", "m2", "m3", "m4"]


def test_replies_that_nobody_asked_for_are_not_taken_for_others() -> None:
    codec = registry.transport("jsonl").server_codec(1 << 20)
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        looks = iter([True])

        def twice(request: Request) -> Answer:
            if not isinstance(request, Watch) or not next(looks, False):
                return mailbox(request)
            # Hello and resume were the first two.
            for body in (page(1), page(9)):
                codec.send(3, body)
            return codec.data_to_send()

        server.script = twice
        mailbox.always = page(2)  # the first of these finds the connection broken
        with make_client(server.endpoint, settings=fast()) as client:
            client.resume("token")
            assert receive(client, 2) == ["m1", "m2"]


# -- limits that cannot be ------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits",
    [
        dict.fromkeys(Limits.model_fields, MAX_INT),
        {"page": 0},
        {"wait_seconds": 0},
        {"body_bytes": 0},
        {"reply_bytes": 0},
    ],
)
def test_absurd_limits_do_not_keep_mail_away(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    caught = failures(monkeypatch)
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(1)]
        limited(server, **limits)
        with make_client(server.endpoint, settings=fast()) as client:
            client.resume("token")
            assert receive(client, 1) == ["m1"]
    assert not caught


def test_a_limit_that_no_request_fits_in_is_retried_and_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caught = failures(monkeypatch)
    seen = States()
    with ScriptedServer() as server:
        mailbox = Mailbox(server)
        mailbox.watches = [page(MAX_INT)]  # to ack it takes more than a frame's slack
        mailbox.always = page()
        limited(server, frame_bytes=0)
        options = {
            "settings": fast(backoff_first=0.1, backoff_max=0.1),
            "on_message": lambda _: None,
            "on_state": seen,
        }
        with make_client(server.endpoint, **options) as client:
            begin = time.monotonic()
            client.resume("token")
            wait_until(lambda: server.connections >= 4, "some connections")
            assert time.monotonic() - begin >= 0.2
            assert "longer than 0 bytes" in str(seen.wait(StateKind.RECONNECTING))
    assert not caught
