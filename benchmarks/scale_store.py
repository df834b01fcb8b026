"""A store in memory that is full when the server begins: the plug-in that `scale.py` loads.

A million accounts over the wire would be a million password hashes, so they go into the store
past the hash, through the contract of stores and nothing else. The server is ``twinline serve``
as it is, with ``--store filled:accounts=1000000,queued=10000``.
"""

import gc
from typing import Final

from twinline.core.clock import wall_clock_ms
from twinline.core.passwords import default_hasher
from twinline.core.store import Account, Draft, MailboxPolicy, SessionRecord, Store
from twinline.core.tokens import key_of
from twinline.stores.memory import MemoryStore

PASSWORD: Final = "correct horse"  # noqa: S105 - of accounts that live as long as a measurement
BODY: Final = "See you at the station at half past seven, platform 4."
SESSIONS: Final = 10_000
"""So many of the first accounts have a session."""
QUEUES: Final = 64
"""So many of the first accounts, after the very first, have the queued messages."""
_MOST: Final = 16**5


def username(number: int) -> str:
    """Return the name of an account: five hexadecimal digits, so that no name has an x.

    Neighbours by number are far apart by name, as those who register one after the other are.
    """
    return f"{number * 2_654_435_761 % _MOST:05x}"


def token(number: int) -> str:
    """Return the token of an account's session."""
    return f"scale-{number}"


def open_filled(url: str, policy: MailboxPolicy) -> Store:
    """Return a store with what the URL says in it."""
    counts = dict(pair.split("=") for pair in url.partition(":")[2].split(","))
    accounts, queued = int(counts["accounts"]), int(counts["queued"])
    if not 0 < accounts <= _MOST:
        raise ValueError(f"1 to {_MOST:,} accounts")
    store = MemoryStore(policy)
    # What is made here stays, and would be walked over again and again while it grows.
    gc.disable()
    password_hash = default_hasher().hash(PASSWORD)
    now = wall_clock_ms()
    for number in range(accounts):
        account_id, name = f"{number:032x}", username(number)
        store.mailboxes.create(account_id)
        store.accounts.create(Account(account_id, name, password_hash, now))
        if number < SESSIONS:
            record = SessionRecord(key_of(token(number)).token_hash, account_id, name, now, now)
            store.accounts.open_session(record)
        if 1 <= number <= QUEUES:
            for message in range(queued):
                draft = Draft(f"{message:024x}", f"{0:032x}", username(0), BODY, now)
                store.mailboxes.append(account_id, draft)
    gc.enable()
    # Once, so that what is here counts as old, as it would in a server that has run for long.
    gc.collect()
    return store
