"""Metrics and health of a server, over HTTP, on a listener of their own.

::

    watching     has them served while a server runs
    http         the listener: a bounded HTTP server for a few pages
    readiness    whether the server lives, and whether it should be given work
    survey       looks now and then at what takes long: mailboxes, certificates
    text         the numbers as Prometheus reads them
    table        the metrics that there are besides those that `twinline.core.metrics` counts
    shared       what a blocking look has found, for all who ask at that time
"""

from twinline.cli.server.metrics.watching import watched

__all__ = ["watched"]
