"""`twinline serve`, `store` and `demo`: a server, its process, and the file of its store.

``serve`` runs one; what belongs to its process is set in ``process``, with ``affinity`` for the
processors and ``hashing`` for the threads that hash. Its log is in ``log``, and what that tells by
numbers in ``event_sums``. ``reload`` is the door for what is read again while it runs,
``settings_in_force`` and ``certificates`` go through it, and ``trial`` makes a certificate to begin
with. ``listeners`` names what can drive its connections, and
``health`` looks after the store.

``nodes`` is the parent of several servers, ``node`` one of them, ``channel`` what they say to each
other, and ``place`` which of them a server is.

``admin`` is the operator's way into a server that runs.
``systemd`` tells systemd of a server that it has started.
``metrics`` serves metrics and health to the operator's monitoring.

``private`` is a server within another command, such as ``demo``; ``store`` looks after a file.
"""
