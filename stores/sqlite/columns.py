"""What records and texts are in the columns of the SQLite store, and back."""

from typing import Any, Final

from twinline.core.store import Account, Invitation

Row = tuple[Any, ...]

ACCOUNT_COLUMNS: Final = "account_id, username, password_hash, created_at, enabled, must_change"
"""Those of ``accounts``, as `to_account` takes them."""
INVITATION_COLUMNS: Final = "token_hash, created_at, expires_at, note"
"""Those of ``invitations``, as `to_invitation` takes them."""
BYTES_OF_BODY: Final = "length(CAST(body AS BLOB))"
"""SQL for a message's body's bytes of UTF-8."""


def to_account(row: Row) -> Account:
    """Return the account of a row."""
    account_id, username, password_hash, created_at, enabled, must_change = row
    return Account(
        account_id, username, password_hash, created_at, bool(enabled), bool(must_change)
    )


def from_account(account: Account) -> Row:
    """Return the row of an account."""
    return (
        account.account_id,
        account.username,
        account.password_hash,
        account.created_at,
        account.enabled,
        account.must_change,
    )


def to_invitation(row: Row) -> Invitation:
    """Return the invitation of a row."""
    token_hash, created_at, expires_at, note = row
    return Invitation(token_hash, created_at, expires_at, from_column(note))


def from_invitation(invitation: Invitation) -> Row:
    """Return the row of an invitation."""
    return (
        invitation.token_hash,
        invitation.created_at,
        invitation.expires_at,
        to_column(invitation.note),
    )


def to_column(text: str) -> str | bytes:
    """Return a text as SQLite can keep it: as it is, unless it has half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")
    return text


def from_column(text: str | bytes) -> str:
    """Return a text as it was given."""
    return text if isinstance(text, str) else text.decode(errors="surrogatepass")
