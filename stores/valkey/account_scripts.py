"""The scripts on accounts, names, sessions and what servers share: each runs as one step.

The hash of an account has the fields ``u`` its username, ``h`` its password hash, ``c`` when it was
made, ``x`` while it is disabled, ``m`` while its password must be changed, and ``g`` once it is
deleted: 1 if its name stays reserved, else 0. A session is kept as ``OPENED:USED:USERNAME``.
"""

from typing import Final

from twinline.stores.valkey.wire import Script

GONE: Final = -1
TWICE: Final = -2
LATE: Final = -3
"""What scripts answer instead of what was asked for."""

_NOW: Final = """
local function now_ms()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end
"""
_LIVE: Final = """
local v = redis.call('HMGET', KEYS[1], 'u', 'h', 'g', 'x')
local there = v[1] and not v[3]
"""
_END: Final = """
local function end_sessions(tokens)
  for i = 1, #tokens, 200 do
    local some = {unpack(tokens, i, math.min(i + 199, #tokens))}
    redis.call('HDEL', KEYS[2], unpack(some))
    for at, token in ipairs(some) do some[at] = #token .. ':' .. token end
    redis.call('SPUBLISH', string.sub(KEYS[2], 1, -2) .. 'e', table.concat(some))
  end
end
"""
_BORN: Final = f"""{_NOW}
if redis.call('EXISTS', KEYS[1]) == 1 then return -2 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return string.format('%.0f', now_ms())
"""
# With a time behind which it is not done: it may be asked of an engine that was stopped meanwhile,
# and what it would publish may have been taken away by then.
_PUBLISH: Final = f"""{_NOW}
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return -2 end
if now_ms() > tonumber(ARGV[3]) then return -3 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], 0, ARGV[1])
return 1
"""
_UNMAKE: Final = f"""{_LIVE}
if v[1] and not there then return 0 end
redis.call('UNLINK', unpack(KEYS))
return 1
"""
_SET_HASH: Final = f"""{_LIVE}
if not there then return -1 end
if v[2] ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'h', ARGV[2])
return 1
"""
_CHANGE_PASSWORD: Final = f"""{_LIVE}{_END}
if not there then return -1 end
if ARGV[2] == '1' and v[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'h', ARGV[1])
if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'm', 1) else redis.call('HDEL', KEYS[1], 'm') end
local tokens = {{}}
for _, token in ipairs(redis.call('HKEYS', KEYS[2])) do
  if ARGV[4] ~= '1' or token ~= ARGV[5] then tokens[#tokens + 1] = token end
end
end_sessions(tokens)
return {{v[2], tokens}}
"""
_ENABLE: Final = f"""{_LIVE}{_END}
if not there then return -1 end
if ARGV[1] == '1' then
  redis.call('HDEL', KEYS[1], 'x')
  return {{}}
end
redis.call('HSET', KEYS[1], 'x', 1)
local tokens = redis.call('HKEYS', KEYS[2])
end_sessions(tokens)
return tokens
"""
# Of an account that may be gone.
_CLOSE_ALL: Final = f"""{_END}
local tokens = redis.call('HKEYS', KEYS[2])
end_sessions(tokens)
return tokens
"""
_WITHDRAW: Final = f"""{_LIVE}{_END}
if not there or (ARGV[2] == '1' and v[2] ~= ARGV[3]) then return -1 end
redis.call('HSET', KEYS[1], 'g', ARGV[1])
local tokens = redis.call('HKEYS', KEYS[2])
end_sessions(tokens)
redis.call('UNLINK', KEYS[3])
return {{v[1], v[2], tokens}}
"""
_RELEASE: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[1], ARGV[1], '')
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""
_OPEN_SESSION: Final = f"""{_LIVE}{_END}
if not there or v[4] or (ARGV[4] == '1' and v[2] ~= ARGV[5]) then return -1 end
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return -2 end
local ended = {{}}
if ARGV[6] ~= '' and redis.call('HLEN', KEYS[2]) >= tonumber(ARGV[6]) then
  local all, oldest = redis.call('HGETALL', KEYS[2]), nil
  for i = 1, #all, 2 do
    local used = tonumber(string.match(all[i + 1], '^%-?%d+:(%-?%d+):'))
    if not oldest or used < oldest then oldest, ended[1] = used, all[i] end
  end
  end_sessions(ended)
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ':' .. ARGV[3] .. ':' .. v[1])
return ended
"""
_TOUCH: Final = """
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if not kept then return 0 end
local opened, username = string.match(kept, '^(%-?%d+):%-?%d+:(.*)$')
redis.call('HSET', KEYS[1], ARGV[1], opened .. ':' .. ARGV[2] .. ':' .. username)
return 1
"""
_CLOSE: Final = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('SPUBLISH', string.sub(KEYS[1], 1, -2) .. 'e', #ARGV[1] .. ':' .. ARGV[1])
return 1
"""
_NOTE_ADDRESS: Final = f"""{_LIVE}
if not there then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
local over = redis.call('HLEN', KEYS[2]) - tonumber(ARGV[3])
if over > 0 then
  local all, noted = redis.call('HGETALL', KEYS[2]), {{}}
  for i = 1, #all, 2 do noted[#noted + 1] = {{tonumber(all[i + 1]), all[i]}} end
  table.sort(noted, function(x, y) return x[1] < y[1] end)
  for i = 1, over do redis.call('HDEL', KEYS[2], noted[i][2]) end
end
return 1
"""
_COUNT: Final = """
for i = 1, #ARGV, 2 do
  if redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) <= 0 then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return 1
