"""`twinline bench`: how fast a server is on this machine, beside a floor.

``command`` reads the options, ``plan`` measures in rounds, ``report`` and ``plot`` show what was
found; ``figures`` says what each figure is. ``subjects`` are what can be loaded: a server with its
``accounts``, and the ``floor``; ``target`` runs their processes, ``idle`` keeps users connected.
``load`` is the measured part, on ``sockets``; ``watchers`` are those that it delivers to,
``receivers`` are clients that are handed messages; ``wire`` is a connection while it is set up.
"""
