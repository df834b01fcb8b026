"""The scripts on mailboxes: each runs as one step, and looks at everything before it writes.

Every script but `drop` has the keys of `Keys.box`, in that order, and its last two arguments are
the engine's epoch (`twinline.stores.valkey.engine`). The policy's numbers are part of the text.

The hash of a mailbox has these fields: ``p`` the position, ``l`` the last seq, ``n`` how many
messages lie beyond the position, ``k`` how many do not, ``o`` when the oldest ack that counts was
made, or nothing, ``q`` how many messages may lie beyond the position, where that is not the
policy's number, ``r`` and ``e`` the epoch, ``x`` when send_ids were last given their time, and
``f`` when the first of them was sent.

Lua's numbers are doubles, exact up to 2^53 as seqs and times are; but Lua writes them with 14
digits, so they become text by ``%.0f`` alone.
"""

from typing import Final

from twinline.core.store import SEQ_JUMP, MailboxPolicy
from twinline.stores.rules import history_span, send_id_span
from twinline.stores.valkey.wire import Script

NO_MAILBOX: Final = -1
FULL: Final = -2
CONFLICT: Final = -3
CURSOR: Final = -4
EXISTS: Final = -5
"""What scripts answer instead of a seq or a count."""

_HOUR_MS: Final = 3_600_000

