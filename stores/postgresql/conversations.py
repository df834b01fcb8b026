"""Mail and copies by the account at the other side: a page of one, and who there is.

Messages have an index by their sender's account id, copies by their recipient's. It is gone through
by pairs of an id and a seq, which no other index has in that order: so what is read is of the page,
whatever else is in the mailbox, and whenever the plan was made.

Mail that came before senders' ids were kept has an empty one, and is found by the sender's name.
"""

from typing import Final

from twinline.core.errors import NoSuchUser
from twinline.core.protocol import Conversation, Message
from twinline.core.store import ConversationPage, MailboxPolicy, MailPage, Peer
from twinline.stores.postgresql.arrays import texts
from twinline.stores.postgresql.database import Pool
from twinline.stores.postgresql.entries import (
    COPIES,
    MAIL,
    RECEIPTS,
    Back,
    asked_back,
    bits,
    entry,
    page_before,
)
from twinline.stores.postgresql.link import Call
from twinline.stores.rules import fitting
from twinline.stores.sql.ageing import aged
from twinline.stores.sql.mailbox import NO_SUCH_SEQ

# All of constants alone. What they are given: $1 whose mailbox, $2 at or before which moment it
# has aged, $3 below which seq, and $4 how many.
_MINE: Final = f"""(SELECT box, position, greatest(floor,
            CASE WHEN oldest_ack <= $2::bigint THEN {aged("mailboxes.box", "$2::bigint")} ELSE 0
            END) AS kept
        FROM mailboxes WHERE account_id = $1)"""  # noqa: S608
# Of each kind: a page of one peer's.
_BY_SENDER: Final = f"""(SELECT {MAIL} WHERE messages.box = mine.box
            AND (sender_id, seq) < (peer.id, $3::bigint) AND (sender_id, seq) > (peer.id, mine.kept)
        ORDER BY sender_id DESC, seq DESC LIMIT $4::bigint)"""
_BY_NAME: Final = f"""(SELECT {MAIL} WHERE messages.box = mine.box AND sender_id = ''
            AND (sender, seq) < ($6, $3::bigint) AND (sender, seq) > ($6, mine.kept)
        ORDER BY sender DESC, seq DESC LIMIT $4::bigint)"""
_BY_RECIPIENT: Final = f"""(SELECT {COPIES} WHERE copies.box = mine.box AND sent_at > $2::bigint
            AND (peer_id, seq) < (peer.id, $3::bigint) AND (peer_id, seq) > (peer.id, 0)
        ORDER BY peer_id DESC, seq DESC LIMIT $4::bigint)"""
_OF_RECEIPT: Final = f"""(SELECT {RECEIPTS} WHERE receipts.box = mine.box AND peer_id = peer.id
            AND seq < $3::bigint AND acked_at > $2::bigint)"""
_HISTORY: Final = f"""
    SELECT position, every.* FROM {_MINE} AS mine LEFT JOIN LATERAL (
        SELECT mail.* FROM unnest($5::text[]) AS peer (id)
            CROSS JOIN LATERAL {_BY_SENDER} AS mail WHERE $7::bigint & 1 <> 0
        UNION ALL SELECT * FROM {_BY_NAME} AS old WHERE $7::bigint & 1 <> 0
        UNION ALL SELECT copied.* FROM unnest($5::text[]) AS peer (id)
            CROSS JOIN LATERAL {_BY_RECIPIENT} AS copied WHERE $7::bigint & 2 <> 0
        UNION ALL SELECT told.* FROM unnest($5::text[]) AS peer (id)
            CROSS JOIN LATERAL {_OF_RECEIPT} AS told WHERE $7::bigint & 4 <> 0
        ORDER BY seq DESC LIMIT $4::bigint) AS every ON true
    ORDER BY seq DESC"""  # noqa: S608

# Each id once, by leaping from one to the next.
_IDS: Final = """
    {name} (id) AS (
        SELECT (SELECT {id} FROM {table} WHERE {table}.box = mine.box {where}
            ORDER BY {id} LIMIT 1) FROM mine
        UNION ALL SELECT (SELECT {id} FROM {table} WHERE {table}.box = mine.box {where}
            AND {id} > {name}.id ORDER BY {id} LIMIT 1)
        FROM {name}, mine WHERE {name}.id IS NOT NULL)"""