"""
_NOTE: Final = f"""{_NOW}
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms()), ARGV[1])
return 1
"""
_DUE: Final = f"""{_NOW}
local function text(x) return string.format('%.0f', x) end
local before = text(math.min(now_ms() - ARGV[1], tonumber(ARGV[2])))
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[3])
return {{due, redis.call('ZCOUNT', KEYS[1], '-inf', ARGV[2]) - #due}}
"""
# KEYS of what is done to invitations: they and the claims of them. See `invitations`.
_INVITE: Final = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return -2 end
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%-?%d+:(%-?%d+):')) <= tonumber(ARGV[3]) then
    redis.call('HDEL', KEYS[1], all[i])
    redis.call('HDEL', KEYS[2], all[i])
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
"""
_UNINVITE: Final = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
_CLAIM: Final = f"""{_NOW}
local kept = redis.call('HGET', KEYS[1], ARGV[1])
if not kept or redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return 0 end
if tonumber(string.match(kept, '^%-?%d+:(%-?%d+):')) <= tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', now_ms()) .. ':' .. ARGV[2])
return 1
"""
_OWN_CLAIM: Final = """
local function of(claim, id) return claim and string.match(claim, '^%d+:(.*)$') == id end
"""
_SETTLE: Final = f"""{_OWN_CLAIM}
if not of(redis.call('HGET', KEYS[2], ARGV[1]), ARGV[2]) then return 0 end
redis.call('HDEL', KEYS[2], ARGV[1])
if ARGV[3] == '1' then redis.call('HDEL', KEYS[1], ARGV[1]) end
return 1
"""
_RELEASE_CLAIMS: Final = f"""{_OWN_CLAIM}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if of(all[i + 1], ARGV[1]) then redis.call('HDEL', KEYS[1], all[i]) end
end
return 1
"""
_OLD_CLAIMS: Final = f"""{_NOW}
local all, old, before = redis.call('HGETALL', KEYS[2]), {{}}, now_ms() - ARGV[1]
for i = 1, #all, 2 do
  local since, id = string.match(all[i + 1], '^(%d+):(.*)$')
  if tonumber(since) <= before then
    old[#old + 1] = all[i]
    old[#old + 1] = id
  end
end
return old
"""
# What this store is, and who uses it: another policy is taken over once nobody else does.
_JOIN: Final = f"""{_NOW}
local now = now_ms()
local source = redis.call('HGET', KEYS[1], 'filled_from')
if source then return {{-3, source}} end
if redis.call('EXISTS', KEYS[3]) == 1 then return {{-4, ''}} end
local format = redis.call('HGET', KEYS[1], 'format')
local policy = redis.call('HGET', KEYS[1], 'policy')
if format and format ~= ARGV[2] then return {{-1, format}} end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now - ARGV[4]))
redis.call('ZREM', KEYS[2], ARGV[3])
if policy and policy ~= ARGV[1] and redis.call('ZCARD', KEYS[2]) > 0 then return {{-2, policy}} end
redis.call('HSET', KEYS[1], 'format', ARGV[2], 'policy', ARGV[1])
redis.call('ZADD', KEYS[2], string.format('%.0f', now), ARGV[3])
return {{policy == ARGV[1] and 1 or 0, policy or ''}}
"""
# A command of `twinline store` has the store to itself, as long as it says so again and again.
_HOLD: Final = f"""{_NOW}
local held = redis.call('GET', KEYS[2])
if ARGV[4] == '1' then
  if held ~= ARGV[1] then return -1 end
elseif held then
  return -1
else
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms() - ARGV[2]))
  local servers = redis.call('ZCARD', KEYS[1])
  if servers > 0 then return servers end
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[3])
return 0
"""
_RELEASE_HOLD: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""
_CHANGE_STATE: Final = """
local value = redis.call('GET', KEYS[1])
if ARGV[1] == '1' then
  if value ~= ARGV[2] then return 0 end
elseif value then
  return 0
end
if ARGV[3] == '1' then
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
else
  redis.call('DEL', KEYS[1])
end
return 1
"""


class AccountScripts:
    """All of them."""

    def __init__(self) -> None:
        self.born = Script(_BORN)
        self.publish = Script(_PUBLISH)
        self.unmake = Script(_UNMAKE)
        self.set_hash = Script(_SET_HASH)
        self.change_password = Script(_CHANGE_PASSWORD)
        self.enable = Script(_ENABLE)
        self.withdraw = Script(_WITHDRAW)
        self.release = Script(_RELEASE)
        self.open_session = Script(_OPEN_SESSION)
        self.touch = Script(_TOUCH)
        self.close = Script(_CLOSE)
        self.close_all = Script(_CLOSE_ALL)
        self.note_address = Script(_NOTE_ADDRESS)
        self.count = Script(_COUNT)
        self.invite = Script(_INVITE)
        self.uninvite = Script(_UNINVITE)
        self.claim = Script(_CLAIM)
        self.settle = Script(_SETTLE)
        self.release_claims = Script(_RELEASE_CLAIMS)
        self.old_claims = Script(_OLD_CLAIMS)
        self.note = Script(_NOTE)
        self.due = Script(_DUE)
        self.join = Script(_JOIN)
        self.hold = Script(_HOLD)
        self.release_hold = Script(_RELEASE_HOLD)
        self.change_state = Script(_CHANGE_STATE)

    @property
    def all(self) -> tuple[Script, ...]:
        """Every one of them."""
        return tuple(vars(self).values())
