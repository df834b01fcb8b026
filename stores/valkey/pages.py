"""What the scripts on mailboxes answer, as the pages of the contract."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from heapq import merge
from operator import attrgetter
from typing import Any, Final

from twinline.core.protocol import MAIL_ALONE, Conversation, Kind, Kinds, Message, Receipt, maker
from twinline.core.store import ConversationPage, Delivery, MailboxLook, MailPage
from twinline.stores.rules import fitting, mail_page
from twinline.stores.valkey.entries import LETTERS, from_header
from twinline.stores.valkey.wire import to_bytes, to_text

_KIND_OF: Final = {letter: kind for kind, letter in LETTERS.items()}
_seq_of: Final = attrgetter("seq")
_make_message: Final = maker(Message)


@lru_cache(maxsize=8)  # as many as there are
def letters_of(kinds: Kinds) -> bytes:
    """Return what a script takes for some kinds: it answers with the entries of each, in order."""
    return b"".join([letter for kind, letter in LETTERS.items() if kind in kinds])


def page_after(answer: Any, look: MailboxLook) -> MailPage:
    """Return what a look has found.

    Args:
        answer: the position, the last seq, whose mail was acknowledged, and entries of each kind.
        look: what was asked for.
    """
    account_id, after, limit, max_bytes, _, _, kinds = look
    position, last, passed, *found = answer
    delivered = deliveries(passed, account_id) if passed else ()
    seen = max(after, last) if limit else after
    if not any(found):  # as most looks are answered
        return MailPage((), position, more=False, seen=seen, deliveries=delivered)
    if kinds == MAIL_ALONE:
        messages, more = fitting(_mail(found[0]), limit, max_bytes)
        seen = messages[-1].seq if more else seen
        return MailPage(messages, position, more, seen, deliveries=delivered)
    entries, more = fitting(merge(*_by_kind(found, kinds), key=_seq_of), limit, max_bytes)
    page = mail_page(entries, position, entries[-1].seq if more else seen, more=more)
    return page._replace(deliveries=delivered) if delivered else page


def page_before(answer: Any, limit: int, max_bytes: int, kinds: Kinds) -> MailPage:
    """Return what was found before a seq, of each kind the newest first: by rising seq."""
    position, *found = answer
    newest_first = merge(*_by_kind(found, kinds), key=_seq_of, reverse=True)
    entries, more = fitting(newest_first, limit, max_bytes)
    return mail_page(entries[::-1], position, entries[-1].seq if more else 0, more=more)


def conversation_page(answer: Sequence[Any], limit: int, max_bytes: int) -> ConversationPage:
    """Return conversations; of each the answer has the letter and the last entry, and a count."""
    last = (_message(_KIND_OF[letter], entry) for letter, entry, _ in answer)
    page, more = fitting(last, limit, max_bytes)
    conversations = []
    for message, (_, entry, unread) in zip(page, answer, strict=False):
        head = from_header(entry[1][1])
        conversations.append(
            Conversation(
                username=head.peer, last=message, unread=unread, account=head.peer_id or None
            )
        )
    return ConversationPage(tuple(conversations), more)


def deliveries(passed: Sequence[bytes], account_id: str) -> tuple[Delivery, ...]:
    """Return whose mail an ack has passed, of ids and numbers in turn; not the account's own."""
    own = to_bytes(account_id)
    pairs = zip(passed[::2], passed[1::2], strict=True)
    return tuple([Delivery(to_text(peer_id), int(n)) for peer_id, n in pairs if peer_id != own])


def _by_kind(found: Sequence[Any], kinds: Kinds) -> list[Iterator[Message | Receipt]]:
    letters = letters_of(kinds)
    asked = [_KIND_OF[letters[at : at + 1]] for at in range(len(letters))]
    return [_entries(kind, some) for kind, some in zip(asked, found, strict=True)]


def _entries(kind: Kind, found: Iterable[Any]) -> Iterator[Message | Receipt]:
    if kind is not Kind.RECEIPT:
        yield from (_message(kind, entry) for entry in found)
        return
    for entry_id, (_, kept, _, _) in found:
        head = from_header(kept)
        yield Receipt(seq=_seq(entry_id), username=head.peer, n=head.n, acked_at=head.at)


def _message(kind: Kind, entry: Any) -> Message:
    if kind is Kind.MAIL:
        (message,) = _mail([entry])
        return message
    entry_id, (_, kept, _, body) = entry
    head = from_header(kept)
    return Message(
        seq=_seq(entry_id),
        message_id=head.message_id,
        sender=head.sender,
        body=to_text(body),
        sent_at=head.at,
        to=head.peer,
        n=head.n,
    )


def _mail(found: Iterable[Any]) -> Iterator[Message]:
    for entry_id, (_, kept, _, body) in found:
        _, sender, sent_at, message_id, _ = kept.split(b"\0")  # as `from_header`, but quicker
        yield _make_message(
            {
                "seq": _seq(entry_id),
                "message_id": to_text(message_id),
                "sender": to_text(sender),
                "body": to_text(body),
                "sent_at": int(sent_at),
            }
        )


def _seq(entry_id: bytes) -> int:
    return int(entry_id[:-2])  # without the -0
