"""How a server hears of what the others do, and how long it may rely on having heard.

One connection listens (LISTEN), one sends (NOTIFY). A notice is a hint: it may be late, come twice,
or get lost with its connection, so what hangs on it is looked at again (`rereads`).

1. Mail, and what else comes into a mailbox, is told after its commit, many mailboxes in one notice.
   Inside of the transaction NOTIFY would take a lock that all transactions of the database wait
   for. A lone commit is followed by its notice on the lane's own connection, and both are sent
   together: so the notice waits for neither an answer nor a thread. Under load a thread tells of
   many commits at once.
2. What could not be sent is kept, and sent when there is a connection again.
3. The end of a session is told inside of its transaction, so that none can end untold.
4. This server notifies itself too, every `BEAT_SECONDS`. PostgreSQL delivers notices in the order
   of their commits, so a heartbeat that came back proves that all that was committed before it was
   sent has been heard. For `LEASE_SECONDS` from then what is remembered of sessions may be used
   (a lease: Gray and Cheriton 1989); after that the database is asked. The time counts from when
   the heartbeat was sent.
5. What a notice costs grows with the servers that hear it, so they are kept apart by that, and by
   how many mailboxes a notice is about: where there are many, more gather meanwhile. How many
   servers there are is told by their heartbeats. One that hears no other still tells, as one may
   just have begun.
6. When the connection was lost, notices may have been: what is remembered is forgotten before the
   lease holds again.

Servers are told apart by a random id: were they counted, two could have one number after a crash,
and be deaf to each other.
"""

import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from threading import Thread
from typing import Final

import psycopg

from twinline.core.deadline import Deadline
from twinline.core.errors import StoreUnavailable
from twinline.core.locks import new_lock
from twinline.core.protocol import Kind as Entry
from twinline.core.store import SessionKey, Unsubscribe
from twinline.core.waiting import Waiter, Wake, wake_all
from twinline.stores.postgresql.arrays import texts
from twinline.stores.postgresql.database import Database, Keeper, start_thread
from twinline.stores.postgresql.link import Call, EngineError, Link, LinkLost
from twinline.stores.postgresql.notices import (
    EVERYTHING,
    Kind,
    only,
    parse,
    parse_session_key,
    payloads,
    session_key,
)
from twinline.stores.shared.complaints import Complaints
from twinline.stores.shared.opening import StoreNotOpened
from twinline.stores.shared.subscriptions import Subscriptions
from twinline.stores.shared.watchers import Watchers

log = logging.getLogger(__name__)

BEAT_SECONDS: Final = 0.3
"""How far two heartbeats are apart."""
LEASE_SECONDS: Final = 0.9
"""How long what is remembered may be used after a heartbeat was sent that came back."""
_FIRST_BEAT_SECONDS: Final = 2.0
_BEAT_CALL_SECONDS: Final = 1.5
_PACE_SECONDS: Final = 0.00025  # after a notice, for each server that hears it and each mailbox
_LONGEST_PACE_SECONDS: Final = 0.005
_ALONE_SECONDS: Final = 0.05  # where no other server is heard
_BURST_SECONDS: Final = 0.045  # so far notices may be ahead of their pace, where there is no load
_GONE_SECONDS: Final = 3.0  # a server that was not heard for so long is not counted
_PENDING: Final = 100_000  # mailboxes that wait to be told; beyond them all are
_CLOSE_SECONDS: Final = 3.0
_USAGE_SECONDS: Final = 10.0  # between two looks at how full the queue of notices is
_USAGE_WARNED: Final = 0.1

_NOTIFY: Final = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"
_USAGE: Final = "SELECT (pg_notification_queue_usage() * 100)::bigint"

_TELLS: Final = {Entry.MAIL: Kind.MAIL, Entry.SENT: Kind.COPIES, Entry.RECEIPT: Kind.RECEIPTS}
_ENTRIES: Final = {kind: entry for entry, kind in _TELLS.items()}
News = Mapping[str, Collection[Entry]]
"""Which mailboxes have got entries of which kinds, by account id; one that is dropped, of all."""

