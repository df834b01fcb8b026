"""The operator's way into a server that runs: a Unix socket, and what can be asked there.

``requests`` and ``replies`` are models of what is said, as JSON lines; ``desk`` carries requests
out, ``peers`` has who asks, and ``places`` finds the sockets of
all nodes.
"""
