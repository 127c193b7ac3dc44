"""Token caching against the published program: decisions, chosen tokens, every evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from named_weights import fill_named
from published_loops import ddim_sample_loop, spaced_timesteps
from published_outputs import FOLDER, relative
from safetensors.torch import load_file
from taped_graphs import compile_taped
from token_oracle import NaiveTokens
from token_runs import by_block, chosen_tokens, noted_kernels
from torch import Tensor

import l2c_rt as rt
from l2c_rt.models import DiT
from l2c_rt.plan.ops import Compute
from l2c_rt.plan.tokens import Refresh
from l2c_rt.runtime.compiled import Compiled

STEPS, BLOCKS, TOKENS = 50, 28, 64
ARRAYS = load_file(FOLDER / "duca-ddim-50.safetensors")


def model_of_the_program() -> DiT:
    """Of the published structure, 28 blocks of width 64."""
    model = DiT(input_size=16, hidden_size=64, depth=BLOCKS, num_heads=4, num_classes=10)
    fill_named(model, {"adaLN": 0.5})
    return model


def outputs_of(forward_with_cfg: Callable[..., Tensor]) -> list[Tensor]:
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(int(ARRAYS["seed"])))
    outputs: list[Tensor] = []
    ddim_sample_loop(
        forward_with_cfg, noise, ARRAYS["labels"], 10, STEPS, 4.0,
        lambda step, out: outputs.append(out),
    )  # fmt: skip
    return outputs


def worst_evaluation(outputs: list[Tensor]) -> float:
    """The file has every 13th element."""
    pairs = zip(outputs, ARRAYS["outputs"], strict=True)
    return max(relative(out.flatten()[::13], expected) for out, expected in pairs)


def tokens_of(fast: Compiled) -> Tensor:
    """Tokens that each branch computes at each evaluation.  Shapes: [S, K]."""
    names = fast.schedule.branches
    table = torch.zeros(STEPS, len(names), dtype=torch.uint8)
    for s in range(STEPS):
        for op in fast.plan.at(s):
            if isinstance(op, Compute | Refresh):
                count = op.tokens if isinstance(op, Refresh) else TOKENS
                table[s, names.index(op.branch)] = count
    return table


def bits(masks: list[Tensor]) -> Tensor:
    """As the file has them: 8 tokens a byte, the first in the highest bit."""
    weights = 2 ** torch.arange(7, -1, -1)
    return torch.stack([(m.view(len(m), -1, 8) * weights).sum(-1) for m in masks]).byte()


@torch.no_grad()
def test_duca_in_graphs_is_the_published_program_in_tokens_and_every_evaluation() -> None:
    times = [float(t) for t in reversed(spaced_timesteps(STEPS))]
    masks: list[Tensor] = []
    kernels = noted_kernels(TOKENS, masks)
    fast = compile_taped(
        model_of_the_program(), rt.methods.DuCa(), steps=STEPS, timesteps=times, kernels=kernels
    )
    outputs_of(fast.forward_with_cfg)
    # Without the choices while steps were warmed and captured.
    masks.clear()
    outputs = outputs_of(fast.forward_with_cfg)
    assert torch.equal(bits(masks), ARRAYS["fresh_bits"])
    assert worst_evaluation(outputs) < 5e-6


@pytest.mark.parametrize("backend", ["reference", "fused"])
@torch.no_grad()
def test_duca_is_the_published_program_in_decisions_tokens_and_every_evaluation(
    backend: str,
) -> None:
    times = [float(t) for t in reversed(spaced_timesteps(STEPS))]
    fast = rt.compile(
        model_of_the_program(), rt.methods.DuCa(), steps=STEPS, timesteps=times, backend=backend
    )
    assert torch.equal(tokens_of(fast), ARRAYS["tokens"])
    with chosen_tokens(TOKENS) as masks:
        outputs = outputs_of(fast.forward_with_cfg)
    some = [m for m in by_block(fast.plan, masks).values() if m.any()]
    assert torch.equal(bits(some), ARRAYS["fresh_bits"])
    assert worst_evaluation(outputs) < 5e-6


@pytest.mark.parametrize(
    ("variant", "at_least"),
    [
        ({}, 0.0),
        ({"bonus": 0.6}, 2e-5),
        ({"soft": 0.0}, 1e-3),
        ({"once_per_evaluation": True}, 1e-1),
        ({"aggressive": False}, 1e-3),
    ],
)  # fmt: skip
@torch.no_grad()
def test_what_the_program_does_not_do_is_told_apart(
    variant: dict[str, Any], at_least: float
) -> None:
    model = model_of_the_program()
    naive = NaiveTokens(model, STEPS, **variant)
    model.forward = naive  # type: ignore[method-assign, assignment]
    worst = worst_evaluation(outputs_of(model.forward_with_cfg))
    some = [m for m in naive.chosen.values() if m.any()]
    same = len(some) == len(ARRAYS["fresh_bits"]) and torch.equal(bits(some), ARRAYS["fresh_bits"])
    assert same == (not variant)
    assert worst > at_least if variant else worst < 5e-6
