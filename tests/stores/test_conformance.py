"""The store kit: every built-in keeps all its rules, and each seeded fault breaks one."""

import asyncio
import io
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import shared_memory
from seeded_faults_accounts import changes_then_ends
from seeded_faults_conversing import fails_between_the_two
from seeded_faults_nodes import (
    ALONE,
    TOGETHER,
    CachesSessionsForAMoment,
    SwallowsNotices,
    with_accounts,
)
from seeded_faults_stores import (
    BLOCKING,
    FAULTS,
    FORGETFUL,
    RESTORED,
    accounts,
    mailboxes,
    named,
    put_back,
    reopened,
)
from shared_memory import SharedNode, open_first, open_more
from sqlite_faults import Faults
from waiting import join

from twinline.core.conformance import check_rules, rule, rules_of
from twinline.core.store import Accounts, Mailboxes, MailboxPolicy, Store
from twinline.stores import conformance
from twinline.stores.conformance import (
    RULES,
    ConformanceError,
    ConformanceReport,
    account_races,
    bench,
    blocking,
    check_store,
    nodes,
    sending,
    sessions,
    states,
)
from twinline.stores.conformance.bench import StoreBench, Subject
from twinline.stores.memory import MemoryStore
from twinline.stores.registry import _SHARED, open_store, store_schemes
from twinline.stores.sqlite import SqliteStore
from twinline.stores.sqlite.upkeep import restore

NAMES = tuple(rule.name for rule in RULES)
DURABLE = {rule for _, rule in FORGETFUL}
PUT_BACK = {rule for _, rule in RESTORED}
FAILING = {"failed_writes_are_whole", "failed_copies_are_completed"}
FORKING = "a_child_harms_nobody"
SENDING = [rule.name for rule in rules_of(sending)]
STATES = {rule.name for rule in rules_of(states)}
NODES = {rule.name for rule in rules_of(nodes)}


@pytest.fixture(autouse=True)
def no_store_here_is_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_STALE_SECONDS", 0.05)
    monkeypatch.setattr(bench, "_SETTLE_SECONDS", 0.002)  # a wake here comes within its call


def in_memory(folder: Path) -> ConformanceReport:
    """Check the store in memory; what it keeps ends with it."""
    return check_store(partial(open_store, "memory:"))


def in_sqlite(folder: Path) -> ConformanceReport:
    """Check a store that keeps all it has in a file, and whose commits can fail."""
    numbers = count()
    opened: dict[Store, tuple[Path, MailboxPolicy, Faults]] = {}

    def open_at(path: Path, policy: MailboxPolicy) -> Store:
        faults = Faults()
        store = SqliteStore(path, policy, factory=faults.factory)
        opened[store] = path, policy, faults
        return store

    def reopen(store: Store) -> Store:
        store.close()
        path, policy, _ = opened[store]
        return open_at(path, policy)

    @contextmanager
    def failing(store: Store) -> Iterator[None]:
        opened[store][2].fail("COMMIT")
        yield

    def put_back(store: Store) -> Store:
        path, policy, _ = opened[store]
        store.close()
        target = folder / str(next(numbers))
        restore(path, target)
        return open_at(target, policy)

    return check_store(
        lambda policy: open_at(folder / str(next(numbers)), policy),
        reopen=reopen,
        failing=failing,
        put_back=put_back,
    )


BUILT_IN: dict[str, Callable[[Path], ConformanceReport]] = {
    "memory": in_memory,
    "sqlite": in_sqlite,
}


@pytest.mark.parametrize("scheme", BUILT_IN)
def test_a_built_in_store_keeps_every_rule(scheme: str, tmp_path: Path) -> None:
    report = BUILT_IN[scheme](tmp_path)
    forgotten = STATES | NODES  # they are of one process
    if scheme == "memory":
        forgotten |= DURABLE | PUT_BACK | FAILING | {"epochs_are_new"}
    assert report.rules == tuple(name for name in NAMES if name not in forgotten)
    assert {skipped.split()[2] for skipped in report.skipped} == {f"({one}):" for one in forgotten}
    assert report.checks > 1_000


