"""How a thread connects to an endpoint; what a task does is in `client.backends`."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from select import POLLOUT, poll

from twinline.core.deadline import Deadline
from twinline.core.locks import may_block
from twinline.core.waiting import Waiter
from twinline.transports.endpoints import Endpoint
from twinline.transports.race import Connected, Race
from twinline.transports.resolver import Resolver

Guard = Callable[[Callable[[], object]], AbstractContextManager[object]]
"""Makes the context of a wait: while it is open another thread may call the function given."""


def _unguarded(_: Callable[[], object]) -> AbstractContextManager[object]:
    return nullcontext()


def connect(
    endpoint: Endpoint,
    deadline: Deadline,
    resolver: Resolver | None = None,
    guard: Guard = _unguarded,
) -> Connected:
    """Return a connected socket; it does not block.

    Args:
        endpoint: where to.
        deadline: for looking the name up and connecting.
        resolver: looks it up; None for one that is used once.
        guard: makes a context for each wait, within which another thread may end it.

    Raises:
        OSError: nothing listens there, or the deadline passed (TimeoutError).
    """
    may_block("connecting")
    deadline.timeout()
    resolver = resolver or Resolver()
    lookup = resolver.begin(endpoint)
    if not lookup.is_done:
        waiter = Waiter()
        with lookup.waking(waiter.wake), guard(waiter.wake):
            waiter.wait(deadline)
    with Race(resolver.order(lookup.take()), deadline) as race:
        while (connected := race.step()) is None:
            ended = poll()
            for each in race.sockets:
                ended.register(each, POLLOUT)
            with guard(race.shutdown):
                seconds = race.until.remaining()
                ended.poll(None if seconds is None else seconds * 1000)
    return connected
