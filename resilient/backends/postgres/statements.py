"""The SQL of claims in PostgreSQL.

Every statement reads the clock anew, and those that wait for a row read it after they have it: `clock_timestamp()`
moves on within a transaction. Values are put into the text by psycopg, so that several statements are one round trip.
"""

from __future__ import annotations

from typing import final

__all__ = ["CLOCK", "GUARD", "MIGRATIONS", "SWEEP_EVERY", "Statements"]

CLOCK = "clock_timestamp()"
"""The SQL expression for now."""
GUARD = "scope = %s AND key = %s AND fence = %s AND state = %s"
"""The condition of every write after a claim."""
SWEEP_EVERY = 32
"""Claims between two sweeps of a busy store. One that claims less than once a second is swept with each claim."""
_SWEEP = 64
"""Forgotten records that a sweep removes at most: more than are added between two of them."""

MIGRATIONS = (
    (
        # `written` is `running` inside the transaction of an effect; it can be seen from outside only if that
        # transaction was committed without its record. A lease that was given back is NULL, as that of a result.
        """
        CREATE TABLE resilient_claims (
            scope text NOT NULL,
            key text NOT NULL,
            fingerprint bytea NOT NULL,
            state text NOT NULL CHECK (state IN ('running', 'written', 'done')),
            fence bigint NOT NULL,
            owner text NOT NULL,
            attempt integer NOT NULL,
            lease_until timestamptz,
            recovery_point text NOT NULL,
            recovery_data bytea,
            result bytea,
            created_at timestamptz NOT NULL,
            expires_at timestamptz NOT NULL,
            PRIMARY KEY (scope, key)
        )
        """,
        "CREATE INDEX resilient_claims_expiry ON resilient_claims (expires_at)",
        "CREATE SEQUENCE resilient_claims_fence",
    ),
)

# Microseconds. When the sequence is behind the clock it jumps ahead of it; those who looked before draw at most this
# much later, and still get a number that is above the time they were given it at.
_MARGIN = 500_000
_LEAD = 1_500_000
_RAISING = 0x7265_7370
"""The advisory lock under which the sequence jumps, so that it never falls back."""

_COLUMNS = """
    k.fingerprint, k.state, k.fence, k.owner, k.attempt, k.lease_until IS NULL,
    coalesce(extract(epoch FROM k.lease_until - {clock}), 0)::float8,
    extract(epoch FROM k.expires_at - {clock})::float8, k.recovery_point, k.recovery_data, k.result
"""
_MICROSECONDS = "(extract(epoch FROM {clock}) * 1000000)::bigint"
_FORGOTTEN = "(k.expires_at <= {clock} AND (k.lease_until IS NULL OR k.lease_until <= {clock}))"
_CLAIM = """
    INSERT INTO resilient_claims AS k
        (scope, key, fingerprint, state, fence, owner, attempt, lease_until, recovery_point, created_at, expires_at)
    VALUES (%s, %s, %s, '{state}', nextval('resilient_claims_fence'), %s, 1, {clock} + %s * interval '1 second',
            'started', {clock}, {clock} + %s * interval '1 second')
    ON CONFLICT (scope, key) DO UPDATE SET
        fingerprint = EXCLUDED.fingerprint,
        state = EXCLUDED.state,
        fence = greatest(nextval('resilient_claims_fence'), k.fence + 1),
        owner = EXCLUDED.owner,
        attempt = CASE WHEN {forgotten} THEN 1 ELSE k.attempt + 1 END,
        lease_until = {clock} + %s * interval '1 second',
        recovery_point = CASE WHEN {forgotten} THEN 'started' ELSE k.recovery_point END,
        recovery_data = CASE WHEN {forgotten} THEN NULL ELSE k.recovery_data END,
        result = NULL,
        created_at = CASE WHEN {forgotten} THEN {clock} ELSE k.created_at END,
        expires_at = {clock} + %s * interval '1 second'
    WHERE {forgotten} OR (
        k.state = 'running' AND k.fingerprint = EXCLUDED.fingerprint
        AND (k.lease_until IS NULL OR (%s AND k.lease_until <= {clock}))
    )
    RETURNING k.fence, k.attempt, k.recovery_point, k.recovery_data
"""
_SWEEP_UP = """
    DELETE FROM resilient_claims WHERE ctid IN (
        SELECT k.ctid FROM resilient_claims AS k WHERE {forgotten} ORDER BY k.expires_at LIMIT {limit}
        FOR UPDATE SKIP LOCKED
    )
"""
_DONE = "state = 'done', result = %s, lease_until = NULL, expires_at = {clock} + %s * interval '1 second'"


