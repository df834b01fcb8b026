"""What is said on one connection, held by hand: every row of its table, and every way to cut it."""

import re

import pytest
from conversing import BOTH_WAYS, LOGIN, SETTINGS, Conversing, shown
from malformed_samples import frame, line
from services import PASSWORD, START_MS, enter, login, make_service
from streams import cut

from twinline.core.errors import Busy
from twinline.core.looks import Look
from twinline.core.protocol import Ack, Kind, Logout, Ping, Send, Status, Watch
from twinline.core.store import PeerReceipt
from twinline.transports.listener import conversation
from twinline.transports.listener.conversation import FLUSH_BYTES
from twinline.transports.registry import transport

WAYS = pytest.mark.parametrize(("served", "spoken"), BOTH_WAYS)
UNREADABLE = {"jsonl": line("hello"), "binary": frame(b"\x05", kind=0x70)}
ENDLESS = {"jsonl": b"x" * 65_537, "binary": frame(b"\x07", version=2)}
"""No end of a frame is to be found in them, before login or after it."""
WATCH = Watch(after=0, wait=25)
STREAM = Watch(after=0, wait=25, window=4)

# -- the table ------------------------------------------------------------------------------


def read_table() -> dict[tuple[str, str], tuple[str, str]]:
    """Return the rows: what is said and the next state, by state and event."""
    text = conversation.__doc__ or ""
    block = text.partition("what each event does in them::\n\n")[2].partition("\n\n    drain ")[0]
    rows, state = {}, ""
    for row in block.splitlines()[1:]:
        if row.strip():
            name, event, said, after = re.fullmatch(
                r" {4}(\w*) +(.+?) {2,}(.+?) {2,}(.+)", row
            ).groups()
            state = name or state
            rows[state, event] = (said, after)
    return rows


TABLE = read_table()
SAID = {  # as `shown` has it
    "nothing": "",
    "nothing yet": "",
    "its error": r"(5|None):\w+",
    "the reply": r"5:\w+(Reply|)",
    "the reply, its last": r"4:\[[\d,]+\]",
    "the reply, with ``more``": r"4:\[[\d,]+\]\+",
    "the two last replies": r"(4:\[[\d,]+\]\+ )+4:\[\]",
    "the last reply, empty": r"4:\[\]",
    "the error": r"4:\w+",
}
BEFORE_LOGIN = {"login takes too long"}


def with_mail(talk):
    talk.mail("one", "two")


def looks_with_mail(request, *bodies):
    def look(talk):
        talk.mail(*bodies)
        talk.begin(talk.frame(4, request))
        talk.go_on()

    return look


def looks_in_vain(request):
    def look(talk):
        talk.begin(talk.frame(4, request))
        talk.go_on()

    return look


def looks_refused(talk):
    talk.begin(talk.frame(4, Watch(after=9)))
    talk.go_on()


def answers(talk):
    talk.begin(talk.frame(5, Status()))
    talk.go_on()


def asks(talk):
    talk.begin(talk.frame(5, Ping()))


def renews(talk):
    talk.feed(talk.frame(5, STREAM))


def sends(data):
    def send(talk):
        talk.frame(5, Ping())  # what it would be, if it could be read
        talk.talk.receive_data(data[talk.spoken])
        talk.go_on()

    return send


def takes_too_long(seconds):
    def wait(talk):
        half = talk.frame(5, Ping())[:3]
        talk.feed(half)
        talk.wait(seconds - 0.1)
        assert not talk.talk.ended
        talk.wait(0.2)

    return wait


def silent(seconds):
    def wait(talk):
        talk.wait(seconds - 0.1)
        assert not talk.talk.ended
        talk.wait(0.2)

    return wait


def ends(talk):
    talk.talk.receive_eof()
    talk.job = talk.talk.next_job()


def is_woken(talk):
    talk.mail("one")
    talk.talk.look_again()
    talk.job = talk.talk.next_job()


BIG = "x" * 15_000
EVENTS = {  # each with what makes it happen
    ("waiting", "a whole frame: a request"): asks,
    ("waiting", "a whole frame that cannot be read"): sends(UNREADABLE),
    ("waiting", "a frame whose end cannot be found"): sends(ENDLESS),
    ("waiting", "login takes too long"): silent(SETTINGS.login_seconds),
    ("waiting", "a frame takes too long"): takes_too_long(SETTINGS.frame_seconds),
    ("waiting", "end of input"): ends,
    ("working", "the outcome of a request"): answers,
    ("working", "a look finds mail"): looks_with_mail(WATCH, "one"),
    ("working", "a look finds mail, the stream goes on"): looks_with_mail(STREAM, "one"),
    ("working", "a look finds mail that has no room left"): looks_with_mail(
        Watch(after=0, wait=25, window=9, limit=5), *[BIG] * 5
    ),
    ("working", "a look finds none"): looks_in_vain(STREAM),
    ("working", "a look finds none and is the last one"): looks_in_vain(Watch(after=0)),
    ("working", "a look is refused"): looks_refused,
    ("watching", "the mail's wake"): is_woken,
    ("watching", "a whole frame, whatever it is"): asks,
    ("watching", "a renewal that has nothing to look for"): renews,
    ("watching", "its time is up"): silent(25),
    ("watching", "end of input"): ends,
    ("watching", "a frame takes too long"): takes_too_long(SETTINGS.frame_seconds),
}


def test_every_row_of_the_table_is_reached():
    assert TABLE.keys() == EVENTS.keys()
    assert {said for said, _ in TABLE.values()} <= SAID.keys()


