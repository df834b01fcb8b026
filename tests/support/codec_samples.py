"""The requests and replies that the vectors are made of."""

from twinline.core.errors import ERROR_BY_CODE, SessionExpired, ShuttingDown
from twinline.core.protocol import (
    MAX_INT,
    MAX_PAGE,
    AccountsReply,
    Ack,
    AckReply,
    Block,
    BlockedReply,
    ChangePassword,
    Conversation,
    Conversations,
    ConversationsReply,
    CreateAccount,
    DeleteAccount,
    DeletedReply,
    DeleteMessages,
    Done,
    ErrorReply,
    Hello,
    HelloReply,
    History,
    HistoryReply,
    Kind,
    Limits,
    ListAccounts,
    ListBlocked,
    Login,
    LoginCertificate,
    Logout,
    Message,
    Ping,
    Receipt,
    Reply,
    Request,
    Resume,
    Send,
    SentReply,
    SessionReply,
    SetReceipts,
    Status,
    StatusReply,
    Trace,
    TraceReply,
    Unblock,
    Watch,
    WatchReply,
)

CONTROLS = "\x00\t\n\r\x1b[31m\x7f\x85\u2028\u202e"
WORLD = 'Grüße, мир, 世界 👋 "quoted" \\ /'
TOKEN = "mZ3q-0Yv5oTtUuJc1kqGx2WbN7eRfLh8sPd4aXiM_yQ"
ID_1 = "0123456789abcdef01234567"
ID_2 = "ffffffffffffffffffffffff"
SOME_ACCOUNT = "0123456789abcdef0123456789abcdef"
SENT_AT = 1_767_225_600_000

SOME_MESSAGE = Message(seq=1, message_id=ID_1, sender="ann", body="hi", sent_at=SENT_AT)
MESSAGES = (
    SOME_MESSAGE,
    Message(seq=2, message_id=ID_2, sender="ann", body=WORLD, sent_at=SENT_AT + 1),
    Message(seq=MAX_INT, message_id="0" * 24, sender="b.o_b-9", body=CONTROLS, sent_at=0),
)
SOME_COPY = Message(
    seq=2, message_id=ID_2, sender="ann", body="hi", sent_at=SENT_AT, to="bob", n=SENT_AT + 7
)
SOME_RECEIPT = Receipt(seq=3, username="bob", n=SENT_AT + 7, acked_at=SENT_AT + 9)
LIMITS = Limits(
    body_bytes=16_384,
    frame_bytes=65_536,
    frame_bytes_before_login=4_096,
    reply_bytes=1_048_576,
    page=1_000,
    wait_seconds=60,
)

