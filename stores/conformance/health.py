"""Rules 74 and 75 of the store kit: what a store says of how it is."""

from twinline.core.conformance import Checks, rule
from twinline.core.store import CLOCK_REFUSE_MS, Durability, Health
from twinline.stores.conformance.bench import StoreBench


@rule(74, "A store's health tells how durable it is, as it said, and an epoch that stays.")
def health_is_told(checks: Checks, bench: StoreBench) -> None:
    """Ask again and again, of every node, with a message between."""
    store = bench.store()
    epochs = set()
    for _ in range(6):
        health = store.health()
        if not checks.that(isinstance(health, Health), f"the health is {health!r}"):
            return
        checks.equal(health.durability, store.durability, "the durability that health() tells")
        checks.that(isinstance(health.durability, Durability), "it is no Durability")
        checks.that(isinstance(health.epoch, str), f"the epoch is {health.epoch!r}, and no text")
        ahead = abs(health.clock_offset_ms)
        checks.that(ahead < CLOCK_REFUSE_MS, f"the clock should be {ahead} ms off")
        heard = 0 <= health.lag_seconds <= bench.wake_seconds
        checks.that(heard, f"the others were not heard for {health.lag_seconds} s")
        epochs.add(health.epoch)
        bench.mailbox(store, messages=1)
    checks.equal(len(epochs), 1, "how many epochs a store has that was not put back")


@rule(
    75, "When a store was put back its epoch is another one, the same for all, and new each time."
)
def epochs_are_new(checks: Checks, bench: StoreBench) -> None:
    """Put a store back twice, and ask."""
    store = bench.store()
    epochs = [store.health().epoch]
    for _ in range(2):
        bench.mailbox(store, messages=1)
        store = bench.put_back(store)
        seen = {store.health().epoch for _ in range(6)}
        checks.equal(len(seen), 1, "how many epochs are told of a store that was put back")
        epochs += seen
    checks.equal(len(set(epochs)), len(epochs), f"how many of these epochs differ: {epochs},")