def prepared(state, served, spoken, *, logged_in=True):
    """Return a conversation in a state, to which nothing is left to be read."""
    talk = Conversing(served, spoken, logged_in=logged_in)
    if not logged_in:
        talk.go_on()
    if state == "watching":
        assert talk.ask(4, STREAM) == []
    talk.received.clear()
    return talk


def happened(talk):
    """Return what was said, to the last byte that is to be sent now."""
    talk.flush()
    return " ".join(shown(talk.received))


@WAYS
@pytest.mark.parametrize(("state", "event"), TABLE, ids=str)
def test_a_row(state, event, served, spoken):
    said, after = TABLE[state, event]
    talk = prepared(state, served, spoken, logged_in=event not in BEFORE_LOGIN)
    if state != "working":  # where it is on the way, as the event is what a job comes to
        assert talk.state == state
    EVENTS[state, event](talk)
    assert re.fullmatch(SAID[said], happened(talk))
    assert talk.state == ("working" if after == "as waiting" else after)
    assert (talk.talk.fault is None) == (after != "ended, cut" and said != "its error")


FRAMES = [event for state, event in TABLE if state == "waiting" and "frame" in event.split(":")[0]]
FRAMES.remove("a frame takes too long")


@WAYS
@pytest.mark.parametrize("event", FRAMES)
@pytest.mark.parametrize("watch", [WATCH, STREAM], ids=["one reply", "stream"])
def test_whatever_frame_ends_an_open_watch_is_then_as_if_there_had_been_none(
    event, watch, served, spoken
):
    said, after = TABLE["waiting", event]
    talk = prepared("waiting", served, spoken)
    assert talk.ask(4, watch) == []
    EVENTS["waiting", event](talk)
    expected = " ?".join([SAID["the last reply, empty"], SAID[said]])
    assert re.fullmatch(expected, happened(talk))
    assert talk.state == after


# -- from any state -------------------------------------------------------------------------

IN_STATES = pytest.mark.parametrize("state", ["waiting", "asked", "looks", "finds", "watching"])


def in_state(state, served, spoken):
    """Return a conversation that waits, works at a request, looks, or watches."""
    talk = prepared("watching" if state == "watching" else "waiting", served, spoken)
    if state == "finds":
        with_mail(talk)
    if state not in ("waiting", "watching"):
        talk.begin(talk.frame(4, STREAM if state in ("looks", "finds") else Status()))
        assert talk.state == "working"
    return talk


def behind(talk):
    """Have a request, a watch and an unreadable frame arrive, behind what is being done."""
    talk.talk.receive_data(talk.frame(6, Ping()) + talk.frame(7, STREAM))
    talk.frame(5, Ping())
    talk.talk.receive_data(UNREADABLE[talk.spoken])


def answered(state, code):
    """Return what is said in a state when the open watch is ended by an error."""
    return {
        "waiting": [],
        "asked": ["4:StatusReply"],
        "looks": [f"4:{code}"],
        "finds": ["4:[1,2]+", f"4:{code}"],
        "watching": [f"4:{code}"],
    }[state]


@WAYS
@IN_STATES
@pytest.mark.parametrize("others", [False, True], ids=["alone", "requests behind"])
def test_a_drain_answers_the_watch_and_what_has_arrived(others, state, served, spoken):
    talk = in_state(state, served, spoken)
    if others:
        behind(talk)
    talk.talk.drain()
    talk.go_on()
    said = shown(talk.replies())
    first = answered(state, "shutting_down")
    if others:
        assert said[-1] in ("5:unknown_op", "None:bad_request")  # what it is, as it is no request
        assert said[:-1] == [*first, "6:shutting_down", "7:shutting_down"]
    else:
        assert said == first
    assert all(
        each.reply.retry_after_ms for each in talk.received if shown([each])[0].endswith("down")
    )
    assert talk.state == "ended"


@WAYS
@IN_STATES
@pytest.mark.parametrize("others", [False, True], ids=["alone", "requests behind"])
def test_the_end_of_the_session_answers_the_watch_alone(others, state, served, spoken):
    talk = in_state(state, served, spoken)
    if others:
        behind(talk)
    talk.talk.end_session()
    talk.go_on()
    assert shown(talk.replies()) == answered(state, "session_expired")
    assert talk.state == "ended"


@WAYS
def test_an_unreadable_frame_behind_the_end_of_the_session_is_not_answered(served, spoken):
    talk = prepared("waiting", served, spoken)
    talk.talk.receive_data(UNREADABLE[spoken])
    talk.talk.end_session()
    talk.go_on()
    assert talk.replies() == []
    assert talk.state == "ended"


@pytest.mark.parametrize(
    ("end", "code"), [("drain", "shutting_down"), ("end_session", "session_expired")]
)
def test_a_stream_that_has_more_to_bring_is_ended_all_the_same(end, code):
    talk = prepared("waiting", "auto", "jsonl")
    talk.mail("one", "two", "three")
    talk.begin(talk.frame(4, Watch(after=0, wait=25, window=9, limit=1)))
    getattr(talk.talk, end)()
    talk.go_on()
    assert shown(talk.replies()) == ["4:[1]+", f"4:{code}"]


def test_a_session_that_is_revoked_ends_its_conversations():
    talk = prepared("watching", "auto", "jsonl")
    talk.service.change_password(login(talk.service, "bob"), PASSWORD, "battery staple")
    assert talk.session_ended  # its owner was called, and mail's wake may come as well
    assert shown(talk.wake()) == ["4:session_expired"]
    assert talk.state == "ended"


