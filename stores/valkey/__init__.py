"""The store in Valkey or Redis: for any number of servers, on one engine or a cluster.

::

    store            ValkeyStore: opens the store and joins what follows
    url              what its URL says
    keys             the names of all that it keeps
    mailboxes        the half with messages and positions
    box_scripts      } the scripts of both halves,
    account_scripts  } each of which the engine runs as one step
    accounts         the half with accounts and sessions
    states           what limits are counted in
    pending          accounts that are made or deleted just now
    engine           who has a key, and asks it; the epoch
    lane             a connection and its thread: what waits goes in one pipeline
    greeting         what an engine is asked on every new connection
    wire             commands and connections
    watches          who is woken, and what is read again
    links            the connections that listen for notices
    upkeep           the thread that looks after all this
"""

from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.valkey.store import ValkeyStore
from twinline.stores.valkey.url import Target, parse_url

__all__ = ["SchemaTooNew", "StoreNotOpened", "Target", "ValkeyStore", "parse_url"]
