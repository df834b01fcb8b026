"""Shows fences of the kind `mermaid` as drawings, with Mermaid's own script beside the pages.

A Git host draws such a fence by itself. In the HTML the reader's browser does it, with the script
that the build puts beside the pages, so nothing is fetched from another host when one is read. The
build gets the script by `npm pack`, once, and takes no other file than the one whose sum is below.
"""

import hashlib
import shutil
import subprocess
import tarfile
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

SCRIPT: Final = "mermaid.min.js"
PACKAGE: Final = "mermaid@11.17.2"
SHA256: Final = "581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8"
"""Of `SCRIPT` in `PACKAGE`: to take another version, change both."""


class Drawing(SphinxDirective):
    """A fence whose text the script replaces by a drawing."""

    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the text where the script looks for it, and its text alone in other formats."""
        text = "\n".join(self.content)
        html = f'<pre class="mermaid" role="img">{escape(text)}</pre>'
        return [nodes.raw("", html, format="html")]


def fetch(to: Path) -> None:
    """Put the script into a folder, unless it is there already.

    Raises:
        ExtensionError: npm is missing or fails, or the file is not the one that is expected.
    """
    script = to / SCRIPT
    if script.exists() and _sum(script) == SHA256:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise ExtensionError("the drawings need npm, which fetches Mermaid's script: install npm")
    with TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", PACKAGE]
        packed = subprocess.run(  # noqa: S603 - a constant command
            command, cwd=folder, capture_output=True, text=True, check=False
        )
        if packed.returncode:
            raise ExtensionError(f"`npm pack {PACKAGE}` failed: {packed.stderr.strip()}")
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            package.extract(f"package/dist/{SCRIPT}", folder, filter="data")
        to.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(folder, "package", "dist", SCRIPT), script)
    if _sum(script) != SHA256:
        script.unlink()
        raise ExtensionError(f"{SCRIPT} of {PACKAGE} is not the file that was expected")


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _prepare(app: Sphinx) -> None:
    if app.builder.format == "html":
        folder = Path(app.doctreedir, "mermaid")
        fetch(folder)
        app.config.html_static_path.append(str(folder))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the script."""
    app.add_directive("mermaid", Drawing)
    app.add_js_file(SCRIPT, loading_method="defer")
    app.connect("builder-inited", _prepare)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
