"""The same calls of the stores in memory and in SQLite, and of two nodes: the same answers."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from differing import POLICIES, compare
from seeded_faults_accounts import (
    forgets_must_change,
    forgets_touches,
    lists_the_oldest_first,
    spends_nothing,
    takes_underscores_for_any_character,
)
from seeded_faults_conversing import (
    completes_nothing,
    counts_all_as_unread,
    ignores_the_peer,
    refuses_repeats,
    sees_its_page_alone,
    takes_any_receipt,
    tells_the_newest_of_all,
)
from seeded_faults_mailboxes import (
    counts_acked_mail,
    counts_characters,
    looks_only_at_the_id,
    raises_the_quota_alone,
    reads_then_acks,
    tells_more_by_the_limit,
    traces_the_last_ack,
    traces_what_is_there,
)
from seeded_faults_stores import (
    accounts,
    keeps_send_ids_for_ever,
    mailboxes,
    named,
    with_any_number_of_send_ids,
    without_history_age,
)
from shared_memory import open_first, open_more

from twinline.core.store import Store
from twinline.stores.conformance.spread import SpreadStore
from twinline.stores.memory import MemoryStore
from twinline.stores.sqlite import SqliteStore, Synchronous

Stores = dict[str, dict[str, Store]]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """Of each policy the stores, with that in memory first."""
    folder: Path = tmp_path_factory.mktemp("differing")
    with ExitStack() as opened:
        by_policy: Stores = {}
        for name, policy in POLICIES.items():
            first = open_first(policy)
            nodes = SpreadStore([first, *open_more(first, policy, 1)], policy, Random(1))
            sqlite = SqliteStore(folder / name, policy, synchronous=Synchronous.NORMAL)
            kept = {"memory": MemoryStore(policy), "sqlite": sqlite, "two nodes": nodes}
            by_policy[name] = {key: opened.enter_context(each) for key, each in kept.items()}
        yield by_policy


@pytest.mark.parametrize("name", POLICIES)
def test_all_stores_answer_alike(stores: Stores, name: str) -> None:
    compare(stores[name], POLICIES[name], range(60))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("small", mailboxes(append=counts_acked_mail)),
        ("small", mailboxes(append=looks_only_at_the_id)),
        ("small", mailboxes(read=tells_more_by_the_limit)),
        ("small", mailboxes(look=reads_then_acks)),
        ("small", keeps_send_ids_for_ever),
        ("few send_ids", with_any_number_of_send_ids),
        ("ageing", without_history_age),
        ("small", accounts(touch_session=forgets_touches)),
        ("small", accounts(page=takes_underscores_for_any_character)),
        ("small", accounts(sessions=lists_the_oldest_first)),
        ("small", accounts(change_password=forgets_must_change)),
        ("small", accounts(create=spends_nothing)),
        ("small", mailboxes(set_quota=raises_the_quota_alone)),
        ("small", mailboxes(usage=counts_characters)),
        ("few of a sender", mailboxes(trace=traces_the_last_ack)),
        ("small", mailboxes(trace=traces_what_is_there)),
        ("small", mailboxes(append=completes_nothing)),
        ("small", mailboxes(append=refuses_repeats)),
        ("small", mailboxes(read=sees_its_page_alone)),
        ("small", mailboxes(history=ignores_the_peer)),
        ("small", mailboxes(conversations=counts_all_as_unread)),
        ("small", mailboxes(ack=tells_the_newest_of_all)),
        ("small", mailboxes(put_receipt=takes_any_receipt)),
    ],
    ids=lambda each: each if isinstance(each, str) else named(each),
)
def test_a_store_that_answers_otherwise_is_found(name: str, fault) -> None:
    policy = POLICIES[name]
    pair = {"memory": MemoryStore(policy), "another": fault(policy)}
    with pytest.raises(AssertionError, match="another: "):
        compare(pair, policy, range(60))
