"""The store in PostgreSQL: a database that several servers share.

Opened as ``postgresql://USER@HOST/DATABASE``; it needs the extra ``postgresql``.

::

    url              what a URL says: where, and what is asked of the database
    link             one connection, every call of which has a deadline
    arrays           values and whole columns, as PostgreSQL takes them
    database         the few connections: made, checked, lent, and made again
    schema           the tables, their version, and who makes them
    notices          what servers tell each other, written down
    wakes            the listening connection, the lease, and the notifier
    accounts         users and sessions
    touches          notes which sessions are in use, and looks after those that others wait on
    states           what limits count, for all servers
"""
