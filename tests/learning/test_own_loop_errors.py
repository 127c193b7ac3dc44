"""Loops in which nothing can be learned are refused before the first iteration, with values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_learning import toy_inputs, toy_loop
from toys import toy_dit

from l2c_rt.learning import learn


def times(*counts: int) -> Callable[..., None]:
    """A loop that calls the model so many times in its first run, its second, ..."""
    left = list(counts)

    def loop(m: Any, seed: int) -> None:
        for step in range(left.pop(0) if len(left) > 1 else left[0]):
            m(*toy_inputs(step))

    return loop


def in_inference_mode(m: Any, seed: int) -> None:
    with torch.inference_mode():
        toy_loop(m, seed)


def with_inference_tensors(m: Any, seed: int) -> None:
    with torch.inference_mode():
        x, t, y = toy_inputs(0)
    with torch.no_grad():
        m(x, t, y)


def one_call_named(m: Any, seed: int) -> None:
    for step in range(8):
        with m.cache_context("cond"):
            m(*toy_inputs(step))


@pytest.mark.parametrize(
    ("loop", "options", "message"),
    [
        (times(0), {}, r"did not call the model .*wanted .* 4 x 1 = 4 calls"),
        (times(8), {}, r"called the model 8 times, wanted steps x calls_per_step = 4 x 1 = 4; .*"
                       "calls_per_step=2, or steps=8"),
        (times(6), {"calls_per_step": 2}, r"6 times, wanted .* 4 x 2 = 8; give steps=3"),
        (times(4, 5), {}, "5 times, wanted .* = 4; as in the run before"),
        (times(4, 4, 0), {}, "did not call the model"),
        (one_call_named, {"calls_per_step": 2}, "loop made 8, 0, wanted 4 of each"),
        (in_inference_mode, {}, r"under torch.inference_mode\(\).*use torch.no_grad"),
        (with_inference_tensors, {}, "tensors made there"),
        (toy_loop, {"data": []}, r"loop= and data=True, which the loop decides"),
        (toy_loop, {"batch_size": 4}, "loop= and batch_size=4"),
        (toy_loop, {"calls_per_step": 0}, "calls_per_step is 0, wanted an int of at least 1"),
        (toy_loop, {"calls_per_step": 3, "cfg_scale": 2.0}, "cfg_scale=2 with calls_per_step=3"),
        (toy_loop, {"granularity": "layer"}, "granularity: got 'layer'"),
        (toy_loop, {"sites": ["layers.*"]}, "sites: 'layers.*' names no module"),
        (toy_loop, {"steps": 1}, "steps=1 has no evaluation that may reuse"),
        (None, {"calls_per_step": 2}, "are for a loop of your own; give loop="),
        (None, {"checkpointing": True}, "are for a loop of your own"),
    ],
)  # fmt: skip
def test_a_loop_that_does_not_fit_is_refused(
    tmp_path: Path, loop: Any, options: dict[str, Any], message: str
) -> None:
    given = {"steps": 4, "out": tmp_path / "run", "report": 0, "progress": False} | options
    with pytest.raises(ValueError, match=message):
        learn(toy_dit(depth=1), loop=loop, **given)
    trained = tmp_path / "run" / "checkpoint.safetensors"
    assert not trained.exists()


@pytest.mark.parametrize(
    ("model", "loop", "message"),
    [
        ("a pipeline", toy_loop, "model is a str, wanted a torch.nn.Module"),
        (nn.Sequential(nn.Linear(4, 4)), toy_loop, "Sequential has no list of blocks"),
        (toy_dit(depth=1), "loop.py", "loop is 'loop.py', wanted a function"),
        (toy_dit(depth=1), lambda m, seed: (toy_loop(m, seed), None)[1],
         "returned a NoneType, wanted what a fit report can compare.*report=0"),
    ],
)  # fmt: skip
def test_what_is_no_model_or_no_loop_is_refused(
    tmp_path: Path, model: Any, loop: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        learn(model, steps=4, loop=loop, out=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_block_that_writes_to_its_argument_is_learned_by_branches_only() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.add_(self.attn(x))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Writes() for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.clone()
            for block in self.blocks:
                x = block(x)
            return x

    def loop(m: Any, seed: int) -> None:
        for k in range(4):
            m(torch.ones(1, 4) * k)

    learn(Model(), steps=4, loop=loop, iterations=1, progress=False)
    with pytest.raises(ValueError, match=r"blocks\.0 writes to its argument x in place"):
        learn(Model(), steps=4, loop=loop, iterations=1, progress=False, granularity="block")
