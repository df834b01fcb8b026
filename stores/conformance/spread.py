"""Several nodes of one state as one store: each call goes to another node.

What one node knows another must then learn, or some rule sees that it has not. A subscription
stays on the node that it was made on.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from random import Random
from typing import Any, cast

from twinline.core.store import Accounts, Health, Mailboxes, MailboxPolicy, SharedStates, Store


class SpreadStore(Store):
    """Nodes of one state, one of which gets each call.

    Attributes:
        nodes: all of them; the first one was opened first.
        policy: of the state.
    """

    def __init__(self, nodes: Sequence[Store], policy: MailboxPolicy, random: Random) -> None:
        first = nodes[0]
        self.nodes = tuple(nodes)
        self.policy = policy
        self.durability = first.durability
        self.blocks = first.blocks
        self._random = random
        self.accounts = cast("Accounts", _Spread([node.accounts for node in nodes], random))
        self.mailboxes = cast("Mailboxes", _Spread([node.mailboxes for node in nodes], random))
        if first.states is not None:
            states = [node.states for node in nodes]
            self.states = cast("SharedStates", _Spread(states, random))

    def health(self) -> Health:
        """Ask one of the nodes."""
        return self._random.choice(self.nodes).health()

    def close(self) -> None:
        """Close all nodes, the first one last, whatever one of them raises."""
        with ExitStack() as closing:
            for node in self.nodes:
                closing.callback(node.close)


class _Spread:
    """The same part of each node; a method that is called is called of one of them."""

    def __init__(self, parts: Sequence[object], random: Random) -> None:
        self._parts = parts
        self._random = random

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._parts[0], name):
            raise AttributeError(name)

        # Chosen by each call: a rule may keep the method, and call it many times.
        def call(*arguments: Any, **options: Any) -> Any:
            return getattr(self._random.choice(self._parts), name)(*arguments, **options)

        return call