def test_who_logs_out_is_answered_and_nothing_behind_is():
    talk = prepared("waiting", "auto", "jsonl")
    assert shown(talk.feed(talk.frame(4, Logout()) + talk.frame(5, Ping()))) == ["4:Done"]
    assert talk.state == "ended"


def test_a_drain_goes_before_the_end_of_the_session():
    talk = in_state("looks", "auto", "jsonl")
    behind(talk)
    talk.talk.end_session()
    talk.talk.drain()
    talk.go_on()
    assert shown(talk.replies())[:2] == ["4:shutting_down", "6:shutting_down"]


@WAYS
@IN_STATES
@pytest.mark.parametrize("others", [False, True], ids=["alone", "requests behind"])
def test_the_end_of_input_ends_it_with_what_there_is(others, state, served, spoken):
    talk = in_state(state, served, spoken)
    if others:
        talk.talk.receive_data(talk.frame(6, Status()) + talk.frame(7, STREAM))
    talk.talk.receive_data(talk.frame(8, Ping())[:-1])  # half a frame is none
    said = {
        "waiting": [],
        "asked": ["4:StatusReply"],
        "looks": ["4:[]"],
        "finds": ["4:[1,2]"],
        "watching": ["4:[]"],
    }[state]
    found = "7:[1,2]+" if state == "finds" else None
    said += (["6:StatusReply"] + [found] * bool(found) + ["7:[]"]) * others
    assert shown(talk.end()) == said
    assert talk.state == "ended"


@WAYS
@IN_STATES
def test_who_does_not_read_is_cut(state, served, spoken):
    talk = in_state(state, served, spoken)
    assert talk.talk.cannot_send() == talk.talk.deadline == SETTINGS.write_seconds
    talk.now = SETTINGS.write_seconds - 0.1
    talk.talk.time_is_up()
    assert not talk.talk.ended
    talk.now = SETTINGS.write_seconds
    talk.talk.time_is_up()
    assert talk.talk.ended
    assert talk.talk.cut
    assert talk.talk.fault == "took too long to read what it was sent"
    talk.go_on()  # what it works at has an outcome, and nothing is begun
    assert talk.state == "ended, cut"


def test_who_has_read_may_take_its_time():
    talk = prepared("waiting", "auto", "jsonl")
    talk.talk.cannot_send()
    talk.talk.has_sent()
    assert talk.talk.deadline is None
    talk.now = 100
    talk.talk.time_is_up()
    assert talk.state == "waiting"


# -- what there is at the end of input ------------------------------------------------------


@pytest.mark.parametrize(
    ("watch", "said"),
    [
        (WATCH, ["4:[1,2,3]"]),
        (Watch(after=0, wait=25, limit=2), ["4:[1,2]"]),
        (Watch(after=0, wait=25, window=9), ["4:[1,2,3]"]),
        (Watch(after=0, wait=25, window=9, limit=2), ["4:[1,2]+", "4:[3]"]),
        (Watch(after=0, wait=25, window=2), ["4:[1,2]"]),
    ],
)
def test_mail_that_has_woken_nobody_yet_is_brought_at_the_end_of_input(watch, said):
    talk = prepared("waiting", "auto", "jsonl")
    assert talk.ask(4, watch) == []
    talk.mail("one", "two", "three")
    assert shown(talk.end()) == said
    assert talk.state == "ended"


@pytest.mark.parametrize("wait", [0, 25])
def test_a_stream_whose_peer_has_ended_its_side_brings_all_pages(wait):
    talk = prepared("waiting", "auto", "jsonl")
    talk.mail(*"abcde")
    talk.talk.receive_data(talk.frame(4, Watch(after=0, wait=wait, window=9, limit=2)))
    said = ["4:[1,2]+", "4:[3,4]+"] + (["4:[5]+", "4:[]"] if wait else ["4:[5]"])
    assert shown(talk.end()) == said
    assert talk.state == "ended"


# -- deadlines ------------------------------------------------------------------------------


@WAYS
def test_the_deadline_is_the_next_of_those_that_run(served, spoken):
    talk = prepared("waiting", served, spoken, logged_in=False)
    assert talk.talk.deadline == SETTINGS.login_seconds
    talk.now = 3
    log_in = talk.frame(1, LOGIN)
    talk.feed(log_in[:5])
    assert talk.talk.deadline == SETTINGS.login_seconds  # the frame's is later
    talk.feed(log_in[5:])
    assert talk.talk.deadline is None
    ping = talk.frame(2, Ping())
    talk.feed(ping[:5])
    assert talk.talk.deadline == 3 + SETTINGS.frame_seconds
    talk.now = 5
    talk.feed(ping[5:] + ping[:5])  # another frame, another deadline
    assert talk.talk.deadline == 5 + SETTINGS.frame_seconds
    talk.now = 6
    talk.frame(2, Ping())
    talk.feed(ping[5:6])  # which a byte more does not extend
    assert talk.talk.deadline == 5 + SETTINGS.frame_seconds
    talk.feed(ping[6:])
    talk.ask(4, STREAM)
    assert talk.talk.deadline == 6 + 25
    talk.now = 30
    talk.feed(talk.frame(5, Ping())[:5])
    assert talk.talk.deadline == 6 + 25
    assert shown(talk.wait(1)) == ["4:[]"]
    assert talk.talk.deadline == 30 + SETTINGS.frame_seconds


