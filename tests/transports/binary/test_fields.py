"""The fields of a frame: varints, and the layout of a model."""

import pytest
from pydantic import create_model

from twinline.core.protocol import MAX_INT, Message, Reply, Text, Uint
from twinline.transports.binary.fields import Layout, MalformedError, read_uint, write_uint


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (16_383, "ff7f"),
        (16_384, "808001"),
        (2**49 - 1, "ffffffffffff7f"),
        (2**49, "8080808080808001"),
        (MAX_INT, "ffffffffffffff0f"),
        (2**56 - 1, "ffffffffffffff7f"),
    ],
)
def test_varints(value, data):
    out = write_uint(value)
    assert out.hex() == data
    assert read_uint(bytearray(out + b"\x07"), 0) == (value, len(out))
    assert read_uint(bytearray(b"\x07" + out), 1) == (value, 1 + len(out))
    with pytest.raises(IndexError):
        read_uint(bytearray(out[:-1]), 0)


@pytest.mark.parametrize("data", ["8000", "ff00", "80808080808000", "808080808080808001"])
def test_varints_that_are_none(data):
    with pytest.raises(MalformedError):
        read_uint(bytearray.fromhex(data), 0)


def test_a_field_with_a_default_may_stand_before_one_without():
    model = create_model("Early", __base__=Reply, a=(Uint, 7), b=(Text, ...), c=(Uint | None, None))
    layout = Layout(model)
    assert (layout.bits, layout.known_flags) == ({"a": 1, "c": 2}, 3)
    assert layout.write(model(a=8, b="x", c=0)) == (3, b"\x08\x01x\x00")
    assert layout.read(bytearray(b"\x08\x01x\x00"), 0, 3) == ({"a": 8, "b": "x", "c": 0}, 4)
    assert layout.read(bytearray(b"\x01x"), 0, 0) == ({"b": "x"}, 2)


def test_an_object_in_a_frame_has_its_presence_bits_in_front():
    layout = Layout(create_model("Outer", __base__=Reply, some=(tuple[Message, ...], ...)))
    mail = Message(seq=1, message_id="0" * 24, sender="a", body="b", sent_at=2)
    copy = mail.model_copy(update={"to": "c", "n": 0})
    data = b"\x02" + b"".join(
        bits + b"\x01" + bytes(12) + b"\x01a\x01b\x02" + rest
        for bits, rest in ((b"\x00", b""), (b"\x03", b"\x01c\x00"))
    )
    assert layout.write(layout.model(some=(mail, copy))) == (0, data)
    values = layout.read_to_end(bytearray(data), 0, 0)
    assert layout.model(**values) == layout.model(some=(mail, copy))
    for at in range(1, len(data)):
        with pytest.raises(IndexError):
            layout.read(bytearray(data[:at]), 0)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({f"f{n}": (Uint, 0) for n in range(9)}, "more than 8 fields"),
        ({"f": (float, ...)}, "no layout for"),
    ],
)
def test_a_model_without_a_layout_is_noticed_at_once(fields, why):
    with pytest.raises(TypeError, match=why):
        Layout(create_model("Odd", __base__=Reply, **fields))
