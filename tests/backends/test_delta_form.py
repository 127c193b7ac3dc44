"""Where there is no delta form: refused before a run, with the reason and the remedy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from forks import FORKS
from toys import drive, timesteps, toy_dit, toy_uvit

from l2c_rt import adapters, methods
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.api import compile
from l2c_rt.backends.cpu import packed
from l2c_rt.notices import L2CWarning
from l2c_rt.policies import EveryN
from l2c_rt.serving.engine import Engine

STEPS = 8


def hooked(model: Any) -> Any:
    model.out_blocks[0].skip_linear.register_forward_hook(lambda *_: None)
    return model


def without_linears(model: Any) -> BoundModel:
    described = adapters.bind(model)
    assert described.fusable is not None
    assert described.fusable.outer is not None
    outer = replace(described.fusable.outer, skip_linears={})
    return replace(described, fusable=replace(described.fusable, outer=outer))


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "gates": (toy_dit, {}, "have gates"),
    "no long skips": (lambda: toy_uvit(skip=False), {}, "no long skips"),
    "sites": (toy_uvit, {"sites": ["mid_block.attn", "mid_block.mlp"]}, "own forward"),
    "hooks": (lambda: hooked(toy_uvit()), {}, "not known: .*hook"),
    "weights that no adapter names": (
        toy_uvit, {"adapter": without_linears}, "the adapter does not name them"),
    "another dtype of the stream": (
        lambda: toy_uvit().bfloat16(), {"residual_dtype": torch.float32}, "residual_dtype"),
    "narrow products": (toy_uvit, {"precision": "bf16"}, 'precision="bf16"'),
    "half of the batch": (
        toy_uvit, {"router": methods.FasterCache(), "timesteps": list(range(990, 190, -100))},
        "own forward"),
    "some tokens": (toy_uvit, {"router": methods.ToCa(fresh_ratio=0.3)}, "some tokens"),
    "decisions at run time": (
        toy_uvit, {"router": methods.TeaCache(0.1, (1.0, 0.0))}, "decides at run time"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_compile_refuses_with_the_reason_and_the_remedy(case: str) -> None:
    make, options, match = REFUSED[case]
    router = options.get("router", EveryN(2))
    others = {key: value for key, value in options.items() if key != "router"}
    with pytest.raises(ValueError, match=f"delta_form: .*{match}.*leave delta_form= out"):
        compile(make(), router, steps=STEPS, delta_form=True, **others)


OPTIONS = [
    pytest.param({"delta_form": True}, id="delta form"),
    pytest.param({"delta_form": True, "backend": "reference"}, id="delta form of the reference"),
    pytest.param({"precision": "bf16"}, id="narrow products", marks=pytest.mark.skipif(
        bool(packed.why_not_here()), reason=packed.why_not_here())),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_a_fork_that_computes_something_else_runs_its_own_forward_without_the_option(
    options: dict[str, Any],
) -> None:
    model, known = FORKS["NoLongSkips"](), {"steps": STEPS, "timesteps": timesteps(STEPS)}
    no_effect = f"{next(iter(options))}= has no effect here: the model runs its own forward"
    plain, fast = (compile(model, EveryN(2), **known, **more) for more in ({}, options))
    wrong = "computes something else"
    with pytest.warns(L2CWarning, match=wrong):
        expected = drive(plain, STEPS)
    with pytest.warns(L2CWarning, match=wrong), pytest.warns(L2CWarning, match=no_effect):
        outputs = drive(fast, STEPS)
    assert all(map(torch.equal, outputs, expected))


def test_compile_refuses_autocast_and_what_is_no_bool() -> None:
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="under autocast"):
        compile(toy_uvit(), EveryN(2), steps=STEPS, delta_form=True)
    fast = compile(toy_uvit(), EveryN(2), steps=STEPS, delta_form=True)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="under autocast"):
        drive(fast, 1)
    with pytest.raises(TypeError, match="delta_form: wanted True or False, got 1"):
        compile(toy_uvit(), EveryN(2), steps=STEPS, delta_form=1)  # type: ignore[arg-type]


def test_an_engine_refuses_a_plan_in_the_delta_form() -> None:
    with pytest.raises(ValueError, match="differences to others of one run .delta_form=True"):
        Engine(compile(toy_uvit(), EveryN(2), steps=STEPS, delta_form=True))
