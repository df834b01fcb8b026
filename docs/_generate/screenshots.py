"""Makes the pictures of the chat page that the documentation shows.

    python docs/_generate/screenshots.py          needs the extra `browser`, and Chromium

Run it after a change to the page, and look at what it made. No test compares: each browser and each
set of fonts draws a little differently.
"""

import io
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "how-to" / "pictures"
sys.path.append(str(ROOT / "tests" / "support"))

from browsing import Tab, WebSite, chromium  # noqa: E402
from PIL import Image  # noqa: E402 - matplotlib, of the extra `plot`, brings it
from services import PASSWORD  # noqa: E402

if TYPE_CHECKING:
    from playwright.sync_api import Page

NOW = datetime(2026, 3, 12, 10, 24, tzinfo=UTC)
COLOURS = 96  # of a picture: it has few, and is a third as large then
# (minutes ago, who, to whom, text); what ann says is said in the page.
TALK = [
    (1120, "dora", "ann", "The minutes are on the wiki."),
    (1105, "cleo", "ann", "Lunch on Friday?"),
    (1011, "bob", "ann", "Did the new server come up?"),
    (1009, "ann", "bob", "It did. TLS too, with the certificate that was renewed last week."),
    (1008, "bob", "ann", "\u0623\u062d\u0633\u0646\u062a!"),
    (31, "bob", "ann", "Morning! Two things before the demo:\n1. the slides\n2. coffee"),
    (28, "ann", "bob", "Slides are done, coffee is on me."),
    (27, "bob", "ann", "Then <b>nothing</b> can go wrong."),
    (12, "emil", "ann", "ping"),
    (9, "cleo", "ann", "I booked the table for half past twelve, the one at the window."),
    (8, "cleo", "ann", "Tell Bob!"),
    (2, "ann", "bob", "See you at eleven?"),
]


class Clock:
    """The server's clock, which stands where it is put."""

    def __init__(self) -> None:
        self.minutes_ago = 1200

    def __call__(self) -> int:
        """Return where it stands, in ms."""
        return round((NOW - timedelta(minutes=self.minutes_ago)).timestamp() * 1000)


def save(page: "Page", name: str) -> None:
    """Save what is seen as a small PNG."""
    page.evaluate("document.fonts.ready")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    PICTURES.mkdir(exist_ok=True)
    path = PICTURES / name
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")


def acknowledge(site: WebSite, name: str) -> None:
    """Have somebody acknowledge all that has come."""
    session = site.service.session("127.0.0.1")
    site.service.login(session, name, PASSWORD)
    messages = site.service.history(session, limit=1).messages
    if messages:
        site.service.ack(session, messages[-1].seq)


def main() -> None:
    """Make all of them."""
    clock = Clock()
    people = ("ann", "bob", "cleo", "dora", "emil")
    with chromium() as browser, WebSite(clock=clock).create(*people) as site:
        for dark in (False, True):
            clock.minutes_ago = 1200
            context = browser.new_context(
                viewport={"width": 1200, "height": 720},
                color_scheme="dark" if dark else "light",
                locale="en-GB",
                timezone_id="UTC",
            )
            context.clock.set_fixed_time(NOW)
            name = "dark" if dark else "light"
            with Tab(context, site.page) as tab:
                if dark:
                    tab.page.set_viewport_size({"width": 360, "height": 640})
                    save(tab.page, f"login-{name}.png")
                    tab.page.set_viewport_size({"width": 1200, "height": 720})
                tab.enter("ann")
                tab.open("bob")
                for minutes, sender, to, body in [] if dark else TALK:
                    clock.minutes_ago = minutes
                    if sender == "ann":
                        tab.say(body)
                        tab.until("!document.querySelector('.state.sending')")
                    else:
                        site.fill(sender, to, [body])
                    if sender == "bob":
                        tab.sees(body)
                        acknowledge(site, "bob")
                tab.sees(TALK[-1][-1])
                tab.until("document.querySelectorAll('.delivered').length === 2")
                tab.until("document.querySelectorAll('#talks .row').length === 4")
                save(tab.page, f"chat-{name}.png")
                tab.page.set_viewport_size({"width": 360, "height": 640})
                tab.page.wait_for_timeout(100)
                save(tab.page, f"talk-{name}-narrow.png")
                if not dark:
                    tab.page.click("#back")
                    save(tab.page, f"list-{name}-narrow.png")
                    tab.page.click("#settings-open")
                    tab.until("!receipts.disabled")
                    save(tab.page, f"settings-{name}-narrow.png")
            context.close()


if __name__ == "__main__":
    main()
