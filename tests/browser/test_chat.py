"""The chat page in a real Chromium: what two people do with it, and what it must withstand."""

import json
import random
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from browsing import ServerProcess, Tab, WebSite, free_ports
from cli_server import CommandLine
from services import PASSWORD, cheap_hasher

from twinline.core.service import ChatService
from twinline.core.settings import ServiceSettings
from twinline.core.store import Draft, MailboxPolicy
from twinline.stores.memory import MemoryStore
from twinline.transports.client import Client
from twinline.transports.listener import ListenerSettings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.timeout(300)

HIDING = "a\u202egnp.exe \x1b[2J\x00 \u200b\u2066b"
SHOWN = "aU+202Egnp.exe U+001B[2JU+0000 U+200BU+2066b"
# What joins in spelling and in pictures stays, and the flag of a region; elsewhere it is shown.
ENGLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbeng\x7f")
JOINED = f"\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \U0001f469\u200d\U0001f4bb {ENGLAND}"
HIDDEN = "pay\u200cpal \U000e0067 \u3164."
MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script><b>b</b>&lt;'


def test_two_people_talk_browser_to_browser_and_terminal(
    browser: "Browser", tmp_path: Path
) -> None:
    with WebSite() as site:
        terminal = CommandLine(tmp_path, site.tcp)
        terminal.register("cleo")
        with (
            Tab(browser, site.page).enter("ann", create=True) as ann,
            Tab(browser, site.page, width=360, height=700, dark=True) as bob,
        ):
            bob.enter("bob", create=True)
            ann.open("bob").say("Hello Bob,\nhow are you?")
            # Bob has not opened it: it is counted, in the list and in the title.
            bob.title("(1) twinline")
            bob.until("document.querySelector('#talks .row')?.innerText.includes('how are you?')")
            assert "1 unread" in bob.row("ann")
            bob.page.click("#talks .row")
            bob.sees("Hello Bob,\nhow are you?")
            bob.title("twinline")
            assert "unread" not in bob.row("ann")
            bob.say("Well, thank you")
            ann.sees("Well, thank you")
            ann.until("document.querySelectorAll('.state.sent').length === 1")
            assert ann.states() in (["stored"], ["delivered"])
            assert ann.one("#messages .day").inner_text() == "Today"
            assert ann.one("#messages .mine time").get_attribute("datetime")

            # From the terminal, and back to it.
            terminal.run("send", "ann", "from a terminal")
            ann.until("document.title === '(1) twinline'")
            ann.open("cleo").sees("from a terminal")
            ann.say("and back")
            ann.until("document.querySelectorAll('.state.sent').length === 1")
            (got,) = terminal.json("watch", "--count", "1", "--timeout", "10")
            assert (got["sender"], got["body"]) == ("ann", "and back")


def test_the_page_asks_for_an_invitation_and_for_a_password_of_ones_own(
    browser: "Browser",
) -> None:
    service = ChatService(
        MemoryStore(), ServiceSettings(registration="invitation"), hasher=cheap_hasher()
    )
    operator = service.administration("a test")
    with WebSite(service=service) as site, Tab(browser, site.page) as tab:
        page = tab.page

        def enter(error: str | None = None) -> None:
            page.press("#password", "Enter")
            if error is None:
                page.wait_for_selector("#standing.online")
            else:
                page.wait_for_selector(f"#login-error:has-text('{error}')")

        # What is not asked for is not seen.
        assert tab.one("#invitation").is_hidden()
        assert tab.one("#invited-show").is_hidden()
        page.click("#login-other")
        page.fill("#username", "ann")
        page.fill("#password", PASSWORD)
        assert tab.one("#invited-show").is_visible()
        assert tab.one("#invitation").is_hidden()
        enter("needs an invitation")
        assert page.evaluate("document.activeElement.id") == "invitation"
        page.fill("#invitation", "none that counts")
        enter("needs an invitation")
        page.fill("#invitation", f" {operator.invite()[0]} ")
        enter()
        once = operator.reset_password("ann")
        tab.until("document.body.dataset.view === 'login'")
        assert tab.one("#new-password").is_hidden()
        page.fill("#username", "ann")
        page.fill("#password", once)
        enter("one-time password")
        assert page.evaluate("document.activeElement.id") == "new-password"
        page.fill("#new-password", "short")
        enter("8 to 128 characters")
        page.fill("#new-password", "another horse")
        enter()
        operator.disable("ann")
        tab.until("document.body.dataset.view === 'login'")
        page.fill("#username", "ann")
        page.fill("#password", "another horse")
        enter("has disabled this account")
        # Whoever has an invitation at hand need not be refused first.
        page.click("#login-other")
        page.click("#invited-show")
        page.fill("#username", "bob")
        page.fill("#password", PASSWORD)
        page.fill("#invitation", operator.invite()[0])
        enter()


