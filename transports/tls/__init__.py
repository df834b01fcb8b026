"""TLS: a layer between the bytes of a socket and those of a codec, and what it is made from.

::

    layer          seals and opens the bytes of one connection; no socket
"""
