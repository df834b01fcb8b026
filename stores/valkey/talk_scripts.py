"""The scripts of conversations: copies, receipts, block lists, and what is found by its peer.

They are parts that `twinline.stores.valkey.box_scripts` puts behind its own, whose names they use.
"""

from typing import Final

# Copies or receipts at the front that have aged by now, or are too many, go; and it is noted which
# mail was the last before the one that comes.
_NOTES: Final = """
local function make_room(key, letter, now)
  for count = call('XLEN', key), 1, -1 do
    local first = call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
    local _, at = parts(first)
    local fresh = tonumber(at) > now - HISTORY_MS
    if fresh and count < HISTORY then return end
    remove(key, letter, first)
    if fresh and count == HISTORY then return end
  end
end
local function last_mail()
  local other = math.max(tonumber(last_copy) or 0, tonumber(last_receipt) or 0)
  return tonumber(v[2]) > other and v[2] or mail_before or 0
end
"""
COPY: Final = f"""{_NOTES}
local head, body, now, peer = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local _, at, message_id = parts({{'', {{'', head}}}})
if call('ZSCORE', y, 'c' .. message_id) then return 0 end
make_room(s, 's', now)
local mail = last_mail()
l = l + 1
call('XADD', s, l, 'h', head, 'b', body)
call('ZADD', y, 0, place('s', peer, l, at), 0, 'c' .. message_id)
call('ZADD', c, l, peer)
keep('l', l, 's', l, 'm', mail)
call('SPUBLISH', string.sub(b, 1, -2) .. 'w', 's' .. str(l))
return l
"""
PUT_RECEIPT: Final = f"""{_NOTES}
local head, now, peer = ARGV[1], tonumber(ARGV[2]), ARGV[3]
if receipts == '0' or refuses(peer) then return 0 end
local own = 'r' .. peer
local known = call('ZRANGEBYLEX', y, '[' .. own .. '\\0', '(' .. own .. '\\1', 'LIMIT', 0, 1)[1]
if known then
  local entry = at_seq(r, tonumber(string.match(known, '%z(%d+)')))
  local _, _, _, before = parts(entry)
  local _, _, _, number = parts({{'', {{'', head}}}})
  if before >= number then return 0 end
  remove(r, 'r', entry)
end
make_room(r, 'r', now)
local mail = last_mail()
l = l + 1
call('XADD', r, l, 'h', head, 'b', '')
call('ZADD', y, 0, place('r', peer, l, ARGV[2]))
keep('l', l, 'd', l, 'm', mail)
call('SPUBLISH', string.sub(b, 1, -2) .. 'w', 'r' .. str(l))
return l
"""
OF_PEERS: Final = """
local function of_peers(kinds, peers, before, limit, most, ends)
  local all, found, bytes = {}, {}, 0
  local function add(letter, peer)
    local own, count, some, asked = letter .. peer, 0, nil, nil
    local below = '(' .. own .. '\\1'
    if before ~= '' then below = '[' .. place(letter, peer, before) .. ';' end
    repeat
      asked = limit + 1 - count
      some = call('ZREVRANGEBYLEX', y, below, '[' .. own .. '\\0', 'LIMIT', 0, asked)
      for _, member in ipairs(some) do
        local seq, at = string.match(member, '%z(%d+):?(.*)$')
        if at == '' or tonumber(at) > ends then
          count = count + 1
          all[#all + 1] = {tonumber(seq), letter}
        end
        below = '(' .. member
      end
    until #some < asked or count > limit
  end
  for letter in string.gmatch(kinds, '.') do
    found[letter] = {}
    for _, peer in ipairs(peers) do add(letter, peer) end
  end
  table.sort(all, function(one, other) return one[1] > other[1] end)
  for i = 1, math.min(#all, limit + 1) do
    local seq, letter = unpack(all[i])
    local entry = at_seq(KEY[letter], seq)
    table.insert(found[letter], entry)
    bytes = bytes + #entry[2][4]
    if i > 1 and bytes > most then break end
  end
  return found
end
"""
# Who of the index has a name, some of it at a time: each of them is one step to the place before
# all of the last peer. Answers with where the next piece ends, or nothing, and with the peers.
NAMED: Final = """
local below, name = ARGV[1], ARGV[2]
if not index_mail() then return AGAIN end
local key, answer = {m = m, s = s, r = r}, {''}
for _ = 1, PASSED_AT_ONCE do
  local last = call('ZREVRANGEBYLEX', y, below, '[m', 'LIMIT', 0, 1)[1]
  if not last then return answer end
  local letter, peer, seq = string.match(last, '^(.)(%Z*)%z(%d+)')
  local _, _, _, _, called = parts(at_seq(key[letter], tonumber(seq)))
  if called == name then answer[#answer + 1] = peer end
  below = '(' .. letter .. peer .. '\\0'
end
answer[1] = below
return answer
"""
# Answers with the last entry of each conversation, its kind, and how many are unread. A copy that
# has aged and is the last of one goes, as mail has gone that has aged.
CONVERSATIONS: Final = """
local before, limit, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, answer, bytes, passed = tonumber(ARGV[4]), {}, 0, 0
if needs_trim(now) then
  trim(now)
  keep('k', k, 'o', o or '')
end
if not index_mail() then return AGAIN end
local below = before == '' and '+inf' or '(' .. before
while #answer <= limit do
  local asked = math.min(limit + 1 - #answer, 64)
  local some = call('ZREVRANGEBYSCORE', c, below, '-inf', 'LIMIT', 0, asked)
  local aged
  for _, peer in ipairs(some) do
    local seq = tonumber(call('ZSCORE', c, peer))
    local letter, entry = 'm', at_seq(m, seq)
    if not entry then
      letter, entry = 's', at_seq(s, seq)
      local _, at = parts(entry)
      aged = tonumber(at) <= now - HISTORY_MS
    end
    if aged then
      -- The one before it has another place, which may be below those that were asked for.
      remove(s, 's', entry)
      passed = passed + 1
      if passed == PASSED_AT_ONCE then return AGAIN end
      break
    end
    local beyond, own = '(' .. place('m', peer, p), '(m' .. peer .. '\\1'
    answer[#answer + 1] = {letter, entry, call('ZLEXCOUNT', y, beyond, own)}
    bytes = bytes + #entry[2][4]
    if #answer > 1 and bytes > most then return answer end
    below = '(' .. str(seq)
  end
  if not aged and #some < asked then break end
end
return answer
"""
_THERE: Final = """
local call, b, f = redis.call, KEYS[1], KEYS[#KEYS]
if call('EXISTS', b) == 0 then return NO_MAILBOX end
"""
BLOCK: Final = f"""{_THERE}
if call('HEXISTS', f, ARGV[1]) == 1 then return 0 end
local count = call('HLEN', f)
if count >= MOST_BLOCKED then return TOO_MANY end
call('HSET', f, ARGV[1], ARGV[2])
call('HSET', b, 'f', count + 1)
return 1
"""
UNBLOCK: Final = f"""{_THERE}
if call('HDEL', f, ARGV[1]) == 0 then return 0 end
call('HSET', b, 'f', call('HLEN', f))
return 1
"""
BLOCKED: Final = f"""{_THERE}
return call('HGETALL', f)
"""
SET_RECEIPTS: Final = f"""{_THERE}
if ARGV[1] == '1' then return call('HDEL', b, 'g') end
call('HSET', b, 'g', 0)
return 1
"""
