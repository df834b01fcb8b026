"""Finds what a page of the built HTML would load from another host: there must be nothing.

python docs/_sphinx/own_files.py OUTPUT
"""

import sys
from html.parser import HTMLParser
from pathlib import Path

_LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_NOT_FETCHED = {"canonical", "next", "prev", "search", "index", "genindex"}


class _Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.foreign: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._in_script = tag == "script"
        address = values.get(_LOADED.get(tag, ""))
        if address and "//" in address and values.get("rel") not in _NOT_FETCHED:
            self.foreign.append(address)

    def handle_endtag(self, tag: str) -> None:
        self._in_script = self._in_script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._in_script and "import" in data and "https://" in data:
            self.foreign.append(data.strip())


def foreign(output: Path) -> list[str]:
    """Return what the pages of a folder load from elsewhere, each with the page."""
    found = []
    for path in sorted(output.rglob("*.html")):
        page = _Page(path)
        page.feed(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(output)}: {what:.120}" for what in page.foreign]
    return found


if __name__ == "__main__":
    lines = foreign(Path(sys.argv[1]))
    print("\n".join(lines) or "nothing is loaded from another host")
    sys.exit(bool(lines))
