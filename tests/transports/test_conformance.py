"""The transport kit: every built-in keeps all its rules, and each seeded fault breaks one."""

import re

import pytest
from codec_plugin import Hola
from seeded_faults_transports import FAULTS, faulty

from twinline.core import protocol
from twinline.core.protocol import Done, Flag, Request, Text, Uint
from twinline.transports import conformance, registry
from twinline.transports.auto import AutoTransport
from twinline.transports.conformance import RULES, ConformanceError, check_transport
from twinline.transports.conformance.samples import replies, requests
from twinline.transports.contract import Transport
from twinline.transports.jsonl import JsonlServerCodec
from twinline.transports.registry import transport, transport_names
from twinline.transports.websocket import WebSocketTransport


class AutoInBinary(AutoTransport):
    """Every transport on one port, for a client that speaks binary frames."""

    def __init__(self) -> None:
        super().__init__([transport("jsonl"), transport("binary")])

    def client_codec(self, frame_limit):
        return transport("binary").client_codec(frame_limit)


BUILT_IN: dict[str, tuple[Transport, list[str]]] = {
    "jsonl": (transport("jsonl"), ["binary", "websocket"]),
    "binary": (transport("binary"), ["jsonl", "websocket"]),
    "websocket": (transport("websocket"), ["jsonl", "binary"]),
    "websocket, in binary": (WebSocketTransport([transport("binary")]), ["jsonl", "binary"]),
    "auto": (transport("auto"), []),
    "auto, in binary": (AutoInBinary(), []),
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_transport_keeps_every_rule(name: str) -> None:
    spoken, others = BUILT_IN[name]
    report = check_transport(spoken, others=[transport(other) for other in others])
    assert report.rules == tuple(rule.name for rule in RULES)
    assert report.skipped == ()
    assert report.checks > 1_000


def test_no_built_in_transport_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    assert set(transport_names()) <= BUILT_IN.keys()


@pytest.mark.parametrize(("what", "broken", "rule"), FAULTS, ids=[what for what, _, _ in FAULTS])
def test_a_seeded_fault_is_found(what: str, broken: Transport, rule: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_transport(broken, only=[rule])
    (failure,) = caught.value.failures
    assert failure.name == rule
    assert failure.evidence
    assert failure.sentence in str(caught.value)


def test_every_rule_has_a_fault_that_breaks_it() -> None:
    assert {rule for _, _, rule in FAULTS} == {rule.name for rule in RULES}


def test_all_failures_are_told_at_once_and_the_rest_is_still_checked() -> None:
    class Wrong(JsonlServerCodec):
        mid_frame = False

    broken = faulty(Wrong, recognises=lambda start: False)
    chosen = (6, 9, 11, 14, 22, 24)
    with pytest.raises(ConformanceError) as caught:
        check_transport(broken, only=[rule.name for rule in RULES if rule.number in chosen])
    error = caught.value
    assert [failure.name for failure in error.failures] == [
        "mid_frame_is_right",
        "its_own_beginnings_are_recognised",
    ]
    assert len(error.report.rules) == len(chosen) - 2
    assert str(error).startswith("the transport 'faulty' does not keep 2 of 6 rules\nrule 11 ")


def test_a_transport_that_does_not_see_its_greeting_in_pieces_is_found() -> None:
    """The plug-in of the registry's tests takes its greeting for whole: good enough there."""
    with pytest.raises(ConformanceError, match=r"rule 22 .* does not hold"):
        check_transport(Hola(), only=["its_own_beginnings_are_recognised"])


def test_a_transport_that_has_no_layout_for_a_new_request_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Invite(Request):
        op = "invite"
        reply = Done
        who: Text
        seats: Uint = 1
        loud: Flag = False

    monkeypatch.setattr(protocol, "REQUESTS", (*protocol.REQUESTS, Invite))
    assert Invite(who="x") in requests()
    assert any(isinstance(asked, Invite) for asked, _ in replies())
    with pytest.raises(ConformanceError, match="Invite"):
        check_transport(transport("binary"), only=["requests_arrive"])


def test_the_docstring_lists_every_rule() -> None:
    listed = re.sub(r"\n +", " ", conformance.__doc__ or "")
    for rule in RULES:
        assert f"\n{rule.number}. {rule.sentence}\n" in listed
    assert [rule.number for rule in RULES] == list(range(1, len(RULES) + 1))


def test_progress_is_told_and_a_rule_can_be_chosen() -> None:
    told: list[tuple[int, int, str]] = []
    report = check_transport(
        transport("binary"),
        only=["ids_are_echoed", "bytes_are_handed_out_once"],
        progress=lambda done, total, sentence: told.append((done, total, sentence)),
    )
    assert report.rules == ("ids_are_echoed", "bytes_are_handed_out_once")
    assert told == [(0, 2, RULES[5].sentence), (1, 2, RULES[8].sentence)]
    assert str(report) == f"the transport 'binary' keeps 2 rules ({report.checks} checks)"
    with pytest.raises(ValueError, match="no_such_rule"):
        check_transport(transport("binary"), only=["no_such_rule"])


def test_one_seed_gives_one_run() -> None:
    runs = [
        check_transport(transport("binary"), only=["recognition_is_final"], seed=seed).checks
        for seed in (1, 1)
    ]
    assert runs[0] == runs[1]
