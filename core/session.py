"""What the service knows of one caller, and the subscriptions that wake its watches.

An idle user is two connections, each with a session, and one of them with a subscription. So both
are small: their parts are in slots, and what they do not have yet takes no room.
"""

from twinline.core.admission import Entry
from twinline.core.certificates import Certificate
from twinline.core.errors import AlreadyLoggedIn
from twinline.core.locks import Lock, new_lock
from twinline.core.protocol import Kinds
from twinline.core.store import SessionKey, SessionRecord, Store, Unsubscribe
from twinline.core.waiting import Wake, Wakeable, wake_all
from twinline.core.watches import Watches, without


class Subscription:
    """Has a watch woken by all that ends it, until the subscription is called.

    It is woken by entries of its kinds, by the end of its session, by `Session.interrupt` and by
    `Watches.end`.

    Attributes:
        wake: wakes the watch.
    """

    __slots__ = ("_account_id", "_caller", "_of_end", "_of_mail", "_watches", "wake")

    def __init__(
        self,
        caller: "Session",
        record: SessionRecord,
        store: Store,
        watches: Watches,
        wake: Wake,
        *,
        kinds: Kinds,
    ) -> None:
        """Subscribe.

        Args:
            caller: whose watch it is.
            record: the session that the watch is of.
            store: where that is.
            watches: those that wait.
            wake: wakes the watch.
            kinds: the entries that wake it.

        Raises:
            Busy: as many watches of the account wait as may.
        """
        self.wake = wake
        self._caller = caller
        self._account_id = record.account_id
        self._watches = watches
        self._of_mail: Unsubscribe | None = None
        self._of_end: Unsubscribe | None = None
        watches.enter(record.account_id, self)
        try:
            self._of_mail = store.mailboxes.on_mail(record.account_id, wake, kinds)
            self._of_end = store.accounts.on_session_end(record.key, wake)
            caller.join(self)
        except BaseException:
            self()
            raise

    def __call__(self) -> None:
        """End it; harmless when repeated."""
        self._watches.leave(self._account_id, self)
        if self._of_mail is not None:
            self._of_mail()
        if self._of_end is not None:
            self._of_end()
        self._caller.part(self)


class Session:
    """What the service knows of one caller: a connection, or one user of an embedding server.

    A session is cheap. Make one for each connection or for each HTTP request, bind it with
    `ChatService.login`, `create_account` or `resume`, and pass it to everything else. Requests
    on one session may come from several threads.

    Attributes:
        address: where the caller comes from, for the throttle; "" when that is unknown.
        certificate: the caller's, that names an account, or None. Whoever has verified it sets it,
            for `ChatService.login_certificate`.
        on_end: called when the session that it is bound to is revoked, or None.
        on_mail: called when a watch of this caller is to look again, or None; see
            `ChatService.look`.
        username: the account that it is logged in to, or None.
        key: what the store knows the session by, or None.
        followed: the kinds of entries that ``on_mail`` is subscribed to, or None.
        entry: of a login that waits in a queue of the caller's own, or None; see
            `ChatService.queue`.
        interrupted: whether `interrupt` was called.
    """

    __slots__ = (
        "_lock",
        "_unfollow",
        "_unsubscribe",
        "_watches",
        "address",
        "certificate",
        "entry",
        "followed",
        "interrupted",
        "key",
        "on_end",
        "on_mail",
        "username",
    )

    def __init__(
        self,
        address: str = "",
        on_end: Wake | None = None,
        on_mail: Wake | None = None,
        *,
        lock: Lock | None = None,
    ) -> None:
        """Make an anonymous session.

        Args:
            address: where the caller comes from.
            on_end: called when the session is revoked, from any thread; it must not block.
            on_mail: called when a watch of this caller is to look again, as `Wake` says.
            lock: guards its state; it may be one for many sessions. None for one of its own.
        """
        self.address = address
        self.certificate: Certificate | None = None
        self.entry: Entry | None = None
        self.username: str | None = None
        self.key: SessionKey | None = None
        self.on_end = on_end
        self.on_mail = on_mail
        self._lock = new_lock("binding") if lock is None else lock
        self._watches: tuple[Wakeable, ...] = ()  # those that wait; guarded by _lock
        self.interrupted = False  # written under _lock
        # These are guarded by _lock, as are the writes of username and key: what is
        # subscribed is always the session that it is bound to.
        self._unsubscribe: Unsubscribe | None = None  # of on_end
        self._unfollow: Unsubscribe | None = None  # of on_mail
        self.followed: Kinds | None = None

    @property
    def logged_in(self) -> bool:
        """Whether it is bound to an account; the account may be gone since."""
        return self.key is not None

    def interrupt(self) -> None:
        """End the waits of this session, now and from now on: its caller has hung up.

        A watch that is interrupted replies with what there is: nothing.
        """
        with self._lock:
            self.interrupted = True
            watches = self._watches
        wake_all(watch.wake for watch in watches)

    def join(self, watch: Wakeable) -> None:
        """Let `interrupt` wake a watch from now on, or at once if it was called already."""
        with self._lock:
            self._watches = (*self._watches, watch)
            interrupted = self.interrupted
        if interrupted:
            wake_all((watch.wake,))

    def part(self, watch: Wakeable) -> None:
        """Let `interrupt` wake a watch no more; harmless when repeated."""
        with self._lock:
            self._watches = without(watch, self._watches)

    def bind(self, record: SessionRecord, unsubscribe: Unsubscribe | None) -> None:
        """Log in; called by the service.

        Args:
            record: the session to be bound to.
            unsubscribe: what ends the subscription of ``on_end`` to that session's end.

        Raises:
            AlreadyLoggedIn: another thread was faster; nothing changes.
        """
        with self._lock:
            if self.key is not None:
                raise AlreadyLoggedIn
            self.username = record.username
            self.key = record.key
            self._unsubscribe = unsubscribe
        if self.interrupted:
            self.unsubscribe()  # the caller left meanwhile, and nobody would do it later

    def unbind(self, key: SessionKey) -> None:
        """Log out, unless another thread was faster; called by the service."""
        with self._lock:
            if self.key != key:
                return
            self.username = None
            self.key = None
        self.unsubscribe()

    def unsubscribe(self) -> None:
        """Drop the subscriptions of ``on_end`` and ``on_mail``; called by the service."""
        with self._lock:
            subscriptions = (self._unsubscribe, self._unfollow)
            self._unsubscribe = self._unfollow = self.followed = None
        for unsubscribe in subscriptions:
            if unsubscribe is not None:
                unsubscribe()

    def follow_no_more(self) -> None:
        """Drop the subscription of ``on_mail``, for one of other kinds; called by the service."""
        with self._lock:
            unsubscribe = self._unfollow
            self._unfollow = self.followed = None
        if unsubscribe is not None:
            unsubscribe()

    def follow(self, key: SessionKey, kinds: Kinds, unsubscribe: Unsubscribe) -> None:
        """Keep a subscription of ``on_mail`` for as long as it is bound; called by the service.

        Args:
            key: of the session whose mail it is.
            kinds: of the entries that it is of.
            unsubscribe: ends it; called at once if this caller has left, is bound to another
                session, or follows already.
        """
        with self._lock:
            keep = self.followed is None and key == self.key
            if keep:
                self._unfollow = unsubscribe
                self.followed = kinds
        if not keep:
            unsubscribe()
        elif self.interrupted:
            self.unsubscribe()  # the caller has left meanwhile, perhaps before it was kept

    def __repr__(self) -> str:
        return f"Session(address={self.address!r}, username={self.username!r})"
