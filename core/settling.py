"""What creating or deleting an account left open: settled as soon as the store answers again.

Creating makes the mailbox and then publishes the account; deleting withdraws the account and then
drops the mailbox. When a step in between fails, or nobody can say whether it was done, nothing is
undone on a guess: a mailbox that was dropped under an account that is published after all would
lock its owner out. It is settled after a later login, by asking whether there is the account; and
what this process cannot settle any more is dropped when the store is opened again.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

from twinline.core.errors import NoSuchUser
from twinline.core.locks import new_lock
from twinline.core.store import Account, Store

log = logging.getLogger(__name__)

_MOST: Final = 1_000  # accounts that are remembered; the others wait for the store's next opening
_AT_ONCE: Final = 4  # that a login settles
_PAUSE_SECONDS: Final = 1.0  # between two attempts


class Settling:
    """The accounts of which it is open whether they are there, with a mailbox that may be."""

    def __init__(self, store: Store, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._accounts = store.accounts
        self._mailboxes = store.mailboxes
        self._monotonic = monotonic
        self._lock = new_lock("settling")
        self._open: dict[str, Account] = {}  # by account id; guarded by _lock
        self._not_before = 0.0  # guarded by _lock

    def note(self, account: Account) -> None:
        """Have it settled later whether the account is there."""
        with self._lock:
            if len(self._open) < _MOST:
                self._open[account.account_id] = account
            self._not_before = self._monotonic() + _PAUSE_SECONDS

    def drop(self, account: Account) -> None:
        """Drop the mailbox of an account that is not there, now or later."""
        try:
            self._mailboxes.drop(account.account_id)
        except Exception as error:  # noqa: BLE001 - the account is gone whatever this comes to
            self.note(account)
            log.warning("the mailbox of an account that is gone is dropped later: %s", error)

    def settle(self) -> None:
        """Settle a few of those that are open; called when the store has just been written."""
        if not self._open:
            return
        with self._lock:
            if self._monotonic() < self._not_before:
                return
            some = [self._open.pop(each) for each in list(self._open)[:_AT_ONCE]]
        while some:
            account = some.pop()
            try:
                self._settle(account)
            except Exception as error:  # noqa: BLE001 - the login that came by did not fail
                for each in (account, *some):
                    self.note(each)
                log.warning("what an account left open is settled later: %s", error)
                return

    def _settle(self, account: Account) -> None:
        # A write, though it changes nothing: it comes after the one of which nobody knows whether
        # it was made, so what it finds is what that one came to.
        same = account.password_hash
        try:
            self._accounts.set_password_hash(account.account_id, same, instead_of=same)
        except NoSuchUser:
            self.drop(account)

    def mend(self, account: Account) -> None:
        """Give an account that has no mailbox an empty one."""
        log.warning("account %s had no mailbox, and gets an empty one", account.username)
        with contextlib.suppress(ValueError):  # another thread has done it
            self._mailboxes.create(account.account_id)
        self.note(account)  # it may have been withdrawn meanwhile
