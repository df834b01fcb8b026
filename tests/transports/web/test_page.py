"""The chat page's files: which there are, what they need, and how many bytes they are."""

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest

from twinline.transports.endpoints import EndpointError
from twinline.transports.web import ChatPage

NAMES = sorted(file.name for file in files("twinline.transports.web").joinpath("files").iterdir())
LIMIT = 170_000


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: set[str] = set()
        self.inline: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._script = tag == "script"
        self.loaded |= {values[name] or "" for name in ("src", "href") if name in values}
        self.inline += [name for name in values if name.startswith("on") or name == "style"]
        if tag == "style":
            self.inline.append(tag)

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)


def test_the_page_is_what_a_folder_is() -> None:
    page = ChatPage()
    index = page.find("/")
    assert index is not None
    assert index == page.find("/index.html")
    assert index.content_type == "text/html; charset=utf-8"
    assert b"<!doctype html>" in index.body


def test_the_page_and_its_policy_name_the_other_servers() -> None:
    page = ChatPage(["wss://b.example/chat&x", "wss://b.example", "ws://[::1]:7767"])
    index, alone = page.find("/"), ChatPage().find("/")
    assert index is not None
    assert alone is not None
    told = b'content="wss://b.example/chat&amp;x wss://b.example/ ws://[::1]:7767/"'
    assert told in index.body
    assert told not in alone.body
    assert index.connects == ("wss://b.example", "ws://[::1]:7767")
    assert (alone.connects, index == page.find("/index.html")) == ((), True)
    assert index.etag != alone.etag


@pytest.mark.parametrize("text", ["tcp://b.example", "wss://b.example:0", "https://b.example", ""])
def test_a_page_goes_only_where_a_browser_can(text: str) -> None:
    with pytest.raises(EndpointError):
        ChatPage([text])


@pytest.mark.parametrize("name", NAMES)
def test_each_file_is_found_with_its_type_and_a_tag_of_its_own(name: str) -> None:
    page = ChatPage()
    found = page.find(f"/{name}")
    assert found is not None
    assert re.fullmatch(r'"[0-9a-f]{16}"', found.etag)
    assert found.content_type.startswith(("text/", "image/svg+xml"))
    others = [page.find(f"/{other}") for other in NAMES if other != name]
    assert found.etag not in [other.etag for other in others if other is not None]
    found.body.decode("utf-8")


@pytest.mark.parametrize(
    "path",
    ["", "index.html", "//", "/../page.py", "/files/chat.js", "/%2e%2e/page.py", "/chat.js/", "/a"],
)
def test_no_other_path_is_found(path: str) -> None:
    assert ChatPage().find(path) is None


def test_all_of_it_is_small() -> None:
    page = ChatPage()
    sizes = [len(found.body) for name in NAMES if (found := page.find(f"/{name}")) is not None]
    assert len(sizes) == len(NAMES)
    assert sum(sizes) < LIMIT


def test_the_page_loads_its_own_files_and_has_no_script_or_style_in_it() -> None:
    index = ChatPage().find("/")
    assert index is not None
    page = _Page()
    page.feed(index.body.decode())
    assert page.inline == []
    assert page.loaded <= set(NAMES)
    modules = {name for name in NAMES if name.endswith(".js")}
    assert modules <= page.loaded  # all are fetched at once, not one after the other


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_host_or_parses_markup(name: str) -> None:
    found = ChatPage().find(f"/{name}")
    assert found is not None
    text = found.body.decode()
    hosts = set(re.findall(r"(?:https?|wss?):\\?/\\?/([^/\"'` \n]*)", text))
    assert hosts <= {"www.w3.org", "chat.example.org", "host"}  # a namespace, and comments
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
    assert not re.search(r"new Function\(|document\.cookie|localStorage", text)
    for module in re.findall(r'^import .*? from "([^"]+)";', text, re.MULTILINE | re.DOTALL):
        assert module.removeprefix("./") in NAMES
