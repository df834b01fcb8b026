"""The thread that looks after a store while it is open: what is seen though nobody asks for it.

- the servers of the engine: their settings, clocks and replication ids may change;
- which server has what, after a failover or a slot's move;
- the watches: what was subscribed to anew is read again at once, the others every few seconds,
  and the ends of sessions as soon as a server is not heard;
- invitations that are claimed, and that no account was made of in time;
- that this server uses the store, and still has its policy;
- once, what a crash left of accounts that were made or deleted.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

import redis

from twinline.core.deadline import Deadline
from twinline.core.errors import RequestError, StoreUnavailable
from twinline.core.waiting import Waiter
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.greeting import QUESTIONS, greeting_from, offset_from
from twinline.stores.valkey.lane import Call, Peer, plain
from twinline.stores.valkey.links import Links
from twinline.stores.valkey.pending import Pending
from twinline.stores.valkey.watches import Watches

log = logging.getLogger(__name__)

READ_AGAIN_SECONDS: Final = 3.0
"""How often every watch is read again, where there are not very many."""
_WATCHES_A_SECOND: Final = 1_000  # where there are
_LOOK_SECONDS: Final = 0.25
_PEER_SECONDS: Final = 2.0
_SUBSCRIBE_SECONDS: Final = 1.0
_JOIN_SECONDS: Final = 3.0
_CLAIMS_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 10.0


class Chores:
    """The thread and its tasks."""

    def __init__(
        self,
        engine: Engine,
        watches: Watches,
        links: Links,
        *,
        join: Callable[[], object],
        pending: Pending,
        follow_up: Callable[[], bool],
        settle: Callable[[], object],
    ) -> None:
        """Prepare; `start` begins.

        Args:
            engine: whose servers are looked at.
            watches: what is read again.
            links: what is subscribed to anew.
            join: says that this server uses the store.
            pending: what is to be done as soon as it can be.
            follow_up: finishes what a crash left; returns whether that was all.
            settle: spends or releases invitations that were claimed long ago.
        """
        self._engine = engine
        self._watches = watches
        self._follow_up = follow_up
        self._follows = True
        self._work = Waiter()
        self._closed = False
        self._moved = False
        now = time.monotonic()
        self._tasks: list[_Task] = [
            _Task(self._see_peers, _PEER_SECONDS, now),
            _Task(join, _JOIN_SECONDS, now + _JOIN_SECONDS),
            _Task(watches.resubscribe, _SUBSCRIBE_SECONDS, now),
            _Task(self._read_all, READ_AGAIN_SECONDS, now + READ_AGAIN_SECONDS),
            _Task(self._follow, _LOOK_SECONDS, now),
            _Task(pending.retry, _LOOK_SECONDS, now),
            _Task(self._read_sessions, _LOOK_SECONDS, now),
            _Task(settle, _CLAIMS_SECONDS, now),
        ]
        self._read_at = now
        self._links = links
        watches.hurry = self._work.wake
        engine.on_moved = self._note_move
        self._thread = threading.Thread(target=self._run, name="valkey chores", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End."""
        self._closed = True
        self._work.wake()
        self._thread.join(_CLOSE_SECONDS)

    def _note_move(self) -> None:
        self._moved = True
        self._work.wake()

    # --- in the thread

    def _run(self) -> None:
        while not self._closed:
            self._work.wait(Deadline.after(_LOOK_SECONDS))
            if self._engine.is_asked_anew:
                self._try(self._engine.refresh)
            if self._moved:
                self._moved = False
                self._try(lambda: self._watches.moved(self._links.is_still))
            self._try(lambda: self._watches.read_again(everything=False))
            now = time.monotonic()
            for task in self._tasks:
                if not self._closed and now >= task.next:
                    self._try(task.call)
                    task.next = time.monotonic() + task.seconds

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except RequestError:
            return  # the engine does not answer, as those who ask it are told as well
        except Exception:
            if not self._closed:
                log.exception("a chore failed; the thread goes on")

    def _follow(self) -> None:
        if self._follows:
            self._follows = not self._follow_up()

    def _read_all(self) -> None:
        seconds = max(READ_AGAIN_SECONDS, len(self._watches) / _WATCHES_A_SECOND)
        if time.monotonic() - self._read_at >= seconds - _LOOK_SECONDS:
            self._read_at = time.monotonic()
            self._watches.read_again(everything=True)
            self._watches.sweep()

    def _read_sessions(self) -> None:
        if self._links.miss_answers:
            self._watches.read_sessions_again()

    def _see_peers(self) -> None:
        self._engine.forget_gone()
        for peer in self._engine.peers():
            self._try(lambda peer=peer: self._see(peer))  # type: ignore[misc]

    def _see(self, peer: Peer) -> None:
        see(self._engine, peer, _ANSWER_SECONDS)


class _Task:
    """What is done every so often."""

    def __init__(self, call: Callable[[], object], seconds: float, first: float) -> None:
        self.call = call
        self.seconds = seconds
        self.next = first


def see(engine: Engine, peer: Peer, seconds: float) -> None:
    """Ask a server what it is now, and act on what has changed.

    Raises:
        StoreUnavailable: it does not answer.
    """
    calls: list[Call] = [plain(b"", *question) for question in QUESTIONS]
    calls.append(plain(b"", b"TIME"))
    begun = time.monotonic()
    *answers, told = engine.ask_peer(peer, calls, seconds)
    if any(isinstance(answer, redis.ResponseError) for answer in answers[:1]):
        raise StoreUnavailable("the engine does not say what it is")
    before = peer.greeting
    offset = offset_from(told, time.monotonic() - begun)
    peer.greeting = greeting = greeting_from(answers, offset)
    if before is not None and (
        greeting.replication_id != before.replication_id or not greeting.primary
    ):
        # The data may be others by now, and the epoch is asked for on each new connection.
        peer.renew()
        engine.ask_anew()
    engine.check(peer, greeting)