REQUESTS: tuple[tuple[str, int, Request], ...] = (
    ("hello, nothing said", 0, Hello()),
    ("hello, all said", 1, Hello(protocol=2, client="twinline 0.1.0")),
    ("hello, the client's name is empty", 127, Hello(client="")),
    ("create_account", 2, CreateAccount(username="ann", password="correct horse")),
    ("create_account, not ASCII", 128, CreateAccount(username="Änn", password=WORLD)),
    ("login", 1, Login(username="ann", password="correct horse")),
    (
        "create_account, by invitation",
        3,
        CreateAccount(username="ann", password="correct horse", invitation="5oDbl1DQ"),
    ),
    (
        "login, with a new password",
        4,
        Login(username="ann", password="correct horse", new_password="battery staple"),
    ),
    ("login, empty texts", 16_383, Login(username="", password="")),
    ("login_certificate", 16_385, LoginCertificate()),
    ("resume", 16_384, Resume(session=TOKEN)),
    ("logout", 3, Logout()),
    ("list_accounts, defaults", 4, ListAccounts()),
    (
        "list_accounts, all said",
        5,
        ListAccounts(pattern="a\\*?*", after="ann", limit=MAX_PAGE),
    ),
    ("list_accounts, only the second of three", 6, ListAccounts(after="")),
    ("list_accounts, only the third of three", 7, ListAccounts(limit=1)),
    ("send", 1, Send(to="bob", body="hi")),
    ("send, 80 bytes", 1, Send(to="bob", body="x" * 80)),
    ("send, 127 bytes", 1, Send(to="bob", body="y" * 127)),
    ("send, 128 bytes", 1, Send(to="bob", body="z" * 128)),
    ("send, all said", 8, Send(to="bob", body="hi", send_id="5f1c-1")),
    ("send, not ASCII", 9, Send(to="bob", body=WORLD, send_id="é")),
    ("send, control characters", 10, Send(to="bob", body=CONTROLS)),
    ("send, a copy", 10, Send(to="bob", body="hi", send_id="5f1c-2", copy_=True)),
    ("watch, polling from the start", 11, Watch(after=0)),
    ("watch, all said", 12, Watch(after=41, ack=41, limit=1, wait=25)),
    (
        "watch, the largest of all",
        MAX_INT,
        Watch(after=MAX_INT, ack=MAX_INT, limit=MAX_PAGE, wait=60, window=MAX_PAGE, renew=True),
    ),
    ("watch, a stream", 30, Watch(after=41, wait=25, window=256)),
    ("watch, a stream renewed", 31, Watch(after=169, ack=160, wait=25, window=256, renew=True)),
    ("watch, ack 0 is not the default", 13, Watch(after=0, ack=0)),
    ("watch, copies alone", 13, Watch(after=0, kinds=(Kind.SENT,))),
    ("watch, all kinds", 13, Watch(after=0, limit=1, kinds=tuple(Kind))),
    ("ack", 14, Ack(up_to=42)),
    ("ack, the largest", MAX_INT - 1, Ack(up_to=MAX_INT)),
    ("history, defaults", 15, History()),
    ("history, all said", 16, History(before=300, limit=200)),
    ("history, before 0", 17, History(before=0)),
    ("history, with somebody", 17, History.model_validate({"with": "bob"})),
    (
        "history, of some kinds",
        17,
        History.model_validate({"before": 9, "with": "", "kinds": ["receipt", "mail"]}),
    ),
    (
        "history, of an account",
        17,
        History.model_validate({"with": "bob", "account": SOME_ACCOUNT}),
    ),
    ("conversations", 26, Conversations()),
    ("conversations, all said", 26, Conversations(before=300, limit=MAX_PAGE)),
    ("block", 27, Block(username="bob")),
    ("unblock", 28, Unblock(username="bob")),
    ("list_blocked", 29, ListBlocked()),
    ("set_receipts", 30, SetReceipts(receipts=True)),
    ("set_receipts, none", 31, SetReceipts(receipts=False)),
    ("delete_messages, one", 18, DeleteMessages(seqs=(7,))),
    ("delete_messages, several", 19, DeleteMessages(seqs=(1, 127, 128, 16_384, MAX_INT))),
    ("trace", 25, Trace(message_id=ID_1, to="bob")),
    ("status", 20, Status()),
    ("change_password", 21, ChangePassword(password="old secret", new_password="nöw secret")),
    ("delete_account", 22, DeleteAccount(password="correct horse")),
    ("delete_account, force", 23, DeleteAccount(password="correct horse", force=True)),
    ("ping", 24, Ping()),
    ("ping, the largest id", MAX_INT, Ping()),
)

