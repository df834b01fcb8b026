"""Faults in the place of the methods of the in-memory store's accounts.

Each gets the half that it is in, the method that it replaces, and the arguments.
"""

import socket
from dataclasses import replace
from pathlib import Path

from seeded_faults_mailboxes import a_moment

from twinline.core.errors import InvitationInvalid, NoSuchUser, StoreUnavailable, UsernameTaken
from twinline.core.names import NamePattern
from twinline.core.store import SessionKey, UsernamePage
from twinline.stores.memory.accounts import MemoryAccounts, _Session


def finds_any_case(half: MemoryAccounts, was, username):
    return was(username.lower())


def takes_names_over(half: MemoryAccounts, was, account):
    old = half.find(account.username)
    if old is not None:
        half.withdraw(old.account_id, keep_name=False)
    was(account)


def takes_ids_over(half: MemoryAccounts, was, account):
    old = half._by_id.get(account.account_id)
    if old is not None:
        half.withdraw(old.account_id, keep_name=False)
    was(account)


def forgets_reserved_names(half: MemoryAccounts, was, account_id, *, keep_name, verified=None):
    return was(account_id, keep_name=False, verified=verified)


def withdraws_with_any_password(half: MemoryAccounts, was, account_id, *, keep_name, verified=None):
    return was(account_id, keep_name=keep_name)


def reserves_later(half: MemoryAccounts, was, account_id, *, keep_name, verified=None):
    account = half._by_id.get(account_id)
    withdrawn = was(account_id, keep_name=False, verified=verified)
    a_moment()
    if withdrawn and keep_name and account is not None:
        half._reserved.add(account.username)
    return withdrawn


def takes_underscores_for_any_character(half: MemoryAccounts, was, pattern, after, limit):
    return was(NamePattern(pattern.text.replace("_", "?")), after, limit)


def never_has_more_names(half: MemoryAccounts, was, pattern, after, limit):
    return UsernamePage(was(pattern, after, limit).usernames, more=False)


def begins_at_after(half: MemoryAccounts, was, pattern, after, limit):
    if after is not None and pattern.text == "*" and half.find(after):
        page = was(pattern, after, limit)
        return UsernamePage((after, *page.usernames)[:limit], page.more)
    return was(pattern, after, limit)


def replaces_any_hash(half: MemoryAccounts, was, account_id, password_hash, *, instead_of):
    account = half._by_id.get(account_id)
    return was(account_id, password_hash, instead_of=account.password_hash if account else "")


def always_withdraws(half: MemoryAccounts, was, account_id, *, keep_name, verified=None):
    was(account_id, keep_name=keep_name, verified=verified)
    return True


def takes_tokens_over(half: MemoryAccounts, was, session, **options):
    half.close_session(session.key)
    was(session, **options)


def ignores_verified(half: MemoryAccounts, was, session, *, verified=None, most=None):
    was(session, most=most)


def ends_the_newest(half: MemoryAccounts, was, session, *, verified=None, most=None):
    tokens = half._tokens.get(session.account_id, ())
    if most is not None and len(tokens) >= most:
        half._end(max(tokens, key=half._used_at))
    was(session, verified=verified)


def forgets_touches(half: MemoryAccounts, was, key, used_at):
    pass


def touches_revive(half: MemoryAccounts, was, key, used_at):
    old = getattr(half, "old", {})
    if half.find_session(key) is None and key.token_hash in old:
        half.open_session(old[key.token_hash])
    was(key, used_at)


def looks_then_touches(half: MemoryAccounts, was, key, used_at):
    session = half._sessions.get(key.token_hash)
    a_moment()
    if session is not None:
        with half._lock:
            half._sessions[key.token_hash] = session
            half._tokens.setdefault(key.account_id, []).append(key.token_hash)
    was(key, used_at)


def remembers(half: MemoryAccounts, was, session, **options):
    half.old = {**getattr(half, "old", {}), session.token_hash: session}  # type: ignore[attr-defined]
    was(session, **options)


