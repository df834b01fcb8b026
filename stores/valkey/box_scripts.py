"""The scripts on mailboxes: each runs as one step, and looks at everything before it writes.

Every script but `drop` has the keys of `Keys.box`, in that order, or a read of mail the first two
of them, and its last two arguments are the engine's epoch (`twinline.stores.valkey.engine`). The
policy's numbers are part of the text.

The hash of a mailbox has these fields:

``p``, ``l``
    the position, and the last seq
``n``, ``k``
    how many messages lie beyond the position, and how many do not
``o``
    when the oldest ack that counts was made, or nothing
``q``
    how many messages may lie beyond the position, where that is not the policy's number
``w``
    the newest message's ``n``
``f``
    how many accounts' mail it refuses; where it refuses none, a send looks at no list
``i``
    up to which seq mail is in the index: a send leaves it to who asks for a conversation
``g``
    0 where it neither gives nor takes receipts
``s``, ``d``, ``m``
    the seqs of the last copy and of the last receipt, and that of the last mail when the later one
    of these came: of what kind the newest entry is, though a send notes none
``r``, ``e``
    the epoch

How messages, copies, receipts and send_ids are kept, and the index of the first three, is told by
`twinline.stores.valkey.entries`. The scripts that look for a conversation are in
`twinline.stores.valkey.talk_scripts`.

Lua's numbers are doubles, exact up to 2^53 as seqs and times are, and the engine takes them as they
are; but Lua itself writes them with 14 digits, so they become text by `str` alone.
"""

from typing import Final

from twinline.core.store import MOST_BLOCKED, SEQ_JUMP, MailboxPolicy
from twinline.stores.rules import history_span, send_id_span
from twinline.stores.valkey.entries import PARTS
from twinline.stores.valkey.talk_scripts import (
    BLOCK,
    BLOCKED,
    CONVERSATIONS,
    COPY,
    NAMED,
    OF_PEERS,
    PUT_RECEIPT,
    SET_RECEIPTS,
    UNBLOCK,
)
from twinline.stores.valkey.wire import Script

NO_MAILBOX: Final = -1
FULL: Final = -2
CONFLICT: Final = -3
CURSOR: Final = -4
EXISTS: Final = -5
REFUSED: Final = -6
TOO_MANY: Final = -7
AGAIN: Final = -8
"""What scripts answer instead of a seq or a count."""
INDEXED_AT_ONCE: Final = 300
"""How many messages come into the index in one step at most."""
PASSED_AT_ONCE: Final = 300
"""How many peers of another name, or aged copies, one step passes at most."""

_HOUR_MS: Final = 3_600_000
_MORE: Final = 15

