"""The yardstick of `check.py`: work that is no part of twinline, and by which its time is measured.

Dictionaries, attributes, calls, bytes, JSON and a hash, about as much of each as a request makes,
so that another processor and another Python shift both alike. It must never change: every time
that is kept is a multiple of it.
"""

import json
from hashlib import sha256
from itertools import count
from typing import Final

from check_workloads import BODY, Workload

_LINE: Final = json.dumps({"op": "put", "id": 7, "to": "word-7", "body": BODY}).encode() + b"\n"
_WORDS: Final = [f"word-{number}" for number in range(64)]


class _Box:
    __slots__ = ("items", "last", "names")

    def __init__(self) -> None:
        self.items: dict[int, tuple[int, str, int]] = {}
        self.names: dict[str, int] = {}
        self.last = 0

    def put(self, name: str, value: int) -> int:
        self.last += 1
        self.items[self.last] = (self.last, name, value)
        self.names[name] = self.names.get(name, 0) + 1
        return self.last

    def take(self, number: int) -> tuple[int, str, int]:
        return self.items.pop(number)


def yardstick() -> Workload:
    """Return it, as a workload like the others."""
    box = _Box()
    serial = count()

    def once() -> bytes:
        buffer = bytearray(_LINE)
        end = buffer.find(b"\n")
        fields = json.loads(bytes(buffer[:end]))
        del buffer[: end + 1]
        number = box.put(_WORDS[next(serial) % 64], fields["id"])
        if not isinstance(fields.get("to"), str) or len(fields["body"].encode()) >= 16_384:
            return b""
        taken, name, _ = box.take(number)
        sha256(name.encode()).digest()
        return b"".join([b'{"id":', str(taken).encode(), b',"ok":true}', b"\n"])

    def run(operations: int) -> None:
        for _ in range(operations):
            once()

    return Workload("work that is no part of twinline", 300, run)
