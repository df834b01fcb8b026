"""TLS: a layer between the bytes of a socket and those of a codec, and what it is made from.

::

    layer          seals and opens the bytes of one connection; no socket
    hello          how long a client's hello says it is
    contexts       what a connection begins with: a server's certificates, a client's trust
    inspection     looks at a server's certificate as a client would: its time, its names
    certificates   which account a client's certificate names
    revocation     which certificates are revoked
"""

from twinline.transports.tls.certificates import (
    NamesNoAccount,
    account_of,
    client_certificate,
    identity_of,
)
from twinline.transports.tls.contexts import (
    ALPN,
    ALPN_WEB,
    ServerTls,
    TlsFiles,
    TlsFilesError,
    client_context,
    server_context,
)
from twinline.transports.tls.inspection import (
    Inspected,
    certificate_end,
    inspect,
    remarks,
    shake_hands,
)
from twinline.transports.tls.layer import UNKNOWN_AUTHORITY, TlsError, TlsLayer
from twinline.transports.tls.revocation import (
    RevocationListError,
    RevocationLists,
    read_revocation_lists,
    revoked_identities,
)

__all__ = [
    "ALPN",
    "ALPN_WEB",
    "UNKNOWN_AUTHORITY",
    "Inspected",
    "NamesNoAccount",
    "RevocationListError",
    "RevocationLists",
    "ServerTls",
    "TlsError",
    "TlsFiles",
    "TlsFilesError",
    "TlsLayer",
    "account_of",
    "certificate_end",
    "client_certificate",
    "client_context",
    "identity_of",
    "inspect",
    "read_revocation_lists",
    "remarks",
    "revoked_identities",
    "server_context",
    "shake_hands",
]
