"""The client engine's commands against a real server."""

import threading
import time
from itertools import islice

import pytest
from client_kit import FAST, MODES, States, again, fast, make_client, threads_only, user, watchers
from listening import Speaker, socket_path
from servers import HANG_UP, HELLO, SILENCE, ScriptedServer, Site
from services import PASSWORD
from waiting import join, wait_until

from twinline.core import errors
from twinline.core.protocol import (
    CreateAccount,
    ErrorReply,
    Hello,
    History,
    Ping,
    Resume,
    Send,
    SentReply,
    SessionReply,
    Watch,
    WatchReply,
)
from twinline.core.settings import ServiceSettings
from twinline.transports.client import (
    ClientBusy,
    ClientClosed,
    ClientError,
    ConnectionLost,
    State,
    StateKind,
    TimedOut,
    WatchMode,
)
from twinline.transports.endpoints import EndpointError
from twinline.transports.registry import UnknownTransport, transport

pytestmark = pytest.mark.usefixtures("both_clients")


@MODES
@pytest.mark.parametrize("name", ["jsonl", "binary"])
def test_every_command(name: str, watch: WatchMode) -> None:
    with socket_path() as path, Site(f"unix:{path}") as site:
        options = {"transport": name, "watch": watch}
        with user(site.endpoint, "ann", **options) as ann, user(site.endpoint, "bob") as bob:
            assert ann.limits is not None
            assert ann.username == "ann"
            assert ann.ping() < 1
            sent = [bob.send("ann", f"m{number}") for number in range(3)]
            got = list(islice(ann.messages(timeout=5), 3))
            assert [message.message_id for message in got] == [one.message_id for one in sent]
            assert ann.ack(3).position == 3
            assert ann.status().unread == 0
            assert [message.body for message in ann.history(limit=2).messages] == ["m1", "m2"]
            assert ann.history(before=2).messages[0].body == "m0"
            assert ann.delete_messages([1, 2, 99]) == 2
            assert ann.delete_messages([]) == 0
            assert ann.list_accounts("b*").usernames == ("bob",)
            assert list(ann.accounts()) == ["ann", "bob"]
            ann.change_password(PASSWORD, "another secret")
            token = ann.token
            assert token is not None
            with make_client(site.endpoint, settings=FAST) as other:
                assert other.resume(token).username == "ann"
                assert other.token == token
            ann.logout()
            assert ann.token is None
            assert ann.username is None
            ann.login("ann", "another secret")
            ann.delete_account("another secret")
            assert str(ann.state) == "logged out: the account was deleted"
            with pytest.raises(errors.NoSuchUser):
                bob.send("ann", "too late")
    assert not watchers()


def test_a_field_that_is_wrong_has_the_protocols_name(site: Site) -> None:
    with make_client(site.endpoint, settings=FAST) as client:
        with pytest.raises(errors.BadRequest, match="the field 'copy' is wrong"):
            client.send("ann", "hello", copy="yes")  # type: ignore[arg-type]
        with pytest.raises(errors.BadRequest, match="the field 'with' is wrong"):
            client.history(peer=7)  # type: ignore[arg-type]


def test_a_client_knows_with_which_start_of_the_server_accounts_end(site: Site) -> None:
    site.service.store.incarnation = None
    with make_client(site.endpoint, settings=FAST) as client:
        assert client.incarnation is None
        client.connect()
        assert client.incarnation is None
    site.service.store.incarnation = "first"
    with make_client(site.endpoint, settings=FAST) as client:
        with pytest.raises(errors.BadCredentials):
            client.login("nobody", PASSWORD)
        assert client.incarnation == "first"
        assert client.token is None


def test_whoever_is_told_of_a_sessions_end_knows_that_the_server_was_started_again() -> None:
    told: list[str | None] = []

    def on_state(state: State) -> None:
        if state.kind is StateKind.LOGGED_OUT:
            told.append(client.incarnation)

    with (
        socket_path() as path,
        Site(f"unix:{path}") as site,
        make_client(site.endpoint, settings=FAST, on_state=on_state) as client,
    ):
        client.connect()
        client.create_account("ann", PASSWORD)
        first = site.store.incarnation
        site.stop(lose_store=True)
        site.start()
        wait_until(lambda: len(told) == 2, "the end to be told")
        assert told == [first, site.store.incarnation]


