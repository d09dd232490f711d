"""The state machine of a claim as scripts that the server runs, each from its beginning to its end with nobody between.

A record is one hash. Its fields: `state` (running or done), `fingerprint`, `fence`, `owner`, `lease` and `expires` and
`created` (milliseconds since the epoch; a lease of 0 was released), `point` and `data` (of the last recovery point),
`result`, `takeover`, and `call`: which call wrote last.

Three facts of the server shape them. A reply can be lost after its script has run, so a call carries a token and a
script that is sent again under the same token finds what it did. A script that fails halfway is not rolled back, so
whatever can fail is tried before the first write, or is undone. And Lua has no integers: a fence is a float below
2**53, exact until the year 2255, but as text only through `%.0f`, as `tostring` keeps 14 digits of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import final

__all__ = ["Script", "Scripts"]

CLOCK = "local t = redis.call('TIME') return t[1] * 1000000 + t[2]"
"""The body of a function: microseconds since the epoch, on the server's clock."""
EXPIRE = "redis.call('PEXPIRE', key, ms)"
"""The body of a function of `key` and `ms`: the server removes the key then."""

_PRELUDE = """
local function clock() {clock} end
local function expire(key, ms) {expire} end
local function text(number) return string.format('%.0f', number) end
local us = clock()
local now = math.floor(us / 1000)
"""

# Retention is no lease: a record stays for as long as either of the two.
_KEEP = """
local function keep(key, lease, expires) expire(key, text(math.max(lease, expires) - now)) end
"""

# What a call wrote before its answer was lost is written once more: to wait for replicas is to wait for what this
# connection wrote.
_AGAIN = """
local function again(call) redis.call('HSET', KEYS[1], 'call', call) end
"""

# KEYS: record, last fence. ARGV: call, fingerprint, owner, lease, ttl, takeover.
_BEGIN = """
local r = redis.call('HMGET', KEYS[1], 'state', 'fingerprint', 'fence', 'lease', 'expires', 'created', 'point', 'data',
    'result', 'takeover', 'call')
local lease, expires = tonumber(r[4]), tonumber(r[5])
local known = r[1] and (lease > now or expires > now)
if known then
    if r[11] == ARGV[1] then
        again(ARGV[1])
        return {'run', r[3], r[10], r[7], r[8]}
    end
    if r[2] ~= ARGV[2] then return {'mismatch'} end
    if r[1] == 'done' then return {'replay', r[9]} end
    if lease > now then return {'busy', lease - now} end
    if lease ~= 0 and ARGV[6] ~= '1' then return {'abandoned'} end
end
local fence = us
for _, last in ipairs({redis.call('GET', KEYS[2]) or '0', r[3] or '0'}) do
    fence = math.max(fence, tonumber(last) + 1)
end
fence = text(fence)
redis.call('SET', KEYS[2], fence)
lease, expires = now + ARGV[4], now + ARGV[5]
local created, point, data, takeover = r[6], r[7], r[8], '1'
if not known then
    redis.call('DEL', KEYS[1])
    created, point, data, takeover = text(now), 'started', false, '0'
end
redis.call('HSET', KEYS[1], 'state', 'running', 'fingerprint', ARGV[2], 'fence', fence, 'owner', ARGV[3],
    'lease', text(lease), 'expires', text(expires), 'created', created, 'point', point, 'takeover', takeover,
    'call', ARGV[1])
keep(KEYS[1], lease, expires)
return {'run', fence, takeover, point, data}
"""

_MINE = """
local r = redis.call('HMGET', KEYS[1], 'state', 'fence', 'expires', 'call')
local mine = r[1] == 'running' and r[2] == ARGV[1]
"""

# KEYS: record. ARGV: fence, lease.
_HEARTBEAT = """
if not mine then return 0 end
local lease = now + ARGV[2]
redis.call('HSET', KEYS[1], 'lease', text(lease))
keep(KEYS[1], lease, tonumber(r[3]))
return 1
"""

# KEYS: record. ARGV: fence, point, data or nothing.
_SAVE = """
if not mine then return 0 end
redis.call('HSET', KEYS[1], 'point', ARGV[2])
if ARGV[3] then redis.call('HSET', KEYS[1], 'data', ARGV[3]) else redis.call('HDEL', KEYS[1], 'data') end
return 1
"""

# KEYS: record. ARGV: fence.
_RELEASE = """
if not mine then return 0 end
redis.call('HSET', KEYS[1], 'lease', '0')
keep(KEYS[1], 0, tonumber(r[3]))
return 1
"""

