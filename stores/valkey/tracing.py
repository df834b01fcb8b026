"""Where a message is, how much a mailbox holds, how full all are: by reading, piece by piece.

A script looks at so few entries at a time that the engine serves others in between, and no text of
a message comes to this side. Into all mailboxes is looked by walking over the keys of each server
(SCAN), the mailboxes of one step at once.
"""

from collections.abc import Collection, Iterator
from typing import Any, Final

from twinline.core.deadline import Deadline
from twinline.core.errors import NoSuchUser, StoreUnavailable
from twinline.core.store import Depths, MailboxPolicy, MailboxUsage, MessageTrace
from twinline.stores.rules import (
    LOOK_THROUGH_SECONDS,
    history_ends,
    not_looked_through,
    was_deleted,
)
from twinline.stores.valkey.engine import CALL_SECONDS, Engine
from twinline.stores.valkey.entries import PARTS
from twinline.stores.valkey.keys import Keys
from twinline.stores.valkey.lane import Call, plain
from twinline.stores.valkey.pending import script_call
from twinline.stores.valkey.wire import Script, answered, to_bytes, to_text

_PIECE: Final = 64  # entries that a script looks at
_SCANNED: Final = b"1000"  # keys in one step of a scan

_NOTHING: Final = MailboxUsage(0, 0, 0, None)

_PIECE_OF: Final = f"""
local call, last = redis.call, ''
if call('EXISTS', KEYS[1]) == 0 then return -1 end
local function piece(key)
  local some = call('XRANGE', key, ARGV[1], '+', 'COUNT', {_PIECE})
  if #some == {_PIECE} then last = '(' .. some[#some][1] end
  return some
end
"""
# KEYS: the mailbox, and its messages or its copies. Returns its quota and unread messages, how many
# are in this piece and how many bytes, and where the next one begins, or nothing.
_USAGE: Final = f"""{_PIECE_OF}
local found, bytes = piece(KEYS[2]), 0
for i = 1, #found do bytes = bytes + #found[i][2][4] end
local v = call('HMGET', KEYS[1], 'q', 'n')
return {{v[1], tonumber(v[2]), #found, bytes, last}}
"""
# KEYS: the mailbox, its messages, acks, and send_ids by seq and by themselves. ARGV: where to
# begin, the message's id, and the moment at or before which an ack has aged. Returns where the next
# piece begins or nothing, and of the message, if it is in this one and has not aged, its seq, time,
# sender, sender's id, and its ack. Acks age in their order: one behind one that has not aged waits
# for it.
_MESSAGE: Final = f"""{_PIECE_OF}
for _, entry in ipairs(piece(KEYS[2])) do
  local sender_id, sender, sent_at, message_id = string.match(entry[2][2], '{PARTS}')
  if message_id == ARGV[2] then
    local seq, acked_at = tonumber(string.match(entry[1], '^%d+')), ''
    local passed = 0
    if seq <= tonumber(call('HGET', KEYS[1], 'p')) then
      local at, acks, aged = 0, nil, true
      passed = 1
      repeat
        acks = call('LRANGE', KEYS[3], at, at + 199)
        for i = 1, #acks do
          local up_to, when = string.match(acks[i], '^(%d+):(.*)$')
          aged = aged and tonumber(when) <= tonumber(ARGV[3])
          if tonumber(up_to) >= seq then
            if aged then return {{''}} end
            acked_at = when
            break
          end
        end
        at = at + 200
      until acked_at ~= '' or #acks < 200
    end
    return {{'', entry[1], sent_at, sender, sender_id, passed, acked_at}}
  end
end
return {{last}}
"""
# KEYS: as above. Returns where the next piece begins or nothing, and of the send, if it is in this
# one, its time, key and seq, and the position.
_SEND_ID: Final = f"""{_PIECE_OF}
for _, entry in ipairs(piece(KEYS[4])) do
  local kept = call('HGET', KEYS[5], entry[2][2]) or ''
  local sent_at, length, begin = string.match(kept, '^%d+:(%-?%d+):(%d+):()')
  if sent_at and string.sub(kept, begin, begin + length - 1) == ARGV[2] then
    local seq = string.match(entry[1], '^%d+')
    return {{'', sent_at, entry[2][2], seq, call('HGET', KEYS[1], 'p')}}
  end
end
return {{last}}
"""


class TraceScripts:
    """All of them."""

    def __init__(self) -> None:
        self.usage = Script(_USAGE)
        self.message = Script(_MESSAGE)
        self.send_id = Script(_SEND_ID)

    @property
    def all(self) -> tuple[Script, ...]:
        """Every one of them."""
        return tuple(vars(self).values())