@final
class Statements:
    """The statements over a clock, and under a guard."""

    def __init__(self, clock: str, guard: str) -> None:
        self.clock = clock
        forgotten = _FORGOTTEN.format(clock=clock)
        columns = _COLUMNS.format(clock=clock)
        microseconds = _MICROSECONDS.format(clock=clock)
        sweep = _SWEEP_UP.format(forgotten=forgotten, limit=_SWEEP)
        done = _DONE.format(clock=clock)
        limits = "SET LOCAL lock_timeout = %s"

        def update(change: str, *, returning: str = "1") -> str:
            return f"UPDATE resilient_claims SET {change} WHERE {guard} RETURNING {returning}"  # noqa: S608 - constants

        # Beside the record: is it time to keep house?
        self.look = f"""
            SELECT f.last_value < {microseconds} + {_MARGIN} OR f.last_value %% {SWEEP_EVERY} = 0, {columns}
            FROM resilient_claims_fence AS f LEFT JOIN resilient_claims AS k ON k.scope = %s AND k.key = %s
        """  # noqa: S608
        self.find = f"SELECT {columns} FROM resilient_claims AS k WHERE k.scope = %s AND k.key = %s"  # noqa: S608
        # What this loses in a crash is done again, and whoever draws a number later makes the jump durable.
        self.keep_house = f"""
            BEGIN; SET LOCAL synchronous_commit = off; SELECT pg_advisory_xact_lock({_RAISING});
            SELECT setval('resilient_claims_fence', {microseconds} + {_LEAD})
            FROM resilient_claims_fence WHERE last_value < {microseconds} + {_MARGIN};
            {sweep}; COMMIT
        """  # noqa: S608
        claim = _CLAIM.format(clock=clock, forgotten=forgotten, state="running")
        self.claim = f"BEGIN; {limits}; {claim}; COMMIT"
        self.claim_inside = claim
        # Those who wait for a lock afterwards are the effect's statements, as patient as the session is.
        effect = "SET LOCAL lock_timeout TO DEFAULT"
        claim = _CLAIM.format(clock=clock, forgotten=forgotten, state="written")
        # Whoever waited for a claim that was undone would insert the fence that it drew before its wait, below that of
        # those who came first; so they wait before they draw.
        queue = "SELECT pg_advisory_xact_lock(hashtextextended(%s, hashtext(%s)))"
        self.open = (
            f"BEGIN; {limits}; SET LOCAL idle_in_transaction_session_timeout = %s; {queue}; {claim}; {effect}; "
            "SAVEPOINT resilient_effect"
        )
        left = f"greatest(5, coalesce(1.5 * extract(epoch FROM lease_until - {clock}), 0))::float8"
        idle = f"set_config('idle_in_transaction_session_timeout', ({left} * 1000)::bigint::text, true)"
        written = update("state = 'written'", returning=f"{left}, {idle}")
        self.guard = f"BEGIN; {limits}; {written}; {effect}"
        self.undo = "ROLLBACK TO SAVEPOINT resilient_effect"
        # An error keeps COMMIT from being reached: an effect without its record is never committed.
        self.record = f"WITH recorded AS ({update(done)}) SELECT 1 / count(*) FROM recorded; COMMIT"  # noqa: S608
        self.complete = update(done)
        self.heartbeat = update(f"lease_until = {clock} + %s * interval '1 second'")
        self.save = update("recovery_point = %s, recovery_data = %s")
        self.release = update("lease_until = NULL")
        self.gc = _SWEEP_UP.format(forgotten=forgotten, limit="%s") + " RETURNING 1"
        self.stats = f"""
            SELECT count(*), count(*) FILTER (WHERE k.state = 'running'), count(*) FILTER (WHERE {forgotten}),
                   coalesce(extract(epoch FROM {clock} - min(k.created_at)), 0)::float8,
                   pg_total_relation_size('resilient_claims')
            FROM resilient_claims AS k
        """  # noqa: S608
