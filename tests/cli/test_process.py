"""What `twinline serve` sets for its process, and that hashes give way."""

import json
import os
import platform
import resource
import subprocess
import sys
import threading

import pytest
from argon2.exceptions import VerifyMismatchError

from twinline.cli.server.hashing import BackgroundHasher
from twinline.cli.server.process import STACK_BYTES
from twinline.core.passwords import default_hasher

_SERVE = """
import json, os, resource, signal, sys, threading
from twinline.cli.server.serve import run_server
from twinline.cli.settings.model import Settings

def tell(listener, settings, durability):
    print(json.dumps({
        "stack": threading.stack_size(),
        "interval": round(sys.getswitchinterval(), 6),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE),
        "wakeup": signal.set_wakeup_fd(-1) != -1,
        "handled": all(callable(signal.getsignal(n)) for n in (signal.SIGTERM, signal.SIGINT)),
    }))
    os.kill(os.getpid(), signal.SIGTERM)

run_server(Settings(listen=("tcp://127.0.0.1:0",), **json.loads(sys.argv[1])), tell)
"""


def served(soft: int, hard: int, **settings: object) -> tuple[dict[str, object], str]:
    """Run a server under limits of descriptors; return what it is like, and its log."""
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, json.dumps(settings)],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)),
    )
    return json.loads(done.stdout), done.stderr


def test_the_process_of_a_server() -> None:
    found, log = served(1024, 2048, connections=1500)
    assert found == {
        "stack": STACK_BYTES,
        "interval": 0.05,
        "descriptors": [2048, 2048],
        "wakeup": True,
        "handled": True,
    }
    assert "the limit of descriptors is raised from 1,024 to 2,048" in log
    assert "WARNING" not in log


def test_too_few_descriptors_are_told() -> None:
    found, log = served(300, 300, connections=300)
    assert found["descriptors"] == [300, 300]
    assert "WARNING" in log
    assert "300, allows fewer connections than the setting, 300: raise" in log


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
from twinline.cli.server.process import limit_malloc_arenas
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