_SENDERS: Final = _IDS.format(name="senders", table="messages", id="sender_id", where="")
_RECIPIENTS: Final = _IDS.format(name="recipients", table="copies", id="peer_id", where="")
_NAMES: Final = _IDS.format(
    name="names_of_before", table="messages", id="sender", where="AND sender_id = ''"
)
_PEERS: Final = f"""WITH RECURSIVE mine AS MATERIALIZED {_MINE}, {_SENDERS}, {_RECIPIENTS}"""
_ALL_PEERS: Final = f"""{_PEERS}, {_NAMES},
    peers AS (
        SELECT id, NULL AS name FROM senders WHERE id <> ''
        UNION SELECT id, NULL FROM recipients WHERE id <> ''
        UNION ALL SELECT '', id FROM names_of_before WHERE id IS NOT NULL),
    talks AS (
        SELECT peers.*, mine.box, position, coalesce(mail.seq, 0) AS mail,
            coalesce(old.seq, 0) AS old, coalesce(copied.seq, 0) AS copied
        FROM mine CROSS JOIN peers
        LEFT JOIN LATERAL (SELECT seq FROM messages WHERE messages.box = mine.box
            AND peers.id <> '' AND (sender_id, seq) > (peers.id, kept)
            AND (sender_id, seq) < (peers.id, {NO_SUCH_SEQ})
            ORDER BY sender_id DESC, seq DESC LIMIT 1) AS mail ON true
        LEFT JOIN LATERAL (SELECT seq FROM messages WHERE messages.box = mine.box
            AND sender_id = '' AND (sender, seq) > (peers.name, kept)
            AND (sender, seq) < (peers.name, {NO_SUCH_SEQ})
            ORDER BY sender DESC, seq DESC LIMIT 1) AS old ON true
        LEFT JOIN LATERAL (SELECT seq FROM copies WHERE copies.box = mine.box
            AND peers.id <> '' AND sent_at > $2::bigint AND (peer_id, seq) > (peers.id, 0)
            AND (peer_id, seq) < (peers.id, {NO_SUCH_SEQ})
            ORDER BY peer_id DESC, seq DESC LIMIT 1) AS copied ON true)"""  # noqa: S608
_CONVERSATIONS: Final = f"""{_ALL_PEERS}
    SELECT last.*, chosen.id AS peer_id,
        CASE WHEN chosen.id <> '' THEN (SELECT count(*) FROM messages
            WHERE messages.box = chosen.box AND sender_id = chosen.id
            AND messages.seq > chosen.position)
        ELSE (SELECT count(*) FROM messages WHERE messages.box = chosen.box AND sender_id = ''
            AND sender = chosen.name AND messages.seq > chosen.position) END AS unread
    FROM mine LEFT JOIN (SELECT *, greatest(mail, old, copied) AS seq FROM talks
        WHERE greatest(mail, old, copied) BETWEEN 1 AND $3::bigint - 1
        ORDER BY seq DESC LIMIT $4::bigint) AS chosen ON true
    LEFT JOIN LATERAL (
        SELECT {MAIL} WHERE messages.box = chosen.box AND messages.seq = chosen.seq
        UNION ALL SELECT {COPIES} WHERE copies.box = chosen.box AND copies.seq = chosen.seq
    ) AS last ON true
    ORDER BY seq DESC"""  # noqa: S608
_OF_NAME: Final = f"""{_PEERS}
    SELECT id FROM senders CROSS JOIN mine CROSS JOIN LATERAL (SELECT sender FROM messages
            WHERE messages.box = mine.box AND (sender_id, seq) >= (senders.id, 0)
            ORDER BY sender_id, seq LIMIT 1) AS first WHERE id <> '' AND sender = $3
    UNION SELECT id FROM recipients CROSS JOIN mine CROSS JOIN LATERAL (SELECT peer FROM copies
            WHERE copies.box = mine.box AND (peer_id, seq) >= (recipients.id, 0)
            ORDER BY peer_id, seq LIMIT 1) AS first WHERE peer = $3
    UNION SELECT peer_id FROM receipts, mine WHERE receipts.box = mine.box AND peer = $3"""  # noqa: S608


class Conversations:
    """Reads them by the connections that are for reading."""

    def __init__(self, pool: Pool, policy: MailboxPolicy) -> None:
        self._pool = pool
        self._policy = policy

    def history(self, back: Back, peer: Peer) -> MailPage:
        """Return what `Mailboxes.history` does, of one peer.

        Raises:
            NoSuchUser: there is no such mailbox.
            StoreUnavailable: it cannot be read.
        """
        asked = asked_back(back, self._policy)
        if peer.account_id is not None:
            ids = [peer.account_id]
        else:
            (found,) = self._pool.run(Call(_OF_NAME, back.account_id, asked[1], peer.username))
            ids = [peer_id for (peer_id,) in found]
        (rows,) = self._pool.run(
            Call(_HISTORY, *asked, texts(ids), peer.username, bits(back.kinds))
        )
        if not rows:
            raise NoSuchUser
        entries = [entry(row[1:]) for row in rows if row[1] is not None]
        return page_before(entries, back.limit, back.max_bytes, rows[0][0])

    def page(self, back: Back) -> ConversationPage:
        """Return what `Mailboxes.conversations` does.

        Raises:
            NoSuchUser: there is no such mailbox.
            StoreUnavailable: it cannot be read.
        """
        (rows,) = self._pool.run(Call(_CONVERSATIONS, *asked_back(back, self._policy)))
        if not rows:
            raise NoSuchUser
        found = [
            (entry(row), peer_id, unread) for *row, peer_id, unread in rows if row[0] is not None
        ]
        last = [message for message, _, _ in found if isinstance(message, Message)]
        page, more = fitting(last, back.limit, back.max_bytes)
        conversations = [
            Conversation(
                username=message.to or message.sender,
                last=message,
                unread=unread,
                account=peer_id or None,
            )
            for message, (_, peer_id, unread) in zip(page, found, strict=False)
        ]
        return ConversationPage(tuple(conversations), more)
