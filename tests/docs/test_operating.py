"""What is shipped to operate a server with: the image's steps, the backup and its units."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cli_server import ended
from docs_blocks import ROOT
from own_systemd import SHARED, own_systemd
from units import UNIT, exposure, problems_of
from waiting import wait_until

HOW_TO = ROOT / "docs" / "how-to"
BACKUP = HOW_TO / "twinline-backup"
CONTAINER = ROOT / "Containerfile"


def program(folder: Path) -> Path:
    """Write a command that is the twinline that is tested."""
    path = folder / "twinline"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m twinline.cli "$@"\n')
    path.chmod(0o755)
    return path


def served(store: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "twinline.cli", "serve", "--store", f"sqlite:{store}",
         "--listen", "tcp://127.0.0.1:0", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip


def test_a_backup_while_serving_is_proven_and_old_ones_go(tmp_path: Path) -> None:
    store, folder = tmp_path / "chat.db", tmp_path / "backups"
    environment = {**os.environ, "TWINLINE": str(program(tmp_path))}

    def run(store: Path, keep: int = 2, code: int = 0) -> str:
        done = subprocess.run(
            ["sh", BACKUP, str(store), str(folder), str(keep)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert (done.returncode == 0) == (code == 0), done.stderr
        return done.stdout

    def kept() -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    with ended(served(store)) as server:
        assert server.stdout is not None
        server.stdout.readline()
        old = ["chat-20240101T000000Z.db", "chat-20250101T000000Z.db", "mine.db"]
        folder.mkdir()
        for name in old:
            (folder / name).touch()
        said = run(store)
        [made] = set(kept()) - set(old)
        assert said.startswith(f"{folder / made} is a whole backup")
        assert sorted([old[1], "mine.db", made]) == kept()
        assert stat.S_IMODE((folder / made).stat().st_mode) == 0o600
        # What is no store leaves what there is, and makes nothing.
        broken = tmp_path / "broken.db"
        broken.write_bytes(b"this is no database " * 500)
        before = kept()
        assert run(broken, keep=1, code=1) == ""
        assert kept() == before


def test_a_backup_that_is_stopped_leaves_no_copy(tmp_path: Path) -> None:
    store, folder, begun = tmp_path / "chat.db", tmp_path / "backups", tmp_path / "begun"
    left, mine = folder / ".drill-abcdef", folder / ".drill-new123"
    for each in (left, mine):
        each.mkdir(parents=True)
        (each / "made.db").touch()
    os.utime(left, (0, 0))
    stuck = tmp_path / "twinline"
    # It has written what would be the backup, and is still at it.
    stuck.write_text(f'#!/bin/sh\n: >"$4"\n: >{begun}\nexec sleep 60\n')
    stuck.chmod(0o755)
    with ended(
        subprocess.Popen(
            ["sh", BACKUP, str(store), str(folder)],
            env={**os.environ, "TWINLINE": str(stuck)},
            process_group=0,
        )
    ) as running:
        wait_until(begun.exists, "the backup to be under way")
        assert len(list(folder.glob(".drill-??????"))) == 2
        os.killpg(running.pid, signal.SIGTERM)  # as systemd does
        assert running.wait(10) == 1
    assert list(folder.iterdir()) == [mine]


@pytest.mark.parametrize("name", ["twinline-backup.service", "twinline-backup.timer"])
def test_systemd_accepts_the_units_of_the_backup(name: str, tmp_path: Path) -> None:
    for unit in HOW_TO.glob("twinline-backup.*"):
        text = unit.read_text("utf-8").replace("/usr/local/sbin/", f"{tmp_path}/")
        (tmp_path / unit.name).write_text(text)
    shutil.copy(BACKUP, tmp_path)
    (tmp_path / "twinline.service").write_text("[Service]\nExecStart=/bin/true\n")
    assert problems_of(tmp_path / name) == []


STAND_IN = """#!/bin/sh
# Stands in for twinline, whose Python may be in a folder that is another one here.
case "$1 $2" in
"store backup") cat "$3" >"$4" ;;
"store restore") cat "$3" >"$4" ;;
"store check") grep -q mail "$3" ;;
"store stats") echo "{}" ;;
esac
"""


def test_the_unit_of_the_backup_needs_nothing_but_a_store(tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    for unit in (*HOW_TO.glob("twinline-backup.*"), UNIT):
        shutil.copy(unit, units)
    shutil.copy(BACKUP, tmp_path)
    (tmp_path / "twinline").write_text(STAND_IN)
    folder, start = "/var/lib/twinline-backups", ("systemctl", "start", "twinline-backup")
    with own_systemd(tmp_path) as systemd:
        systemd.run("install", "-D", f"{SHARED}/twinline", "/opt/twinline/bin/twinline")
        systemd.run("install", f"{SHARED}/twinline-backup", "/usr/local/sbin/")
        systemd.run(*start, code=1)  # there is no store
        # As the unit of the server leaves it.
        systemd.run("mkdir", "-p", "/var/lib/private/twinline")
        systemd.run("ln", "-s", "private/twinline", "/var/lib/twinline")
        systemd.run("sh", "-c", "echo mail >/var/lib/twinline/chat.db")
        systemd.run(*start)
        (made,) = systemd.run("ls", "-A", folder).split()
        assert systemd.run("cat", f"{folder}/{made}") == "mail\n"
        assert systemd.run("stat", "-c", "%U %a", folder, f"{folder}/{made}") == (
            "root 700\nroot 600\n"
        )


def test_the_unit_is_as_closed_as_the_page_says(tmp_path: Path) -> None:
    text = UNIT.read_text("utf-8")
    told = re.search(r"rates its exposure as ([\d.]+)", (HOW_TO / "systemd.md").read_text("utf-8"))
    assert told is not None
    assert exposure(UNIT) <= float(told[1]) <= 1.6
    weaker = tmp_path / UNIT.name
    weaker.write_text(text.replace("PrivateDevices=yes\n", ""))
    assert exposure(weaker) > float(told[1])


def steps(keyword: str) -> list[str]:
    """Return what the lines of a keyword say in the file that the image is made from."""
    text = re.sub(r"\\\n\s*", " ", CONTAINER.read_text("utf-8"))
    return re.findall(rf"^(?:HEALTHCHECK.*)?{keyword}\s+(.*)$", text, re.MULTILINE)


def test_the_image_is_made_in_two_stages_and_runs_as_nobody_special() -> None:
    assert len(steps("FROM")) == 2
    [user] = steps("USER")
    assert all(int(each) > 0 for each in user.split(":"))
    last = CONTAINER.read_text("utf-8").rpartition("FROM")[2]
    assert "RUN" not in last
    assert all(line.startswith("--from=build") for line in re.findall(r"COPY (.*)", last))


@pytest.mark.timeout(300)
def test_the_steps_of_the_image_make_a_server_that_its_check_reaches(tmp_path: Path) -> None:
    source, home = tmp_path / "src", tmp_path / "home"
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "tests")
    )
    extras = re.compile(r"\[[a-z,]+\]")  # what other tests need is here; to fetch it takes minutes

    def here(step: str) -> str:
        if os.geteuid():
            step = re.sub(r"-[og] 7767 ", "", step)
        step = extras.sub("", step).replace("/var/lib/twinline", str(home))
        return step.replace("/opt/twinline", str(tmp_path / "opt"))

    for step in steps("RUN"):
        subprocess.run(here(step), shell=True, cwd=source, check=True, timeout=250)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    variables = dict(each.split("=", 1) for each in here(steps("ENV")[0]).split())
    environment = {"PATH": os.environ["PATH"], **variables}
    [entry], [check, command] = (
        [json.loads(here(each)) for each in steps(keyword)] for keyword in ("ENTRYPOINT", "CMD")
    )
    with ended(
        subprocess.Popen(
            [*entry, *command, "--listen", "tcp://127.0.0.1:0", "--json"],
            env=environment,
            cwd="/",
            stdout=subprocess.PIPE,
            text=True,
        )
    ) as server:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline())
        assert (ready["store"], ready["durability"]) == ("sqlite", "disk")
        reached = {**environment, "TWINLINE_CONNECT": ready["endpoint"]}
        subprocess.run(check, env=reached, cwd="/", check=True, timeout=50)
        server.terminate()
        assert server.wait(15) == 0
    gone = subprocess.run(check, env=reached, cwd="/", check=False, timeout=50, capture_output=True)
    assert gone.returncode != 0
    assert {path.name.partition("-")[0] for path in home.iterdir()} == {"chat.db"}