REPLIES: tuple[tuple[str, int | None, str, Reply], ...] = (
    ("hello", 0, "hello", HelloReply(protocol=1, server="twinline 0.1.0", limits=LIMITS)),
    (
        "hello, the largest of all",
        1,
        "hello",
        HelloReply(
            protocol=MAX_INT,
            server=WORLD,
            node=WORLD,
            incarnation=WORLD,
            limits=Limits(
                body_bytes=MAX_INT,
                frame_bytes=MAX_INT,
                frame_bytes_before_login=MAX_INT,
                reply_bytes=MAX_INT,
                page=MAX_INT,
                wait_seconds=MAX_INT,
            ),
        ),
    ),
    (
        "create_account",
        2,
        "create_account",
        SessionReply(username="ann", session=TOKEN, position=0, unread=0),
    ),
    ("login", 1, "login", SessionReply(username="ann", session=TOKEN, position=41, unread=2)),
    (
        "login_certificate, a token with what it says of the certificate",
        4,
        "login_certificate",
        SessionReply(username="ann", session=f"{TOKEN}.{TOKEN}.{SENT_AT}", position=41, unread=2),
    ),
    (
        "resume, the largest numbers",
        3,
        "resume",
        SessionReply(username="ann", session="", position=MAX_INT, unread=MAX_INT),
    ),
    ("logout", 3, "logout", Done()),
    ("list_accounts, nobody", 4, "list_accounts", AccountsReply(usernames=(), more=False)),
    (
        "list_accounts, a page",
        5,
        "list_accounts",
        AccountsReply(usernames=("ann", "bob", "c.d_e-1"), more=True),
    ),
    ("send", 1, "send", SentReply(message_id=ID_1, sent_at=SENT_AT, n=SENT_AT + 1)),
    ("send, the largest", MAX_INT, "send", SentReply(message_id=ID_2, sent_at=MAX_INT, n=MAX_INT)),
    ("watch, the time is up", 11, "watch", WatchReply(messages=(), position=0, seen=0)),
    (
        "watch, one message",
        12,
        "watch",
        WatchReply(messages=(SOME_MESSAGE,), position=0, seen=SOME_MESSAGE.seq),
    ),
    ("watch, several", 12, "watch", WatchReply(messages=MESSAGES, position=MAX_INT, seen=MAX_INT)),
    (
        "watch, a copy and a receipt",
        13,
        "watch",
        WatchReply(messages=(SOME_COPY,), position=0, seen=9, receipts=(SOME_RECEIPT,)),
    ),
    (
        "watch, receipts alone",
        13,
        "watch",
        WatchReply(messages=(), position=0, seen=9, receipts=(SOME_RECEIPT, SOME_RECEIPT)),
    ),
    ("ack", 14, "ack", AckReply(position=42, unread=128)),
    ("history, nothing", 15, "history", HistoryReply(messages=(), more=False, seen=0)),
    (
        "history, several",
        16,
        "history",
        HistoryReply(messages=MESSAGES, more=True, seen=MESSAGES[0].seq),
    ),
    (
        "history, both sides",
        17,
        "history",
        HistoryReply(
            messages=(SOME_MESSAGE, SOME_COPY), more=True, seen=1, receipts=(SOME_RECEIPT,)
        ),
    ),
    (
        "history, of a name that somebody has",
        17,
        "history",
        HistoryReply(messages=(), more=False, seen=0, account=SOME_ACCOUNT),
    ),
    (
        "conversations, none",
        26,
        "conversations",
        ConversationsReply(conversations=(), more=False),
    ),
    (
        "conversations",
        26,
        "conversations",
        ConversationsReply(
            conversations=(
                Conversation(username="bob", last=SOME_COPY, unread=0, account=SOME_ACCOUNT),
                Conversation(username="ann", last=SOME_MESSAGE, unread=MAX_INT),
            ),
            more=True,
        ),
    ),
    ("block", 27, "block", Done()),
    ("unblock", 28, "unblock", Done()),
    ("list_blocked, nobody", 29, "list_blocked", BlockedReply(usernames=())),
    ("list_blocked", 29, "list_blocked", BlockedReply(usernames=("bob", "c.d_e-1"))),
    ("set_receipts", 30, "set_receipts", Done()),
    ("delete_messages", 18, "delete_messages", DeletedReply(deleted=1)),
    ("trace, all said", 25, "trace", TraceReply(state="acked", sent_at=SENT_AT, acked_at=MAX_INT)),
    ("trace, unknown", 25, "trace", TraceReply(state="unknown")),
    ("status", 20, "status", StatusReply(username="ann", position=41, unread=2, receipts=False)),
    ("change_password", 21, "change_password", Done()),
    ("delete_account", 22, "delete_account", Done()),
    ("ping", 24, "ping", Done()),
    ("ping, the largest id", MAX_INT, "ping", Done()),
    *(
        (
            f"error, {code}",
            7,
            "send",
            ErrorReply(code=code, message=kind.default_message, retryable=kind.retryable),
        )
        for code, kind in ERROR_BY_CODE.items()
    ),
    (
        "error, when to try again",
        7,
        "login",
        ErrorReply(
            code="rate_limited",
            message="too many attempts; try again later",
            retryable=True,
            retry_after_ms=1_500,
        ),
    ),
    (
        "error, how many messages",
        22,
        "delete_account",
        ErrorReply(
            code="undelivered_messages",
            message="there are undelivered messages",
            retryable=False,
            count=3,
        ),
    ),
    (
        "error, all said, a code of tomorrow",
        7,
        "ping",
        ErrorReply(
            code="of_tomorrow",
            message=WORLD + CONTROLS,
            retryable=True,
            retry_after_ms=MAX_INT,
            count=0,
        ),
    ),
    (
        "error, no id could be read",
        None,
        "ping",
        ErrorReply(code="bad_request", message="a line is one JSON object", retryable=False),
    ),
    (
        "error, no id could be read, all said",
        None,
        "ping",
        ErrorReply(code="busy", message="try again", retryable=True, retry_after_ms=1_000, count=1),
    ),
)


