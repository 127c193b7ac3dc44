"""The proof of a description against the model's own forward: forks refused, the cost of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from forks import BLOCKS, FORKS
from taped_graphs import compile_taped
from toys import call_inputs, drive, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt.api import compile

STEPS = 4
BACKENDS: dict[str, Callable[..., Any]] = {
    "reference": compile,
    "fused": lambda model, schedule, **options: compile(
        model, schedule, backend="fused", **options
    ),
    "cuda": compile_taped,
}
backends = pytest.mark.parametrize("backend", BACKENDS)


def compiled(backend: str, model: Any, **options: Any) -> Any:
    schedule = random_schedule(STEPS, 6, seed=1)
    return BACKENDS[backend](model, schedule, **options)


@backends
@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_is_refused_before_it_gives_an_output(fork: str, backend: str) -> None:
    fast = compiled(backend, FORKS[fork]())
    x, t, y = call_inputs(0)
    for _ in range(2):
        with pytest.raises(ValueError, match="computes something else") as refusal:
            fast(x, t, y)
        assert "check='off'" in str(refusal.value)


@backends
@pytest.mark.parametrize("fork", [name for name in FORKS if name != "HalfTheChannels"])
def test_sample_refuses_a_fork_too(fork: str, backend: str) -> None:
    fast = compiled(backend, FORKS[fork]())
    with pytest.raises(ValueError, match="computes something else"):
        fast.sample(torch.randn(1, 4, 8, 8), [1])


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_refusal_names_the_first_block_that_differs(kind: type) -> None:
    fast = compiled("reference", FORKS[kind.__name__]())
    with pytest.raises(ValueError, match="from block 1 on"):
        fast(*call_inputs(0))


def test_a_difference_behind_the_blocks_is_said_to_be_there() -> None:
    with pytest.raises(ValueError, match="after the last block"):
        compiled("reference", FORKS["Velocity"]())(*call_inputs(0))
    shapes = r"gives \[2, 4, 8, 8\] float32, described it gives \[2, 8, 8, 8\] float32"
    with pytest.raises(ValueError, match=shapes):
        compiled("reference", FORKS["HalfTheChannels"]())(*call_inputs(0))


def test_a_block_replaced_by_a_fork_between_runs_is_refused() -> None:
    model = toy_dit()
    fast = compiled("reference", model)
    drive(fast, STEPS)
    model.blocks[1] = FORKS["PostNorm"]().blocks[1]
    with pytest.raises(ValueError, match="from block 1 on"):
        fast(*call_inputs(0))


@backends
@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_the_proof_costs_one_own_forward_and_later_runs_none(make: Any, backend: str) -> None:
    model, own = make(), []
    kind = type(model)

    def forward(self: Any, *args: Any) -> torch.Tensor:
        own.append(1)
        return kind.forward(self, *args)

    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})
    fast = compiled(backend, model, timesteps=timesteps(STEPS))
    assert "not yet" in fast.summary().checked
    for run in range(3):
        drive(fast, STEPS, run)
        with torch.no_grad():
            next(model.parameters()).mul_(1.0)
    assert len(own) == 1
    assert re.search(r"checked +against the model's own forward: equal", str(fast.summary()))


def test_the_users_modules_carry_no_hook_after_a_refusal() -> None:
    model = FORKS["Velocity"]()
    with pytest.raises(ValueError, match="computes something else"):
        compiled("reference", model)(*call_inputs(0))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not torch.nn.modules.module._global_forward_hooks


def test_without_the_check_the_description_runs_as_it_is() -> None:
    fast = compiled("reference", FORKS["Velocity"](), check="off")
    described = compiled("reference", toy_dit())
    for got, expected in zip(drive(fast, STEPS), drive(described, STEPS), strict=True):
        assert torch.equal(got, expected)
    assert "check='off'" in fast.summary().checked
    with pytest.raises(ValueError, match="check: got 'maybe', wanted one of on, off"):
        compiled("reference", toy_dit(), check="maybe")


@backends
def test_outputs_that_are_not_numbers_are_equal_where_both_are(backend: str) -> None:
    model = toy_dit()
    with torch.no_grad():
        model.final_layer.linear.bias.fill_(float("nan"))
    assert compiled(backend, model)(*call_inputs(0)).isnan().all()