# KEYS: record, then those of the effect. ARGV: fence, call, ttl, whether there is a result, result, then the words of
# the effect: how many conditions, each as command and expected reply, how many writes, each as a command. A command is
# how many words it has, then these; a reply is what kind it is, then itself.
_COMPLETE = """
if r[1] == 'done' and r[2] == ARGV[1] and r[4] == ARGV[2] then
    again(ARGV[2])
    return {'done'}
end
if not mine then return {'lost'} end
local at = 5
local function take() at = at + 1 return ARGV[at] end
local function take_command()
    local words = {}
    for i = 1, tonumber(take()) do words[i] = take() end
    return words
end
local function failure(words, reply)
    if type(reply) == 'table' and reply.err then return {'failed', words[1] .. ' ' .. words[2], reply.err} end
end
for _ = 1, tonumber(take()) do
    local words = take_command()
    local kind, value = take(), take()
    local reply = redis.pcall(unpack(words))
    local failed = failure(words, reply)
    if failed then return failed end
    if type(reply) == 'table' then reply = reply.ok end
    if type(reply) == 'number' then reply = text(reply) end
    if (kind == 'nothing') ~= (reply == false) or (reply and reply ~= value) then
        return {'changed', words[1] .. ' ' .. words[2], 'not what was expected'}
    end
end
local writes = {}
for i = 1, tonumber(take()) do writes[i] = take_command() end
-- What a failing write does not change itself, the ones before it may have changed: they are put back. First of all it
-- is found out whether that is permitted, on the record.
local before = {}
local function restore(key, dumped, ttl, ...)
    if ttl == 0 then ttl = 1 end -- 0 would be for ever, as less than 0 is
    redis.call('RESTORE', key, math.max(ttl, 0), dumped, ...)
end
if #writes > 1 then
    for i = 1, #writes - 1 do
        local key = writes[i][2]
        if not before[key] then before[key] = {redis.call('DUMP', key), redis.call('PTTL', key)} end
    end
    restore(KEYS[1], redis.call('DUMP', KEYS[1]), redis.call('PTTL', KEYS[1]), 'REPLACE')
end
for _, words in ipairs(writes) do
    local failed = failure(words, redis.pcall(unpack(words)))
    if failed then
        for key, was in pairs(before) do
            redis.call('DEL', key)
            if was[1] then restore(key, was[1], was[2]) end
        end
        return failed
    end
end
redis.call('HSET', KEYS[1], 'state', 'done', 'lease', '0', 'expires', text(now + ARGV[3]), 'call', ARGV[2])
if ARGV[4] == '1' then redis.call('HSET', KEYS[1], 'result', ARGV[5]) end
expire(KEYS[1], ARGV[3])
return {'done'}
"""

# KEYS: record.
_LOOKUP = """
local r = redis.call('HMGET', KEYS[1], 'state', 'fingerprint', 'fence', 'owner', 'lease', 'expires', 'point', 'data',
    'result')
if not r[1] then return {} end
r[5], r[6], r[10] = tonumber(r[5]), tonumber(r[6]), r[5]
if r[5] <= now and r[6] <= now then return {} end
r[5], r[6] = r[5] - now, r[6] - now
return r
"""

# KEYS: some records.
_COUNT = """
local running, done, forgotten, oldest, size = 0, 0, 0, 0, 0
for _, key in ipairs(KEYS) do
    local r = redis.call('HMGET', key, 'state', 'lease', 'expires', 'created')
    if r[1] then
        if r[1] == 'done' then done = done + 1 else running = running + 1 end
        if tonumber(r[2]) <= now and tonumber(r[3]) <= now then forgotten = forgotten + 1 end
        oldest = math.max(oldest, now - r[4])
        local used = redis.pcall('MEMORY', 'USAGE', key, 'SAMPLES', '0')
        if type(used) == 'number' then size = size + used end
    end
end
return {running, done, forgotten, oldest, size}
"""


@final
@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the name that the server knows it by."""

    source: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


@final
class Scripts:
    """All of them. The clock and the expiry of keys are the server's own, but for tests that move time."""

    def __init__(self, *, clock: str = CLOCK, expire: str = EXPIRE) -> None:
        def script(*parts: str) -> Script:
            prelude = _PRELUDE.replace("{clock}", clock).replace("{expire}", expire)
            return Script("".join((prelude, *parts)))

        self.begin = script(_KEEP, _AGAIN, _BEGIN)
        self.heartbeat = script(_KEEP, _MINE, _HEARTBEAT)
        self.save = script(_MINE, _SAVE)
        self.release = script(_KEEP, _MINE, _RELEASE)
        self.complete = script(_AGAIN, _MINE, _COMPLETE)
        self.lookup = script(_LOOKUP)
        self.count = script(_COUNT)
