"""docs/how-to/expose.md: its hooks, its settings, and clients that talk through its proxies."""

import os
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path

import pytest
from behind_proxies import (
    PROGRAMS,
    Server,
    Talker,
    haproxy,
    proxying,
    serving,
    short_folder,
    swapped,
)
from certificates import Certificates, Issued
from docs_blocks import ROOT, Block, blocks_of
from docs_page import free_port
from waiting import wait_until

from twinline.core.addresses import UNIX, is_loopback
from twinline.core.protocol import Hello
from twinline.transports.client import StateKind
from twinline.transports.contract import ReplyReceived
from twinline.transports.endpoints import Endpoint
from twinline.transports.registry import connecting_transport
from twinline.transports.tls import client_context

PAGE = ROOT / "docs" / "how-to" / "expose.md"
HOOK = PAGE.with_name("twinline-certificate")
DOMAIN = "chat.example.org"


def own_address() -> str:
    """Return an address of this machine that is none of loopback, if it has one."""
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            return "127.0.0.9"
        return str(probe.getsockname()[0])


def section(heading: str) -> list[Block]:
    """Return the blocks below a heading, up to the next."""
    parts = re.split(r"^#{2,} (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return blocks_of(parts[parts.index(heading) + 1])


def settings_of(heading: str) -> str:
    (block,) = (each for each in section(heading) if each.language == "toml")
    return block.text


def say_hello(
    server: Server, endpoint: Endpoint, certificates: Certificates, proxy: str | None = None
) -> None:
    """Say hello from an address of one's own, and see that the server knows it."""
    stranger = own_address()
    # A proxy is not believed that somebody behind it is on this machine.
    known = f"behind {proxy}" if proxy and is_loopback(stranger) else stranger
    codec = connecting_transport(endpoint, None).client_codec(65_536)
    with (
        socket.create_connection(
            (endpoint.host, endpoint.port), timeout=10, source_address=(stranger, 0)
        ) as plain,
        client_context(ca_file=str(certificates.ca.file)).wrap_socket(
            plain, server_hostname=endpoint.host
        ) as peer,
    ):
        handshake = codec.data_to_send()
        if proxy:  # claim another address, where there is a head to claim it in
            claim = b"\r\nX-Forwarded-For: 203.0.113.7\r\n"
            handshake = handshake.replace(b"\r\n", claim, 1)
        peer.sendall(handshake)
        while not codec.opened:
            codec.receive_data(peer.recv(65_536))
            assert codec.next_event() is None
        codec.send(1, Hello(protocol=1, client="a stranger"))
        peer.sendall(codec.data_to_send())
        while not isinstance(codec.next_event(), ReplyReceived):
            codec.receive_data(peer.recv(65_536))
    wait_until(
        lambda: f"hello from '{known}', client 'a stranger'" in server.log, f"hello of {known}"
    )


def see_page(endpoint: Endpoint, certificates: Certificates) -> None:
    """See the page of the chat in the place of a browser."""
    trust = client_context(ca_file=str(certificates.ca.file))
    with closing(
        HTTPSConnection(endpoint.host, endpoint.port, timeout=10, context=trust)
    ) as browser:
        browser.request("GET", "/")
        answer = browser.getresponse()
        assert answer.status == 200
        assert answer.headers.get_content_type() == "text/html"
        assert answer.headers["Content-Security-Policy"]
        assert b"twinline" in answer.read()


# -- the proxies ------------------------------------------------------------------------------


def nginx(block: str, folder: Path) -> list[str]:
    """Write a configuration around a block, and return the command that runs nginx."""
    inside = block
    modules = Path("/usr/lib/nginx/modules")
    load = f"load_module {modules}/ngx_stream_module.so;" if "stream {" in block else ""
    if not load:
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        inside = f"http {{\naccess_log off; {paths}\n{block}}}\n"
    file = folder / "nginx.conf"
    file.write_text(
        f"{load}\ndaemon off; master_process off; pid {folder}/nginx.pid;\n"
        f"error_log {folder}/error.log;\nevents {{}}\n{inside}"
    )
    return ["nginx", "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(file)]


def caddy(block: str, folder: Path) -> list[str]:
    """Write a configuration that asks nobody for a certificate, and return the command."""
    file = folder / "Caddyfile"
    file.write_text(f"{{\n    admin off\n    auto_https disable_redirects\n}}\n{block}")
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(file)]


@dataclass(frozen=True)
class Way:
    """A configuration of the page.

    Attributes:
        heading: of its section.
        command: what writes it down, and returns the command that runs its proxy.
        settings: the heading of the section with the server's settings, if it is another one.
        web: whether it is a site.
        cuts: whether it cuts connections that are idle: after an hour, on the page.
        swaps: of its block, besides the ports.
    """

    heading: str
    command: Callable[[str, Path], list[str]]
    settings: str = ""
    web: bool = False
    cuts: bool = True
    swaps: dict[str, str] = field(default_factory=dict)


NGINX_SITE = "nginx, a site with the page and WebSocket"
NGINX_PASS = "nginx, TLS passed through"
V4 = {"bind :::": "bind 127.0.0.1:", " v4v6": ""}
WAYS = {
    "nginx site": Way(
        NGINX_SITE,
        nginx,
        web=True,
        swaps={
            "listen 443 ssl": "listen 127.0.0.1:443 ssl",
            "    listen [::]:443 ssl;\n": "",
            f"/etc/letsencrypt/live/{DOMAIN}/fullchain.pem": "CERTIFICATE",
            f"/etc/letsencrypt/live/{DOMAIN}/privkey.pem": "KEY",
        },
    ),
    "nginx passes": Way(
        NGINX_PASS,
        nginx,
        swaps={"listen 7767": "listen 127.0.0.1:7767", "        listen [::]:7767;\n": ""},
    ),
    "haproxy passes": Way("HAProxy, TLS passed through", haproxy, NGINX_PASS, swaps=V4),
    "haproxy ends": Way(
        "HAProxy, which ends TLS", haproxy, swaps={"/etc/haproxy/chat.pem": "PAIR", **V4}
    ),
    "haproxy site": Way(
        "HAProxy, a site with the page and WebSocket",
        haproxy,
        web=True,
        swaps={"/etc/haproxy/chat.pem": "PAIR", **V4},
    ),
    "caddy site": Way(
        "Caddy, a site with the page and WebSocket",
        caddy,
        NGINX_SITE,
        web=True,
        cuts=False,
        swaps={f"{DOMAIN} {{\n": "https://127.0.0.1:443 {\n    tls CERTIFICATE KEY\n"},
    ),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_client_talks_through_a_proxy(name: str, certificates: Certificates) -> None:
    way = WAYS[name]
    program = name.partition(" ")[0]
    if shutil.which(program, path=PROGRAMS) is None:
        pytest.skip(f"{program} is not here")
    outside, inside = free_port(), free_port()
    (block,) = (each.text for each in section(way.heading) if each.language in ("nginx", "text"))
    settings = settings_of(way.settings or way.heading)
    with short_folder() as folder, ExitStack() as running:
        pair = folder / "pair.pem"
        issued = certificates.server
        pair.write_bytes(issued.certificate.read_bytes() + issued.key.read_bytes())
        here = {
            "7767": str(outside),
            ":443": f":{outside}",
            "7768": str(inside),
            "8080": str(inside),
            "/run/twinline/": f"{folder}/",
            "CERTIFICATE": str(issued.certificate),
            "KEY": str(issued.key),
            "PAIR": str(pair),
            "/etc/twinline/tls/fullchain.pem": str(issued.certificate),
            "/etc/twinline/tls/privkey.pem": str(issued.key),
        }
        block = swapped(block, way.swaps)
        block = swapped(block, {old: new for old, new in here.items() if old in block})
        settings = swapped(settings, {old: new for old, new in here.items() if old in settings})
        server = running.enter_context(serving(settings, folder))
        endpoint = Endpoint.parse(f"{'wss' if way.web else 'tls'}://127.0.0.1:{outside}")
        with proxying(way.command(block, folder), outside, folder):
            say_hello(server, endpoint, certificates, UNIX if UNIX in settings else "127.0.0.1")
            if way.web:
                see_page(endpoint, certificates)
            ann = running.enter_context(Talker(endpoint, certificates))
        # The proxy is gone, and comes back with less patience.
        hasty = swapped(block, {"1h": "1s"}) if way.cuts else block
        with proxying(way.command(hasty, folder), outside, folder):
            ann.hear("after a restart of the proxy")
            ann.seen.clear()
            if way.cuts:
                wait_until(lambda: StateKind.RECONNECTING in ann.seen, "the cut of what is idle")
            ann.hear("after a pause")
        assert server.process.poll() is None, server.log


# -- the certificate ----------------------------------------------------------------------------


def lineage(folder: Path, issued: Issued) -> Path:
    """Return a folder as certbot has it for a domain."""
    folder.mkdir(exist_ok=True)
    shutil.copyfile(issued.certificate, folder / "fullchain.pem")
    shutil.copyfile(issued.key, folder / "privkey.pem")
    (folder / "privkey.pem").chmod(0o600)
    return folder


def hook(name: str, text: str, folder: Path, systemctl: str) -> Path:
    """Write a hook down, with a `systemctl` in the place of systemd's."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "systemctl").write_text(f"#!/bin/sh\n{systemctl}\n")
    (programs / name).write_text(text)
    for each in programs.iterdir():
        each.chmod(0o755)
    return programs / name


def run_hook(program: Path, lineage: Path | None) -> subprocess.CompletedProcess[str]:
    named = {} if lineage is None else {"RENEWED_LINEAGE": str(lineage)}
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [program],
        env={"PATH": path} | named,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def own_group() -> str:
    return subprocess.check_output(["id", "-gn"], text=True).strip()


def twinline_hook(folder: Path, systemctl: str) -> tuple[Path, Path]:
    """Return the hook, and the folder that it fills."""
    text = HOOK.read_text(encoding="utf-8")
    to = folder / "tls"
    text = swapped(
        text, {"/etc/twinline/tls": str(to), "group=twinline-tls": f"group={own_group()}"}
    )
    return hook("twinline-certificate", text, folder, systemctl), to


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_page_shows_the_hook_as_it_is() -> None:
    texts = [each.text for each in section("A certificate from Let's Encrypt")]
    assert HOOK.read_text(encoding="utf-8") in texts
    assert os.access(HOOK, os.X_OK)


def test_the_hook_copies_a_pair_for_a_group_and_reloads(
    tmp_path: Path, certificates: Certificates
) -> None:
    told = tmp_path / "told"
    program, to = twinline_hook(tmp_path, f'echo "$@" >>{told}')
    for issued in (certificates.server, certificates.expired):
        done = run_hook(program, lineage(tmp_path / "live", issued))
        assert (done.returncode, done.stderr) == (0, "")
        assert (to / "fullchain.pem").read_bytes() == issued.certificate.read_bytes()
        assert (to / "privkey.pem").read_bytes() == issued.key.read_bytes()
    assert mode(to) == 0o750
    assert {mode(each) for each in to.iterdir()} == {0o640}
    assert sorted(each.name for each in to.iterdir()) == ["fullchain.pem", "privkey.pem"]
    assert told.read_text().splitlines() == ["try-reload-or-restart twinline.service"] * 2


def test_a_hook_that_fails_leaves_the_pair_as_it_was(
    tmp_path: Path, certificates: Certificates
) -> None:
    told = tmp_path / "told"
    program, to = twinline_hook(tmp_path, f"touch {told}")
    live = lineage(tmp_path / "live", certificates.server)
    assert run_hook(program, live).returncode == 0
    told.unlink()
    (live / "fullchain.pem").unlink()
    shutil.copyfile(certificates.expired.key, live / "privkey.pem")
    assert run_hook(program, live).returncode
    assert "certbot names the folder" in run_hook(program, None).stderr
    assert (to / "privkey.pem").read_bytes() == certificates.server.key.read_bytes()
    assert not told.exists()


def test_the_hook_of_haproxy_joins_the_pair(tmp_path: Path, certificates: Certificates) -> None:
    text, _ = (each.text for each in section("HAProxy, which ends TLS") if each.language == "sh")
    program = hook(
        "haproxy-certificate", swapped(text, {"/etc/haproxy": str(tmp_path)}), tmp_path, "true"
    )
    done = run_hook(program, lineage(tmp_path / "live", certificates.server))
    assert (done.returncode, done.stderr) == (0, "")
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tmp_path / "chat.pem")
    assert mode(tmp_path / "chat.pem") == 0o600


def shown(endpoint: Endpoint, certificates: Certificates) -> bytes:
    """Return the certificate that a server shows."""
    trust = client_context(ca_file=str(certificates.ca.file))
    with (
        socket.create_connection((endpoint.host, endpoint.port), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname=endpoint.host) as peer,
    ):
        return peer.getpeercert(binary_form=True) or b""


def test_a_server_alone_takes_a_renewed_certificate_and_keeps_its_connections(
    tmp_path: Path, certificates: Certificates
) -> None:
    tls, wss = free_port(), free_port()
    program, to = twinline_hook(tmp_path, f"kill -HUP $(cat {tmp_path}/pid)")
    (tmp_path / "pid").write_text(str(os.getpid()))
    settings = swapped(
        settings_of("The settings"),
        {
            "tls://[::]:7767": f"tls://127.0.0.1:{tls}",
            "wss://[::]:443": f"wss://127.0.0.1:{wss}",
            "/etc/twinline/tls": str(to),
        },
    )
    endpoint, web = map(Endpoint.parse, (f"tls://127.0.0.1:{tls}", f"wss://127.0.0.1:{wss}"))
    live = tmp_path / "live"
    first, second = certificates.server, certificates.ca.issue("renewed", hosts=("127.0.0.1",))
    lineage(live, first)
    to.mkdir()
    lineage(to, first)
    with serving(settings, tmp_path) as server:
        (tmp_path / "pid").write_text(str(server.process.pid))
        with Talker(endpoint, certificates) as ann:
            assert shown(endpoint, certificates) == first.der
            done = run_hook(program, lineage(live, second))
            assert (done.returncode, done.stderr) == (0, "")
            for each in (endpoint, web):
                wait_until(
                    lambda each=each: shown(each, certificates) == second.der, "the new certificate"
                )
            ann.hear("still here")
            assert StateKind.RECONNECTING not in ann.seen
        see_page(web, certificates)
        say_hello(server, web, certificates)


# -- the log ------------------------------------------------------------------------------------


def test_the_server_says_what_the_page_has_of_its_log() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for package in ("core", "transports", "cli")
        for path in (ROOT / package).rglob("*.py")
    )
    code = re.sub(r'"\s+f?"', "", code)  # a sentence may be cut at the end of a line
    page = PAGE.read_text(encoding="utf-8").partition("| it says | then |\n|---|---|\n")[2]
    said = re.findall(r"^\| `(.*?)`", page, re.MULTILINE)
    assert len(said) == 8
    for line in said:
        for part in re.split("(?: in )?…|'behind ", line):
            assert part.strip(" ':") in code, line
