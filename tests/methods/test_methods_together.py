"""Methods of every kind in one process: interleaved, cancelled, repeated, each is its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from toys import noise, toy_dit

import l2c_rt as rt
from l2c_rt import methods

pytestmark = pytest.mark.filterwarnings("ignore::l2c_rt.notices.L2CWarning")
STEPS = 8
TIMES = [float(round(900 - 100 * step)) for step in range(STEPS)]
METHODS = {
    "static": methods.FORA(2),
    "static, predicted": methods.TaylorSeer(3, 2),
    "static, blocks": methods.StepsMask((1, 1, 0, 1, 0, 0, 1, 1), 1),
    "decides by a block": methods.FirstBlockCache(5.0),
    "decides by every block": methods.DBPrune(1, 0, 0.5, 1),
    "decides by a call": methods.EasyCache(5.0, 2),
    "decides by a check": methods.SpeCa(1, 0.5, 0.5, 1, 3),
    "tokens": methods.ToCa(fresh_ratio=0.3),
    "tokens, no blocks": methods.DuCa(fresh_ratio=0.3),
    "guidance": methods.GuidanceInterval((350, 1000)),
    "guidance, spectra": methods.FasterCache(
        tensor_format="BCHW", unconditional_batch_timestep_skip_range=(-1, 1000),
        unconditional_batch_skip_range=3,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def call(fast: Any, step: int) -> Tensor:
    """Both halves of a batch with guidance, of latents that change slowly."""
    x = (1 + step / 50) * noise(3)[:1]
    labels = torch.tensor([1, 2])
    out: Tensor = fast(torch.cat([x, x]), torch.full((2,), TIMES[step]), labels)
    return out.clone()


def run(fast: Any, steps: int = STEPS) -> list[Tensor]:
    return [call(fast, step) for step in range(steps)]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def compiled(model: Any) -> dict[str, Any]:
    return {
        name: rt.compile(model, method, steps=STEPS, timesteps=TIMES)
        for name, method in METHODS.items()
    }


def test_each_reuses_and_interleaved_over_one_model_gives_what_it_gives_alone() -> None:
    model = toy_dit()
    alone = {name: run(fast) for name, fast in compiled(model).items()}
    plain = [call(model, step) for step in range(STEPS)]
    fasts = compiled(model)
    together: dict[str, list[Tensor]] = {name: [] for name in fasts}
    for step in range(STEPS):
        for name, fast in fasts.items():
            together[name].append(call(fast, step))
    for name, outputs in together.items():
        assert equal(outputs, alone[name]), name
        assert not equal(outputs, plain), name


@pytest.mark.parametrize("name", METHODS)
def test_a_second_request_and_one_after_a_cancelled_one_are_the_first(name: str) -> None:
    fast = rt.compile(toy_dit(), METHODS[name], steps=STEPS, timesteps=TIMES)
    first = run(fast)
    fast.poison()
    assert equal(run(fast), first)
    for steps in (1, 3, 6):
        run(fast, steps)
        assert equal(run(fast), first), steps
