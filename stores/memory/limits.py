"""A policy's numbers as the mailboxes in memory look at them, in every send and every ack."""

from dataclasses import dataclass, fields

from twinline.core.store import MailboxPolicy
from twinline.stores.rules import history_span, send_id_span


@dataclass(slots=True)
class Limits:
    """How much a mailbox keeps, and for how long; one for all of a store, which may change it.

    They could be asked of the policy: a field of a pydantic model takes several times as long.

    Attributes:
        mailbox_messages: the most that are not acked.
        history_messages: the most that are acked.
        history_ms: how long one is kept after its ack.
        send_ids_per_mailbox: the most send_ids.
        send_ids_per_sender: the most of one sender.
        send_id_ms: how long a send_id counts; 0 if none does.
    """

    mailbox_messages: int
    history_messages: int
    history_ms: int
    send_ids_per_mailbox: int
    send_ids_per_sender: int
    send_id_ms: int

    def change(self, policy: MailboxPolicy) -> None:
        """Be what another policy says; under the lock of those who look."""
        other = limits_of(policy)
        for field in fields(self):
            setattr(self, field.name, getattr(other, field.name))


def limits_of(policy: MailboxPolicy) -> Limits:
    """Return a policy's numbers."""
    return Limits(
        mailbox_messages=policy.mailbox_messages,
        history_messages=policy.history_messages,
        history_ms=history_span(policy),
        send_ids_per_mailbox=policy.send_ids_per_mailbox,
        send_ids_per_sender=policy.send_ids_per_sender,
        send_id_ms=send_id_span(policy),
    )
