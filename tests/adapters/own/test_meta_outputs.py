"""Outputs on meta are remembered by what decides their layout, and by nothing less."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from l2c_rt.adapters.own.meta_outputs import MetaOutputs


class Remembering(TorchDispatchMode):
    """Answers from memory where it can; counts the answers."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs, self.recalled = MetaOutputs(), 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        key = self.outputs.key(func, args, kwargs)
        out = self.outputs.recall(key)
        if out is not None:
            self.recalled += 1
            return out
        out = func(*args, **kwargs)
        self.outputs.note(key, args, out)
        return out


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def layouts(out: Any) -> list[tuple[object, ...]]:
    outputs = out if isinstance(out, tuple) else (out,)
    return [(o.shape, o.stride(), o.dtype, o.device.type) for o in outputs]


CALLS: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
    (torch.add, (meta(2, 3), meta(3))),
    (torch.add, (meta(2, 3), meta(1, 3))),
    (torch.add, (meta(2, 3), meta(3, 2).t())),
    (torch.add, (meta(3, 2).t(), meta(3, 2).t())),
    (torch.add, (meta(2, 3, dtype=torch.int64), 1)),
    (torch.add, (meta(2, 3, dtype=torch.int64), 1.0)),
    (torch.sum, (meta(2, 3), 0)),
    (torch.sum, (meta(2, 3), 1)),
    (torch.sum, (meta(2, 3), 1, True)),
    (torch.cat, ([meta(2, 3), meta(2, 3)],)),
    (torch.cat, ([meta(2, 3), meta(4, 3)],)),
    (torch.nn.functional.layer_norm, (meta(2, 3), (3,))),
    (torch.nn.functional.gelu, (meta(2, 3, dtype=torch.bfloat16),)),
]  # fmt: skip


def test_a_recalled_output_has_the_layout_that_the_operation_gives() -> None:
    expected = [layouts(call(*args)) for call, args in CALLS]
    with torch.no_grad(), Remembering() as mode:
        first = [layouts(call(*args)) for call, args in CALLS]
        assert mode.recalled == 0
        second = [layouts(call(*args)) for call, args in CALLS]
        assert mode.recalled == len(CALLS)
    assert first == second == expected


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.add_(1),
        lambda x: x[0],
        lambda x: x.view(-1),
        lambda x: torch.add(x, 1, out=x),
        lambda x: torch.add(torch.ones(2, 3), 1),
    ],
    ids=["a write", "a view", "another view", "a given output", "values"],
)
def test_what_writes_shares_memory_or_has_values_is_not_remembered(
    call: Callable[[Tensor], Tensor],
) -> None:
    x = meta(2, 3)
    with torch.no_grad(), Remembering() as mode:
        call(x)
        call(x)
    assert mode.recalled == 0
