"""The checker: each verdict by hand, and that it accuses the faulty alone."""

import io
import json
import tracemalloc

import pytest
from history_samples import Fault, Script, simulated
from hypothesis import given, settings
from hypothesis import strategies as st

from twinline.stores.conformance.history import (
    Anomaly,
    Event,
    HistoryError,
    Judgement,
    Op,
    Outcome,
    Recorder,
    Verdict,
    read_history,
    write_history,
)
from twinline.stores.conformance.history.checker import EXAMPLES, Checker

EXPECTED = {
    Fault.ACK_BEFORE_COMMIT: {Anomaly.LOST},
    Fault.DROP: {Anomaly.LOST},
    Fault.SWAP: {Anomaly.REORDERED},
    Fault.GLOBAL_SEQUENCE: {Anomaly.SKIPPED},
    Fault.REUSE: {Anomaly.DIVERGED, Anomaly.SKIPPED},
    Fault.INVENT: {Anomaly.UNEXPECTED},
    Fault.ABORT: {Anomaly.ABORTED},
    Fault.REPEAT: {Anomaly.DUPLICATES},
    Fault.REDELIVER: {Anomaly.DUPLICATES},
    Fault.MISDELIVER: {Anomaly.LOST, Anomaly.UNEXPECTED},
}


def judged(script: Script) -> Judgement:
    return Checker.over(script.events).judge()


# -- each verdict, by hand --------------------------------------------------------------

CLEAN = {
    "all delivered": Script().sent("a", "b").came(1, "a").came(2, "b").drained(),
    "unknown and delivered": Script().invoke("a").info("a").came(1, "a").drained(),
    "unknown and not delivered": (
        Script().sent("a").invoke("b").info("b").came(1, "a").drained()
    ),
    "never answered and delivered": Script().invoke("a").came(1, "a").drained(),
    "failed and not delivered": Script().sent("a").invoke("b").fail("b").came(1, "a").drained(),
    "unknown, then refused, and delivered": (
        Script().invoke("a").info("a").invoke("a").fail("a").came(1, "a").drained()
    ),
    "received before it was acknowledged": (
        Script().invoke("a").came(1, "a").ok("a").drained()
    ),
    "redelivered to the next life of the reader": (
        Script().sent("a").came(1, "a", "bob.0").came(1, "a", "bob.1").drained()
    ),
    "sent at the same time, in either order": (
        Script().invoke("a").invoke("b").ok("a").ok("b").came(1, "b").came(2, "a").drained()
    ),
    "an unknown one overtaken": (
        Script().invoke("a").info("a").sent("b").came(1, "b").came(2, "a").drained()
    ),
    "two senders in either order": (
        Script().sent("a").sent("b", sender="eve").came(1, "b").came(2, "a").drained()
    ),
    "one seq in two mailboxes": (
        Script()
        .sent("a").sent("b", box="other")
        .came(1, "a").came(1, "b", box="other")
        .drained().drained(box="other")
    ),
    "a gap": Script().sent("a", "b").came(1, "a").came(7, "b").drained(),
    "read as well": Script().sent("a").came(1, "a").read(1, "a").drained(),
    "with a copy and a receipt": (
        Script().talked("a", 5).copied(1, "a", 5).came(1, "a").told(2, 5).settled().ended()
    ),
    "unknown, with mail and no copy": (
        Script().talked("a", 5, Outcome.INFO).came(1, "a").ended()
    ),
    "unknown, with mail and a copy, and told": (
        Script().talked("a", 5, Outcome.INFO).copied(1, "a", 5).came(1, "a").told(2, 5).ended()
    ),
    "unknown, with mail and no copy, and told": (
        Script().talked("a", 5, Outcome.INFO).came(1, "a").told(1, 5).settled().ended()
    ),
    "failed, without a copy": (
        Script().talked("a", 5).talked("b", 6, Outcome.FAIL)
        .copied(1, "a", 5).came(1, "a").ended()
    ),
    "told before the reply": (
        Script().add("ann", Op.SEND, Outcome.INVOKE, message="a", peer="ann")
        .came(1, "a").told(2, 5).copied(3, "a", 5).talked("a", 5).ended()
    ),
    "a receipt of each, by two devices in either order": (
        Script().talked("a", 5).talked("b", 6).copied(1, "a", 5).copied(2, "b", 6)
        .came(1, "a").came(2, "b").told(4, 6, "desk.1").told(3, 5, "phone").settled().ended()
    ),
    "a copy again to the next life of the device": (
        Script().talked("a", 5).came(1, "a").copied(1, "a", 5).copied(1, "a", 5, worker="desk.1")
        .told(2, 5).told(2, 5, "desk.1").settled().ended()
    ),
    "acked as well": Script().sent("a").came(1, "a").acked(1).sent("b").came(2, "b").drained(),
}  # fmt: skip


