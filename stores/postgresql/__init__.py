"""The store in PostgreSQL: a database that several servers share.

Opened as ``postgresql://USER@HOST/DATABASE``; it needs the extra ``postgresql``.

::

    url              what a URL says: where, and what is asked of the database
    link             one connection, every call of which has a deadline
    arrays           values and whole columns, as PostgreSQL takes them
    database         the few connections: made, checked, lent, and made again
    schema           the tables, their version, and who makes them
    condition        what the database promises now, and which one it is
    notices          what servers tell each other, written down
    wakes            the listening connection, the lease, and the notifier
    accounts         the half with accounts and sessions
    touches          which sessions are in use, and those that others wait on
    states           what limits are counted in
    lane             the one thread that writes mail: group commit
    batch            what becomes of the writes of one transaction
    mailbox          } what it knows of a mailbox
    send_ids         } and of send_ids
    notes            the copies and receipts that it writes beside the mail
    entries          how entries of any kind are read
    reads            reads that wait at once are one statement
    conversations    reads by the account at the other side
    tracing          where a message is
    mailboxes        the half with messages and positions
    rereads          what stands behind wakes that are lost
    chores           sweeping, expiring, and what a crash left half done
    store            PostgresqlStore: joins all of these

    session          the one connection of a command that looks after a store
    archive          the tables as what they keep, to be moved
    upkeep           checks, repairs, measures and backs up, from outside its servers
"""

from twinline.stores.postgresql.store import PostgresqlStore
from twinline.stores.postgresql.url import Target, parse_url
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened

__all__ = ["PostgresqlStore", "SchemaTooNew", "StoreNotOpened", "Target", "parse_url"]