def test_a_page_goes_on_at_another_server_when_its_own_has_ended(browser: "Browser") -> None:
    here, there = free_ports(2)
    with WebSite(port=there, others=[here]) as other:
        site = WebSite(service=other.service, port=here, others=[there])
        with (
            Tab(browser, site.page).enter("ann", create=True) as ann,
            Tab(browser, other.page).enter("bob", create=True) as bob,
        ):
            ann.open("bob").say("one")
            bob.open("ann").sees("one")
            site.leave()
            ann.say("two")
            bob.sees("two")
            bob.say("three")
            ann.sees("three")
            ann.until("document.querySelectorAll('.state.sent').length === 2")
            assert ann.one("#banner").is_hidden()
        with Client(other.tcp) as client:
            client.login("bob", PASSWORD)
            assert [each.body for each in client.history().messages] == ["one", "two"]


def test_a_server_that_is_killed_in_mid_sentence_loses_nothing(
    browser: "Browser", tmp_path: Path
) -> None:
    with (
        ServerProcess(tmp_path) as server,
        Tab(browser, server.page).enter("ann", create=True) as ann,
        Tab(browser, server.page).enter("bob", create=True) as bob,
    ):
        ann.open("bob").say("one")
        ann.until("document.querySelectorAll('.state.sent').length === 1")
        ann.page.fill("#draft", "half a sen")
        server.kill()
        banner = ann.one("#banner")
        banner.wait_for(state="visible")
        ann.until("/Next attempt in \\d+ s/.test(document.querySelector('#banner').innerText)")
        assert "Not connected" in banner.inner_text()
        # The sentence goes on, and so does the next one.
        ann.page.press("#draft", "End")
        ann.page.keyboard.type("tence")
        ann.page.press("#draft", "Enter")
        ann.say("three")
        ann.sees("half a sentence")
        assert ann.states()[1:] == ["waits for the server"] * 2
        ann.until("document.querySelector('#talks .row').innerText.includes('Waiting: three')")
        # It counts down, to attempts that come later and later.
        count = "+/in (\\d+) s/.exec(document.querySelector('#banner').innerText)?.[1]"
        ann.until(f"{count} === 2")
        ann.until(f"{count} === 1")
        # The page is loaded anew before it has found the server again: it goes on with both.
        server.start()
        ann.page.reload()
        ann.until("document.querySelectorAll('.state.sent').length === 3")
        server.kill()
        banner.wait_for(state="visible")
        ann.say("four")
        server.start()
        # Not by the mouse: the page's own attempt may be sooner, and the button gone.
        ann.page.evaluate("document.querySelector('#banner-now').click()")
        banner.wait_for(state="hidden")
        ann.until("document.querySelectorAll('.state.sent').length === 4")
        bob.one("#banner").wait_for(state="hidden")
        bob.until("document.querySelector('#talks .count').innerText.includes('4')")
        bob.page.click("#talks .row")
        bob.shows(["one", "half a sentence", "three", "four"])


