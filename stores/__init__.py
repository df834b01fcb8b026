"""Stores: where accounts, sessions and mail are kept.

::

    registry         opens the store that a URL names
    rules            what every store decides alike
    memory/          MemoryStore: all of it in this process
    sqlite/          SqliteStore: a file, durable
    conformance/     check_store: the kit that proves a store against its contract
        history/     the judge of a workload on a store
"""