@pytest.mark.parametrize("script", CLEAN.values(), ids=CLEAN)
def test_what_is_allowed_is_not_accused(script: Script) -> None:
    judgement = judged(script)
    assert judgement.violations == {}
    assert judgement.verdict is Verdict.OK


WRONG = {
    "acknowledged, drained, not received": (
        Script().sent("a", "b").came(1, "a").drained(), {Anomaly.LOST: 1}),
    "acknowledged, and the mailbox is gone": (
        Script().sent("a", "b").came(1, "a").drained(Outcome.FAIL), {Anomaly.LOST: 1}),
    "acknowledged at the second attempt, not received": (
        Script().sent("a").invoke("b").info("b").invoke("b").ok("b").came(1, "a").drained(),
        {Anomaly.LOST: 1}),
    "received, never sent": (
        Script().sent("a").came(1, "a").came(2, "x").drained(), {Anomaly.UNEXPECTED: 1}),
    "read, never sent": (
        Script().sent("a").came(1, "a").read(2, "x").drained(), {Anomaly.UNEXPECTED: 1}),
    "received in another mailbox": (
        Script().sent("a").came(1, "a", box="other").drained(),
        {Anomaly.LOST: 1, Anomaly.UNEXPECTED: 1}),
    "failed and received": (
        Script().invoke("a").fail("a").came(1, "a").drained(), {Anomaly.ABORTED: 1}),
    "failed twice and received": (
        Script().invoke("a").fail("a").invoke("a").fail("a").came(1, "a").drained(),
        {Anomaly.ABORTED: 1}),
    "twice to one reader": (
        Script().sent("a").came(1, "a").came(1, "a").drained(), {Anomaly.DUPLICATES: 1}),
    "under two seqs": (
        Script().sent("a").came(1, "a").came(2, "a").drained(), {Anomaly.DUPLICATES: 1}),
    "under two seqs, to two lives of a reader": (
        Script().sent("a").came(1, "a", "bob.0").came(2, "a", "bob.1").drained(),
        {Anomaly.DUPLICATES: 1}),
    "swapped": (
        Script().sent("a", "b").came(1, "b").came(2, "a").drained(), {Anomaly.REORDERED: 1}),
    "two messages at one seq": (
        Script().sent("a", "b", sender="ann").came(1, "a").came(2, "b").read(2, "a").drained(),
        {Anomaly.DIVERGED: 1, Anomaly.DUPLICATES: 1}),
    "a seq given out again": (
        Script().sent("a").came(1, "a").sent("b").came(1, "b", "bob.1").drained(),
        {Anomaly.DIVERGED: 1, Anomaly.SKIPPED: 1}),
    "below what was received": (
        Script().sent("a").sent("b", sender="eve").came(2, "b").came(1, "a").drained(),
        {Anomaly.SKIPPED: 1}),
    "below what was received, and only read": (
        Script().sent("a").sent("b", sender="eve").came(2, "b").read(1, "a").drained(),
        {Anomaly.LOST: 1, Anomaly.SKIPPED: 1}),
    "below what the same reader had, when it came again": (
        Script().sent("a", "b").came(1, "a", "bob.0").came(2, "b", "bob.0")
        .came(2, "b", "bob.1").came(1, "a", "bob.1").drained(),
        {Anomaly.SKIPPED: 1}),
    "acknowledged with a copy, drained, and none received": (
        Script().talked("a", 5).came(1, "a").ended(), {Anomaly.UNCOPIED: 1}),
    "a copy alone of two": (
        Script().talked("a", 5).talked("b", 6).came(1, "a").came(2, "b").copied(1, "b", 6).ended(),
        {Anomaly.UNCOPIED: 1}),
    "a copy, and no mail": (
        Script().sent("x").came(1, "x").talked("a", 5).copied(1, "a", 5).ended(),
        {Anomaly.LOST: 1}),
    "a copy of what was sent without": (
        Script().sent("a").came(1, "a").copied(1, "a", 5).ended(), {Anomaly.UNEXPECTED: 1}),
    "a copy of what had failed": (
        Script().sent("x").came(1, "x").talked("a", 5, Outcome.FAIL).copied(1, "a", 5).ended(),
        {Anomaly.ABORTED: 1}),
    "two copies": (
        Script().talked("a", 5).came(1, "a").copied(1, "a", 5).copied(2, "a", 5).ended(),
        {Anomaly.DUPLICATES: 1}),
    "copies in another order": (
        Script().talked("a", 5).talked("b", 6).came(1, "a").came(2, "b")
        .copied(1, "b", 6).copied(2, "a", 5).ended(), {Anomaly.REORDERED: 1}),
    "a copy below another entry": (
        Script().talked("a", 5).came(1, "a").told(2, 5).copied(1, "a", 5).ended(),
        {Anomaly.SKIPPED: 1}),
    "a copy and a receipt at one seq": (
        Script().talked("a", 5).came(1, "a").copied(1, "a", 5).told(1, 5, "phone").ended(),
        {Anomaly.DIVERGED: 1}),
    "a copy with another n": (
        Script().talked("a", 5).came(1, "a").copied(1, "a", 6).ended(), {Anomaly.MISMATCHED: 1}),
    "a copy with another id": (
        Script().talked("a", 5).came(1, "a").copied(1, "a", 5, given="x").ended(),
        {Anomaly.MISMATCHED: 1}),
    "a copy to another": (
        Script().talked("a", 5).came(1, "a").copied(1, "a", 5, to="other").ended(),
        {Anomaly.MISMATCHED: 1}),
    "its copy with another n, which came before the reply": (
        Script().add("ann", Op.SEND, Outcome.INVOKE, message="a", peer="ann")
        .copied(1, "a", 6).came(1, "a").talked("a", 5).told(2, 5).settled().ended(),
        {Anomaly.MISMATCHED: 1}),
    "told before it was received": (
        Script().talked("a", 5).copied(1, "a", 5).told(2, 5).came(1, "a").ended(),
        {Anomaly.PREMATURE: 1}),
    "told, and never received": (
        Script().sent("x").came(1, "x").talked("a", 5).copied(1, "a", 5).told(2, 5).ended(),
        {Anomaly.PREMATURE: 1, Anomaly.LOST: 1}),
    "told of what nobody sent": (
        Script().talked("a", 5).copied(1, "a", 5).came(1, "a").told(2, 6).ended(),
        {Anomaly.PREMATURE: 1}),
    "told, and told of less": (
        Script().talked("a", 5).talked("b", 6).copied(1, "a", 5).copied(2, "b", 6)
        .came(1, "a").came(2, "b").told(3, 6).told(4, 5).ended(), {Anomaly.REGRESSED: 1}),
    "told the same twice": (
        Script().talked("a", 5).copied(1, "a", 5).came(1, "a").told(2, 5).told(3, 5).ended(),
        {Anomaly.REGRESSED: 1}),
    "one receipt twice to one device": (
        Script().talked("a", 5).copied(1, "a", 5).came(1, "a").told(2, 5).told(2, 5).ended(),
        {Anomaly.SKIPPED: 1}),
    "never told": (
        Script().talked("a", 5).copied(1, "a", 5).came(1, "a").settled().ended(),
        {Anomaly.UNTOLD: 1}),
    "told of less than came": (
        Script().talked("a", 5).talked("b", 6).copied(1, "a", 5).copied(2, "b", 6)
        .came(1, "a").told(3, 5).came(2, "b").settled().ended(), {Anomaly.UNTOLD: 1}),
    "below what was acked": (
        Script().sent("a").acked(3).came(2, "a").drained(), {Anomaly.SKIPPED: 1}),
}  # fmt: skip