def test_a_reload_goes_on_where_it_was(browser: "Browser") -> None:
    with WebSite().create("ann", "bob") as site, Tab(browser, site.page).enter("ann") as ann:
        ann.open("bob").say("mine")
        ann.until("document.querySelectorAll('.state.sent').length === 1")  # the older of the two
        site.fill("bob", "ann", ["yours"])
        ann.sees("yours")
        ann.page.fill("#draft", "not sent yet")
        ann.page.reload()
        ann.page.wait_for_selector("#standing.online")
        ann.shows(["mine", "yours"])
        assert ann.one("#draft").input_value() == "not sent yet"
        kept = ann.page.evaluate(
            "[document.cookie, localStorage.length, location.href, sessionStorage.length]"
        )
        assert kept == ["", 0, f"{site.page}#bob", 1]
        ann.leave()
        assert json.loads(ann.page.evaluate("sessionStorage.twinline"))["token"] is None
        assert "mine" not in ann.page.evaluate("sessionStorage.twinline")


def test_it_is_served_over_tls_by_an_event_loop(browser: "Browser", certificates: Any) -> None:
    pair = certificates.server
    tls = ListenerSettings(tls_certificate=str(pair.certificate), tls_key=str(pair.key))
    with WebSite(tls=tls).create("ann") as site, Tab(browser, site.page).enter("ann") as ann:
        ann.open("ann").say("a note to myself")
        ann.page.wait_for_selector(".state.sent")
        ann.page.reload()
        ann.shows(["a note to myself"])  # sent and received, it is one
        assert ann.page.evaluate("[location.protocol, isSecureContext]") == ["https:", True]


def test_a_session_that_is_ended_elsewhere_says_so(browser: "Browser") -> None:
    with WebSite().create("ann") as site, Tab(browser, site.page).enter("ann") as ann:
        with Client(str(site.tcp)) as other:
            other.login("ann", PASSWORD)
            other.change_password(PASSWORD, "another password")
        ann.until("document.querySelector('#login-error').innerText.includes('session')")
        assert ann.one("#username").input_value() == "ann"


def test_two_tabs_of_one_account_tell_each_other(browser: "Browser") -> None:
    with WebSite().create("ann", "bob") as site:
        context = browser.new_context()
        with (
            Tab(context, site.page).enter("ann") as first,
            Tab(context, site.page).enter("ann") as second,
        ):
            first.open("bob").say("from the first")
            second.open("bob").sees("from the first")
            assert second.states() == ["stored"]
            second.leave().enter("ann")  # another session than that of the first
            # A new tab learns what was sent before it was there, and what is read.
            second.until("document.querySelector('#talks .row')?.innerText.includes('the first')")
            site.fill("bob", "ann", ["for both", "of them"])
            first.sees("of them")
            second.until("document.querySelectorAll('#talks .row').length === 1")
            second.until("document.querySelector('#talks .row').innerText.includes('of them')")
            second.title("twinline")  # it is read in the first
        context.close()


