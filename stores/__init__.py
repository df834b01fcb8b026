"""Stores: where accounts, sessions and mail are kept.

::

    registry         opens the store that a URL names
    rules            what every store decides alike
    archive          a store as what it keeps: the contract by which all of it moves
    copying          moves all of it to another store
    backup           copies all of it to a file
    upkeep           what can be done to a store that nobody here serves
    memory/          MemoryStore: all of it in this process
    sqlite/          SqliteStore: a file, durable
    postgresql/      PostgresqlStore: a database that several servers share
    valkey/          ValkeyStore: Valkey or Redis, which several servers share
    shared/          what stores of every engine share
    sql/             what the stores in SQL databases share
    conformance/     check_store: the kit that proves a store against its contract
        history/     the judge of a workload on a store
"""