_OPEN: Final = """
local b, m, a, u, t, s = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local call = redis.call
local function str(x) return string.format('%.0f', x) end
local v = call('HMGET', b, 'p', 'l', 'n', 'k', 'o', 'r', 'e', 'x', 'f', 'q')
if not v[1] then return NO_MAILBOX end
local p, l, n, k = tonumber(v[1]), tonumber(v[2]), tonumber(v[3]), tonumber(v[4])
local o, e, epoch = tonumber(v[5]), tonumber(v[7]), ARGV[#ARGV - 1]
local jumped = v[6] ~= epoch
if jumped then
  local to = math.max(e + 1, tonumber(ARGV[#ARGV]))
  l, e = l + (to - e) * SEQ_JUMP, to
end
local function keep(...)
  if jumped then
    call('HSET', b, 'p', str(p), 'l', str(l), 'n', n, 'k', k, 'o', o and str(o) or '',
      'r', epoch, 'e', str(e), ...)
  else
    call('HSET', b, ...)
  end
end
"""
_TRIM: Final = """
local function ack_at_front()
  local front = call('LINDEX', a, 0)
  if not front then return nil, nil end
  local up_to, at = string.match(front, '^(%d+):(%-?%d+)$')
  return tonumber(up_to), tonumber(at)
end
local function needs_trim(now)
  return k > HISTORY or (o and o <= now - HISTORY_MS)
end
local function trim(now)
  local aged
  while o and o <= now - HISTORY_MS do
    aged = ack_at_front()
    call('LPOP', a)
    local _, at = ack_at_front()
    o = at
  end
  if aged then k = k - call('XTRIM', m, 'MINID', '=', str(aged + 1) .. '-0') end
  if k > HISTORY then k = k - call('XTRIM', m, 'MAXLEN', '=', str(n + HISTORY)) end
  if o then
    local first = call('XRANGE', m, '-', '+', 'COUNT', 1)[1]
    local oldest = first and tonumber(string.match(first[1], '^%d+')) or math.huge
    while o do
      local up_to, at = ack_at_front()
      o = at
      if not up_to or up_to >= oldest then break end
      call('LPOP', a)
    end
  end
end
"""
_APPEND: Final = """
local message_id, sender_id, sender, body, sent_at = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local send_id, content, now = ARGV[6], ARGV[7], tonumber(ARGV[5])
local counts = SPAN > 0 and send_id ~= ''
local stale
if counts then
  stale = call('HGET', u, send_id)
  local known = stale and call('XRANGE', t, stale .. '-0', stale .. '-0')[1]
  if known then
    local first = known[2]
    local apart = now - tonumber(first[8])
    if apart > -SPAN and apart < SPAN then
      if first[4] ~= content then return CONFLICT end
      return {first[6], first[8]}
    end
  end
end
if n >= (tonumber(v[10]) or MAILBOX) then return FULL end
local trims = needs_trim(now)
if trims then trim(now) end
l, n = l + 1, n + 1
local seq = str(l)
call('XADD', m, seq .. '-0', 'i', message_id, 'f', sender, 'b', body, 't', sent_at)
if trims then
  keep('l', seq, 'n', n, 'k', k, 'o', o and str(o) or '')
else
  keep('l', seq, 'n', n)
end
if counts then
  local function member(of, at) return of .. '\\0' .. string.format('%016.0f', tonumber(at)) end
  local function forget(entry)
    local key, at = entry[2][2], string.match(entry[1], '^%d+')
    call('XDEL', t, entry[1])
    call('HDEL', u, key)
    call('ZREM', s, member(string.match(key, '^[^%z]*'), at))
  end
  local known_first = tonumber(v[9])
  if stale then
    call('XDEL', t, stale .. '-0')
    call('ZREM', s, member(sender_id, stale))
    known_first = nil
  end
  local remembered = call('XLEN', t)
  local function first_sent()
    local first = call('XRANGE', t, '-', '+', 'COUNT', 1)[1]
    return first and tonumber(first[2][8]), first
  end
  local function counts_still(sent) return now - sent > -SPAN and now - sent < SPAN end
  local first_at = remembered > 0 and known_first or now
  if remembered > 0 and not (known_first and counts_still(known_first)) then
    for _ = 1, 2 do
      local sent, first = first_sent()
      if not first or counts_still(sent) then break end
      forget(first)
      remembered = remembered - 1
    end
    first_at = first_sent() or now
  end
  if remembered >= PER_MAILBOX then
    local surplus = remembered - PER_MAILBOX + 1
    for _, first in ipairs(call('XRANGE', t, '-', '+', 'COUNT', surplus)) do forget(first) end
    first_at = nil
  end
  if remembered >= PER_SENDER then
    local from, to = '[' .. sender_id .. '\\0', '(' .. sender_id .. '\\1'
    local surplus = call('ZLEXCOUNT', s, from, to) - PER_SENDER + 1
    if surplus > 0 then
      for _, each in ipairs(call('ZRANGEBYLEX', s, from, to, 'LIMIT', 0, surplus + AT_ONCE)) do
        local id = str(tonumber(string.sub(each, -16))) .. '-0'
        local entry = call('XRANGE', t, id, id)[1]
        if entry then forget(entry) else call('ZREM', s, each) end
      end
      first_at = nil
    end
  end
  if not first_at then first_at = first_sent() or now end
  if first_at ~= tonumber(v[9]) then call('HSET', b, 'f', str(first_at)) end
  call('XADD', t, seq .. '-0', 'k', send_id, 'c', content, 'i', message_id, 's', sent_at)
  call('HSET', u, send_id, seq)
  call('ZADD', s, 0, member(sender_id, seq))
  local set = tonumber(v[8])
  if not set or now < set or now - set > SPAN / 8 then
    for _, key in ipairs({u, t, s}) do call('PEXPIRE', key, str(KEEP_MS)) end
    call('HSET', b, 'x', sent_at)
  end
end
call('SPUBLISH', string.sub(b, 1, -2) .. 'w', seq)
return l
"""
_ACK: Final = """
local function ack(up_to, now)
  local moved = 0
  if up_to == l then
    moved = n
  elseif n == l - p then
    moved = up_to - p
  else
    local from, to, found = '(' .. str(p) .. '-0', str(up_to) .. '-0', nil
    repeat
      found = call('XRANGE', m, from, to, 'COUNT', 200)
      moved = moved + #found
      if #found > 0 then from = '(' .. found[#found][1] end
    until #found < 200
  end
  if moved > 0 then
    call('RPUSH', a, str(up_to) .. ':' .. str(now))
    o = o or now
  end
  p, n, k = up_to, n - moved, k + moved
end
local function acked(up_to, now)
  local before_p, before_k, before_o = p, k, o
  if up_to > p then ack(up_to, now) end
  if needs_trim(now) then trim(now) end
  if p ~= before_p or k ~= before_k or o ~= before_o then
    keep('p', str(p), 'n', n, 'k', k, 'o', o and str(o) or '')
  end
end
"""
_LOOK: Final = """
local after, limit, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local up_to, now = tonumber(ARGV[4]), tonumber(ARGV[5])
if up_to and up_to > l then return CURSOR end
if limit > 0 and after > l then return CURSOR end
if up_to then acked(up_to, now) end
local page, bytes, count, chunk = {}, 0, 0, 8
if limit > 0 and after < l then
  local from, found = '(' .. str(after) .. '-0', nil
  repeat
    local asked = math.min(limit + 1 - count, chunk)
    found = call('XRANGE', m, from, '+', 'COUNT', asked)
    for i = 1, #found do
      count = count + 1
      page[count] = found[i]
      bytes = bytes + #found[i][2][6]
      if count > limit or (count > 1 and bytes > most) then return {p, page} end
    end
    if #found > 0 then from = '(' .. found[#found][1] end
    chunk = 64
  until #found < asked
end
return {p, page}
"""
_HISTORY: Final = """
local before, limit, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = tonumber(ARGV[4])
if needs_trim(now) then
  trim(now)
  keep('k', k, 'o', o and str(o) or '')
end
local page, bytes, count, chunk = {}, 0, 0, 8
local to, found = before == '' and '+' or before .. '-0', nil
repeat
  local asked = math.min(limit + 1 - count, chunk)
  found = call('XREVRANGE', m, to, '-', 'COUNT', asked)
  for i = 1, #found do
    count = count + 1
    page[count] = found[i]
    bytes = bytes + #found[i][2][6]
    if count > limit or (count > 1 and bytes > most) then return {p, page} end
  end
  if #found > 0 then to = '(' .. found[#found][1] end
  chunk = 64
until #found < asked
return {p, page}
"""
_STANDING_AFTER: Final = """
if tonumber(ARGV[1]) > l then return CURSOR end
acked(tonumber(ARGV[1]), tonumber(ARGV[2]))
return {p, n}
"""
_DELETE: Final = """
local unread, acked = {}, {}
for i = 1, #ARGV - 2 do
  local into = tonumber(ARGV[i]) > p and unread or acked
  into[#into + 1] = ARGV[i] .. '-0'
end
local function delete(ids)
  local gone = 0
  for i = 1, #ids, 500 do
    gone = gone + call('XDEL', m, unpack(ids, i, math.min(i + 499, #ids)))
  end
  return gone
end
local of_unread, of_acked = delete(unread), delete(acked)
if of_unread + of_acked > 0 then
  n, k = n - of_unread, k - of_acked
  keep('n', n, 'k', k)
end
return of_unread + of_acked
"""
_SET_QUOTA: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return NO_MAILBOX end
if ARGV[1] == '' then return redis.call('HDEL', KEYS[1], 'q') end
redis.call('HSET', KEYS[1], 'q', ARGV[1])
return 1
"""
_CREATE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return EXISTS end
redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
redis.call('HSET', KEYS[1], 'p', 0, 'l', 0, 'n', 0, 'k', 0, 'o', '',
  'r', ARGV[#ARGV - 1], 'e', ARGV[#ARGV])
return 1
"""
# The last of its keys is the account's.
_DROP: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('UNLINK', unpack(KEYS, 1, 6))
  redis.call('SPUBLISH', string.sub(KEYS[1], 1, -2) .. 'w', '')
