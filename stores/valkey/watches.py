"""Who is woken by mail and by the end of sessions, in this process; and what is read again.

Everything that is watched has a channel of the engine's, which a `Link` subscribes to. A notice is
a hint, and any of them may be lost: with a connection, with a slot that moves, or with a node of
the engine. So what is watched is also read again, all of it every few seconds, and what had to be
subscribed to anew at once: a lost notice costs seconds.

A notice of an entry says its kind and up to which seq that has come, and so does the answer to a
call that this process made. Each mailbox has noted how far its watchers were woken by each kind,
and only what is beyond that wakes those who take it: once for each entry, whichever of the two
comes first, or the reading again.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, NamedTuple

from twinline.core.errors import StoreUnavailable
from twinline.core.locks import may_block, new_lock
from twinline.core.protocol import MAIL_ALONE, Kind, Kinds
from twinline.core.store import SessionKey, Unsubscribe
from twinline.core.waiting import Wake, wake_all
from twinline.stores.valkey.engine import CALL_SECONDS, Engine
from twinline.stores.valkey.entries import LETTERS
from twinline.stores.valkey.keys import Keys
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.url import Address

_CHUNK: Final = 256  # watches that are read again in one pipeline
Tokens = Collection[bytes]
"""Token hashes."""
Lasts = Mapping[Kind, int]
"""Up to which seqs a mailbox has entries of some kinds."""
_KIND_OF: Final = {letter: kind for kind, letter in LETTERS.items()}


class Subscriber(NamedTuple):
    """Who is woken.

    Attributes:
        token: by the end of which session; None for a mailbox.
        wake: what is called.
        kinds: by which entries of a mailbox.
    """

    token: bytes | None
    wake: Wake
    kinds: Kinds = MAIL_ALONE

    def __repr__(self) -> str:
        return f"Subscriber(of_mail={self.token is None}, wake={self.wake!r})"


class Watch:
    """One channel, and who is woken by it.

    Attributes:
        account_id: whose mailbox or sessions.
        mail: which of the two.
        subscribers: who is woken.
        noted: up to which seq of a kind they were; none while that is not known.
        confirmed: whether the engine has said that it tells what happens now.
        waiters: who waits for that.
        unused: whether nobody was here when this was last looked at.
    """

    __slots__ = (
        "account_id",
        "confirmed",
        "mail",
        "noted",
        "subscribers",
        "unused",
        "waiters",
    )

    def __init__(self, account_id: str, *, mail: bool) -> None:
        self.account_id = account_id
        self.mail = mail
        self.subscribers: dict[object, Subscriber] = {}
        self.noted: dict[Kind, int] = {}
        self.confirmed = False
        self.waiters: list[SimpleQueue[None]] = []
        self.unused = False

    def wakes(self) -> tuple[Wake, ...]:
        """Return all wakes."""
        return tuple([each.wake for each in self.subscribers.values()])

    def grown(self, lasts: Lasts) -> tuple[Wake, ...]:
        """Note the last seqs of some kinds, and return whom those wake that are new."""
        noted = self.noted
        new = [kind for kind, last in lasts.items() if last > noted.get(kind, -1)]
        if not new:
            return ()
        noted.update({kind: lasts[kind] for kind in new})
        return tuple([each.wake for each in self.subscribers.values() if each.kinds & {*new}])


class Watches:
    """All that is watched in this process."""

    def __init__(self, engine: Engine, keys: Keys) -> None:
        self._engine = engine
        self._keys = keys
        self._lock = new_lock("watches")
        self._watches: dict[bytes, Watch] = {}  # by channel; guarded by the watches lock
        self._anew: set[bytes] = set()  # channels to be read again at once; guarded by it too
        self.changed: Callable[[bytes], object] = lambda _: None
        """Called with a channel of which may have to be subscribed to, or no more."""
        self.ended: Callable[[str], object] = lambda _: None
        """Called with an account of which sessions have ended."""
        self.hurry: Callable[[], object] = lambda: None
        """Called when something is to be read again at once."""

    def __len__(self) -> int:
        return len(self._watches)

    # --- for who watches

    def watch_box(self, account_id: str, wake: Wake, kinds: Kinds) -> Unsubscribe:
        """Have ``wake`` called for a mailbox, from now on; for one that is gone nothing is.

        Raises:
            StoreUnavailable: the engine does not say in time that it will tell.
        """
        channel = self._keys.of(account_id, "w")
        subscriber = Subscriber(None, wake, kinds)
        watch, unsubscribe = self._subscribe(channel, account_id, subscriber, mail=True)
        if not watch.noted:
            try:
                lasts = _lasts(self._engine.do(self._last(account_id)))
            except BaseException:
                unsubscribe()
                raise
            if lasts is None:
                unsubscribe()
                return _nothing
            with self._lock:
                for kind, last in lasts.items():
                    watch.noted[kind] = max(last, watch.noted.get(kind, 0))
        return unsubscribe

    def watch_session(self, key: SessionKey, wake: Wake) -> Unsubscribe:
        """Have ``wake`` called when a session ends; for one that is gone nothing is.

        Raises:
            StoreUnavailable: the engine does not say in time that it will tell.
        """
        account_id, token = key
        if account_id is None:
            return _nothing
        _, unsubscribe = self._subscribe(
            self._keys.of(account_id, "e"), account_id, Subscriber(token, wake), mail=False
        )
        sessions = self._keys.of(account_id, "k")
        try:
            there = self._engine.do(plain(sessions, b"HEXISTS", sessions, token))
        except BaseException:
            unsubscribe()
            raise
        if not there:
            unsubscribe()
            return _nothing
        return unsubscribe

    def _subscribe(
        self, channel: bytes, account_id: str, subscriber: Subscriber, *, mail: bool
    ) -> tuple[Watch, Unsubscribe]:
        may_block("subscribing")
        mine = object()
        waiter: SimpleQueue[None] | None = None
        with self._lock:
            watch = self._watches.get(channel)
            is_new = watch is None
            if watch is None:
                watch = self._watches[channel] = Watch(account_id, mail=mail)
            watch.subscribers[mine] = subscriber
            watch.unused = False
            if not watch.confirmed:
                waiter = SimpleQueue()
                watch.waiters.append(waiter)

        def unsubscribe() -> None:
            with self._lock:
                watch.subscribers.pop(mine, None)

        try:
            if is_new:
                self.changed(channel)
            if waiter is not None:
                waiter.get(timeout=CALL_SECONDS)
        except BaseException as error:
            unsubscribe()
            with self._lock:
                if waiter in watch.waiters:
                    watch.waiters.remove(waiter)
            if isinstance(error, Empty):
                raise StoreUnavailable("the engine does not confirm a subscription") from None
            raise
        return watch, unsubscribe

    # --- for who sends, drops and ends

    def box_grew(self, account_id: str, kind: Kind, last: int) -> tuple[Wake, ...]:
        """Return whom an entry wakes: who was not woken for this seq or a later one."""
        channel = self._keys.box(account_id).channel
        with self._lock:
            watch = self._watches.get(channel)
            return () if watch is None else watch.grown({kind: last})

    def box_wakes(self, account_id: str) -> tuple[Wake, ...]:
        """Return all who watch a mailbox."""
        with self._lock:
            watch = self._watches.get(self._keys.of(account_id, "w"))
            return () if watch is None else watch.wakes()

    def box_gone(self, account_id: str) -> tuple[Wake, ...]:
        """End the watches on a mailbox, and return whom that wakes."""
        channel = self._keys.of(account_id, "w")
        with self._lock:
            watch = self._watches.pop(channel, None)
            if watch is None:
                return ()
            # Who waits to be told from now on has nothing to wait for: it looks, and sees it gone.
            waiters, watch.waiters = watch.waiters, []
            wakes = watch.wakes()
        for waiter in waiters:
            waiter.put(None)
        self.changed(channel)
        return wakes

    def sessions_ended(self, account_id: str, tokens: Tokens) -> tuple[Wake, ...]:
        """End the watches on sessions, and return whom that wakes."""
        with self._lock:
            watch = self._watches.get(self._keys.of(account_id, "e"))
            if watch is None:
                return ()
            ended = [key for key, each in watch.subscribers.items() if each.token in tokens]
            return tuple([watch.subscribers.pop(key).wake for key in ended])

    # --- for the links

    def wanted(self, channel: bytes, address: Address) -> bool:
        """Return whether a server is to be subscribed to for a channel."""
        with self._lock:
            known = channel in self._watches
        try:
            return known and self._engine.address_of(channel) == address
        except StoreUnavailable:
            return False

    def confirmed(self, channel: bytes) -> None:
        """Note that the engine tells what happens from now on, and read again what did before."""
        anew = False
        with self._lock:
            watch = self._watches.get(channel)
            if watch is None or watch.confirmed:
                return
            watch.confirmed = True
            waiters, watch.waiters = watch.waiters, []
            # Those that were here before this are not among the waiters.
            anew = len(watch.subscribers) > len(waiters)
            if anew:
                self._anew.add(channel)
        for waiter in waiters:
            waiter.put(None)
        if anew:
            self.hurry()

    def unconfirmed(self, channels: Iterable[bytes]) -> None:
        """Note that the engine may not tell any more what happens."""
        with self._lock:
            for channel in channels:
                watch = self._watches.get(channel)
                if watch is not None:
                    watch.confirmed = False

    def notice(self, channel: bytes, payload: bytes) -> tuple[Wake, ...]:
        """Return whom a notice wakes."""
        with self._lock:
            watch = self._watches.get(channel)
            if watch is None:
                return ()
            account_id, mail = watch.account_id, watch.mail
            if mail and payload:
                # Of mail it is the number alone.
                kind = _KIND_OF.get(payload[:1], Kind.MAIL)
                last = payload if kind is Kind.MAIL else payload[1:]
                return watch.grown({kind: int(last)})
        if mail:
            return self.box_gone(account_id)
        self.ended(account_id)
        return self.sessions_ended(account_id, _tokens(payload))

    # --- for the thread that reads again

    def resubscribe(self) -> None:
        """Have everything subscribed to that is not: its server may be another by now."""
        with self._lock:
            channels = [each for each, watch in self._watches.items() if not watch.confirmed]
        for channel in channels:
            self.changed(channel)

    def moved(self, still: Callable[[bytes], bool]) -> None:
        """Have those channels subscribed to anew of which another server may have to be asked.

        Args:
            still: whether a channel is with the server that is subscribed to for it.
        """
        with self._lock:
            channels = list(self._watches)
        channels = [channel for channel in channels if not still(channel)]
        self.unconfirmed(channels)
        for channel in channels:
            self.changed(channel)

    def sweep(self) -> None:
        """Drop the watches that nobody was at the last time and this time."""
        dropped = []
        with self._lock:
            for channel, watch in list(self._watches.items()):
                if watch.subscribers or watch.waiters:
                    continue
                if watch.unused:
                    del self._watches[channel]
                    dropped.append(channel)
                watch.unused = True
        for channel in dropped:
            self.changed(channel)

    def read_again(self, *, everything: bool) -> None:
        """Wake those whose mailbox has grown, or whose mailbox or session is gone, unnoticed.

        Args:
            everything: or only what was subscribed to anew.
        """
        with self._lock:
            channels = list(self._watches) if everything else list(self._anew)
            self._anew.clear()
        for at in range(0, len(channels), _CHUNK):
            self._read_some(channels[at : at + _CHUNK])

    def read_sessions_again(self) -> None:
        """Wake those whose session has ended unnoticed."""
        with self._lock:
            channels = [each for each, watch in self._watches.items() if not watch.mail]
        for at in range(0, len(channels), _CHUNK):
            self._read_some(channels[at : at + _CHUNK])

    def _read_some(self, channels: list[bytes]) -> None:
        looked: list[tuple[Watch, list[bytes]]] = []
        with self._lock:
            for channel in channels:
                watch = self._watches.get(channel)
                if watch is not None and watch.subscribers:
                    tokens = {each.token for each in watch.subscribers.values() if each.token}
                    looked.append((watch, list(tokens)))
        calls = [
            self._last(watch.account_id) if watch.mail else self._open(watch.account_id, tokens)
            for watch, tokens in looked
        ]
        for (watch, open_ones), answer in zip(looked, self._engine.do_many(calls), strict=True):
            wake_all(self._seen(watch, open_ones, answer))

    def _seen(self, watch: Watch, tokens: list[bytes], answer: Any) -> tuple[Wake, ...]:
        """Return whom it wakes what was read of a watch."""
        if isinstance(answer, StoreUnavailable):
            return ()
        if not watch.mail:
            gone = [token for token, kept in zip(tokens, answer, strict=True) if kept is None]
            return self.sessions_ended(watch.account_id, gone)
        lasts = _lasts(answer)
        if lasts is None:
            return self.box_gone(watch.account_id)
        with self._lock:
            return watch.grown(lasts)

    def _last(self, account_id: str) -> Call:
        key = self._keys.box(account_id).first
        return plain(key, b"HMGET", key, b"l", b"s", b"d", b"m")

    def _open(self, account_id: str, tokens: list[bytes]) -> Call:
        key = self._keys.of(account_id, "k")
        return plain(key, b"HMGET", key, *tokens)


def _lasts(answer: Sequence[bytes | None]) -> Lasts | None:
    """Return the last seq of each kind, out of what a mailbox notes of them; None if it is gone."""
    if answer[0] is None:
        return None
    last, sent, receipt, before = (int(each or 0) for each in answer)
    mail = last if last > max(sent, receipt) else before
    return {Kind.MAIL: mail, Kind.SENT: sent, Kind.RECEIPT: receipt}


def _tokens(payload: bytes) -> list[bytes]:
    """Return the token hashes in a notice, each of which is LENGTH:HASH."""
    tokens = []
    while payload:
        length, _, rest = payload.partition(b":")
        tokens.append(rest[: int(length)])
        payload = rest[int(length) :]
    return tokens


def _nothing() -> None:
    """End a subscription that there is not."""