def test_all_pages_of_accounts_and_deletions(site: Site) -> None:
    with user(site.endpoint, "pager") as client:
        answer = client.list_accounts
        client.list_accounts = lambda pattern, after=None: answer(pattern, after, limit=1)
        with user(site.endpoint, "pager2"), user(site.endpoint, "pager3"):
            assert list(client.accounts("pager*")) == ["pager", "pager2", "pager3"]
        assert client.delete_messages(range(1, 2500)) == 0


def test_refusals_are_the_trees_leaves(site: Site) -> None:
    with user(site.endpoint, "leaf") as client, make_client(site.endpoint, settings=FAST) as other:
        with pytest.raises(errors.UsernameTaken):
            other.create_account("leaf", PASSWORD)
        with pytest.raises(errors.BadCredentials):
            other.login("leaf", "not the password")
        with pytest.raises(errors.SessionExpired):
            other.resume("nothing")
        assert other.state.kind is StateKind.LOGGED_OUT
        with pytest.raises(errors.AlreadyLoggedIn):
            client.login("leaf", PASSWORD)
        with pytest.raises(errors.MessageTooLong):
            client.send("leaf", "x" * 20_000)
        client.send("leaf", "one", send_id="same")
        with pytest.raises(errors.SendIdConflict):
            client.send("leaf", "two", send_id="same")
        with pytest.raises(errors.UndeliveredMessages) as refused:
            client.delete_account(PASSWORD)
        assert refused.value.count == 1
        # The watcher goes on after the refusal.
        assert [message.body for message in islice(client.messages(5), 1)] == ["one"]


@pytest.mark.parametrize("name", ["jsonl", "binary"])
def test_a_conversation_is_read_by_its_account(name: str) -> None:
    settings = ServiceSettings(free_deleted_names=True)
    with (
        Site(settings=settings) as site,
        user(site.endpoint, "ann", transport=name) as ann,
    ):
        for number in (1, 2):
            with user(site.endpoint, "bob") as bob:
                bob.send("ann", f"of bob {number}")
                ann.send("bob", f"to bob {number}", copy=True)
                bob.delete_account(PASSWORD, force=True)
        talks = ann.conversations().conversations
        assert [each.username for each in talks] == ["bob", "bob"]
        for number, talk in zip((2, 1), talks, strict=True):
            page = ann.history(peer="bob", account=talk.account)
            assert [each.body for each in page.messages] == [f"of bob {number}", f"to bob {number}"]
            assert page.account is None
        with user(site.endpoint, "bob"):
            page = ann.history(peer="bob")
            assert page.messages == ()
            assert page.account not in {None, *(each.account for each in talks)}
        with pytest.raises(errors.BadRequest, match="needs 'with'"):
            ann.history(account=talks[0].account)


@pytest.mark.parametrize("account", ["", "x" * 65, "\0", "a b", "é", 7])
@pytest.mark.parametrize("name", ["jsonl", "binary"])
def test_an_account_id_that_nobody_can_have_is_refused(name: str, account: object) -> None:
    """By the server too: whoever speaks to it need not have built the request as a client does."""
    with pytest.raises(errors.BadRequest, match="account"):
        make_client("tcp://127.0.0.1:1").history(peer="bob", account=account)
    if not isinstance(account, str):
        return
    with Site() as site, Speaker(site.endpoint, name) as speaker:
        speaker.ask(CreateAccount(username="ann", password=PASSWORD))
        asked = History.model_construct(
            before=None, limit=50, with_="bob", kinds=None, account=account
        )
        reply = speaker.ask(asked)
        assert isinstance(reply, ErrorReply)
        assert reply.code == "bad_request"
        assert "account" in reply.message


@pytest.mark.parametrize(
    ("call", "place"),
    [
        (lambda client: client.history(limit=0), "limit"),
        (lambda client: client.send("leaf", 5), "body"),
        (lambda client: client.ack(-1), "up_to"),
        (lambda client: client.delete_messages([-1]), "seqs"),
        (lambda client: client.login("ann", b"secret bytes"), "password"),
        (lambda client: client.create_account("ann", 12345678), "password"),
        (lambda client: client.resume(None), "session"),
        (lambda client: client.change_password("", None), "new_password"),
        (lambda client: client.delete_account(None), "password"),
        (lambda client: client.list_accounts(limit=10_000), "limit"),
    ],
)
def test_what_the_protocol_cannot_express_is_a_bad_request(call, place: str) -> None:
    client = make_client("tcp://127.0.0.1:1", settings=FAST)
    with pytest.raises(errors.BadRequest, match=place) as refused:
        call(client)
    assert "secret" not in str(refused.value)
    assert "1234" not in str(refused.value)


