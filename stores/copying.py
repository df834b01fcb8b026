"""Moving all that one store keeps to another: in pages, from where it was stopped, and verified.

A mailbox that is in the target as it is in the source is left alone, so a move that was stopped
goes on where it was. At the end everything is read once more on both sides and compared; where
something differs, it is put once more, and if it differs still the source has changed meanwhile.
"""

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final, TypeVar

from twinline.core.errors import TwinlineError
from twinline.core.store import Invitation
from twinline.stores.archive import AccountRow, Archive, MailboxRow

Row = TypeVar("Row")
Place = TypeVar("Place", bound=Hashable)

_PAGE: Final = 256
"""Rows in one page: of the longest messages, 16 MiB."""

Progress = Callable[[int, int, str], None]
"""Called with how many accounts are done, how many there are, and what is done with them."""


class CopyError(TwinlineError):
    """A store cannot be moved; the text says why, and what is left."""


@dataclass(slots=True)
class Copied:
    """What was moved.

    Attributes:
        accounts: how many there are.
        reserved_names: the same.
        invitations: the same.
        messages: the same.
        mailboxes_copied: how many mailboxes were written; the others were there already.
    """

    accounts: int = 0
    reserved_names: int = 0
    invitations: int = 0
    messages: int = 0
    mailboxes_copied: int = 0


def copy_all(
    source: Archive, target: Archive, progress: Progress = lambda _done, _all, _what: None
) -> Copied:
    """Move all that a source keeps to a target, and see that it has arrived.

    The target is whole when this returns, and unfinished when it raises: then the same call goes
    on. The source is only read.

    Args:
        source: from where.
        target: to where: empty, or unfinished by an earlier call with the same source.
        progress: called for every account, twice.

    Raises:
        CopyError: the target is something else, or the source changes.
        Exception: what an engine raises.
    """
    _require_target(source, target)
    target.begin(source.name)
    total = sum(1 for _ in _accounts(source))
    copied = Copied(accounts=total)
    for done, row in enumerate(_accounts(source)):
        progress(done, total, "copying")
        target.put_accounts([row])
        if _digest(source, row) != _digest(target, row):
            _copy_mailbox(source, target, row.account.account_id)
            copied.mailboxes_copied += 1
    for names in _pages(source.reserved_names, "", lambda name: name):
        target.put_reserved_names(names)
        copied.reserved_names += len(names)
    for invitations in _invitations(source):
        target.put_invitations(invitations)
        copied.invitations += len(invitations)
    _verify(source, target, copied, progress)
    progress(total, total, "done")
    target.end()
    return copied


def _require_target(source: Archive, target: Archive) -> None:
    if source.filled_from:
        raise CopyError(
            f"{source.name} is itself the unfinished copy of {source.filled_from}; finish it first"
        )
    if target.filled_from and target.filled_from != source.name:
        raise CopyError(
            f"{target.name} is the unfinished copy of {target.filled_from}; go on with that, or "
            "take an empty one"
        )
    if not target.filled_from and (
        target.accounts("", 1) or target.reserved_names("", 1) or target.invitations(b"", 1)
    ):
        raise CopyError(f"{target.name} is not empty; nothing in it was changed")


def _copy_mailbox(source: Archive, target: Archive, account_id: str) -> None:
    row = source.mailbox(account_id) or MailboxRow(account_id, 0, 0)
    target.begin_mailbox(account_id)
    for messages in _of(source.messages, account_id, lambda each: each.seq):
        target.put_messages(account_id, messages)
    for acks in _of(source.acks, account_id, lambda each: each.position):
        target.put_acks(account_id, acks)
    for send_ids in _of(source.send_ids, account_id, lambda each: each.seq):
        target.put_send_ids(account_id, send_ids)
    for copies in _of(source.copies, account_id, lambda each: each.seq):
        target.put_copies(account_id, copies)
    for receipts in _of(source.receipts, account_id, lambda each: each.seq):
        target.put_receipts(account_id, receipts)
    blocked = source.blocked(account_id)
    if blocked:
        target.put_blocked(account_id, blocked)
    target.end_mailbox(row)


def _verify(source: Archive, target: Archive, copied: Copied, progress: Progress) -> None:
    """Compare all of both sides, and put once more what differs.

    Raises:
        CopyError: something still differs.
    """
    theirs = _accounts(target)
    for done, row in enumerate(_accounts(source)):
        progress(done, copied.accounts, "verifying")
        if next(theirs, None) != row:
            raise _changed(source, target, f"the account {row.account.username}")
        account_id = row.account.account_id
        if _digest(source, row) != _digest(target, row):
            _copy_mailbox(source, target, account_id)
            if _digest(source, row) != _digest(target, row):
                raise _changed(source, target, f"the mailbox of {row.account.username}")
        copied.messages += sum(map(len, _of(source.messages, account_id, lambda each: each.seq)))
    surplus = next(theirs, None)
    if surplus is not None:
        raise _changed(source, target, f"the account {surplus.account.username}")
    if _names(source) != _names(target):
        raise _changed(source, target, "a reserved name")
    if _invited(source) != _invited(target):
        raise _changed(source, target, "an invitation")


def _changed(source: Archive, target: Archive, what: str) -> CopyError:
    return CopyError(
        f"{what} is not the same in {source.name} and {target.name}: the source has changed while "
        "it was copied; stop the servers that use it, and begin again with an empty target"
    )


def _digest(archive: Archive, row: AccountRow) -> bytes:
    """Return a hash of a mailbox and all that is in it; of one that is not whole, an empty one."""
    account_id = row.account.account_id
    mailbox = archive.mailbox(account_id)
    if mailbox is None:
        return b""
    digest = hashlib.blake2b(repr(mailbox).encode())
    for pages in (
        _of(archive.messages, account_id, lambda each: each.seq),
        _of(archive.acks, account_id, lambda each: each.position),
        _of(archive.send_ids, account_id, lambda each: each.seq),
        _of(archive.copies, account_id, lambda each: each.seq),
        _of(archive.receipts, account_id, lambda each: each.seq),
        (archive.blocked(account_id),),
    ):
        digest.update(_digest_of(pages))
    return digest.digest()


def _digest_of(pages: Iterable[Sequence[Any]]) -> bytes:
    digest = hashlib.blake2b()
    for page in pages:
        digest.update(repr(list(page)).encode(errors="surrogatepass"))
    return digest.digest()


def _names(archive: Archive) -> bytes:
    return _digest_of(_pages(archive.reserved_names, "", lambda name: name))


def _invited(archive: Archive) -> bytes:
    # Whole: what an invitation shows of itself is without its token hash.
    return _digest_of([astuple(each) for each in page] for page in _invitations(archive))


def _invitations(archive: Archive) -> Iterator[Sequence[Invitation]]:
    return _pages(archive.invitations, b"", lambda each: each.token_hash)


def _accounts(archive: Archive) -> Iterator[AccountRow]:
    for page in _pages(archive.accounts, "", lambda row: row.account.username):
        yield from page


def _of(
    read: Callable[[str, int, int], Sequence[Row]], account_id: str, place: Callable[[Row], int]
) -> Iterator[Sequence[Row]]:
    return _pages(lambda after, limit: read(account_id, after, limit), 0, place)


def _pages(
    read: Callable[[Any, int], Sequence[Row]], first: Place, place: Callable[[Row], Place]
) -> Iterator[Sequence[Row]]:
    """Yield pages of the same length, so that both sides' pages end at the same rows."""
    while page := read(first, _PAGE):
        yield page
        first = place(page[-1])
