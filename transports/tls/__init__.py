"""TLS: a layer between the bytes of a socket and those of a codec, and what it is made from.

::

    layer          seals and opens the bytes of one connection; no socket
    contexts       what a connection begins with: a server's certificates, a client's trust
"""

from twinline.transports.tls.contexts import ServerTls, TlsFiles, TlsFilesError, client_context
from twinline.transports.tls.layer import TlsError, TlsLayer

__all__ = ["ServerTls", "TlsError", "TlsFiles", "TlsFilesError", "TlsLayer", "client_context"]
