"""The half of the Valkey store with messages and positions: each call is one script."""

# ruff: noqa: D102 - the contract tells what the methods do

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

from twinline.core.errors import (
    CursorInvalid,
    MailboxFull,
    NoSuchUser,
    RequestError,
    SendIdConflict,
    StoreUnavailable,
)
from twinline.core.protocol import Message, maker
from twinline.core.store import (
    Depths,
    Draft,
    Mailboxes,
    MailboxLook,
    MailboxPolicy,
    MailboxUsage,
    MailPage,
    MessageTrace,
    Receipt,
    Standing,
    Unsubscribe,
)
from twinline.core.waiting import Wake, wake_after_reply, wake_all
from twinline.stores.rules import fingerprint, fitting
from twinline.stores.valkey.box_scripts import (
    CONFLICT,
    CURSOR,
    EXISTS,
    FULL,
    NO_MAILBOX,
    BoxScripts,
)
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.entries import (
    from_header,
    header,
    receipt,
    send_id_field,
    sender_field,
)
from twinline.stores.valkey.keys import Keys
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.pending import Pending, script_call
from twinline.stores.valkey.tracing import Tracing
from twinline.stores.valkey.watches import Watches
from twinline.stores.valkey.wire import Script, packed, to_bytes, to_text

_NO_SUCH_SEQ: Final = 2**53  # above every seq, and exact in Lua
# The arguments of a send. It is the call that is made most, and this twice as quick as `packed`.
_SIX: Final = b"$%d\r\n%b\r\n" * 6
_make_message: Final = maker(Message)
_ERRORS: Final[dict[int, type[Exception]]] = {
    NO_MAILBOX: NoSuchUser,
    FULL: MailboxFull,
    CONFLICT: SendIdConflict,
    CURSOR: CursorInvalid,
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

    def create(self, account_id: str) -> None:
        # First, so that whatever becomes of this process, it is found what it leaves.
        self._pending.begin(account_id)
        if self._run(self._scripts.create, account_id, tail=True) == EXISTS:
            raise ValueError(f"account id {account_id!r} is used twice")

    def drop(self, account_id: str) -> None:
        keys = tuple(self._keys.of(account_id, kind) for kind in "bmautp")
        # An account that is still there may be one whose name was never published.
        if not self._engine.do(script_call(self._scripts.drop, keys, ())):
            self._pending.end(account_id)
        wake_all(self._watches.box_gone(account_id))

    def append(self, account_id: str, draft: Draft) -> Receipt:
        message_id, sender_id, sender, body, sent_at, send_id = draft
        at, own_id, text = b"%d" % sent_at, to_bytes(message_id), to_bytes(body)
        head = header(at, own_id, to_bytes(sender))
        field = count = kept = b""
        if send_id is not None:
            field, count = send_id_field(sender_id, send_id), sender_field(sender_id)
            kept = receipt(at, own_id, fingerprint(body))
        keys = self._keys.box(account_id)
        arguments = _SIX % (
            *(len(head), head, len(text), text, len(at), at),
            *(len(field), field, len(count), count, len(kept), kept),
        )
        call = Call(
            keys.first,
            b"%b%b%b" % (self._scripts.append.name, keys.packed, arguments),
            2 + keys.arguments + 6,
            writes=True,
            tail=True,
        )
        try:
            outcome = _checked(self._engine.do(call))
        except BaseException as error:
            if not isinstance(error, StoreUnavailable) or error.in_doubt:
                wake_all(self._watches.box_wakes(account_id))
            raise
        if isinstance(outcome, list):
            return Receipt(to_text(outcome[0]), int(outcome[1]))
        wakes = self._watches.box_grew(account_id, outcome)
        if wakes:
            wake_after_reply(wakes)
        return Receipt(message_id, sent_at)

    def read(self, account_id: str, after: int, limit: int, max_bytes: int) -> MailPage:
        if limit <= 0:  # what a look takes for no reading at all
            page = self.read(account_id, after, 1, 0)
            return MailPage((), page.position, more=bool(page.messages))
        return self.look(MailboxLook(account_id, after, limit, max_bytes, None, 0))

    def look(self, look: MailboxLook) -> MailPage:
        return _page(self._engine.do(self._look(look)), look.limit, look.max_bytes)

    def look_many(self, looks: Sequence[MailboxLook]) -> list[MailPage | RequestError]:
        outcomes: list[MailPage | RequestError] = []
        answers = self._engine.do_many([self._look(look) for look in looks])
        for look, answer in zip(looks, answers, strict=True):
            try:
                outcomes.append(_page(answer, look.limit, look.max_bytes))
            except RequestError as error:
                outcomes.append(error)
        return outcomes

    def _look(self, look: MailboxLook) -> Call:
        return self._call(
            self._scripts.look,
            look.account_id,
            b"%d" % _seq(look.after),
            b"%d" % look.limit,
            b"%d" % min(look.max_bytes, _NO_SUCH_SEQ),
            b"" if look.ack is None else b"%d" % _seq(look.ack),
            b"%d" % look.now,
            tail=True,
            writes=look.ack is not None,
            bulk=True,
        )

    def history(
        self, account_id: str, before: int | None, limit: int, max_bytes: int, now: int
    ) -> MailPage:
        position, entries = self._run(
            self._scripts.history,
            account_id,
            # The seq before that one, for a range that includes its end.
            b"" if before is None else b"%d" % (_seq(before) - 1 if before > 0 else 0),
            b"%d" % min(limit, _NO_SUCH_SEQ),
            b"%d" % min(max_bytes, _NO_SUCH_SEQ),
            b"%d" % now,
            tail=True,
            bulk=True,
        )
        page, more = fitting(_messages(entries), limit, max_bytes)
        return MailPage(page[::-1], position, more)

    def ack(self, account_id: str, up_to: int, now: int) -> Standing:
        outcome = self._run(
            self._scripts.ack, account_id, b"%d" % _seq(up_to), b"%d" % now, tail=True
        )
        return Standing(*outcome)

    def delete(self, account_id: str, seqs: Collection[int]) -> int:
        wanted = [b"%d" % seq for seq in sorted(set(seqs)) if 0 < seq < _NO_SUCH_SEQ]
        deleted: int = self._run(self._scripts.delete, account_id, *wanted, tail=True)
        return deleted

    def standing(self, account_id: str) -> Standing:
        key = self._keys.box(account_id).first
        position, unread = self._engine.do(plain(key, b"HMGET", key, b"p", b"n"))
        if position is None:
            raise NoSuchUser
        return Standing(int(position), int(unread))

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

    def on_mail(self, account_id: str, wake: Wake) -> Unsubscribe:
        return self._watches.watch_box(account_id, wake)

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
        writes: bool = True,
        bulk: bool = False,
    ) -> Call:
        keys = self._keys.box(account_id)
        return Call(
            keys.first,
            b"%b%b%b" % (script.name, keys.packed, packed(*arguments)),
            2 + keys.arguments + len(arguments),
            writes=writes,
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


def _page(answer: Any, limit: int, max_bytes: int) -> MailPage:
    position, entries = _checked(answer)
    if not entries:  # as most looks are answered
        return MailPage((), position, more=False)
    page, more = fitting(_messages(entries), limit, max_bytes)
    return MailPage(page, position, more)


def _seq(seq: int) -> int:
    return min(max(seq, 0), _NO_SUCH_SEQ)


def _messages(entries: list[Any]) -> Iterator[Message]:
    for entry_id, (_, kept, _, body) in entries:
        sent_at, message_id, sender = from_header(kept)
        yield _make_message(
            {
                "seq": int(entry_id[:-2]),  # without the -0
                "message_id": message_id,
                "sender": sender,
                "body": to_text(body),
                "sent_at": sent_at,
            }
        )
