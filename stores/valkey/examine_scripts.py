"""The scripts that look for what must not be found: each looks at one account at one moment.

So what is found is no half of a step that a server makes just then. What belongs to each message is
looked at piece by piece, that no large mailbox keeps the engine from everybody else.
"""

from typing import Final

from twinline.stores.valkey.entries import PARTS
from twinline.stores.valkey.wire import Script

ORPHAN: Final = 1
NO_ACCOUNT: Final = 7
NO_MAILBOX: Final = 8
SESSIONS: Final = 9
ADDRESSES: Final = 10
LOST: Final = 11
NUMBERS: Final = 12
UNREAD: Final = 13
"""What the scripts find, among others."""
LAST: Final = 2
COUNTS: Final = 3
"""What of it is mended with the index."""
PIECES: Final = {"m": b"-", "s": b"-", "r": b"-", "y": b"-", "c": b"-inf"}
"""The kinds of a mailbox's keys that are looked into piece by piece, and where each begins."""
_SOME: Final = 200  # entries of a piece
# KEYS: all of a mailbox, and the account. Returns the numbers of what is found.
_BOX: Final = f"""
local b, m, a, u, t, y, c, s, r, f, account = unpack(KEYS)
local call = redis.call
local v = call('HMGET', b, 'p', 'l', 'n', 'k', 'o', 'f', 's', 'd')
local found = {{}}
if not v[1] then
  if call('EXISTS', m, a, u, t, y, c, s, r, f) > 0 then found[1] = 1 end
  return found
end
local function note(number) found[#found + 1] = number end
local function seq(entry) return tonumber(string.match(entry[1], '^%d+')) end
local p, l, n, k = tonumber(v[1]), tonumber(v[2]), tonumber(v[3]), tonumber(v[4])
local beyond = p > l
for _, key in ipairs({{m, s, r}}) do
  local first = call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  local last = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  if last and (seq(last) > l or seq(first) < 1) then beyond = true end
end
if beyond then note(2) end
local function count(from, to)
  local all = 0
  repeat
    local some = call('XRANGE', m, from, to, 'COUNT', 200)
    all = all + #some
    if #some > 0 then from = '(' .. some[#some][1] end
  until #some < 200
  return all
end
local place = string.format('%.0f', p) .. '-0'
if n + k ~= call('XLEN', m) then
  note(3)
elseif n <= k then
  if count('(' .. place, '+') ~= n then note(3) end
elseif count('-', place) ~= k then
  note(3)
end
local front, back = call('LINDEX', a, 0), call('LINDEX', a, -1)
if v[5] ~= (front and string.match(front, ':(.*)$') or '') then note(4) end
if back and tonumber(string.match(back, '^%d+')) > p then note(5) end
local remembered, of_senders, kept = 0, 0, call('HGETALL', u)
for i = 1, #kept, 2 do
  local kind = string.sub(kept[i], 1, 1)
  if kind == 'k' then remembered = remembered + 1 end
  if kind == 's' then of_senders = of_senders + kept[i + 1] end
end
local counted = tonumber(call('HGET', u, 'n') or 0)
if call('XLEN', t) ~= remembered or of_senders ~= remembered or counted ~= remembered then
  note(6)
end
if call('EXISTS', account) == 0 then note(7) end
local copies, receipts = call('XLEN', s), call('XLEN', r)
local function indexed(letter, below) return call('ZLEXCOUNT', y, '[' .. letter, '(' .. below) end
if indexed('c', 'd') ~= copies or indexed('s', 't') ~= copies or indexed('r', 's') ~= receipts then
  note({LOST})
end
local wrong = (tonumber(v[6]) or 0) ~= call('HLEN', f)
for i, key in ipairs({{s, r}}) do
  local last, noted = call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1], tonumber(v[6 + i]) or 0
  if noted > l or (last and seq(last) > noted) then wrong = true end
end
if wrong then note({NUMBERS}) end
return found
"""
# KEYS: all of a mailbox. ARGV: the kind of the key that is looked into, and where to begin. Returns
# where the next piece begins, or nothing, and the numbers of what is found in this one: what the
# index has is told by `twinline.stores.valkey.entries`.
_PIECE: Final = f"""
local b, m, a, u, t, y, c, s, r, f = unpack(KEYS)
local call, kind, from = redis.call, ARGV[1], ARGV[2]
local key, found, next = {{m = m, s = s, r = r}}, {{}}, ''
if call('EXISTS', b) == 0 then return {{''}} end
local w, i = unpack(call('HMGET', b, 'w', 'i'))
w, i = tonumber(w) or 0, tonumber(i) or 0
local function parts(letter, entry)
  if #entry[2] ~= 4 or entry[2][1] ~= 'h' then return end
  local id, name, at, message_id, n, more = string.match(entry[2][2], '{PARTS}(.*)$')
  if not id or not string.match(at, '^%-?%d+$') then return end
  if (letter == 's') ~= (string.match(more, '^%z%Z*$') ~= nil) then return end
  local peer = id ~= '' and id or '\\1' .. name
  local seq = tonumber(string.match(entry[1], '^%d+'))
  local place = letter .. peer .. '\\0' .. string.format('%016.0f', seq)
  return seq, peer, letter == 'm' and place or place .. ':' .. at, message_id, tonumber(n)
end
local function newest(letter, peer)
  local own = letter .. peer
  local last = call('ZREVRANGEBYLEX', y, '(' .. own .. '\\1', '[' .. own .. '\\0', 'LIMIT', 0, 1)
  return last[1] and tonumber(string.match(last[1], '%z(%d+)')) or 0
end
local function look_at_entry(letter, entry)
  local seq, peer, place, message_id, n = parts(letter, entry)
  if not seq then found[{UNREAD}] = true return end
  if letter == 'm' and n > w then found[{NUMBERS}] = true end
  if letter == 'm' and seq > i then return end
  local lost = not call('ZSCORE', y, place)
  if letter ~= 'r' then lost = lost or (tonumber(call('ZSCORE', c, peer)) or 0) < seq end
  if letter == 's' then lost = lost or not call('ZSCORE', y, 'c' .. message_id) end
  if lost then found[{LOST}] = true end
end
local before
local function look_at_member(member)
  local letter, peer, seq = string.match(member, '^([mrs])(%Z*)%z(%d+)')
  if string.sub(member, 1, 1) == 'c' then return end
  local only = seq and string.match(seq, '^0*(%d+)$') .. '-0'
  local entry = only and call('XRANGE', key[letter], only, only)[1]
  local _, place
  if entry then _, _, place = parts(letter, entry) end
  local twice = letter == 'r' and before == peer
  before = letter == 'r' and peer
  if place ~= member or twice or (letter == 'm' and tonumber(seq) > i) then found[{LOST}] = true end
end
if kind == 'y' then
  local some = call('ZRANGEBYLEX', y, from, '+', 'LIMIT', 0, {_SOME})
  for _, member in ipairs(some) do look_at_member(member) end
  if #some == {_SOME} then next = '(' .. some[#some] end
elseif kind == 'c' then
  local some = call('ZRANGEBYSCORE', c, from, '+inf', 'WITHSCORES', 'LIMIT', 0, {_SOME})
  for at = 1, #some, 2 do
    local peer, seq = some[at], tonumber(some[at + 1])
    if math.max(newest('m', peer), newest('s', peer)) ~= seq then found[{LOST}] = true end
  end
  if #some == 2 * {_SOME} then next = '(' .. some[#some] end
else
  local some = call('XRANGE', key[kind], from, '+', 'COUNT', {_SOME})
  for _, entry in ipairs(some) do look_at_entry(kind, entry) end
  if #some == {_SOME} then next = '(' .. some[#some][1] end
end
local answer = {{next}}
for number in pairs(found) do answer[#answer + 1] = number end
return answer
"""
# KEYS: the account, its mailbox, sessions and addresses. Returns its name, and what is found.
_ACCOUNT: Final = """
local v = redis.call('HMGET', KEYS[1], 'u', 'g')
local live = v[1] and not v[2]
local found = {v[1] or '', live and 1 or 0}
local function note(number) found[#found + 1] = number end
if live and redis.call('EXISTS', KEYS[2]) == 0 then note(8) end
local sessions = redis.call('HVALS', KEYS[3])
for _, kept in ipairs(sessions) do
  if not live or string.match(kept, '^%-?%d+:%-?%d+:(.*)$') ~= v[1] then note(9) end
end
if not live and redis.call('EXISTS', KEYS[4]) == 1 then note(10) end
return found
"""
# KEYS: as of the mailbox. Makes an empty one where an account has none, of the first epoch.
_MAKE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('UNLINK', unpack(KEYS, 2))
redis.call('HSET', KEYS[1], 'p', 0, 'l', 0, 'n', 0, 'k', 0, 'o', '', 'w', 0, 'f', 0,
  'r', '', 'e', 0)
