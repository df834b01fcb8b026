"""The store in memory with one fault each, for the store kit to find."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import seeded_faults_accounts as by_accounts
import seeded_faults_conversing as by_talk
import seeded_faults_mailboxes as by_mailboxes

from twinline.core.store import SEQ_JUMP, Durability, Health, Invitation, MailboxPolicy, SessionKey
from twinline.stores.memory import MemoryStore
from twinline.stores.memory.accounts import _Session
from twinline.stores.memory.mailbox import Mailbox

Open = Callable[[MailboxPolicy], MemoryStore]
BLOCKING = "a_store_that_does_not_block_waits_for_nothing"


def accounts(**faults: Callable[..., Any]) -> Open:
    """Return what opens a store with faults in its accounts."""
    return partial(_opened, "accounts", faults)


def mailboxes(**faults: Callable[..., Any]) -> Open:
    """Return what opens a store with faults in its mailboxes."""
    return partial(_opened, "mailboxes", faults)


def _opened(half: str, faults: dict[str, Callable[..., Any]], policy: MailboxPolicy) -> MemoryStore:
    store = MemoryStore(policy)
    target = getattr(store, half)
    for name, fault in faults.items():
        setattr(target, name, partial(fault, target, getattr(target, name)))
    return store


def drops_the_mailbox_too(store: MemoryStore, was, account_id, *, keep_name):
    store.mailboxes.drop(account_id)
    return was(account_id, keep_name=keep_name)


def cascading(policy: MailboxPolicy) -> MemoryStore:
    """Open a store whose accounts take their mailboxes with them."""
    store = MemoryStore(policy)
    was = store.accounts.withdraw
    store.accounts.withdraw = partial(drops_the_mailbox_too, store, was)  # type: ignore[method-assign]
    return store


def keyed_by_name(policy: MailboxPolicy) -> MemoryStore:
    """Open a store in which a mailbox belongs to a name, whoever has it."""
    store = MemoryStore(policy)
    create, boxes = store.accounts.create, store.mailboxes._boxes
    by_name: dict[str, Mailbox] = {}

    def created(account):
        create(account)
        if account.account_id in boxes:
            mine = by_name.setdefault(account.username, boxes[account.account_id])
            boxes[account.account_id] = mine

    store.accounts.create = created  # type: ignore[method-assign]
    return store


def keeps_send_ids_for_ever(policy: MailboxPolicy) -> MemoryStore:
    return MemoryStore(policy.model_copy(update={"send_id_hours": 10**6}))


def with_any_number_of_send_ids(policy: MailboxPolicy) -> MemoryStore:
    more = {"send_ids_per_mailbox": 10**6, "send_ids_per_sender": 10**6}
    return MemoryStore(policy.model_copy(update=more))


def without_quota(policy: MailboxPolicy) -> MemoryStore:
    return MemoryStore(policy.model_copy(update={"mailbox_messages": 10**6}))


def without_history_size(policy: MailboxPolicy) -> MemoryStore:
    return MemoryStore(policy.model_copy(update={"history_messages": 10**6}))


def with_a_file_beside_it(policy: MailboxPolicy) -> MemoryStore:
    """Open a store that goes on reading a file that it has opened before."""
    store = MemoryStore(policy)
    find = store.accounts.find_session
    file = Path(__file__).open("rb", buffering=0)  # noqa: SIM115 - the kit closes the store
    vars(store)["close"] = file.close

    def reads(key: SessionKey):
        file.seek(0)
        file.read(1)
        return find(key)

    store.accounts.find_session = reads  # type: ignore[method-assign]
    return store


def without_history_age(policy: MailboxPolicy) -> MemoryStore:
    return MemoryStore(policy.model_copy(update={"history_days": 10**6}))


def with_another_durability(policy: MailboxPolicy) -> MemoryStore:
    return _with_health(policy, lambda: Health(Durability.REPLICATED))


def with_an_epoch_each_time(policy: MailboxPolicy) -> MemoryStore:
    epochs = count()
    return _with_health(policy, lambda: Health(Durability.PROCESS, f"{next(epochs)}"))


def far_from_its_clock(policy: MailboxPolicy) -> MemoryStore:
    return _with_health(policy, lambda: Health(Durability.PROCESS, clock_offset_ms=-40_000))


def _with_health(policy: MailboxPolicy, health: Callable[[], Health]) -> MemoryStore:
    store = MemoryStore(policy)
    vars(store)["health"] = health
    return store


def wakes_under_a_plain_lock(policy: MailboxPolicy) -> MemoryStore:
    """Open a store whose lock does not check the rule."""
    store = _opened("mailboxes", {"append": by_mailboxes.in_the_lock}, policy)
    store.mailboxes._lock = threading.RLock()
    return store


def reopened(
    store: MemoryStore, forget: Callable[[MemoryStore], object] = lambda store: None
) -> MemoryStore:
    """Return another store with what one kept, less what is forgotten: a restart in memory."""
    again = MemoryStore()
    for name in (
        "_by_name",
        "_by_id",
        "_names",
        "_reserved",
        "_tokens",
        "_profiles",
        "_addresses",
        "_invitations",
    ):
        setattr(again.accounts, name, getattr(store.accounts, name))
    sessions = store.accounts._sessions
    again.accounts._sessions = {token: _Session(one.record) for token, one in sessions.items()}
    for name in ("_limits", "_boxes", "_expiring"):
        setattr(again.mailboxes, name, getattr(store.mailboxes, name))
    boxes = again.mailboxes._boxes
    orphans = {each: boxes.pop(each) for each in boxes.keys() - again.accounts._by_id.keys()}
    vars(again)["orphans"] = orphans
    for box in again.mailboxes._boxes.values():
        box.watchers = box.others = None
    again.incarnation = None
    forget(again)
    return again


def put_back(store: MemoryStore, jump: Callable[[Mailbox], object] | None = None) -> MemoryStore:
    """Return what `reopened` does, as a store that can be put back: its seqs have jumped."""
    again = reopened(store)
    for box in again.mailboxes._boxes.values():
        (jump or jumps)(box)
    return again


def jumps(box: Mailbox) -> None:
    box.last += SEQ_JUMP


def goes_on_with_its_seqs(box: Mailbox) -> None:
    """Leave it as it is."""


def jumps_a_little(box: Mailbox) -> None:
    box.last += 50


def jumps_at_the_next_append(box: Mailbox) -> None:
    """Refuse a place inside the jump until there is mail beyond it."""

    class Jumping(Mailbox):
        __slots__ = ()

        def append(self, *arguments, **options):
            self.__class__ = Mailbox
            self.last += SEQ_JUMP
            return self.append(*arguments, **options)

    box.__class__ = Jumping


def acks_what_comes(box: Mailbox) -> None:
    """Take a place inside the jump for the position of all that comes."""

    class Acking(Mailbox):
        __slots__ = ()

        def ack(self, account_id, up_to, now):
            ends = self.last if up_to > self.position + 50 else up_to
            return super().ack(account_id, ends, now)

    box.last += SEQ_JUMP
    box.__class__ = Acking


def forgets_sessions(store: MemoryStore) -> None:
    store.accounts._sessions.clear()
    store.accounts._tokens.clear()


def forgets_positions(store: MemoryStore) -> None:
    for box in store.mailboxes._boxes.values():
        box.position, box.unread = 0, len(box)


def forgets_when_it_was_acked(store: MemoryStore) -> None:
    for box in store.mailboxes._boxes.values():
        box._acks = None


def counts_seqs_from_what_is_left(store: MemoryStore) -> None:
    for box in store.mailboxes._boxes.values():
        box.last = max(box._messages, default=0)


def forgets_send_ids(store: MemoryStore) -> None:
    for box in store.mailboxes._boxes.values():
        box.send_ids.clear()


def keeps_orphans(store: MemoryStore) -> None:
    store.mailboxes._boxes.update(vars(store)["orphans"])


def forgets_addresses(store: MemoryStore) -> None:
    store.accounts._addresses.clear()


def forgets_invitations(store: MemoryStore) -> None:
    store.accounts._invitations.clear()


def brings_invitations_back(store: MemoryStore) -> None:
    token_hash = sha256(b"spent").digest()
    store.accounts._invitations[token_hash] = Invitation(token_hash, 1, 2)


def forgets_quotas(store: MemoryStore) -> None:
    for box in store.mailboxes._boxes.values():
        box.quota = None


def enables_all(store: MemoryStore) -> None:
    for account in store.accounts._by_id.values():
        store.accounts._put(replace(account, enabled=True))


def says_that_it_forgets_all(store: MemoryStore) -> None:
    store.incarnation = "another"


def forgets_profiles(store: MemoryStore) -> None:
    store.accounts._profiles.clear()


def forgets_reservations(store: MemoryStore) -> None:
    store.accounts._reserved.clear()


FAULTS: tuple[tuple[Open, str], ...] = (
    (accounts(find=by_accounts.finds_any_case), "accounts_are_found"),
    (accounts(create=by_accounts.takes_names_over), "names_are_taken_once"),
    (accounts(create=by_accounts.takes_ids_over), "account_ids_are_used_once"),
    (accounts(withdraw=by_accounts.forgets_reserved_names), "reserved_names_stay_taken"),
    (accounts(page=by_accounts.takes_underscores_for_any_character), "pages_of_names_are_right"),
    (accounts(page=by_accounts.never_has_more_names), "pages_of_names_are_right"),
    (accounts(page=by_accounts.begins_at_after), "pages_of_names_are_right"),
    (accounts(set_password_hash=by_accounts.replaces_any_hash), "password_hashes_are_compared"),
    (accounts(withdraw=by_accounts.always_withdraws), "accounts_are_withdrawn_once"),
    (accounts(withdraw=by_accounts.withdraws_with_any_password), "accounts_are_withdrawn_once"),
    (accounts(open_session=by_accounts.takes_tokens_over), "sessions_are_found"),
    (accounts(open_session=by_accounts.ignores_verified), "sessions_need_the_verified_hash"),
    (accounts(open_session=by_accounts.ends_the_newest), "the_oldest_session_makes_room"),
    (accounts(touch_session=by_accounts.forgets_touches), "touching_notes_the_use"),
    (accounts(touch_session=by_accounts.forgets_touches), "the_oldest_session_makes_room"),
    (
        accounts(touch_session=by_accounts.touches_revive, open_session=by_accounts.remembers),
        "touching_notes_the_use",
    ),
    (accounts(close_session=by_accounts.closes_in_silence), "closing_wakes_those_who_wait"),
    (accounts(change_password=by_accounts.ends_everybodys), "another_password_ends_others"),
    (accounts(change_password=by_accounts.ends_before_it_looks), "another_password_ends_others"),
    (accounts(withdraw=by_accounts.leaks_sessions), "withdrawing_ends_sessions"),
    (accounts(set_password_hash=by_accounts.forgets_to_count), "profiles_are_counted"),
    (accounts(note_address=by_accounts.leaves_its_addresses), "addresses_are_noted"),
    (accounts(note_address=by_accounts.keeps_the_first_addresses), "addresses_are_noted"),
    (accounts(address_noted_at=by_accounts.knows_addresses_everywhere), "addresses_are_noted"),
    (mailboxes(create=by_mailboxes.begins_anew), "mailboxes_begin_empty"),
    (mailboxes(append=by_mailboxes.strips_bodies), "messages_are_kept_exactly"),
    (mailboxes(append=by_mailboxes.counts_over_all_mailboxes), "seqs_have_no_gaps"),
    (mailboxes(delete=by_mailboxes.gives_deleted_seqs_again), "seqs_are_never_used_again"),
    (mailboxes(append=by_mailboxes.makes_missing_mailboxes), "missing_mailboxes_are_told"),
    (mailboxes(standing=by_mailboxes.raises_what_it_likes), "missing_mailboxes_are_told"),
    (cascading, "halves_share_nothing"),
    (keyed_by_name, "old_mail_stays_old"),
    (mailboxes(read=by_mailboxes.ignores_the_byte_budget), "reading_goes_forward"),
    (mailboxes(read=by_mailboxes.tells_more_by_the_limit), "reading_goes_forward"),
    (mailboxes(read=by_mailboxes.reads_beyond_the_end), "reading_goes_forward"),
    (mailboxes(history=by_mailboxes.begins_at_before), "history_goes_backward"),
    (mailboxes(history=by_mailboxes.gives_the_oldest), "history_goes_backward"),
    (mailboxes(ack=by_mailboxes.forgets_acks), "positions_move_forward"),
    (mailboxes(ack=by_mailboxes.moves_back), "positions_move_forward"),
    (mailboxes(delete=by_mailboxes.counts_what_was_named), "deleting_takes_what_is_named"),
    (mailboxes(ack=by_mailboxes.acks_what_there_is), "refused_calls_change_nothing"),
    (mailboxes(append=by_mailboxes.tells_repeats_their_own), "repeats_get_the_first_receipt"),
    (mailboxes(append=by_mailboxes.looks_only_at_the_id), "send_ids_stand_for_one_body"),
    (mailboxes(append=by_mailboxes.looks_at_all_mailboxes), "send_ids_stand_for_one_body"),
    (mailboxes(append=by_mailboxes.mixes_senders), "send_ids_stand_for_one_body"),
    (keeps_send_ids_for_ever, "send_ids_expire"),
    (mailboxes(append=by_mailboxes.keeps_what_comes_later), "send_ids_expire"),
    (with_any_number_of_send_ids, "send_ids_are_bounded"),
    (mailboxes(append=by_mailboxes.forgets_the_newest), "send_ids_are_bounded"),
    (mailboxes(append=by_mailboxes.keeps_refused_send_ids), "send_ids_expire"),
    (without_quota, "full_mailboxes_refuse"),
    (mailboxes(append=by_mailboxes.counts_acked_mail), "full_mailboxes_refuse"),
    (without_history_size, "history_has_a_size"),
    (without_history_age, "history_has_an_age"),
    (mailboxes(history=by_mailboxes.trims_by_sending_time), "history_has_an_age"),
    (mailboxes(append=by_mailboxes.trims_what_is_unread), "unacked_mail_is_kept"),
    (mailboxes(append=by_mailboxes.wakes_everyone), "mail_wakes_its_watchers"),
    (mailboxes(append=by_mailboxes.wakes_the_others), "mail_wakes_its_watchers"),
    (mailboxes(append=by_mailboxes.wakes_nobody), "mail_wakes_its_watchers"),
    (mailboxes(append=by_mailboxes.wakes_once), "mail_wakes_its_watchers"),
    (mailboxes(drop=by_mailboxes.drops_in_silence), "dropping_wakes_watchers"),
    (mailboxes(on_mail=by_mailboxes.subscribes_each_wake_once), "unsubscribing_ends_one"),
    (mailboxes(on_mail=by_mailboxes.stays_subscribed), "unsubscribing_ends_one"),
    (mailboxes(append=by_mailboxes.wakes_under_its_lock), "wakes_are_called_without_a_lock"),
    (wakes_under_a_plain_lock, "wakes_are_called_without_a_lock"),
    (mailboxes(append=by_mailboxes.wakes_until_one_raises), "wakes_are_called_on_their_own"),
    (mailboxes(append=by_mailboxes.tells_what_a_wake_raised), "wakes_are_called_on_their_own"),
    (mailboxes(append=by_mailboxes.writes_one_at_a_time), "wakes_that_write_are_refused"),
    (accounts(create=by_accounts.looks_then_creates), "one_creates_a_name"),
    (accounts(withdraw=by_accounts.looks_then_withdraws), "one_is_told_true"),
    (accounts(open_session=by_accounts.looks_then_opens), "no_session_outlives_its_account"),
    (accounts(open_session=by_accounts.counts_then_opens), "the_most_sessions_hold"),
    (
        accounts(change_password=by_accounts.changes_then_ends),
        "a_new_password_ends_sessions_at_once",
    ),
    (accounts(touch_session=by_accounts.looks_then_touches), "touching_revives_nothing"),
    (accounts(withdraw=by_accounts.reserves_later), "reserved_names_have_no_gap"),
    (accounts(withdraw=by_accounts.withdraws_with_any_password), "old_passwords_delete_nothing"),
    (mailboxes(append=by_mailboxes.counts_then_stores), "messages_at_once_are_all_kept"),
    (mailboxes(append=by_mailboxes.stores_out_of_order), "readers_see_a_prefix"),
    (mailboxes(append=by_mailboxes.looks_then_stores), "one_of_many_repeats_is_stored"),
    (mailboxes(append=by_mailboxes.counts_then_fills), "quotas_hold_at_once"),
    (mailboxes(append=by_mailboxes.looks_then_revives), "dropped_mail_is_gone"),
    (mailboxes(append=by_mailboxes.wakes_then_stores), "no_wake_is_lost"),
    (mailboxes(ack=by_mailboxes.looks_then_acks), "counts_stay_right_at_once"),
    (accounts(find=by_accounts.opens_a_file), BLOCKING),
    (with_a_file_beside_it, BLOCKING),
    (accounts(note_address=by_accounts.asks_for_a_name), BLOCKING),
    (mailboxes(append=by_mailboxes.sleeps_a_moment), BLOCKING),
    (mailboxes(standing=by_mailboxes.asks_another_thread), BLOCKING),
    (accounts(find_session=by_accounts.ignores_the_account), "sessions_have_one_owner"),
    (accounts(touch_session=by_accounts.ignores_the_account), "sessions_have_one_owner"),
    (accounts(close_session=by_accounts.ignores_the_account), "sessions_have_one_owner"),
    (accounts(close_session=by_accounts.closes_under_an_account_alone), "sessions_have_one_owner"),
    (accounts(recipient=by_accounts.finds_recipients_in_any_case), "recipients_are_found"),
    (accounts(recipient=by_accounts.remembers_recipients), "recipients_are_found"),
    (mailboxes(look=by_mailboxes.reads_then_acks), "looks_ack_and_read"),
    (mailboxes(look=by_mailboxes.reads_one_at_least), "looks_ack_and_read"),
    (mailboxes(look=by_mailboxes.acks_only_what_it_reads), "looks_ack_and_read"),
    (mailboxes(look_many=by_mailboxes.stops_at_what_is_refused), "many_looks_are_apart"),
    (mailboxes(look_many=by_mailboxes.leaves_out_what_is_refused), "many_looks_are_apart"),
    (mailboxes(look_many=by_mailboxes.answers_mailbox_by_mailbox), "many_looks_are_apart"),
    (accounts(enable=by_accounts.leaves_sessions_open), "disabled_accounts_are_closed"),
    (accounts(enable=by_accounts.disables_for_good), "disabled_accounts_are_closed"),
    (accounts(open_session=by_accounts.opens_for_the_disabled), "disabled_accounts_are_closed"),
    (accounts(open_session=by_accounts.looks_then_opens_enabled), "disabling_races_with_no_login"),
    (accounts(sessions=by_accounts.lists_all_sessions), "sessions_are_listed_and_closed"),
    (accounts(sessions=by_accounts.lists_the_oldest_first), "sessions_are_listed_and_closed"),
    (accounts(close_sessions=by_accounts.closes_all_but_one), "sessions_are_listed_and_closed"),
    (accounts(close_sessions=by_accounts.closes_and_disables), "sessions_are_listed_and_closed"),
    (accounts(change_password=by_accounts.forgets_must_change), "passwords_are_reset"),
    (accounts(set_password_hash=by_accounts.upgrades_one_time_passwords), "passwords_are_reset"),
    (accounts(change_password=by_accounts.keeps_sessions_of_a_reset), "passwords_are_reset"),
    (accounts(create=by_accounts.spends_before_it_looks), "invitations_make_one_account"),
    (accounts(create=by_accounts.takes_expired_invitations), "invitations_make_one_account"),
    (accounts(create=by_accounts.spends_nothing), "invitations_make_one_account"),
    (
        accounts(add_invitation=by_accounts.keeps_expired_invitations),
        "invitations_make_one_account",
    ),
    (accounts(create=by_accounts.looks_then_spends), "one_spends_an_invitation"),
    (mailboxes(set_quota=by_mailboxes.raises_the_quota_alone), "quotas_are_set"),
    (mailboxes(append=by_mailboxes.fills_by_all_that_is_kept), "quotas_are_set"),
    (mailboxes(usage=by_mailboxes.counts_characters), "quotas_are_set"),
    (mailboxes(usage=by_mailboxes.counts_unread_alone), "quotas_are_set"),
    (mailboxes(trace=by_mailboxes.traces_the_last_ack), "messages_are_traced"),
    (mailboxes(trace=by_mailboxes.traces_everywhere), "messages_are_traced"),
    (mailboxes(trace=by_mailboxes.traces_what_is_there), "messages_are_traced"),
    (mailboxes(trace=by_mailboxes.traces_what_has_aged), "what_has_expired_is_gone"),
    (mailboxes(trace=by_mailboxes.traces_no_expiry), "what_has_expired_is_gone"),
    (mailboxes(trace=by_mailboxes.traces_no_deletion), "what_has_expired_is_gone"),
    (mailboxes(trace=by_mailboxes.traces_deletion_of_unread_mail), "what_has_expired_is_gone"),
    (mailboxes(depths=by_mailboxes.measures_all_that_is_kept), "depths_are_told"),
    (mailboxes(depths=by_mailboxes.measures_by_the_policy_alone), "depths_are_told"),
    (mailboxes(depths=by_mailboxes.calls_full_what_is_over), "depths_are_told"),
    (with_another_durability, "health_is_told"),
    (with_an_epoch_each_time, "health_is_told"),
    (far_from_its_clock, "health_is_told"),
    (
        accounts(on_session_end=by_accounts.unsubscribes_what_is_there),
        "unsubscribing_waits_for_nothing",
    ),
    (
        accounts(on_session_end=by_accounts.unsubscribes_with_a_round_trip),
        "unsubscribing_waits_for_nothing",
    ),
    (
        mailboxes(
            on_mail=by_mailboxes.unsubscribes_under_a_lock,
            append=by_mailboxes.wakes_under_that_lock,
        ),
        "unsubscribing_waits_for_nothing",
    ),
    (mailboxes(append=by_talk.keeps_no_copies), "copies_lie_with_their_senders"),
    (mailboxes(append=by_talk.names_the_sender), "copies_lie_with_their_senders"),
    (mailboxes(append=by_talk.copies_to_oneself), "copies_lie_with_their_senders"),
    (mailboxes(read=by_talk.shows_copies_unasked), "copies_lie_with_their_senders"),
    (mailboxes(append=by_talk.copies_each_time), "repeats_complete_copies"),
    (mailboxes(append=by_talk.copies_by_the_repeats_id), "repeats_complete_copies"),
    (mailboxes(append=by_talk.completes_nothing), "repeats_complete_copies"),
    (mailboxes(standing=by_talk.counts_copies_as_unread), "mail_alone_counts"),
    (mailboxes(append=by_talk.fills_by_copies), "mail_alone_counts"),
    (mailboxes(ack=by_talk.trims_copies_by_acks), "mail_alone_counts"),
    (mailboxes(depths=by_talk.counts_copies_as_deep), "mail_alone_counts"),
    (mailboxes(trace=by_talk.traces_copies), "mail_alone_counts"),
    (mailboxes(read=by_talk.sees_its_page_alone), "reading_takes_kinds"),
    (mailboxes(read=by_talk.sees_to_the_end), "reading_takes_kinds"),
    (mailboxes(read=by_talk.reads_every_kind), "reading_takes_kinds"),
    (mailboxes(look=by_talk.sees_all_by_asking_for_none), "reading_takes_kinds"),
    (mailboxes(history=by_talk.ignores_the_peer), "history_takes_kinds_and_a_peer"),
    (mailboxes(history=by_talk.gives_a_peers_mail_alone), "history_takes_kinds_and_a_peer"),
    (mailboxes(history=by_talk.has_seen_all_history), "history_takes_kinds_and_a_peer"),
    (mailboxes(history=by_talk.pages_from_the_newest), "history_takes_kinds_and_a_peer"),
    (mailboxes(history=by_talk.knows_peers_by_name), "reused_names_are_other_conversations"),
    (mailboxes(conversations=by_talk.lists_by_name), "reused_names_are_other_conversations"),
    (
        mailboxes(conversations=by_talk.lists_a_name_as_one_account),
        "conversations_say_whose_they_are",
    ),
    (mailboxes(history=by_talk.knows_nobody_without_a_name), "conversations_say_whose_they_are"),
    (mailboxes(conversations=by_talk.lists_from_before), "conversations_are_listed"),
    (mailboxes(conversations=by_talk.counts_all_as_unread), "conversations_are_listed"),
    (mailboxes(append=by_talk.keeps_every_copy), "copies_have_a_bound_of_their_own"),
    (mailboxes(history=by_talk.shows_what_has_aged), "copies_have_a_bound_of_their_own"),
    (mailboxes(conversations=by_talk.lists_what_has_aged), "copies_have_a_bound_of_their_own"),
    (mailboxes(put_receipt=by_talk.keeps_every_receipt), "copies_have_a_bound_of_their_own"),
    (mailboxes(append=by_talk.counts_n_by_the_clock), "n_rises"),
    (mailboxes(append=by_talk.counts_n_by_what_is_there), "n_rises"),
    (mailboxes(ack=by_talk.tells_of_own_mail), "acks_tell_whose_mail_they_pass"),
    (mailboxes(ack=by_talk.tells_of_blocked_mail), "acks_tell_whose_mail_they_pass"),
    (mailboxes(ack=by_talk.tells_in_any_case), "acks_tell_whose_mail_they_pass"),
    (mailboxes(ack=by_talk.tells_the_newest_of_all), "acks_tell_whose_mail_they_pass"),
    (mailboxes(look=by_talk.looks_without_deliveries), "acks_tell_whose_mail_they_pass"),
    (mailboxes(put_receipt=by_talk.takes_any_receipt), "receipts_replace_each_other"),
    (mailboxes(put_receipt=by_talk.keeps_a_receipts_seq), "receipts_replace_each_other"),
    (
        mailboxes(put_receipt=by_talk.takes_receipts_where_none_are_given),
        "receipts_replace_each_other",
    ),
    (mailboxes(put_receipt=by_talk.takes_receipts_of_the_blocked), "receipts_replace_each_other"),
    (mailboxes(append=by_talk.refuses_by_name), "blocked_mail_is_refused"),
    (mailboxes(append=by_talk.refuses_repeats), "blocked_mail_is_refused"),
    (mailboxes(append=by_talk.stores_what_it_refuses), "blocked_mail_is_refused"),
    (mailboxes(append=by_talk.copies_what_is_refused), "blocked_mail_is_refused"),
    (mailboxes(append=by_talk.refuses_when_full), "blocked_mail_is_refused"),
    (mailboxes(block=by_talk.blocks_without_end), "blocked_mail_is_refused"),
    (mailboxes(blocked=by_talk.lists_as_they_came), "blocked_mail_is_refused"),
    (mailboxes(drop=by_talk.unblocks_who_is_gone), "blocked_mail_is_refused"),
    (mailboxes(append=by_talk.wakes_all_by_copies), "kinds_wake_their_watchers"),
    (mailboxes(append=by_talk.wakes_nobody_by_copies), "kinds_wake_their_watchers"),
    (mailboxes(append=by_talk.wakes_by_mail_who_asks_for_none), "kinds_wake_their_watchers"),
    (mailboxes(drop=by_talk.ends_in_silence), "kinds_wake_their_watchers"),
    (mailboxes(append=by_talk.looks_then_copies), "one_copy_of_many_repeats_is_kept"),
    (mailboxes(append=by_talk.looks_then_sends), "blocks_hold_at_once"),
    (mailboxes(append=by_talk.copies_into_what_was_there), "dropped_copies_are_gone"),
    (mailboxes(put_receipt=by_talk.looks_then_puts_receipts), "the_highest_receipt_stays"),
    (mailboxes(history=by_talk.shows_aged_copies_of_a_peer), "conversations_age"),
    (mailboxes(conversations=by_talk.lists_until_all_has_aged), "conversations_age"),
    (mailboxes(append=by_talk.refuses_other_bodies), "send_ids_come_before_blocks"),
    (mailboxes(append=by_talk.completes_nothing_for_the_blocked), "send_ids_come_before_blocks"),
    (
        mailboxes(append=by_talk.looks_for_repeats_then_for_blocks),
        "repeats_that_meet_a_block_agree",
    ),
    (mailboxes(put_receipt=by_talk.looks_then_takes_receipts), "receipts_end_at_once"),
)
"""What opens a store with a fault, and the rule that must say so."""

FORGETFUL: tuple[tuple[Callable[[MemoryStore], None], str], ...] = (
    (forgets_reservations, "accounts_survive"),
    (says_that_it_forgets_all, "accounts_survive"),
    (forgets_sessions, "sessions_survive"),
    (forgets_positions, "mail_survives"),
    (forgets_when_it_was_acked, "mail_survives"),
    (counts_seqs_from_what_is_left, "seqs_survive"),
    (forgets_send_ids, "send_ids_survive"),
    (forgets_addresses, "logins_survive"),
    (forgets_profiles, "logins_survive"),
    (keeps_orphans, "orphans_are_dropped"),
    (forgets_invitations, "what_was_set_survives"),
    (brings_invitations_back, "what_was_set_survives"),
    (forgets_quotas, "what_was_set_survives"),
    (enables_all, "what_was_set_survives"),
    (by_talk.forgets_copies, "conversations_survive"),
    (by_talk.forgets_receipts, "conversations_survive"),
    (by_talk.forgets_blocks, "conversations_survive"),
    (by_talk.forgets_who_gives_receipts, "conversations_survive"),
    (by_talk.forgets_the_newest_n, "conversations_survive"),
    (by_talk.forgets_of_which_messages_copies_are, "conversations_survive"),
)
"""What a store forgets when it is reopened, and the rule that must say so."""


RESTORED: tuple[tuple[Callable[[Mailbox], None], str], ...] = (
    (goes_on_with_its_seqs, "seqs_jump"),
    (jumps_a_little, "seqs_jump"),
    (jumps_at_the_next_append, "places_inside_a_jump_are_good"),
    (acks_what_comes, "places_inside_a_jump_are_good"),
)
"""What a mailbox does when its store is put back, and the rule that must say so."""


def named(fault: Open) -> str:
    """Return what a fault is called."""
    if isinstance(fault, partial):
        return "-".join(one.__name__ for one in fault.args[1].values())
    return fault.__name__
