"""The store in a SQLite file: durable, on one machine, for one server at a time.

::

    store            SqliteStore: opens the file and joins what follows
    lock             the right to serve a file, and whether its name still leads to it
    file             connections with the right settings
    looking          whether a file could be served, before it is opened
    provenance       whether a file is the one that was served, and its log its own
    schema           the tables, their version, and migrations
    accounts         the half with accounts and sessions
    mailboxes        the half with messages and positions
    writer           the one thread that writes, a commit for all that wait
    mailbox          } what the writer's thread knows:
    mailbox_rows     } mailboxes,
    notes            } what lies in them beside mail,
    send_ids         } send_ids,
    old_send_ids     } and those of a file that was migrated
    orphans          what is left of creating and deleting that stopped half-way
    readers          the connections that read
    reads            what is read of a mailbox
    cache            what was read, for as long as it holds
    rows             many rows in one statement
    columns          what records and texts are in columns, and back
    archive          what a file keeps, to move it to another store or from one
    upkeep           check, back up, migrate and measure a file
"""

from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.sqlite.file import Synchronous
from twinline.stores.sqlite.lock import StoreLocked
from twinline.stores.sqlite.store import SqliteStore, parse_url

__all__ = [
    "SchemaTooNew",
    "SqliteStore",
    "StoreLocked",
    "StoreNotOpened",
    "Synchronous",
    "parse_url",
    "upkeep",  # a module, imported where it is asked for: a server does without
]