def closes_in_silence(half: MemoryAccounts, was, key):
    with half._lock:
        half._end(key.token_hash)


def ends_everybodys(half: MemoryAccounts, was, account_id, password_hash, *, instead_of, keep):
    changed = was(account_id, password_hash, instead_of=instead_of, keep=keep)
    for token_hash in set(half._sessions) - {keep}:
        half.close_session(SessionKey(None, token_hash))
    return changed


def ends_before_it_looks(half: MemoryAccounts, was, account_id, password_hash, *, instead_of, keep):
    for token_hash in set(half._tokens.get(account_id, ())) - {keep}:
        half.close_session(SessionKey(account_id, token_hash))
    return was(account_id, password_hash, instead_of=instead_of, keep=keep)


def changes_then_ends(half: MemoryAccounts, was, account_id, password_hash, *, instead_of, keep):
    """Take two steps; where the store fails between them, the second is left out."""
    if not half.set_password_hash(account_id, password_hash, instead_of=instead_of):
        return False
    a_moment()
    if getattr(half, "failing", False):
        raise StoreUnavailable
    for token_hash in set(half._tokens.get(account_id, ())) - {keep}:
        half.close_session(SessionKey(account_id, token_hash))
    return True


def leaks_sessions(half: MemoryAccounts, was, account_id, *, keep_name, verified=None):
    kept = {token: half._sessions.pop(token) for token in half._tokens.pop(account_id, ())}
    withdrawn = was(account_id, keep_name=keep_name, verified=verified)
    half._sessions.update(kept)
    return withdrawn


def looks_then_creates(half: MemoryAccounts, was, account):
    if not half.is_free(account.username):
        raise UsernameTaken
    a_moment()
    takes_names_over(half, was, account)


def looks_then_withdraws(half: MemoryAccounts, was, account_id, *, keep_name, verified=None):
    there = account_id in half._by_id
    a_moment()
    was(account_id, keep_name=keep_name, verified=verified)
    return there


def looks_then_opens(half: MemoryAccounts, was, session, *, verified=None, most=None):
    if session.account_id not in half._by_id:
        raise NoSuchUser
    a_moment()
    with half._lock:
        half._sessions[session.token_hash] = _Session(session)
        half._tokens.setdefault(session.account_id, []).append(session.token_hash)


def counts_then_opens(half: MemoryAccounts, was, session, *, verified=None, most=None):
    tokens = half._tokens.get(session.account_id, ())
    room = most is None or len(tokens) < most
    a_moment()
    was(session, verified=verified, most=None if room else most)


def forgets_to_count(half: MemoryAccounts, was, account_id, password_hash, *, instead_of):
    profiles = half._profiles.copy()
    changed = was(account_id, password_hash, instead_of=instead_of)
    half._profiles = profiles
    return changed


def leaves_its_addresses(half: MemoryAccounts, was, account_id, address, at, *, most):
    half._addresses[account_id] = (*half._addresses.get(account_id, ()), (address, at))


def keeps_the_first_addresses(half: MemoryAccounts, was, account_id, address, at, *, most):
    if len(half._addresses.get(account_id, ())) < most:
        was(account_id, address, at, most=most)


def knows_addresses_everywhere(half: MemoryAccounts, was, account_id, address):
    noted = [one for each in half._addresses.values() for one in each]
    return max((at for known, at in noted if known == address), default=None)


def opens_a_file(half, was, username):
    with Path(__file__).open(encoding="utf-8"):
        return was(username)


def asks_for_a_name(half, was, account_id, address, at, *, most):
    socket.getaddrinfo("127.0.0.1", 1)
    was(account_id, address, at, most=most)


def ignores_the_account(half, was, key, *arguments):
    return was(SessionKey(None, key.token_hash), *arguments)


def closes_under_an_account_alone(half, was, key):
    if key.account_id is not None:
        was(key)


def finds_recipients_in_any_case(half, was, username):
    return was(username.lower())


def remembers_recipients(half, was, username):
    known = vars(half).setdefault("known", {})
    return known.get(username) or known.setdefault(username, was(username))


