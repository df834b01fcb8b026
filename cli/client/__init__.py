"""The commands that talk to a server as one account: its session, its mail, its list of names.

``target`` leads from a command's flags to a connected client, ``sessions`` keeps the tokens,
``passwords`` asks, ``paging`` has the flags of lists, and ``gone`` is what is said of an account
that ended with its server.
``accounts``, ``send``, ``watch`` (with ``watch_command`` for ``--exec``), ``history``,
``conversations``, ``peers`` (``block`` to ``receipts``) and ``ping`` are the commands.
"""
