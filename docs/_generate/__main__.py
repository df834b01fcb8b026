"""Makes what is made from the program: tables, reference, vectors, the manual page, the tutorial.

    python docs/_generate            write it
    python docs/_generate --check    write nothing; exit with 1 and name what is out of date

Run it after a change to the models, the settings or the commands, or to the README of the example
that the tutorial is made from; tests compare.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# The vectors are made from the samples that the tests of the codecs have.
sys.path.append(str(ROOT / "tests" / "support"))

import cli_page  # noqa: E402
import client_states  # noqa: E402
import events_page  # noqa: E402
import man_page  # noqa: E402
import metrics_page  # noqa: E402
import protocol_page  # noqa: E402
import settings_page  # noqa: E402
import tutorial_page  # noqa: E402
import vectors  # noqa: E402


def made() -> dict[Path, str]:
    """Return every file that is made, or has parts that are, with what it should say."""
    inserted = {
        DOCS / "protocol.md": protocol_page.inserted,
        DOCS / "cli.md": cli_page.inserted,
        DOCS / "settings.md": settings_page.inserted,
        DOCS / "events.md": events_page.inserted,
        DOCS / "how-to" / "watch.md": metrics_page.inserted,
        DOCS / "api" / "client.md": client_states.inserted,
    }
    return {
        DOCS / "how-to" / "write-a-transport.md": tutorial_page.page(ROOT),
        DOCS / "protocol-vectors.json": vectors.vectors(),
        DOCS / "man" / "twinline.1": man_page.page(),
    } | {page: insert(page.read_text(encoding="utf-8")) for page, insert in inserted.items()}


def main() -> int:
    """Write or check, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only name what is out of date")
    check = parser.parse_args().check
    code = 0
    for path, text in made().items():
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        print(path.relative_to(ROOT))
        if check:
            code = 1
        else:
            path.write_text(text, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