def test_the_time_of_a_stream_counts_from_its_request():
    talk = prepared("watching", "auto", "jsonl")
    talk.now = 24
    assert shown(talk.deliver("one")) == ["4:[1]+"]
    assert talk.talk.deadline == 25
    assert shown(talk.wait(1)) == ["4:[]"]


@WAYS
@IN_STATES
def test_to_say_too_early_that_the_time_is_up_changes_nothing(state, served, spoken):
    talk = in_state(state, served, spoken)
    talk.now = 7.9
    talk.talk.time_is_up()
    said = {
        "waiting": [],
        "asked": ["4:StatusReply"],
        "looks": [],
        "finds": ["4:[1,2]+"],
        "watching": [],
    }[state]
    talk.go_on()
    assert shown(talk.replies()) == said
    assert talk.state == ("waiting" if state in ("waiting", "asked") else "watching")


@pytest.mark.parametrize(("state", "said"), [("looks", ["4:[]"]), ("finds", ["4:[1,2]"])])
def test_a_watch_whose_time_passes_while_it_looks_ends_by_what_it_finds(state, said):
    talk = in_state(state, "auto", "jsonl")
    talk.now = 26
    talk.talk.time_is_up()
    talk.go_on()
    assert shown(talk.replies()) == said
    assert talk.state == "waiting"


@WAYS
def test_a_login_that_is_being_carried_out_is_not_cut(served, spoken):
    talk = prepared("waiting", served, spoken, logged_in=False)
    talk.begin(talk.frame(4, LOGIN) + talk.frame(5, Ping())[:5])
    talk.now = 100
    talk.talk.time_is_up()
    talk.go_on()
    assert shown(talk.replies()) == ["4:SessionReply"]
    assert talk.talk.deadline == 100 + SETTINGS.frame_seconds


def test_a_frame_whose_time_passes_during_a_look_is_cut_when_that_has_ended():
    talk = prepared("watching", "auto", "jsonl")
    talk.feed(b"{")
    is_woken(talk)
    talk.now = SETTINGS.frame_seconds
    talk.talk.time_is_up()
    talk.go_on()
    assert shown(talk.replies()) == ["4:[1]+"]
    talk.wait(0)
    assert talk.state == "ended, cut"


def test_a_watch_that_was_woken_when_its_time_passed_looks_first():
    talk = prepared("watching", "auto", "jsonl")
    talk.mail("one")
    talk.talk.look_again()
    assert shown(talk.wait(25)) == ["4:[1]"]


def test_of_two_deadlines_that_have_passed_the_one_that_cuts_counts():
    talk = prepared("waiting", "auto", "jsonl", logged_in=False)
    talk.now = 2
    talk.feed(b"{")
    assert talk.wait(100) == []
    assert talk.state == "ended, cut"
    assert talk.talk.fault == "took too long to log in"
    talk = prepared("watching", "auto", "jsonl")
    talk.now = 20
    talk.feed(b"{")
    assert talk.wait(100) == []
    assert talk.state == "ended, cut"
    assert talk.talk.fault == "took too long to finish a frame"


@WAYS
def test_pings_that_never_cease_do_not_extend_the_time_to_log_in(served, spoken):
    talk = prepared("waiting", served, spoken, logged_in=False)
    for now in range(int(SETTINGS.login_seconds)):
        talk.now = now
        assert shown(talk.ask(now, Ping())) == [f"{now}:Done"]
    talk.now = SETTINGS.login_seconds
    assert talk.ask(99, Ping()) == []  # nobody has said that the time is up
    assert talk.state == "ended, cut"


def test_neither_bytes_nor_mail_that_never_cease_extend_the_time_of_a_frame():
    for comes in (lambda talk: talk.feed(b" "), lambda talk: talk.deliver("mail")):
        talk = prepared("waiting", "auto", "jsonl")
        assert talk.ask(4, Watch(after=0, wait=60, window=99)) == []
        talk.feed(b"{")
        for now in range(1, int(SETTINGS.frame_seconds)):
            talk.now = now
            comes(talk)
            assert talk.state == "watching"
        talk.now = SETTINGS.frame_seconds
        comes(talk)
        assert talk.state == "ended, cut"


# -- what is sent when ----------------------------------------------------------------------


@WAYS
def test_replies_are_sent_together_until_there_is_much(served, spoken):
    talk = prepared("waiting", served, spoken)
    requests = b"".join(talk.frame(number, Status()) for number in range(10_000))
    talk.writes.clear()
    talk._read = 0
    talk.talk.receive_data(requests)
    talk.go_on()
    assert len(talk.replies()) == 10_000
    sizes = [len(data) for data in talk.writes]
    assert len(sizes) > 2
    assert all(FLUSH_BYTES <= size < FLUSH_BYTES + 100 for size in sizes[:-1])


def test_the_pages_of_a_stream_are_not_added_to_what_is_full():
    talk = prepared("waiting", "auto", "jsonl")
    talk.mail(*["x" * 15_000] * 5)
    talk.writes.clear()
    talk._read = 0
    requests = [Ping()] * 1_500 + [Watch(after=0, window=9, limit=1)]
    talk.feed(b"".join(talk.frame(number, request) for number, request in enumerate(requests)))
    assert len(talk.writes) == 2
    assert FLUSH_BYTES <= len(talk.writes[0]) < FLUSH_BYTES + 15_500