def test_a_request_beyond_the_frame_limit_is_refused_here(site: Site) -> None:
    with user(site.endpoint, "framer") as client:
        with pytest.raises(errors.FrameTooLarge):
            client.send("framer", "x" * 70_000)
        assert client.status().username == "framer"
        with make_client(site.endpoint, settings=FAST) as other:
            with pytest.raises(errors.FrameTooLarge):
                other.login("framer", "x" * 5_000)
            assert other.login("framer", PASSWORD).username == "framer"


def test_a_frame_that_is_refused_here_is_no_broken_connection(site: Site) -> None:
    with user(site.endpoint, "rigid", resume=False, watch=WatchMode.OFF) as client:
        with pytest.raises(errors.FrameTooLarge):
            client.send("rigid", "x" * 70_000)
        assert client.status().username == "rigid"


def test_without_a_session_nothing_is_asked(site: Site) -> None:
    with make_client(site.endpoint, settings=FAST) as client:
        for call in (client.status, client.logout, lambda: client.delete_account("x" * 8)):
            with pytest.raises(errors.NotLoggedIn, match="log in first"):
                call()
        with pytest.raises(errors.NotLoggedIn):
            next(client.messages())
        assert client.state == State(StateKind.CONNECTING, endpoint=site.endpoint)
        client.connect(1)
        assert client.state == State(StateKind.LOGGED_OUT, endpoint=site.endpoint)


def test_a_client_that_does_not_watch_has_no_thread(site: Site) -> None:
    with user(site.endpoint, "aloof", watch=WatchMode.OFF) as client:
        assert not watchers()
        assert client.status().username == "aloof"
        with pytest.raises(ClientError, match="does not watch"):
            next(client.messages())
        client.logout()
        client.login("aloof", PASSWORD)
        client.delete_account(PASSWORD)


def test_what_a_client_can_be_made_of() -> None:
    with pytest.raises(EndpointError):
        make_client("chat.example.org")
    with pytest.raises(UnknownTransport):
        make_client("tcp://127.0.0.1:1?transport=morse")
    assert "binary" in repr(make_client("tcp://127.0.0.1:1?transport=binary"))
    assert "jsonl" in repr(make_client("tcp://127.0.0.1:1?transport=binary", transport="jsonl"))
    assert "binary" in repr(make_client("tcp://127.0.0.1:1", transport=transport("binary")))
    with pytest.raises(EndpointError, match="wss://host:port or unix:/path"):
        make_client("udp://127.0.0.1:1")


def test_a_repr_shows_no_secret(site: Site) -> None:
    with user(site.endpoint, "shy") as client:
        assert client.token is not None
        session = client._engine.link.snapshot.session
        assert client.token not in repr(client) + repr(session) + repr(client._engine.link.state)
        assert "online as shy" in repr(client)


def test_many_threads_share_a_client(site: Site) -> None:
    with user(site.endpoint, "crowd") as client, user(site.endpoint, "target") as target:
        failures: list[Exception] = []

        def send(number: int) -> None:
            try:
                for step in range(10):
                    client.send("target", f"{number}:{step}")
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        got = [message.body for message in islice(target.messages(5), 80)]
        for thread in threads:
            join(thread)
        assert not failures
        assert len(set(got)) == 80
        for number in range(8):
            own = [body for body in got if body.startswith(f"{number}:")]
            assert own == [f"{number}:{step}" for step in range(10)]


def test_send_ids_are_the_clients_own(site: Site) -> None:
    with ScriptedServer() as server:
        server.script = lambda request: (
            HELLO if isinstance(request, Hello) else _logged_in(server, request)
        )
        ids = []
        for _ in range(2):
            with make_client(server.endpoint, settings=FAST) as client:
                client.resume("token")
                for _ in range(3):
                    client.send("bob", "x")
                client.send("bob", "x", send_id="mine")
        ids = [request.send_id for request in server.requests if isinstance(request, Send)]
    assert ids.count("mine") == 2
    assert len(set(ids)) == 7
    assert max(len(send_id) for send_id in ids) <= 12


def _logged_in(server: ScriptedServer, request):
    match request:
        case Resume():
            return SessionReply(username="ann", session="token", position=0, unread=0)
        case Watch():
            return WatchReply(messages=(), position=0, seen=0) if not request.wait else SILENCE
        case Send():
            return SentReply(message_id="0" * 24, sent_at=1, n=1)
        case Ping():
            return SILENCE
    return HANG_UP