def test_no_built_in_store_is_left_out() -> None:
    # Those that several servers may open are checked on their engines, in `shared`.
    assert set(store_schemes()) - _SHARED <= BUILT_IN.keys()


def test_with_a_reopening_every_rule_is_checked() -> None:
    rules = DURABLE | PUT_BACK
    report = check_store(MemoryStore, reopen=reopened, put_back=put_back, only=rules)
    assert set(report.rules) == rules
    assert report.skipped == ()


@pytest.mark.parametrize(
    ("broken", "rule"), FAULTS, ids=[f"{named(broken)}: {rule}" for broken, rule in FAULTS]
)
def test_a_seeded_fault_is_found(broken, rule: str) -> None:
    found = what_is_found(broken, rule)
    assert_found(found, rule)


def assert_found(found: ConformanceError, rule: str) -> None:
    (failure,) = found.failures
    assert failure.name == rule
    assert failure.evidence
    assert failure.sentence in str(found)
    # The fault was found, and not a mistake in how it was made.
    assert not re.search("unexpected (Type|Attribute|Name)Error", str(found))


def what_is_found(broken, rule: str, runs: int = 3, **ways) -> ConformanceError:
    """Return what the rule says of a store with a fault; a race may need more than one run."""
    for _ in range(runs):
        try:
            check_store(broken, only=[rule], wake_seconds=0.2, **ways)
        except ConformanceError as error:
            return error
    pytest.fail(f"the rule {rule} found nothing in {runs} runs")


SHARED = {"reopen": shared_memory.reopened, "put_back": shared_memory.put_back}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_shared_store_keeps_every_rule_over_one_node_and_several(count: int) -> None:
    over = {"open_nodes": open_more, "nodes": count} if count > 1 else {}
    report = check_store(open_first, **SHARED, **over)
    left_out = FAILING | (set() if over else NODES)
    assert set(NAMES) - set(report.rules) == left_out


def test_sessions_may_be_a_moment_behind_on_other_nodes() -> None:
    kind = with_accounts(CachesSessionsForAMoment)
    only = {rule.name for rule in rules_of(sessions, account_races, nodes)}
    report = check_store(
        partial(open_first, kind=kind),
        open_nodes=open_more,
        only=only - {"failed_writes_are_whole"},
    )
    assert set(report.rules) == only - {"failed_writes_are_whole"}


@pytest.mark.parametrize(("kind", "rule"), ALONE, ids=[f"{k.__name__}: {r}" for k, r in ALONE])
def test_a_fault_of_a_shared_store_is_found_on_one_node(kind, rule: str) -> None:
    assert_found(what_is_found(partial(open_first, kind=kind), rule, **SHARED), rule)


@pytest.mark.parametrize(
    ("kind", "rule"), TOGETHER, ids=[f"{k.__name__}: {r}" for k, r in TOGETHER]
)
def test_a_fault_between_nodes_is_found(kind: type[SharedNode], rule: str) -> None:
    opened = partial(open_first, kind=kind)
    assert_found(what_is_found(opened, rule, open_nodes=open_more, **SHARED), rule)


def test_deaf_nodes_keep_every_rule_while_each_is_alone() -> None:
    report = check_store(partial(open_first, kind=SwallowsNotices), **SHARED)
    assert set(NAMES) - set(report.rules) == NODES | FAILING


def test_every_node_is_closed() -> None:
    opened: list[Store] = []

    class Counting(SharedNode):
        def __init__(self, engine) -> None:
            super().__init__(engine)
            opened.append(self)

        def close(self) -> None:
            opened.remove(self)
            super().close()

    only = ["seqs_jump", "mail_survives", "nodes_have_one_policy", "nodes_close_alone"]
    check_store(
        partial(open_first, kind=Counting), **SHARED, open_nodes=open_more, nodes=3, only=only
    )
    assert not opened


def test_several_nodes_are_two_or_more() -> None:
    with pytest.raises(ValueError, match="two or more"):
        check_store(open_first, open_nodes=open_more, nodes=1)