class Tracing:
    """Looks for messages, and measures mailboxes."""

    def __init__(self, engine: Engine, keys: Keys, scripts: TraceScripts) -> None:
        self._engine = engine
        self._keys = keys
        self._scripts = scripts

    def usage(self, account_id: str) -> MailboxUsage:
        """Return what a mailbox holds.

        Raises:
            NoSuchUser: there is none.
            StoreUnavailable: it cannot be read.
        """
        found = self.usages([account_id])
        if not found:
            raise NoSuchUser
        return found[account_id]

    def usages(self, account_ids: Collection[str]) -> dict[str, MailboxUsage]:
        """Return what some mailboxes hold, read at once; nothing of those that are not there.

        Raises:
            StoreUnavailable: they cannot be read.
        """
        usages: dict[str, MailboxUsage] = {}
        for kinds in ("bm", "bs"):
            left = dict.fromkeys(account_ids, b"-")
            while left:
                calls = [
                    self._call(self._scripts.usage, each, kinds, at) for each, at in left.items()
                ]
                outcomes = dict(zip(left, answered(self._engine.do_many(calls)), strict=True))
                left = {}
                for account_id, outcome in outcomes.items():
                    if isinstance(outcome, int):
                        usages.pop(account_id, None)  # it is gone
                        continue
                    quota, unread, count, size, place = outcome
                    before = usages.get(account_id, _NOTHING)
                    of_mail = kinds == "bm"
                    usages[account_id] = MailboxUsage(
                        before.messages + (count if of_mail else 0),
                        unread,
                        before.size + size,
                        quota and int(quota),
                        before.copies + (0 if of_mail else count),
                    )
                    if place:
                        left[account_id] = place
        return usages

    def depths(self, policy: MailboxPolicy) -> Depths:
        """Return how full the mailboxes are; see `Mailboxes.depths`.

        A scan may come by a mailbox twice where the engine grows its table meanwhile, so what was
        counted is remembered, as a hash of its own.

        Args:
            policy: how much a mailbox may hold that has no quota of its own.

        Raises:
            StoreUnavailable: they cannot be read, or not in time.
        """
        deadline = Deadline.after(LOOK_THROUGH_SECONDS)
        seen: set[int] = set()
        usual, deepest, full = policy.mailbox_messages, 0, 0
        for account_ids in self._mailboxes():
            if deadline.passed:
                raise StoreUnavailable("there are too many mailboxes to look at all of them")
            new = [each for each in account_ids if hash(each) not in seen]
            keys = [self._keys.of(each, "b") for each in new]
            calls = [plain(key, b"HMGET", key, b"n", b"q") for key in keys]
            outcomes = answered(self._engine.do_many(calls))
            for account_id, (unread, quota) in zip(new, outcomes, strict=True):
                if unread is None:
                    continue  # it is gone
                seen.add(hash(account_id))
                deepest = max(deepest, int(unread))
                full += int(unread) >= int(quota or usual)
        return Depths(len(seen), deepest, full)

    def find(
        self, message_id: str, account_id: str | None, policy: MailboxPolicy, now: int
    ) -> MessageTrace | None:
        """Return where a message is; see `Mailboxes.trace`.

        Args:
            message_id: which message.
            account_id: whose mailbox to look into; None: every one.
            policy: how much a mailbox keeps.
            now: in ms.

        Raises:
            StoreUnavailable: it cannot be looked for, or not in time.
        """
        deadline, ends = Deadline.after(LOOK_THROUGH_SECONDS), history_ends(policy, now)
        for account_ids in self._mailboxes() if account_id is None else [[account_id]]:
            found = self._find(message_id, account_ids, ends, deadline)
            if found is not None:
                return _trace(found[0], message_id, found[1], ends, policy.history_messages)
        return None

    def _mailboxes(self) -> Iterator[list[str]]:
        """Yield whose mailboxes there are, some at a time."""
        for peer in self._engine.peers():
            cursor = b"0"
            while True:
                step = plain(b"", b"SCAN", cursor, b"MATCH", self._keys.boxes, b"COUNT", _SCANNED)
                ((cursor, keys),) = self._engine.ask_peer(peer, [step], CALL_SECONDS)
                found = map(self._keys.account_of, keys)
                yield [each[0] for each in found if each is not None and each[1] == "b"]
                if cursor == b"0":
                    break

    def _find(
        self, message_id: str, account_ids: list[str], ends: int, deadline: Deadline
    ) -> tuple[str, list[Any]] | None:
        """Look into some mailboxes at once: for the message, and then for what was of its send."""
        arguments = to_bytes(message_id), b"%d" % ends
        for script in (self._scripts.message, self._scripts.send_id):
            left = dict.fromkeys(account_ids, b"-")
            while left:
                if deadline.passed:
                    raise not_looked_through()
                calls = [
                    self._call(script, each, "bmatu", at, *arguments) for each, at in left.items()
                ]
                outcomes = dict(zip(left, answered(self._engine.do_many(calls)), strict=True))
                left = {}
                for account_id, outcome in outcomes.items():
                    if isinstance(outcome, int):
                        continue  # it is gone
                    place, *found = outcome
                    if found:
                        return account_id, found
                    if place:
                        left[account_id] = place
        return None

    def _call(self, script: Script, account_id: str, kinds: str, *arguments: bytes) -> Call:
        keys = tuple(self._keys.of(account_id, kind) for kind in kinds)
        return script_call(script, keys, arguments, writes=False, bulk=True)


def _trace(
    account_id: str, message_id: str, found: list[Any], ends: int, most: int
) -> MessageTrace:
    if len(found) == 4:  # all that is left is its send_id
        sent_at, key, seq, position = found
        return MessageTrace(
            account_id,
            message_id,
            int(sent_at),
            seq=None,
            sender=None,
            sender_id=to_text(key[1:].partition(b"\0")[0]),
            acked=False,
            acked_at=None,
            deleted=was_deleted(
                ends,
                most,
                sent_at=int(sent_at),
                seq=int(seq),
                position=int(position),
            ),
        )
    place, sent_at, sender, sender_id, passed, acked_at = found
    return MessageTrace(
        account_id,
        message_id,
        int(sent_at),
        int(place.partition(b"-")[0]),
        to_text(sender),
        to_text(sender_id) or None,
        bool(passed),
        int(acked_at) if acked_at else None,
    )
