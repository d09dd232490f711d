"""Idempotency keys for a far side that honours them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

from resilient.call import Call, Next, Policy
from resilient.context import Options
from resilient.policies.base import OwnPolicy, Role

if TYPE_CHECKING:
    from resilient.idempotency.intents import Intents
    from resilient.idempotency.leasing import ClientLease

__all__ = ["Honoured"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Honoured(OwnPolicy):
    """Declare that the far side honours idempotency keys, and give each logical call one.

    A call that may run twice anyway (GET, PUT, DELETE, `options(idempotent=True)`) needs none. Every other gets
    one, once, outside of everything that repeats it, so that all its attempts, hedges and redirects carry the
    same; it is then repeatable, because the far side processes it exactly once. A key that the caller brought
    is kept.

    `window`
        For how many seconds the far side remembers a key: 86,400, a day, as `IdempotencyMiddleware` does and
        most public interfaces promise. No attempt is made later than that after the first, since it might be
        processed as new.
    `keys`
        Makes the key from the call, so that a restarted process makes the same: `derived(namespace, ...)` from an
        order's number, or any function. The default is the runtime's `new_id`, a random UUID. A call whose key no
        header could carry fails with `ValueError`, before anything is sent.
    `intents`
        Writes key and request down before the first byte leaves, so that a restarted process can finish what this
        one began; see `Intents`.
    `lease`
        Takes the keys from a leased identity, so that the far side can forget each one exactly when it is no longer
        needed; see `ClientLease`. For calls between services of one's own. Not together with `intents` or `keys`: such
        a key does not outlive the process.

    Raises `ValueError` unless `window` is finite and positive, and for arguments that do not go together.
    """

    window: float = 86_400.0
    keys: Callable[[Call], str] | None = None
    intents: Intents | None = None
    lease: ClientLease | None = None
    role: ClassVar[Role] = Role.KEY
    stateful: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.window) and self.window > 0):
            raise ValueError(f"window={self.window!r}: a finite number of seconds, more than 0")
        if self.lease is not None and (self.intents is not None or self.keys is not None):
            raise ValueError(
                f"lease={self.lease!r}: its keys end with the process, so they can be neither derived nor kept in "
                "intents; leave out keys= and intents=, or lease="
            )
        if self.intents is not None:
            self.intents.check_window(self.window)

    def link(self, nxt: Next[Any], below: Sequence[Policy]) -> Next[Any]:
        """Give the call a key before `nxt`."""
        del below
        window, keys, intents, lease = self.window, self.keys, self.intents, self.lease

        async def layer(call: Call) -> Any:
            if call.repeatable:
                return await nxt(call)
            forgotten = call.runtime.now() + window
            keyed = call if call.deadline is not None and call.deadline < forgotten else call.evolve(deadline=forgotten)
            if keyed.idempotency_key is None:
                if lease is not None:
                    return await lease.run(keyed, nxt)
                keyed.idempotency_key = call.runtime.new_id() if keys is None else _checked(keys(call))
            keyed.repeatable = True
            return await (nxt(keyed) if intents is None else intents.run(keyed, nxt, window=window))

        return layer


def _checked(key: str) -> str:
    Options(idempotency_key=key)  # it raises for what is no key; here, and not at the instance that is sent to
    return key