Heard = Callable[[set[str] | None], object]
"""Called in the listening thread with the keys of a notice, None standing for all there are; it
must neither block nor raise."""


class Wakes:
    """The two connections, their threads, and who is woken in this process.

    Attributes:
        node: this server's random id.
        watchers: who is woken when a mailbox gets an entry or is dropped.
        sessions: who is woken when a session ends.
        servers: how many servers were heard of late, this one included.
        on_gap: called in the listening thread when notices may have been missed, before the
            lease holds again; must neither block nor raise.
    """

    def __init__(self, database: Database) -> None:
        self.node = secrets.token_hex(8)
        self.watchers = Watchers()
        self.sessions: Subscriptions[SessionKey] = Subscriptions("session ends")
        self.servers = 1
        self.on_gap: list[Callable[[], object]] = []
        self._channel = f"twinline_{database.target.schema}"
        self._listening = Keeper(database)
        self._sending = Keeper(database)
        self._complaints = Complaints(log)
        self._full = Complaints(log)
        self._heard: dict[Kind, list[Heard]] = {
            Kind.SESSIONS: [self._wake_sessions],
            Kind.ACCOUNTS: [],
        }
        self._lock = new_lock("notices")
        self._pending: dict[Kind, dict[str, None]] = {}  # guarded by _lock
        self._pace = Pace(_BURST_SECONDS)  # guarded by _lock
        self._work = Waiter()
        self._pause = Waiter()
        self._closed = False
        self._threads: list[Thread] = []
        # The listening thread's: when each heartbeat that is on its way was sent, and when each of
        # the others was heard.
        self._beats: dict[str, float] = {}
        self._others: dict[str, float] = {}
        self._beat = 0
        self._look_at_usage = 0.0
        # When the last heartbeat that came back was sent: written by that thread alone.
        self._proven_at = float("-inf")
        self._came = Waiter()

    # --- for all threads

    @property
    def lease_holds(self) -> bool:
        """Whether all that was told up to `LEASE_SECONDS` ago has been heard."""
        return self.silent_seconds < LEASE_SECONDS

    @property
    def silent_seconds(self) -> float:
        """How long ago the last heartbeat that came back was sent."""
        return time.monotonic() - self._proven_at

    @property
    def lag_seconds(self) -> float:
        """For how long this server may not have heard what the others did; 0 under the lease."""
        since = self.silent_seconds
        return 0.0 if since < LEASE_SECONDS else since

    def on(self, kind: Kind, heard: Heard) -> None:
        """Have what is heard of a kind told, this server's own notices included; before `start`."""
        self._heard[kind].append(heard)

    def on_session(self, key: SessionKey, wake: Wake) -> Unsubscribe:
        """Have ``wake`` called when a session ends, by whichever server."""
        return self.sessions.add(key, wake)

    def end_sessions(self, keys: Iterable[SessionKey]) -> None:
        """Wake who waits in this process for the end of these sessions: it is committed."""
        for key in keys:
            wake_all(self.sessions.end(key))

    def telling(self, kind: Kind, keys: Collection[str]) -> Call:
        """Return a call that tells all servers, to be run inside of a transaction.

        Args:
            kind: what about; the end of sessions, and changes of accounts.
            keys: see `Kind`; at least one.
        """
        return Call(_NOTIFY, self._channel, texts(list(payloads(kind, self.node, keys))))

    def tell_sessions(self, keys: Iterable[SessionKey]) -> Call:
        """Return a call that tells all servers that sessions end, as `telling` does."""
        return self.telling(
            Kind.SESSIONS, [session_key(key.account_id or "", key.token_hash) for key in keys]
        )

    def tell_news(self, news: News) -> None:
        """Have the other servers told of what is committed; it waits for nothing."""
        with self._lock:
            for kind, account_ids in _by_kind(news).items():
                pending = self._pending.setdefault(kind, {})
                pending.update(dict.fromkeys(account_ids))
                if len(pending) > _PENDING:
                    self._pending[kind] = {EVERYTHING: None}
        self._work.wake()

    def telling_news(self, news: News) -> Call | None:
        """Return a call that tells the other servers of news, to be run behind their commit.

        Returns:
            None where `tell_news` is to be called instead: it is to wait, or no other is heard.
        """
        if self.servers == 1 or not self.lease_holds:
            return None
        with self._lock:
            if self._pending or self._pace.wait_seconds() > 0:
                return None
            self._pace.step(self._pace_seconds(len(news)))
        told = [
            payload
            for kind, account_ids in _by_kind(news).items()
            for payload in payloads(kind, self.node, account_ids)
        ]
        return Call(_NOTIFY, self._channel, texts(told))

    def _pace_seconds(self, keys: int) -> float:
        """Return how far the next notice is to be behind one of so many mailboxes."""
        if not self.lease_holds:
            return _LONGEST_PACE_SECONDS
        if self.servers == 1:
            return _ALONE_SECONDS
        return min(_LONGEST_PACE_SECONDS, _PACE_SECONDS * self.servers * keys)

    def start(self) -> None:
        """Begin to listen and to send.

        Raises:
            StoreNotOpened: no heartbeat came back.
            StoreUnavailable: the database is not available.
        """
        self._threads.append(start_thread(self._listen, "postgresql listener"))
        self._threads.append(start_thread(self._send, "postgresql notifier"))
        if self._came.wait(Deadline.after(_FIRST_BEAT_SECONDS)):
            return
        linked = self._listening.link is not None
        self.close()
        if not linked:
            raise StoreUnavailable
        raise StoreNotOpened(
            "the database does not deliver notices to this server: LISTEN needs a connection of "
            "its own, which a pooler in transaction mode does not give; connect to PostgreSQL "
            "itself, or through a pooler in session mode"
        )

    def close(self) -> None:
        """Send what is still to be told, and end."""
        self._closed = True
        self._work.wake()
        self._pause.wake()
        if (link := self._listening.link) is not None:
            link.interrupt()
        for thread in self._threads:
            with suppress(RuntimeError):
                thread.join(_CLOSE_SECONDS)
        self._proven_at = float("-inf")

    # --- in the listening thread

    def _listen(self) -> None:
        keeper = self._listening
        while not self._closed:
            link = keeper.ready()
            if link is None:
                self._pause.wait(Deadline.after(keeper.retry_at - time.monotonic()))
                continue
            try:
                self._attend(link)
            except (EngineError, LinkLost, psycopg.Error) as error:
                if not self._closed:
                    self._complaints.error("notices are not heard: %s", error)
                keeper.drop()
            except Exception:
                log.exception("the listener failed, and goes on with a new connection")
                keeper.drop()
        if keeper.link is not None:
            keeper.link.close()

    def _attend(self, link: Link) -> None:
        """Listen on a connection until it breaks."""
        self._beats.clear()
        link.heard = self._notice
        link.execute(f"LISTEN {self._channel}")
        for call in self.on_gap:
            call()
        beat_at = time.monotonic()
        while not self._closed:
            now = time.monotonic()
            if now >= beat_at:
                self._send_beat(link, now)
                beat_at = max(beat_at + BEAT_SECONDS, now)
            link.wait(min(BEAT_SECONDS, beat_at - time.monotonic()))

    def _send_beat(self, link: Link, now: float) -> None:
        for node in [node for node, at in self._others.items() if at < now - _GONE_SECONDS]:
            del self._others[node]
        self.servers = 1 + len(self._others)
        self._beat += 1
        key = str(self._beat)
        self._beats[key] = now
        if len(self._beats) > LEASE_SECONDS / BEAT_SECONDS * 4:
            raise LinkLost("heartbeats do not come back", in_doubt=False)
        calls = [self.telling(Kind.HEARTBEAT, [key])]
        if now >= self._look_at_usage:
            calls.append(Call(_USAGE))
        results = link.run(*calls, seconds=_BEAT_CALL_SECONDS)
        if len(results) > 1:
            self._look_at_usage = now + _USAGE_SECONDS
            self._warn_if_full(results[1][0][0])

    def _warn_if_full(self, percent: int) -> None:
        if percent >= _USAGE_WARNED * 100:
            self._full.error(
                "the database's queue of notices is full to %s %%: a connection listens and does "
                "not read, or is in a transaction (pg_stat_activity, the oldest xact_start)",
                percent,
            )

    def _notice(self, channel: str, payload: str) -> None:
        if channel != self._channel:
            return
        notice = parse(payload)
        if notice is None:
            return
        kind, node, keys = notice
        if kind is Kind.HEARTBEAT and node != self.node:
            self._others[node] = time.monotonic()
            self.servers = 1 + len(self._others)
            return
        if kind is Kind.HEARTBEAT:
            if (sent_at := self._beats.pop(keys[0], None)) is not None:
                for key in [key for key, at in self._beats.items() if at < sent_at]:
                    del self._beats[key]
                self._proven_at = max(self._proven_at, sent_at)
                self._came.wake()
            return
        if kind in _ENTRIES:
            if node != self.node:  # here they were woken after the commit
                self._wake_watchers(_ENTRIES[kind], only(keys))
            return
        for heard in self._heard[kind]:
            heard(only(keys))

    def _wake_watchers(self, entry: Entry, account_ids: set[str] | None) -> None:
        watchers = self.watchers
        for account_id in watchers.watched(entry) if account_ids is None else account_ids:
            wake_all(watchers.wakes(account_id, entry))

    def _wake_sessions(self, keys: set[str] | None) -> None:
        if keys is None:
            ended = self.sessions.keys()
        else:
            ended = []
            for key in keys:
                with suppress(ValueError):
                    ended.append(SessionKey(*parse_session_key(key)))
        self.end_sessions(ended)

    # --- in the sending thread

    def _send(self) -> None:
        keeper = self._sending
        while not (self._closed and not self._pending):
            if not self._pending:
                self._work.wait(Deadline.after(None))
                continue
            with self._lock:
                wait = self._pace.wait_seconds()
            if wait > 0 and not self._closed:
                time.sleep(wait)
            link = keeper.ready()
            if link is None:
                if self._closed:
                    break
                self._work.clear()
                self._pause.wait(Deadline.after(max(0.01, keeper.retry_at - time.monotonic())))
                continue
            with self._lock:
                pending, self._pending = self._pending, {}
                self._pace.step(self._pace_seconds(sum(map(len, pending.values()))))
            try:
                self._send_all(link, pending)
            except (EngineError, LinkLost, psycopg.Error) as error:
                self._complaints.error("notices wait to be sent: %s", error)
                self._put_back(pending)
                keeper.drop()
                if self._closed:
                    break
        if keeper.link is not None:
            keeper.link.close()

    def _send_all(self, link: Link, pending: dict[Kind, dict[str, None]]) -> None:
        told = [
            payload for kind, keys in pending.items() for payload in payloads(kind, self.node, keys)
        ]
        link.execute(_NOTIFY, self._channel, texts(told))

    def _put_back(self, pending: dict[Kind, dict[str, None]]) -> None:
        with self._lock:
            for kind, keys in pending.items():
                self._pending[kind] = {**keys, **self._pending.get(kind, {})}


def _by_kind(news: News) -> dict[Kind, list[str]]:
    """Return which mailboxes each kind of notice is about."""
    found: dict[Kind, list[str]] = {}
    for account_id, entries in news.items():
        for entry in entries:
            found.setdefault(_TELLS[entry], []).append(account_id)
    return found


class Pace:
    """Says when the next step may be made: some may follow each other at once, many may not.

    Each step takes its time of the schedule, which is at most so far ahead: the generic cell rate
    algorithm (ITU-T I.371).
    """

    def __init__(self, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin rested.

        Args:
            burst: how many seconds the steps may be ahead of their schedule.
            clock: in seconds.
        """
        self._burst = burst
        self._clock = clock
        self._scheduled = float("-inf")

    def wait_seconds(self) -> float:
        """Return how long to wait before the next step; 0 or less if it may be made now."""
        return self._scheduled - self._burst - self._clock()

    def step(self, seconds: float) -> None:
        """Note a step after which so long a pause is due."""
        self._scheduled = max(self._scheduled, self._clock()) + seconds
