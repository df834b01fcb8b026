"""The transport keeps the contract, and twinline finds it by its name."""

from twinline_msgpack.transport import MsgpackTransport

from twinline.transports.binary import BinaryTransport
from twinline.transports.conformance import check_transport
from twinline.transports.jsonl import JsonlTransport
from twinline.transports.registry import transport


def test_it_keeps_the_contract() -> None:
    check_transport(MsgpackTransport(), others=[BinaryTransport(), JsonlTransport()])


def test_it_is_found_by_its_name() -> None:
    assert isinstance(transport("msgpack"), MsgpackTransport)
