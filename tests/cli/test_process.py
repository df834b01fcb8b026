"""What `twinline serve` does for its process: hashes give way, and memory is given back."""

import os
import platform
import subprocess
import sys
import threading

import pytest
from argon2.exceptions import VerifyMismatchError

from twinline.cli.server.hashing import BackgroundHasher
from twinline.core.passwords import default_hasher

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities on Linux")


def test_hashes_are_those_of_the_default_hasher() -> None:
    background, usual = BackgroundHasher(), default_hasher()
    password_hash = background.hash(b"correct horse")
    assert usual.verify(password_hash, b"correct horse")
    assert not usual.check_needs_rehash(password_hash)
    assert background.verify(usual.hash(b"correct horse"), b"correct horse")
    assert not background.check_needs_rehash(usual.hash(b"correct horse"))
    with pytest.raises(VerifyMismatchError):
        background.verify(password_hash, b"another horse")


@linux
def test_hashes_give_way_and_their_callers_do_not() -> None:
    def priority() -> tuple[int, int]:
        mine = threading.get_native_id()
        return mine, os.getpriority(os.PRIO_PROCESS, mine)

    me, before = priority()
    other, lowered = BackgroundHasher()._run(priority)
    assert other != me
    assert lowered == min(19, before + 10)
    assert priority() == (me, before)


_HASH_IN_THREADS = """
import sys, threading
from pathlib import Path
from twinline.cli.server.runtime import limit_malloc_arenas
from twinline.core.passwords import default_hasher

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "small":
    limit_malloc_arenas()
hasher = default_hasher()
before = resident()
for _ in range(2):
    threads = [threading.Thread(target=hasher.hash, args=("correct horse",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(resident() - before)
"""


@linux
def test_the_memory_of_hashes_is_given_back() -> None:
    def grown(how: str) -> int:
        command = [sys.executable, "-c", _HASH_IN_THREADS, how]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50)
        return int(done.stdout)

    assert grown("small") < 10 * 2**20
    if platform.libc_ver()[0] == "glibc":
        assert grown("as it is") > 19 * 2**20  # else the setting does nothing, and can go
