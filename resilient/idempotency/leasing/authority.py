"""Who leases identities: a store that both sides share, or the far side."""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Protocol, final

from resilient.backends.clients import BlockingClientStore
from resilient.call import Ask
from resilient.errors import StoreUnavailable
from resilient.idempotency.steps import Steps

__all__ = ["PATH", "Authority", "Direct", "Far"]

PATH = "/.well-known/resilient-clients"
"""Where `IdempotencyMiddleware` leases identities."""
_OK, _CREATED, _GONE = 200, 201, 410


class Authority(Protocol):
    """Who leases identities. A lease is in seconds; None: the client is not known any more."""

    async def register(self, client: str) -> tuple[str, float]:
        """Take a lease, under the name `client` where nobody gives another; return name and lease."""
        ...

    async def renew(self, client: str, acknowledged: int) -> float | None:
        """Let the lease begin anew."""
        ...

    async def leave(self, client: str) -> None:
        """End the lease."""
        ...


@final
class Direct:
    """The store itself, which both sides share."""

    def __init__(self, store: BlockingClientStore, steps: Steps, lease: float) -> None:
        self._store = store
        self._steps = steps
        self._lease = lease

    async def register(self, client: str) -> tuple[str, float]:
        """Take a lease."""
        await self._steps.do(partial(self._store.register, client, "", lease=self._lease))
        return client, self._lease

    async def renew(self, client: str, acknowledged: int) -> float | None:
        """Let the lease begin anew."""
        renewed = await self._steps.do(partial(self._store.renew, client, "", acknowledged, lease=self._lease))
        return self._lease if renewed else None

    async def leave(self, client: str) -> None:
        """End the lease."""
        await self._steps.do(partial(self._store.leave, client, ""))


@final
class Far:
    """The far side, asked the way that the calls go."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def register(self, client: str) -> tuple[str, float]:
        """Take a lease."""
        del client  # the far side gives the name
        status, body = await self._ask("POST", PATH)
        given = _read(body) if status == _CREATED else None
        if given is None:
            raise StoreUnavailable(
                f"POST {PATH} was answered with {status} and no lease: the far side leases identities with "
                "IdempotencyMiddleware(client_lease=...)"
            )
        return given

    async def renew(self, client: str, acknowledged: int) -> float | None:
        """Let the lease begin anew."""
        status, body = await self._ask("PUT", f"{PATH}/{client}?acknowledged={acknowledged}")
        if status == _GONE:
            return None
        given = _read(body) if status == _OK else None
        if given is None:
            raise StoreUnavailable(f"PUT {PATH}/... was answered with {status} and no lease")
        return given[1]

    async def leave(self, client: str) -> None:
        """End the lease."""
        await self._ask("DELETE", f"{PATH}/{client}")


def _read(body: bytes) -> tuple[str, float] | None:
    """Name and lease; None for what is something else."""
    try:
        given = json.loads(body)
        client, lease = given["client"], float(given["lease"])
    except (ValueError, TypeError, LookupError):
        return None
    return (client, lease) if isinstance(client, str) and 0 < lease < math.inf else None
