"""The store in memory: the two halves, each with a lock of its own.

`MemoryAccounts` has the user lock and `MemoryMailboxes` the message lock. They are in files that
do not import each other and neither has a reference to the other, so no call can take both.
"""

from typing import Final

from twinline.core.store import Durability, MailboxPolicy, Store
from twinline.stores.memory.accounts import MemoryAccounts
from twinline.stores.memory.mailboxes import MemoryMailboxes

_DEFAULT_POLICY: Final = MailboxPolicy()


class MemoryStore(Store):
    """Everything in this process: it survives all but the process's end."""

    durability = Durability.PROCESS

    def __init__(self, policy: MailboxPolicy = _DEFAULT_POLICY) -> None:
        self.accounts: MemoryAccounts = MemoryAccounts()
        self.mailboxes: MemoryMailboxes = MemoryMailboxes(policy)
