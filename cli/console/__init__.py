"""How every command talks.

``command`` makes commands, options and their help; ``output`` writes data and talk, with ``text``
made visible and ``shapes`` for ``--json``; ``errors`` and ``exit_codes`` end a command;
``progress`` shows how far it is, ``interruption`` ends what it waits in; ``numbers`` checks
those of options; ``asking`` asks before what cannot be undone.
"""
