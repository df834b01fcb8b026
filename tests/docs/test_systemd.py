"""docs/how-to/twinline.service: systemd accepts it, and its server stops as it expects."""

import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cli_server import ended
from docs_blocks import Block, blocks_of
from own_systemd import SHARED, own_systemd
from units import UNIT, problems_of

from twinline.transports.listener import ListenerSettings

PAGE = UNIT.with_name("systemd.md")
EXPOSE = UNIT.with_name("expose.md")
PROGRAM = "/opt/twinline/bin/twinline"


def unit_blocks(page: Path = PAGE) -> list[Block]:
    return [each for each in blocks_of(page.read_text("utf-8")) if each.language == "ini"]


def setting(name: str) -> str:
    """Return what the unit says of a setting, whole lines of it."""
    text = UNIT.read_text(encoding="utf-8").replace("\\\n", "")
    (value,) = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return str(value)


def installed(folder: Path, text: str) -> Path:
    """Write a unit whose program is the one that is installed here."""
    program = folder / "twinline"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = folder / "twinline.service"
    unit.write_text(text.replace(PROGRAM, str(program)), encoding="utf-8")
    return unit


def test_the_page_shows_the_unit_as_it_is() -> None:
    assert unit_blocks()[0].text == UNIT.read_text(encoding="utf-8")


def test_systemd_accepts_the_unit_alone_and_with_the_changes_of_the_pages(tmp_path: Path) -> None:
    unit = installed(tmp_path, UNIT.read_text(encoding="utf-8"))
    assert problems_of(unit) == []
    (tmp_path / "twinline.service.d").mkdir()
    for change in (*unit_blocks()[1:], *unit_blocks(EXPOSE)):
        (tmp_path / "twinline.service.d" / "override.conf").write_text(
            change.text.replace(PROGRAM, str(tmp_path / "twinline"))
        )
        assert problems_of(unit) == []


