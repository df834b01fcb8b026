"""A systemd of a test's own: process 1 of namespaces in which all that it writes to is a copy.

Its control group lies in one that is made for it, and its folders are in memory; so the machine's
own systemd, units, users and folders do not see it.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from waiting import wait_until

SHARED = "/run/shared"
"""Where the folder that it was given is inside."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_UNSHARE = "unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child"
_STUBS = ("sysinit", "basic", "network", "shutdown", "umount", "final", "multi-user")
_BOOT = """
set -e
echo $$ >{group}/cgroup.procs
exec {unshare} sh -ec '
mount --make-rprivate /
mount -t tmpfs tmpfs /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
cp -a /etc /run/etc
mount --bind /run/etc /etc
mkdir {shared} /run/units
cp -a {folder}/units/. /run/units/
mount --bind {folder} {shared}
for folder in /var/lib /var/tmp /opt /usr/local/sbin /tmp; do mount -t tmpfs tmpfs $folder; done
mount -t proc proc /proc
exec env -i container=test SYSTEMD_UNIT_PATH=/run/units PATH={path} \
    /lib/systemd/systemd --system --unit=multi-user.target --log-target=console
'
"""


class OwnSystemd:
    """Runs commands beside a systemd, as root in its namespaces."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def run(self, *command: str, code: int = 0, **environment: str) -> str:
        """Return what a command prints, which has to end with that code."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-m", "-p", "-u", "-i", "-n", "-C", *command],
            env={"PATH": _PATH, "LANG": "C.UTF-8"} | environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == code, (command, done.returncode, done.stdout, done.stderr)
        return done.stdout


@contextmanager
def own_systemd(folder: Path) -> Iterator[OwnSystemd]:
    """Boot a systemd, and end it with all that it started.

    Args:
        folder: its units are in ``units``; inside, all of it is at `SHARED`.
    """
    for program in ("unshare", "nsenter", "systemctl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not here")
    if os.geteuid():
        pytest.skip("only root can boot a systemd")
    if subprocess.call([*_UNSHARE.split(), "true"], stderr=subprocess.DEVNULL):
        pytest.skip("there are no namespaces to be had here")
    roots = [Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
    root = next((each for each in roots if (each / "cgroup.procs").exists()), None)
    if root is None:
        pytest.skip("there are no control groups here")
    for name in _STUBS:
        unit = folder / "units" / f"{name}.target"
        unit.write_text("[Unit]\nDefaultDependencies=no\n")
    group = root / f"twinline-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    log = folder / "systemd.log"
    boot = _BOOT.format(unshare=_UNSHARE, group=group, shared=SHARED, folder=folder, path=_PATH)
    with log.open("w") as output:
        unshare = subprocess.Popen(
            ["sh", "-c", boot], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        systemd = OwnSystemd(_booted(unshare, log))
        yield systemd
    finally:
        for pid in _members(group) - {unshare.pid}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        unshare.kill()
        unshare.wait()
        wait_until(lambda: _removed(group), "the end of all that systemd started")


def _booted(unshare: "subprocess.Popen[bytes]", log: Path) -> int:
    """Return the process of a systemd, once it takes commands."""
    children = Path(f"/proc/{unshare.pid}/task/{unshare.pid}/children")
    found: list[int] = []

    def takes_commands() -> bool:
        assert unshare.poll() is None, log.read_text(encoding="utf-8")
        found[:] = map(int, children.read_text().split())
        return bool(found) and Path(f"/proc/{found[0]}/root/run/systemd/private").is_socket()

    wait_until(takes_commands, "systemd takes commands")
    return found[0]


def _removed(group: Path) -> bool:
    """Remove a control group and those in it, unless a process is left in one."""
    for each in sorted(group.glob("**/"), reverse=True):
        with suppress(OSError):
            each.rmdir()
    return not group.exists()


def _members(group: Path) -> set[int]:
    """Return the processes of a control group and of those in it."""
    found: set[int] = set()
    for each in group.glob("**/cgroup.procs"):
        with suppress(OSError):
            found.update(map(int, each.read_text().split()))
    return found
