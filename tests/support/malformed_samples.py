"""What servers refuse, with what they answer, and odd spellings that they accept."""

from dataclasses import dataclass

from twinline.core.protocol import Ack, DeleteAccount, History, Ping, Request, Send, Watch


@dataclass(frozen=True)
class Malformed:
    """Bytes that are no request, and what they get."""

    name: str
    data: bytes
    code: str = "bad_request"
    id: int | None = None
    fatal: bool = False
    frame_limit: int = 4_096


def line(text: str) -> bytes:
    return text.encode() + b"\n"


def frame(
    payload: bytes, *, kind: int = 15, flags: int = 0, magic: int = 0xB7, version: int = 1
) -> bytes:
    """Put a frame together by the letter of the specification."""
    return bytes([magic, version, kind, flags]) + len(payload).to_bytes(4, "big") + payload


MALFORMED_JSONL: tuple[Malformed, ...] = (
    Malformed("an empty line", b"\n"),
    Malformed("an empty line, CR LF", b"\r\n"),
    Malformed("a byte order mark", b"\xef\xbb\xbf" + line('{"op":"ping","id":1}')),
    Malformed("invalid UTF-8", b'{"op":"ping","id":1,"x":"\xff"}\n'),
    Malformed("an overlong UTF-8 sequence", b'{"op":"ping","id":1,"x":"\xc0\xaf"}\n'),
    Malformed("a surrogate in UTF-8", b'{"op":"ping","id":1,"x":"\xed\xa0\x80"}\n'),
    Malformed("UTF-16", '{"op":"ping","id":1}'.encode("utf-16-le") + b"\n"),
    Malformed("no JSON", line("hello there")),
    Malformed("half an object", line('{"op":"ping","id":1')),
    Malformed("two objects on a line", line('{"op":"ping","id":1} {"op":"ping","id":2}')),
    Malformed("an array", line('[{"op":"ping","id":1}]')),
    Malformed("a string", line('"ping"')),
    Malformed("null", line("null")),
    Malformed("NaN", line('{"op":"watch","id":1,"after":NaN}')),
    Malformed("Infinity", line('{"op":"watch","id":1,"after":Infinity}')),
    Malformed("NaN in a field that nobody reads", line('{"op":"ping","id":1,"x":NaN}')),
    Malformed("1e999", line('{"op":"watch","id":1,"after":1e999}'), id=1),
    Malformed("1e999 as the id", line('{"op":"ping","id":1e999}')),
    Malformed(
        "a number of 5,000 digits",
        line('{"op":"ping","id":' + "9" * 5_000 + "}"),
        frame_limit=65_536,
    ),
    Malformed(
        "a number of 1,000 digits", line('{"op":"ack","id":1,"up_to":' + "9" * 1_000 + "}"), id=1
    ),
    Malformed("2^53 as the id", line('{"op":"ping","id":9007199254740992}')),
    Malformed("2^63 as the id", line('{"op":"ping","id":9223372036854775808}')),
    Malformed("2^53 in a field", line('{"op":"ack","id":1,"up_to":9007199254740992}'), id=1),
    Malformed("2^63 in a field", line('{"op":"watch","id":1,"after":9223372036854775808}'), id=1),
    Malformed("a negative id", line('{"op":"ping","id":-1}')),
    Malformed("true as the id", line('{"op":"ping","id":true}')),
    Malformed("a fraction as the id", line('{"op":"ping","id":1.0}')),
    Malformed("a string as the id", line('{"op":"ping","id":"1"}')),
    Malformed("null as the id", line('{"op":"ping","id":null}')),
    Malformed("no id", line('{"op":"ping"}')),
    Malformed("no op", line('{"id":1}'), id=1),
    Malformed("a number as the op", line('{"op":7,"id":1}'), id=1),
    Malformed("an unknown op", line('{"op":"pong","id":1}'), "unknown_op", 1),
    Malformed("an op in another case", line('{"op":"Ping","id":1}'), "unknown_op", 1),
    Malformed("an empty op", line('{"op":"","id":1}'), "unknown_op", 1),
    Malformed("a long unknown op", line('{"op":"' + "x" * 3_000 + '","id":1}'), "unknown_op", 1),
    Malformed("a field is missing", line('{"op":"ack","id":1}'), id=1),
    Malformed("true for an integer", line('{"op":"ack","id":1,"up_to":true}'), id=1),
    Malformed("a fraction for an integer", line('{"op":"ack","id":1,"up_to":1.0}'), id=1),
    Malformed("a string for an integer", line('{"op":"ack","id":1,"up_to":"1"}'), id=1),
    Malformed("a negative integer", line('{"op":"ack","id":1,"up_to":-1}'), id=1),
    Malformed(
        "null for a field that cannot be null", line('{"op":"ack","id":1,"up_to":null}'), id=1
    ),
    Malformed("an integer for a string", line('{"op":"resume","id":1,"session":7}'), id=1),
    Malformed(
        "an integer for a truth value",
        line('{"op":"delete_account","id":1,"password":"x","force":1}'),
        id=1,
    ),
    Malformed("a limit of 0", line('{"op":"history","id":1,"limit":0}'), id=1),
    Malformed("a limit of 1,001", line('{"op":"history","id":1,"limit":1001}'), id=1),
    Malformed("a wait of 61", line('{"op":"watch","id":1,"after":0,"wait":61}'), id=1),
    Malformed("a window of 1,001", line('{"op":"watch","id":1,"after":0,"window":1001}'), id=1),
    Malformed("true for a window", line('{"op":"watch","id":1,"after":0,"window":true}'), id=1),
    Malformed("1 for renew", line('{"op":"watch","id":1,"after":0,"renew":1}'), id=1),
    Malformed("no kinds", line('{"op":"watch","id":1,"after":0,"kinds":[]}'), id=1),
    Malformed("an unknown kind", line('{"op":"watch","id":1,"after":0,"kinds":["post"]}'), id=1),
    Malformed("a number for a kind", line('{"op":"watch","id":1,"after":0,"kinds":[0]}'), id=1),
    Malformed("a text for kinds", line('{"op":"watch","id":1,"after":0,"kinds":"mail"}'), id=1),
    Malformed("1 for copy", line('{"op":"send","id":1,"to":"bob","body":"x","copy":1}'), id=1),
    Malformed("no seqs", line('{"op":"delete_messages","id":1,"seqs":[]}'), id=1),
    Malformed(
        "1,001 seqs",
        line('{"op":"delete_messages","id":1,"seqs":[' + ",".join(["7"] * 1_001) + "]}"),
        id=1,
    ),
    Malformed(
        "a seq of the wrong type", line('{"op":"delete_messages","id":1,"seqs":[1,"2"]}'), id=1
    ),
    Malformed("an object for a list", line('{"op":"delete_messages","id":1,"seqs":{"1":2}}'), id=1),
    Malformed("a string for a list", line('{"op":"delete_messages","id":1,"seqs":"123"}'), id=1),
    Malformed("a lone surrogate", line('{"op":"send","id":1,"to":"bob","body":"\\ud800"}')),
    Malformed("a raw control character", b'{"op":"send","id":1,"to":"bob","body":"\x1b[2J"}\n'),
    Malformed(
        "a depth of 1,000", line('{"op":"ping","id":1,"x":' + "[" * 1_000 + "]" * 1_000 + "}")
    ),
    Malformed("a trailing comma", line('{"op":"ping","id":1,}')),
    Malformed("a comment", line('{"op":"ping","id":1} // ping')),
    Malformed("single quotes", line("{'op':'ping','id':1}")),
    Malformed(
        "one byte beyond the limit",
        line('{"op":"ping","id":1}' + " " * 45),
        "frame_too_large",
        fatal=True,
        frame_limit=64,
    ),
    Malformed(
        "no line feed within the limit", b"x" * 65, "frame_too_large", fatal=True, frame_limit=64
    ),
    Malformed("HTTP", b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", fatal=True),
    Malformed("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", fatal=True),
    Malformed("TLS", bytes.fromhex("16030100f8010000f40303"), fatal=True),
)

MALFORMED_BINARY: tuple[Malformed, ...] = (
    Malformed("text", line('{"op":"ping","id":1}'), fatal=True),
    Malformed("HTTP", b"GET / HTTP/1.1\r\n\r\n", fatal=True),
    Malformed("TLS", bytes.fromhex("16030100f8010000f40303"), fatal=True),
    Malformed("another magic byte", frame(b"\x01", magic=0xB6), fatal=True),
    Malformed("version 0", frame(b"\x01", version=0), "unsupported_version", fatal=True),
    Malformed("version 2", frame(b"\x01", version=2), "unsupported_version", fatal=True),
    Malformed("version 255", b"\xb7\xff", "unsupported_version", fatal=True),
    Malformed("length 0", frame(b""), fatal=True),
    Malformed(
        "length 0xFFFFFFFF without a payload",
        b"\xb7\x01\x0f\x00\xff\xff\xff\xff",
        "frame_too_large",
        fatal=True,
    ),
    Malformed(
        "one byte beyond the limit",
        frame(b"\x01\x03bob\x33" + b"x" * 51, kind=7),
        "frame_too_large",
        fatal=True,
        frame_limit=64,
    ),
    Malformed("a reserved flag, no field has a default", frame(b"\x01", flags=1), fatal=True),
    Malformed("a reserved flag", frame(b"\x01\x03bob\x02hi", kind=7, flags=4), fatal=True),
    Malformed("the highest flag", frame(b"\x01\x00", kind=8, flags=0x80), fatal=True),
    Malformed("an unknown kind", frame(b"\x01", kind=0x7F), "unknown_op", 1),
    Malformed("kind 0", frame(b"\x01", kind=0), "unknown_op", 1),
    Malformed(
        "an unknown kind with fields",
        frame(b"\x81\x01abc", kind=0x7F, flags=0xFF),
        "unknown_op",
        129,
    ),
    Malformed("the kind of a reply", frame(b"\x01", kind=0x80), "unknown_op", 1),
    Malformed("the kind of an error without an id", frame(b"\x01", kind=0xFE), "unknown_op", 1),
    Malformed("an unknown kind without an id", frame(b"\x80", kind=0x7F), fatal=True),
    Malformed("half an id", frame(b"\x80"), fatal=True),
    Malformed("an id that is not in its shortest form", frame(b"\x81\x00"), fatal=True),
    Malformed("an id of 9 bytes", frame(b"\x80" * 8 + b"\x01"), fatal=True),
    Malformed("an id of 2^53", frame(b"\x80\x80\x80\x80\x80\x80\x80\x10"), fatal=True),
    Malformed("the largest id of 8 bytes", frame(b"\xff" * 7 + b"\x7f"), fatal=True),
    Malformed("trailing bytes", frame(b"\x01\x00"), id=1, fatal=True),
    Malformed("a field is missing", frame(b"\x01\x03bob", kind=7), id=1, fatal=True),
    Malformed("no field at all", frame(b"\x01", kind=9), id=1, fatal=True),
    Malformed(
        "a flag without its field", frame(b"\x01\x03bob\x02hi", kind=7, flags=1), id=1, fatal=True
    ),
    Malformed(
        "a field without its flag", frame(b"\x01\x03bob\x02hi\x01x", kind=7), id=1, fatal=True
    ),
    Malformed(
        "a text that runs beyond the frame", frame(b"\x01\x03bob\x03hi", kind=7), id=1, fatal=True
    ),
    Malformed(
        "a text that runs beyond the frame and is not UTF-8",
        frame(b"\x01\x03bob\x03\xff", kind=7),
        id=1,
        fatal=True,
    ),
    Malformed(
        "a text of 2^56 - 1 bytes",
        frame(b"\x01\x03bob" + b"\xff" * 7 + b"\x7f" + b"hi", kind=7),
        id=1,
        fatal=True,
    ),
    Malformed(
        "a text whose length is not in its shortest form",
        frame(b"\x01\x83\x00bob\x02hi", kind=7),
        id=1,
        fatal=True,
    ),
    Malformed(
        "more items than the frame can hold", frame(b"\x01\x02\x07", kind=11), id=1, fatal=True
    ),
    Malformed(
        "2^56 - 1 items",
        frame(b"\x01" + b"\xff" * 7 + b"\x7f" + b"\x07", kind=11),
        id=1,
        fatal=True,
    ),
    Malformed("half an integer", frame(b"\x01\x80", kind=9), id=1, fatal=True),
    Malformed(
        "an integer of 9 bytes", frame(b"\x01" + b"\xff" * 8 + b"\x01", kind=9), id=1, fatal=True
    ),
    Malformed(
        "a truth value of 2", frame(b"\x01\x08password\x02", kind=14, flags=1), id=1, fatal=True
    ),
    Malformed("no truth value", frame(b"\x01\x08password", kind=14, flags=1), id=1, fatal=True),
    Malformed("invalid UTF-8", frame(b"\x01\x03bob\x01\xff", kind=7), id=1),
    Malformed("a surrogate in UTF-8", frame(b"\x01\x03bob\x03\xed\xa0\x80", kind=7), id=1),
    Malformed("2^53 in a field", frame(b"\x01\x80\x80\x80\x80\x80\x80\x80\x10", kind=9), id=1),
    Malformed("a limit of 0", frame(b"\x01\x00", kind=10, flags=2), id=1),
    Malformed("a limit of 1,001", frame(b"\x01\xe9\x07", kind=10, flags=2), id=1),
    Malformed("a wait of 61", frame(b"\x01\x00\x3d", kind=8, flags=4), id=1),
    Malformed("a window of 1,001", frame(b"\x01\x00\xe9\x07", kind=8, flags=8), id=1),
    Malformed("2 for renew", frame(b"\x01\x00\x02", kind=8, flags=16), id=1, fatal=True),
    Malformed("a flag beyond kinds", frame(b"\x01\x00\x01", kind=8, flags=64), fatal=True),
    Malformed("a kind of 3", frame(b"\x01\x00\x01\x03", kind=8, flags=32), id=1),
    Malformed("no kinds", frame(b"\x01\x00\x00", kind=8, flags=32), id=1),
    Malformed("four kinds", frame(b"\x01\x00\x04\x00\x01\x02\x00", kind=8, flags=32), id=1),
    Malformed("no seqs", frame(b"\x01\x00", kind=11), id=1),
    Malformed("1,001 seqs", frame(b"\x01\xe9\x07" + b"\x07" * 1_001, kind=11), id=1),
)

ALSO_ACCEPTED_JSONL: tuple[tuple[str, bytes, int, Request], ...] = (
    ("CR LF", b'{"op":"ping","id":1}\r\n', 1, Ping()),
    ("white space", b' { "id" : 1 ,\t"op" : "ping" } \n', 1, Ping()),
    ("escapes", line('{"op":"\\u0070ing","id":1}'), 1, Ping()),
    (
        "a surrogate pair",
        line('{"op":"send","id":1,"to":"bob","body":"\\ud83d\\udc4b"}'),
        1,
        Send(to="bob", body="👋"),
    ),
    (
        "a zero character, escaped",
        line('{"op":"send","id":1,"to":"bob","body":"\\u0000"}'),
        1,
        Send(to="bob", body="\0"),
    ),
    ("unknown fields", line('{"op":"ping","id":1,"x":{"y":[1.5e3,null]},"op2":""}'), 1, Ping()),
    (
        "a key twice: the last holds",
        line('{"op":"ack","id":1,"up_to":1,"id":2,"up_to":3}'),
        2,
        Ack(up_to=3),
    ),
    (
        "a key twice: only the last is judged",
        line('{"op":"ack","id":1,"up_to":"x","up_to":3}'),
        1,
        Ack(up_to=3),
    ),
    (
        "a default that is said",
        line('{"op":"history","id":1,"before":null,"limit":50}'),
        1,
        History(),
    ),
    ("1e999 in a field that nobody reads", line('{"op":"ping","id":1,"x":1e999}'), 1, Ping()),
    ("minus zero", line('{"op":"ping","id":-0}'), 0, Ping()),
)

ALSO_ACCEPTED_BINARY: tuple[tuple[str, bytes, int, Request], ...] = (
    ("a default that is said", frame(b"\x01\x32", kind=10, flags=2), 1, History()),
    (
        "a truth value that is said and is the default",
        frame(b"\x01\x01x\x00", kind=14, flags=1),
        1,
        DeleteAccount(password="x"),
    ),
    (
        "window and renew that are said and are the default",
        frame(b"\x01\x00\x00\x00", kind=8, flags=24),
        1,
        Watch(after=0),
    ),
)
