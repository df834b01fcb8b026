"""A session's token: what it says besides its secret, and what the store knows it by.

It is ``ACCOUNT.SECRET``, or ``ACCOUNT.SECRET.IDENTITY.EXPIRES`` where a certificate opened the
session (`twinline.core.certificates`). The store has the SHA-256 of the whole, so none of it can be
changed. Tokens of before said nothing of their account and began with the secret.

An invitation has a token too, and the store has its SHA-256 alone.
"""

import hashlib
import re
import secrets
from typing import Final

from twinline.core.store import SessionKey

_SECRET_BYTES: Final = 32
_INVITATION_BYTES: Final = 16
_WITH_ACCOUNT: Final = re.compile(r"(?P<account_id>[0-9a-f]{32})\.[\w-]{43}(\..*)?", re.ASCII)


def new_token(account_id: str, suffix: str = "") -> str:
    """Return a new token of an account.

    Args:
        account_id: whose session it opens.
        suffix: what else it is to say, from its dot on.
    """
    return f"{account_id}.{secrets.token_urlsafe(_SECRET_BYTES)}{suffix}"


def key_of(token: str) -> SessionKey:
    """Return what the store knows a token's session by."""
    found = _WITH_ACCOUNT.fullmatch(token)
    account_id = None if found is None else found["account_id"]
    return SessionKey(account_id, hashlib.sha256(token.encode(errors="replace")).digest())


def new_invitation() -> str:
    """Return a new token of an invitation: 128 bits, as text that fits into a message."""
    return secrets.token_urlsafe(_INVITATION_BYTES)


def invitation_hash(token: str) -> bytes:
    """Return what the store knows an invitation by."""
    return hashlib.sha256(token.strip().encode(errors="replace")).digest()
