"""Runs of methods that decide: nothing of one run is left in another, and who may not reuse."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from block_models import BlockOracle, OneStream, TwoStreams, built, inputs
from torch import Tensor, nn
from toys import drive, toy_dit

import l2c_rt as rt
from l2c_rt.methods import DBCache, EasyCache, FirstBlockCache, SeaCache, SpeCa, TeaCache
from l2c_rt.notices import L2CWarning
from l2c_rt.runtime.last_run import Act

STEPS = 8
METHODS = [
    FirstBlockCache(0.1),
    DBCache(1, 1, 0.1, 1),
    DBCache(1, 1, 0.1, 1, taylorseer_order=2),
    DBCache(1, 1, 0.1, 1, taylorseer_order=1, calibrator_cache_type="hidden_states"),
    TeaCache(0.1, (1.0, 0.0)),
    EasyCache(0.1, ret_steps=2),
    SpeCa(2, 0.5, 0.5, 1, 3),
]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


TIMES = [1.0 - 0.01 * step for step in range(STEPS)]


class WithUnused(OneStream):
    """A module that its forward does not call."""

    def __init__(self, depth: int) -> None:
        super().__init__(depth)
        self.unused = nn.Linear(2, 2)


class Indirect(WithUnused):
    """It comes to its modules by their names."""

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        assert dict(self.named_children())
        return super().forward(hidden_states, timestep)


def compiled(method: Any, kind: Any = OneStream, **options: Any) -> Any:
    return rt.compile(built(kind, 5), method, steps=STEPS, **{"timesteps": TIMES} | options)


def call(fast: Any, step: int, scale: float = 1.0, **options: Any) -> Tensor:
    """Latents that change by some hundredths of their size from step to step."""
    lane = {"lane": options.pop("lane")} if "lane" in options else {}
    given = inputs(0, **options)
    x = given["hidden_states"] + 0.05 * step * inputs(1)["hidden_states"]
    given |= {"timestep": torch.full((2,), TIMES[step]), "hidden_states": scale * x}
    out: Tensor = fast(**given, **lane)
    return out


def run(fast: Any, steps: int = STEPS, **options: Any) -> list[Tensor]:
    return [call(fast, step, **options).clone() for step in range(steps)]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@every_method
def test_a_second_request_is_the_first_bitwise_and_the_memory_stays(method: Any) -> None:
    fast = compiled(method)
    first = run(fast)
    assert 0 < fast.last_run.computed.sum() < STEPS
    taken = fast.summary().arena_allocations
    fast.poison()
    assert equal(run(fast), first)
    assert fast.summary().arena_allocations == taken


@every_method
@pytest.mark.parametrize("steps", [1, 3, 5])
def test_an_abandoned_run_leaves_nothing(method: Any, steps: int) -> None:
    fast, fresh = compiled(method), compiled(method)
    run(fast, steps, scale=3.0)
    fast.reset()
    fast.poison()
    assert equal(run(fast), run(fresh))
    assert (fast.last_run.acts == fresh.last_run.acts).all()


def test_a_call_that_fails_leaves_nothing() -> None:
    fast, fresh = compiled(FirstBlockCache(0.1)), compiled(FirstBlockCache(0.1))
    run(fast, 3, scale=3.0)
    handle = fast.bound_model.model.blocks[0].attn.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(fast, 3)
    handle.remove()
    assert equal(run(fast), run(fresh))


def test_methods_over_one_model_may_be_interleaved() -> None:
    model = built(OneStream, 5)
    fasts = [
        rt.compile(model, method, steps=STEPS, timesteps=TIMES)
        for method in (FirstBlockCache(0.1), TeaCache(0.1, (1.0, 0.0)), FirstBlockCache(0.5))
    ]
    alone = [run(fast) for fast in fasts]
    together: list[list[Tensor]] = [[] for _ in fasts]
    for step in range(STEPS):
        for outputs, fast in zip(together, fasts, strict=True):
            outputs.append(call(fast, step).clone())
    for a, b in zip(together, alone, strict=True):
        assert equal(a, b)


def test_calls_of_a_step_decide_by_themselves() -> None:
    method = FirstBlockCache(0.1)
    fast = compiled(method, calls_per_step=2)
    for step in range(STEPS):
        call(fast, step, lane=0)
        call(fast, step, 1.0 + 0.5 * (step % 2), lane=1)
    acts = fast.last_run.acts
    alone = compiled(method)
    run(alone)
    assert (acts[:, 0] == alone.last_run.acts[:, 0]).all()
    assert (acts[:, 0] != acts[:, 1]).any()


def test_later_calls_of_a_step_follow_the_first_with_easycache() -> None:
    fast = compiled(EasyCache(0.1, ret_steps=2), calls_per_step=2)
    for step in range(STEPS):
        call(fast, step, lane=0)
        call(fast, step, 1.0 + 2.0 * (step % 2), lane=1)
    computed = fast.last_run.computed
    assert (computed[:, 0] == computed[:, 1]).all()
    assert not computed.all()


@pytest.mark.parametrize(
    ("kind", "streams", "options"),
    [(OneStream, ("hidden_states",), {}),
     (TwoStreams, ("encoder_hidden_states", "hidden_states"), {"text": 3})],
)  # fmt: skip
def test_outputs_are_those_of_plain_hooks_that_do_the_same(
    kind: Any, streams: Any, options: Any
) -> None:
    fast = compiled(DBCache(1, 1, 0.1, 1), kind)
    outputs = run(fast, **options)
    oracle = BlockOracle(built(kind, 5), fast.last_run.schedule(), streams)
    expected = run(oracle, **options)
    assert not fast.last_run.computed.all()
    for a, b in zip(outputs, expected, strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


def test_a_loop_that_nothing_is_known_of_is_computed_in_full() -> None:
    fast = compiled(FirstBlockCache(1e6), timesteps=None)
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(2, 6, 8, generator=generator) for _ in range(STEPS)]
    fast(noise[0], torch.full((2,), TIMES[0]))
    with pytest.warns(L2CWarning, match="computed in full"):
        fast(noise[1], torch.full((2,), TIMES[1]))
    for step in range(2, STEPS):
        fast(noise[step], torch.full((2,), TIMES[step]))
    assert fast.last_run.computed.all()


@pytest.mark.parametrize("method", [FirstBlockCache(1e6), TeaCache(1e6, (1.0, 0.0)), SpeCa(1)])
def test_dit_of_the_published_structure_runs_its_own_forward(method: Any) -> None:
    fast = rt.compile(toy_dit(), method, steps=4)
    drive(fast, 4)
    assert not fast.last_run.computed.all()
    assert fast.summary().reasons == ()


def test_a_branch_that_is_predicted_is_not_called() -> None:
    fast = rt.compile(toy_dit(), SpeCa(1), steps=4)
    drive(fast, 4)
    acts = fast.last_run.acts[:, 0]
    assert (acts[1] != Act.COMPUTED).all()


class Wide(nn.Module):
    """Three times as many channels out as in."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 12)])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.blocks[0](x)
        return out


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (DBCache(8), {}, "computes 8 blocks .* the model has 5"),
        (TeaCache(0.1, "flux", indicator="blocks.0.norm9"), {}, "no module 'blocks.0.norm9'"),
        (TeaCache(0.1), {}, "none published for WithUnused"),
        (TeaCache(0.1, (1.0, 0.0), indicator="blocks.1.attn"), {}, "blocks.0, which may be reused"),
        (TeaCache(0.1, (1.0, 0.0), indicator="proj_out"), {}, "proj_out .* comes after blocks.0"),
        (TeaCache(0.1, (1.0, 0.0), indicator="unused"), {}, "does not call unused"),
        (FirstBlockCache(), {"granularity": "branch"}, "decides about blocks, got 'branch'"),
        (FirstBlockCache(), {"corrector": rt.correctors.Taylor(1)}, "leave corrector= out"),
        (SeaCache(sigmas=[1.0, 0.5]), {}, "sigmas has 2 entries, the run has 8"),
        (FirstBlockCache(), {"backend": "fused"}, "described by its sites"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_what_no_run_could_do_is_refused_at_compile(
    method: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(method, WithUnused, **options)


def test_easycache_refuses_a_model_whose_output_does_not_continue_its_input() -> None:
    fast = rt.compile(Wide().eval(), EasyCache(), steps=20)
    with pytest.raises(ValueError, match="does not have the shape of its first argument"):
        fast(torch.ones(1, 3, 4), torch.ones(1))


@pytest.mark.parametrize(
    ("indicator", "message"),
    [("unused", "did not come to unused"), ("proj_out", "proj_out comes after blocks.0")],
)
def test_where_the_source_does_not_tell_the_first_evaluation_does(
    indicator: str, message: str
) -> None:
    fast = compiled(TeaCache(0.1, (1.0, 0.0), indicator=indicator), Indirect)
    with pytest.raises(ValueError, match=message):
        run(fast, 2)