def test_nothing_is_added_to_what_is_full():
    talk = prepared("waiting", "auto", "jsonl")
    talk.talk.receive_data(b"".join(talk.frame(number, Ping()) for number in range(5_000)))
    while (job := talk.talk.next_job()) is not None:
        talk.talk.finish(talk.service.handle(talk.talk.session, job))
    assert talk.talk.full
    assert talk.talk.urgent
    assert not talk.talk.waits
    assert talk.talk.next_job() is None
    assert len(talk.talk.data_to_send()) >= FLUSH_BYTES
    assert not talk.talk.full
    assert talk.talk.next_job() == Ping()


@WAYS
def test_watches_that_end_each_other_are_answered_however_many_they_are(served, spoken):
    talk = prepared("waiting", served, spoken)
    count = {"jsonl": 5_000, "binary": 20_000}[spoken]  # whose replies are more than one write
    talk.talk.receive_data(b"".join(talk.frame(number, WATCH) for number in range(count)))
    talk.go_on()
    assert len(talk.writes) > 2
    assert shown(talk.replies())[:2] == ["0:[]", "1:[]"]
    assert shown(talk.deliver("one"))[-1] == f"{count - 1}:[1]"
    assert len(talk.received) == count


@WAYS
@pytest.mark.parametrize("watch", [WATCH, STREAM], ids=["one reply", "stream"])
def test_the_end_of_a_watch_that_another_ends_goes_out_with_the_next_bytes(watch, served, spoken):
    talk = prepared("waiting", served, spoken)
    talk.ask(4, watch)
    writes = len(talk.writes)
    assert talk.ask(5, watch) == []
    assert talk.state == "watching"
    assert not talk.talk.urgent
    assert shown(talk.deliver("one"))[0] == "4:[]"
    assert shown(talk.received)[1] in ("5:[1]", "5:[1]+")
    assert len(talk.writes) == writes + 1


@WAYS
def test_the_end_of_a_watch_and_the_reply_that_ended_it_are_one_write(served, spoken):
    talk = prepared("watching", served, spoken)
    writes = len(talk.writes)
    assert shown(talk.ask(5, Ping())) == ["4:[]", "5:Done"]
    assert len(talk.writes) == writes + 1


def test_the_end_of_a_watch_by_time_is_urgent():
    talk = prepared("waiting", "auto", "jsonl")
    talk.ask(4, WATCH)
    talk.ask(5, WATCH)
    talk.now = 25
    talk.talk.time_is_up()
    assert talk.talk.urgent
    assert shown(talk.wait(0)) == ["4:[]", "5:[]"]


# -- watches, one by one --------------------------------------------------------------------


@WAYS
def test_every_watch_looks_once_before_it_can_be_ended(served, spoken):
    talk = prepared("waiting", served, spoken)
    talk.mail(*"abc")
    pipelined = [Watch(after=0, ack=1, wait=25), WATCH, STREAM, Watch(after=3, ack=3), Ping()]
    data = b"".join(talk.frame(number, request) for number, request in enumerate(pipelined, 1))
    assert shown(talk.feed(data)) == [
        "1:[1,2,3]", "2:[1,2,3]", "3:[1,2,3]+", "3:[]", "4:[]", "5:Done",
    ]  # fmt: skip
    assert talk.service.status(talk.bob).position == 3


@WAYS
@pytest.mark.parametrize("wait", [0, 25])
def test_a_watch_before_login_is_refused(wait, served, spoken):
    talk = prepared("waiting", served, spoken, logged_in=False)
    said = talk.feed(talk.frame(4, Watch(after=0, wait=wait, window=3)) + talk.frame(5, Ping()))
    assert shown(said) == ["4:not_logged_in", "5:Done"]
    assert talk.state == "waiting"
    assert shown(talk.ask(6, LOGIN)) == ["6:SessionReply"]


def held(*steps, **settings):
    """Return what a conversation comes to: of requests, numbered from 1, and mail of a few letters.

    Its first watch is a stream, which brings the three messages that are there.
    """
    talk = Conversing(service=make_service(**settings))
    talk.mail("a", "b", "c")
    talk.received.clear()
    number = 0
    for step in (STREAM, *steps):
        if isinstance(step, str):
            talk.deliver(*step)
        else:
            number += 1
            talk.ask(number, step)
    said = shown(talk.received)
    assert said.pop(0) == "1:[1,2,3]+"
    return said


