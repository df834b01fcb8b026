"""What the service knows of one caller, and the subscriptions that wake its watches."""

from collections.abc import Iterable

from twinline.core.errors import AlreadyLoggedIn
from twinline.core.locks import new_lock
from twinline.core.store import SessionRecord, Store, Unsubscribe
from twinline.core.waiting import WaiterGroup, Wake, Wakeable
from twinline.core.watches import Watches


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
        on_mail: called when a watch of this caller is to look again, or None; see
            `ChatService.look`.
        username: the account that it is logged in to, or None.
        token_hash: what the store knows the session by, or None.
        unfollow: what ends the subscription of ``on_mail``, or None.
        waiters: those of this session's threads that wait for mail.
    """

    __slots__ = (
        "_lock",
        "_unsubscribe",
        "address",
        "on_end",
        "on_mail",
        "token_hash",
        "unfollow",
        "username",
        "waiters",
    )

    def __init__(
        self, address: str = "", on_end: Wake | None = None, on_mail: Wake | None = None
    ) -> None:
        """Make an anonymous session.

        Args:
            address: where the caller comes from.
            on_end: called when the session is revoked, from any thread; it must not block.
            on_mail: called when a watch of this caller is to look again, as `Wake` says.
        """
        self.address = address
        self.username: str | None = None
        self.token_hash: bytes | None = None
        self.waiters = WaiterGroup("session")
        self.on_end = on_end
        self.on_mail = on_mail
        self._lock = new_lock("binding")
        # These are guarded by _lock, as are the writes of username and token_hash: what is
        # subscribed is always the session that it is bound to.
        self._unsubscribe: Unsubscribe | None = None  # of on_end
        self.unfollow: Unsubscribe | None = None

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
        """Drop the subscriptions of ``on_end`` and ``on_mail``; called by the service."""
        with self._lock:
            subscriptions = (self._unsubscribe, self.unfollow)
            self._unsubscribe = self.unfollow = None
        end_all(each for each in subscriptions if each is not None)

    def follow(self, token_hash: bytes, unsubscribe: Unsubscribe) -> None:
        """Keep a subscription of ``on_mail`` for as long as it is bound; called by the service.

        Args:
            token_hash: of the session whose mail it is.
            unsubscribe: ends it; called at once if this caller has left, is bound to another
                session, or follows already.
        """
        with self._lock:
            keep = self.unfollow is None and token_hash == self.token_hash
            if keep:
                self.unfollow = unsubscribe
        if not keep:
            unsubscribe()
        elif self.waiters.ended:
            self.unsubscribe()  # the caller has left meanwhile, perhaps before it was kept

    def __repr__(self) -> str:
        return f"Session(address={self.address!r}, username={self.username!r})"
