"""`twinline serve`, `store` and `demo`: a server, its process, and the file of its store.

``serve`` runs one; what belongs to its process is set in ``process``, with ``affinity`` for the
processors and ``hashing`` for the threads that hash, and its log is in ``log``. ``reload`` is the
door for what is read again while it runs, ``certificates`` what goes through it, and ``trial``
makes a certificate to begin with. ``listeners`` names
what can drive its connections. ``private`` is one within another command, such as ``demo``;
``store`` looks after a file.
"""