def renew(after, window=4, **fields):
    return Watch(after=after, wait=25, window=window, renew=True, **fields)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        # It goes on where the open stream is, whether it says so or not, ...
        ([renew(1), "d"], ["1:[]", "2:[4]+"]),
        ([Watch(after=1, wait=25, window=4), "d"], ["1:[]", "2:[4]+"]),
        # ... and where one is that has ended.
        (["d", renew(1), "e"], ["1:[4]", "2:[5]"]),
        (["d", Watch(after=1, wait=25, window=4), "e"], ["1:[4]", "2:[2,3,4]+", "2:[5]"]),
        ([Ping(), "d", renew(1)], ["1:[]", "2:Done", "3:[4]+"]),
        ([Ping(), Ping(), renew(1), "d"], ["1:[]", "2:Done", "3:Done", "4:[4]+"]),
        # Its window counts what is under way, and may be full of that.
        ([renew(0), "de"], ["1:[]", "2:[4]"]),
        ([renew(0, window=3)], ["1:[]", "2:[]"]),
        ([renew(0, window=3), "d"], ["1:[]", "2:[]"]),
        # One that does not wait is answered at once.
        ([Watch(after=3, window=4)], ["1:[]", "2:[]"]),
        ([renew(1, window=2), "d"], ["1:[]", "2:[]"]),
        ([renew(0, window=1), "d"], ["1:[]", "2:[]"]),
        ([renew(0, window=2, ack=2), Status()], ["1:[]", "2:[]", "3:StatusReply"]),
        ([renew(2, window=2), "de"], ["1:[]", "2:[4]"]),
        ([renew(3, window=2), "de"], ["1:[]", "2:[4,5]"]),
        ([renew(3, window=2), "d", renew(3, window=2), "e"], ["1:[]", "2:[4]+", "2:[]", "3:[5]"]),
        # A plain watch is none, and neither ends nor begins a stream that could be renewed: ...
        ([Ping(), Watch(after=0), renew(1), "d"], ["1:[]", "2:Done", "3:[1,2,3]", "4:[4]+"]),
        ([Ping(), Watch(after=3), renew(1), "d"], ["1:[]", "2:Done", "3:[]", "4:[4]+"]),
        # ... but what one brings that renews, or ends an open stream, is under way as well.
        ([Ping(), "d", Watch(after=1, renew=True), renew(1), "ef"],
         ["1:[]", "2:Done", "3:[4]", "4:[5]"]),
        ([Watch(after=1, wait=25), "d", renew(1), "ef"], ["1:[]", "2:[4]", "3:[5]"]),
        ([Watch(after=0, limit=1), renew(1), "d"], ["1:[]", "2:[]", "3:[4]+"]),
        # An open plain watch is no open stream, so who ends it begins at its after.
        ([Watch(after=3, wait=25), Watch(after=2, wait=25, window=4)],
         ["1:[]", "2:[]", "3:[3]+"]),
        # A stream that does not renew begins anew, and is then the one that is renewed.
        ([Ping(), Watch(after=0, window=2), renew(1), "d"],
         ["1:[]", "2:Done", "3:[1,2]", "4:[3]+", "4:[4]+"]),
        # What is refused has ended the stream, and it can be renewed.
        ([renew(99), renew(1), "d"], ["1:[]", "2:cursor_invalid", "3:[4]+"]),
        ([renew(1, ack=99), renew(1), "d"], ["1:[]", "2:cursor_invalid", "3:[4]+"]),
        ([renew(0, window=2, ack=99), renew(1), "d"], ["1:[]", "2:cursor_invalid", "3:[4]+"]),
        ([Watch(after=99), "d", renew(1)], ["1:[]", "2:cursor_invalid", "3:[4]+"]),
        # Its after may be beyond what the stream has sent.
        ([Ping(), "def", renew(5)], ["1:[]", "2:Done", "3:[6]+"]),
    ],
)  # fmt: skip
def test_a_renewal_goes_on_where_the_stream_before_it_is(steps, said):
    assert held(*steps) == said


def test_what_is_under_way_beyond_the_largest_window_is_not_kept():
    talk = Conversing(service=make_service(sends_per_second=0))
    talk.mail(*["x"] * 1_600)
    assert shown(talk.ask(2, Watch(after=0, window=1))) == ["2:[1]"]
    for last in range(101, 1_502, 100):  # no watch says that anything was seen
        (page,) = talk.ask(3, Watch(after=0, limit=100, renew=True))
        assert page.reply.messages[-1].seq == last
        assert len(talk.talk._sent.under_way) <= 1_000
    assert shown(talk.ask(4, renew(0, window=1_000))) == ["4:[]"]
    assert shown(talk.ask(5, renew(501, window=1_000))) == ["5:[]"]
    assert shown(talk.ask(6, renew(1_499, window=4))) == ["6:[1502,1503]"]


def test_a_first_watch_that_renews_begins_at_its_after():
    talk = Conversing()
    talk.mail("a", "b", "c")
    assert shown(talk.ask(2, renew(1))) == ["2:[2,3]+"]
    assert shown(talk.ask(3, Ping())) == ["2:[]", "3:Done"]
    talk = Conversing()
    talk.mail("a", "b", "c")
    assert shown(talk.ask(2, Watch(after=1, renew=True))) == ["2:[2,3]"]
    assert shown(talk.ask(3, renew(1))) == ["3:[2,3]+"]  # there was no stream, only a plain watch


def test_the_ack_of_a_renewal_that_has_no_room_is_done():
    talk = Conversing()
    talk.mail("a", "b", "c")
    talk.ask(2, STREAM)
    assert shown(talk.ask(3, renew(1, window=2, ack=1))) == ["2:[]", "3:[]"]
    assert talk.received[-1].reply.position == 1
    assert talk.service.status(talk.bob).position == 1


def test_a_renewal_that_has_seen_all_only_acknowledges():
    talk = Conversing()
    talk.mail("a", "b", "c")
    talk.ask(2, STREAM)
    talk.begin(talk.frame(3, renew(3, ack=2)))
    assert (talk.job.after, talk.job.ack, talk.job.limit) == (3, 2, 0)
    talk.go_on()
    talk.ask(4, renew(3))
    said = talk.wait(25)
    assert shown(said) == ["2:[]", "3:[]", "4:[]"]
    assert [each.reply.position for each in said] == [0, 2, 2]


