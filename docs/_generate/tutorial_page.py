"""Makes the tutorial on transports from the README of the example that it is about."""

from pathlib import Path

SOURCE = Path("examples", "msgpack_transport", "README.md")


def page(root: Path) -> str:
    """Return the example's README as a page of the documentation: its links start elsewhere."""
    text = (root / SOURCE).read_text(encoding="utf-8")
    made = f"<!-- made from {SOURCE} by docs/_generate: change that one -->\n\n"
    return made + text.replace("](../../docs/", "](../")
