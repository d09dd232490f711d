"""The call: what attempts share, what they do not, and how a stream's settlements are run."""

from __future__ import annotations

from typing import Any

import pytest

from resilient.call import Attribute, Call, Priority, new_call
from resilient.context import Ambient
from resilient.instance import Instance
from resilient.runtime import Runtime
from resilient.verdict import classify_function


async def invoke(call: Call) -> None:
    return None


def a_call(request: Any = ((), {})) -> Call:
    here = Ambient(runtime=Runtime(now=lambda: 10.0))
    return new_call("work", invoke, request, here.runtime, classify_function, here)


def test_a_fresh_call_promises_nothing():
    call = a_call()
    assert (call.attempt, call.deadline, call.remaining, call.ends, call.parent) == (1, None, None, None, None)
    assert (call.repeatable, call.idempotency_key, call.instance, call.tried, call.budget) == (None,) * 5
    assert call.priority is Priority.CRITICAL
    assert not call.blocking


def test_a_child_has_all_that_its_parent_has_but_for_what_is_given():
    parent = a_call()
    parent.deadline, parent.tried, parent.idempotency_key, parent.repeatable = 12.5, [], "key", True
    parent.blocking, parent.priority, parent.attributes = True, Priority.SHEDDABLE, {}
    there = Instance(id="a", host="a", port=1)
    child = parent.evolve(instance=there)
    for name in Call.__annotations__:
        if name not in {"instance", "parent"}:
            assert getattr(child, name) is getattr(parent, name), name
    assert (child.instance, child.parent, parent.instance) == (there, parent, None)
    assert parent.evolve(deadline=11.0).remaining == 1.0
    assert parent.remaining == 2.5
    assert parent.evolve(attempt=2).attempt == 2
    assert child.evolve().instance is there


def test_a_new_attempt_of_a_stream_has_ends_of_its_own_and_every_other_child_shares_them():
    parent = a_call()
    assert parent.evolve(attempt=2).ends is None
    parent.ends = []
    assert parent.evolve(deadline=1.0).ends is parent.ends
    attempt = parent.evolve(attempt=2)
    assert attempt.ends == []
    assert attempt.ends is not parent.ends


def with_ends(log: list[str]) -> tuple[Call, Call, Call]:
    """A logical call, an attempt of it, and a child of that, with two ends on each list."""
    call = a_call()
    call.ends = [lambda error: log.append(f"call 1 {error}"), lambda error: log.append(f"call 2 {error}")]
    attempt = call.evolve(attempt=1)
    assert attempt.ends is not None
    attempt.ends += [lambda error: log.append(f"attempt 1 {error}"), lambda error: log.append(f"attempt 2 {error}")]
    return call, attempt, attempt.evolve(deadline=1.0)


def test_ends_run_from_the_inside_out():
    log: list[str] = []
    *_, inner = with_ends(log)
    inner.finish(None)
    assert log == ["attempt 1 None", "attempt 2 None", "call 1 None", "call 2 None"]


def test_a_discarded_attempt_runs_its_own_ends_only():
    log: list[str] = []
    call, _, inner = with_ends(log)
    inner.finish(None, upto=call)
    assert log == ["attempt 1 None", "attempt 2 None"]


def test_each_end_runs_once_however_often_and_from_wherever_it_is_finished():
    log: list[str] = []
    call, attempt, inner = with_ends(log)
    inner.finish(OSError("gone"))
    for one in (inner, attempt, call):
        one.finish(None)
    assert log == ["attempt 1 gone", "attempt 2 gone", "call 1 gone", "call 2 gone"]


def test_an_end_that_raises_does_not_keep_the_others_from_running():
    log: list[str] = []
    _, attempt, inner = with_ends(log)

    def broken(error: BaseException | None) -> None:
        raise RuntimeError("broken")

    assert attempt.ends is not None
    attempt.ends.insert(0, broken)
    with pytest.raises(RuntimeError, match="broken"):
        inner.finish(None)
    assert len(log) == 4


def test_attributes_are_told_apart_by_identity_and_have_defaults():
    tenant, other = Attribute("tenant", "nobody"), Attribute("tenant", "nobody")
    call = a_call()
    assert call.get(tenant) == "nobody"
    call.attributes = {tenant: "a"}
    assert (call.get(tenant), call.get(other)) == ("a", "nobody")
    assert repr(tenant) == "Attribute('tenant', 'nobody')"


def test_arguments_are_those_of_the_function_or_the_request_itself():
    assert a_call(((1, 2), {"three": 3})).arguments == ((1, 2), {"three": 3})
    assert a_call("GET /").arguments == (("GET /",), {})


def test_a_call_shows_its_name_its_attempt_and_where_it_goes():
    call = a_call()
    assert repr(call) == "<Call work attempt 1>"
    there = call.evolve(attempt=2, instance=Instance(id="a", host="a", port=1))
    assert repr(there) == "<Call work attempt 2 to a>"


def test_priorities_are_in_order():
    assert Priority.CRITICAL_PLUS > Priority.CRITICAL > Priority.SHEDDABLE_PLUS > Priority.SHEDDABLE