def test_ten_thousand_messages_scroll_back_and_few_have_elements(browser: "Browser") -> None:
    policy = MailboxPolicy(history_messages=20_000)
    with WebSite(policy).create("ann", "bob", "cleo") as site:
        bodies = [f"no. {number}" for number in range(1, 10_001)]
        site.fill("bob", "ann", bodies[:5000])
        session = site.service.session("127.0.0.1")
        site.service.login(session, "ann", PASSWORD)
        site.service.ack(session, 5000)
        site.fill("bob", "ann", bodies[5000:])
        site.fill("cleo", "ann", ["one of another"])
        with Tab(browser, site.page).enter("ann") as ann:
            ann.title("(5001) twinline")
            assert "999+" in ann.row("bob")
            ann.open("bob").sees("no. 10000")
            ann.title("(1) twinline")
            # Scrolled up by a bit, what one looks at stays, although more is put above it.
            ann.page.evaluate("scroller.scrollTop = 450")
            looked_at = ann.page.evaluate(
                "(async () => { const at = () => document.elementFromPoint(700, 400).closest('li');"
                "await new Promise((r) => setTimeout(r, 100)); const li = at();"
                "const y = li.getBoundingClientRect().top; scroller.scrollTop = 300;"
                "for (let i = 0; i < 6; i++) await new Promise(requestAnimationFrame);"
                "return li.getBoundingClientRect().top - y; })()"
            )
            assert abs(looked_at - 150) < 3
            seen = ann.page.evaluate(
                """async () => {
                  const seen = [];
                  let most = 0;
                  const late = performance.now() + 100000;
                  while (seen.at(-1) !== 1 && performance.now() < late) {
                    scroller.scrollTop = 0;
                    await new Promise(requestAnimationFrame);
                    const bodies = document.querySelectorAll("#messages .body");
                    most = Math.max(most, bodies.length);
                    const first = Number(bodies[0].innerText.slice(4));
                    if (first !== seen.at(-1)) seen.push(first);
                  }
                  return [seen, most, document.querySelectorAll("#messages .body").length];
                }"""
            )
            assert seen[0][-1] == 1, seen[0][-5:]
            assert seen[0] == sorted(seen[0], reverse=True)
            assert seen[1] <= 200
            assert ann.bodies() == bodies[: seen[2]]
            ann.until("document.querySelector('.edge').innerText === 'This is where it begins.'")
            # Something that comes meanwhile is offered, and does not move anything.
            site.fill("bob", "ann", ["the newest"])
            ann.until("newest.innerText === '1 new message'")
            assert ann.bodies() == bodies[: seen[2]]
            ann.page.click("#newest")
            ann.sees("the newest")
            assert len(ann.bodies()) <= 200


def _fill_with_hostile(site: WebSite) -> dict[str, str]:
    """Put the same texts of three senders into ann's mailbox; return how each is to be shown."""
    account, bob = (site.service.store.accounts.find(name) for name in ("ann", "bob"))
    assert account is not None
    assert bob is not None
    shown = {
        MARKUP: MARKUP,
        HIDING: SHOWN,
        JOINED: JOINED,
        HIDDEN: "payU+200Cpal U+E0067 U+3164.",
        **{same: same for same in ("\u05e9\u05dc\u05d5\u05dd abc!", "x" * 16384, "line\n" * 40)},
    }
    # No account can have two of these names, but a page has to withstand any server's.
    names = {"bob": bob.account_id, "<b>\u202ebob": "an id", "x" * 300: "another id"}
    for number, (name, sender_id) in enumerate(names.items()):
        for body in shown:
            draft = Draft(f"{random.getrandbits(96):024x}", sender_id, name, body, number)
            site.service.store.mailboxes.append(account.account_id, draft)
    return shown


@pytest.mark.parametrize("width", [1200, 360])
def test_hostile_names_and_bodies_are_only_text(browser: "Browser", width: int) -> None:
    with WebSite().create("ann", "bob") as site:
        shown = _fill_with_hostile(site)
        with Tab(browser, site.page, width=width, height=700).enter("ann") as ann:
            ann.until("document.querySelectorAll('#talks .row').length === 3")
            assert ann.row("U+202E").startswith("< <b>U+202Ebob ")
            for row in range(3):
                ann.page.locator("#talks .row").nth(row).click()
                ann.until("document.querySelectorAll('#messages .body').length === 7")
                said = ann.page.locator("#messages .body").evaluate_all(
                    "all => all.map((body) => body.textContent)"
                )
                assert said == list(shown.values())
                # Nothing is wider than the view, and nothing is markup.
                assert (
                    ann.page.evaluate(
                        "['html', '#scroller', '#talks-nav', '.talk-head'].filter((each) => {"
                        "const e = document.querySelector(each);"
                        "return e.scrollWidth > e.clientWidth + 1; })"
                    )
                    == []
                )
                assert ann.page.locator("#messages :is(img, script, b)").count() == 0
                folded = ann.page.locator("#messages .message:nth-last-child(2)")
                low = folded.bounding_box()
                assert low is not None
                folded.get_by_text("Show all of it").click()
                high = folded.bounding_box()
                assert high is not None
                assert low["height"] < 350 < high["height"]
                if width == 360:
                    ann.page.go_back()
            assert ann.page.evaluate("[window.hacked, document.images.length]") == [None, 2]
        # The name of a bidirectional text stays apart from what stands beside it.
        with Tab(browser, f"{site.page}#{MARKUP}").enter("ann") as ann:
            assert ann.one("#with").inner_text() == MARKUP
            ann.say("hello")
            ann.page.wait_for_selector(".state.failed")
            assert ann.page.evaluate("window.hacked") is None


