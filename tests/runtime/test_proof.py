"""The proof of a description against the model's own forward: forks refused, the cost of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from typing import Any

import pytest
import torch
from cached_oracle import Oracle
from forks import BLOCKS, FORKS
from taped_graphs import compile_taped
from torch import Tensor
from toys import call_inputs, drive, random_schedule, timesteps, toy_dit, toy_uvit

from l2c_rt.adapters import bind
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.api import compile
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import Full

STEPS = 4
BRANCHES = tuple(f"{kind}-{i}" for i in range(3) for kind in ("attn", "mlp"))
BACKENDS: dict[str, Callable[..., Any]] = {
    "reference": partial(compile, backend="reference"),
    "fused": partial(compile, backend="fused"),
    "cuda": compile_taped,
}
backends = pytest.mark.parametrize("backend", BACKENDS)


def every_fork(first: int) -> list[tuple[str, str]]:
    """Each fork with a backend, and each backend with a third of the forks."""
    return list(zip(FORKS, islice(cycle(BACKENDS), first, None), strict=False))


def compiled(backend: str, model: Any, **options: Any) -> Any:
    schedule = random_schedule(STEPS, 6, seed=1)
    return BACKENDS[backend](model, schedule, **options)


def half_of_everything(model: Any) -> BoundModel:
    return replace(bind(model), finish=lambda state: state.x / 2, sites=())


def all_equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@backends
@pytest.mark.parametrize("fork", FORKS)
def test_a_fork_runs_its_own_forward_from_the_first_call_on(fork: str, backend: str) -> None:
    model = FORKS[fork]()
    fast = BACKENDS[backend](model, Full().schedule(STEPS, BRANCHES))
    with pytest.warns(L2CWarning, match="own forward runs.* computes something else"):
        first = fast(*call_inputs(0))
    outputs = [first, *drive(fast, STEPS, start=1)]
    assert all_equal(outputs, drive(model, STEPS))
    assert all_equal(drive(fast, STEPS), outputs)
    assert fast.backend.name == "own"
    assert "computes something else" in str(fast.summary())
    assert fast.summary().weight_changes == 0


@backends
@pytest.mark.parametrize("fork", ["ParallelBranches", "NoLongSkips"])
def test_a_cached_fork_gives_what_plain_hooks_on_it_give(fork: str, backend: str) -> None:
    model = FORKS[fork]()
    fast = compiled(backend, model)
    with pytest.warns(L2CWarning, match="computes something else"):
        outputs = drive(fast, STEPS)
    paths = {site.name: site.children[-1] for site in fast.bound_model.sites}
    assert all_equal(outputs, drive(Oracle(model, fast.schedule, paths), STEPS))
    with torch.no_grad():
        next(model.parameters()).add_(0.01)
    assert all_equal(drive(fast, STEPS), drive(Oracle(model, fast.schedule, paths), STEPS))
    assert not all_equal(drive(fast, STEPS), outputs)


@pytest.mark.parametrize(
    ("fork", "backend"), [pair for pair in every_fork(1) if pair[0] != "HalfTheChannels"]
)
def test_sample_runs_a_fork_too(fork: str, backend: str) -> None:
    model = FORKS[fork]()
    fast = BACKENDS[backend](model, Full().schedule(4, BRANCHES))
    x = torch.randn(1, 4, 8, 8)
    with pytest.warns(L2CWarning, match="computes something else"):
        latents = fast.sample(x, [1])
    with pytest.warns(L2CWarning, match="a fork"):
        own = compile(model, Full(), steps=4, adapter=lambda m: own_instead(bind(m), "a fork"))
    assert torch.equal(latents, own.sample(x, [1]))


@pytest.mark.parametrize(("fork", "backend"), every_fork(2))
def test_strict_refuses_a_fork_at_every_call(fork: str, backend: str) -> None:
    fast = compiled(backend, FORKS[fork](), strict=True)
    for _ in range(2):
        with pytest.raises(ValueError, match="computes something else") as refusal:
            fast(*call_inputs(0))
        assert "check='off'" in str(refusal.value)


def test_an_adapter_without_sites_is_refused_where_it_is_wrong() -> None:
    fast = compiled("reference", toy_dit(), adapter=half_of_everything)
    with pytest.raises(ValueError, match="give adapter="):
        fast(*call_inputs(0))


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_reason_names_the_first_block_that_differs(kind: type) -> None:
    fast = compiled("reference", FORKS[kind.__name__]())
    with pytest.warns(L2CWarning, match="from block 1 on"):
        fast(*call_inputs(0))


def test_a_difference_behind_the_blocks_is_said_to_be_there() -> None:
    with pytest.warns(L2CWarning, match="after the last block"):
        compiled("reference", FORKS["Velocity"]())(*call_inputs(0))
    shapes = r"gives \[2, 4, 8, 8\] float32, described it gives \[2, 8, 8, 8\] float32"
    with pytest.warns(L2CWarning, match=shapes):
        compiled("reference", FORKS["HalfTheChannels"]())(*call_inputs(0))


def test_a_block_replaced_by_a_fork_between_runs_is_noticed() -> None:
    model = toy_dit()
    fast = compiled("reference", model)
    plain = drive(fast, STEPS)
    block = model.blocks[1]
    model.blocks[1] = FORKS["PostNorm"]().blocks[1]
    with pytest.warns(L2CWarning, match="from block 1 on"):
        assert torch.equal(fast(*call_inputs(0)), model(*call_inputs(0)))
    model.blocks[1] = block
    fast.reset()
    assert all_equal(drive(fast, STEPS), plain)
    assert fast.backend.name == "reference"


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


def test_the_users_modules_carry_no_hook_after_a_difference() -> None:
    model = FORKS["Velocity"]()
    with pytest.warns(L2CWarning, match="computes something else"):
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
