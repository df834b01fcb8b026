"""A real browser for tests: Chromium, driven by Playwright, and servers whose page it opens."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import pytest
from services import PASSWORD, cheap_hasher
from waiting import join

from twinline.core.clock import wall_clock_ms
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.store import MailboxPolicy
from twinline.stores.memory import MemoryStore
from twinline.transports.endpoints import Endpoint
from twinline.transports.listener import ListenerSettings, LoopListener, ThreadedListener
from twinline.transports.registry import listening_transport
from twinline.transports.web import ChatPage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator

SECONDS = 30
"""For whatever a test waits for in a page."""
# What the browser itself says of a connection that cannot be opened, or breaks.
_EXPECTED = re.compile(r"WebSocket connection to .* failed|net::ERR_")


@contextlib.contextmanager
def chromium() -> Iterator["Browser"]:
    """Start the system's Chromium, or skip the test where there is none, or nothing to drive it."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("there is no Chromium here, which opens the page")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra browser")
    # As root, and in a container, it has no sandbox of its own.
    arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


class WebSite:
    """A real server in this process, on a WebSocket endpoint with the page and on plain TCP.

    With files of TLS, the first is of ``wss``, and driven by an event loop.

    Attributes:
        service: what it serves; a test may act through it.
        page: the address of the page.
        tcp: the other endpoint.
    """

    def __init__(
        self,
        policy: MailboxPolicy | None = None,
        clock: Callable[[], int] = wall_clock_ms,
        tls: ListenerSettings | None = None,
        *,
        service: ChatService | None = None,
        port: int = 0,
        others: Sequence[int] = (),
    ) -> None:
        store = MemoryStore(policy or MailboxPolicy())
        self.service = service or ChatService(
            store, ServiceSettings(), clock=clock, hasher=cheap_hasher()
        )
        scheme, http = ("wss", "https") if tls else ("ws", "http")
        places = [
            Endpoint.parse(f"{scheme}://127.0.0.1:{port}"),
            Endpoint.parse("tcp://127.0.0.1:0"),
        ]
        # Other servers of the same service, and their pages.
        page = ChatPage([f"{scheme}://127.0.0.1:{other}" for other in others])
        origins = [f"{http}://127.0.0.1:{other}" for other in others]
        self._listener = (LoopListener if tls else ThreadedListener)(
            self.service,
            [
                (each, listening_transport(each, "auto", page=page, origins=origins))
                for each in places
            ],
            tls,
        )
        web, self.tcp = self._listener.endpoints
        self.page = f"{http}://127.0.0.1:{web.port}/"
        self._thread = threading.Thread(target=self._listener.serve_forever, name="accepting")
        self._thread.start()

    def fill(self, sender: str, to: str, bodies: Iterator[str] | list[str]) -> None:
        """Have one send to another, in order."""
        session = self.service.session("127.0.0.1")
        self.service.login(session, sender, PASSWORD)
        for body in bodies:
            self.service.send(session, to, body)

    def create(self, *names: str) -> Self:
        """Make accounts."""
        for name in names:
            self.service.create_account(self.service.session("127.0.0.1"), name, PASSWORD)
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.service.stop()
        self.leave()

    def leave(self) -> None:
        """End this server, and not the service: there may be other servers of it."""
        self._listener.stop()
        join(self._thread)