def test_what_is_refused_can_be_tried_again_or_given_up(browser: "Browser") -> None:
    policy = MailboxPolicy(mailbox_messages=2)
    with (
        WebSite(policy).create("ann", "bob") as site,
        Tab(browser, site.page).enter("ann") as ann,
    ):
        ann.open("bob")
        for body in ("one", "two", "three", "four"):
            ann.say(body)
        ann.until("document.querySelectorAll('.state.failed').length === 2")
        assert ann.states() == ["stored", "stored", "not sent:", "not sent:"]
        assert "full" in ann.one(".why").first.inner_text()
        ann.page.locator("#messages .message").last.get_by_text("Discard").click()
        ann.until("document.querySelectorAll('.state.failed').length === 1")
        with Client(str(site.tcp)) as bob:
            bob.login("bob", PASSWORD)
            mail = bob.messages()
            assert [next(mail).body for _ in range(2)] == ["one", "two"]
            bob.ack(2)
            ann.page.get_by_text("Try again").click()
            ann.until("document.querySelectorAll('.state.sent').length === 3")
            assert next(mail).body == "three"
        assert ann.bodies() == ["one", "two", "three"]


def test_everything_can_be_done_with_the_keyboard(browser: "Browser") -> None:
    with WebSite().create("abe", "bob", "bobby", "cleo") as site, Tab(browser, site.page) as ann:
        keys = ann.page.keyboard
        assert ann.page.evaluate("document.activeElement.id") == "username"
        for _ in range(3):
            keys.press("Tab")
        keys.press("Enter")  # create one
        for _ in range(3):
            keys.press("Shift+Tab")
        keys.type("ann")
        keys.press("Tab")
        keys.type(PASSWORD)
        keys.press("Enter")
        ann.page.wait_for_selector("#standing.online")
        # Found by typing, and chosen with the arrow keys; who begins with it comes first.
        keys.press("Control+k")
        keys.type("BO")
        # Of those with a "b" alone, if it has looked for them in between, there are three.
        ann.until("document.querySelectorAll('#found [role=option]').length === 2")
        chosen = "document.getElementById(search.getAttribute('aria-activedescendant')).innerText"
        assert ann.page.evaluate(f"{chosen}").split()[-1] == "bob"
        keys.press("ArrowDown")
        assert ann.page.evaluate(f"{chosen}").split()[-1] == "bobby"
        keys.press("Enter")
        ann.page.wait_for_selector("#with:has-text('bobby')")
        keys.type("two")
        keys.press("Shift+Enter")
        keys.type("lines")
        keys.press("Enter")
        ann.sees("two\nlines")
        keys.press("Control+k")
        keys.type("cleo")
        ann.page.wait_for_selector("#found-0")
        keys.press("Enter")
        keys.type("hello")
        keys.press("Enter")
        ann.sees("hello")
        keys.press("Alt+ArrowDown")
        ann.sees("two\nlines")
        keys.press("Escape")
        keys.press("ArrowDown")
        assert "cleo" in ann.page.evaluate("document.activeElement.innerText")
        keys.press("Enter")
        ann.sees("hello")
        assert ann.page.evaluate("document.activeElement.id") == "draft"
        keys.press("Escape")
        keys.press("Shift+Tab")
        ann.leave("Enter")


