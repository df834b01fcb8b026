"""Conversations on the chat page in a real Chromium: both sides, every device, and who is whom."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from browsing import Tab, WebSite, free_ports
from services import PASSWORD, cheap_hasher
from waiting import wait_until

from twinline.core.errors import Refused
from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.store import MailboxPolicy
from twinline.stores.memory import MemoryStore
from twinline.transports.client import Client

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator

pytestmark = pytest.mark.timeout(300)

NOTICES = """
window.told = [];
window.asked = 0;
const Real = window.Notification;
class Recorded extends Real {
  constructor(title, options) {
    super(title, options);
    window.told.push([title, options.body]);
    window.notice = this;
  }
  static requestPermission() {
    window.asked += 1;
    return Real.requestPermission();
  }
}
window.Notification = Recorded;
"""
STORED = "count => document.querySelectorAll('#messages .state.sent').length === count"


def logged_in(site: WebSite, name: str) -> Client:
    """Return another device of an account; the caller ends it."""
    client = Client(site.tcp)
    client.login(name, PASSWORD)
    return client


def acked(site: WebSite, name: str) -> None:
    """Have a device acknowledge all that an account has."""
    with logged_in(site, name) as client:
        seen = max(
            (each.seq for each in client.history(limit=1, kinds=("mail", "sent")).messages),
            default=0,
        )
        client.ack(seen)


def test_what_another_device_sends_is_here_at_once_and_once(browser: "Browser") -> None:
    with (
        WebSite().create("ann", "bob", "cleo") as site,
        Tab(browser, site.page).enter("ann") as desk,
        Tab(browser, site.page).enter("ann") as phone,
        logged_in(site, "ann") as terminal,
    ):
        desk.open("bob")
        phone.open("cleo")
        terminal.send("bob", "from a terminal", send_id="1", copy=True)
        desk.sees("from a terminal")
        phone.until("document.querySelector('#talks .row')?.innerText.includes('a terminal')")
        assert phone.row("bob").endswith("You: from a terminal")
        phone.open("bob").sees("from a terminal")
        # Both at once, and more than one: the copy comes before the reply or after it.
        for number in range(8):
            desk.say(f"desk {number}")
            phone.say(f"phone {number}")
        for device in (desk, phone):
            device.until(STORED, 17)
            assert sorted(device.bodies()) == sorted(
                [
                    "from a terminal",
                    *(f"{each} {n}" for each in ("desk", "phone") for n in range(8)),
                ]
            )
        wait_until(lambda: desk.bodies() == phone.bodies(), "the copies to be in their order")
        assert phone.page.title() == "twinline"  # what one has written oneself is not unread
        # The server has all of it, and the tab keeps nothing of it.
        desk.page.reload()
        desk.shows(phone.bodies())
        desk.until("JSON.parse(sessionStorage.twinline).sent.length === 0")


def test_what_was_stored_is_said_to_be_delivered_when_it_was_acked(browser: "Browser") -> None:
    delivered = "count => document.querySelectorAll('#messages .delivered').length === count"
    with (
        WebSite().create("ann", "bob") as site,
        Tab(browser, site.page).enter("ann") as ann,
        logged_in(site, "bob") as bob,
    ):
        ann.open("bob").say("one").say("two")
        ann.until(STORED, 2)
        assert ann.states() == ["stored", "stored"]
        foot = ann.page.locator("#messages .foot").first
        assert foot.inner_text().split()[-2:] == ["✓", "stored"]
        mail = bob.messages()
        bob.ack(next(mail).seq)
        ann.until(delivered, 1)
        assert ann.states() == ["delivered", "stored"]
        assert foot.inner_text().split()[-2:] == ["✓✓", "delivered"]
        # What is only heard is not seen, and the sign is not all there is to tell them apart.
        assert ann.page.locator("#messages .delivered .for-readers").count() == 1
        # Once the page has acknowledged the receipt too, it does not come by itself again.
        with logged_in(site, "ann") as other:
            wait_until(lambda: other.status().position == 3, "the receipt to be acknowledged")
        ann.page.reload()
        ann.until(delivered, 1)
        assert ann.states() == ["delivered", "stored"]
        bob.ack(next(mail).seq)
        ann.until(delivered, 2)


def test_receipts_are_a_setting_of_the_account(browser: "Browser") -> None:
    with (
        WebSite().create("ann", "bob") as site,
        logged_in(site, "ann") as other,
        Tab(browser, site.page).enter("ann") as ann,
    ):
        ann.page.click("#settings-open")
        ann.until("receipts.checked && !receipts.disabled")
        ann.page.uncheck("#receipts")
        ann.page.click("#settings-close")
        ann.until("!settings.open")
        # The answer to the first request is there before that to the next one of the connection.
        ann.page.click("#settings-open")
        ann.until("!receipts.checked && !receipts.disabled")
        assert other.status().receipts is False
        other.set_receipts(receipts=True)
        ann.page.keyboard.press("Escape")
        ann.page.click("#settings-open")
        ann.until("receipts.checked && !receipts.disabled")


def test_somebody_is_blocked_and_taken_back(browser: "Browser") -> None:
    with (
        WebSite().create("ann", "bob") as site,
        logged_in(site, "bob") as bob,
        Tab(browser, site.page).enter("ann") as ann,
        Tab(browser, site.page).enter("ann") as other,
    ):
        bob.send("ann", "buy this")
        ann.open("bob").sees("buy this")
        assert ann.one("#note").is_hidden()
        ann.page.click("#block")
        ann.until("block.innerText === 'Unblock' && note.innerText.includes('blocked')")
        with pytest.raises(Refused):
            bob.send("ann", "and this")
        ann.until("document.querySelector('#talks .row-tag').innerText === 'blocked'")
        # Elsewhere it is seen too, when one looks, and there it ends.
        other.page.reload()
        other.until("document.querySelector('#talks .row-tag')?.innerText === 'blocked'")
        other.page.click("#settings-open")
        other.page.wait_for_selector("#blocked li:has-text('bob')")
        assert other.one("#blocked-none").is_hidden()
        other.page.get_by_text("Unblock bob").click()
        other.until("blocked.children.length === 0")
        assert other.one("#blocked-none").is_visible()
        bob.send("ann", "sorry")
        ann.sees("sorry")
        ann.shows(["buy this", "sorry"])


def test_what_is_refused_is_told_is_not_tried_again_and_is_had_back(browser: "Browser") -> None:
    with (
        WebSite().create("ann", "bob") as site,
        logged_in(site, "bob") as bob,
        Tab(browser, site.page).enter("ann") as ann,
    ):
        bob.block("ann")
        ann.open("bob").say("two\nlines")
        ann.page.wait_for_selector(".state.failed")
        assert ann.states() == ["not sent:"]
        assert "takes no messages from you" in ann.one(".why").inner_text()
        assert ann.page.get_by_text("Try again").count() == 0
        bob.unblock("ann")
        # It stays as it is, until one decides.
        ann.page.reload()
        ann.page.wait_for_selector("#standing.online")
        ann.page.wait_for_selector(".state.failed")
        ann.page.fill("#draft", "written since")
        ann.page.get_by_role("button", name="Edit").click()
        assert ann.one("#draft").input_value() == "two\nlines\nwritten since"
        ann.until("document.querySelectorAll('#messages .body').length === 0")
        assert ann.page.evaluate("document.activeElement.id") == "draft"
        ann.page.press("#draft", "Enter")
        ann.until(STORED, 1)
        assert [each.body for each in bob.history().messages] == ["two\nlines\nwritten since"]


def test_the_list_is_the_servers_after_a_reload_and_elsewhere(browser: "Browser") -> None:
    names = [f"p{number:02}" for number in range(120)]
    with WebSite().create("ann", *names) as site:
        for name in names:
            site.fill(name, "ann", [f"I am {name}"])
        acked(site, "ann")
        site.fill("p00", "ann", ["again", "and again"])
        count = "document.querySelectorAll('#talks .row').length"
        with Tab(browser, site.page).enter("ann") as ann:
            # One page of them, the newest first; those below come when one gets there.
            ann.until(f"{count} === 50")
            ann.title("(2) twinline")
            first = ann.page.locator("#talks .row").first.inner_text()
            assert " ".join(first.split()).startswith("P p00")
            assert "and again 2 unread" in ann.row("p00")
            assert "I am p119" in ann.row("p119")
            ann.until(
                "(() => { const nav = document.querySelector('#talks-nav');"
                f"nav.scrollTop = nav.scrollHeight; return {count} === 120; }})()"
            )
            assert ann.one("#talks-more").is_hidden()
            assert "I am p01" in ann.row("p01")
            ann.page.reload()
            ann.until(f"{count} === 50")
            ann.title("(2) twinline")  # they are acknowledged by now, and not read
            assert "2 unread" in ann.row("p00")
            ann.open("p00").shows(["I am p00", "again", "and again"])
            assert ann.one("#messages .line").count() == 1
            ann.title("twinline")
            ann.page.reload()
            ann.until(f"{count} === 50")
            ann.sees("and again")
            ann.title("twinline")
            assert ann.one("#messages .line").count() == 0
        with Tab(browser, site.page).enter("ann") as elsewhere:
            elsewhere.until(f"{count} === 50")
            assert "and again" in elsewhere.row("p00")
            # With the keyboard alone the rest is reached as well.
            elsewhere.page.locator("#talks-more").press("Enter")
            elsewhere.until(f"{count} > 50")


def test_a_conversation_is_read_back_to_where_it_begins(browser: "Browser") -> None:
    policy = MailboxPolicy(history_messages=2000)
    with WebSite(policy).create("ann", "bob", "cleo") as site:
        bodies = []
        with logged_in(site, "ann") as ann_before:
            for number in range(350):
                sender, to = ("ann", "bob") if number % 2 else ("bob", "ann")
                bodies.append(f"no. {number} of {sender}")
                if sender == "ann":
                    ann_before.send(to, bodies[-1], send_id=str(number), copy=True)
                else:
                    site.fill(sender, to, bodies[-1:])
                site.fill("cleo", "ann", ["of another conversation"] * (number % 3))
        acked(site, "ann")
        with Tab(browser, site.page).enter("ann") as ann:
            ann.page.locator("#talks .row:has-text('bob')").click()
            ann.sees(bodies[-1])
            shown = ann.page.locator("#messages .body").evaluate_all(
                "all => all.map((body) => [body.innerText, body.closest('.mine') !== null])"
            )
            assert shown == [[body, body.endswith("ann")] for body in bodies[-len(shown) :]]
            assert len(shown) < 350
            ann.until(
                "(() => { scroller.scrollTop = 0; return true; })() &&"
                "document.querySelector('#messages .body').innerText === 'no. 0 of bob'"
            )
            ann.until("document.querySelector('.edge').innerText === 'This is where it begins.'")
            shown = ann.bodies()
            assert shown == bodies[: len(shown)]
            assert len(shown) <= 200


def test_days_are_marked_and_the_line_is_before_what_is_new(browser: "Browser") -> None:
    now = datetime(2026, 3, 12, 10, 24, tzinfo=UTC)
    at = [now - timedelta(days=400)]

    def clock() -> int:
        return round(at[0].timestamp() * 1000)

    context = browser.new_context(locale="en-GB", timezone_id="UTC")
    context.clock.set_fixed_time(now)
    # For all of this time, and with no session yet.
    with WebSite(MailboxPolicy(history_days=1000), clock).create("ann", "bob", "cleo") as site:
        site.fill("bob", "ann", ["long ago"])
        at[0] = now - timedelta(days=2)
        site.fill("bob", "ann", ["before", "it"])
        at[0] = now - timedelta(hours=12)
        site.fill("bob", "ann", ["in the evening"])
        at[0] = now
        acked(site, "ann")
        with Tab(context, site.page).enter("ann") as ann:
            ann.page.locator("#talks .row").click()
            ann.sees("in the evening")
            site.fill("bob", "ann", ["seen as it comes"])
            ann.sees("seen as it comes")
            assert ann.one("#messages .line").count() == 0
            ann.open("cleo")
            site.fill("bob", "ann", ["unseen", "too"])
            ann.title("(2) twinline")
            ann.page.keyboard.press("Alt+ArrowUp")
            ann.page.wait_for_selector("#with:has-text('bob')")
            ann.title("twinline")

            def said() -> list[str]:
                found: list[str] = ann.page.locator(
                    "#messages :is(.body, .day, .line)"
                ).all_inner_texts()
                return found

            before = [
                *("5 February 2025", "long ago", "Tuesday 10 March", "before", "it"),
                *("Yesterday", "in the evening", "Today", "seen as it comes"),
            ]
            assert said() == [*before, "New messages", "unseen", "too"]
            site.fill("bob", "ann", ["and more"])
            ann.sees("and more")
            assert said() == [*before, "New messages", "unseen", "too", "and more"]
            ann.say("thank you")
            ann.until(STORED, 1)
            assert said() == [*before, "unseen", "too", "and more", "thank you"]
    context.close()


def test_what_is_typed_goes_to_whom_one_looks_at(browser: "Browser") -> None:
    with (
        WebSite().create("ann", "bob", "cleo") as site,
        Tab(browser, site.page).enter("ann") as ann,
    ):
        keys = ann.page.keyboard
        ann.open("cleo").say("hello cleo")
        ann.open("bob").say("hello bob")
        ann.until(STORED, 1)
        keys.type("half of ")
        assert ann.one("#draft").get_attribute("placeholder") == "Write to bob"
        keys.press("Alt+ArrowDown")
        ann.sees("hello cleo")
        assert ann.one("#draft").input_value() == ""
        keys.type("dave: is late")
        # Mail of others changes neither where one is nor what one has typed.
        site.fill("bob", "ann", ["I am here"])
        ann.title("(1) twinline")
        keys.press("Enter")
        ann.sees("dave: is late")
        keys.press("Alt+ArrowDown")
        ann.page.wait_for_selector("#with:has-text('bob')")
        assert ann.one("#draft").input_value() == "half of "
        keys.type("a sentence")
        keys.press("Enter")
        ann.until(STORED, 2)
        ann.shows(["hello bob", "I am here", "half of a sentence"])
        with logged_in(site, "cleo") as cleo:
            bodies = [each.body for each in cleo.history().messages]
            assert bodies == ["hello cleo", "dave: is late"]


def test_a_name_that_is_another_account_now_is_another_conversation(browser: "Browser") -> None:
    settings = ServiceSettings(free_deleted_names=True)
    service = ChatService(MemoryStore(), settings, hasher=cheap_hasher())
    with (
        WebSite(service=service).create("ann", "bob") as site,
        Tab(browser, site.page).enter("ann") as ann,
    ):
        site.fill("bob", "ann", ["the old one"])
        ann.open("bob").sees("the old one")
        ann.page.fill("#draft", "for the old one")
        with logged_in(site, "bob") as bob:
            bob.delete_account(PASSWORD)
        site.create("bob")
        # Whoever looks again finds that this is over; what is typed stays with it.
        ann.open("ann")
        ann.page.click("#talks .row")
        ann.until("note.innerText.includes('is gone') && composer.hidden")
        assert ann.bodies() == ["the old one"]
        ann.page.reload()
        ann.until("note.innerText.includes('is gone') && composer.hidden")
        assert ann.bodies() == ["the old one"]
        assert ann.row("bob").startswith("B bob an earlier account")
        # Sought by the name, it is the account that has it now.
        ann.open("bob")
        ann.until("!composer.hidden && document.querySelector('.edge').innerText !== ''")
        assert (ann.bodies(), ann.one("#draft").input_value()) == ([], "")
        ann.say("for the new one")
        ann.until(STORED, 1)
        rows = ann.page.locator("#talks .row")
        assert rows.count() == 2
        ann.page.reload()
        ann.until("document.querySelectorAll('#talks .row').length === 2")
        ann.sees("for the new one")
        assert ann.bodies() == ["for the new one"]
        rows.last.click()
        ann.sees("the old one")
        assert ann.bodies() == ["the old one"]
        assert ann.one("#composer").is_hidden()
        with logged_in(site, "bob") as new:
            assert [each.body for each in new.history().messages] == ["for the new one"]


def test_an_earlier_account_is_read_whole_after_a_reload_and_counted_by_itself(
    browser: "Browser",
) -> None:
    settings = ServiceSettings(free_deleted_names=True)
    service = ChatService(MemoryStore(), settings, hasher=cheap_hasher())
    with (
        WebSite(service=service).create("ann", "bob") as site,
        Tab(browser, site.page).enter("ann") as ann,
    ):
        old = [f"no. {number}" for number in range(150)]
        site.fill("bob", "ann", old)
        ann.title("(150) twinline")
        with logged_in(site, "bob") as bob:
            bob.delete_account(PASSWORD)
        site.create("bob")
        site.fill("bob", "ann", ["of the new one"])
        ann.title("(151) twinline")
        ann.page.reload()
        ann.until("document.querySelectorAll('#talks .row').length === 2")
        ann.title("(151) twinline")
        now, earlier = ann.page.locator("#talks .row").all()
        wait_until(lambda: "150 unread" in said(earlier), "the earlier one's to be counted")
        assert "an earlier account" in said(earlier)
        assert "no. 149" in said(earlier)
        assert "of the new one 1 unread" in said(now)
        earlier.click()
        ann.sees("no. 149")
        assert ann.one("#composer").is_hidden()
        assert "is gone" in ann.one("#note").inner_text()
        ann.title("(1) twinline")  # what is read of one is not read of the other
        ann.until(
            "(() => { scroller.scrollTop = 0; return true; })() &&"
            "document.querySelector('#messages .body').innerText === 'no. 0'"
        )
        ann.until("document.querySelector('.edge').innerText === 'This is where it begins.'")
        assert ann.bodies() == old[: len(ann.bodies())]
        ann.page.reload()
        ann.sees("no. 149")
        ann.until("document.querySelectorAll('#talks .row').length === 2")
        assert "is gone" in ann.one("#note").inner_text()
        ann.title("(1) twinline")
        now.click()
        ann.sees("of the new one")
        assert ann.bodies() == ["of the new one"]
        assert ann.one("#composer").is_visible()
        ann.title("twinline")
        ann.page.reload()
        ann.until("document.querySelectorAll('#talks .row').length === 2")
        ann.sees("of the new one")
        ann.title("twinline")


def said(row: "Locator") -> str:
    """Return what a row of the list says."""
    return " ".join(row.inner_text().split())


def test_messages_one_does_not_look_at_are_told_once_that_is_wanted(browser: "Browser") -> None:
    context = browser.new_context()
    context.add_init_script(NOTICES)
    with WebSite().create("ann", "bob", "cleo", "dora") as site:
        site.fill("bob", "ann", ["before it was wanted"])
        with Tab(context, site.page).enter("ann") as ann:
            ann.title("(1) twinline")
            ann.page.click("#settings-open")
            assert not ann.one("#notifies").is_checked()
            assert ann.page.evaluate("[told, asked]") == [[], 0]
            # The browser says no: it stays off, and says why.
            ann.page.click("#notifies")
            ann.until("document.querySelector('#settings-error').innerText.includes('not allow')")
            assert not ann.one("#notifies").is_checked()
            context.grant_permissions(["notifications"])
            ann.page.click("#notifies")
            ann.until("asked === 2 && notifies.checked")
            ann.page.click("#settings-close")
            ann.open("cleo")
            site.fill("cleo", "ann", ["seen here"])
            ann.sees("seen here")
            site.fill("bob", "ann", ["one", "two\u202e\nlines"])
            ann.until("told.length > 0")
            assert ann.page.evaluate("told") == [["bob", "twoU+202E lines"]]
            ann.page.evaluate("notice.onclick()")
            ann.page.wait_for_selector("#with:has-text('bob')")
            # It outlives a reload, and nothing is asked for again.
            ann.page.reload()
            ann.page.wait_for_selector("#standing.online")
            site.fill("cleo", "ann", ["once more"])
            ann.until("told.length > 0")
            assert ann.page.evaluate("[told, asked]") == [[["cleo", "once more"]], 0]
            ann.page.click("#settings-open")
            ann.page.uncheck("#notifies")
            site.fill("dora", "ann", ["while it is off"])
            ann.until("document.querySelector('#talks .row').innerText.includes('it is off')")
            ann.page.check("#notifies")
            ann.until("notifies.checked")
            site.fill("cleo", "ann", ["on again"])
            ann.until("told.length > 1")
            told = [["cleo", "once more"], ["cleo", "on again"]]
            assert ann.page.evaluate("[told, asked]") == [told, 1]
    context.close()


def test_an_account_that_is_gone_with_its_server_is_said_to_be(browser: "Browser") -> None:
    def service() -> ChatService:
        return ChatService(MemoryStore(), ServiceSettings(), hasher=cheap_hasher())

    (port,) = free_ports(1)
    site = WebSite(service=service(), port=port).create("ann")
    with Tab(browser, site.page).enter("ann") as ann:
        error = "document.querySelector('#login-error').innerText"
        ann.open("ann").say("a note")
        ann.until(STORED, 1)
        site.__exit__()
        ann.one("#banner").wait_for(state="visible")
        ann.say("not for anybody else")
        ann.page.wait_for_selector(".state.sending")
        with WebSite(service=service(), port=port) as site_again:
            ann.page.click("#banner-now")
            ann.until(f"{error}.includes('your account is gone with all mail')")
            assert ann.one("#username").input_value() == "ann"
            ann.page.fill("#password", PASSWORD)
            ann.page.press("#password", "Enter")
            ann.until(f"!document.querySelector('#login-submit').disabled && {error} !== ''")
            assert "your account is gone" in ann.one("#login-error").inner_text()
            # Of an account that was not here before it is not known.
            ann.page.fill("#username", "bob")
            ann.page.fill("#password", PASSWORD)
            ann.page.press("#password", "Enter")
            ann.until(f"{error}.includes('is wrong')")
            ann.enter("ann", create=True)
            # What was written to those of before goes to nobody, and is not lost.
            ann.until("document.querySelectorAll('#messages .state.failed').length === 1")
            assert ann.bodies() == ["not for anybody else"]
            with logged_in(site_again, "ann") as other:
                assert other.history().messages == ()
                other.send("ann", "the first in another mailbox")
            ann.sees("the first in another mailbox")


def test_a_narrow_screen_has_room_for_all_of_it(browser: "Browser") -> None:
    wide = """[...document.querySelectorAll(
      'html, section, header, form, dialog, button, input, textarea, h2, p, .bubble'
    )].filter((each) => {
      const { left, right, width } = each.getBoundingClientRect();
      const isShown = width > 1 && !each.closest('.for-readers');
      return isShown && (right > innerWidth + 0.5 || left < -0.5);
    }).map((each) => each.id || each.className)"""
    name = "a-name-of-thirty-two-characters-"
    with (
        WebSite().create("ann", name) as site,
        Tab(browser, site.page, width=360, height=640) as ann,
    ):

        def fits() -> None:
            assert ann.page.evaluate(wide) == []

        fits()
        ann.enter("ann")
        site.fill(name, "ann", ["w" * 300, "word " * 60])
        ann.until("document.querySelectorAll('#talks .row').length === 1")
        fits()
        ann.page.click("#talks .row")
        ann.until("document.querySelectorAll('#messages .body').length === 2")
        ann.say("m" * 200)
        ann.until(STORED, 1)
        ann.page.click("#block")
        ann.until("!note.hidden")
        fits()
        assert ann.one(".side").is_hidden()
        ann.page.click("#back")
        assert ann.one(".talk").is_hidden()
        ann.page.click("#settings-open")
        ann.page.wait_for_selector("#blocked li")
        fits()
        ann.page.keyboard.press("Escape")
        # The list is reached again from a conversation by the browser's own way back too.
        ann.page.click("#talks .row")
        ann.page.go_back()
        ann.page.locator("#talks .row").wait_for(state="visible")


def test_focus_goes_through_all_of_it_in_order_and_is_seen(browser: "Browser") -> None:
    with WebSite().create("ann", "bob") as site, Tab(browser, site.page).enter("ann") as ann:
        site.fill("bob", "ann", ["hello"])
        ann.open("bob").sees("hello")
        ann.until("document.querySelector('.edge').innerText === 'This is where it begins.'")
        ann.page.focus("#settings-open")
        order = []
        for _ in range(8):
            order.append(
                ann.page.evaluate(
                    "(() => { const at = document.activeElement;"
                    "const style = getComputedStyle(at);"
                    "return [at.id || at.className, style.outlineStyle !== 'none']; })()"
                )
            )
            ann.page.keyboard.press("Tab")
        assert [name for name, _ in order] == [
            *("settings-open", "logout", "search", "row", "block", "scroller", "draft", "primary")
        ]
        assert all(seen for name, seen in order[1:]), order
        # A dialogue holds the focus until it is closed, and then gives it back.
        ann.page.focus("#settings-open")
        ann.page.keyboard.press("Enter")
        ann.until("settings.open && !receipts.disabled")
        for _ in range(12):
            ann.page.keyboard.press("Tab")
            held = "[document.activeElement].every((at) => at === document.body || %s)"
            assert ann.page.evaluate(held % "settings.contains(at)")
        ann.page.keyboard.press("Escape")
        ann.until("!settings.open && document.activeElement.id === 'settings-open'")
