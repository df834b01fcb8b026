"""What a judged history shows: the anomalies, how often each was found, and the verdict.

The anomalies, for messages known by mailbox and id; the copies in their senders' mailboxes are held
to the same rules, but for the first, and to their own:

============  =====================================================================================
lost          acknowledged to its sender, and not received although its mailbox was drained
unexpected    received or read, and never sent
aborted       received or read, and every attempt to send it had certainly failed
duplicates    handed twice to one life of a reader, or stored under two seqs
reordered     received after a message of the same sender to the same mailbox whose sending began
              only when this one had been acknowledged
diverged      a seq of a mailbox that held two different messages
skipped       first seen at a seq below one already received or acked, or handed to a life of a
              reader after a higher one: what a reader had seen was no prefix of the mailbox
uncopied      acknowledged with a copy, and no copy received although the sender's mailbox was
              drained
mismatched    the reply to the send, the message and its copy do not agree on the id that the store
              gave it, its ``n`` or its recipient
premature     a receipt of what its recipient had neither received nor acked by then, or that nobody
              had sent
regressed     a receipt after one of the same account that has the same ``n`` or a higher one
untold        the last receipt of an account, when it had had its time, did not name the last
              message that it had received of those acknowledged until then
============  =====================================================================================

Three things are counted and are no violation: ``redelivered`` (received again by another life of
a reader, as happens when it ended before its ack), ``undrained`` (acknowledged, not received, in
a mailbox that was not read to its end) and ``unread`` (mailboxes that were not read to their end
after the last send, or were gone by then: what they held cannot be judged).

None found in N cases does not prove that there are none: with 95 % confidence the rate is
below 3/N (the rule of three, https://doi.org/10.1001/jama.1983.03330370053031).
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Anomaly(StrEnum):
    """What no history of a correct store shows."""

    LOST = "lost"
    """Acknowledged, and not received although its mailbox was drained."""
    UNEXPECTED = "unexpected"
    """Received or read, and never sent."""
    ABORTED = "aborted"
    """Received or read, although every attempt to send it had failed."""
    DUPLICATES = "duplicates"
    """Handed twice to one life of a reader, or stored under two seqs."""
    REORDERED = "reordered"
    """Received after a later one of the same sender."""
    DIVERGED = "diverged"
    """At a seq that had held another message."""
    SKIPPED = "skipped"
    """First seen below a seq that had been received or acked."""
    UNCOPIED = "uncopied"
    """Acknowledged with a copy that was not received although its mailbox was drained."""
    MISMATCHED = "mismatched"
    """Not as its reply or its copy says."""
    PREMATURE = "premature"
    """A receipt of what had not been received."""
    REGRESSED = "regressed"
    """A receipt that goes back."""
    UNTOLD = "untold"
    """The last receipt has not come."""


class Verdict(StrEnum):
    """What a history shows."""

    OK = "ok"
    """No anomaly was found."""
    VIOLATED = "violated"
    """An anomaly was found."""
    UNKNOWN = "unknown"
    """It shows nothing: nothing was delivered, or a mailbox was not read to its end."""


class Finding(BaseModel):
    """How often one anomaly was found."""

    model_config = ConfigDict(frozen=True)

    anomaly: Anomaly = Field(description="the anomaly")
    count: int = Field(description="how often it was found")
    cases: int = Field(description="how often it could have been")
    examples: tuple[str, ...] = Field(description="some of those found, for a person")

    @property
    def bound(self) -> float | None:
        """The rate below which it is with 95 % confidence; None if it was found, or not tried."""
        return 3 / self.cases if self.cases and not self.count else None


class Judgement(BaseModel):
    """What a whole history shows."""

    model_config = ConfigDict(frozen=True)

    attempted: int = Field(description="messages that a worker tried to send")
    acknowledged: int = Field(description="of these, acknowledged to the sender")
    failed: int = Field(description="of these, certainly not sent")
    undecided: int = Field(description="of these, with an unknown outcome")
    delivered: int = Field(description="different messages received")
    copies: int = Field(description="different copies received by their senders")
    receipts: int = Field(description="times that a receipt was received")
    handed: int = Field(description="times that a message or a copy was received")
    redelivered: int = Field(description="times that one came again, to another life of a reader")
    undrained: int = Field(description="acknowledged, in a mailbox not read to its end")
    unread: int = Field(description="mailboxes not read to their end, or gone")
    findings: tuple[Finding, ...] = Field(description="how often each anomaly was found")

    def count(self, anomaly: Anomaly) -> int:
        """Return how often an anomaly was found."""
        return next(finding.count for finding in self.findings if finding.anomaly is anomaly)

    @property
    def violations(self) -> dict[Anomaly, int]:
        """The anomalies that were found, and how often."""
        return {finding.anomaly: finding.count for finding in self.findings if finding.count}

    @property
    def verdict(self) -> Verdict:
        """The verdict: where nothing was delivered it is unknown, whatever else there is."""
        if not self.delivered:
            return Verdict.UNKNOWN
        if self.violations:
            return Verdict.VIOLATED
        return Verdict.UNKNOWN if self.undrained or self.unread else Verdict.OK
