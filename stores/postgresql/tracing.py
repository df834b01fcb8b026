"""Where a message is: looked for in one mailbox, or by an operator in all of them.

Messages have no index by their ids, which every send would pay for. So one mailbox is read, and to
look into all of them is to read the whole table: by a connection of its own that is closed
afterwards, one look at a time, with a time that is long enough for that and ends it in the database
too. It holds up neither sends nor reads.
"""

from typing import Final

from twinline.core.store import MailboxPolicy, MessageTrace
from twinline.stores.postgresql.database import Database, Pool
from twinline.stores.postgresql.link import Call, EngineError, Rows
from twinline.stores.rules import (
    LOOK_THROUGH_SECONDS,
    history_ends,
    not_looked_through,
    was_deleted,
)
from twinline.stores.sql.ageing import aged

_ANSWER_SECONDS: Final = 2.0  # in which the answer comes after that
_CANCELLED: Final = "57014"  # by its statement_timeout

# Both of constants alone. What lies below the floor is removed, though it may still be there.
_MESSAGE: Final = f"""
    SELECT account_id, message_id, messages.sent_at, seq, sender,
        coalesce(nullif(messages.sender_id, ''), (SELECT sender_id FROM send_ids
            WHERE send_ids.box = messages.box AND send_ids.message_id = messages.message_id
            LIMIT 1)),
        seq <= mailboxes.position,
        CASE WHEN seq <= mailboxes.position THEN (SELECT acked_at FROM acks
            WHERE acks.box = messages.box AND acks.position >= seq
            ORDER BY acks.position LIMIT 1) END,
        seq, position
    FROM mailboxes JOIN messages USING (box) WHERE message_id = $1 AND seq > floor
        AND seq > {aged("messages.box", "$2::bigint")} {{}} LIMIT 1"""  # noqa: S608
_SEND_ID: Final = """
    SELECT account_id, message_id, sent_at, NULL::bigint, NULL::text, sender_id, false,
        NULL::bigint, seq, position
    FROM mailboxes JOIN send_ids USING (box) WHERE message_id = $1 AND $2::bigint IS NOT NULL {}
    LIMIT 1"""
_OF_ONE: Final = tuple(each.format("AND account_id = $3") for each in (_MESSAGE, _SEND_ID))
_OF_ALL: Final = tuple(each.format("") for each in (_MESSAGE, _SEND_ID))
# Tables are read from one end to the other, which is not how a server reads otherwise.
_SET: Final = f"""
    SELECT set_config('statement_timeout', '{LOOK_THROUGH_SECONDS * 1000:.0f}', true),
        set_config('enable_seqscan', 'on', true), set_config('enable_hashjoin', 'on', true)"""


class Tracing:
    """Looks for messages."""

    def __init__(self, database: Database, reading: Pool, policy: MailboxPolicy) -> None:
        """Prepare; nothing is connected yet.

        Args:
            database: makes the connection by which all mailboxes are looked through.
            reading: the connections by which one is.
            policy: how much its mailboxes keep.
        """
        self._policy = policy
        self._reading = reading
        self._alone = Pool(database, 1, writes=False)

    def find(self, message_id: str, account_id: str | None, now: int) -> MessageTrace | None:
        """Return where a message is; see `Mailboxes.trace`.

        Raises:
            StoreUnavailable: it cannot be looked for, or not in time.
        """
        ends = history_ends(self._policy, now)
        if account_id is None:
            rows = self._find_anywhere(message_id, ends)
        else:
            calls = (Call(each, message_id, ends, account_id) for each in _OF_ONE)
            rows = next(filter(None, self._reading.run(*calls)), [])
        if not rows:
            return None
        *found, sent_as, position = rows[0]
        trace = MessageTrace(*found)
        if trace.seq is not None:
            return trace
        return trace._replace(
            deleted=was_deleted(
                ends,
                self._policy.history_messages,
                sent_at=trace.sent_at,
                seq=sent_as,
                position=position,
            )
        )

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._alone.close()

    def _find_anywhere(self, message_id: str, ends: int) -> Rows:
        with self._alone.lend() as link:
            try:
                with link.transaction():
                    link.execute(_SET)
                    seconds = LOOK_THROUGH_SECONDS + _ANSWER_SECONDS
                    for each in _OF_ALL:
                        rows = link.execute(each, message_id, ends, seconds=seconds)
                        if rows:
                            return rows
            except EngineError as error:
                if error.sqlstate != _CANCELLED:
                    raise
                raise not_looked_through() from error
            finally:
                link.close()
        return []