def _message(seq: int) -> Message:
    return Message(
        seq=seq, message_id=f"{seq:024x}", sender="ann", body=f"no. {seq}", sent_at=SENT_AT + seq
    )


def _brought(*seqs: int, position: int = 41, more: bool = False) -> WatchReply:
    return WatchReply(
        messages=tuple(map(_message, seqs)),
        position=position,
        seen=max(seqs, default=0),
        more=more,
    )


STREAMS: tuple[tuple[str, tuple[tuple[int, Request | Reply], ...]], ...] = (
    (
        "a window of three is used up by three messages that come in two replies",
        (
            (1, Watch(after=41, wait=25, window=3)),
            (1, _brought(42, 43, more=True)),
            (1, _brought(44)),
        ),
    ),
    (
        "the time is up: the last reply is empty",
        (
            (1, Watch(after=41, wait=25, window=256)),
            (1, _brought(42, more=True)),
            (1, _brought()),
        ),
    ),
    (
        "without wait the stream brings what is there, in pages of limit, and ends",
        (
            (1, Watch(after=41, limit=2, window=256)),
            (1, _brought(42, 43, more=True)),
            (1, _brought(44)),
        ),
    ),
    (
        "nothing is there, and the client does not wait",
        ((1, Watch(after=41, window=256)), (1, _brought())),
    ),
    (
        "the client renews the stream at half of its window, and acks by it",
        (
            (1, Watch(after=41, wait=25, window=4)),
            (1, _brought(42, more=True)),
            (1, _brought(43, more=True)),
            (2, Watch(after=43, ack=43, wait=25, window=4, renew=True)),
            (1, _brought()),
            (2, _brought(44, position=43, more=True)),
        ),
    ),
    (
        "the renewal counts what is under way: 44 was sent before it came, 45 and 46 are the rest",
        (
            (1, Watch(after=41, wait=25, window=4)),
            (1, _brought(42, 43, more=True)),
            (1, _brought(44, more=True)),
            (2, Watch(after=43, ack=43, wait=25, window=3, renew=True)),
            (1, _brought()),
            (2, _brought(45, position=43, more=True)),
            (2, _brought(46, position=43)),
        ),
    ),
    (
        "the renewal crosses the end of the stream: it goes on behind 43, which was the last",
        (
            (1, Watch(after=41, wait=25, window=2)),
            (1, _brought(42, more=True)),
            (1, _brought(43)),
            (2, Watch(after=42, ack=42, wait=25, window=2, renew=True)),
            (2, _brought(44, position=42)),
        ),
    ),
    (
        "after the end of a stream a watch that does not renew starts at its after",
        (
            (1, Watch(after=41, window=2)),
            (1, _brought(42, 43)),
            (2, Watch(after=42, window=1)),
            (2, _brought(43)),
        ),
    ),
    (
        "another request ends the stream",
        (
            (1, Watch(after=41, wait=25, window=256)),
            (1, _brought(42, more=True)),
            (2, Ping()),
            (1, _brought()),
            (2, Done()),
        ),
    ),
    (
        "a request that is pipelined behind it ends a watch without a window too",
        ((1, Watch(after=41, wait=25)), (2, Ping()), (1, _brought()), (2, Done())),
    ),
    (
        "the server stops",
        (
            (1, Watch(after=41, wait=25, window=256)),
            (1, _brought(42, more=True)),
            (1, ShuttingDown(retry_after_ms=1_000).to_reply()),
        ),
    ),
    (
        "the session ends before there was mail",
        (
            (1, Watch(after=41, wait=25, window=256)),
            (1, SessionExpired().to_reply()),
        ),
    ),
)
"""What is said in streams: what each is, and the messages of both sides in an order that can be."""
