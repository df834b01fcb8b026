"""The store in Valkey or Redis: for any number of servers, on one engine or a cluster.

::

    store            ValkeyStore: opens the store and joins what follows
    url              what its URL says
    keys             the names of all that it keeps
    mailboxes        the half with messages and positions
    box_scripts      } the scripts of both halves,
    talk_scripts     } each of which the engine runs as one step;
    account_scripts  } the second are of copies, receipts and conversations
    pages            what scripts answer, as the pages of the contract
    entries          what messages, copies, receipts and send_ids are kept as
    accounts         the half with accounts and sessions
    invitations      how one is spent though an account is in several parts
    tracing          where a message is, and how much a mailbox holds
    states           what limits are counted in
    pending          accounts that are made or deleted just now
    engine           who has a key, and asks it; the epoch
    lane             a connection and its thread: what waits goes in one pipeline
    greeting         what an engine is asked on every new connection
    wire             commands and connections
    watches          who is woken, and what is read again
    links            the connections that listen for notices
    chores           the thread that looks after all this

    session          what a command that looks after a store asks by
    archive          the keys as what they keep, to be moved
    examine_scripts  the scripts that look for what must not be found
    rebuild          what a mailbox is found by and counts, looked through and made again
    upkeep           checks, repairs, measures and backs up, from outside its servers
"""

from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.valkey.store import ValkeyStore
from twinline.stores.valkey.url import Target, parse_url

__all__ = ["SchemaTooNew", "StoreNotOpened", "Target", "ValkeyStore", "parse_url"]