@pytest.mark.parametrize(("forget", "rule"), FORGETFUL, ids=[one.__name__ for one, _ in FORGETFUL])
def test_what_a_reopened_store_forgot_is_found(forget, rule: str) -> None:
    reopen = partial(reopened, forget=forget)
    with pytest.raises(ConformanceError) as caught:
        check_store(MemoryStore, reopen=reopen, only=DURABLE, wake_seconds=0.2)
    found = {failure.name for failure in caught.value.failures}
    # One rule reopens a store with all that conversations are made of.
    assert {rule} <= found <= {rule, "conversations_survive"}


def test_a_write_that_fails_half_way_is_found() -> None:
    @contextmanager
    def failing(store: Store) -> Iterator[None]:
        vars(store.accounts)["failing"] = True
        yield
        vars(store.accounts)["failing"] = False

    with pytest.raises(ConformanceError, match="another password that fails leaves"):
        check_store(
            accounts(change_password=changes_then_ends),
            failing=failing,
            only="failed_writes_are_whole",
        )


def test_a_send_that_fails_half_way_is_found() -> None:
    @contextmanager
    def failing(store: Store) -> Iterator[None]:
        vars(store.mailboxes)["failing"] = True
        yield
        vars(store.mailboxes)["failing"] = False

    with pytest.raises(ConformanceError, match="the copies after a repeat"):
        check_store(
            mailboxes(append=fails_between_the_two),
            failing=failing,
            only="failed_copies_are_completed",
        )


@pytest.mark.parametrize(("fault", "rule"), RESTORED, ids=[one.__name__ for one, _ in RESTORED])
def test_what_is_wrong_with_a_store_that_was_put_back_is_found(fault, rule: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_store(MemoryStore, put_back=partial(put_back, jump=fault), only=[rule])
    assert [failure.name for failure in caught.value.failures] == [rule]
    assert "unexpected" not in str(caught.value) or "CursorInvalid" in str(caught.value)


class Inherited(MemoryStore):
    """What a store is that nobody has told of forks."""

    def forked(self) -> None:
        pass


class Hanging(MemoryStore):
    def forked(self) -> None:
        vars(self.mailboxes)["append"] = lambda *_: threading.Event().wait()


class Crashing(MemoryStore):
    def forked(self) -> None:
        vars(self.mailboxes)["append"] = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("broken", "evidence"),
    [
        (Inherited, "what was stored, by parent and children"),
        (Hanging, "the child's send took more than 0.2 s"),
        (Crashing, "should be 1, is -9"),
    ],
)
def test_a_store_that_a_forked_child_cannot_use_is_found(broken, evidence: str) -> None:
    with pytest.raises(ConformanceError, match=evidence) as caught:
        check_store(broken, only=[FORKING], wake_seconds=0.2)
    assert [failure.name for failure in caught.value.failures] == [FORKING]


def test_a_call_that_waits_once_may_have_waited_for_the_interpreter() -> None:
    waits = iter([True])

    def waits_once(half, was, account_id, draft):
        if next(waits, False):
            threading.Event().wait(0.0001)  # which is announced to no hook
        return was(account_id, draft)

    assert check_store(mailboxes(append=waits_once), only=BLOCKING).rules == (BLOCKING,)
    assert next(waits, None) is None


@pytest.mark.parametrize(
    ("blocks", "evidence"),
    [
        (False, "mailboxes.create waited for something in each of 5 calls"),
        (None, "blocks should be a bool, is None"),
    ],
)
def test_a_durable_store_that_says_it_does_not_block_is_found(
    blocks: bool | None, evidence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteStore, "blocks", blocks)
    numbers = count()
    with pytest.raises(ConformanceError, match=re.escape(evidence)):
        check_store(
            lambda policy: SqliteStore(tmp_path / f"{next(numbers)}", policy), only=BLOCKING
        )


def test_every_method_is_called_to_see_whether_it_blocks() -> None:
    with MemoryStore() as store:
        tried = StoreBench(Subject(lambda _policy: store), "0", wake_seconds=1, slow=False)
        called = []
        for name, call in blocking.calls(tried, store):
            call()
            called.append(name)
    methods = {f"accounts.{name}" for name in Accounts.__abstractmethods__}
    methods |= {f"mailboxes.{name}" for name in Mailboxes.__abstractmethods__}
    assert methods - set(called) == {"accounts.page"}


