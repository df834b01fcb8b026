"""What the tests of the in-memory store ask for, asked of the SQLite store.

The tests are not written twice: their modules are loaded once more, with stores that are in files.
Those that look inside the in-memory store are left out.
"""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from twinline.core.store import MailboxPolicy, Store
from twinline.stores.sqlite import SqliteStore
from twinline.stores.sqlite.accounts import SqliteAccounts
from twinline.stores.sqlite.file import Synchronous

OPENED: list[tuple[SqliteStore, "tempfile.TemporaryDirectory[str]"]] = []
LOOK_INSIDE = {
    "test_what_the_store_promises",
    "test_the_halves_cannot_reach_each_other",
    "test_the_comparison_that_decides_takes_constant_time",
    "test_what_has_ended_leaves_nothing_behind",
    "test_with_no_history_a_message_goes_with_its_ack",
    "test_acks_of_one_moment_are_one_mark_and_marks_go_with_their_messages",
    "test_a_send_id_that_is_used_anew_waits_behind_the_others",
    "test_send_ids_can_be_forgotten_at_once",
    "test_forgetting_costs_each_send_the_same_and_keeps_up",
    "test_no_session_outlives_an_account_that_is_withdrawn_meanwhile",
    "test_watchers_that_come_and_go_while_mail_arrives_leave_nothing_behind",
    "test_the_list_of_seqs_stays_as_short_as_the_mailbox",
    "test_cutting_the_list_of_seqs_moves_each_seq_a_bounded_number_of_times",
    "test_reading_at_a_position_touches_its_page_alone",
    "test_reading_backwards_touches_its_page_alone",
    "test_reading_over_what_was_deleted_touches_its_page_alone",
    "test_pages_follow_each_other_without_gap_or_repeat",
    "test_a_page_by_prefix_looks_at_no_more_names_than_it_returns",
    "test_a_prefix_that_few_have_costs_what_they_cost",
    "test_an_exact_pattern_is_looked_up",
    "test_a_scan_takes_the_lock_for_one_chunk_at_a_time",
    "test_others_go_on_while_names_are_matched",
    "test_a_scan_goes_on_in_what_the_set_has_become",
}


def open_store(policy: MailboxPolicy | None = None) -> SqliteStore:
    folder = tempfile.TemporaryDirectory()
    place = Path(folder.name) / "s.db"
    store = SqliteStore(place, policy or MailboxPolicy(), synchronous=Synchronous.NORMAL)
    OPENED.append((store, folder))
    return store


def open_accounts() -> SqliteAccounts:
    return open_store().accounts


def boxes_with(**policy: float) -> Any:
    boxes = open_store(MailboxPolicy.model_validate(policy)).mailboxes
    for account_id in ("ann", "bob"):
        boxes.create(account_id)
    return boxes


@pytest.fixture(autouse=True)
def closing_what_was_opened() -> Iterator[None]:
    yield
    while OPENED:
        store, folder = OPENED.pop()
        store.close()
        folder.cleanup()


@pytest.fixture
def boxes() -> Any:
    return boxes_with()


@pytest.fixture
def accounts() -> SqliteAccounts:
    return open_accounts()


def over_sqlite(name: str) -> ModuleType:
    """Return a copy of a test module that opens SQLite stores."""
    spec = importlib.util.spec_from_file_location(
        f"{name.replace('/', '_')}_sqlite", Path(__file__).parents[1] / f"{name}.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    replacements: dict[str, Callable[..., Store | Any]] = {
        "MemoryStore": open_store,
        "MemoryAccounts": open_accounts,
        "boxes_with": boxes_with,
    }
    for attribute, replacement in replacements.items():
        if hasattr(module, attribute):
            setattr(module, attribute, replacement)
    if hasattr(module, "ROUNDS"):
        module.ROUNDS = 6  # type: ignore[attr-defined]  # each round opens a file
    return module


def all_over_sqlite() -> dict[str, Any]:
    """Return the tests by a name that says where each is from."""
    modules = (
        "memory/test_accounts",
        "memory/test_history",
        "memory/test_mailboxes",
        "memory/test_send_ids",
        "memory/test_sessions",
        "test_races",
    )
    return {
        f"test_{module.partition('test_')[2]}__{name.removeprefix('test_')}": test
        for module in modules
        for name, test in vars(over_sqlite(module)).items()
        if name.startswith("test_") and name not in LOOK_INSIDE
    }


globals().update(all_over_sqlite())