def test_a_renewal_that_is_refused_for_want_of_a_place_has_ended_the_stream():
    talk = Conversing(service=make_service(watches_per_account=1))
    elsewhere = talk.service.subscribe(talk.bob, lambda: None)
    talk.mail("a", "b", "c")
    assert shown(talk.ask(2, Watch(after=0, window=2))) == ["2:[1,2]"]
    (refused,) = talk.ask(3, renew(0, ack=1))
    assert shown([refused]) == ["3:busy"]
    assert refused.reply.code == Busy.code
    assert talk.service.status(talk.bob).position == 0  # not acknowledged
    assert talk.state == "waiting"
    elsewhere()
    assert shown(talk.ask(4, renew(0))) == ["4:[3]+"]


@WAYS
@pytest.mark.parametrize(
    "body", ["x", "x" * 700, "\n" * 700, "\x01" * 700, "é" * 700, "x" * 16_000, "\x02" * 16_000]
)
@pytest.mark.parametrize("limit", [64, 1000])
def test_a_stream_writes_64_kib_and_a_message_at_most(limit, body, served, spoken):
    talk = Conversing(served, spoken, service=make_service(sends_per_second=0))
    talk.mail(*[body] * 600)
    said = talk.ask(2, Watch(after=0, window=1000, limit=limit, wait=25))
    brought = [each for each in said if each.reply.messages]
    sizes = [talk.size(each) for each in brought]
    assert sum(sizes) <= 65_536 or len(brought[-1].reply.messages) == 1
    assert sum(sizes[:-1]) < 65_536
    ended = not said[-1].more
    assert ended == (sum(sizes) >= 65_536)
    assert ended or sum(len(each.reply.messages) for each in said) == 600
    assert [each.more for each in said] == [True] * (len(said) - ended) + [False] * ended


@WAYS
@pytest.mark.parametrize("receipts", [0, 2])  # for each copy
def test_a_stream_of_all_kinds_writes_64_kib_and_an_entry_at_most(receipts, served, spoken):
    """Its receipts and copies are measured too, and what is cut off begins the next page."""
    talk = Conversing(served, spoken, service=make_service(sends_per_second=0))
    boxes = talk.service.store.mailboxes
    box = talk.service.store.accounts.find("bob").account_id
    enter(talk.service, "c" * 32)
    for number in range(300):
        talk.service.send(talk.bob, "c" * 32, "x" * 150, f"{number}", copy=True)
        for of in range(receipts):
            name = f"{number:04}-{of}" + "y" * 26
            boxes.put_receipt(box, PeerReceipt(name, name, 2**53 - 1, START_MS))
    stream = Watch(after=0, window=1000, limit=1000, wait=25, kinds=tuple(Kind))
    seqs = []
    for _ in range(10):
        said = talk.ask(2, stream)
        brought = [each for each in said if each.reply.entries]
        sizes = [talk.size(each) for each in brought]
        assert sum(sizes) <= 65_536 or len(brought[-1].reply.entries) == 1
        assert sum(sizes[:-1]) < 65_536
        for each in said:
            seqs += [entry.seq for entry in each.reply.entries]
            assert each.reply.seen == seqs[-1]
        if said[-1].more:
            break
        stream = stream.model_copy(update={"after": seqs[-1]})
    assert seqs == list(range(1, 300 * (1 + receipts) + 1))


@WAYS
@pytest.mark.parametrize("data", ["request", "unreadable", "nothing"])
def test_who_is_refused_is_answered_whatever_was_read(data, served, spoken):
    talk = prepared("waiting", served, spoken, logged_in=False)
    ping = talk.frame(5, Ping())
    start = {"request": ping, "unreadable": UNREADABLE[spoken], "nothing": b""}[data]
    talk.talk.refuse(start, Busy("too many", retry_after_ms=1_000))
    answer = talk.talk.data_to_send()
    if data == "nothing" and served == "auto":
        spoken = "jsonl"  # nobody knows better
    codec = transport(spoken).client_codec(4096)
    codec.send(5, Ping())
    codec.receive_data(answer)
    answered = codec.next_event()
    assert answered.reply.code == "busy"
    assert answered.id == (None if data == "nothing" or b"hello" in start else 5)
    assert talk.state == "ended"


def test_an_idle_conversation_holds_no_more_than_it_has_to():
    talk = prepared("waiting", "auto", "jsonl")
    talk.mail("a", "b")
    talk.ask(2, Watch(after=0))
    assert talk.talk._sent is None  # it has no stream
    talk.ask(3, STREAM)
    talk.ask(4, renew(2))
    assert talk.state == "watching"
    assert talk.talk._sent.under_way == []
    assert talk.talk._sent.bytes == 0


def test_a_look_asks_for_what_the_window_has_room_for():
    talk = prepared("waiting", "auto", "jsonl")
    talk.mail("a", "b", "c")
    talk.begin(talk.frame(4, Watch(after=0, ack=0, window=9, limit=2, wait=25)))
    assert talk.job == Look(0, 0, 2, 65_536, follow=True)
    talk.job = None
    talk.talk.finish(talk.service.look(talk.talk.session, Look(0, 0, 2, 65_536, follow=True)))
    sent = len(talk.talk.data_to_send())
    assert talk.talk.next_job() == Look(2, None, 2, 65_536 - sent, follow=True)


@pytest.mark.parametrize(
    ("before", "said"), [([], ["4:[1]+"]), (["one"], ["4:[1]+", "4:[2]+"])], ids=["none", "some"]
)
def test_a_wake_that_comes_while_a_look_is_under_way_is_kept(before, said):
    talk = prepared("waiting", "auto", "jsonl")
    talk.mail(*before)
    talk.begin(talk.frame(4, STREAM))
    page = talk.service.handle(talk.talk.session, talk.job)
    talk.mail("comes too late for that look")
    talk.talk.look_again()
    talk.talk.finish(page)
    talk.job = None
    talk.go_on()
    assert shown(talk.replies()) == said


