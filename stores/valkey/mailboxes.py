"""The half of the Valkey store with messages and positions: each call is one script."""

# ruff: noqa: D102 - the contract tells what the methods do

from collections.abc import Collection, Sequence
from typing import Any, Final

from twinline.core.errors import (
    BlockListFull,
    CursorInvalid,
    MailboxFull,
    NoSuchUser,
    Refused,
    RequestError,
    SendIdConflict,
    StoreUnavailable,
)
from twinline.core.protocol import MAIL_ALONE, Kind, Kinds
from twinline.core.store import (
    Accepted,
    Acked,
    Blocked,
    ConversationPage,
    Depths,
    Draft,
    Mailboxes,
    MailboxLook,
    MailboxPolicy,
    MailboxUsage,
    MailPage,
    MessageTrace,
    Peer,
    PeerReceipt,
    Standing,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_after_reply, wake_all
from twinline.stores.rules import fingerprint, history_span
from twinline.stores.valkey.box_scripts import (
    AGAIN,
    CONFLICT,
    CURSOR,
    EXISTS,
    FULL,
    NO_MAILBOX,
    REFUSED,
    TOO_MANY,
    BoxScripts,
)
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.entries import Header, header, nameless, result, send_id_field
from twinline.stores.valkey.keys import Keys
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.pages import (
    conversation_page,
    deliveries,
    letters_of,
    page_after,
    page_before,
)
from twinline.stores.valkey.pending import Pending, script_call
from twinline.stores.valkey.tracing import Tracing
from twinline.stores.valkey.watches import Watches
from twinline.stores.valkey.wire import Script, packed, to_bytes, to_text

_NO_SUCH_SEQ: Final = 2**53  # above every seq, and exact in Lua
# The arguments of a send. It is the call that is made most, and this twice as quick as `packed`.
_SIX: Final = b"$%d\r\n%b\r\n" * 6
_ERRORS: Final[dict[int, type[Exception]]] = {
    NO_MAILBOX: NoSuchUser,
    FULL: MailboxFull,
    CONFLICT: SendIdConflict,
    CURSOR: CursorInvalid,
    REFUSED: Refused,
    TOO_MANY: BlockListFull,
}


class ValkeyMailboxes(Mailboxes):
    """Mailboxes in the engine, and the watches on them in this process."""

    def __init__(
        self,
        engine: Engine,
        keys: Keys,
        scripts: BoxScripts,
        watches: Watches,
        pending: Pending,
        *,
        tracing: Tracing,
        policy: MailboxPolicy,
    ) -> None:
        self._engine = engine
        self._keys = keys
        self._scripts = scripts
        self._watches = watches
        self._pending = pending
        self._tracing = tracing
        self._policy = policy
        self._keeps_notes = bool(policy.history_messages and history_span(policy))

    def create(self, account_id: str) -> None:
        # First, so that whatever becomes of this process, it is found what it leaves.
        self._pending.begin(account_id)
        if self._run(self._scripts.create, account_id, tail=True) == EXISTS:
            raise ValueError(f"account id {account_id!r} is used twice")

    def drop(self, account_id: str) -> None:
        keys = (*self._keys.all_of_box(account_id), self._keys.of(account_id, "p"))
        # An account that is still there may be one whose name was never published.
        if not self._engine.do(script_call(self._scripts.drop, keys, ())):
            self._pending.end(account_id)
        wake_all(self._watches.box_gone(account_id))

    def append(self, account_id: str, draft: Draft) -> Accepted:
        message_id, sender_id, sender, body, sent_at, send_id, copy_to = draft
        at, own_id, text = b"%d" % sent_at, to_bytes(message_id), to_bytes(body)
        peer = to_bytes(sender_id)
        head = header(peer, to_bytes(sender), at, own_id)
        field = kept = b""
        if send_id is not None:
            field = send_id_field(sender_id, send_id)
            kept = result(at, own_id, fingerprint(body))
        keys = self._keys.box(account_id)
        arguments = _SIX % (
            *(len(head), head, len(text), text, len(at), at),
            *(len(peer), peer, len(field), field, len(kept), kept),
        )
        call = Call(
            keys.first,
            b"%b%b%b" % (self._scripts.append.name, keys.packed, arguments),
            2 + keys.arguments + 6,
            writes=True,
            tail=True,
        )
        outcome = self._grown(account_id, call)
        wakes: tuple[Wake, ...] = ()
        if isinstance(outcome, list) and len(outcome) == 3:  # it is a repeat
            accepted = Accepted(to_text(outcome[0]), int(outcome[1]), int(outcome[2]))
        else:
            seq, n = outcome if isinstance(outcome, list) else (outcome, sent_at)
            accepted = Accepted(message_id, sent_at, n)
            wakes = self._watches.box_grew(account_id, Kind.MAIL, seq)
        if copy_to is not None and sender_id != account_id and self._keeps_notes:
            try:
                wakes += self._copy(account_id, draft, accepted)
            except BaseException:
                wake_all(wakes)
                raise
        if wakes:
            wake_after_reply(wakes)
        return accepted

    def _copy(self, peer_id: str, draft: Draft, accepted: Accepted) -> tuple[Wake, ...]:
        """Put a copy of a message that is stored into its sender's mailbox.

        A script of its own, and behind the message's: in a cluster another server may have that
        mailbox, and the copy has what the first script answered.

        Returns:
            Whom that wakes.

        Raises:
            StoreUnavailable: it is not known to be there, and so the send is in doubt.
        """
        own_id, now = draft.sender_id, b"%d" % draft.sent_at
        message_id, sent_at, n = accepted
        head = Header(peer_id, draft.copy_to or "", sent_at, message_id, n, draft.sender)
        arguments = head.kept, to_bytes(draft.body), now, to_bytes(peer_id)
        call = self._call(self._scripts.copy, own_id, *arguments, tail=True)
        try:
            seq = self._grown(own_id, call)
        except NoSuchUser:  # the sender is gone
            return ()
        except StoreUnavailable as error:
            error.in_doubt = True
            raise
        return self._watches.box_grew(own_id, Kind.SENT, seq) if seq else ()

    def _grown(self, account_id: str, call: Call) -> Any:
        """Return what a script answered that puts something into a mailbox.

        If that is not known, all who watch it are woken, to look.
        """
        try:
            return _checked(self._engine.do(call))
        except BaseException as error:
            known = isinstance(error, RequestError) and not isinstance(error, StoreUnavailable)
            if not known and getattr(error, "in_doubt", True):
                wake_all(self._watches.box_wakes(account_id))
            raise

    def read(
        self,
        account_id: str,
        after: int,
        limit: int,
        max_bytes: int,
        kinds: Kinds = MAIL_ALONE,
    ) -> MailPage:
        if limit <= 0:  # what a look takes for no reading at all
            page = self.read(account_id, after, 1, 0, kinds)
            more = bool(page.messages or page.receipts)
            return MailPage((), page.position, more, seen=after if more else page.seen)
        return self.look(MailboxLook(account_id, after, limit, max_bytes, None, 0, kinds))

    def look(self, look: MailboxLook) -> MailPage:
        return _page(self._engine.do(self._look(look)), look)

    def look_many(self, looks: Sequence[MailboxLook]) -> list[MailPage | RequestError]:
        outcomes: list[MailPage | RequestError] = []
        answers = self._engine.do_many([self._look(look) for look in looks])
        for look, answer in zip(looks, answers, strict=True):
            try:
                outcomes.append(_page(answer, look))
            except RequestError as error:
                outcomes.append(error)
        return outcomes

    def _look(self, look: MailboxLook) -> Call:
        account_id, after, limit, max_bytes, ack, now, kinds = look
        arguments: tuple[bytes, ...] = (
            b"%d" % _seq(after),
            b"%d" % limit,
            b"%d" % min(max_bytes, _NO_SUCH_SEQ),
            letters_of(kinds),
        )
        if ack is not None:
            arguments = *arguments, b"%d" % _seq(ack), b"%d" % now
            return self._call(self._scripts.look, account_id, *arguments, tail=True, bulk=True)
        read, keys = self._scripts.read, self._keys.box(account_id)
        of_mail = kinds == MAIL_ALONE
        return Call(
            keys.first,
            read.name + (keys.of_mail if of_mail else keys.packed) + packed(*arguments),
            2 + (3 if of_mail else keys.arguments) + len(arguments),
            writes=False,
            tail=True,
            bulk=True,
        )

    def history(
        self,
        account_id: str,
        before: int | None,
        limit: int,
        max_bytes: int,
        now: int,
        *,
        kinds: Kinds = MAIL_ALONE,
        peer: Peer | None = None,
    ) -> MailPage:
        answer = self._talk(
            self._scripts.history,
            account_id,
            # The seq before that one, for a range that includes its end.
            b"" if before is None else b"%d" % (_seq(before) - 1 if before > 0 else 0),
            b"%d" % min(limit, _NO_SUCH_SEQ),
            b"%d" % min(max_bytes, _NO_SUCH_SEQ),
            b"%d" % now,
            letters_of(kinds),
            *(() if peer is None else self._index_of(account_id, peer)),
        )
        return page_before(answer, limit, max_bytes, kinds)

    def conversations(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> ConversationPage:
        answer = self._talk(
            self._scripts.conversations,
            account_id,
            b"" if before is None else b"%d" % _seq(before),
            b"%d" % min(limit, _NO_SUCH_SEQ),
            b"%d" % min(max_bytes, _NO_SUCH_SEQ),
            b"%d" % now,
        )
        return conversation_page(answer, limit, max_bytes)

    def _index_of(self, account_id: str, peer: Peer) -> Sequence[bytes]:
        """Return what the index of a mailbox calls an account, or all that had a name."""
        if peer.account_id is not None:
            return to_bytes(peer.account_id), nameless(peer.username)
        found, below = {nameless(peer.username)}, b"+"
        while below:
            below, *more = self._talk(
                self._scripts.named, account_id, below, to_bytes(peer.username)
            )
            found.update(more)
        return list(found)

    def _talk(self, script: Script, account_id: str, *arguments: bytes) -> Any:
        """Run a script that looks for conversations: again, until all mail is in the index."""
        while True:
            answer = self._run(script, account_id, *arguments, tail=True, bulk=True)
            if answer != AGAIN:
                return answer

    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        peer_id, username, n, acked_at = receipt
        if peer_id == account_id or not self._keeps_notes:
            return
        head = Header(peer_id, username, acked_at, "", n)
        arguments = head.kept, b"%d" % acked_at, to_bytes(peer_id)
        call = self._call(self._scripts.put_receipt, account_id, *arguments, tail=True)
        try:
            seq = self._grown(account_id, call)
        except NoSuchUser:
            return
        if seq:
            wake_all(self._watches.box_grew(account_id, Kind.RECEIPT, seq))

    def set_receipts(self, account_id: str, *, receipts: bool) -> None:
        self._run(self._scripts.set_receipts, account_id, b"1" if receipts else b"0")

    def block(self, account_id: str, peer: Blocked) -> None:
        self._run(self._scripts.block, account_id, *map(to_bytes, peer))

    def unblock(self, account_id: str, peer_id: str) -> bool:
        return bool(self._run(self._scripts.unblock, account_id, to_bytes(peer_id)))

    def blocked(self, account_id: str) -> Sequence[Blocked]:
        flat = [to_text(each) for each in self._run(self._scripts.blocked, account_id)]
        found = [Blocked(*each) for each in zip(flat[::2], flat[1::2], strict=True)]
        return sorted(found, key=lambda each: (each.username, each.account_id))

    def ack(self, account_id: str, up_to: int, now: int) -> Acked:
        position, unread, passed = self._run(
            self._scripts.ack, account_id, b"%d" % _seq(up_to), b"%d" % now, tail=True
        )
        return Acked(position, unread, deliveries(passed, account_id))

    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        wanted = [b"%d" % seq for seq in sorted(set(seqs)) if 0 < seq < _NO_SUCH_SEQ]
        deleted: int = self._run(self._scripts.delete, account_id, *wanted, tail=True)
        return deleted

    def standing(self, account_id: str) -> Standing:
        key = self._keys.box(account_id).first
        position, unread, gives = self._engine.do(plain(key, b"HMGET", key, b"p", b"n", b"g"))
        if position is None:
            raise NoSuchUser
        return Standing(int(position), int(unread), gives != b"0")

    def usage(self, account_id: str) -> MailboxUsage:
        return self._tracing.usage(account_id)

    def set_quota(self, account_id: str, messages: int | None) -> None:
        quota = b"" if messages is None else b"%d" % min(messages, _NO_SUCH_SEQ)
        self._run(self._scripts.set_quota, account_id, quota)

    def trace(
        self, message_id: str, account_id: str | None = None, *, now: int
    ) -> MessageTrace | None:
        return self._tracing.find(message_id, account_id, self._policy, now)

    def depths(self) -> Depths:
        return self._tracing.depths(self._policy)

    def on_mail(self, account_id: str, wake: Wake, kinds: Kinds = MAIL_ALONE) -> Unsubscribe:
        return self._watches.watch_box(account_id, wake, kinds)

    def _run(
        self,
        script: Script,
        account_id: str,
        *arguments: bytes,
        tail: bool = False,
        bulk: bool = False,
    ) -> Any:
        return _checked(
            self._engine.do(self._call(script, account_id, *arguments, tail=tail, bulk=bulk))
        )

    def _call(
        self,
        script: Script,
        account_id: str,
        *arguments: bytes,
        tail: bool = False,
        bulk: bool = False,
    ) -> Call:
        keys = self._keys.box(account_id)
        return Call(
            keys.first,
            b"%b%b%b" % (script.name, keys.packed, packed(*arguments)),
            2 + keys.arguments + len(arguments),
            writes=True,
            tail=tail,
            bulk=bulk,
        )


def _checked(answer: Any) -> Any:
    """Return what a script answered, or raise what that stands for."""
    if isinstance(answer, StoreUnavailable):
        raise answer
    if isinstance(answer, int) and answer in _ERRORS:
        raise _ERRORS[answer]
    return answer


def _page(answer: Any, look: MailboxLook) -> MailPage:
    return page_after(_checked(answer), look)


def _seq(seq: int) -> int:
    return min(max(seq, 0), _NO_SUCH_SEQ)
