"""What stores of every engine share.

::

    opening          what is raised by a store that cannot be opened
    subscriptions    wakes by account and session, for stores whose state is not in this process
    watchers         wakes by account id, and by the kinds of entries
    cache            what was read not long ago, and has not changed since
    coalescing       look-ups that wait at the same time become one
    paged            reads an archive over a network, a mailbox in one go
    complaints       log lines that are not repeated for every request
"""