class ServerProcess:
    """`twinline serve` as a process of its own, over a database, that can be killed.

    Attributes:
        page: the address of the page.
        tcp: the other endpoint.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        web, plain = free_ports(2)
        self.page = f"http://127.0.0.1:{web}/"
        self.tcp = f"tcp://127.0.0.1:{plain}"
        self._listen = [f"--listen=ws://127.0.0.1:{web}", f"--listen={self.tcp}"]
        self.start()

    def start(self) -> None:
        """Start it, and return once it listens."""
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "twinline.cli", "serve", *self._listen),
                *("--store", f"sqlite:{self._folder / 'chat.db'}"),
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TWINLINE_CHECK_LOCKS": "1", "TWINLINE_CONFIG": ""},
        )
        assert self._process.stdout is not None
        for _ in self._listen:
            line = self._process.stdout.readline()
            assert line.startswith("listening on "), line

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.communicate(timeout=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Tab:
    """The page in a tab, and what a person does there.

    Attributes:
        page: Playwright's.
        errors: what the page's own code has complained of; none, at the end of the `with`.
    """

    def __init__(
        self,
        place: "Browser | BrowserContext",
        address: str,
        *,
        width: int = 1200,
        height: int = 760,
        dark: bool = False,
    ) -> None:
        self._owned = None
        self._failed = import_module("playwright.sync_api").Error
        context: Any = place
        if hasattr(place, "new_context"):
            context = self._owned = place.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if dark else "light",
                locale="en-GB",
                ignore_https_errors=True,  # the authority is the tests' own
            )
        self.context = context
        self.page = context.new_page()
        self.page.set_default_timeout(1000 * SECONDS)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        self.page.on("console", self._said)
        self.page.goto(address)
        self.until("document.body.dataset.view !== 'starting'")

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning") and not _EXPECTED.search(message.text):
            self.errors.append(message.text)

    # -- what a person does -------------------------------------------------------------

    def enter(self, username: str, *, create: bool = False) -> Self:
        """Log in, or create the account."""
        if create:
            self.page.click("#login-other")
        self.page.fill("#username", username)
        self.page.fill("#password", PASSWORD)
        self.page.press("#password", "Enter")
        self.page.wait_for_selector("#standing.online")
        return self

    def open(self, name: str) -> Self:
        """Find somebody by typing, and open the talk."""
        self.page.fill("#search", name)
        self.page.wait_for_selector(f"#found [role=option]:has-text('{name}')")
        self.page.press("#search", "Enter")
        self.page.wait_for_selector(f"#with:has-text('{name}')")
        return self

    def leave(self, key: str | None = None) -> Self:
        """Log out, by a key where the button has the focus; the page is loaded anew."""
        with self.page.expect_event("load"):
            self.page.keyboard.press(key) if key else self.page.click("#logout")
        self.until("document.body.dataset.view === 'login'")
        return self

    def say(self, text: str) -> Self:
        """Write and send."""
        self.page.fill("#draft", text)
        self.page.press("#draft", "Enter")
        return self

    # -- what a person sees -------------------------------------------------------------

    def one(self, selector: str) -> "Locator":
        """Return an element that is to be there once."""
        found: Locator = self.page.locator(selector)
        return found

    def sees(self, text: str) -> None:
        """Wait until a message in the open talk is this text."""
        self.until("text => [...document.querySelectorAll('#messages .body')]"
                   ".some((body) => body.innerText === text)", text)  # fmt: skip

    def bodies(self) -> list[str]:
        """Return the texts that have elements in the open talk."""
        found: list[str] = self.page.locator("#messages .body").all_inner_texts()
        return found

    def shows(self, bodies: list[str]) -> None:
        """Wait until these are the texts in the open talk, and no others.

        What comes by itself may be here before what is asked for.
        """
        self.until(
            "bodies => { const all = [...document.querySelectorAll('#messages .body')].map("
            "(body) => body.innerText); return JSON.stringify(all) === JSON.stringify(bodies); }",
            bodies,
        )

    def states(self) -> list[str]:
        """Return what is said of each message of one's own: stored, delivered, not sent: ..."""
        found: list[str] = self.page.locator("#messages .mine .state").evaluate_all(
            "all => all.map((state) => state.title)"
        )
        return found

    def row(self, name: str) -> str:
        """Return the row of a talk in the list, as text on one line; empty if there is none."""
        rows = self.page.locator("#talks .row").evaluate_all("all => all.map((r) => r.innerText)")
        return next((" ".join(row.split()) for row in rows if name in row), "")

    def until(self, condition: str, argument: object = None) -> None:
        """Wait until an expression of JavaScript is true, or a function of the argument is.

        Playwright's own wait has the page evaluate a string, which its policy forbids. Where an
        element of it is not there yet, or the page is being loaded anew, it is not true yet.
        """
        late = monotonic() + SECONDS
        while True:
            failed = None
            try:
                if self.page.evaluate(condition, argument):
                    return
            except self._failed as error:
                failed = error
            if monotonic() > late:
                said = f"not within {SECONDS} s: {condition}, {argument!r}; {self.errors}; {failed}"
                pytest.fail(said)
            self.page.wait_for_timeout(10)

    def title(self, expected: str) -> None:
        """Wait until the tab has a title."""
        self.until("title => document.title === title", expected)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._owned is not None:
            self._owned.close()
        if error is None:
            assert self.errors == []