return 1
"""
# KEYS: the account, its sessions and addresses. Ends what is not its own; returns how many of each.
_MEND: Final = """
local v = redis.call('HMGET', KEYS[1], 'u', 'g')
local live = v[1] and not v[2]
local all, ended = redis.call('HGETALL', KEYS[2]), 0
for i = 1, #all, 2 do
  if not live or string.match(all[i + 1], '^%-?%d+:%-?%d+:(.*)$') ~= v[1] then
    ended = ended + redis.call('HDEL', KEYS[2], all[i])
  end
end
return {ended, live and 0 or redis.call('UNLINK', KEYS[3])}
"""

FAULTS: Final = {
    LAST: "mailboxes whose position or an entry's seq is beyond the last seq given out",
    COUNTS: "mailboxes whose count of unread or of read messages is wrong",
    ORPHAN: "messages, acks or send_ids in no mailbox",
    4: "mailboxes whose history does not begin with its oldest ack",
    5: "mailboxes with an ack beyond their position",
    6: "mailboxes whose send_ids are not all found by sender and by age",
    NO_MAILBOX: "accounts without a mailbox",
    SESSIONS: "sessions of no account, or under another name than it has",
    ADDRESSES: "accounts that are gone and have addresses",
    LOST: "mailboxes whose messages, copies and receipts are not all found by whom they are of",
    NUMBERS: "mailboxes that count other messages, or other blocked accounts, than they have",
    UNREAD: "mailboxes with messages, copies or receipts that cannot be read",
}
"""What must not be found, by its number."""


class ExamineScripts:
    """All of them."""

    def __init__(self) -> None:
        self.box = Script(_BOX)
        self.piece = Script(_PIECE)
        self.account = Script(_ACCOUNT)
        self.make = Script(_MAKE)
        self.mend = Script(_MEND)

    @property
    def all(self) -> tuple[Script, ...]:
        """Every one of them."""
        return tuple(vars(self).values())
