"""Idempotency keys that can be made again."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from resilient.call import Call
from resilient.idempotency.fingerprint import uuid5

__all__ = ["derived"]

_UUID = re.compile(r"[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


def derived(namespace: object, name: Callable[[Call], str | int | tuple[str | int, ...]]) -> Callable[[Call], str]:
    """Make idempotency keys that a restarted process, or another one, makes again: for `Honoured(keys=...)`.

    ```python
    from resilient import Honoured
    from resilient.idempotency import derived

    Honoured(keys=derived("8e03978e-40d5-43e8-bc93-6894a57f9324", lambda call: (call.name, call.arguments[0][0])))
    ```

    `namespace`
        A UUID of your own, or its text: make one for each system (`uuidgen`), and keep it for ever.
    `name`
        Names the operation, from the call: text, a number, or a tuple of them, such as the number of an order and the
        step that is taken with it. Two operations must never have one name.

    The key is the UUID of version 5 (RFC 9562) of the name as compact JSON, which any language can make:
    `uuid5(namespace, '["charge",17]')`.

    Raises `ValueError` for a namespace that is no UUID; a call whose name is missing or something else fails with
    `TypeError`, before anything is sent.
    """
    text = str(namespace)
    if not _UUID.fullmatch(text):
        raise ValueError(f"namespace={namespace!r}: a UUID, such as '8e03978e-40d5-43e8-bc93-6894a57f9324'")
    space = bytes.fromhex(text.replace("-", ""))

    def keys(call: Call) -> str:
        named = name(call)
        parts = named if isinstance(named, tuple) else (named,)
        if not parts or any(type(part) not in {str, int} or part == "" for part in parts):
            raise TypeError(f"{call.name}: the name of its key is {named!r}: a str, an int, or a tuple of them")
        return uuid5(space, json.dumps(named, separators=(",", ":"), ensure_ascii=False).encode())

    return keys
