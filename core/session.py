"""What the service knows of one caller, and the subscriptions that wake its watches."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from twinline.core.errors import AlreadyLoggedIn
from twinline.core.locks import new_lock
from twinline.core.store import SessionRecord, Store, Unsubscribe
from twinline.core.waiting import Waiter, WaiterGroup, Wake, Wakeable
from twinline.core.watches import Watches


@dataclass(frozen=True, slots=True)
class Subscription:
    """A waiter that is subscribed to all that ends a watch of a session.

    Attributes:
        waiter: what is woken.
        token_hash: of the session whose mail wakes it.
        subscriptions: what ends them.
    """

    waiter: Waiter
    token_hash: bytes = field(repr=False)
    subscriptions: tuple[Unsubscribe, ...]

    def close(self) -> None:
        """Unsubscribe the waiter."""
        end_all(self.subscriptions)


def end_all(subscriptions: Iterable[Unsubscribe]) -> None:
    """End subscriptions."""
    for unsubscribe in subscriptions:
        unsubscribe()


def subscribe(
    waiter: Wakeable,
    store: Store,
    record: SessionRecord,
    watches: Watches,
    *groups: WaiterGroup,
) -> tuple[Unsubscribe, ...]:
    """Have a waiter woken by all that ends a watch: mail, the end of the session or of a group.

    Returns:
        What ends the subscriptions.

    Raises:
        Busy: as many watches of the account wait as may.
    """
    subscriptions: tuple[Unsubscribe, ...] = (watches.enter(record.account_id),)
    try:
        subscriptions += (store.mailboxes.on_mail(record.account_id, waiter.wake),)
        subscriptions += (store.accounts.on_session_end(record.token_hash, waiter.wake),)
        for group in groups:
            subscriptions += (group.join(waiter),)
    except BaseException:
        end_all(subscriptions)
        raise
    return subscriptions


class Session:
    """What the service knows of one caller: a connection, or one user of an embedding server.

    A session is cheap. Make one for each connection or for each HTTP request, bind it with
    `ChatService.login`, `create_account` or `resume`, and pass it to everything else. Requests
    on one session may come from several threads.

    Attributes:
        address: where the caller comes from, for the throttle; "" when that is unknown.
        on_end: called when the session that it is bound to is revoked, or None.
        username: the account that it is logged in to, or None.
        token_hash: what the store knows the session by, or None.
        waiters: those of this session's threads that wait for mail.
    """

    __slots__ = (
        "_keep_subscription",
        "_kept",
        "_lock",
        "_unsubscribe",
        "address",
        "on_end",
        "token_hash",
        "username",
        "waiters",
    )

    def __init__(
        self, address: str = "", on_end: Wake | None = None, *, keep_subscription: bool = False
    ) -> None:
        """Make an anonymous session.

        Args:
            address: where the caller comes from.
            on_end: called when the session is revoked, from any thread; it must not block.
            keep_subscription: whether a watch leaves its subscriptions to the next one. For callers
                that watch again and again, and that say `ChatService.leave` in the end.
        """
        self.address = address
        self.username: str | None = None
        self.token_hash: bytes | None = None
        self.waiters = WaiterGroup("session")
        self.on_end = on_end
        self._keep_subscription = keep_subscription
        self._lock = new_lock("binding")
        # These are guarded by _lock, as are the writes of username and token_hash: what is
        # subscribed is always the session that it is bound to.
        self._unsubscribe: Unsubscribe | None = None  # of on_end
        self._kept: list[Subscription] = []  # for later watches

    @property
    def logged_in(self) -> bool:
        """Whether it is bound to an account; the account may be gone since."""
        return self.token_hash is not None

    def interrupt(self) -> None:
        """End the waits of this session, now and from now on: its caller has hung up.

        A watch that is interrupted replies with what there is: nothing.
        """
        self.waiters.end()

    def bind(self, record: SessionRecord, unsubscribe: Unsubscribe | None) -> None:
        """Log in; called by the service.

        Args:
            record: the session to be bound to.
            unsubscribe: what ends the subscription of ``on_end`` to that session's end.

        Raises:
            AlreadyLoggedIn: another thread was faster; nothing changes.
        """
        with self._lock:
            if self.token_hash is not None:
                raise AlreadyLoggedIn
            self.username = record.username
            self.token_hash = record.token_hash
            self._unsubscribe = unsubscribe
        if self.waiters.ended:
            self.unsubscribe()  # the caller left meanwhile, and nobody would do it later

    def unbind(self, token_hash: bytes) -> None:
        """Log out, unless another thread was faster; called by the service."""
        with self._lock:
            if self.token_hash != token_hash:
                return
            self.username = None
            self.token_hash = None
        self.unsubscribe()

    def unsubscribe(self) -> None:
        """Drop ``on_end`` and the subscriptions that were kept; called by the service."""
        with self._lock:
            unsubscribe, self._unsubscribe = self._unsubscribe, None
            kept, self._kept = self._kept, []
        if unsubscribe is not None:
            unsubscribe()
        for subscription in kept:
            subscription.close()

    def take_subscription(self, token_hash: bytes) -> Subscription | None:
        """Return a subscription that an earlier watch left; called by the service."""
        with self._lock:
            # Those that are kept are of the session that it is bound to.
            return self._kept.pop() if self._kept and token_hash == self.token_hash else None

    def leave_subscription(self, subscription: Subscription) -> None:
        """Keep a subscription for the next watch, or close it; called by the service."""
        if not self._keep_subscription:
            subscription.close()
            return
        with self._lock:
            keep = subscription.token_hash == self.token_hash
            if keep:
                self._kept.append(subscription)
        if not keep:
            subscription.close()
        elif self.waiters.ended:
            self.unsubscribe()  # the caller has left meanwhile, perhaps before it was kept

    def __repr__(self) -> str:
        return f"Session(address={self.address!r}, username={self.username!r})"
