"""A store that says that servers share it, for tests of nodes as processes of their own.

Each process has a state of its own: what these tests look at is how nodes are started, named and
ended. How the store is can be set by a file, ``pretended:FILE``, while they run.
"""

import json
import time
from pathlib import Path

from twinline.core.errors import StoreUnavailable, TwinlineError
from twinline.core.store import Durability, Health, MailboxPolicy
from twinline.stores.memory import MemoryStore

INFO = "pretended_store-1.dist-info"


class PretendedStore(MemoryStore):
    """A store in memory that others seem to share.

    Its file is an object that may have ``refused`` (why it cannot be opened), ``slow`` (seconds
    that opening it takes), ``offset`` (of the clock, in ms), ``durability`` and ``silent`` (it does
    not answer). Each opening adds a line to a file beside it.
    """

    shared = True

    @classmethod
    def open(cls, url: str, policy: MailboxPolicy) -> "PretendedStore":
        """Open it."""
        store = cls(policy)
        store.file = Path(url.partition(":")[2])
        said = store.said
        with store.file.with_suffix(".opened").open("a") as opened:
            opened.write("opened\n")
        time.sleep(said.get("slow", 0))
        if "refused" in said:
            raise TwinlineError(said["refused"])
        return store

    file: Path

    @property
    def said(self) -> dict:
        """What the file says now."""
        return json.loads(self.file.read_text())

    def health(self) -> Health:
        """Answer as the file says."""
        said = self.said
        if said.get("silent"):
            raise StoreUnavailable
        return Health(
            Durability(said.get("durability", "process")),
            clock_offset_ms=said.get("offset", 0),
        )


class PretendedSite:
    """The store's file, and the environment that makes processes know the store.

    Attributes:
        url: of the store.
        environment: for processes.
    """

    def __init__(self, folder: Path) -> None:
        info = folder / INFO
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretended-store\nVersion: 1\n")
        (info / "entry_points.txt").write_text(
            "[twinline.stores]\npretended = pretended_store:PretendedStore.open\n"
        )
        self._file = folder / "pretended.json"
        self.say()
        self.url = f"pretended:{self._file}"
        self.environment = {"PYTHONPATH": f"{folder}:{Path(__file__).parent}"}

    def say(self, **said: object) -> None:
        """Have the store be so from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(said))
        new.replace(self._file)

    @property
    def opened(self) -> int:
        """How often it was opened, or refused to be."""
        noted = self._file.with_suffix(".opened")
        return len(noted.read_text().splitlines()) if noted.exists() else 0
