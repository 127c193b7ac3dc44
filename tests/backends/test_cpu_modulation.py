"""A run's last bits do not depend on what runs before it have shown of the loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from toys import call_inputs, noise, random_schedule, toy_dit

import l2c_rt as rt
from l2c_rt.backends.cpu.modulation import ModulationTable

STEPS = 8


def run(fast: rt.Compiled, labels: Any = lambda k, y: y) -> list[Tensor]:
    inputs = [call_inputs(k) for k in range(STEPS)]
    return [fast(x, t, labels(k, y)) for k, (x, t, y) in enumerate(inputs)]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("labels", ["same", "other in the middle"])
def test_every_run_of_a_loop_is_the_same_to_the_bit(given: bool, labels: str) -> None:
    known = [float(call_inputs(k)[1][0]) for k in range(STEPS)]
    options: Any = {"timesteps": known} if given else {}
    model = toy_dit(hidden_size=64, depth=4)
    fast = rt.compile(model, random_schedule(STEPS, 8), backend="fused", **options)

    def other(k: int, y: Tensor) -> Tensor:
        return y if labels == "same" or k < 3 else y + 1

    first = run(fast, other)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(run(fast, other), first, strict=True))


@pytest.mark.parametrize("window", [1, 3, STEPS])
def test_rows_met_one_by_one_are_those_tabulated_ahead(window: int) -> None:
    fusable = rt.compile(toy_dit(hidden_size=64), random_schedule(STEPS, 6)).bound_model.fusable
    assert fusable is not None
    step_bytes = 2 * (6 * 3 + 2) * 64 * 4  # Two labels, three blocks and the final norm.
    cap = window * step_bytes
    ahead, single = (ModulationTable(fusable, STEPS, cap) for _ in range(2))
    steps = [call_inputs(k) for k in range(STEPS)]
    timesteps = [float(t[0]) for _, t, _ in steps]
    for k, (_, t, y) in enumerate(steps):
        assert torch.equal(ahead.begin(t, y, k, timesteps), single.begin(t, y, k, None))
        assert single.nbytes == step_bytes
    assert ahead.nbytes == step_bytes * (STEPS % window or window)


@pytest.mark.parametrize("whose", ["the model's", "a session's"])
@pytest.mark.parametrize(
    "path", ["t_embedder", "blocks.1.adaLN_modulation", "final_layer.adaLN_modulation"]
)
def test_the_first_run_of_a_sample_tabulates_as_often_as_every_later_one(
    path: str, whose: str
) -> None:
    fast = rt.compile(toy_dit(), random_schedule(STEPS, 6), backend="fused", check="off")
    runner = fast if whose == "the model's" else fast.session()
    rows: list[int] = []

    def count(module: Any, args: Any) -> None:
        rows.append(len(args[0]))

    fast.bound_model.model.get_submodule(path).register_forward_pre_hook(count)
    counts = []
    for seed in range(3):
        rows.clear()
        runner.sample(noise(seed), [1, 2])
        counts.append(list(rows))
    labels = 3
    # One condition to learn how large a step's rows are, then those of all steps at once.
    before = [labels] if path == "t_embedder" else []
    assert counts == [[*before, STEPS * labels]] * 3
