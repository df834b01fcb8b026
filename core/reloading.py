"""What becomes of a setting that is changed while a server runs: a mark on its field.

A field without a mark needs a restart, so that nothing is promised of a new setting unless
somebody has said so::

    body_bytes: int = Field(default=16_384, json_schema_extra=RELOADED, description=…)
"""

from enum import StrEnum
from typing import Final

from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

_KEY: Final = "on_reload"


class OnReload(StrEnum):
    """What a reload does with a setting that has changed."""

    APPLIES = "applies"
    """It is in force from then on."""
    STORE = "store"
    """It is in force from then on, where the store is one server's alone; servers that share a
    store must all have the same, so there it needs a restart."""
    RESTART = "restart"
    """It is named in the log, and holds from the next start on."""


RELOADED: Final[JsonDict] = {_KEY: OnReload.APPLIES.value}
"""The mark of a setting that a reload applies."""
RELOADED_BY_STORE: Final[JsonDict] = {_KEY: OnReload.STORE.value}
"""The mark of one that it applies if the store can."""


def on_reload(field: FieldInfo) -> OnReload:
    """Return what a reload does with the setting of a field."""
    extra = field.json_schema_extra
    marked = extra.get(_KEY) if isinstance(extra, dict) else None
    return OnReload.RESTART if marked is None else OnReload(str(marked))