end
return redis.call('EXISTS', KEYS[7])
"""


class BoxScripts:
    """The scripts under a policy."""

    def __init__(self, policy: MailboxPolicy) -> None:
        span = send_id_span(policy)
        numbers = {
            "NO_MAILBOX": NO_MAILBOX,
            "FULL": FULL,
            "CONFLICT": CONFLICT,
            "CURSOR": CURSOR,
            "EXISTS": EXISTS,
            "SEQ_JUMP": SEQ_JUMP,
            "MAILBOX": policy.mailbox_messages,
            "HISTORY": policy.history_messages,
            "HISTORY_MS": history_span(policy),
            "SPAN": span,
            # By the engine's clock, and from the last time that it was set.
            "KEEP_MS": span + span // 4 + _HOUR_MS,
            "PER_MAILBOX": policy.send_ids_per_mailbox,
            "PER_SENDER": policy.send_ids_per_sender,
            # Beyond a sender's bound so many more go at once, as few as the contract allows.
            "AT_ONCE": min(policy.send_ids_per_sender // 8, 15),
        }

        def script(*parts: str) -> Script:
            constants = "".join(f"local {name} = {to}\n" for name, to in numbers.items())
            return Script(constants + "".join(parts))

        self.create = script(_CREATE)
        self.drop = script(_DROP)
        self.append = script(_OPEN, _TRIM, _APPEND)
        self.look = script(_OPEN, _TRIM, _ACK, _LOOK)
        self.history = script(_OPEN, _TRIM, _HISTORY)
        self.ack = script(_OPEN, _TRIM, _ACK, _STANDING_AFTER)
        self.delete = script(_OPEN, _DELETE)
        self.set_quota = script(_SET_QUOTA)

    @property
    def all(self) -> tuple[Script, ...]:
        """Every one of them."""
        return (
            self.create,
            self.drop,
            self.append,
            self.look,
            self.history,
            self.ack,
            self.delete,
            self.set_quota,
        )