def test_every_rule_has_a_fault_that_breaks_it() -> None:
    broken = {rule for _, rule in FAULTS} | DURABLE | PUT_BACK
    broken |= {*FAILING, FORKING}
    broken |= {rule for _, rule in ALONE} | {rule for _, rule in TOGETHER}
    assert broken == set(NAMES)


def test_every_store_is_closed_and_each_rule_has_new_ones() -> None:
    opened: list[MemoryStore] = []
    closed: list[Store] = []

    class Closing(MemoryStore):
        def __init__(self, policy: MailboxPolicy) -> None:
            super().__init__(policy)
            opened.append(self)

        def close(self) -> None:
            closed.append(self)

    check_store(Closing, only=NAMES[:20])
    assert len(opened) >= 20
    assert sorted(map(id, opened)) == sorted(map(id, closed))


def test_a_store_that_does_not_open_is_told_and_nothing_hangs() -> None:
    def broken(policy: MailboxPolicy) -> Store:
        raise OSError("no such place")

    with pytest.raises(ConformanceError, match="OSError: no such place") as caught:
        check_store(broken)
    assert len(caught.value.failures) == len(RULES)


def test_what_a_store_raises_unasked_is_told_with_the_call() -> None:
    def raises(half, was, account_id, up_to, now):
        raise ZeroDivisionError

    with pytest.raises(ConformanceError, match=r"unexpected ZeroDivisionError.*, by `boxes\.ack\("):
        check_store(mailboxes(ack=raises), only=["mailboxes_begin_empty"])


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit])
def test_what_ends_a_thread_is_evidence(error: type[BaseException]) -> None:
    def ends(half, was, *_arguments):
        raise error

    with pytest.raises(ConformanceError) as caught:
        check_store(mailboxes(append=ends, read=ends), only=SENDING, wake_seconds=0.2)
    assert {failure.name for failure in caught.value.failures} == set(SENDING)
    assert error.__name__ in str(caught.value)


def test_a_rule_that_checks_nothing_does_not_hold() -> None:
    lazy = rule(1, "Nothing is looked at.")(lambda _checks, _bench: None)
    with pytest.raises(ConformanceError, match="nothing was checked"):
        check_rules("a store", [lazy], lambda _rule: io.BytesIO(), patience=5)


def test_a_store_need_not_tell_how_full_its_mailboxes_are() -> None:
    silent = mailboxes(depths=lambda _half, _was: None)
    report = check_store(silent, only=("depths_are_told", "mail_alone_counts"))
    assert report.rules == ("mail_alone_counts",)
    (skipped,) = report.skipped
    assert skipped.startswith("rule 95 (depths_are_told): ")


def test_one_name_is_a_name_and_no_list_of_letters() -> None:
    assert check_store(MemoryStore, only="accounts_are_found").rules == ("accounts_are_found",)


def test_a_store_that_hangs_is_given_up_with_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hangs(half, was, account_id):
        release.wait(30)
        return was(account_id)

    monkeypatch.setattr(conformance, "_PATIENCE_SECONDS", 0.1)
    with pytest.raises(
        ConformanceError, match=r"it does not end; after 0\.1 s it stands at"
    ) as caught:
        check_store(mailboxes(standing=hangs), only=["mailboxes_begin_empty", "accounts_are_found"])
    release.set()
    assert [failure.name for failure in caught.value.failures] == ["mailboxes_begin_empty"]
    assert "release.wait" in str(caught.value)
    for thread in threading.enumerate():
        if thread.name.startswith("rule "):
            join(thread)


def test_the_docstring_lists_every_rule() -> None:
    listed = re.sub(r"\n +", " ", conformance.__doc__ or "")
    for each in RULES:
        assert f"\n{each.number}. {each.sentence}\n" in listed
    assert [each.number for each in RULES] == list(range(1, len(RULES) + 1))
