"""The store in memory: the two halves, each with a lock of its own.

::

    accounts     MemoryAccounts: accounts and sessions, under the user lock
    mailboxes    MemoryMailboxes: messages and positions, under the message lock
    mailbox      one mailbox
    log          messages by seq, and by the account at the other side
    limits       the policy's numbers, as both look at them
    subscribers  who is woken by mail and by the end of a session
    send_ids     which message each send_id stands for

The halves do not import each other and neither has a reference to the other, so no call can take
both locks.
"""

from typing import Final
from uuid import uuid4

from twinline.core.forks import refuse_calls, watch_forks
from twinline.core.store import Durability, MailboxPolicy, Store
from twinline.stores.memory.accounts import MemoryAccounts
from twinline.stores.memory.mailboxes import MemoryMailboxes

_DEFAULT_POLICY: Final = MailboxPolicy()


class MemoryStore(Store):
    """Everything in this process: it survives all but the process's end."""

    durability = Durability.PROCESS
    blocks = False  # its locks are held for a few lines, and across nothing that waits

    def __init__(self, policy: MailboxPolicy = _DEFAULT_POLICY) -> None:
        self.accounts: MemoryAccounts = MemoryAccounts()
        self.mailboxes: MemoryMailboxes = MemoryMailboxes(policy)
        self.incarnation = uuid4().hex
        watch_forks(self)

    def change_policy(self, policy: MailboxPolicy) -> bool:
        """See `Store.change_policy`."""
        self.mailboxes.change_policy(policy)
        return True

    def forked(self) -> None:
        """Refuse every call: what a child stored would be in its own copy, where nobody looks."""
        refuse_calls(self.accounts)
        refuse_calls(self.mailboxes)
