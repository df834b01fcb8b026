"""The domain: accounts, mailboxes and their rules, with no socket, and one thread at times.

::

    service        ChatService: the one door to the rules, a method for each request
    session        what the service knows of one caller
    settings       what the service allows
    reloading      which settings may change while a server runs
    protocol       every request and reply, as a frozen model
    errors         the tree of errors, a leaf for each error code
    events         what an operator is told of
    accounts       the rules for accounts and sessions
    certificates   sessions that a client's certificate opens
    tokens         what a session's token says, and what the store knows it by
    admin          what an operator may do to them
    settling       what creating or deleting an account left open
    messages       the rules for messages
    receipts       tells senders what was acknowledged, in that thread
    looks          the rules for looks: what a watch does at once, and how it waits
    names          usernames, and the patterns that list them
    passwords      the rule for passwords, and argon2id
    metrics        what is counted while a server runs
    hash_queue     who gets a core for a hash first
    admission      how many logins are let in at once
    guesses        who may try a password now
    addresses      which are this machine's, and what limits count them by
    throttle       failures that slow the next attempt, and rates
    shared_limits  the same limits, counted by all servers of a store together
    limit_states   the bytes that these keep in the store
    store          the contract of whatever keeps the state
    waiting        how a thread waits, and is woken
    watches        how many of an account's watches may wait
    deadline       a time limit through several steps
    locks          locks that check the lock rule
    interrupts     what an exception from a signal's handler must not leave behind
    forks          what becomes of things in a forked child
    plugins        what other packages offer, found once
    clock          the wall clock, in milliseconds
    conformance    what the conformance kits of stores and transports share
"""
