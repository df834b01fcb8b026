"""Stores that cheat with copies and receipts, each in one thing, for the judge of histories."""

from history_samples import SENDS, Cheat

from twinline.core.errors import MailboxFull, StoreUnavailable
from twinline.core.store import Accepted, Draft, PeerReceipt

CHOSEN = SENDS // 3
"""The number of the send with which those cheat that do it once."""


class LosesACopy(Cheat):
    """Keeps the mail of one send, and not its copy."""

    def append(self, account_id: str, draft: Draft) -> Accepted:
        is_chosen = self.number() == CHOSEN
        return super().append(account_id, draft._replace(copy_to=None) if is_chosen else draft)


class CompletesNoCopy(Cheat):
    """Is cut off between mail and copy, and takes the repeat for done."""

    def append(self, account_id: str, draft: Draft) -> Accepted:
        plain = draft._replace(copy_to=None)
        if self.number() == CHOSEN:
            super().append(account_id, plain)
            raise StoreUnavailable
        sent = self._boxes[account_id].send_ids._by_sender.get(draft.sender_id, {})
        return super().append(account_id, plain if draft.send_id in sent else draft)


class DoublesACopy(Cheat):
    """Puts one in again."""

    def append(self, account_id: str, draft: Draft) -> Accepted:
        accepted = super().append(account_id, draft)
        if self.number() == CHOSEN:
            with self._lock:
                self._put_copy(account_id, draft, accepted, repeated=False)
        return accepted


class CopiesWhatItRefuses(Cheat):
    """Keeps the copy of one send, and not its mail, and refuses it."""

    def append(self, account_id: str, draft: Draft) -> Accepted:
        if self.number() != CHOSEN:
            return super().append(account_id, draft)
        with self._lock:
            accepted = Accepted(draft.message_id, draft.sent_at, draft.sent_at)
            self._put_copy(account_id, draft, accepted, repeated=False)
        raise MailboxFull


class ChangesACopy(Cheat):
    """Keeps the copy of one send with another number, id, recipient or body."""

    number_too_high = 0
    other_id = ""
    other_recipient = ""
    cut = 0

    def append(self, account_id: str, draft: Draft) -> Accepted:
        if self.number() != CHOSEN:
            return super().append(account_id, draft)
        accepted = super().append(account_id, draft._replace(copy_to=None))
        with self._lock:
            copied = draft._replace(
                body=draft.body[self.cut :], copy_to=self.other_recipient or draft.copy_to
            )
            told = Accepted(
                self.other_id or accepted.message_id,
                accepted.sent_at,
                accepted.n + self.number_too_high,
            )
            self._put_copy(account_id, copied, told, repeated=False)
        return accepted


class NumbersACopyAnew(ChangesACopy):
    """With an ``n`` that is not the mail's."""

    number_too_high = 1


class NamesACopyAnew(ChangesACopy):
    """With an id that is not the mail's."""

    other_id = "f" * 24


class AddressesACopyAnew(ChangesACopy):
    """With the name of another recipient."""

    other_recipient = "somebody"


class CutsACopy(ChangesACopy):
    """Without the beginning of its body."""

    cut = 3


class TellsBeforeItComes(Cheat):
    """Gives the receipt of each message when it is sent, and not when it is acknowledged."""

    def append(self, account_id: str, draft: Draft) -> Accepted:
        if draft.copy_to is not None:
            n = max(draft.sent_at, self._boxes[account_id].newest + 1)
            receipt = PeerReceipt(account_id, draft.copy_to, n, draft.sent_at)
            super().put_receipt(draft.sender_id, receipt)
        return super().append(account_id, draft)


class TellsBackwards(Cheat):
    """Once puts in the receipt of before, behind the newer one."""

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[tuple[str, str], PeerReceipt] = {}  # by pair
        self._done = False

    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        super().put_receipt(account_id, receipt)
        first = self._first.setdefault((account_id, receipt.account_id), receipt)
        if first is not receipt and not self._done:
            self._done = True
            with self._lock:
                box = self._boxes[account_id]
                assert box.receipts is not None
                del box.receipts[receipt.account_id]
            super().put_receipt(account_id, first)


class StopsTelling(Cheat):
    """Gives each account the first receipt that is for it, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[tuple[str, str]] = set()

    def put_receipt(self, account_id: str, receipt: PeerReceipt) -> None:
        pair = (account_id, receipt.account_id)
        if pair not in self._told:
            self._told.add(pair)
            super().put_receipt(account_id, receipt)