@pytest.mark.parametrize(("script", "found"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_found(script: Script, found: dict[Anomaly, int]) -> None:
    judgement = judged(script)
    assert judgement.violations == found
    assert judgement.verdict is Verdict.VIOLATED
    for finding in judgement.findings:
        assert len(finding.examples) == finding.count
        assert (finding.bound is None) or not finding.count


UNSURE = {
    "nothing happened": Script(),
    "nothing was delivered": Script().sent("a").drained(),
    "not drained": Script().sent("a", "b").came(1, "a"),
    "the drain did not end": Script().sent("a", "b").came(1, "a").drained(Outcome.INFO),
    "all received, and never drained": Script().sent("a").came(1, "a"),
    "all received, and the drain did not end": (
        Script().sent("a").came(1, "a").drained(Outcome.INFO)
    ),
    "all received, and the mailbox gone": Script().sent("a").came(1, "a").drained(Outcome.FAIL),
    "one mailbox of two was drained": (
        Script().sent("a").came(1, "a").drained().sent("b", box="other").came(1, "b", box="other")
    ),
    "the sender's mailbox was not drained": (
        Script().talked("a", 5).came(1, "a").copied(1, "a", 5).drained()
    ),
    "the copy did not come, and the drain did not end": (
        Script().talked("a", 5).came(1, "a").drained().drained(Outcome.INFO, box="ann")
    ),
    "drained before the last send": Script().sent("a").came(1, "a").drained().sent("b"),
    "drained before the last acknowledgement": (
        Script().sent("a").came(1, "a").invoke("b").drained().ok("b")
    ),
}


@pytest.mark.parametrize("script", UNSURE.values(), ids=UNSURE)
def test_what_shows_nothing_is_unknown(script: Script) -> None:
    assert judged(script).verdict is Verdict.UNKNOWN


def test_it_counts() -> None:
    script = Script().sent("a", "b").invoke("c").fail("c").invoke("d").info("d").invoke("e")
    script.came(1, "a", "bob.0").came(1, "a", "bob.1").came(2, "b", "bob.1").read(1, "a").drained()
    judgement = judged(script)
    assert judgement.model_dump(exclude={"findings"}) == {
        "attempted": 5,
        "acknowledged": 2,
        "failed": 1,
        "undecided": 2,
        "delivered": 2,
        "copies": 0,
        "receipts": 0,
        "handed": 3,
        "redelivered": 1,
        "undrained": 0,
        "unread": 0,
    }
    cases = {finding.anomaly: finding.cases for finding in judgement.findings}
    assert cases[Anomaly.LOST] == 2
    assert cases[Anomaly.ABORTED] == 1
    assert cases[Anomaly.DUPLICATES] == 3
    assert cases[Anomaly.DIVERGED] == 4


def test_it_counts_copies_and_receipts_apart() -> None:
    script = Script().talked("a", 5).talked("b", 6, Outcome.INFO).talked("c", 7, Outcome.FAIL)
    script.came(1, "a").copied(1, "a", 5).told(2, 5).told(2, 5, "phone").settled().ended()
    judgement = judged(script)
    assert judgement.model_dump(exclude={"findings"}) == {
        "attempted": 3,
        "acknowledged": 1,
        "failed": 1,
        "undecided": 1,
        "delivered": 1,
        "copies": 1,
        "receipts": 2,
        "handed": 2,
        "redelivered": 0,
        "undrained": 0,
        "unread": 0,
    }
    cases = {finding.anomaly: finding.cases for finding in judgement.findings}
    assert cases[Anomaly.LOST] == cases[Anomaly.UNCOPIED] == 1
    assert cases[Anomaly.ABORTED] == 2
    assert (cases[Anomaly.PREMATURE], cases[Anomaly.REGRESSED], cases[Anomaly.UNTOLD]) == (1, 2, 1)


def test_nothing_found_in_so_many_is_bounded_by_the_rule_of_three() -> None:
    script = Script()
    for number in range(1, 1001):
        script.sent(str(number)).came(number, str(number))
    (lost, *_) = judged(script.drained()).findings
    assert lost.anomaly is Anomaly.LOST
    assert lost.bound == pytest.approx(0.003)
    assert {f.anomaly for f in judged(script).findings if f.bound is None} == {
        Anomaly.ABORTED,
        Anomaly.UNCOPIED,
        Anomaly.PREMATURE,
        Anomaly.REGRESSED,
        Anomaly.UNTOLD,
    }


def test_it_names_a_few_and_counts_all() -> None:
    script = Script().sent("a").came(1, "a").sent(*(f"lost-{number}" for number in range(100)))
    lost = judged(script.drained()).findings[0]
    assert lost.count == 100
    assert lost.examples == tuple(f"lost-{number} in box" for number in range(EXAMPLES))


# -- simulated runs ---------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_a_correct_run_is_never_accused(seed: int) -> None:
    judgement = Checker.over(simulated(seed)).judge()
    assert judgement.violations == {}
    assert judgement.verdict is Verdict.OK


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(list(Fault)))
def test_a_run_with_one_fault_is_always_accused_of_it(seed: int, fault: Fault) -> None:
    judgement = Checker.over(simulated(seed, fault, sends=200)).judge()
    assert EXPECTED[fault] <= judgement.violations.keys(), (judgement, fault)
    assert judgement.verdict is Verdict.VIOLATED


@pytest.mark.parametrize("fault", Fault)
def test_each_fault_is_caught_once_in_a_thousand(fault: Fault) -> None:
    judgement = Checker.over(simulated(1, fault, sends=1000)).judge()
    for anomaly in EXPECTED[fault]:
        assert judgement.count(anomaly) in (1, 2), judgement


def test_each_fault_has_a_history_of_its_own() -> None:
    histories = {tuple(simulated(1, fault, sends=50)) for fault in Fault}
    assert len(histories) == len(Fault)


# -- lines and recording ----------------------------------------------------------------


@given(st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_a_history_survives_being_written(seed: int) -> None:
    events = simulated(seed, sends=50)
    file = io.StringIO()
    write_history(file, events)
    file.seek(0)
    assert list(read_history(file)) == events


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", '{"at":1}', '{"at":NaN,"worker":"a","op":"send","outcome":"ok"}']
)
def test_a_line_that_is_no_event_is_named(line: str) -> None:
    good = Script().sent("a").events[0].model_dump_json()
    with pytest.raises(HistoryError, match="line 2 is no event"):
        list(read_history([good, line]))


def test_what_is_recorded_is_told_and_taken_once() -> None:
    checker = Checker()
    recorder = Recorder([checker], clock=iter([1.5, 2.5, 3.5]).__next__)
    recorder.record("ann", Op.SEND, Outcome.INVOKE, "box", message="a")
    recorder.record("ann", Op.SEND, Outcome.OK, "box", message="a")
    first = recorder.take()
    recorder.record("bob", Op.RECEIVE, Outcome.OK, "box", message="a", seq=1)
    assert [event.at for event in first] == [1.5, 2.5]
    assert recorder.take() == [
        Event(
            at=3.5,
            worker="bob",
            op=Op.RECEIVE,
            outcome=Outcome.OK,
            mailbox="box",
            message="a",
            seq=1,
        )
    ]
    assert recorder.take() == []
    assert checker.judge().delivered == 1


def test_it_keeps_no_events() -> None:
    """A stream of redeliveries, which is long and tells little, leaves little behind."""
    checker = Checker.over(Script().sent("a").came(1, "a").events)
    again = Script().came(1, "a").events[0]
    tracemalloc.start()
    try:
        for _ in range(20_000):
            checker.feed(again)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 20_000


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"op": "send", "outcome": "invoke"}, "this send has no message"),
        ({"op": "receive", "outcome": "ok", "seq": 1}, "this receive has no message"),
        ({"op": "receive", "outcome": "ok", "message": "a"}, "this receive has no seq"),
        ({"op": "ack", "outcome": "ok"}, "this ack has no seq"),
        ({"op": "receipt", "outcome": "ok", "peer": "x", "n": 1}, "this receipt has no seq"),
        ({"op": "receipt", "outcome": "ok", "peer": "x", "seq": 1}, "this receipt has no n"),
        ({"op": "receipt", "outcome": "ok", "seq": 1, "n": 1}, "this receipt has no peer"),
        ({"op": "settle", "outcome": "ok"}, "this settle has no peer"),
        ({"op": "settle", "outcome": "fail", "peer": "x"}, "no settle has the outcome fail"),
        ({"op": "ack", "outcome": "info", "seq": 1}, "no ack has the outcome info"),
        ({"op": "drain", "outcome": "invoke"}, "no drain has the outcome invoke"),
        ({"op": "read", "outcome": "fail", "message": "a"}, "no read has the outcome fail"),
        ({"op": "receive", "outcome": "info", "message": "a"}, "no receive has the outcome info"),
    ],
)
def test_an_event_that_says_too_little_is_no_event(fields: dict[str, object], says: str) -> None:
    line = json.dumps({"at": 1, "worker": "bob", "mailbox": "box", **fields})
    with pytest.raises(HistoryError, match=f"line 1 is no event: .*{says}"):
        list(read_history([line]))


def test_an_outcome_without_its_beginning_tells_of_an_attempt() -> None:
    judgement = judged(Script().ok("a").came(1, "a").drained())
    assert (judgement.attempted, judgement.acknowledged, judgement.undecided) == (1, 1, 0)
    assert judgement.verdict is Verdict.OK