_OPEN: Final = """
local b, m, a, u, t, y, c, s, r, f = unpack(KEYS)
local call = redis.call
local function str(x)
  -- `%d` is twice as quick, and may be of 32 bits.
  if x > -2147483648 and x < 2147483648 then return string.format('%d', x) end
  return string.format('%.0f', x)
end
local v = call('HMGET', b, 'p', 'l', 'n', 'k', 'o', 'r'MORE)
if not v[1] then return NO_MAILBOX end
local p, l, n, k = tonumber(v[1]), tonumber(v[2]), tonumber(v[3]), tonumber(v[4])
local o, epoch, e = tonumber(v[5]), ARGV[#ARGV - 1], nil
local jumped = v[6] ~= epoch
if jumped then
  e = tonumber(call('HGET', b, 'e'))
  local to = math.max(e + 1, tonumber(ARGV[#ARGV]))
  l, e = l + (to - e) * SEQ_JUMP, to
end
local function keep(...)
  if jumped then
    call('HSET', b, 'p', p, 'l', l, 'n', n, 'k', k, 'o', o or '', 'r', epoch, 'e', e, ...)
  else
    call('HSET', b, ...)
  end
end
"""
_REFUSES: Final = """
local function refuses(peer) return refused ~= '0' and call('HEXISTS', f, peer) == 1 end
"""
# What the index has of entries.
_PLACES: Final = """
local function place(letter, peer, seq, at)
  return letter .. peer .. '\\0' .. string.format('%016.0f', seq) .. (at and ':' .. at or '')
end
local function parts(entry)
  local id, name, at, message_id, n = string.match(entry[2][2], PARTS)
  return id ~= '' and id or '\\1' .. name, at, message_id, tonumber(n), name
end
local function seq_of(entry) return tonumber(string.match(entry[1], '^%d+')) end
local function newest(letter, peer)
  local own = letter .. peer
  local last = call('ZREVRANGEBYLEX', y, '(' .. own .. '\\1', '[' .. own .. '\\0', 'LIMIT', 0, 1)
  return last[1] and tonumber(string.match(last[1], '%z(%d+)')) or 0
end
-- The last of the entries of a conversation is gone: another one is, or there is none.
local function renew(peer)
  local seq = math.max(newest('m', peer), newest('s', peer))
  if seq > 0 then call('ZADD', c, seq, peer) else call('ZREM', c, peer) end
end
"""
# How an entry goes, and how mail comes into the index: some of it at a time, so that others are
# served in between.
_INDEX: Final = f"""{_PLACES}
local function index_mail()
  local from, some = call('HGET', b, 'i') or '0', nil
  for _ = 1, INDEXED_AT_ONCE, 100 do
    some = call('XRANGE', m, '(' .. from .. '-0', '+', 'COUNT', 100)
    if #some == 0 then return true end
    local members, peers, last = {{}}, {{}}, {{}}
    for i = 1, #some do
      local peer, seq = parts(some[i]), seq_of(some[i])
      members[2 * i - 1], members[2 * i] = 0, place('m', peer, seq)
      last[peer] = seq
    end
    for peer, seq in pairs(last) do
      peers[#peers + 1], peers[#peers + 2] = seq, peer
    end
    call('ZADD', y, unpack(members))
    call('ZADD', c, 'GT', unpack(peers))
    from = string.match(some[#some][1], '^%d+')
    call('HSET', b, 'i', from)
    if #some < 100 then return true end
  end
  return false
end
local function at_seq(key, seq)
  local only = str(seq) .. '-0'
  return call('XRANGE', key, only, only)[1]
end
local function remove(key, letter, entry)
  local peer, at, message_id = parts(entry)
  if letter == 'm' then
    call('ZREM', y, place('m', peer, seq_of(entry)))
  else
    call('ZREM', y, place(letter, peer, seq_of(entry), at), 'c' .. message_id)
  end
  call('XDEL', key, entry[1])
  if letter ~= 'r' and tonumber(call('ZSCORE', c, peer)) == seq_of(entry) then renew(peer) end
end
"""
# What few sends need is made inside, for those that do.
_TRIM: Final = f"""
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
  {_PLACES}
  local function unindex(to, count)
    local from, some, indexed = '-', nil, tonumber(call('HGET', b, 'i')) or 0
    while count > 0 and indexed > 0 do
      some = call('XRANGE', m, from, to, 'COUNT', math.min(count, 100))
      if #some == 0 then return end
      from, count = '(' .. some[#some][1], count - #some
      if seq_of(some[1]) > indexed then return end
      local last, peers = {{}}, {{}}
      for i = 1, #some do
        local peer, seq = parts(some[i]), seq_of(some[i])
        if not last[peer] then peers[#peers + 1] = peer end
        last[peer], some[i] = seq, place('m', peer, seq)
      end
      call('ZREM', y, unpack(some))
      for i, seq in ipairs(call('ZMSCORE', c, unpack(peers))) do
        if seq and tonumber(seq) <= last[peers[i]] then renew(peers[i]) end
      end
    end
  end
  local aged
  while o and o <= now - HISTORY_MS do
    aged = ack_at_front()
    call('LPOP', a)
    local _, at = ack_at_front()
    o = at
  end
  if aged then
    unindex(str(aged) .. '-0', k)
    k = k - call('XTRIM', m, 'MINID', '=', aged + 1)
  end
  if k > HISTORY then
    unindex('+', k - HISTORY)
    k = k - call('XTRIM', m, 'MAXLEN', '=', n + HISTORY)
  end
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
# What a send does now and then for the send_ids that were there before it: when the first of them
# may be too old, when there are too many, and in time for the engine not to drop all of them. So
# most sends only add their own. It returns how many there are now, of all senders and of its own.
_TIDY: Final = """
local function result(kept)
  local n, at, length, ids = string.match(kept, '^(%d+):(%-?%d+):(%d+):()')
  ids = ids + length
  return tonumber(at), string.sub(kept, ids - length, ids - 1), string.sub(kept, ids), n