def test_nobody_found_and_a_wrong_password_are_said(browser: "Browser") -> None:
    with WebSite().create("ann") as site, Tab(browser, site.page) as ann:
        ann.page.fill("#username", "ann")
        ann.page.fill("#password", "something else")
        ann.page.press("#password", "Enter")
        ann.until("document.querySelector('#login-error').innerText !== ''")
        ann.page.click("#login-other")
        ann.page.fill("#username", "<img src=x>")
        ann.page.fill("#password", PASSWORD)
        ann.page.press("#password", "Enter")
        ann.until("document.querySelector('#login-error').innerText.includes('username')")
        ann.page.click("#login-other")
        ann.enter("ann")
        ann.page.fill("#search", "*\\?")
        ann.until("document.querySelector('#found-none').innerText.startsWith('Nobody')")


@pytest.mark.parametrize(
    ("width", "dark"), [(1200, False), (1200, True), (360, False), (360, True)]
)
def test_axe_finds_nothing(browser: "Browser", width: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the extra")
    with WebSite().create("ann", "bob", "cleo") as site:
        site.fill("bob", "ann", ["hello", "there " * 400, HIDING])
        site.fill("cleo", "ann", ["and hello"])

        def check(tab: Tab, what: str) -> None:
            found = axe.Axe().run(tab.page).response["violations"]
            said = [
                (each["id"], node["target"], node["failureSummary"])
                for each in found
                for node in each["nodes"]
            ]
            assert said == [], what

        with Tab(browser, site.page, width=width, height=700, dark=dark) as ann:
            check(ann, "the login")
            ann.enter("ann")
            ann.until("document.querySelectorAll('#talks .row').length === 2")
            check(ann, "the list")
            ann.page.fill("#search", "bo")
            ann.page.wait_for_selector("#found-0")
            check(ann, "the search")
            ann.page.press("#search", "Enter")
            ann.say("my own")
            ann.until("document.querySelectorAll('.state.sent').length === 1")
            check(ann, "a talk")
            ann.page.click("#block")
            ann.until("!note.hidden")
            check(ann, "a talk with somebody who is blocked")
            if width == 360:
                ann.page.click("#back")
            ann.page.click("#settings-open")
            ann.page.wait_for_selector("#blocked li")
            check(ann, "the settings")
            ann.page.keyboard.press("Escape")
            if width == 1200 and dark:
                site.__exit__()
                ann.page.wait_for_selector("#banner-now:not([hidden])")
                ann.say("later")
                ann.page.wait_for_selector(".state.sending")
                check(ann, "the banner")


def test_it_is_small(browser: "Browser") -> None:
    with WebSite() as site, Tab(browser, site.page) as tab:
        sizes = (
            "performance.getEntries().filter((each) => each.transferSize > 0).map("
            "(each) => [each.name, each.transferSize])"
        )
        first = dict(tab.page.evaluate(sizes))
        assert len(first) >= 15
        assert all(name.startswith(site.page) for name in first)
        assert sum(first.values()) < 170_000
        tab.page.reload()
        again = dict(tab.page.evaluate(sizes))
        assert sum(again.values()) < 10_000  # what is kept is only asked about


def test_it_is_soon_there(browser: "Browser") -> None:
    with WebSite() as site:
        best = 1e9
        for _ in range(3):
            with Tab(browser, site.page) as tab:
                began = monotonic()
                tab.page.goto(site.page)
                tab.until("document.activeElement.id === 'username'")
                best = min(best, monotonic() - began)
        assert best < 1