# -- replies that are no good ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"garbage\n", "not a reply"),
        (b'{"id":99,"ok":true}\n', "may or may not"),
        (HANG_UP, "ended the connection"),
        (SILENCE, "did not answer in time"),
    ],
)
def test_a_bad_answer_breaks_the_connection_and_what_may_not_be_repeated_is_in_doubt(
    answer, reason: str
) -> None:
    with ScriptedServer() as server:
        server.script = lambda request: HELLO if isinstance(request, Hello) else answer
        with make_client(server.endpoint, settings=fast(reply_seconds=0.4)) as client:
            kind = TimedOut if answer is SILENCE else ConnectionLost
            with pytest.raises(kind, match=reason) as lost:
                client.login("ann", PASSWORD)
            assert lost.value.send_id is None
            assert PASSWORD not in str(lost.value)
        assert server.connections == 1


def test_an_error_without_an_id_is_the_answer_and_the_end_of_the_connection() -> None:
    with ScriptedServer() as server:
        busy = b'{"id":null,"ok":false,"error":{"code":"busy","message":"b","retryable":true}}\n'
        server.script = lambda request: HELLO if isinstance(request, Hello) else busy
        with make_client(server.endpoint, settings=FAST) as client:
            for count in (1, 2):
                with pytest.raises(errors.Busy):
                    client.ping()
                assert server.connections == count


def test_a_connection_on_which_something_came_unasked_is_not_used() -> None:
    with ScriptedServer() as server:
        done = b'{"id":2,"ok":true}\n'
        server.script = lambda request: HELLO if isinstance(request, Hello) else done + b" "
        with make_client(server.endpoint, settings=FAST) as client:
            client.ping()
            client.ping()
        assert server.connections == 2


def test_an_unknown_code_is_still_a_refusal() -> None:
    with ScriptedServer() as server:
        odd = ErrorReply(code="odd", message="an odd thing", retryable=False)
        server.script = lambda request: HELLO if isinstance(request, Hello) else odd
        with make_client(server.endpoint, settings=FAST) as client:
            with pytest.raises(errors.RequestError, match="odd thing") as refused:
                client.ping()
            assert refused.value.code == "odd"


# -- callbacks ------------------------------------------------------------------------------


@threads_only
def test_on_state_may_close_but_not_ask(site: Site) -> None:
    refused: list[Exception] = []
    seen = States()

    def on_state(state: State) -> None:
        seen(state)
        if state.kind is StateKind.LOGGED_OUT:
            for call in (client.ping, client.connect, client.logout):
                try:
                    call()
                except ClientBusy as error:
                    refused.append(error)
            begin = time.monotonic()
            client.close()
            took.append(time.monotonic() - begin)

    took: list[float] = []
    client = make_client(site.endpoint, settings=FAST, on_state=on_state)
    with pytest.raises(ClientClosed):
        client.ping()
    assert len(refused) == 3
    assert took[0] < 0.5  # it does not wait for the lock that its own thread holds
    assert seen.kinds == [StateKind.LOGGED_OUT, StateKind.CLOSED]
    assert client._engine._commands._connection is None


def test_states_of_an_ordinary_life(site: Site) -> None:
    seen = States()
    with user(site.endpoint, "lively", on_state=seen) as client:
        client.logout()
        with pytest.raises(errors.NotLoggedIn, match="log in first"):
            client.status()
        client.login("lively", PASSWORD)
    kind = StateKind
    assert seen.kinds == [
        kind.LOGGED_OUT, kind.ONLINE, kind.LOGGED_OUT, kind.ONLINE, kind.CLOSED
    ]  # fmt: skip
    assert all(state.reason is None for state in seen.seen)


def test_a_session_that_is_revoked_elsewhere_says_so(site: Site) -> None:
    seen = States()
    with (
        user(site.endpoint, "revoked") as client,
        again(site.endpoint, "revoked", on_state=seen) as other,
    ):
        client.change_password(PASSWORD, "another secret")
        state = seen.wait(StateKind.LOGGED_OUT, 2)
        assert state.reason == "the session has ended; log in again"
        with pytest.raises(errors.NotLoggedIn, match="the session has ended"):
            other.status()
        other.login("revoked", "another secret")
        assert other.status().username == "revoked"
