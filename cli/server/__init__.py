"""`twinline serve`, `store` and `demo`: a server, its process, and the file of its store.

``serve`` runs one, set up by ``runtime``, ``affinity`` and ``hashing``; ``private`` is one within
another command, such as ``demo``; ``store`` looks after a file.
"""