end
local function tidy(field, sender, now, known, count, mine)
  local function forget(entries)
    local by = {}
    for i = 1, #entries, 500 do
      local ids, fields = {}, {}
      for j = i, math.min(i + 499, #entries) do
        local id, of = entries[j][1], entries[j][2][2]
        local whose = 's' .. string.match(of, '^k([^%z]*)')
        ids[#ids + 1], fields[#fields + 1], by[whose] = id, of, (by[whose] or 0) + 1
      end
      call('XDEL', t, unpack(ids))
      call('HDEL', u, unpack(fields))
    end
    count, mine, by[sender] = count - #entries, mine - (by[sender] or 0), nil
    for whose, gone in pairs(by) do
      if call('HINCRBY', u, whose, -gone) <= 0 then
        call('HDEL', u, whose, 'f' .. string.sub(whose, 2))
      end
    end
  end
  local function entries_of(begin, some, at_most, wanted)
    local found = {}
    repeat
      local entries = call('XRANGE', t, begin, '+', 'COUNT', some)
      for i = 1, #entries do
        if #found < at_most and wanted(entries[i][2][2]) then found[#found + 1] = entries[i] end
      end
      if #entries > 0 then begin = '(' .. entries[#entries][1] end
    until #found == at_most or #entries < some
    return found
  end
  if count == 0 or call('EXISTS', t) == 0 then
    -- The engine may have dropped one of them a moment before the other.
    call('UNLINK', u, t)
    count, mine, known = 0, 0, nil
  end
  if known then
    forget(entries_of('-', OLD_AT_ONCE, 1, function(of) return of == field end))
  end
  local old = {}
  for i, entry in ipairs(call('XRANGE', t, '-', '+', 'COUNT', OLD_AT_ONCE)) do
    local at = result(call('HGET', u, entry[2][2]))
    if now - at > -SPAN and now - at < SPAN then break end
    old[i] = entry
  end
  forget(old)
  if count >= PER_MAILBOX then
    forget(call('XRANGE', t, '-', '+', 'COUNT', count - PER_MAILBOX + 1 + BOX_AT_ONCE))
  end
  if mine >= PER_SENDER then
    local own, from = string.sub(sender, 2), 'f' .. string.sub(sender, 2)
    local surplus, prefix = mine - PER_SENDER + 1 + SENDER_AT_ONCE, 'k' .. own .. '\\0'
    local begin, some = call('HGET', u, from) or '-', math.max(surplus, OLD_AT_ONCE)
    local gone = entries_of(begin, some, surplus, function(of)
      return string.sub(of, 1, #prefix) == prefix
    end)
    if #gone > 0 then
      forget(gone)
      call('HSET', u, from, gone[#gone][1])
    end
  end
  local first, due = call('XRANGE', t, '-', '+', 'COUNT', 1)[1], now + SPAN / 8
  if first then due = math.min(due, result(call('HGET', u, first[2][2])) + LATE) end
  call('HSET', u, 'd', math.floor(due), 'l', count >= FEW and LONG or '')
  return count, mine
end
"""
_APPEND: Final = """
local head, body, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local peer, field, kept = ARGV[4], ARGV[5], ARGV[6]
local counts = SPAN > 0 and field ~= ''
local known, sender, mine, count, due
if counts then
  sender = 's' .. peer
  local found = call('HMGET', u, field, sender, 'n', 'd')
  known, mine, count, due = found[1], found[2] or 0, found[3] or 0, found[4] or now
  mine, count, due = tonumber(mine), tonumber(count), tonumber(due)
  if known then
    local at, message_id, content, number = result(known)
    if now - at > -SPAN and now - at < SPAN then
      if content ~= string.sub(kept, -#content) then return CONFLICT end
      return {message_id, str(at), number}
    end
  end
end
if refused ~= '0' and call('HEXISTS', f, peer) == 1 then
  if peer ~= string.match(b, '{([^}]*)}:b$') then return REFUSED end
end
if n >= (tonumber(quota) or MAILBOX) then return FULL end
local trims = needs_trim(now)
if trims then trim(now) end
local w, number = tonumber(highest) + 1, nil
if w > now then number = str(w) else w, number = now, ARGV[3] end
l, n = l + 1, n + 1
call('XADD', m, l, 'h', head .. number, 'b', body)
if trims then
  keep('l', l, 'n', n, 'w', w, 'k', k, 'o', o or '')
else
  keep('l', l, 'n', n, 'w', w)
end
if counts then
  local tidies = known or now >= due or now < due - SPAN / 8 or count == FEW
  if tidies or count >= PER_MAILBOX or mine >= PER_SENDER then
    count, mine = tidy(field, sender, now, known, count, mine)
  end
  call('XADD', t, l, 'k', field)
  call('HSET', u, field, number .. ':' .. kept, sender, mine + 1, 'n', count + 1)
  if tidies then
    call('PEXPIRE', u, KEEP_MS)
    call('PEXPIRE', t, KEEP_MS)
  end
end
call('SPUBLISH', string.sub(b, 1, -2) .. 'w', l)
if w == now then return l end
return {l, w}
"""
# An ack that gives receipts looks at all that it passes; the others count it, where they can.
_ACK: Final = """
local delivered = {}
local function ack(up_to, now)
  local moved, gives = 0, n > 0 and receipts ~= '0'
  if up_to == l and not gives then
    moved = n
  elseif n == l - p and not gives then
    moved = up_to - p
  else
    local from, to, found = '(' .. str(p) .. '-0', str(up_to) .. '-0', nil
    local newest = {}
    repeat
      found = call('XRANGE', m, from, to, 'COUNT', 200)
      moved = moved + #found
      for i = 1, gives and #found or 0 do
        local id, number = string.match(found[i][2][2], '^(%Z*)%z.*%z(%d+)$')
        newest[id] = number
      end
      if #found > 0 then from = '(' .. found[#found][1] end
    until #found < 200
    for id, number in pairs(newest) do
      if id ~= '' and not refuses(id) then
        delivered[#delivered + 1] = id
        delivered[#delivered + 1] = number
      end
    end
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
    keep('p', p, 'n', n, 'k', k, 'o', o or '')
  end
end
"""
# Entries of a page, at least one more than fits into it if there is one, without those that have
# aged.
_PAGE: Final = """
local function page(key, command, from, to, limit, most, aged)
  local all, bytes, count, chunk, found = {}, 0, 0, 8, nil
  repeat
    local asked = math.min(limit + 1 - count, chunk)
    found = call(command, key, from, to, 'COUNT', asked)
    for i = 1, #found do
      if not (aged and aged(found[i])) then
        count = count + 1
        all[count] = found[i]
        bytes = bytes + #found[i][2][4]
        if count > limit or (count > 1 and bytes > most) then return all end
      end
    end
    if #found > 0 then from = '(' .. found[#found][1] end
    chunk = 64
  until #found < asked
  return all
end
local KEY = {m = m, s = s, r = r}
"""
# Of each kind that is asked for a page of its own: what is of all of them is told apart outside.
_LOOK: Final = """
local after, limit, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if limit > 0 and after > l then return CURSOR end
-- Not where it jumps to: another server may have it jump less far.
local answer = {p, tonumber(v[2]), delivered}
for letter in string.gmatch(ARGV[4], '.') do
  local found = {}
  if limit > 0 and after < l then
    found = page(KEY[letter], 'XRANGE', '(' .. str(after) .. '-0', '+', limit, most)
  end
  answer[#answer + 1] = found
end
return answer
"""
_ACK_FIRST: Final = """
local up_to = tonumber(ARGV[5])
if up_to > l or (tonumber(ARGV[2]) > 0 and tonumber(ARGV[1]) > l) then return CURSOR end
acked(up_to, tonumber(ARGV[6]))
"""
_HISTORY: Final = """
local before, limit, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, kinds, peers = tonumber(ARGV[4]), ARGV[5], {}
for i = 6, #ARGV - 2 do peers[i - 5] = ARGV[i] end
local ends = now - HISTORY_MS
if needs_trim(now) then
  trim(now)
  keep('k', k, 'o', o or '')
end
local answer = {p}
if #peers > 0 then
  if not index_mail() then return AGAIN end
  local found = of_peers(kinds, peers, before, limit, most, ends)
  for letter in string.gmatch(kinds, '.') do answer[#answer + 1] = found[letter] end
  return answer
end
local from = before == '' and '+' or before .. '-0'
local function aged(entry)
  local _, at = parts(entry)
  return tonumber(at) <= ends
end
for letter in string.gmatch(kinds, '.') do
  -- What has aged of mail is gone.
  local leave = letter ~= 'm' and aged
  answer[#answer + 1] = page(KEY[letter], 'XREVRANGE', from, '-', limit, most, leave)
end
return answer
"""
_STANDING_AFTER: Final = """
if tonumber(ARGV[1]) > l then return CURSOR end
acked(tonumber(ARGV[1]), tonumber(ARGV[2]))
return {p, n, delivered}
"""
_DELETE: Final = """
local of_unread, of_acked, others = 0, 0, 0
for i = 1, #ARGV - 2 do
  local seq = tonumber(ARGV[i])
  for letter, key in pairs({m = m, s = s, r = r}) do
    local entry = at_seq(key, seq)
    if entry then
      remove(key, letter, entry)
      if letter ~= 'm' then
        others = others + 1
      elseif seq > p then
        of_unread = of_unread + 1
      else
        of_acked = of_acked + 1
      end
    end
  end
end
if of_unread + of_acked > 0 then
  n, k = n - of_unread, k - of_acked
  keep('n', n, 'k', k)
end
return of_unread + of_acked + others
"""
_SET_QUOTA: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return NO_MAILBOX end
if ARGV[1] == '' then return redis.call('HDEL', KEYS[1], 'q') end
redis.call('HSET', KEYS[1], 'q', ARGV[1])
return 1
"""
_CREATE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return EXISTS end
redis.call('UNLINK', unpack(KEYS, 2))
redis.call('HSET', KEYS[1], 'p', 0, 'l', 0, 'n', 0, 'k', 0, 'o', '', 'w', 0,
  'f', 0, 'r', ARGV[#ARGV - 1], 'e', ARGV[#ARGV])
return 1
"""
# The last of its keys is the account's.
_DROP: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then
  redis.call('UNLINK', unpack(KEYS, 1, #KEYS - 1))
  redis.call('SPUBLISH', string.sub(KEYS[1], 1, -2) .. 'w', '')
end
return redis.call('EXISTS', KEYS[#KEYS])
"""


def _opened(**more: str) -> str:
    """Return how a script begins that looks at more fields, and what it calls these."""
    fields = "".join(f", '{field}'" for field in more)
    places = ", ".join(f"v[{place}]" for place in range(7, 7 + len(more)))
    named = f"local {', '.join(more.values())} = {places}\n" if more else ""
    return _OPEN.replace("MORE", fields) + named


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
            "REFUSED": REFUSED,
            "TOO_MANY": TOO_MANY,
            "AGAIN": AGAIN,
            "INDEXED_AT_ONCE": INDEXED_AT_ONCE,
            "PASSED_AT_ONCE": PASSED_AT_ONCE,
            "PARTS": f"'{PARTS}'",
            "MOST_BLOCKED": MOST_BLOCKED,
            "SEQ_JUMP": SEQ_JUMP,
            "MAILBOX": policy.mailbox_messages,
            "HISTORY": policy.history_messages,
            "HISTORY_MS": history_span(policy),
            "SPAN": span,
            # By the engine's clock, and from the last time that it was set.
            "KEEP_MS": span + span // 4 + _HOUR_MS,
            "PER_MAILBOX": policy.send_ids_per_mailbox,
            "PER_SENDER": policy.send_ids_per_sender,
            # Some more go at once, so that not every send has to look for what is to go: the
            # too old ones when the first is so late, and beyond a bound as many as the contract
            # allows.
            "LATE": span + span // 16,
            "OLD_AT_ONCE": 32,
            # An engine keeps a hash that is small as a list, which it searches from the front; by
            # its defaults up to 512 fields, unless one of them is longer than 64 bytes.
            "FEW": 32,
            "LONG": f"'{' ' * 80}'",
            "BOX_AT_ONCE": min(policy.send_ids_per_mailbox // 8, _MORE),
            "SENDER_AT_ONCE": min(policy.send_ids_per_sender // 8, _MORE),
        }

        def script(*parts: str) -> Script:
            constants = "".join(f"local {name} = {to}\n" for name, to in numbers.items())
            return Script(constants + "".join(parts))

        of_peers = {"f": "refused", "g": "receipts"}
        notes = {"s": "last_copy", "d": "last_receipt", "m": "mail_before"}
        self.create = script(_CREATE)
        self.drop = script(_DROP)
        self.append = script(_opened(q="quota", w="highest", f="refused"), _TRIM, _TIDY, _APPEND)
        self.copy = script(_opened(**notes), _INDEX, COPY)
        # Most looks are reads, of mail alone: these have no more than that to do.
        self.read = script(_opened(), "local delivered = {}\n", _PAGE, _LOOK)
        self.look = script(_opened(**of_peers), _REFUSES, _TRIM, _ACK, _ACK_FIRST, _PAGE, _LOOK)
        self.history = script(_opened(), _INDEX, _TRIM, _PAGE, OF_PEERS, _HISTORY)
        self.named = script(_opened(), _INDEX, NAMED)
        self.conversations = script(_opened(), _INDEX, _TRIM, CONVERSATIONS)
        self.ack = script(_opened(**of_peers), _REFUSES, _TRIM, _ACK, _STANDING_AFTER)
        self.delete = script(_opened(), _INDEX, _DELETE)
        self.set_quota = script(_SET_QUOTA)
        self.put_receipt = script(_opened(**of_peers, **notes), _REFUSES, _INDEX, PUT_RECEIPT)
        self.set_receipts = script(SET_RECEIPTS)
        self.block = script(BLOCK)
        self.unblock = script(UNBLOCK)
        self.blocked = script(BLOCKED)

    @property
    def all(self) -> tuple[Script, ...]:
        """Every one of them."""
        return tuple(vars(self).values())