@pytest.mark.parametrize(
    ("right", "wrong"), [("Restart=on-failure", "Restart=sometimes"), (PROGRAM, "/no/such/program")]
)
def test_a_unit_that_is_wrong_is_noticed(right: str, wrong: str, tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert right in text
    assert problems_of(installed(tmp_path, text.replace(right, wrong)))


def test_the_time_to_stop_is_longer_than_the_drain() -> None:
    drain = ListenerSettings().drain_seconds
    assert float(setting("TimeoutStopSec")) >= drain + 5
    told = re.search(r"`drain_seconds` to\s+more than (\d+)", PAGE.read_text(encoding="utf-8"))
    assert told is not None
    assert float(setting("TimeoutStopSec")) >= float(told[1]) + 5


def test_the_server_of_the_unit_starts_and_stops_as_it_says(tmp_path: Path) -> None:
    config = tmp_path / "twinline.toml"
    config.write_text('listen = ["tcp://127.0.0.1:0"]\n')
    (tmp_path / "twinline").mkdir()
    command = setting("ExecStart").replace("/etc/twinline/twinline.toml", str(config))
    program, *arguments = command.replace("%S", str(tmp_path)).split()
    assert program == PROGRAM
    with (
        ended(
            subprocess.Popen(
                [sys.executable, "-m", "twinline.cli", *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        ) as server,
    ):
        assert server.stdout is not None
        line = server.stdout.readline()
        assert "store=sqlite durability=disk" in line
        port = int(re.search(r":(\d+) ", line)[1])
        # A peer that never says anything does not hold the stop up.
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            server.send_signal(signal.Signals[setting("KillSignal")])
            assert server.wait(float(setting("TimeoutStopSec"))) == 0
    assert (tmp_path / "twinline" / "chat.db").exists()


STAND_IN = r"""#!/usr/bin/perl
# Stands in for the server, whose Python another user may not be able to reach.
use strict;
use Socket;
sub told {
    socket(my $end, AF_UNIX, SOCK_DGRAM, 0) or die $!;
    my $path = $ENV{NOTIFY_SOCKET};
    $path =~ s/^@/\0/;
    send($end, $_[0], 0, pack_sockaddr_un($path)) or die $!;
}
sub said {
    open(my $seen, ">>", "$ENV{STATE_DIRECTORY}/seen") or die $!;
    print $seen "@_\n";
}
sub note {
    local $/ = undef;
    open(my $file, "<", "/etc/twinline/tls/privkey.pem") or die $!;
    my $key = <$file>;
    open(my $status, "<", "/proc/self/status") or die $!;
    my ($caps) = <$status> =~ /(CapEff:\s*\S+)/;
    $caps =~ s/\s+/ /;
    said($_[0], $key, $caps);
}
my ($reload, $stop) = (0, 0);
$SIG{HUP} = sub { $reload = 1 };
$SIG{TERM} = sub { $stop = 1 };
note("@ARGV");
told("READY=1");
until ($stop) {
    select(undef, undef, undef, 0.05);
    if ($reload) { $reload = 0; note("reloaded"); }
    told("WATCHDOG=1");
}
said("stopped");
"""


def test_the_unit_reads_a_key_of_its_group_reloads_and_stops(tmp_path: Path) -> None:
    """The commands are those of docs/how-to/expose.md."""
    changes = tmp_path / "units" / "twinline.service.d"
    changes.mkdir(parents=True)
    shutil.copy(UNIT, tmp_path / "units")
    (changes / "override.conf").write_text(unit_blocks(EXPOSE)[0].text)
    shutil.copy(UNIT.with_name("twinline-certificate"), tmp_path)
    (tmp_path / "twinline").write_text(STAND_IN)
    live = tmp_path / "live"
    live.mkdir()
    (live / "fullchain.pem").write_text("chain")
    key = live / "privkey.pem"
    key.touch(0o600)
    seen = "/var/lib/private/twinline/seen"
    with own_systemd(tmp_path) as systemd:
        systemd.run("install", "-D", f"{SHARED}/twinline", PROGRAM)
        systemd.run("groupadd", "--system", "twinline-tls")
        systemd.run("install", "-m", "755", f"{SHARED}/twinline-certificate", "/usr/local/sbin/")
        for written in ("first", "second"):  # at the second, the hook has it reload
            key.write_text(written)
            systemd.run("/usr/local/sbin/twinline-certificate", RENEWED_LINEAGE=f"{SHARED}/live")
            systemd.run("systemctl", "start", "twinline")
            systemd.run("timeout", "20", "sh", "-c", f"until grep {written} {seen}; do :; done")
        systemd.run("systemctl", "stop", "twinline")
        # What has not said that it is ready does not count as started, and gets no SIGHUP.
        (tmp_path / "twinline").write_text(f"#!/bin/sh\necho once >>{seen}.more\nexec sleep 60\n")
        systemd.run("install", f"{SHARED}/twinline", PROGRAM)
        systemd.run("systemctl", "start", "--no-block", "twinline")
        systemd.run("timeout", "20", "sh", "-c", f"until grep once {seen}.more; do :; done")
        assert systemd.run("systemctl", "is-active", "twinline", code=3) == "activating\n"
        *_, started, reloaded, stopped = systemd.run("cat", seen).splitlines()
        assert systemd.run("stat", "-c", "%A %U %G", "/etc/twinline/tls/privkey.pem") == (
            "-rw-r----- root twinline-tls\n"
        )
        owner = systemd.run("stat", "-c", "%U %a", "/var/lib/private/twinline")
    net_bind_service = f"{1 << 10:016x}"
    assert started.startswith("serve --config /etc/twinline/twinline.toml --store sqlite:/var/lib")
    assert started.endswith(f" first CapEff: {net_bind_service}")
    assert reloaded == f"reloaded second CapEff: {net_bind_service}"
    assert stopped == "stopped"
    assert owner.endswith(" 700\n")
