"""Objects of the extension whose __init__ never ran raise; they do not read memory."""

from __future__ import annotations

from typing import Any

import pytest

from l2c_rt._C import Arena, GraphLoop

View = type(Arena(1, 64).view(0, (16,), "float32"))
OBJECT = set(dir(object))


def uses(kind: type) -> list[str]:
    return sorted(n for n in set(dir(kind)) - OBJECT if n not in ("__module__",))


ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "view": (0, (16,), "float32"),
    "all_slots": ((16,), "float32"),
    "launch": (0,),
    "_pybind11_conduit_v1_": (b"", None, b""),
}


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k in (Arena, View, GraphLoop) for n in uses(k)]
)
def test_no_use_of_an_uninitialised_object_gets_through(kind: type, name: str) -> None:
    raw = kind.__new__(kind)
    member = getattr(kind, name)
    use = member.fget if isinstance(member, property) else member
    with pytest.raises((RuntimeError, TypeError)):
        use(raw, *ARGUMENTS.get(name, ()))


def test_a_loop_over_an_uninitialised_arena_is_refused() -> None:
    with pytest.raises((RuntimeError, TypeError)):
        GraphLoop(0, [], [Arena.__new__(Arena)])