# -- however it is cut ----------------------------------------------------------------------

SCRIPT = (
    Ping(),
    LOGIN,
    Send(to="bob", body="one"),
    Send(to="bob", body="two\n"),
    Watch(after=0, wait=25),
    Watch(after=0, wait=25, window=5, limit=1),
    None,  # what cannot be read
    Send(to="bob", body="three"),
    Watch(after=1, ack=1, wait=25, window=3, renew=True),
    Watch(after=9, wait=25, window=3, renew=True),
    Watch(after=2, wait=25, window=3, renew=True),
    Ack(up_to=2),
    Watch(after=2, wait=25),
    Send(to="bob", body="four"),
    Watch(after=3, wait=25),
    Watch(after=4, wait=25, window=3),
)
SCRIPT_SAID = (
    "1:Done 2:SessionReply 3:SentReply 4:SentReply 5:[1,2] 6:[1]+ 6:[2]+ 6:[] E 8:SentReply "
    "9:[3]+ 9:[] 10:cursor_invalid 11:[] 12:AckReply 13:[3] 14:SentReply 15:[4] 16:[]"
)


def scripted(talk):
    """Return the bytes of a conversation whose peer says all that it has to say at once."""
    said = b""
    for number, request in enumerate(SCRIPT, 1):
        if request is not None:
            said += talk.frame(number, request)
        elif talk.spoken == "jsonl":
            said += line("{")
        else:
            talk.frame(number, Ping())
            said += frame(bytes([number]), kind=0x70)
    return said


def converse(served, spoken, cuts, end):
    """Hold the conversation, cut at places; return what was said, how it ended, and the bytes."""
    talk = Conversing(served, spoken, logged_in=False)
    said = scripted(talk)
    tail = talk.frame(17, Ping())
    said += {"half a frame": tail[:-1], "fatal": ENDLESS[spoken] + tail}.get(end, b"")
    places = range(len(said)) if cuts == "each byte" else [cuts] if cuts else []
    talk.feed(*cut(said, places))
    if end in ("end of input", "half a frame"):
        talk.end()
    elif end == "time":
        talk.wait(25)
    now = talk.talk
    return talk, (talk.sent, talk.state, now.fault, now.deadline, now.watches)


ENDS = {
    "time": "waiting",
    "end of input": "ended",
    "half a frame": "ended",
    "fatal": "ended",
}


@WAYS
@pytest.mark.parametrize("end", ENDS)
def test_what_is_said_does_not_depend_on_the_cuts(end, served, spoken):
    talk, whole = converse(served, spoken, None, end)
    said = re.sub(r"(7|None):\w+", "E", " ".join(shown(talk.received)))
    assert said == SCRIPT_SAID + (" E" if end == "fatal" else "")
    assert talk.state == ENDS[end]
    assert converse(served, spoken, "each byte", end)[1] == whole


@pytest.mark.parametrize("spoken", ["jsonl", "binary"])
def test_what_is_said_does_not_depend_on_where_it_is_cut(spoken):
    """On ``auto``, which hands over to the other two."""
    _, whole = converse("auto", spoken, None, "time")
    for place in range(1, len(scripted(Conversing("auto", spoken, logged_in=False)))):
        assert converse("auto", spoken, place, "time")[1] == whole


@WAYS
@pytest.mark.parametrize("behind", [Ping(), STREAM, None], ids=["ping", "watch", "unreadable"])
@pytest.mark.parametrize("watch", [WATCH, STREAM], ids=["one reply", "stream"])
def test_half_a_frame_leaves_a_watch_open_wherever_it_is_cut(watch, behind, served, spoken):
    """Mail comes after the first half: it is brought before the end, whatever has arrived."""
    talks = []
    talk = Conversing(served, spoken)
    length = len(UNREADABLE[spoken] if behind is None else talk.frame(5, behind))
    for place in range(length):
        talk = Conversing(served, spoken)
        assert talk.ask(4, watch) == []
        data = talk.frame(5, behind or Ping())
        data = UNREADABLE[spoken] if behind is None else data
        talk.feed(data[:place])
        assert talk.state == "watching"
        assert (talk.talk.deadline == SETTINGS.frame_seconds) == (place > 0)
        talk.deliver("one")
        talk.feed(data[place:])
        talk.wait(25)
        talks.append((talk.sent, talk.state))
    assert len(set(talks)) == 1
    said = shown(talk.received)[1:]
    assert said[0] == ("4:[1]" if watch is WATCH else "4:[1]+")
    assert talk.state == "waiting"


@WAYS
def test_what_stands_behind_the_end_is_not_read(served, spoken):
    talk = prepared("watching", served, spoken)
    talk.talk.receive_data(ENDLESS[spoken] + talk.frame(5, Ping()))
    talk.go_on()
    assert len(talk.replies()) == 2
    assert talk.state == "ended"
    assert talk.feed(talk.frame(6, Ping())) == []


@pytest.mark.parametrize("start", [b"\x16\x03\x01", b"\x00"])
@pytest.mark.parametrize("size", [100, 1])
def test_what_begins_no_transport_is_answered_and_ended(start, size):
    talk = prepared("waiting", "auto", "jsonl", logged_in=False)
    pieces = [start[at : at + size] for at in range(0, len(start), size)]
    assert shown(talk.feed(*pieces)) == ["None:bad_request"]
    assert talk.state == "ended"