def unsubscribes_what_is_there(half, was, key, wake):
    """Raise where there is nothing to unsubscribe from any more."""
    unsubscribe = was(key, wake)

    def end():
        unsubscribe()
        if half.find_session(key) is None:
            raise KeyError(key)

    return end


def unsubscribes_with_a_round_trip(half, was, key, wake):
    unsubscribe = was(key, wake)

    def end():
        a_moment()
        unsubscribe()

    return end


def leaves_sessions_open(half: MemoryAccounts, was, account_id, *, enabled):
    with half._lock:
        account = half._by_id.get(account_id)
        if account is None:
            raise NoSuchUser
        half._put(replace(account, enabled=enabled))


def disables_for_good(half: MemoryAccounts, was, account_id, *, enabled):
    was(account_id, enabled=False)


def opens_for_the_disabled(half: MemoryAccounts, was, session, *, verified=None, most=None):
    account = half._by_id.get(session.account_id)
    if account is not None and not account.enabled:
        half._sessions[session.token_hash] = _Session(session)
        return
    was(session, verified=verified, most=most)


def looks_then_opens_enabled(half: MemoryAccounts, was, session, *, verified=None, most=None):
    account = half._by_id.get(session.account_id)
    if account is None or not account.enabled:
        raise NoSuchUser
    a_moment()
    half._sessions[session.token_hash] = _Session(session)


def lists_all_sessions(half: MemoryAccounts, was, account_id):
    return [one.record for one in half._sessions.values()]


def lists_the_oldest_first(half: MemoryAccounts, was, account_id):
    return list(reversed(was(account_id)))


def closes_all_but_one(half: MemoryAccounts, was, account_id):
    records = half.sessions(account_id)
    for record in records[1:]:
        half.close_session(record.key)
    return len(records)


def closes_and_disables(half: MemoryAccounts, was, account_id):
    count = was(account_id)
    if account_id in half._by_id:
        half.enable(account_id, enabled=False)
    return count


def forgets_must_change(
    half: MemoryAccounts, was, account_id, password_hash, *, must_change=False, **options
):
    return was(account_id, password_hash, **options)


def upgrades_one_time_passwords(
    half: MemoryAccounts, was, account_id, password_hash, *, instead_of
):
    done = was(account_id, password_hash, instead_of=instead_of)
    with half._lock:
        account = half._by_id[account_id]
        half._put(replace(account, must_change=False))
    return done


def keeps_sessions_of_a_reset(
    half: MemoryAccounts, was, account_id, password_hash, *, instead_of, keep, must_change=False
):
    tokens = half._tokens.get(account_id, [])
    keep = keep or (tokens[0] if tokens else None)
    return was(account_id, password_hash, instead_of=instead_of, keep=keep, must_change=must_change)


def spends_before_it_looks(half: MemoryAccounts, was, account, *, invitation=None):
    try:
        was(account, invitation=invitation)
    except UsernameTaken:
        half.drop_invitation(invitation or b"")
        raise


def takes_expired_invitations(half: MemoryAccounts, was, account, *, invitation=None):
    if invitation is not None and not half.drop_invitation(invitation):
        raise InvitationInvalid
    was(account)


def spends_nothing(half: MemoryAccounts, was, account, *, invitation=None):
    found = None if invitation is None else half.find_invitation(invitation)
    was(account, invitation=invitation)
    if found is not None:
        half._invitations[found.token_hash] = found


def keeps_expired_invitations(half: MemoryAccounts, was, invitation):
    if invitation.token_hash in half._invitations:
        raise ValueError("used twice")
    half._invitations[invitation.token_hash] = invitation


def looks_then_spends(half: MemoryAccounts, was, account, *, invitation=None):
    if invitation is not None:
        found = half.find_invitation(invitation)
        if found is None or found.expires_at <= account.created_at:
            raise InvitationInvalid
        a_moment()
    was(account)
    half.drop_invitation(invitation or b"")
