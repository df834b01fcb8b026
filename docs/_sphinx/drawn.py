"""Looks at the built pages in a real browser without network: is every drawing drawn?

Run it as `python docs/_sphinx/drawn.py OUTPUT`. Where there is no Chromium it says so; with the
variable TESTS_SKIP_NOTHING that is a failure.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

_TO_DRAW: Final = re.compile(r'<pre class="mermaid"')
_DRAWN: Final = re.compile(r'<svg id="mermaid-[^>]*aria-roledescription="([\w-]+)"')
_SECONDS: Final = 60


def as_shown(browser: str, page: Path) -> str:
    """Return the HTML of a page after its scripts have run."""
    with TemporaryDirectory() as profile:
        return subprocess.run(  # noqa: S603 - a browser on our own page
            [
                browser,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--host-resolver-rules=MAP * ~NOTFOUND",
                f"--user-data-dir={profile}",
                f"--virtual-time-budget={_SECONDS * 1000}",
                "--dump-dom",
                page.resolve().as_uri(),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=2 * _SECONDS,
        ).stdout


def main(output: Path) -> int:
    """Print what is not drawn, and return the exit code."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("there is no Chromium to look at the drawings with")
        return int("TESTS_SKIP_NOTHING" in os.environ)
    failed = total = 0
    for page in sorted(output.rglob("*.html")):
        wanted = len(_TO_DRAW.findall(page.read_text(encoding="utf-8")))
        if not wanted:
            continue
        kinds = _DRAWN.findall(as_shown(browser, page))
        total += wanted
        if len(kinds) != wanted or "error" in kinds:
            failed += 1
            print(f"{page.relative_to(output)}: {wanted} drawings, in the browser: {kinds}")
    print(f"{total} drawings, {failed} pages with one that is not drawn")
    return int(bool(failed) or not total)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
