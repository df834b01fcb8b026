"""What is raised by a store that cannot be opened."""

from twinline.core.errors import TwinlineError


class StoreNotOpened(TwinlineError):
    """What a URL names cannot be opened as a store; the text says why, and no password."""


class SchemaTooNew(StoreNotOpened):
    """A later version of this program wrote what is there."""
