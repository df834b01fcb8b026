"""The store in Valkey or Redis, which any number of servers share."""

import json
import secrets
from typing import Any, Final, Self

from twinline.core.errors import StoreUnavailable
from twinline.core.forks import refuse_calls, watch_forks
from twinline.core.store import Durability, Health, MailboxPolicy, OnCommit, Store
from twinline.stores.shared.opening import SchemaTooNew, StoreNotOpened
from twinline.stores.valkey.account_scripts import AccountScripts
from twinline.stores.valkey.accounts import ValkeyAccounts
from twinline.stores.valkey.box_scripts import BoxScripts
from twinline.stores.valkey.chores import Chores, see
from twinline.stores.valkey.engine import Engine
from twinline.stores.valkey.invitations import Invitations
from twinline.stores.valkey.keys import ALIVE_MS, FORMAT, Keys, format_text
from twinline.stores.valkey.lane import plain
from twinline.stores.valkey.links import Links
from twinline.stores.valkey.mailboxes import ValkeyMailboxes
from twinline.stores.valkey.pending import GRACE_SECONDS, Pending, script_call
from twinline.stores.valkey.states import ValkeyStates
from twinline.stores.valkey.tracing import TraceScripts, Tracing
from twinline.stores.valkey.url import Target, parse_url
from twinline.stores.valkey.watches import Watches

_DEFAULT_POLICY: Final = MailboxPolicy()
_HEALTH_SECONDS: Final = 2.0


class ValkeyStore(Store):
    """Everything in Valkey or Redis: one engine, or the primaries of a cluster.

    Attributes:
        target: where it is.
    """

    shared = True

    def __init__(
        self,
        target: Target,
        policy: MailboxPolicy = _DEFAULT_POLICY,
        *,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """Open the store of a target; what is not there yet begins empty.

        Args:
            target: where it is.
            policy: how much its mailboxes keep; the same for every server that uses it.
            grace_seconds: how old what is left of a creation or a deletion must be before it is
                finished.

        Raises:
            SchemaTooNew: a later version of this program has written it.
            StoreNotOpened: the engine does not answer, promises less than is asked for, or may
                throw mail away; or another server uses the store with another policy.
        """
        self.target = target
        self._policy = policy
        self._node = secrets.token_hex(8).encode()
        self._keys = keys = Keys(target.prefix)
        self._account_scripts = account_scripts = AccountScripts()
        box_scripts = BoxScripts(policy)
        trace_scripts = TraceScripts()
        scripts = (*account_scripts.all, *box_scripts.all, *trace_scripts.all)
        self._engine = engine = Engine(target, scripts)
        try:
            engine.open()
            self._join(opening=True)
            opened_at = self._time()
        except StoreUnavailable as error:
            engine.close()
            raise StoreNotOpened(f"{target.place}: {error}") from error
        except BaseException:
            engine.close()
            raise
        self._watches = watches = Watches(engine, keys)
        self._links = links = Links(target, engine, watches)
        watches.changed = links.changed
        pending = Pending(engine, keys, account_scripts, grace_seconds)
        invitations = Invitations(engine, keys, account_scripts, grace_seconds)
        tracing = Tracing(engine, keys, trace_scripts)
        self.states: ValkeyStates = ValkeyStates(engine, keys, account_scripts)
        self.accounts: ValkeyAccounts = ValkeyAccounts(
            engine, keys, account_scripts, watches, pending, invitations=invitations
        )
        self.mailboxes: ValkeyMailboxes = ValkeyMailboxes(
            engine,
            keys,
            box_scripts,
            watches,
            pending,
            tracing=tracing,
            policy=policy,
        )
        self._chores = Chores(
            engine,
            watches,
            links,
            join=self._join,
            pending=pending,
            follow_up=lambda: pending.follow_up(self.mailboxes.drop, opened_at),
            settle=invitations.settle,
        )
        self._chores.start()
        watch_forks(self)

    @classmethod
    def open(cls, url: str, policy: MailboxPolicy = _DEFAULT_POLICY) -> Self:
        """Open the store that a URL names.

        Raises:
            StoreNotOpened: the URL is wrong, or the store cannot be opened.
        """
        return cls(parse_url(url), policy)

    @property
    def durability(self) -> Durability:  # type: ignore[override] # it may change
        """What an acknowledged write survives by the engine's settings, as they were read last."""
        return self._engine.durability

    def health(self) -> Health:
        """Ask every server of the engine how it is; see `Store.health`."""
        peers = self._engine.peers()
        for peer in peers:
            see(self._engine, peer, _HEALTH_SECONDS)
        why = self._engine.refusal
        if why is not None:
            raise StoreUnavailable(why)
        greetings = self._engine.greetings()
        offsets = [greeting.clock_offset_ms for greeting in greetings]
        ids = sorted(greeting.replication_id.decode() for greeting in greetings)
        return Health(
            self.durability,
            epoch=",".join(ids),
            clock_offset_ms=max(offsets, key=abs, default=0),
            lag_seconds=self._links.silence(),
        )

    def on_commit(self, call: OnCommit) -> None:
        """Have ``call`` called after each pipeline of writes; see `Store.on_commit`."""
        self._engine.on_commit(call)

    def close(self) -> None:
        """Send what waits, end the threads, and let go of the engine."""
        self._chores.close()
        self._links.close()
        nodes = self._keys.nodes
        self._engine.post(plain(nodes, b"ZREM", nodes, self._node, writes=True))
        self._engine.close()

    def forked(self) -> None:
        """Refuse every call in a forked child: the threads and connections are the parent's."""
        self._engine.forked()
        refuse_calls(self.accounts)
        refuse_calls(self.mailboxes)
        refuse_calls(self.states)

    def _time(self) -> int:
        """Return the engine's time, in ms."""
        seconds, microseconds = self._engine.do(plain(self._keys.store, b"TIME"))
        return int(seconds) * 1000 + int(microseconds) // 1000

    def _join(self, *, opening: bool = False) -> None:
        """Say that this server uses the store, and see that it is what this server takes it for."""
        text = json.dumps(self._policy.model_dump(mode="json"), sort_keys=True)
        answer: Any = self._engine.do(
            script_call(
                self._account_scripts.join,
                (self._keys.store, self._keys.nodes, self._keys.held),
                (text.encode(), b"%d" % FORMAT, self._node, b"%d" % ALIVE_MS),
                # Asked though writes are refused: it may be what ends that.
                writes=False,
            )
        )
        outcome, found = answer
        why = None
        if outcome == -1:
            why = format_text("the store", int(found))
        elif outcome == -2:
            why = _policy_text(json.loads(found), json.loads(text))
        elif outcome == -3:
            why = (
                f"the store is the unfinished copy of {found.decode()}; have it finished by saying "
                "the same 'twinline store copy' once more, or take another prefix"
            )
        elif outcome == -4:
            why = "a command of 'twinline store' has the store to itself; wait until that ends"
        if why is not None and opening:
            too_new = outcome == -1 and int(found) > FORMAT
            raise SchemaTooNew(why) if too_new else StoreNotOpened(why)
        self._engine.refuse("policy", why)


def _policy_text(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    other = ", ".join(
        f"{name} {theirs.get(name)!r} (here {to!r})"
        for name, to in sorted(ours.items())
        if theirs.get(name) != to
    )
    return (
        f"another server uses the store with another policy: {other}; all must have the same, and "
        "it is changed while none uses the store"
    )
